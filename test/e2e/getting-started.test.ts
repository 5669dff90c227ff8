// docs/getting-started.md as a reader follows it: in a new folder, with the packed tarball and its files.
import { spawnSync } from "node:child_process"
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, assert, beforeAll, describe, it } from "vitest"
import { build } from "../support/build.ts"

const root = fileURLToPath(new URL("../..", import.meta.url))
const folder = mkdtempSync(join(tmpdir(), "effect-jobs-start-"))

const oldestNode = process.env["OLDEST_NODE"]
const bun = process.env["BUN"] ?? "bun"

const page = readFileSync(join(root, "docs/getting-started.md"), "utf8")
const files = [...page.matchAll(/^```ts\n\/\/ ([\w.-]+\.ts)\n([^]*?)^```$/gm)]

const manifest: { readonly devDependencies: { readonly effect: string } } = JSON.parse(
  readFileSync(join(root, "package.json"), "utf8")
)

const npm = (cwd: string, ...args: ReadonlyArray<string>) => {
  const { status, stderr, stdout } = spawnSync("npm", args, { cwd, encoding: "utf8" })
  assert.strictEqual(status, 0, stdout + stderr)
  return stdout
}

beforeAll(() => {
  build()
  npm(root, "pack", "--ignore-scripts", "--pack-destination", folder)
  const [tarball = ""] = readdirSync(folder)
  writeFileSync(join(folder, "package.json"), JSON.stringify({ private: true, type: "module" }))
  npm(
    folder,
    "install",
    "--prefer-offline",
    "--no-audit",
    "--no-fund",
    join(folder, tarball),
    `effect@${manifest.devDependencies.effect}`
  )
  for (const [, name = "", code = ""] of files) writeFileSync(join(folder, name), code)
})
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

  const welcomed = (program: string) => {
    const { output, status } = run(program, "main.ts")
    assert.strictEqual(status, 0, output)
    assert.match(output, /Welcome since 2026, attempt 2: ada@example\.com/)
    assert.match(output, /dispatched as ada@example\.com/)
  }
  const tested = (program: string) => {
    const { output, status } = run(program, "--test")
    assert.strictEqual(status, 0, output)
    assert.match(output, /pass 1/)
  }

  it("runs, and is tested", () => {
    welcomed(process.execPath)
    tested(process.execPath)
  })

  it.skipIf(oldestNode === undefined)("runs, and is tested, on Node 22.19 (OLDEST_NODE)", () => {
    const node = oldestNode ?? ""
    assert.match(run(node, "--version").output, /^v22\.19\./)
    welcomed(node)
    tested(node)
  })

  it.skipIf(spawnSync(bun, ["--version"]).status !== 0)("runs on Bun (BUN, or on PATH)", () => welcomed(bun))
})
