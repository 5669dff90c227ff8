/**
 * The port of engines for what goes in. A dispatch is a `JobMessage`, handed to the `Dispatcher` of the environment; each
 * engine is a Layer of that service.
 */
import * as Context from "effect/Context"
import type * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as SchemaIssue from "effect/SchemaIssue"
import type { DispatchError } from "./DispatchError.ts"

/**
 * A message travels as plain JSON, the same on every engine.
 *
 * `payload` is the payload as its schema encodes it to JSON. `dispatchedAt` is in milliseconds since the epoch. `trace` is
 * the dispatch's span as a W3C `traceparent`.
 */
export const JobMessage = Schema.Struct({
  id: Schema.String,
  name: Schema.String,
  payload: Schema.Json,
  dispatchedAt: Schema.Finite,
  trace: Schema.optionalKey(Schema.String)
})
export interface JobMessage extends Schema.Schema.Type<typeof JobMessage> {}

/** The answer to a dispatch: the message was accepted under this id. It says nothing of its run. */
export interface Receipt {
  readonly id: string
  readonly name: string
}

/** The part of a contract (job or domain event) that a dispatch needs. */
export interface Dispatchable<out R = unknown> {
  readonly kind: "job" | "event"
  readonly name: string
  /** The lane of a job's runs; of an event it is empty. */
  readonly queue: string
  readonly codec: PayloadCodec<R>
  readonly idempotencyKey: ((payload: never) => string) | undefined
}

/** The payload's schema on the wire. Made once for each contract, when it is first used. */
export interface PayloadCodec<out RE = unknown, out RD = unknown> {
  /** Constructor input to payload: defaults filled in, everything checked. */
  readonly make: (input: unknown) => Effect.Effect<unknown, SchemaIssue.Issue>
  readonly encode: (payload: unknown) => Effect.Effect<Schema.Json, SchemaIssue.Issue, RE>
  readonly decode: (json: unknown) => Effect.Effect<unknown, SchemaIssue.Issue, RD>
}

/** One message on its way to an engine. */
export interface DispatchRequest {
  /**
   * A job's message has one run; an event's has one for each of its listeners. A `completion` starts no run: its
   * payload completes a deferred of the run that its name and id name (see `Steps`).
   */
  readonly kind: "job" | "event" | "completion"
  readonly message: JobMessage
  /** The lane of a job's run. Default `"default"`. */
  readonly queue?: string | undefined
  /** In milliseconds since the epoch: it must not run before. `undefined` is now. */
  readonly notBefore: number | undefined
  /**
   * True for a fresh UUID: the engine may skip deduplication. Default `false`, which is right for whatever may be sent
   * again.
   */
  readonly generatedId?: boolean | undefined
}

/**
 * The engine's side of a dispatch. `send` accepts all of the requests, in as few round trips as it can, or fails.
 * Programs use it through `Job.dispatch` and `DomainEvent.publish`.
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
   * The id of the message, 1 to 255 characters. A second dispatch of this job with the same id makes no second
   * run, for as long as the engine remembers ids. Default: the contract's `idempotencyKey`; else, in a handler, one
   * that is the same in every attempt and replay of its run; else a new UUID.
   */
  readonly id?: string | undefined
  /** How long from now the run must wait at least: 0 to 36,525 days. Default: none. */
  readonly delay?: Duration.Input | undefined
  /** The time before which it must not run, at most 9999-12-31 (UTC); the past is now. Not together with `delay`. */
  readonly at?: DateTime.DateTime.Input | undefined
}

/** As {@link DispatchOptions}, for many messages: `id` is called with each payload. */
export interface DispatchAllOptions<in Payload> {
  readonly id?: ((payload: Payload, index: number) => string) | undefined
  readonly delay?: Duration.Input | undefined
  readonly at?: DateTime.DateTime.Input | undefined
}

/** The longest id that every engine takes: PersistedQueue's column on Postgres holds 255 characters. */
export const maxIdLength = 255
