// What a bundler makes of the package: what a program doesn't use isn't in it, and what runs elsewhere isn't Node's.
import { assert, beforeAll, describe, it } from "vitest"
import { bundle, programs, share } from "../bench/bundle.ts"
import { build } from "./support/build.ts"

beforeAll(build)

describe("a bundle", () => {
  it("with inline dispatch only: nothing of inngest, effect/http or effect/sql, nothing of Node", async () => {
    const { modules, node } = await bundle(programs["core and inline"])
    // those that effect/Schema itself uses
    const leaves = /effect\/dist\/http\/(?:Cookies|Headers|UrlParams|internal\/urlParams)\.js$/
    const foreign = modules.filter(
      (module) => /node_modules\/inngest\/|effect\/dist\/(?:http|sql)\//.test(module) && !leaves.test(module)
    )
    assert.deepStrictEqual(foreign, [])
    assert.deepStrictEqual(node, [])
  }, 60_000)

  it("with inline dispatch only has at most 14.5 KB of this package, and no cron", async () => {
    const { modules, size } = await share(programs["core and inline"])
    assert.isAtMost(size, 14_500)
    assert.deepStrictEqual(
      modules.filter((module) => /ticks|cron/i.test(module)),
      []
    )
  }, 60_000)

  it("that dispatches by Inngest, or works for it over HTTP: what is ours imports nothing of Node", async () => {
    assert.deepStrictEqual((await share(programs["dispatch by Inngest"])).node, [])
    assert.deepStrictEqual((await share(programs["Inngest worker"])).node, [])
  }, 60_000)
})
