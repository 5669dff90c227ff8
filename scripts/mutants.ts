// `npm run mutants`: whether the quick tests notice when the code is wrong. Each mutant is a small change of one file,
// made in a copy of the project (as it lies here, committed or not), and then the conformance suites of the engines in
// this process run, and the tests of what it changes. A mutant that no test fails for has survived: a rule without a test.
//
// `npm run mutants -- delay` runs those whose name has "delay" in it.
import { spawnSync } from "node:child_process"
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { type Mutant, mutants } from "./mutants/list.ts"

const root = fileURLToPath(new URL("..", import.meta.url))
const suites = ["test/conformance/inline.test.ts", "test/conformance/test.test.ts"]

/** A mutant may loop for ever; tests alone end in a fraction of this. */
const patience = 10 * 60_000

type Verdict =
  | { readonly _tag: "Killed"; readonly by: string }
  | { readonly _tag: "Survived" }
  /** It shows nothing: its place isn't there once, or no test ran. */
  | { readonly _tag: "Broken"; readonly why: string }

const copy = (): string => {
  const folder = mkdtempSync(join(tmpdir(), "effect-jobs-mutants-"))
  const { stdout } = spawnSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], {
    cwd: root,
    encoding: "utf8"
  })
  for (const file of stdout.split("\0")) {
    if (file !== "") cpSync(join(root, file), join(folder, file), { recursive: true, force: true })
  }
  symlinkSync(join(root, "node_modules"), join(folder, "node_modules"))
  return folder
}

interface Report {
  readonly testResults: ReadonlyArray<{
    readonly message: string
    readonly assertionResults: ReadonlyArray<{ readonly fullName: string; readonly status: string }>
  }>
}

/** Runs tests in the copy, up to the first that fails. */
const run = (folder: string, files: ReadonlyArray<string>): Verdict => {
  const report = join(folder, "report.json")
  rmSync(report, { force: true })
  const { error, signal, status } = spawnSync(
    process.execPath,
    [
      join(root, "node_modules/vitest/vitest.mjs"),
      "run",
      "--project=unit",
      "--bail=1",
      "--reporter=json",
      `--outputFile=${report}`,
      ...files
    ],
    { cwd: folder, stdio: "ignore", timeout: patience, killSignal: "SIGKILL" }
  )
  if (signal !== null) return { _tag: "Killed", by: "the time that it took" }
  if (error !== undefined) return { _tag: "Broken", why: String(error) }
  const { testResults }: Report = JSON.parse(readFileSync(report, "utf8"))
  const tests = testResults.flatMap(({ assertionResults }) => assertionResults)
  const failed = tests.find((test) => test.status === "failed")
  if (failed !== undefined) return { _tag: "Killed", by: failed.fullName }
  if (status === 0 && tests.some((test) => test.status === "passed")) return { _tag: "Survived" }
  const why = testResults.map(({ message }) => message).find((message) => message !== "")
  return { _tag: "Broken", why: why ?? `vitest ended with ${status}` }
}

const verdictOf = (folder: string, { file, find, replace, tests = [] }: Mutant): Verdict => {
  const path = join(folder, file)
  const source = readFileSync(path, "utf8")
  const times = source.split(find).length - 1
  if (times !== 1) return { _tag: "Broken", why: `what it replaces is ${times} times in ${file}` }
  writeFileSync(
    path,
    source.replace(find, () => replace)
  )
  try {
    return run(folder, [...suites, ...tests])
  } finally {
    writeFileSync(path, source)
  }
}

const main = (wanted: string): number => {
  const chosen = mutants.filter(({ name }) => name.includes(wanted))
  const folder = copy()
  try {
    const all = [...suites, ...new Set(chosen.flatMap(({ tests = [] }) => tests))]
    const unchanged = run(folder, all)
    if (unchanged._tag !== "Survived") {
      console.log("The tests fail without any mutant:", unchanged)
      return 1
    }
    const counts = { Killed: 0, Survived: 0, Broken: 0 }
    for (const mutant of chosen) {
      const verdict = verdictOf(folder, mutant)
      counts[verdict._tag]++
      const more =
        verdict._tag === "Killed" ? ` by: ${verdict.by}` : verdict._tag === "Broken" ? `: ${verdict.why}` : ""
      console.log(`${verdict._tag.toLowerCase()}: ${mutant.name}${more}`)
    }
    console.log(`${counts.Killed} killed, ${counts.Survived} survived, ${counts.Broken} broken`)
    return counts.Survived + counts.Broken === 0 && chosen.length > 0 ? 0 : 1
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

process.exitCode = main(process.argv[2] ?? "")
