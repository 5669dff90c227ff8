// What each entry point loads, by Node's own module graph.
import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "vitest"

const root = fileURLToPath(new URL("..", import.meta.url))

const source = (entry: string) => new URL(`../src/${entry}.ts`, import.meta.url).href

/** The packages' files that importing a module loads, as `effect/http/…`. */
const loads = (module: string): ReadonlyArray<string> => {
  const program = `
    import { registerHooks } from "node:module"
    const urls = []
    registerHooks({ load: (url, context, next) => (urls.push(url), next(url, context)) })
    await import(${JSON.stringify(module)})
    console.log(JSON.stringify(urls))`
  const child = spawnSync(process.execPath, ["--input-type=module", "--eval", program], {
    cwd: root,
    encoding: "utf8"
  })
  assert.strictEqual(child.status, 0, child.stderr)
  const urls: ReadonlyArray<string> = JSON.parse(child.stdout)
  return urls.flatMap((url) =>
    url
      .split("/node_modules/")
      .slice(1)
      .map((path) => path.replace("/dist/", "/"))
  )
}

const packages = (files: ReadonlyArray<string>) =>
  [...new Set(files.map((file) => (/^(?:@[^/]+\/)?[^/]+/.exec(file) ?? [""])[0]))].toSorted()

describe("what an entry point loads", () => {
  it("effect-jobs: of the packages only effect, and nothing of its http, sql or persistence", () => {
    const files = loads(source("index"))
    assert.isAbove(files.length, 10)
    assert.deepStrictEqual(packages(files), ["effect"])
    // effect/Schema itself loads four leaves of effect/http (Headers, Cookies and UrlParams have schemas)
    const own = new Set(loads("effect/Schema"))
    const forbidden = /^effect\/(?:http|sql|persistence|cli|rpc|testing)\//
    assert.deepStrictEqual(
      files.filter((file) => forbidden.test(file) && !own.has(file)),
      []
    )
    assert.isAtMost([...own].filter((file) => forbidden.test(file)).length, 4)
  })

  it("effect-jobs/testing: no test runner", () => {
    assert.deepStrictEqual(packages(loads(source("testing"))), ["effect"])
  })

  it("effect-jobs/queue: neither inngest nor a client of a database", () => {
    const files = loads(source("queue"))
    assert.notInclude(packages(files), "@effect/sql-pg")
    assert.notInclude(packages(files), "inngest")
    assert.isNotEmpty(files.filter((file) => file.startsWith("effect/sql/")))
  })

  it("effect-jobs/sqlite: of the packages only effect", () => {
    assert.deepStrictEqual(packages(loads(source("sqlite"))), ["effect"])
  })

  it("effect-jobs/inngest: nothing of effect/sql", () => {
    const files = loads(source("inngest"))
    assert.include(packages(files), "inngest")
    assert.deepStrictEqual(
      files.filter((file) => file.startsWith("effect/sql/")),
      []
    )
  })
})
