// The dispatcher of docs/own-dispatcher.md does what the page says: it passes the suite.
import { readFileSync } from "node:fs"
import { conformance } from "effect-jobs/conformance"
import { assert, it } from "vitest"
import * as OwnDispatcher from "../support/ownDispatcher.ts"

conformance({
  name: "the dispatcher of the documentation",
  clock: "test",
  layer: (jobs) => OwnDispatcher.layer(jobs)
})

it("is the one that the page shows", () => {
  const page = readFileSync(new URL("../../docs/own-dispatcher.md", import.meta.url), "utf8")
  const file = readFileSync(new URL("../support/ownDispatcher.ts", import.meta.url), "utf8")
  assert.include(page, file.slice(file.indexOf("\n") + 1))
})
