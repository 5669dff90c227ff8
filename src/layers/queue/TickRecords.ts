/**
 * The records of cron jobs on a queue, for `catchUp` and `overlap`: kept by `effect/persistence`, so that all workers
 * of a store agree on them, and a worker that starts knows what was missed.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Persistence from "effect/persistence/Persistence"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { recordsInMemory, type TickRecords } from "../../internal/ticks.ts"

const decode = Schema.decodeUnknownOption(Schema.Struct({ time: Schema.Finite }))

/** A quarter of a second, doubling, at most 10 seconds: as a tick is offered. */
const again = Schedule.min([Schedule.exponential("250 millis"), Schedule.spaced("10 seconds")])

/** A record outlives the schedule's longest pause: there are cron jobs for February 29th. */
const timeToLive = Duration.days(3653)

/**
 * On the `BackingPersistence` of the environment, which `QueueStore`'s layers provide beside the store; without one,
 * in this process's memory. One store for all cron jobs. Tries until the persistence answers, since a tick that can't
 * be recorded can't be offered either.
 */
export const make: Effect.Effect<TickRecords, never, Scope.Scope> = Effect.gen(function* () {
  const backing = Option.getOrUndefined(yield* Effect.serviceOption(Persistence.BackingPersistence))
  if (backing === undefined) return recordsInMemory()
  const store = yield* backing.make("effect-jobs/ticks")
  return {
    get: (job, key) =>
      store.get(`${job}/${key}`).pipe(
        Effect.map((record) => Option.getOrUndefined(decode(record))?.time),
        Effect.retry(again),
        Effect.orDie
      ),
    set: (job, key, time) =>
      store.set(`${job}/${key}`, { time }, timeToLive).pipe(Effect.retry(again), Effect.orDie)
  }
})
