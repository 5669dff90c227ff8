/**
 * The port for what goes in: a dispatch is a `JobMessage`, handed to the `Dispatcher` of the environment. Every engine
 * is a Layer of this service.
 */
import * as Context from "effect/Context"
import type * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as SchemaIssue from "effect/SchemaIssue"
import type { DispatchError } from "./DispatchError.ts"

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

/** The part of a contract (job or domain event) that a dispatch needs. */
export interface Dispatchable<out R = unknown> {
  readonly kind: "job" | "event"
  readonly name: string
  /** The lane of a job's runs. */
  readonly queue: string
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
  /** The lane of a job's run. Default `"default"`. */
  readonly queue?: string | undefined
  /** Milliseconds since the epoch before which it must not run; `undefined` is now. */
  readonly notBefore: number | undefined
  /**
   * True for a fresh UUID: the engine may skip deduplication. Default `false`, which is right for whatever may be sent
   * again.
   */
  readonly generatedId?: boolean | undefined
}

/**
 * The engine's side of a dispatch. A layer accepts all of the requests or fails; it may take them in one round
 * trip. Programs use it through `Job.dispatch` and `DomainEvent.publish`.
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
   * run, for as long as the engine remembers ids. Default: the contract's `idempotencyKey`; else, in a handler, one
   * that is the same in every attempt and replay of its run; else a new UUID.
   */
  readonly id?: string | undefined
  /** Not before this long from now: 0 to 36,525 days. */
  readonly delay?: Duration.Input | undefined
  /** Not before this time, at most 9999-12-31 (UTC); one in the past is now. Not together with `delay`. */
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
