/**
 * The steps of a run that waits in its process, with its records wherever an engine keeps them.
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { identity } from "effect/Function"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { JobMessage } from "../Dispatcher.ts"
import { completionId, type RunSteps } from "./RunState.ts"

/** The place where the records of one run are kept, under their ids. */
export interface Records {
  readonly get: (id: string) => Effect.Effect<Option.Option<Schema.Json>>
  readonly set: (id: string, value: Schema.Json) => Effect.Effect<void>
  /** How often a waiting run looks for records of other processes; `undefined` if there are none. */
  readonly pollInterval: Duration.Duration | undefined
}

/**
 * Put around each wait of a run, so that an engine can give its place to another run meanwhile. `until` is when the wait
 * ends by itself, in milliseconds since the epoch, if that is known.
 */
export type AroundWait = <A, E, R>(wait: Effect.Effect<A, E, R>, until?: number) => Effect.Effect<A, E, R>

/** The payload of a `completion` request: a deferred of the run that the message's name and id name, and its Exit. */
const Completion = Schema.Struct({ deferred: Schema.String, exit: Schema.Json })
const decodeCompletion = Schema.decodeUnknownOption(Completion)

/** The deferred and the Exit in a `completion` request's message; `undefined` for any other message. */
export const completionOf = (message: JobMessage): typeof Completion.Type | undefined =>
  Option.getOrUndefined(decodeCompletion(message.payload))

/** Hands a `completion` request's message to the steps of its run. Any other message does nothing. */
export const complete = (steps: RunSteps, message: JobMessage): Effect.Effect<void> => {
  const completion = completionOf(message)
  return completion === undefined ? Effect.void : steps.complete(completion.deferred, completion.exit)
}

/** The steps of one run, on its records. */
export const fromRecords = (records: Records, around: AroundWait = identity): RunSteps => {
  let deferreds: Map<string, Deferred.Deferred<Schema.Json>> | undefined
  const deferredOf = (name: string) => {
    deferreds ??= new Map()
    let deferred = deferreds.get(name)
    if (deferred === undefined) {
      deferred = Deferred.makeUnsafe()
      deferreds.set(name, deferred)
    }
    return deferred
  }
  const run: RunSteps["run"] = (id, execute) =>
    Effect.flatMap(records.get(id), (recorded) =>
      Option.isSome(recorded)
        ? Effect.succeed(recorded.value)
        : Effect.tap(execute, (value) => records.set(id, value))
    )
  /** Waits for a deferred. Looks again and again if another process may complete it. */
  const completed = Effect.fnUntraced(function* (name: string) {
    const here = Deferred.await(deferredOf(name))
    const { pollInterval } = records
    while (true) {
      const recorded = yield* records.get(completionId(name))
      if (Option.isSome(recorded)) return recorded.value
      if (pollInterval === undefined) return yield* here
      const heard = yield* Effect.timeoutOption(here, pollInterval)
      if (Option.isSome(heard)) return heard.value
    }
  })
  return {
    run,
    peek: records.get,
    idle: around,
    sleep: Effect.fnUntraced(function* (id, duration) {
      const now = yield* Clock.currentTimeMillis
      const wakeAt = Number(yield* run(id, Effect.succeed(now + Duration.toMillis(duration))))
      if (wakeAt > now) yield* around(Effect.sleep(Duration.millis(wakeAt - now)), wakeAt)
    }),
    wait: (name) =>
      // one that is there is no wait
      Effect.flatMap(records.get(completionId(name)), (recorded) =>
        Option.isSome(recorded) ? Effect.succeed(recorded.value) : around(completed(name))
      ),
    complete: (name, exit) =>
      Effect.flatMap(run(completionId(name), Effect.succeed(exit)), (first) =>
        Deferred.succeed(deferredOf(name), first)
      )
  }
}

/** The steps of one run in memory, for as long as it lives. Its retries see them; another process doesn't. */
export const inMemory = (around?: AroundWait): RunSteps => {
  let records: Map<string, Schema.Json> | undefined
  return fromRecords(
    {
      get: (id) => Effect.sync(() => Option.fromUndefinedOr(records?.get(id))),
      set: (id, value) => Effect.sync(() => (records ??= new Map()).set(id, value)),
      pollInterval: undefined
    },
    around
  )
}
