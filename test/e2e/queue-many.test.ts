// Four worker processes on one Postgres, one of them killed every few seconds.
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Fiber } from "effect"
import { Work } from "../support/child.ts"
import { eventually } from "../support/eventually.ts"
import { count, onPostgres } from "../support/faults.ts"
import { type Child, spawn } from "../support/spawn.ts"

const jobs = 20_000

describe("four worker processes on Postgres", () => {
  it.live(
    `${jobs} jobs, a worker killed every few seconds: each job completed`,
    () =>
      Effect.gen(function* () {
        const { entries, provided, told } = yield* onPostgres()
        const start = yield* Clock.currentTimeMillis
        let spawned = 0
        let killed = 0
        const start1 = Effect.suspend(() =>
          spawn({ role: "worker", name: `worker-${++spawned}`, server: told, lockExpiration: "5 seconds" })
        )
        const workers: Array<Child> = []
        const isReady = (worker: Child) => Effect.promise(() => worker.said("ready"))
        for (let n = 0; n < 4; n++) workers.push(yield* start1)
        yield* Effect.forEach(workers, isReady, { discard: true })
        const killing = yield* Effect.forkChild(
          Effect.forever(
            Effect.gen(function* () {
              yield* Effect.sleep(4_000)
              const victim = workers.shift()
              if (victim === undefined) return
              yield* Effect.promise(() => victim.kill())
              killed++
              workers.push(yield* start1)
            })
          )
        )
        const payloads = Array.from({ length: jobs }, (_, n) => ({ n, ms: n % 100 === 0 ? 500 : 0 }))
        yield* provided(Work.dispatchAll(payloads))
        yield* eventually(
          Effect.map(
            entries,
            (seen) =>
              count(
                seen,
                Array.from({ length: jobs }, (_, n) => n)
              ).lost.length
          ),
          (lost) => lost === 0,
          // thirty seconds by itself; a machine that is busy with something else may need eight times that
          400_000,
          500
        )
        yield* Fiber.interrupt(killing)
        const result = count(
          yield* entries,
          payloads.map(({ n }) => n)
        )
        const took = (yield* Clock.currentTimeMillis) - start
        console.log(
          `${jobs} jobs, 4 workers, ${killed} killed: ${result.lost.length} lost, ${result.twice} ran twice, in ${took} ms`
        )
        assert.isAbove(killed, 0)
        assert.isEmpty(result.lost)
        assert.isEmpty(result.invented)
        // no more than what the killed ones had in hand, ten each
        assert.isAtMost(result.twice, killed * 10)
      }),
    600_000
  )
})
