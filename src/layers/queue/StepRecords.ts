/**
 * The records of runs on a queue: their durable steps, and which claims were attempts. `effect/persistence` keeps them,
 * so that a message that comes again, to this worker or to another, goes on where it stopped.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Persistence from "effect/persistence/Persistence"
import type { PersistedQueueError, PersistedQueueStore } from "effect/persistence/PersistedQueue"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import type { JobMessage } from "../../Dispatcher.ts"
import * as RunRecords from "../../internal/RunRecords.ts"
import * as RunState from "../../internal/RunState.ts"
import type { Suspension } from "../../internal/Suspension.ts"
import { elementId, keyOf } from "./Element.ts"
import { extensionsOf } from "./Extensions.ts"
import { reportCause } from "../../internal/isolated.ts"

/** How long the records of a run are kept if it isn't known to have ended. */
const timeToLive = Duration.days(400)

/** How often a run that waits for a deferred looks for its completion. */
const pollInterval = Duration.millis(250)

/** The records of all runs of a store. */
export interface StepRecords {
  readonly of: (message: JobMessage, suspension?: Suspension) => RunState.RunSteps
  /** Records where a suspended run is parked, so that a completion can wake it. */
  readonly parked: (message: JobMessage, at: Parked) => Effect.Effect<void>
  /** The number of the attempt that a claim is, both from 1. Claims that began no attempt aren't counted. */
  readonly attemptOf: (message: JobMessage, claim: number) => Effect.Effect<number>
  /** Records that this claim began no attempt. */
  readonly uncounted: (message: JobMessage, claim: number) => Effect.Effect<void>
  /** Records that the attempt of this claim has failed. */
  readonly failed: (message: JobMessage, claim: number) => Effect.Effect<void>
  readonly hasFailed: (message: JobMessage, claim: number) => Effect.Effect<boolean>
  /**
   * Removes the records of a run that has ended, by their ids. `keepSteps` is for a run that may be retried by hand: only
   * the records of its claims are removed, so that the retry repeats no step. Does nothing if there are none.
   */
  readonly ended: (
    message: JobMessage,
    claim: number,
    options?: { readonly keepSteps: boolean }
  ) => Effect.Effect<void>
}

/** Each run has a store of its own. */
const storeId = (message: JobMessage): string => `effect-jobs/steps/${elementId(keyOf(message))}`

const inMemory = Effect.provide(
  Effect.gen(function* () {
    return yield* Persistence.BackingPersistence
  }),
  Persistence.layerBackingMemory
)

type Store = Effect.Effect<Persistence.BackingPersistenceStore>

/**
 * The records of one run. A persistence that fails is a defect: the attempt has failed, and what it recorded stays. The
 * ids that are asked for are noted, since a replay asks for all that the run has recorded.
 */
const recordsOf = (store: Store, touched: (id: string) => void): RunRecords.Records => ({
  get: (id) =>
    Effect.flatMap(store, ({ get }) => {
      touched(id)
      return get(id)
    }).pipe(
      Effect.orDie,
      // sound: `set` is the only one that writes there
      Effect.map((record) =>
        record === undefined ? Option.none() : Option.some((record as { readonly value: Schema.Json }).value)
      )
    ),
  set: (id, value) =>
    Effect.orDie(
      Effect.flatMap(store, ({ set }) => {
        touched(id)
        return set(id, { value }, timeToLive)
      })
    ),
  pollInterval
})

/** The claim of which something is recorded, and the attempt that it was or would have been. */
const Claim = Schema.Struct({ claim: Schema.Int, attempt: Schema.Int })
const decodeClaim = Schema.decodeUnknownOption(Claim)
const uncountedId = "@uncounted"
const failedId = "@failed"

/** The element of a parked run. */
export interface Parked {
  readonly queue: string
  readonly id: string
}
const decodeParked = Schema.decodeUnknownOption(
  Schema.Struct({ value: Schema.Struct({ queue: Schema.String, id: Schema.String }) })
)
const parkedId = "@parked"

const hasFailed = Schema.is(
  Schema.Struct({ value: Schema.Struct({ exit: Schema.Struct({ _tag: Schema.Literal("Failure") }) }) })
)

/** The records that a retry by hand must not find: those of claims, and of steps that have failed. */
const failedOf = (store: Store, ids: ReadonlySet<string>, claims: ReadonlyArray<string>) =>
  Effect.flatMap(store, ({ get }) =>
    Effect.filter(ids, (id) => (claims.includes(id) ? Effect.succeed(true) : Effect.map(get(id), hasFailed)))
  )

const removed = <E>(
  store: Store,
  message: JobMessage,
  ended: Effect.Effect<Iterable<string>, E>
): Effect.Effect<void> =>
  Effect.flatMap(Effect.all([store, ended]), ([{ remove }, ids]) =>
    Effect.forEach(ids, remove, { discard: true })
  ).pipe(
    Effect.catchCause((cause) =>
      reportCause(
        Effect.logWarning,
        `The steps of "${message.name}" (id ${message.id}) couldn't be removed now: they go in ${Duration.format(timeToLive)}.`,
        cause
      )
    )
  )

/**
 * On the `BackingPersistence` of the environment, which `QueueStore`'s layers provide beside the store; without
 * one, in this process's memory.
 */
export const make: Effect.Effect<StepRecords, never, Scope.Scope> = Effect.gen(function* () {
  const backing = Option.getOrUndefined(yield* Effect.serviceOption(Persistence.BackingPersistence))
  const { make } = backing ?? (yield* inMemory)
  const scope = yield* Effect.scope
  /** By store: the ids of the records that a run of this worker has asked for. */
  const touched = new Map<string, Set<string>>()
  const storeOf = (message: JobMessage): Store =>
    Effect.provideService(make(storeId(message)), Scope.Scope, scope)
  const records = (message: JobMessage) =>
    recordsOf(storeOf(message), (id) => {
      const key = storeId(message)
      const ids = touched.get(key)
      if (ids === undefined) touched.set(key, new Set([id]))
      else ids.add(id)
    })
  const left = (message: JobMessage) => Effect.sync(() => touched.delete(storeId(message)))
  return {
    of: (message, suspension) => {
      const steps = RunRecords.fromRecords(records(message), suspension?.waiting)
      return suspension === undefined
        ? steps
        : { ...steps, run: (id, execute) => steps.run(id, suspension.busy(execute)) }
    },
    ...claimsOf(records, left),
    ended: (message, claim, options) =>
      Effect.suspend(() => {
        const steps = touched.get(storeId(message)) ?? new Set<string>()
        touched.delete(storeId(message))
        // where it was claimed once, and has no step, nothing else was recorded
        const claims = claim > 1 || steps.size > 0 ? [uncountedId, failedId, parkedId] : []
        const ids = new Set([...steps, ...claims])
        if (ids.size === 0) return Effect.void
        const ended =
          options?.keepSteps === true ? failedOf(storeOf(message), ids, claims) : Effect.succeed(ids)
        return removed(storeOf(message), message, ended)
      })
  }
})

/** What is recorded of claims. Another worker may have the run next, and notes the ids that it asks for. */
const claimsOf = (
  records: (message: JobMessage) => RunRecords.Records,
  left: (message: JobMessage) => Effect.Effect<unknown>
): Pick<StepRecords, "attemptOf" | "uncounted" | "failed" | "hasFailed" | "parked"> => {
  const set = (message: JobMessage, id: string, value: Schema.Json) =>
    Effect.ensuring(records(message).set(id, value), left(message))
  const claimOf = (message: JobMessage, id: string) =>
    Effect.map(records(message).get(id), (json) => Option.getOrUndefined(Option.flatMap(json, decodeClaim)))
  const attemptOf: StepRecords["attemptOf"] = (message, claim) =>
    claim === 1
      ? Effect.succeed(1)
      : Effect.flatMap(claimOf(message, uncountedId), (uncounted) => {
          if (uncounted === undefined) return Effect.succeed(claim)
          const { attempt } = uncounted
          return claim > uncounted.claim
            ? Effect.succeed(attempt + claim - uncounted.claim - 1)
            : // that claim was given back, and its number is used again
              Effect.as(records(message).set(uncountedId, { claim: claim - 1, attempt }), attempt)
        })
  return {
    attemptOf,
    uncounted: (message, claim) =>
      Effect.flatMap(attemptOf(message, claim), (attempt) => set(message, uncountedId, { claim, attempt })),
    failed: (message, claim) => set(message, failedId, { claim, attempt: claim }),
    hasFailed: (message, claim) =>
      Effect.map(claimOf(message, failedId), (failed) => failed?.claim === claim - 1),
    parked: (message, at) => set(message, parkedId, { ...at })
  }
}

/**
 * Records the completion of a deferred among the records of its run, and wakes a parked run if the store can. The first
 * completion counts.
 */
export const complete = (
  on: {
    readonly backing: Persistence.BackingPersistence["Service"]
    readonly store: PersistedQueueStore["Service"]
  },
  message: JobMessage
): Effect.Effect<void, Persistence.PersistenceError | PersistedQueueError> => {
  const completion = RunRecords.completionOf(message)
  if (completion === undefined) return Effect.void
  const id = RunState.completionId(completion.deferred)
  return Effect.scoped(
    Effect.gen(function* () {
      const store = yield* on.backing.make(storeId(message))
      if ((yield* store.get(id)) === undefined) yield* store.set(id, { value: completion.exit }, timeToLive)
      const { wake } = extensionsOf(on.store)
      const parked = wake === undefined ? Option.none() : decodeParked(yield* store.get(parkedId))
      if (wake !== undefined && Option.isSome(parked))
        yield* wake(parked.value.value.queue, parked.value.value.id)
    })
  )
}
