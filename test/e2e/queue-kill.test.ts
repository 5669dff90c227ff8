// A worker killed with SIGKILL in the middle of a run, with the stores' own defaults.
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, type Scope } from "effect"
import { Once, Work } from "../support/child.ts"
import { eventually } from "../support/eventually.ts"
import { type Ground, onPostgres, onRedis } from "../support/faults.ts"
import { hasRedis } from "../support/Redis.ts"
import { spawn } from "../support/spawn.ts"

const killed = (on: Effect.Effect<Ground, unknown, Scope.Scope>) =>
  Effect.gen(function* () {
    const { entries, provided, told } = yield* on
    yield* provided(Work.dispatch({ n: 1, ms: 2_000 }))
    yield* provided(Once.dispatch({ n: 2, ms: 2_000 }))
    const first = yield* spawn({ role: "worker", name: "first", server: told })
    yield* eventually(entries, (seen) => seen.filter(({ what }) => what === "began").length === 2)
    yield* Effect.promise(() => first.kill())
    const start = yield* Clock.currentTimeMillis

    const second = yield* spawn({ role: "worker", name: "second", server: told })
    yield* Effect.promise(() => second.said("ready"))
    const seen = yield* eventually(
      entries,
      (seen) =>
        seen.some(
          ({ n, what }) => what === "began" && n === 1 && seen.some(({ what }) => what === "failed")
        ) && seen.some(({ what }) => what === "ended"),
      60_000
    )
    const took = (yield* Clock.currentTimeMillis) - start - 2_000
    assert.isBelow(took, 60_000)
    assert.sameDeepMembers(
      seen.map(({ attempt, n, what, worker }) => `${what} ${n} in attempt ${attempt} of the ${worker}`),
      [
        "began 1 in attempt 1 of the first",
        "began 2 in attempt 1 of the first",
        // lost in its first attempt: it runs again, as the second
        "began 1 in attempt 2 of the second",
        "ended 1 in attempt 2 of the second",
        // lost in its last attempt: it doesn't, and its onFailure does
        "failed 2 in attempt 1 of the second"
      ]
    )
    return took
  })

describe.concurrent("a worker killed in a run: the message runs again within 60 seconds", () => {
  it.live(
    "on Postgres",
    () =>
      Effect.gen(function* () {
        const took = yield* killed(onPostgres())
        console.log(`killed worker, Postgres: its messages were taken up again after ${took} ms`)
      }),
    90_000
  )
  const onRedisToo = hasRedis ? it.live : it.live.skip
  onRedisToo(
    hasRedis ? "on Redis" : "on Redis (redis-server is not on PATH)",
    () =>
      Effect.gen(function* () {
        const took = yield* killed(onRedis)
        console.log(`killed worker, Redis: its messages were taken up again after ${took} ms`)
      }),
    90_000
  )
})
