/**
 * `npm run bench` prints one table with every suite; `npm run bench -- core` with that one; with `--docs` it is
 * written into docs/benchmarks.md, and drawn beside it. A suite is a file here that exports `run`.
 */
import { globSync, readFileSync, writeFileSync } from "node:fs"
import { cpus } from "node:os"
import { join } from "node:path"
import { plot } from "./Plot.ts"
import type { Row } from "./Row.ts"

const suites = globSync("*.ts", { cwd: import.meta.dirname })
  .map((file) => file.replace(/\.ts$/, ""))
  .filter((name) => name === name.toLowerCase() && name !== "main")
  .toSorted()

const args = process.argv.slice(2)
const docs = args.includes("--docs")
const wanted = args.filter((arg) => arg !== "--docs")
const unknown = wanted.filter((name) => !suites.includes(name))
if (unknown.length > 0) {
  console.error(`No such suite: ${unknown.join(", ")}. There are: ${suites.join(", ")}.`)
  process.exit(1)
}

/** In docs/benchmarks.md: what follows is written here. */
const marker = "<!-- written by npm run bench -- --docs -->"

const rows: Array<Row> = []
for (const name of wanted.length > 0 ? wanted : suites) {
  console.error(`Running ${name} …`)
  const suite: { readonly run: () => Promise<ReadonlyArray<Row>> } = await import(`./${name}.ts`)
  for (const row of await suite.run()) rows.push({ ...row, name: `${name}: ${row.name}` })
}

const cells = (row: Row): ReadonlyArray<string> => {
  const sorted = row.ratios.toSorted((a, b) => a - b)
  const at = (index: number) => (sorted[index] ?? Number.NaN).toFixed(2)
  return [row.name, at(0), at(Math.floor(sorted.length / 2)), at(sorted.length - 1), row.note ?? ""]
}

const table = [["", "min", "median", "max", ""], ...rows.map(cells)]
const widths = [0, 1, 2, 3].map((column) => Math.max(...table.map((row) => row[column]?.length ?? 0)))
const title = `Ratios of up to ${Math.max(0, ...rows.map(({ ratios }) => ratios.length))} repetitions, Node ${process.version}, ${cpus()[0]?.model}, ${cpus().length} cores`
console.log(title)
for (const row of table) {
  const [name = "", ...rest] = row
  const numbers = rest.slice(0, 3).map((cell, index) => cell.padStart(widths[index + 1] ?? 0))
  console.log([name.padEnd(widths[0] ?? 0), ...numbers, rest[3]].join("  ").trimEnd())
}

if (docs) {
  const folder = join(import.meta.dirname, "../docs")
  const page = join(folder, "benchmarks.md")
  const lines = [
    `${title}.`,
    "",
    "| ours / theirs | min | median | max | |",
    "| --- | ---: | ---: | ---: | --- |",
    ...rows.map((row) => `| ${cells(row).join(" | ")} |`)
  ]
  const [before] = readFileSync(page, "utf8").split(marker)
  writeFileSync(page, `${before}${marker}\n\n${lines.join("\n")}\n`)
  writeFileSync(join(folder, "benchmarks.svg"), plot(rows))
}
