/**
 * Dispatches into the caller's database transaction: what it commits is delivered, what it rolls back never was.
 * No dispatch is lost between the commit and a send, for the send is the `OutboxRelay`'s, and comes after.
 */
import * as Context from "effect/Context"
import * as Digest from "effect/crypto/Digest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { Dispatcher, maxIdLength, type DispatchRequest } from "../../Dispatcher.ts"
import { DispatchError, Rejected, Unavailable } from "../../DispatchError.ts"
import * as RunRecords from "../../internal/RunRecords.ts"
import { layerDefault, OutboxStore } from "./OutboxStore.ts"
import * as Element from "../queue/Element.ts"
import type { QueueStoreError } from "../queue/QueueStore.ts"

/** One message an id and contract; the key of both may be longer than the column. */
const keyIn =
  (digest: Digest.Digest["Service"]) =>
  ({ kind, message }: DispatchRequest): Effect.Effect<string> => {
    const deferred = kind === "completion" ? ` ${RunRecords.completionOf(message)?.deferred}` : ""
    const key = `${kind} ${message.name} ${message.id}${deferred}`
    return key.length <= maxIdLength
      ? Effect.succeed(key)
      : Effect.map(
          digest.digestHex(Digest.sha256, new TextEncoder().encode(key)),
          (hex) => `${kind} ${message.name.slice(0, 100)} sha256 ${hex}`
        )
  }

/**
 * The Dispatcher on an `OutboxStore` of one's own options; {@link layer} has the default one.
 */
export const layerOnStore: Layer.Layer<Dispatcher, never, OutboxStore | SqlClient> = Layer.effect(
  Dispatcher,
  Effect.gen(function* () {
    const store = yield* OutboxStore
    const sql = yield* SqlClient

    const keyOf = keyIn(yield* Digest.Digest)
    const offer = (request: DispatchRequest) =>
      Effect.flatMap(keyOf(request), (id) =>
        store.offer(
          Element.elementOf({ queue: Element.outboxQueue, id, element: Element.encodeRequest(request) })
        )
      )

    const failed = (job: string, cause: unknown): DispatchError =>
      DispatchError.of(
        new Unavailable({ job, engine: "the outbox's database", detail: "it didn't take the message", cause })
      )

    /** The transaction of another client can't be joined: the message would outlive its rollback. */
    const checkClient = ({ message }: DispatchRequest): Effect.Effect<void, DispatchError> =>
      Effect.contextWith((context: Context.Context<never>) => {
        const callers = Context.getOrUndefined(context, SqlClient)
        return callers === undefined ||
          callers.transactionService.key === sql.transactionService.key ||
          Context.getOrUndefined(context, callers.transactionService) === undefined ||
          Context.getOrUndefined(context, sql.transactionService) !== undefined
          ? Effect.void
          : Effect.fail(
              DispatchError.of(
                new Rejected({
                  job: message.name,
                  engine: "OutboxDispatcher.layer",
                  detail:
                    "the dispatch is inside a transaction of another SqlClient, which it can't join: build both on one SqlClient layer"
                })
              )
            )
      })

    return {
      send: (requests) => {
        const [first] = requests
        const { name } = first.message
        return Effect.andThen(
          checkClient(first),
          requests.length === 1
            ? Effect.mapError(offer(first), (error) => failed(name, error))
            : Effect.forEach(requests, offer, { discard: true }).pipe(
                sql.withTransaction,
                Effect.mapError((error) => failed(name, error))
              )
        )
      }
    }
  })
).pipe(Layer.provide(Digest.layerWebCrypto))

/**
 * The Dispatcher on the program's `SqlClient`: inside `sql.withTransaction` a `dispatch` or `publish` is part of
 * the transaction. Outside of one it is a transaction of its own, and so is a `dispatchAll`.
 *
 * The transaction must be one of this very `SqlClient`. A dispatch inside one of another client that is in the
 * surroundings is refused with reason `Rejected`.
 *
 * One message an id and contract for as long as the table keeps what was relayed (see `QueueStore`); after that,
 * for as long as the relay's target remembers ids.
 */
export const layer: Layer.Layer<Dispatcher, SqlError | QueueStoreError, SqlClient> = Layer.provide(
  layerOnStore,
  layerDefault
)
