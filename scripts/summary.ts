// The closing words of several test runs: what was skipped, by name, and how many tests passed, failed and were skipped.
// Its arguments are, for each run, the file of vitest's json reporter and vitest's exit code. It fails if any test
// failed, or if none ran.
import { existsSync, readFileSync } from "node:fs"

interface Report {
  readonly testResults: ReadonlyArray<{
    readonly name: string
    readonly status: string
    readonly assertionResults: ReadonlyArray<{ readonly fullName: string; readonly status: string }>
  }>
}

let passed = 0
let failed = 0
const skipped: Array<string> = []
const runs = process.argv.slice(2)
for (let index = 0; index < runs.length; index += 2) {
  const [file = "", exitCode] = runs.slice(index, index + 2)
  const { testResults }: Report = existsSync(file)
    ? JSON.parse(readFileSync(file, "utf8"))
    : { testResults: [] }
  let wrong = 0
  for (const { assertionResults, status } of testResults) {
    const named = (...states: ReadonlyArray<string>) =>
      assertionResults.filter((test) => states.includes(test.status))
    passed += named("passed").length
    skipped.push(...named("skipped", "pending", "todo", "disabled").map(({ fullName }) => fullName))
    // a file that could not be loaded has no failed test
    wrong += named("failed").length || (status === "failed" ? 1 : 0)
  }
  // an error outside of any test has no file either
  failed += wrong || (exitCode === "0" ? 0 : 1)
}
if (passed === 0 && failed === 0) failed = 1

for (const name of skipped) console.log(`skipped: ${name}`)
console.log(`${passed} passed, ${failed} failed${skipped.length > 0 ? `, ${skipped.length} skipped` : ""}`)
process.exitCode = failed > 0 ? 1 : 0
