/**
 * The durable steps of jobs on a queue: kept by `effect/persistence`, so that a message that comes again, to this
 * worker or to another, goes on where it stopped.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Persistence from "effect/persistence/Persistence"
import type * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import type { JobMessage } from "../../Dispatcher.ts"
import * as RunRecords from "../../internal/RunRecords.ts"
import * as RunState from "../../internal/RunState.ts"
import { elementId } from "./Element.ts"

/** How long the records of a run are kept where nobody says that it has ended. */
const timeToLive = Duration.days(30)

/** How often a run that waits for a deferred looks for its completion. */
const pollInterval = Duration.millis(250)

/** The steps of every run of a queue. */
export interface StepRecords {
  readonly of: (message: JobMessage) => RunState.RunSteps
  /** Forgets the steps of a run that has succeeded or failed for good. */
  readonly ended: (message: JobMessage) => Effect.Effect<void>
}

/** One store a run. */
const storeId = ({ id, name }: JobMessage): string => `effect-jobs/steps/${name}/${elementId(id)}`

const inMemory = Effect.provide(
  Effect.gen(function* () {
    return yield* Persistence.BackingPersistence
  }),
  Persistence.layerBackingMemory
)

type Store = Effect.Effect<Persistence.BackingPersistenceStore>

/** A persistence that fails in the middle of a run is a defect: the attempt has failed, and what it did is there. */
const recordsOf = (store: Store): RunRecords.Records => ({
  get: (id) =>
    Effect.flatMap(store, ({ get }) => get(id)).pipe(
      Effect.orDie,
      // sound: `set` is the only one that writes there
      Effect.map((record) =>
        record === undefined ? Option.none() : Option.some((record as { readonly value: Schema.Json }).value)
      )
    ),
  set: (id, value) => Effect.orDie(Effect.flatMap(store, ({ set }) => set(id, { value }, timeToLive))),
  pollInterval
})

/**
 * On the `BackingPersistence` of the environment, which `QueueStore`'s layers provide beside the store; without
 * one, in this process's memory.
 */
export const make: Effect.Effect<StepRecords, never, Scope.Scope> = Effect.gen(function* () {
  const backing = Option.getOrUndefined(yield* Effect.serviceOption(Persistence.BackingPersistence))
  const { make } = backing ?? (yield* inMemory)
  const scope = yield* Effect.scope
  const used = new Set<string>()
  const storeOf = (message: JobMessage): Store =>
    Effect.provideService(make(storeId(message)), Scope.Scope, scope)
  return {
    of: (message) => {
      used.add(storeId(message))
      return RunRecords.fromRecords(recordsOf(storeOf(message)))
    },
    ended: (message) =>
      used.size > 0 && used.delete(storeId(message))
        ? Effect.flatMap(storeOf(message), ({ clear }) => clear).pipe(
            Effect.catch((error) =>
              Effect.logWarning(
                `The steps of "${message.name}" (id ${message.id}) couldn't be removed now: they go in ${Duration.format(timeToLive)}.`,
                error
              )
            )
          )
        : Effect.void
  }
})

/** Records the completion of a deferred where the run that waits for it looks; the first one counts. */
export const complete = (
  backing: Persistence.BackingPersistence["Service"],
  message: JobMessage
): Effect.Effect<void, Persistence.PersistenceError> => {
  const completion = RunRecords.completionOf(message)
  if (completion === undefined) return Effect.void
  const id = RunState.completionId(completion.deferred)
  return Effect.scoped(
    Effect.flatMap(backing.make(storeId(message)), (store) =>
      Effect.flatMap(store.get(id), (recorded) =>
        recorded === undefined ? store.set(id, { value: completion.exit }, timeToLive) : Effect.void
      )
    )
  )
}
