// What each entry point loads, by Node's own module graph, and what the sources import of each other.
import { spawnSync } from "node:child_process"
import { globSync, readFileSync } from "node:fs"
import { dirname, join } from "node:path"
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

describe("the sources", () => {
  const src = join(root, "src")
  const files = globSync("**/*.ts", { cwd: src })
  const arrows = files.flatMap((from) =>
    [
      ...readFileSync(join(src, from), "utf8").matchAll(
        /(?:^(?:import|export)(?<types>\s+type)?\s[^"=(]*?from\s*|\bimport\(|^import )"(?<to>\.{1,2}\/[^"]+)"/gm
      )
    ].map(({ groups }) => ({
      from,
      to: join(dirname(from), groups?.["to"] ?? ""),
      isType: groups?.["types"] !== undefined
    }))
  )
  const engineOf = (file: string) => /^layers\/([^/]+)\//.exec(file)?.[1]
  const manifest: { readonly exports: Record<string, unknown> } = JSON.parse(
    readFileSync(join(root, "package.json"), "utf8")
  )
  const entries = new Set(
    Object.keys(manifest.exports).map((entry) => (entry === "." ? "index.ts" : `${entry.slice(2)}.ts`))
  )

  it("import files that are there", () => {
    assert.isAbove(arrows.length, 100)
    assert.deepStrictEqual(
      arrows.filter(({ to }) => !files.includes(to)),
      []
    )
  })

  it("an engine imports no other engine's, but the outbox the queue's", () => {
    const between = arrows.flatMap(({ from, to }) => {
      const [one, other] = [engineOf(from), engineOf(to)]
      return one !== undefined && other !== undefined && one !== other ? [`${one} -> ${other}`] : []
    })
    assert.deepStrictEqual([...new Set(between)], ["outbox -> queue"])
  })

  it("only engines and entry points import an engine", () => {
    assert.deepStrictEqual(
      arrows.filter(
        ({ from, to }) => engineOf(to) !== undefined && engineOf(from) === undefined && !entries.has(from)
      ),
      []
    )
  })

  it("there is no circle of what loads what", () => {
    const done = new Set<string>()
    const circles: Array<string> = []
    const visit = (file: string, path: ReadonlyArray<string>): void => {
      if (path.includes(file)) circles.push([...path.slice(path.indexOf(file)), file].join(" -> "))
      if (path.includes(file) || done.has(file)) return
      for (const { from, isType, to } of arrows) if (from === file && !isType) visit(to, [...path, file])
      done.add(file)
    }
    for (const file of files) visit(file, [])
    assert.deepStrictEqual(circles, [])
  })
})
