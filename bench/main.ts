/**
 * `npm run bench` prints one table with every suite; `npm run bench -- core` with that one. A suite is a file
 * here that exports `run`.
 */
import { globSync } from "node:fs"
import { cpus } from "node:os"
import type { Row } from "./Row.ts"

const suites = globSync("*.ts", { cwd: import.meta.dirname })
  .map((file) => file.replace(/\.ts$/, ""))
  .filter((name) => name === name.toLowerCase() && name !== "main")
  .toSorted()

const wanted = process.argv.slice(2)
const unknown = wanted.filter((name) => !suites.includes(name))
if (unknown.length > 0) {
  console.error(`No such suite: ${unknown.join(", ")}. There are: ${suites.join(", ")}.`)
  process.exit(1)
}

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
console.log(
  `Ratios of up to ${Math.max(0, ...rows.map(({ ratios }) => ratios.length))} repetitions, Node ${process.version}, ${cpus()[0]?.model}`
)
for (const row of table) {
  const [name = "", ...rest] = row
  const numbers = rest.slice(0, 3).map((cell, index) => cell.padStart(widths[index + 1] ?? 0))
  console.log([name.padEnd(widths[0] ?? 0), ...numbers, rest[3]].join("  ").trimEnd())
}
