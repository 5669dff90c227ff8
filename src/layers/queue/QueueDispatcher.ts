/**
 * Dispatches into a durable queue, from which a `QueueWorker` runs it: in this process or in another one, now or
 * after a restart. The queue is Effect's own `PersistedQueue`, on Postgres, SQLite, Redis or in memory.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { type PersistedQueueError, PersistedQueueStore } from "effect/persistence/PersistedQueue"
import { BackingPersistence, type PersistenceError } from "effect/persistence/Persistence"
import { Dispatcher, type DispatchRequest } from "../../Dispatcher.ts"
import { DispatchError, Rejected, Unavailable } from "../../DispatchError.ts"
import * as Element from "./Element.ts"
import * as StepRecords from "./StepRecords.ts"

/** How many messages of one `dispatchAll` are on their way to the store at once. */
const offersAtOnce = 16

/**
 * The Dispatcher on a `PersistedQueueStore` (see `QueueStore`). It has no list of jobs: a web process can
 * dispatch what a worker process runs. Fails with reason `Unavailable` when the store can't be reached.
 *
 * - A job's messages are in a queue of the job's name, an event's in one of its own, which a worker that has
 *   listeners for it hands on to them. Messages of an event that no worker listens to wait for one.
 * - One message an id and job, for as long as the store keeps completed ones: until `PersistedQueue.layerCleanup`
 *   removes them, after 30 days by default, and for ever where nothing cleans up. Redis keeps their ids alone, some
 *   140 bytes each, and none that was generated.
 * - `delay` and `at` hold; on SQL they are rounded up to whole seconds, by the database's clock.
 * - On a SQL store a dispatch inside `sql.withTransaction` of the store's own SqlClient is part of the
 *   transaction. `dispatchAll` is one unit there only inside such a transaction.
 */
export const layer: Layer.Layer<Dispatcher, never, PersistedQueueStore> = Layer.effect(
  Dispatcher,
  Effect.gen(function* () {
    const store = yield* PersistedQueueStore
    const backing = Option.getOrUndefined(yield* Effect.serviceOption(BackingPersistence))
    const complete = ({ message }: DispatchRequest) =>
      backing === undefined
        ? Effect.fail(
            DispatchError.of(
              new Rejected({
                job: message.name,
                engine: "QueueDispatcher.layer",
                detail:
                  "it has no BackingPersistence to complete a deferred in, use one of QueueStore's layers"
              })
            )
          )
        : Effect.mapError(StepRecords.complete(backing, message), (error) => unavailable(message.name, error))
    const offer = (request: DispatchRequest): Effect.Effect<void, DispatchError> => {
      const { generatedId, kind, message, notBefore } = request
      if (kind === "completion") return complete(request)
      const queue = kind === "event" ? Element.eventQueue : (request.queue ?? Element.defaultQueue)
      const element = { queue, generatedId }
      return Effect.mapError(
        notBefore === undefined
          ? Element.offerMessage(store, message, element)
          : Effect.flatMap(Clock.currentTimeMillis, (now) =>
              Element.offerMessage(store, message, { ...element, delayMillis: notBefore - now })
            ),
        (error) => unavailable(message.name, error)
      )
    }
    return {
      send: (requests) =>
        requests.length === 1
          ? offer(requests[0])
          : Effect.forEach(requests, offer, { concurrency: offersAtOnce, discard: true })
    }
  })
)

const unavailable = (job: string, error: PersistedQueueError | PersistenceError): DispatchError =>
  DispatchError.of(
    new Unavailable({ job, engine: "the queue's store", detail: "it didn't take the message", cause: error })
  )
