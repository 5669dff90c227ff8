// docs/getting-started.md as a reader follows it: its files in a new folder, run by Node and, where it is, by Bun.
import { spawnSync } from "node:child_process"
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, assert, beforeAll, describe, it } from "vitest"

const root = fileURLToPath(new URL("..", import.meta.url))
const folder = mkdtempSync(join(tmpdir(), "effect-jobs-start-"))

const page = readFileSync(join(root, "docs/getting-started.md"), "utf8")
const files = [...page.matchAll(/^```ts\n\/\/ ([\w.-]+\.ts)\n([^]*?)^```$/gm)]

beforeAll(() => {
  const built = spawnSync("npm", ["run", "build"], { cwd: root, encoding: "utf8" })
  assert.strictEqual(built.status, 0, built.stderr)
  mkdirSync(join(folder, "node_modules"))
  // a package that is linked from elsewhere finds its own effect: both names lead to one
  symlinkSync(root, join(folder, "node_modules/effect-jobs"))
  symlinkSync(join(root, "node_modules/effect"), join(folder, "node_modules/effect"))
  writeFileSync(join(folder, "package.json"), JSON.stringify({ private: true, type: "module" }))
  for (const [, name = "", code = ""] of files) writeFileSync(join(folder, name), code)
}, 60_000)
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const run = (program: string, ...args: ReadonlyArray<string>) => {
  const { status, stderr, stdout } = spawnSync(program, args, {
    cwd: folder,
    encoding: "utf8",
    env: { ...process.env, NODE_OPTIONS: "" }
  })
  return { status, output: stdout + stderr }
}

describe("getting started", () => {
  it("has the files that it talks about", () => {
    assert.deepStrictEqual(
      files.map(([, name]) => name),
      ["jobs.ts", "handlers.ts", "main.ts", "mails.test.ts"]
    )
  })

  it("runs", () => {
    const { output, status } = run(process.execPath, "main.ts")
    assert.strictEqual(status, 0, output)
    assert.match(output, /Welcome since 2026, attempt 2: ada@example\.com/)
    assert.match(output, /dispatched as ada@example\.com/)
  })

  it("is tested", () => {
    const { output, status } = run(process.execPath, "--test")
    assert.strictEqual(status, 0, output)
    assert.match(output, /pass 1/)
  })

  it.skipIf(spawnSync("bun", ["--version"]).status !== 0)("runs on Bun", () => {
    const { output, status } = run("bun", "main.ts")
    assert.strictEqual(status, 0, output)
    assert.match(output, /Welcome since 2026, attempt 2: ada@example\.com/)
  })
})
