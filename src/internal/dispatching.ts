/**
 * Takes a payload out of the program: checks and encodes it, once, into a `JobMessage`, and hands that to the `Dispatcher`
 * of the environment.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Metric from "effect/Metric"
import type * as Schema from "effect/Schema"
import type * as Tracer from "effect/Tracer"
import { DispatchError, InvalidOption, InvalidPayload } from "../DispatchError.ts"
import {
  type Dispatchable,
  type DispatchAllOptions,
  Dispatcher,
  type DispatchOptions,
  type DispatchRequest,
  maxIdLength,
  type Receipt
} from "../Dispatcher.ts"
import { timeOfDispatch } from "./checks.ts"
import { kindOfThrown } from "./describe.ts"
import { CurrentRunState, dispatchId, type RunState } from "./RunState.ts"
import * as TraceParent from "./TraceParent.ts"

/** The parts of a dispatch that are the same for all dispatches of a contract. */
interface Producer {
  readonly dispatched: Metric.Counter<number>
  readonly spanName: string
  readonly spanOptions: Tracer.SpanOptionsNoTrace
}

const producers = new WeakMap<Dispatchable, Producer>()
const producerOf = (target: Dispatchable): Producer => {
  let producer = producers.get(target)
  if (producer === undefined) {
    producer = {
      dispatched: Metric.counter("effect_jobs_dispatched", {
        description: "Messages accepted by the dispatcher, by job or event",
        attributes: { job: target.name },
        incremental: true
      }),
      spanName: `dispatch ${target.name}`,
      spanOptions: {
        kind: "producer",
        attributes: {
          "messaging.system": "effect-jobs",
          "messaging.operation.type": "send",
          "messaging.operation.name": "dispatch",
          "messaging.destination.name": target.name
        }
      }
    }
    producers.set(target, producer)
  }
  return producer
}

const invalidOption = (
  target: Dispatchable,
  option: "id" | "delay" | "at",
  issue: string
): Effect.Effect<never, DispatchError> =>
  Effect.fail(DispatchError.of(new InvalidOption({ job: target.name, option, issue })))

/** Milliseconds since the epoch; `undefined` is now. */
const notBefore = (
  target: Dispatchable,
  now: number,
  options: When
): Effect.Effect<number | undefined, DispatchError> => {
  const time = timeOfDispatch(options, now)
  return typeof time === "object" ? invalidOption(target, time.option, time.issue) : Effect.succeed(time)
}

/** When a message is to run. */
type When = Pick<DispatchOptions, "delay" | "at">

/** The options of one dispatch, of one payload or of many. */
interface AnyOptions extends When {
  readonly id?: string | undefined | ((payload: never, index: number) => string)
}

interface Dispatching<out R> {
  readonly target: Dispatchable<R>
  readonly options: AnyOptions
  readonly now: number
  readonly span: Tracer.Span
  /** The run that dispatches, if one does. */
  readonly run: RunState | undefined
}

/** Checks and encodes one payload, and gives it an id and a time. No other place encodes. */
const encodeOne = <R>(
  self: Dispatching<R>,
  input: unknown,
  index: number
): Effect.Effect<DispatchRequest, DispatchError, R> => {
  const { codec, name } = self.target
  const invalid = (message: string) =>
    DispatchError.of(new InvalidPayload({ job: name, issues: [{ path: "", message }] }))
  return Effect.flatMapEager(
    guarded(
      () =>
        Effect.mapErrorEager(
          Effect.flatMapEager(codec.make(input), (payload) =>
            Effect.mapEager(codec.encode(payload), (encoded) => ({ payload, encoded }))
          ),
          (issue) => DispatchError.of(InvalidPayload.fromIssue(name, issue))
        ),
      (thrown) => invalid(`its schema threw ${kindOfThrown(thrown)}`)
    ),
    ({ encoded, payload }) => {
      const text = textOf(encoded)
      return text === undefined
        ? Effect.fail(invalid("it isn't JSON"))
        : requestOf(self, payload, text, index)
    }
  )
}

/**
 * Runs a user's schema or key function. If it throws, at once or later, the dispatch fails; the caller doesn't die.
 */
const guarded = <A, R>(
  read: () => Effect.Effect<A, DispatchError, R>,
  onThrown: (thrown: unknown) => DispatchError
): Effect.Effect<A, DispatchError, R> => {
  let effect
  try {
    effect = read()
  } catch (thrown) {
    return Effect.fail(onThrown(thrown))
  }
  return Exit.isExit(effect) && Exit.isSuccess(effect)
    ? effect
    : Effect.catchDefect(effect, (defect) => Effect.fail(onThrown(defect)))
}

/** The JSON text; `undefined` for a circular value, a BigInt, or anything else that has none. */
const textOf = (encoded: Schema.Json): string | undefined => {
  try {
    return JSON.stringify(encoded)
  } catch {
    return undefined
  }
}

const requestOf = (
  self: Dispatching<unknown>,
  payload: unknown,
  text: string,
  index: number
): Effect.Effect<DispatchRequest, DispatchError> => {
  const { now, options, run, span, target } = self
  const { kind, name } = target
  const given = options.id ?? target.idempotencyKey
  return Effect.flatMapEager(
    given !== undefined
      ? checkedId(target, given, payload, index)
      : run === undefined
        ? Effect.succeed(crypto.randomUUID())
        : dispatchId(run, target, text),
    (id) =>
      Effect.mapEager(notBefore(target, now, options), (notBefore) => {
        const trace = TraceParent.fromSpan(span)
        // sound: it is the text of a JSON value, of which nobody else has any part
        const message = { id, name, payload: JSON.parse(text) as Schema.Json, dispatchedAt: now }
        return {
          kind,
          queue: target.queue,
          notBefore,
          message: trace === undefined ? message : { ...message, trace },
          generatedId: given === undefined && run === undefined
        }
      })
  )
}

const checkedId = (
  target: Dispatchable,
  given: NonNullable<AnyOptions["id"]>,
  payload: unknown,
  index: number
): Effect.Effect<string, DispatchError> => {
  let id: unknown
  try {
    // sound: it has just been checked that this is the contract's payload
    id = typeof given === "function" ? given(payload as never, index) : given
  } catch (thrown) {
    return invalidOption(target, "id", `the function that makes it threw ${kindOfThrown(thrown)}`)
  }
  if (typeof id !== "string") return invalidOption(target, "id", `it must be a string, not a ${typeof id}`)
  return id.length === 0 || id.length > maxIdLength
    ? invalidOption(target, "id", `it must have 1 to ${maxIdLength} characters, not ${id.length}`)
    : Effect.succeed(id)
}

const receipt = ({ message }: DispatchRequest): Receipt => ({ id: message.id, name: message.name })

/** Dispatches under one producer span, with OpenTelemetry's messaging attributes. The runs continue its trace. */
const dispatching = <A, R>(
  target: Dispatchable<R>,
  options: AnyOptions,
  body: (
    self: Dispatching<R>,
    dispatcher: Dispatcher["Service"],
    accepted: (count: number) => void
  ) => Effect.Effect<A, DispatchError, R>
): Effect.Effect<A, DispatchError, Dispatcher | R> => {
  const producer = producerOf(target)
  return Effect.useSpan(producer.spanName, producer.spanOptions, (span) =>
    Effect.withFiber<A, DispatchError, Dispatcher | R>((fiber) =>
      Effect.mapErrorEager(
        body(
          {
            target,
            options,
            now: fiber.getRef(Clock.Clock).currentTimeMillisUnsafe(),
            span,
            run: Context.getOrUndefined(fiber.context, CurrentRunState)
          },
          // sound: it is what this effect requires
          Context.get(fiber.context as Context.Context<Dispatcher>, Dispatcher),
          (count) => producer.dispatched.updateUnsafe(count, fiber.context)
        ),
        (error) => {
          span.attribute("error.type", error.reason._tag)
          return error
        }
      )
    )
  )
}

/** Dispatches many payloads, for `dispatchAll` and `publishAll`. All are checked before any is sent. */
export const dispatchAll = <R>(
  target: Dispatchable<R>,
  payloads: ReadonlyArray<unknown>,
  options: DispatchAllOptions<never>
): Effect.Effect<ReadonlyArray<Receipt>, DispatchError, Dispatcher | R> =>
  payloads.length === 0
    ? Effect.succeed([])
    : dispatching(target, options, (self, dispatcher, accepted) =>
        Effect.gen(function* () {
          const requests: Array<DispatchRequest> = []
          for (let index = 0; index < payloads.length; index++) {
            requests.push(yield* encodeOne(self, payloads[index], index))
          }
          const [first, ...rest] = requests
          if (first === undefined) return []
          if (rest.length === 0) self.span.attribute("messaging.message.id", first.message.id)
          else self.span.attribute("messaging.batch.message_count", requests.length)
          yield* dispatcher.send([first, ...rest])
          accepted(requests.length)
          return requests.map(receipt)
        })
      )

/** Dispatches one payload, for `dispatch` and `publish`. */
export const dispatchOne = <R>(
  target: Dispatchable<R>,
  payload: unknown,
  options: DispatchOptions = {}
): Effect.Effect<Receipt, DispatchError, Dispatcher | R> =>
  dispatching(target, options, (self, dispatcher, accepted) =>
    Effect.flatMapEager(encodeOne(self, payload, 0), (request) => {
      self.span.attribute("messaging.message.id", request.message.id)
      return Effect.mapEager(dispatcher.send([request]), () => {
        accepted(1)
        return receipt(request)
      })
    })
  )
