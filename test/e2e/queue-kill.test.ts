// A worker killed with SIGKILL in the middle of a run, with the stores' own defaults.
import { assert, describe, it } from "@effect/vitest"
import { Effect, type Scope } from "effect"
import { Once, Work } from "../support/child.ts"
import { eventually } from "../support/eventually.ts"
import { type Ground, onPostgres, onRedis } from "../support/faults.ts"
import { hasRedis, missing } from "../support/Redis.ts"
import { spawn } from "../support/spawn.ts"

const killed = (on: Effect.Effect<Ground, unknown, Scope.Scope>) =>
  Effect.gen(function* () {
    const { entries, provided, told } = yield* on
    yield* provided(Work.dispatch({ n: 1, ms: 2_000 }))
    yield* provided(Once.dispatch({ n: 2, ms: 2_000 }))
    const first = yield* spawn({ role: "worker", name: "first", server: told })
    yield* eventually(entries, (seen) => seen.filter(({ what }) => what === "began").length === 2)
    yield* Effect.promise(() => first.kill())

    const second = yield* spawn({ role: "worker", name: "second", server: told })
    yield* Effect.promise(() => second.said("ready"))
    const seen = yield* eventually(
      entries,
      (seen) =>
        seen.some(
          ({ n, what }) => what === "began" && n === 1 && seen.some(({ what }) => what === "failed")
        ) && seen.some(({ what }) => what === "ended")
    )
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
  })

describe.concurrent("a worker killed in a run: the message runs again when its claim is over", () => {
  it.live("on Postgres", () => killed(onPostgres()))
  const onRedisToo = hasRedis ? it.live : it.live.skip
  onRedisToo(hasRedis ? "on Redis" : `on Redis (${missing})`, () => killed(onRedis))
})
