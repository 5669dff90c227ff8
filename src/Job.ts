/**
 * What a job is: a named contract (schemas, retry policy, time limit) whose handler is an Effect program.
 *
 * Whoever dispatches a job needs its contract alone; the handler is a Layer, apart from it. Nothing in either
 * names the engine that runs it: that is the `Dispatcher` of the environment.
 *
 * Delivery is at least once on durable engines, so handlers should be idempotent.
 */
import type * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as SchemaAST from "effect/SchemaAST"
import type * as SchemaIssue from "effect/SchemaIssue"
import * as SchemaParser from "effect/SchemaParser"
import * as Scope from "effect/Scope"
import { ParentSpan } from "effect/Tracer"
import { WorkflowEngine, WorkflowInstance } from "effect/workflow/WorkflowEngine"
import { DefinitionError } from "./DefinitionError.ts"
import {
  dispatchAll,
  dispatchOne,
  type DispatchAllOptions,
  type Dispatchable,
  Dispatcher,
  type DispatchOptions,
  type PayloadCodec,
  type Receipt
} from "./Dispatcher.ts"
import { DispatchError, InvalidPayload, Unavailable } from "./DispatchError.ts"
import * as RetryPolicy from "./RetryPolicy.ts"
import { checkedDuration } from "./internal/checks.ts"
import * as Steps from "./Steps.ts"

const TypeId: unique symbol = Symbol.for("effect-jobs/Job")

/** A payload schema: anything with struct fields, such as `Schema.Struct` or `Schema.Class`. */
export interface AnyStructSchema extends Schema.Top {
  readonly fields: Schema.Struct.Fields
}

/** The run that a handler is part of: `yield* Job.CurrentRun`. The id is the same on every attempt. */
export class CurrentRun extends Context.Service<
  CurrentRun,
  {
    readonly id: string
    /** The job's name. */
    readonly job: string
    /** From 1. */
    readonly attempt: number
    readonly maxAttempts: number
    readonly dispatchedAt: DateTime.Utc
  }
>()("effect-jobs/Job/CurrentRun") {}

/** The service that `toLayer` provides and worker layers require: the handler of the job of this name. */
export interface Handler<out Name extends string> {
  readonly _: unique symbol
  readonly name: Name
}

/** What starts a run: a dispatch, a domain event, or the clock. */
export type Trigger =
  | { readonly _tag: "Dispatch" }
  | { readonly _tag: "Event"; readonly event: string }
  | { readonly _tag: "Cron"; readonly expression: string; readonly timeZone: string | undefined }

/** What the runner provides to a handler, and `toLayer` takes out of its requirements. */
export type Provided = Dispatcher | CurrentRun | Scope.Scope | WorkflowEngine | WorkflowInstance

/** Services that the schemas need where the job runs. */
export type SchemaServices<
  Payload extends Schema.Top,
  Success extends Schema.Top,
  Error extends Schema.Top
> = Payload["DecodingServices"] | Success["EncodingServices"] | Error["EncodingServices"]

/** What `toLayer` takes beside the handler. */
export interface HandlerOptions<in Payload, in E, out R> {
  /**
   * Runs once, when no attempt is left or the failure isn't to be retried; at least once where a worker dies in
   * it. A failure of its own is logged as an error and changes nothing. A message that doesn't decode has no
   * payload to give, so it never comes here: see the dispatcher's `onError` or dead letters.
   */
  readonly onFailure?:
    | ((payload: Payload, cause: Cause.Cause<E>) => Effect.Effect<unknown, unknown, R>)
    | undefined
}

/** What every job, listener and cron job has: its contract as plain values. */
export interface Contract<
  Name extends string,
  Payload extends AnyStructSchema,
  Success extends Schema.Top,
  Error extends Schema.Top
> {
  new (_: never): {}

  readonly [TypeId]: typeof TypeId
  /** The name that was given to `make`. (`name` itself is the class's.) */
  readonly jobName: Name
  readonly trigger: Trigger
  readonly payloadSchema: Payload
  readonly successSchema: Success
  readonly errorSchema: Error
  readonly retry: RetryPolicy.RetryPolicy<Error["Type"]>
  /** Of one attempt. */
  readonly timeout: Duration.Duration | undefined
  readonly annotations: Context.Context<never>
  /** Where {@link toLayer} puts the handler, for engines; to everyone else it is `Handler<Name>`. */
  readonly handler: Context.Key<never, HandlerService>
  readonly target: Dispatchable<Payload["EncodingServices"]>

  /** The same contract with an annotation: for what only one engine understands. */
  annotate<Self, I, S>(this: Self, key: Context.Key<I, S>, value: S): Self

  /**
   * The implementation as a Layer. The handler runs with the services that the Layer was built with; its
   * `Scope` closes after every attempt. `Dispatcher`, `Job.CurrentRun` and `Scope` come from the runner.
   */
  toLayer<R, R2 = never>(
    handler: (payload: Payload["Type"]) => Effect.Effect<Success["Type"], Error["Type"], R>,
    options?: HandlerOptions<Payload["Type"], Error["Type"], R2>
  ): Layer.Layer<Handler<Name>, never, Exclude<R | R2, Provided> | SchemaServices<Payload, Success, Error>>

  /**
   * The handler itself, once, in this fiber: for unit tests. No message, no retry, no time limit, no
   * `onFailure`; the payload is checked, `CurrentRun` says attempt 1, and the scope closes afterwards.
   */
  run(
    payload: Payload["~type.make.in"]
  ): Effect.Effect<Success["Type"], Error["Type"] | DispatchError, Handler<Name>>
}

/** A job: a contract that can be dispatched. */
export interface Job<
  Name extends string,
  Payload extends AnyStructSchema,
  Success extends Schema.Top,
  Error extends Schema.Top
> extends Contract<Name, Payload, Success, Error> {
  /**
   * Hands a checked, encoded payload to the `Dispatcher` of the environment. Succeeds once the engine has
   * accepted it; the run, and its failure, are the engine's. Fails with a `DispatchError`, and then nothing was
   * sent.
   */
  dispatch(
    payload: Payload["~type.make.in"],
    options?: DispatchOptions
  ): Effect.Effect<Receipt, DispatchError, Dispatcher | Payload["EncodingServices"]>

  /**
   * Many payloads at once, in as few round trips as the engine allows. All are checked before any is sent.
   * Receipts are in the order of the payloads.
   */
  dispatchAll(
    payloads: ReadonlyArray<Payload["~type.make.in"]>,
    options?: DispatchAllOptions<Payload["Type"]>
  ): Effect.Effect<ReadonlyArray<Receipt>, DispatchError, Dispatcher | Payload["EncodingServices"]>
}

/** Any job, listener or cron job, for lists and for engines. */
export interface Any {
  readonly [TypeId]: typeof TypeId
  readonly jobName: string
  readonly trigger: Trigger
  readonly payloadSchema: AnyStructSchema
  readonly successSchema: Schema.Top
  readonly errorSchema: Schema.Top
  readonly retry: RetryPolicy.RetryPolicy<never>
  readonly timeout: Duration.Duration | undefined
  readonly annotations: Context.Context<never>
  readonly handler: Context.Key<never, HandlerService>
  readonly target: Dispatchable
}

/** The handlers that a list of jobs requires: `Job.HandlerOf<typeof jobs[number]>`. */
export type HandlerOf<J> = J extends { readonly jobName: infer Name extends string } ? Handler<Name> : never

export type Payload<J> = J extends Contract<infer _N, infer P, infer _S, infer _E> ? P["Type"] : never
export type Success<J> = J extends Contract<infer _N, infer _P, infer S, infer _E> ? S["Type"] : never
export type Error<J> = J extends Contract<infer _N, infer _P, infer _S, infer E> ? E["Type"] : never
export type Name<J> = J extends { readonly jobName: infer Name extends string } ? Name : never

/** What `toLayer` puts under the job's key. Made by `toLayer`, called by `Attempt`; not for use elsewhere. */
export interface HandlerService {
  readonly run: (payload: unknown) => Effect.Effect<unknown, unknown, Provided>
  readonly onFailure: HandlerOptions<unknown, unknown, Provided>["onFailure"]
  /** The services that the handler's Layer was built with, which are all that it needs beside `Provided`. */
  readonly context: Context.Context<never>
}

export const isJob = (u: unknown): u is Any => typeof u === "function" && TypeId in u

/** Every name that travels: jobs, listeners, cron jobs and domain events. */
const namePattern = /^[a-z0-9]+(?:[._/-][a-z0-9]+)*$/

/** PersistedQueue's queue names hold 255 characters on Postgres; this leaves room for a prefix. */
const maxNameLength = 200

/** The name, or a refusal in one sentence. */
export const checkedName = <Name extends string>(name: Name, kind: string): Name => {
  if (!namePattern.test(name)) {
    throw new DefinitionError({
      message: `${JSON.stringify(name)} can't be the name of a ${kind}: use words of a-z and 0-9 joined by ".", "-", "_" or "/", as in "mail.welcome".`
    })
  }
  if (name.length > maxNameLength) {
    throw new DefinitionError({
      message: `The name of a ${kind} has at most ${maxNameLength} characters, and "${name.slice(0, 40)}…" has ${name.length}.`
    })
  }
  return name
}

/** Struct fields or a struct schema, as a schema; or a refusal in one sentence. */
export const checkedPayload = (payload: unknown, kind: string, name: string): AnyStructSchema => {
  if (Schema.isSchema(payload)) {
    if ("fields" in payload && typeof payload.fields === "object") {
      // sound: `isSchema` and `fields` are all that the interface asks for beyond what every schema has
      return payload as unknown as AnyStructSchema
    }
  } else if (
    typeof payload === "object" &&
    payload !== null &&
    Object.values(payload).every((field) => Schema.isSchema(field))
  ) {
    // sound: a record of schemas is what struct fields are
    return Schema.Struct(payload as Schema.Struct.Fields)
  }
  throw new DefinitionError({
    message: `The payload of the ${kind} "${name}" must be struct fields or a struct schema, as in { email: Schema.String }.`
  })
}

/** What dispatch needs of a contract; its codecs are made when first used. */
export const dispatchable = <Payload extends AnyStructSchema>(options: {
  readonly kind: "job" | "event"
  readonly name: string
  readonly payloadSchema: Payload
  readonly idempotencyKey: ((payload: never) => string) | undefined
}): Dispatchable<Payload["EncodingServices"]> => {
  let codec: PayloadCodec<Payload["EncodingServices"]> | undefined
  return {
    kind: options.kind,
    name: options.name,
    idempotencyKey: options.idempotencyKey,
    get codec() {
      return (codec ??= payloadCodec(options.payloadSchema))
    }
  }
}

const payloadCodec = <Payload extends AnyStructSchema>(
  schema: Payload
): PayloadCodec<Payload["EncodingServices"]> => {
  const json = Schema.toCodecJson(schema)
  return {
    make: withAllIssues((input, parseOptions) => schema.makeEffect(input, { parseOptions })),
    encode: withAllIssues(SchemaParser.encodeUnknownEffect(json)),
    decode: withAllIssues(SchemaParser.decodeUnknownEffect(json))
  }
}

const allIssues: SchemaAST.ParseOptions = { errors: "all" }

/** Effect has a faster way to parse up to the first issue; what has one is parsed again, for all of them. */
const withAllIssues =
  <A, R>(
    parse: (input: unknown, options?: SchemaAST.ParseOptions) => Effect.Effect<A, SchemaIssue.Issue, R>
  ) =>
  (input: unknown): Effect.Effect<A, SchemaIssue.Issue, R> =>
    Effect.catchEager(parse(input), () => parse(input, allIssues))

/** The services of a handler's Layer, without those that a run brings itself. */
export const ownServices: (context: Context.Context<never>) => Context.Context<never> = Context.omit(
  Dispatcher,
  CurrentRun,
  Scope.Scope,
  ParentSpan,
  WorkflowEngine,
  WorkflowInstance,
  Steps.CurrentSteps
)

const Proto = {
  [TypeId]: TypeId,
  annotate(this: Definition, key: Context.Key<unknown, unknown>, value: unknown) {
    return contract({ ...definitionOf(this), annotations: Context.add(this.annotations, key, value) })
  },
  toLayer(
    this: Definition,
    handler: HandlerService["run"],
    options?: HandlerOptions<unknown, unknown, Provided>
  ) {
    return Layer.effect(
      this.handler,
      Effect.map(Effect.context<never>(), (context): HandlerService => ({
        run: handler,
        onFailure: options?.onFailure,
        context: ownServices(context)
      }))
    )
  },
  run(this: Definition, input: unknown) {
    return runOnce(this, input)
  },
  dispatch(this: Definition, payload: unknown, options?: DispatchOptions) {
    return dispatchOne(this.target, payload, options)
  },
  dispatchAll(this: Definition, payloads: ReadonlyArray<unknown>, options?: DispatchAllOptions<never>) {
    return dispatchAll(this.target, payloads, options ?? {})
  }
}

/** The values of a contract, as `makeContract` puts them together. */
type Definition = Omit<Any, typeof TypeId>

const definitionOf = (self: Definition): Definition => ({
  jobName: self.jobName,
  trigger: self.trigger,
  payloadSchema: self.payloadSchema,
  successSchema: self.successSchema,
  errorSchema: self.errorSchema,
  retry: self.retry,
  timeout: self.timeout,
  annotations: self.annotations,
  handler: self.handler,
  target: self.target
})

/**
 * The class of a contract: its values, on the prototype that holds the methods, so that
 * `class X extends Job.make(…) {}` inherits both.
 */
const contract = (definition: Definition): unknown => {
  function Contract() {}
  Object.setPrototypeOf(Contract, Proto)
  return Object.assign(Contract, definition)
}

/** The dispatcher that a handler sees where a test calls it without one. */
const noDispatcher: Dispatcher["Service"] = {
  send: ([{ message }]) =>
    Effect.fail(
      DispatchError.of(
        new Unavailable({
          job: message.name,
          engine: "Job.run",
          detail:
            "it has no Dispatcher, provide one (such as TestDispatcher.layer) to the effect that calls run"
        })
      )
    )
}

const runOnce = (self: Definition, input: unknown) =>
  Effect.flatMap(
    Effect.mapError(self.target.codec.make(input), (issue) =>
      DispatchError.of(InvalidPayload.fromIssue(self.jobName, issue))
    ),
    (payload) =>
      Effect.flatMap(DateTime.now, (dispatchedAt) =>
        Effect.contextWith((context: Context.Context<never>) => {
          const handler = Context.getUnsafe(context, self.handler)
          const dispatcher = Option.getOrElse(Context.getOption(context, Dispatcher), () => noDispatcher)
          return Effect.updateContext(Effect.scoped(handler.run(payload)), () =>
            handlerContext(
              workerContext(context, handler, dispatcher),
              {
                id: crypto.randomUUID(),
                job: self.jobName,
                attempt: 1,
                maxAttempts: self.retry.attempts,
                dispatchedAt
              },
              Steps.inMemory
            )
          )
        })
      )
  )

/**
 * What all runs of a worker have: its surroundings (such as clock, tracer and loggers), the services of the
 * handler's Layer over them, and over those what the runner provides to every run alike.
 */
export const workerContext = (
  surroundings: Context.Context<never>,
  handler: HandlerService,
  dispatcher: Dispatcher["Service"],
  engine: WorkflowEngine["Service"] = Steps.engine
): Context.Context<Dispatcher | WorkflowEngine> =>
  Context.add(
    Context.add(Context.merge(surroundings, handler.context), Dispatcher, dispatcher),
    WorkflowEngine,
    engine
  )

/** What a handler runs with: its worker's context, and what is this run's alone. */
export const handlerContext = (
  worker: Context.Context<Dispatcher | WorkflowEngine>,
  run: CurrentRun["Service"],
  steps: () => Steps.RunSteps
): Context.Context<Exclude<Provided, Scope.Scope>> =>
  Steps.provide(Context.add(worker, CurrentRun, run), {
    job: run.job,
    id: run.id,
    attempt: run.attempt,
    steps: Steps.once(steps)
  })

/** Struct fields, or a schema that has some. */
export type PayloadInput = Schema.Struct.Fields | AnyStructSchema

/** The schema that a {@link PayloadInput} stands for. */
export type PayloadSchema<P extends PayloadInput> = P extends AnyStructSchema
  ? P
  : P extends Schema.Struct.Fields
    ? Schema.Struct<P>
    : never

/** What `Job.make`, `Listener.make` and `CronJob.make` take alike. */
export interface Options<Success extends Schema.Top, Error extends Schema.Top> {
  /** What the handler succeeds with, as engines that record results store it. Default: `Schema.Void`. */
  readonly success?: Success | undefined
  /** What the handler may fail with. Default: anything (`Schema.Defect`). */
  readonly error?: Error | undefined
  /** Default: `RetryPolicy.none`, one attempt. */
  readonly retry?: RetryPolicy.Input<Error["Type"]> | undefined
  /** Of one attempt: its handler is interrupted then, and it counts as failed. Default: no limit. */
  readonly timeout?: Duration.Input | undefined
  /** For what only one engine understands; also added with `annotate`. */
  readonly annotations?: Context.Context<never> | undefined
}

/** Checks and puts together what `make` was given; for `Job`, `Listener` and `CronJob`. */
export const makeContract = (
  kind: "job" | "listener" | "cron job" | "workflow",
  name: string,
  options: Options<Schema.Top, Schema.Top> & {
    readonly trigger: Trigger
    readonly payload: unknown
    readonly idempotencyKey?: ((payload: never) => string) | undefined
  }
): unknown => {
  // the names of workflows are given by other rules
  const jobName = kind === "workflow" ? name : checkedName(name, kind)
  const payloadSchema = checkedPayload(options.payload, kind, jobName)
  const timeout =
    options.timeout === undefined
      ? undefined
      : checkedDuration(options.timeout, `The timeout of the ${kind} "${jobName}"`)
  if (timeout !== undefined && Duration.isZero(timeout)) {
    throw new DefinitionError({
      message: `The timeout of the ${kind} "${jobName}" must be longer than nothing.`
    })
  }
  return contract({
    jobName,
    trigger: options.trigger,
    payloadSchema,
    successSchema: options.success ?? Schema.Void,
    errorSchema: options.error ?? Schema.Defect(),
    retry: options.retry === undefined ? RetryPolicy.none : RetryPolicy.make(options.retry),
    timeout,
    annotations: options.annotations ?? Context.empty(),
    handler: Context.Service<never, HandlerService>(`effect-jobs/Job/Handler/${jobName}`),
    target: dispatchable({
      kind: "job",
      name: jobName,
      payloadSchema,
      idempotencyKey: options.idempotencyKey
    })
  })
}

/**
 * Defines a job: `class SendWelcomeEmail extends Job.make("mail.welcome", { payload: { email: Schema.String } }) {}`.
 *
 * The name is what travels and what engines keep, so it stays when the class is renamed: words of `a-z` and
 * `0-9` joined by `.`, `-`, `_` or `/`, at most 200 characters. Throws a `DefinitionError` for what can't be.
 */
export const make = <
  const Name extends string,
  const Payload extends PayloadInput,
  Success extends Schema.Top = Schema.Void,
  Error extends Schema.Top = Schema.Defect
>(
  name: Name,
  options: Options<Success, Error> & {
    /** What a dispatch gives to the handler: struct fields or a struct schema, encoded as JSON on its way. */
    readonly payload: Payload
    /** The id of a dispatch that is given none; two dispatches with one id make one run. Default: a new UUID. */
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
