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
import { type DispatchError, DispatchReason } from "../../DispatchError.ts"
import { Dispatcher, type DispatchRequest } from "../../Dispatcher.ts"
import { announce } from "../../internal/announce.ts"
import { checkedCount, checkedDuration } from "../../internal/checks.ts"
import { plural, summary } from "../../internal/describe.ts"
import { isolated, report, reportCause } from "../../internal/isolated.ts"
import * as Element from "../queue/Element.ts"
import type { QueueStoreError } from "../queue/QueueStore.ts"
import * as Takers from "../queue/Takers.ts"
import { layerDefault, OutboxStore } from "./OutboxStore.ts"

export interface Options {
  /** How many messages are handed over in one `send` at most. Default 50. */
  readonly batchSize?: number | undefined
  /** The longest pause while the target is unavailable. It starts at 250 ms and doubles. Default 30 seconds. */
  readonly maxBackoff?: Duration.Input | undefined
  /** How long the scope's close waits for a send under way. Default 20 seconds. */
  readonly shutdownTimeout?: Duration.Input | undefined
}

const name = "OutboxRelay.layer"

/** One message on its way, and who waits for what becomes of it. */
interface Waiting {
  readonly request: DispatchRequest
  readonly settled: Deferred.Deferred<Element.Settlement>
}

type Batch = readonly [Waiting, ...Array<Waiting>]

interface Relay {
  readonly target: Dispatcher["Service"]
  readonly batchSize: number
  readonly maxBackoff: Duration.Duration
  readonly waiting: Queue.Queue<Waiting>
  readonly closing: Deferred.Deferred<void>
  /** Open while no batch is under way: the next one is claimed as one, and not as many of one message. */
  readonly gate: Latch.Latch
  /** Claimed and not settled. */
  unsettled: number
  /** The pause before the next send. */
  backoff: Duration.Duration
}

const firstBackoff = Duration.millis(250)

/**
 * The relay on an `OutboxStore` of one's own options; {@link layer} has the default one.
 */
export const layerOnStore = (options: Options = {}): Layer.Layer<never, never, OutboxStore | Dispatcher> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const batchSize = checkedCount(options.batchSize ?? 50, `The batchSize of ${name}`)
      const maxBackoff = checkedDuration(options.maxBackoff ?? "30 seconds", `The maxBackoff of ${name}`)
      const shutdownTimeout = checkedDuration(
        options.shutdownTimeout ?? "20 seconds",
        `The shutdownTimeout of ${name}`
      )
      yield* announce(name, { batchSize })
      const store = yield* OutboxStore
      const self: Relay = {
        target: yield* Dispatcher,
        batchSize,
        maxBackoff,
        waiting: yield* Queue.unbounded<Waiting>(),
        closing: yield* Deferred.make<void>(),
        gate: Latch.makeUnsafe(true),
        unsettled: 0,
        backoff: Duration.zero
      }
      // before the takers, so that it outlives them: their close waits for what it settles
      yield* Effect.forkScoped(Effect.forever(relayBatch(self)))
      yield* Takers.run({
        name,
        store,
        shutdownTimeout,
        onClose: Effect.asVoid(Deferred.succeed(self.closing, undefined)),
        lanes: [
          {
            queue: Element.outboxQueue,
            concurrency: batchSize,
            gate: self.gate.await,
            onSettled: () => {
              self.unsettled--
              if (self.unsettled === 0) self.gate.openUnsafe()
            },
            handle: (item) => handOver(self, item)
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
 * While the target is `Unavailable` it tries again, without end, with a growing pause. A message that the target
 * refuses for good, or dies of, goes to the dead letters with the reason, and holds no other. In the process that
 * commits, a message is on its way within milliseconds; in another one, after the store's poll interval.
 */
export const layer = (
  options?: Options
): Layer.Layer<never, SqlError | QueueStoreError, Dispatcher | SqlClient> =>
  Layer.provide(layerOnStore(options), layerDefault)

/** What a taker does with its message: it waits for the batch that the message is sent in. */
const handOver = (self: Relay, item: Element.Item): Effect.Effect<Element.Settlement> => {
  self.unsettled++
  const request = Element.decodeRequest(item.element)
  if (request === undefined) return undecodable(item)
  const settled = Deferred.makeUnsafe<Element.Settlement>()
  return Effect.andThen(Queue.offer(self.waiting, { request, settled }), Deferred.await(settled))
}

const undecodable = (item: Element.Item): Effect.Effect<Element.Settlement> => {
  const message = `The element "${item.id}" of the outbox is not a message.`
  return Effect.as(report(Effect.logError(message)), {
    _tag: "Dead",
    note: { reason: "InvalidPayload", message }
  })
}

const relayBatch = Effect.fnUntraced(function* (self: Relay) {
  const first = yield* Queue.take(self.waiting)
  self.gate.closeUnsafe()
  yield* gathered(self)
  const more = Math.min(Queue.sizeUnsafe(self.waiting), self.batchSize - 1)
  const rest = more === 0 ? [] : yield* Queue.takeN(self.waiting, more)
  const batch = [first, ...rest] as const
  const closed = yield* Deferred.isDone(self.closing)
  if (closed && !Duration.isZero(self.backoff)) return yield* settle(batch, Element.giveBack)
  yield* send(self, batch)
  // nothing more is taken while the target is away; the close of the scope ends the pause
  if (Duration.isZero(self.backoff)) return
  yield* Effect.raceFirst(Effect.sleep(self.backoff), Deferred.await(self.closing))
})

/** What was claimed with the first one has come when, after a turn of the others, no more has. */
const gathered = (self: Relay): Effect.Effect<void> =>
  Effect.suspend(() => {
    const before = Queue.sizeUnsafe(self.waiting)
    return Effect.andThen(
      Effect.yieldNow,
      Effect.suspend(() =>
        Queue.sizeUnsafe(self.waiting) === before || before >= self.batchSize ? Effect.void : gathered(self)
      )
    )
  })

const settle = (batch: ReadonlyArray<Waiting>, settlement: Element.Settlement): Effect.Effect<void> =>
  Effect.forEach(batch, ({ settled }) => Deferred.succeed(settled, settlement), { discard: true })

/** The target may be a user's: what it throws, or dies of, is a failure of the send. */
const send = (self: Relay, batch: Batch): Effect.Effect<void> => {
  const [first, ...rest] = batch
  const sent = Effect.suspend(() => self.target.send([first.request, ...rest.map(({ request }) => request)]))
  return Effect.flatMap(isolated(sent), (exit) => {
    if (Exit.isSuccess(exit)) {
      self.backoff = Duration.zero
      return settle(batch, Element.complete)
    }
    const refusal = refusalOf(exit.cause)
    if (refusal === undefined) return unavailable(self, batch, exit.cause)
    return rest.length === 0
      ? refuse(first, refusal)
      : // one of them is refused, or kills the target: alone, each finds out whether it is the one
        Effect.forEach(batch, (one) => send(self, [one]), { discard: true })
  })
}

const unavailable = Effect.fnUntraced(function* (
  self: Relay,
  batch: Batch,
  cause: Cause.Cause<DispatchError>
) {
  self.backoff = Duration.min(Duration.max(Duration.times(self.backoff, 2), firstBackoff), self.maxBackoff)
  yield* reportCause(
    Effect.logWarning,
    `${name} couldn't hand over ${plural(batch.length, "message")}; it tries again in ${Duration.format(self.backoff)}.`,
    cause
  )
  yield* settle(batch, {
    _tag: "Retry",
    delay: self.backoff,
    note: { reason: "Unavailable", message: summary(cause) }
  })
})

const refuse = ({ request: { message }, settled }: Waiting, note: Element.Note): Effect.Effect<void> =>
  Effect.andThen(
    report(
      Effect.logError(
        `${name} gave up "${message.name}" (id ${message.id}), it is among the dead letters: ${note.message}`
      )
    ),
    Effect.asVoid(Deferred.succeed(settled, { _tag: "Dead", note }))
  )

/** The note of a message that the target would refuse or die of again; not of one that may work later. */
const refusalOf = (cause: Cause.Cause<DispatchError>): Element.Note | undefined => {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause))
  if (error?.isRetryable === true || Cause.hasInterruptsOnly(cause)) return undefined
  return error === undefined
    ? { reason: "Defect", message: summary(cause) }
    : {
        reason: error.reason._tag,
        message: error.message,
        failure: Option.getOrElse(encodeReason(error.reason), () => null)
      }
}

const encodeReason = Schema.encodeUnknownOption(Schema.toCodecJson(DispatchReason))
