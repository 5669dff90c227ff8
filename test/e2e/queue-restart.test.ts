// The server restarted while workers run: nothing that was accepted is lost, and what runs twice is counted.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Schedule, type Scope } from "effect"
import { QueueWorker } from "effect-jobs/queue"
import { Work } from "../support/child.ts"
import * as Child from "../support/child.ts"
import { eventually } from "../support/eventually.ts"
import { count, type Ground, onPostgres, onRedis } from "../support/faults.ts"
import { hasRedis, missing } from "../support/Redis.ts"

const jobs = 400

const restarted = (on: Effect.Effect<Ground, unknown, Scope.Scope>) =>
  Effect.gen(function* () {
    const { entries, journal, provided, server } = yield* on
    const write = (line: string) => Effect.retry(journal.write(line), Schedule.spaced(100))
    const worker = Layer.provide(QueueWorker.layer([Work, Child.Once]), Child.handlers({ write }, "here"))
    const scope = yield* Effect.scope
    yield* provided(Layer.buildWithScope(worker, scope))
    const accepted: Array<number> = []
    const dispatching = yield* Effect.forkChild(
      Effect.forEach(
        Array.from({ length: jobs }, (_, n) => n),
        (n) =>
          Work.dispatch({ n, ms: 20 }, { id: `n ${n}` }).pipe(
            Effect.retry({ schedule: Schedule.spaced(100), while: ({ isRetryable }) => isRetryable }),
            Effect.tap(() => Effect.sync(() => accepted.push(n))),
            provided,
            Effect.andThen(Effect.sleep(5))
          ),
        { discard: true }
      )
    )
    yield* Effect.sleep(700)
    yield* Effect.promise(() => server.restart(500))
    yield* Fiber.join(dispatching)
    assert.lengthOf(accepted, jobs)
    const seen = yield* eventually(
      Effect.retry(entries, Schedule.spaced(100)),
      (seen) => count(seen, accepted).lost.length === 0
    )
    const { invented, lost, twice } = count(seen, accepted)
    assert.isEmpty(lost)
    assert.isEmpty(invented)
    return twice
  })

describe("the server restarts while workers run", () => {
  it.live("Postgres", () =>
    Effect.map(restarted(onPostgres()), (twice) => {
      console.log(`Postgres restarted: of ${jobs} accepted jobs none lost, ${twice} ran twice`)
    })
  )
  const redis = hasRedis ? it.live : it.live.skip
  redis(hasRedis ? "Redis" : `Redis (${missing})`, () =>
    Effect.map(restarted(onRedis), (twice) => {
      console.log(`Redis restarted: of ${jobs} accepted jobs none lost, ${twice} ran twice`)
    })
  )
})
