/**
 * Dispatches into a durable queue, from which a `QueueWorker` runs the message: in this process or in another one, now or
 * after a restart. The queue is Effect's own `PersistedQueue`, on Postgres, SQLite, Redis or in memory.
 */
import { chunksOf } from "effect/Array"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { type PersistedQueueError, PersistedQueueStore } from "effect/persistence/PersistedQueue"
import { BackingPersistence } from "effect/persistence/Persistence"
import { DispatchError, PayloadTooLarge, Rejected, Unavailable } from "../../DispatchError.ts"
import { Dispatcher, type DispatchRequest } from "../../Dispatcher.ts"
import * as Element from "./Element.ts"
import * as Extensions from "./Extensions.ts"
import * as StepRecords from "./StepRecords.ts"

/** How many messages of one `dispatchAll` are on their way at once to a store that takes one at a time. */
const offersAtOnce = 16

/** So many of them have to be taken within the time of an answer. */
const offersBetweenLooks = 500

/** How long a dispatch waits for its store's answer. */
const answerWithin = Duration.seconds(30)

/**
 * The Dispatcher on a `PersistedQueueStore` (see `QueueStore`). It has no list of jobs: a web process can dispatch jobs
 * that a worker process runs.
 *
 * - A job's message goes to the queue that the job names, `"default"` if it names none. An event's goes to every listener
 *   that a worker has made known.
 * - An id makes one run of a job in a queue, for as long as the store keeps completed messages: until
 *   `PersistedQueue.layerCleanup` removes them, after 30 days by default, and for ever where nothing cleans up. The id of
 *   a dead letter is taken as well. Redis keeps their ids alone, some 140 bytes each, and none that was generated.
 * - `delay` and `at` hold; on SQLite they are rounded up to whole seconds, by the database's clock.
 * - On a SQL store a dispatch inside `sql.withTransaction` of the store's own SqlClient is part of the
 *   transaction. `dispatchAll` is one statement on our store for Postgres; elsewhere it is one unit only inside such a
 *   transaction.
 * - Fails with `Unavailable` when the store is away, in another transaction's way, or gives no answer for 30 seconds;
 *   with `PayloadTooLarge` over the store's limit; with `Rejected` if the store refuses it otherwise.
 */
export const layer: Layer.Layer<Dispatcher, never, PersistedQueueStore> = Layer.effect(
  Dispatcher,
  Effect.gen(function* () {
    const store = yield* PersistedQueueStore
    const backing = Option.getOrUndefined(yield* Effect.serviceOption(BackingPersistence))
    const { offerAll } = Extensions.extensionsOf(store)

    const offered = (request: DispatchRequest) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => offeredOf(request, now))
    const offer = (request: DispatchRequest) =>
      Effect.mapError(
        Effect.flatMap(offered(request), (element) => store.offer(element)),
        (error) => failureOf(request.message.name, error)
      )
    const offerMany = (requests: ReadonlyArray<DispatchRequest>): Effect.Effect<void, DispatchError> => {
      const [first, ...more] = requests
      if (first === undefined) return Effect.void
      const { name } = first.message
      if (more.length === 0) return within(name, offer(first))
      return offerAll === undefined
        ? Effect.forEach(
            chunksOf(requests, offersBetweenLooks),
            (some) => within(name, Effect.forEach(some, offer, { concurrency: offersAtOnce, discard: true })),
            { discard: true }
          )
        : within(
            name,
            Effect.mapError(Effect.flatMap(Effect.forEach(requests, offered), offerAll), (error) =>
              failureOf(name, error)
            )
          )
    }
    const complete = ({ message }: DispatchRequest): Effect.Effect<void, DispatchError> =>
      backing === undefined
        ? Effect.fail(
            rejected(
              message.name,
              "it has no BackingPersistence to complete a deferred in, use one of QueueStore's layers"
            )
          )
        : Effect.mapError(StepRecords.complete({ backing, store }, message), (cause) =>
            unavailable(message.name, "it didn't take the completion", cause)
          )
    return {
      send: (requests) => {
        const completions = requests.filter(({ kind }) => kind === "completion")
        const offers = offerMany(requests.filter(({ kind }) => kind !== "completion"))
        return completions.length === 0
          ? offers
          : Effect.andThen(offers, Effect.forEach(completions, complete, { discard: true }))
      }
    }
  })
)

const offeredOf = (
  { generatedId, kind, message, notBefore, queue = Element.defaultQueue }: DispatchRequest,
  now: number
): Effect.Effect<Extensions.Offered> =>
  Element.messageElement(message, {
    queue: kind === "event" ? Element.eventQueue : queue,
    generatedId,
    delayMillis: notBefore === undefined ? undefined : notBefore - now
  })

/** An offer that has an answer in time. */
const within = (
  job: string,
  offers: Effect.Effect<void, DispatchError>
): Effect.Effect<void, DispatchError> =>
  Effect.timeoutOrElse(offers, {
    duration: answerWithin,
    orElse: () => Effect.fail(unavailable(job, `it gave no answer within ${Duration.format(answerWithin)}`))
  })

const failureOf = (job: string, error: PersistedQueueError): DispatchError => {
  const cause = Extensions.causeOf(error)
  if (cause instanceof Extensions.ElementRefused && cause.reason === "TooLarge") {
    return DispatchError.of(
      new PayloadTooLarge({ job, engine: "the queue's store", size: cause.actual, limit: cause.limit })
    )
  }
  switch (Extensions.failureOf(error)) {
    case "Unavailable":
      return unavailable(job, "it didn't take the message", error)
    case "Conflict":
      return unavailable(job, "another transaction was in the way of this one, which may be repeated", error)
    case "Refused":
      return rejected(job, cause instanceof Extensions.ElementRefused ? cause.message : error.message)
  }
}

const rejected = (job: string, detail: string): DispatchError =>
  DispatchError.of(new Rejected({ job, engine: "the queue's store", detail: detail.replace(/\.$/, "") }))

const unavailable = (job: string, detail: string, cause?: unknown): DispatchError =>
  DispatchError.of(
    new Unavailable({
      job,
      engine: "the queue's store",
      detail,
      ...(cause === undefined ? undefined : { cause })
    })
  )
