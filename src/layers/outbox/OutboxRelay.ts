/**
 * Hands what transactions have committed to the outbox to the Dispatcher below it: Inngest, a queue, any other.
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Latch from "effect/Latch"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { Dispatcher, type DispatchRequest } from "../../Dispatcher.ts"
import { type DispatchError, DispatchReason } from "../../DispatchError.ts"
import { announce } from "../../internal/announce.ts"
import { plural, summary } from "../../internal/describe.ts"
import { isolated, report, reportCause } from "../../internal/isolated.ts"
import { checkedCount, checkedDuration } from "../../internal/checks.ts"
import { layerDefault, OutboxStore } from "./OutboxStore.ts"
import * as Element from "../queue/Element.ts"
import type { QueueStoreError } from "../queue/QueueStore.ts"
import * as Takers from "../queue/Takers.ts"

export interface Options {
  /** How many messages are handed over in one `send` at most. Default 50. */
  readonly batchSize?: number | undefined
  /** The longest pause while the target is unavailable. It starts at 250 ms and doubles. Default 30 seconds. */
  readonly maxBackoff?: Duration.Input | undefined
  /** How long the scope's close waits for a send under way. Default 30 seconds. */
  readonly shutdownTimeout?: Duration.Input | undefined
}

/** One message on its way, and who waits for what becomes of it. */
interface Waiting {
  readonly request: DispatchRequest
  readonly settled: Deferred.Deferred<Element.Settlement>
}

const firstBackoff = Duration.millis(250)

/**
 * The relay on an `OutboxStore` of one's own options; {@link layer} has the default one.
 */
export const layerOnStore = (options: Options = {}): Layer.Layer<never, never, OutboxStore | Dispatcher> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const batchSize = checkedCount(options.batchSize ?? 50, "The batchSize of OutboxRelay.layer")
      const maxBackoff = checkedDuration(
        options.maxBackoff ?? "30 seconds",
        "The maxBackoff of OutboxRelay.layer"
      )
      const shutdownTimeout = checkedDuration(
        options.shutdownTimeout ?? "30 seconds",
        "The shutdownTimeout of OutboxRelay.layer"
      )
      yield* announce("OutboxRelay.layer", { batchSize })
      const store = yield* OutboxStore
      const target = yield* Dispatcher
      const waiting = yield* Queue.unbounded<Waiting>()
      const closing = yield* Deferred.make<void>()
      let backoff = Duration.zero

      // The next batch is claimed when this one is settled, so that it is one claim and not many of one message.
      const gate = Latch.makeUnsafe(true)
      let unsettled = 0

      const settle = (batch: ReadonlyArray<Waiting>, settlement: Element.Settlement) =>
        Effect.forEach(batch, ({ settled }) => Deferred.succeed(settled, settlement), { discard: true })

      const send = (batch: readonly [Waiting, ...Array<Waiting>]): Effect.Effect<void> => {
        const [first, ...rest] = batch
        const sent = Effect.suspend(() => target.send([first.request, ...rest.map(({ request }) => request)]))
        return Effect.flatMap(
          isolated(sent),
          Exit.match({
            onSuccess: () => {
              backoff = Duration.zero
              return settle(batch, Element.complete)
            },
            onFailure: (cause) => {
              const failure = refusalOf(cause)
              if (failure === undefined) return unavailable(batch, cause)
              return rest.length === 0
                ? refuse(first, failure)
                : // one of them is refused, or kills its target: alone, each finds out whether it is the one
                  Effect.forEach(batch, (one) => send([one]), { discard: true })
            }
          })
        )
      }

      const unavailable = (batch: readonly [Waiting, ...Array<Waiting>], cause: Cause.Cause<DispatchError>) =>
        Effect.gen(function* () {
          backoff = Duration.min(Duration.max(Duration.times(backoff, 2), firstBackoff), maxBackoff)
          yield* reportCause(
            Effect.logWarning,
            `OutboxRelay.layer couldn't hand over ${plural(batch.length, "message")}; it tries again in ${Duration.format(backoff)}.`,
            cause
          )
          yield* settle(batch, {
            _tag: "Retry",
            delay: backoff,
            note: { reason: "Unavailable", message: summary(cause) }
          })
        })

      const refuse = ({ request: { message }, settled }: Waiting, note: Element.Note) =>
        Effect.andThen(
          report(
            Effect.logError(
              `OutboxRelay.layer gave up "${message.name}" (id ${message.id}), it is among the dead letters: ${note.message}`
            )
          ),
          Deferred.succeed(settled, { _tag: "Dead", note })
        )

      /** Nothing more is taken while the target is away; the close of the scope ends the pause. */
      const pause = Effect.suspend(() =>
        Duration.isZero(backoff)
          ? Effect.void
          : Effect.raceFirst(Effect.sleep(backoff), Deferred.await(closing))
      )
      /** What was claimed with the first one has come when, after a turn of the others, no more has. */
      const gathered: Effect.Effect<void> = Effect.suspend(() => {
        const before = Queue.sizeUnsafe(waiting)
        return Effect.andThen(
          Effect.yieldNow,
          Effect.suspend(() =>
            Queue.sizeUnsafe(waiting) === before || before >= batchSize ? Effect.void : gathered
          )
        )
      })
      const relay = Effect.gen(function* () {
        while (true) {
          const first = yield* Queue.take(waiting)
          gate.closeUnsafe()
          yield* gathered
          const more = Math.min(Queue.sizeUnsafe(waiting), batchSize - 1)
          const rest = more === 0 ? [] : yield* Queue.takeN(waiting, more)
          const batch = [first, ...rest] as const
          const closed = yield* Deferred.isDone(closing)
          if (closed && !Duration.isZero(backoff)) {
            yield* settle(batch, Element.giveBack)
            continue
          }
          yield* send(batch)
          yield* pause
        }
      })
      // before the takers, so that it outlives them: their close waits for what it settles
      yield* Effect.forkScoped(relay)
      yield* Takers.run({
        name: "OutboxRelay.layer",
        store,
        shutdownTimeout,
        onClose: Effect.asVoid(Deferred.succeed(closing, undefined)),
        lanes: [
          {
            queue: Element.outboxQueue,
            concurrency: batchSize,
            gate: gate.await,
            onSettled: () => {
              unsettled--
              if (unsettled === 0) gate.openUnsafe()
            },
            handle: (item) => {
              unsettled++
              const request = Element.decodeRequest(item.element)
              if (request === undefined) return undecodable(item)
              const settled = Deferred.makeUnsafe<Element.Settlement>()
              return Effect.andThen(Queue.offer(waiting, { request, settled }), Deferred.await(settled))
            }
          }
        ]
      })
    })
  )

/**
 * Takes committed messages from the outbox and sends them to the `Dispatcher` of its surroundings, each under
 * its id and with its time, trace and `notBefore`: relayed twice, it makes no second run while the target
 * remembers ids. At least once; any number of relays may run.
 *
 * While the target is `Unavailable` it tries again, without end, with a growing pause. What the target refuses
 * for good goes to the dead letters with the reason. In the process that commits, a message is on its way within
 * milliseconds; in another one, after the store's poll interval.
 */
export const layer = (
  options?: Options
): Layer.Layer<never, SqlError | QueueStoreError, Dispatcher | SqlClient> =>
  Layer.provide(layerOnStore(options), layerDefault)

/** The note of a message that the target would refuse or die of again; not of one that may work later. */
const refusalOf = (cause: Cause.Cause<DispatchError>): Element.Note | undefined => {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause))
  if (error?.isRetryable === true || Cause.hasInterruptsOnly(cause)) return undefined
  return error === undefined
    ? { reason: "Defect", message: summary(cause) }
    : { reason: error.reason._tag, message: error.message, failure: reasonJson(error) }
}

const reasonJson = (error: DispatchError): Schema.Json =>
  Option.getOrElse(encodeReasonJson(error.reason), () => null)
const encodeReasonJson = Schema.encodeUnknownOption(Schema.toCodecJson(DispatchReason))

const undecodable = (item: Element.Item): Effect.Effect<Element.Settlement> => {
  const message = `The element "${item.id}" of the outbox is not a message.`
  return Effect.as(Effect.logError(message), { _tag: "Dead", note: { reason: "InvalidPayload", message } })
}
