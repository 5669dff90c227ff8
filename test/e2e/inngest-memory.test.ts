// An Inngest worker's memory, over many requests; it needs no server.
import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { suspended } from "../support/inngestRequests.ts"

it.live("10,000 runs, each suspended at a step, leave no fiber and steady memory", () =>
  Effect.gen(function* () {
    const { counts, run } = yield* suspended
    setFlagsFromString("--expose-gc")
    const gc: () => void = runInNewContext("gc")
    const heaps: Array<number> = []
    for (let n = 1; n <= 10_000; n++) {
      yield* run(n)
      if (n % 2_000 !== 0) continue
      gc()
      heaps.push(process.memoryUsage().heapUsed)
    }
    assert.deepStrictEqual(counts, { acquired: 20_000, released: 20_000, bodies: 10_000 })
    assert.isBelow((heaps.at(-1) ?? 0) / (heaps[0] ?? 1), 1.1)
  })
)
