/**
 * The way of a payload out of the program: checked and encoded here, once, into a `JobMessage`, then handed to
 * the `Dispatcher` of the environment. Every engine is a Layer of this service.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as SchemaIssue from "effect/SchemaIssue"
import type * as Tracer from "effect/Tracer"
import { DispatchError, InvalidOption, InvalidPayload } from "./DispatchError.ts"
import * as TraceParent from "./internal/TraceParent.ts"

/**
 * What travels: plain JSON, the same on every engine.
 *
 * `payload` is what the payload schema encodes to as JSON; `dispatchedAt` is in milliseconds since the epoch;
 * `trace` is the dispatch's span as a W3C `traceparent`.
 */
export const JobMessage = Schema.Struct({
  id: Schema.String,
  name: Schema.String,
  payload: Schema.Json,
  dispatchedAt: Schema.Finite,
  trace: Schema.optionalKey(Schema.String)
})
export interface JobMessage extends Schema.Schema.Type<typeof JobMessage> {}

/** The answer to a dispatch: the message was accepted under this id. Its run, if it has one, comes later. */
export interface Receipt {
  readonly id: string
  readonly name: string
}

/** What a contract (job or domain event) gives to be dispatched. */
export interface Dispatchable<out R = unknown> {
  readonly kind: "job" | "event"
  readonly name: string
  readonly codec: PayloadCodec<R>
  readonly idempotencyKey: ((payload: never) => string) | undefined
}

/** The payload's schema on the wire; made once a contract, when it is first used. */
export interface PayloadCodec<out RE = unknown, out RD = unknown> {
  /** Constructor input to payload: defaults filled in, everything checked. */
  readonly make: (input: unknown) => Effect.Effect<unknown, SchemaIssue.Issue>
  readonly encode: (payload: unknown) => Effect.Effect<Schema.Json, SchemaIssue.Issue, RE>
  readonly decode: (json: unknown) => Effect.Effect<unknown, SchemaIssue.Issue, RD>
}

/** One message on its way to an engine. */
export interface DispatchRequest {
  /**
   * A job's message has one run; an event's has one for each of its listeners. A `completion` is no new run: its
   * payload completes a deferred of the run that its name and id say (see `Steps`).
   */
  readonly kind: "job" | "event" | "completion"
  readonly message: JobMessage
  /** Milliseconds since the epoch before which it must not run; `undefined` is now. */
  readonly notBefore: number | undefined
  /**
   * That the id was made for this dispatch alone, so no other message has it: an engine need neither look for it
   * nor remember it. Default `false`, which is right for whatever may be sent again.
   */
  readonly generatedId?: boolean | undefined
}

/**
 * The engine's side of a dispatch. A layer accepts all of the requests or fails; it may take them in one round
 * trip. `jobs` use it through `Job.dispatch` and `DomainEvent.publish`.
 */
export class Dispatcher extends Context.Service<
  Dispatcher,
  {
    readonly send: (
      requests: readonly [DispatchRequest, ...Array<DispatchRequest>]
    ) => Effect.Effect<void, DispatchError>
  }
>()("effect-jobs/Dispatcher") {}

/** How and when a dispatch runs. */
export interface DispatchOptions {
  /**
   * The id of the message, 1 to 255 characters: a second dispatch of this job with the same id makes no second
   * run, for as long as the engine remembers ids. Default: the contract's `idempotencyKey`, else a new UUID, which
   * no engine has to remember.
   */
  readonly id?: string | undefined
  /** Not before this long from now; finite, not negative. */
  readonly delay?: Duration.Input | undefined
  /** Not before this time; one in the past is now. Not together with `delay`. */
  readonly at?: DateTime.DateTime.Input | undefined
}

/** As {@link DispatchOptions}, for many messages: `id` is asked for each payload. */
export interface DispatchAllOptions<in Payload> {
  readonly id?: ((payload: Payload, index: number) => string) | undefined
  readonly delay?: Duration.Input | undefined
  readonly at?: DateTime.DateTime.Input | undefined
}

/** The longest id that every engine takes: PersistedQueue's column on Postgres holds 255 characters. */
export const maxIdLength = 255

/** What doesn't change from one dispatch of a contract to the next. */
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

/** `undefined` is now. */
const notBefore = (
  target: Dispatchable,
  now: number,
  options: When
): Effect.Effect<number | undefined, DispatchError> => {
  if (options.delay !== undefined) {
    if (options.at !== undefined) return invalidOption(target, "at", "say either at or delay, not both")
    const delay = Option.getOrUndefined(Duration.fromInput(options.delay))
    if (delay === undefined || !Duration.isFinite(delay) || Duration.isNegative(delay)) {
      return invalidOption(
        target,
        "delay",
        `it must be a finite duration that isn't negative, not ${
          delay === undefined ? JSON.stringify(options.delay) : Duration.format(delay)
        }`
      )
    }
    return Effect.succeed(Duration.isZero(delay) ? undefined : now + Duration.toMillis(delay))
  }
  if (options.at === undefined) return Effect.undefined
  const at = Option.getOrUndefined(DateTime.make(options.at))
  if (at === undefined) return invalidOption(target, "at", "it isn't a valid date and time")
  const millis = DateTime.toEpochMillis(at)
  return Effect.succeed(millis > now ? millis : undefined)
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
}

/** The one place that encodes: a checked payload in its JSON form, under an id, at a time. */
const encodeOne = <R>(
  self: Dispatching<R>,
  input: unknown,
  index: number
): Effect.Effect<DispatchRequest, DispatchError, R> => {
  const { codec, name } = self.target
  return Effect.mapErrorEager(
    Effect.flatMapEager(codec.make(input), (payload) =>
      Effect.flatMapEager(codec.encode(payload), (encoded) => requestOf(self, payload, encoded, index))
    ),
    (error) =>
      error instanceof DispatchError ? error : DispatchError.of(InvalidPayload.fromIssue(name, error))
  )
}

const requestOf = (
  self: Dispatching<unknown>,
  payload: unknown,
  encoded: Schema.Json,
  index: number
): Effect.Effect<DispatchRequest, DispatchError> => {
  const { now, options, span, target } = self
  const given = options.id ?? target.idempotencyKey
  // sound: it has just been checked that this is the contract's payload
  const id = typeof given === "function" ? given(payload as never, index) : (given ?? crypto.randomUUID())
  if (id.length === 0 || id.length > maxIdLength) {
    return invalidOption(target, "id", `it must have 1 to ${maxIdLength} characters, not ${id.length}`)
  }
  const { kind, name } = target
  const trace = TraceParent.fromSpan(span)
  const message: JobMessage =
    trace === undefined
      ? { id, name, payload: encoded, dispatchedAt: now }
      : { id, name, payload: encoded, dispatchedAt: now, trace }
  return Effect.mapEager(notBefore(target, now, options), (notBefore) => ({
    kind,
    notBefore,
    message,
    generatedId: given === undefined
  }))
}

const receipt = ({ message }: DispatchRequest): Receipt => ({ id: message.id, name: message.name })

/** Under one producer span (with OpenTelemetry's messaging attributes) that the runs continue. */
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
      body(
        { target, options, now: fiber.getRef(Clock.Clock).currentTimeMillisUnsafe(), span },
        // sound: it is what this effect requires
        Context.get(fiber.context as Context.Context<Dispatcher>, Dispatcher),
        (count) => producer.dispatched.updateUnsafe(count, fiber.context)
      )
    )
  )
}

/** Many payloads: all are checked before any is sent. */
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

/** One payload, for `Job.dispatch` and `DomainEvent.publish`. */
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
