/**
 * The listeners of events. Workers make theirs known in the store, so that an event reaches all of them, whichever worker
 * takes it.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { BackingPersistence, type PersistenceError } from "effect/persistence/Persistence"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { reportCause } from "../../internal/isolated.ts"
import type * as Job from "../../Job.ts"

/** A listener is forgotten when no worker has had it for this long. */
const timeToLive = Duration.days(7)
/** How often a worker makes its listeners known again. */
const refreshEvery = Duration.seconds(20)
/** The same for the first time: a worker that started at the same moment may have overwritten the record. */
const lookAgainAfter = Duration.seconds(1)
/** A record that is younger isn't written again. */
const freshFor = Duration.minutes(10)

/** The listeners of one event: the queue of each, and when a worker last had it. */
const Known = Schema.Record(Schema.String, Schema.Struct({ queue: Schema.String, seenAt: Schema.Finite }))
const decodeKnown = Schema.decodeUnknownOption(Schema.Struct({ value: Known }))

export interface Listeners {
  /** The queues of an event's listeners, by their names: those that are known, and those of this worker. */
  readonly of: (event: string) => Effect.Effect<ReadonlyMap<string, string>, PersistenceError>
}

/**
 * Makes the listeners of a worker known, and keeps them known until the scope closes. Without a `BackingPersistence`,
 * this worker's are the only ones.
 */
export const make = (jobs: ReadonlyArray<Job.Any>): Effect.Effect<Listeners, never, Scope.Scope> =>
  Effect.gen(function* () {
    const own = new Map<string, Map<string, string>>()
    for (const { jobName, queue, trigger } of jobs) {
      if (trigger._tag !== "Event") continue
      const listeners = own.get(trigger.event) ?? new Map<string, string>()
      own.set(trigger.event, listeners.set(jobName, queue))
    }
    const backing = Option.getOrUndefined(yield* Effect.serviceOption(BackingPersistence))
    if (backing === undefined) return { of: (event) => Effect.succeed(own.get(event) ?? new Map()) }

    const store = yield* Effect.cached(
      Effect.provideService(backing.make("effect-jobs/listeners"), Scope.Scope, yield* Effect.scope)
    )
    const read = (event: string) =>
      Effect.map(
        Effect.flatMap(store, ({ get }) => get(event)),
        (record) => Option.getOrUndefined(decodeKnown(record))?.value ?? {}
      )
    /** If two workers write at once, one is overwritten. It writes again at its next refresh. */
    const makeKnown = Effect.fnUntraced(function* (event: string, listeners: ReadonlyMap<string, string>) {
      const now = yield* Clock.currentTimeMillis
      const known = yield* read(event)
      const isKnown = ([name, queue]: readonly [string, string]) =>
        known[name]?.queue === queue && now - known[name].seenAt < Duration.toMillis(freshFor)
      if (Array.from(listeners).every(isKnown)) return
      const alive = Object.entries(known).filter(
        ([, { seenAt }]) => now - seenAt < Duration.toMillis(timeToLive)
      )
      const mine = Array.from(listeners, ([name, queue]) => [name, { queue, seenAt: now }] as const)
      const value = Object.fromEntries([...alive, ...mine])
      yield* Effect.flatMap(store, ({ set }) => set(event, { value }, timeToLive))
    })
    const refresh = Effect.forEach(own, ([event, listeners]) => makeKnown(event, listeners), {
      concurrency: "unbounded",
      discard: true
    }).pipe(
      Effect.catchCause((cause) =>
        reportCause(Effect.logWarning, "The listeners of a worker couldn't be made known now.", cause)
      )
    )
    if (own.size > 0) {
      yield* refresh
      yield* Effect.sleep(lookAgainAfter).pipe(
        Effect.andThen(Effect.repeat(refresh, Schedule.spaced(refreshEvery))),
        Effect.forkScoped
      )
    }
    return {
      of: (event) =>
        Effect.map(read(event), (known) => {
          const queues = Object.entries(known).map(([name, { queue }]) => [name, queue] as const)
          return new Map([...queues, ...(own.get(event) ?? [])])
        })
    }
  })
