/**
 * A job is a named contract (schemas, retry policy, time limit) whose handler is an Effect program.
 *
 * Whoever dispatches a job needs its contract alone; the handler is a Layer, apart from it. Neither names the engine
 * that runs it: that is the `Dispatcher` of the environment.
 *
 * Delivery is at least once on durable engines, so handlers should be idempotent.
 */
import type * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { WorkflowEngine, WorkflowInstance } from "effect/workflow/WorkflowEngine"
import type { DispatchError } from "./DispatchError.ts"
import type { Dispatchable, DispatchAllOptions, Dispatcher, DispatchOptions, Receipt } from "./Dispatcher.ts"
import type { CurrentRun } from "./internal/CurrentRun.ts"
import { JobTypeId, makeContract } from "./internal/contract.ts"
import type { CronClock } from "./internal/ticks.ts"
import type * as RetryPolicy from "./RetryPolicy.ts"

export { CurrentRun } from "./internal/CurrentRun.ts"

/** The service that `toLayer` provides and worker layers require: the handler of the job of this name. */
export interface Handler<out Name extends string> {
  readonly _: unique symbol
  readonly name: Name
}

/** A run is started by a dispatch, a domain event, or the clock. */
export type Trigger =
  | { readonly _tag: "Dispatch" }
  | { readonly _tag: "Event"; readonly event: string }
  | {
      readonly _tag: "Cron"
      readonly expression: string
      readonly timeZone: string | undefined
      readonly catchUp?: "once" | undefined
      readonly overlap?: "skip" | undefined
      /** For engines without a scheduler of their own. @internal */
      readonly clock: CronClock
    }

/** Services that the runner provides to a handler, and that `toLayer` takes out of its requirements. */
export type Provided = Dispatcher | CurrentRun | Scope.Scope | WorkflowEngine | WorkflowInstance

/** Services that the schemas need where the job runs. */
export type SchemaServices<
  Payload extends Schema.Top,
  Success extends Schema.Top,
  Error extends Schema.Top
> = Payload["DecodingServices"] | Success["EncodingServices"] | Error["EncodingServices"]

/** The options of `toLayer`. */
export interface HandlerOptions<in Payload, in E, out R> {
  /**
   * Runs once, after the last attempt or a failure that isn't retried; at least once where a worker dies in it. A
   * failure of its own is logged as an error and changes nothing. A message that doesn't decode never comes here, for
   * it has no payload to give: see the worker's `onError`, and dead letters.
   */
  readonly onFailure?:
    | ((payload: Payload, cause: Cause.Cause<E>) => Effect.Effect<unknown, unknown, R>)
    | undefined
}

/** The arguments of `dispatch`: the payload may be left out where none of its fields is required. */
export type DispatchArguments<Input> = {} extends Input
  ? [payload?: Input, options?: DispatchOptions]
  : [payload: Input, options?: DispatchOptions]

/** The contract of a job, listener or cron job, as plain values. */
export interface Contract<
  Name extends string,
  Payload extends Schema.Top,
  Success extends Schema.Top,
  Error extends Schema.Top
> {
  new (_: never): {}

  readonly [JobTypeId]: typeof JobTypeId
  /** The name that was given to `make`. (`name` itself is the class's.) */
  readonly jobName: Name
  readonly trigger: Trigger
  readonly payloadSchema: Payload
  readonly successSchema: Success
  readonly errorSchema: Error
  readonly retry: RetryPolicy.RetryPolicy<Error["Type"]>
  /** The lane of its runs on engines that have queues. */
  readonly queue: string
  /** The time limit of one attempt. */
  readonly timeout: Duration.Duration | undefined
  readonly annotations: Context.Context<never>
  /** Where {@link toLayer} puts the handler, for engines; to everyone else it is `Handler<Name>`. */
  readonly handler: Context.Key<never, HandlerService>
  readonly target: Dispatchable<Payload["EncodingServices"]>

  /** The same contract with an annotation, which only the engine that it is meant for reads. */
  annotate<Self, I, S>(this: Self, key: Context.Key<I, S>, value: S): Self

  /**
   * The implementation as a Layer. The handler runs with the services that the Layer was built with, and never with
   * those of who dispatches. Its `Scope` closes after every attempt. The services of {@link Provided} come from the
   * runner.
   */
  toLayer<R, R2 = never>(
    handler: (payload: Payload["Type"]) => Effect.Effect<Success["Type"], Error["Type"], R>,
    options?: HandlerOptions<Payload["Type"], Error["Type"], R2>
  ): Layer.Layer<Handler<Name>, never, Exclude<R | R2, Provided> | SchemaServices<Payload, Success, Error>>

  /**
   * Calls the handler once, in this fiber, for unit tests. The payload is checked, `CurrentRun` says attempt 1, and the
   * scope closes afterwards. There is no JSON, no retry, no time limit and no `onFailure`.
   */
  run(
    ...payload: {} extends Payload["~type.make.in"] ? [Payload["~type.make.in"]?] : [Payload["~type.make.in"]]
  ): Effect.Effect<Success["Type"], Error["Type"] | DispatchError, Handler<Name>>
}

/** A job: a contract that can be dispatched. */
export interface Job<
  Name extends string,
  Payload extends Schema.Top,
  Success extends Schema.Top,
  Error extends Schema.Top
> extends Contract<Name, Payload, Success, Error> {
  /**
   * Hands a checked, encoded payload to the `Dispatcher` of the environment. Succeeds once the engine has
   * accepted it; the run, and its failure, are the engine's. Fails with a `DispatchError`. Unless that is `Unavailable`,
   * nothing was sent.
   */
  dispatch(
    ...args: DispatchArguments<Payload["~type.make.in"]>
  ): Effect.Effect<Receipt, DispatchError, Dispatcher | Payload["EncodingServices"]>

  /**
   * Dispatches many payloads, in as few round trips as the engine allows. All are checked before any is sent. Receipts
   * are in the order of the payloads. Where it is `Unavailable`, some may have been sent: see the dispatcher's layer.
   */
  dispatchAll(
    payloads: ReadonlyArray<Payload["~type.make.in"]>,
    options?: DispatchAllOptions<Payload["Type"]>
  ): Effect.Effect<ReadonlyArray<Receipt>, DispatchError, Dispatcher | Payload["EncodingServices"]>
}

/** Any job, listener or cron job, for lists and for engines. */
export interface Any {
  readonly [JobTypeId]: typeof JobTypeId
  readonly jobName: string
  readonly trigger: Trigger
  readonly payloadSchema: Schema.Top
  readonly successSchema: Schema.Top
  readonly errorSchema: Schema.Top
  readonly retry: RetryPolicy.RetryPolicy<never>
  readonly queue: string
  readonly timeout: Duration.Duration | undefined
  readonly annotations: Context.Context<never>
  readonly handler: Context.Key<never, HandlerService>
  readonly target: Dispatchable
}

/** The handlers that a list of jobs requires: `Job.HandlerOf<typeof jobs[number]>`. */
export type HandlerOf<J> = J extends { readonly jobName: infer Name extends string } ? Handler<Name> : never

/** The decoded payload of a job's type. These three are `unknown` for `Any`. */
export type Payload<J> = J extends { readonly payloadSchema: infer P extends Schema.Top } ? P["Type"] : never
export type Success<J> = J extends { readonly successSchema: infer S extends Schema.Top } ? S["Type"] : never
export type Error<J> = J extends { readonly errorSchema: infer E extends Schema.Top } ? E["Type"] : never
export type Name<J> = J extends { readonly jobName: infer Name extends string } ? Name : never

/** The service under the job's key. Made by `toLayer`, called by `Attempt`; not for use elsewhere. */
export interface HandlerService {
  readonly run: (payload: unknown) => Effect.Effect<unknown, unknown, Provided>
  readonly onFailure: HandlerOptions<unknown, unknown, Provided>["onFailure"]
  /** The services that the handler's Layer was built with, which are all that it needs beside `Provided`. */
  readonly context: Context.Context<never>
  /** Identifies the contract that was implemented: another one of the same name has another target. */
  readonly target: Dispatchable
}

export const isJob = (u: unknown): u is Any => typeof u === "function" && JobTypeId in u

/** Struct fields, or any schema whose JSON is an object: a struct, a class, a union of them. */
export type PayloadInput = Schema.Struct.Fields | (Schema.Top & { readonly Encoded: object })

/** The schema that a {@link PayloadInput} stands for. */
export type PayloadSchema<P extends PayloadInput> = P extends Schema.Top
  ? P
  : P extends Schema.Struct.Fields
    ? Schema.Struct<P>
    : never

/** The options that `Job.make`, `Listener.make` and `CronJob.make` share. */
export interface Options<Success extends Schema.Top, Error extends Schema.Top> {
  /** The schema of the handler's success, by which engines that record results store it. Default: `Schema.Void`. */
  readonly success?: Success | undefined
  /** The schema of the handler's typed errors. Default: anything (`Schema.Defect`). */
  readonly error?: Error | undefined
  /** Default: `RetryPolicy.none`, one attempt. */
  readonly retry?: RetryPolicy.Input<Error["Type"]> | undefined
  /**
   * The time limit of one attempt, more than 0. At the limit the handler is interrupted, and the attempt has failed with
   * a `JobTimeout`. Finalizers aren't counted in the time. An uninterruptible handler that succeeds after the limit has
   * succeeded. Default: no limit.
   */
  readonly timeout?: Duration.Input | undefined
  /**
   * The lane of its runs, with a concurrency of its own, on engines that have queues. Named as jobs are. Default
   * `"default"`. In this process there is one lane.
   */
  readonly queue?: string | undefined
  /** Options of one engine, which the others don't read; `annotate` adds one. */
  readonly annotations?: Context.Context<never> | undefined
}

/**
 * Defines a job: `class SendWelcomeEmail extends Job.make("mail.welcome", { payload: { email: Schema.String } }) {}`.
 *
 * The name is what travels and what engines keep, so it stays when the class is renamed: words of `a-z` and
 * `0-9` joined by `.`, `-`, `_` or `/`, at most 200 characters. Throws a `DefinitionError` if the definition is invalid.
 */
export const make = <
  const Name extends string,
  const Payload extends PayloadInput,
  Success extends Schema.Top = Schema.Void,
  Error extends Schema.Top = Schema.Defect
>(
  name: Name,
  options: Options<Success, Error> & {
    /** Struct fields, or a schema whose JSON is an object. It travels as JSON. */
    readonly payload: Payload
    /**
     * Makes the id, 1 to 255 characters, of a dispatch that is given none: two dispatches with one id make one run.
     * Default: a new UUID; in a handler, an id that is the same in every attempt and replay of its run.
     */
    readonly idempotencyKey?: ((payload: PayloadSchema<Payload>["Type"]) => string) | undefined
  }
): Job<Name, PayloadSchema<Payload>, Success, Error> =>
  // sound: makeContract gives every value of the interface, from these very options
  makeContract("job", name, { ...options, trigger: { _tag: "Dispatch" } }) as Job<
    Name,
    PayloadSchema<Payload>,
    Success,
    Error
  >
