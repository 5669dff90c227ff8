/**
 * Runs what `InngestDispatcher` has sent: one Inngest function for each job, listener and cron job. Over HTTP, or
 * over a WebSocket that the worker opens (`layerConnect`).
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberSet from "effect/FiberSet"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Workflow from "effect/workflow/Workflow"
import { type InngestFunction, NonRetriableError, RetryAfterError } from "inngest"
import type { ConnectHandlerOptions } from "inngest/connect"
import { serve } from "inngest/edge"
import { makeRunner, type Runner } from "../../Attempt.ts"
import { type OnError, WorkerLost } from "../../Outcome.ts"
import { Dispatcher, type JobMessage } from "../../Dispatcher.ts"
import type * as Job from "../../Job.ts"
import { checkedDuration } from "../../internal/checks.ts"
import { InngestClient } from "./InngestClient.ts"
import * as InngestEvent from "./Event.ts"
import * as InngestFailure from "./Failure.ts"
import { type InngestRequest, requestOf, RequestMiddleware } from "./Request.ts"
import * as InngestRetry from "./Retry.ts"
import * as InngestSteps from "./Steps.ts"
import * as InngestWorkflows from "./Workflows.ts"

/** What every kind of worker takes. */
export interface Options {
  /**
   * How long the scope's close waits for what runs. Then it is interrupted, which Inngest counts as a failed
   * attempt. Default 30 seconds.
   */
  readonly shutdownTimeout?: Duration.Input | undefined
  /**
   * Gets each job that has failed for good, after its `onFailure`. Default: logs at error level, without the
   * payload.
   */
  readonly onError?: OnError | undefined
}

/**
 * What is Inngest's alone, by the SDK's own types: concurrency, throttle, rateLimit, debounce, priority,
 * singleton, cancelOn, idempotency, timeouts, checkpointing, middleware.
 * `SendMail.annotate(InngestWorker.FunctionOptions, { concurrency: 5 })`.
 *
 * `retries` and `onFailure` are the job's; a batch of events (`batchEvents`) has no place in a job of one payload.
 */
export class FunctionOptions extends Context.Service<
  FunctionOptions,
  Omit<InngestFunction.Options, "id" | "triggers" | "retries" | "onFailure" | "batchEvents">
>()("effect-jobs/InngestWorker/FunctionOptions") {}

/** What a worker's list may hold: jobs, listeners, cron jobs, and Effect's Workflows. */
export type Listed = Job.Any | Workflow.Any

/** The services that run what is in a list. */
export type HandlersOf<L> =
  | Job.HandlerOf<L>
  | (L extends Workflow.Any ? InngestWorkflows.InngestWorkflowEngine : never)

/** What a worker needs of its surroundings. */
export type Needs<Jobs extends ReadonlyArray<Listed>> = HandlersOf<Jobs[number]> | Dispatcher | InngestClient

/**
 * The plain Inngest functions of a list of jobs, for one's own `serve`, and those that deliver the completions of
 * their deferreds and the results of workflows. They run with the services of this effect's environment, until
 * its scope closes. What can't be (two jobs of one name, more than 21 attempts, a workflow without a handler)
 * dies with a `DefinitionError`.
 */
export const functions = <const Jobs extends ReadonlyArray<Listed>>(
  list: Jobs,
  options: Options = {}
): Effect.Effect<Array<InngestFunction.Any>, never, Needs<Jobs> | Scope.Scope> =>
  Effect.gen(function* () {
    const shutdownTimeout = checkedDuration(
      options.shutdownTimeout ?? "30 seconds",
      "The shutdownTimeout of InngestWorker"
    )
    const { engine, handlers, isWorkflow, jobs } = yield* InngestWorkflows.resolve(list)
    const dispatcher = yield* Dispatcher
    const runner = yield* Effect.provideContext(
      makeRunner(jobs, {
        name: "InngestWorker",
        dispatcher,
        engine,
        onError: options.onError,
        hasOwnBackoff: true
      }),
      // sound: the workflows' are here, and the jobs' are what this effect requires
      handlers as Context.Context<Job.Handler<string>>
    )
    for (const job of jobs) InngestRetry.checked(job)
    const { client, eventPrefix } = yield* InngestClient
    const fibers = yield* FiberSet.make<unknown, unknown>()
    const fork = yield* FiberSet.runtime(fibers)<never>()
    yield* Effect.addFinalizer(() =>
      Effect.flatMap(Effect.timeoutOption(FiberSet.awaitEmpty(fibers), shutdownTimeout), (drained) =>
        Option.isSome(drained)
          ? Effect.void
          : Effect.logWarning(
              `InngestWorker closed while runs went on after its shutdownTimeout of ${Duration.format(shutdownTimeout)}: they are interrupted.`
            )
      )
    )
    const self: Worker = {
      runner,
      eventPrefix,
      keepResult: (job, id, exit) =>
        isWorkflow(job)
          ? Effect.flatMap(InngestWorkflows.resultEvent(job, id, exit, eventPrefix), (event) =>
              event === undefined ? Effect.void : Effect.promise(() => client.send(event))
            )
          : Effect.void,
      fork
    }
    // sound: the SDK infers types of events from its options, and here every job has its own schemas
    const create = client.createFunction as unknown as (
      options: Record<string, unknown>,
      handler: (context: RunContext) => Promise<unknown>
    ) => InngestFunction.Any
    const runs = (name: string) => runner.get(name) !== undefined
    const deferreds = create(
      {
        id: "effect-jobs.deferreds",
        triggers: [{ event: eventPrefix + InngestEvent.deferredEvents.completed }],
        retries: 20
      },
      ({ event, step }) => InngestSteps.deliver({ data: event.data, tools: step, eventPrefix, runs })
    )
    const results = create(
      {
        id: "effect-jobs.results",
        triggers: [{ event: eventPrefix + InngestEvent.workflowEvents.asked }],
        retries: 20,
        // with it, some servers' API shows a completed run without its output, which is what this one is for
        checkpointing: false
      },
      ({ event, step }) => InngestSteps.answer({ data: event.data, tools: step, eventPrefix, runs })
    )
    const own = jobs.map((job) => {
      const own = Context.getOption(job.annotations as Context.Context<FunctionOptions>, FunctionOptions)
      const {
        cancelOn = [],
        middleware = [],
        ...given
      } = Option.getOrElse(own, (): FunctionOptions["Service"] => ({}))
      return create(
        {
          ...(job.trigger._tag === "Cron" &&
            job.trigger.overlap === "skip" && { singleton: { mode: "skip" } }),
          ...given,
          id: job.jobName,
          triggers: [trigger(job, eventPrefix)],
          cancelOn: isWorkflow(job) ? [...cancelOn, InngestWorkflows.cancelledBy(eventPrefix)] : cancelOn,
          retries: job.retry.attempts - 1,
          onFailure: (context: RunContext) => failed(self, job, context),
          middleware: [...middleware, RequestMiddleware]
        },
        (context) => attempt(self, job, context)
      )
    })
    return jobs.some(isWorkflow) ? [...own, deferreds, results] : [...own, deferreds]
  })

const trigger = (job: Job.Any, prefix: string) => {
  switch (job.trigger._tag) {
    case "Dispatch":
      return { event: prefix + job.jobName }
    case "Event":
      return { event: prefix + job.trigger.event }
    case "Cron":
      return { cron: `TZ=${job.trigger.timeZone ?? "UTC"} ${job.trigger.expression}` }
  }
}

interface Worker {
  readonly runner: Runner
  readonly eventPrefix: string
  /** Keeps the result of a workflow's execution for who waits for it; of a job's run nothing. */
  readonly keepResult: (
    job: Job.Any,
    id: string,
    exit: Exit.Exit<Schema.Json, Schema.Json>
  ) => Effect.Effect<unknown>
  readonly fork: <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>
}

/** What the SDK gives to a function, as far as it is used here. */
interface RunContext {
  readonly event: InngestEvent.IncomingEvent
  /** From 0. */
  readonly attempt: number
  readonly step: InngestSteps.StepTools
}

const attempt = (self: Worker, job: Job.Any, context: RunContext): Promise<unknown> => {
  const request = requestOf(context)
  return request.promise(
    self.fork,
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const message = InngestEvent.toMessage(job, context.event, now)
      const attempt = context.attempt + 1
      return Effect.flatMap(
        self.runner.attempt(message, { attempt, steps: stepsOf(self, request, message, context) }),
        (outcome) => {
          switch (outcome._tag) {
            case "Succeeded":
              return Effect.as(
                self.keepResult(job, message.id, Exit.succeed(outcome.encoded)),
                outcome.encoded
              )
            case "Retry":
              return Effect.flatMap(
                InngestFailure.make(self.runner, message, attempt, undefined, outcome.cause),
                (failure) =>
                  Effect.flatMap(Clock.currentTimeMillis, (now) =>
                    Effect.fail(
                      InngestFailure.dressed(
                        failure,
                        outcome.stated
                          ? new RetryAfterError(
                              failure.message,
                              InngestRetry.retryAt(now, outcome.delay),
                              failure
                            )
                          : new Error(failure.message, failure)
                      )
                    )
                  )
              )
            case "Failed":
              return Effect.flatMap(
                InngestFailure.make(self.runner, message, attempt, outcome.reason, outcome.cause),
                (failure) =>
                  Effect.fail(
                    InngestFailure.dressed(failure, new NonRetriableError(failure.message, failure))
                  )
              )
          }
        }
      )
    })
  )
}

const stepsOf = (self: Worker, request: InngestRequest, message: JobMessage, context: RunContext) =>
  InngestSteps.make({ request, tools: context.step, message, eventPrefix: self.eventPrefix })

/** Inngest's failure function: runs when no attempt is left, also when the worker died in the last one. */
const failed = (self: Worker, job: Job.Any, context: RunContext): Promise<unknown> =>
  requestOf(context).promise(
    self.fork,
    Effect.gen(function* () {
      const { error, event } = yield* Effect.orDie(InngestFailure.decodeEvent(context.event.data))
      const message = InngestEvent.toMessage(job, event, yield* Clock.currentTimeMillis)
      const recorded = Option.getOrUndefined(InngestFailure.decodeRecorded(error.cause))
      const attempt = recorded?.attempt ?? job.retry.attempts
      const reason = recorded?.reason ?? "AttemptsExhausted"
      const cause =
        recorded === undefined
          ? Cause.die(new WorkerLost({ job: job.jobName, id: message.id, attempt, detail: error.message }))
          : yield* self.runner.decodeFailure(message.name, { json: recorded.failure, typed: recorded.typed })
      yield* self.runner.failed(message, { _tag: "Failed", reason, cause }, { attempt })
      yield* self.keepResult(
        job,
        message.id,
        recorded?.typed === true && Option.isSome(Cause.findErrorOption(cause))
          ? Exit.fail(recorded.failure)
          : Exit.die(Cause.squash(cause))
      )
    })
  )

/** `Request => Promise<Response>`, for as long as the scope is open. */
const webHandler = <const Jobs extends ReadonlyArray<Listed>>(
  jobs: Jobs,
  options: Options
): Effect.Effect<(request: Request) => Promise<Response>, never, Needs<Jobs> | Scope.Scope> =>
  Effect.gen(function* () {
    const { client } = yield* InngestClient
    return serve({ client, functions: yield* functions(jobs, options) })
  })

/**
 * The worker as a route (GET, POST, PUT) of Effect's HttpRouter, which Inngest calls. Handlers dispatch with the
 * `Dispatcher` of its surroundings, and run on services that are built once.
 *
 * - At least once: a run whose worker dies is started again by the server, as a new attempt.
 * - `attempts` become Inngest's `retries`, and a stated backoff gives the server its delays, to the millisecond
 *   by this machine's clock; one under 1.25 seconds becomes that. Without one the backoff is Inngest's own. More
 *   than 21 attempts, or a delay of more than 24 hours, die when the layer is built; a longer one that an error
 *   names (`retryAfter`) is cut to 24 hours by the server.
 * - What is not to be retried stops at once. `onFailure` and `onError` run in Inngest's failure function.
 * - Requests that Inngest hasn't signed are refused, unless the client is in dev mode.
 * - Durable steps are steps of Inngest's; `timeout` limits each request of an attempt between two of them.
 */
export const layer = <const Jobs extends ReadonlyArray<Listed>>(
  jobs: Jobs,
  options: Options & {
    /** Such as `/api/inngest`, where Inngest looks first. */
    readonly path: HttpRouter.PathInput
  }
): Layer.Layer<never, never, Needs<Jobs> | HttpRouter.HttpRouter> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const handler = yield* webHandler(jobs, options)
      const router = yield* HttpRouter.HttpRouter
      const respond = Effect.gen(function* () {
        const request = yield* HttpServerRequest.toWeb(yield* HttpServerRequest.HttpServerRequest)
        return HttpServerResponse.fromWeb(yield* Effect.promise(() => handler(request)))
      }).pipe(Effect.catch(() => Effect.succeed(HttpServerResponse.empty({ status: 400 }))))
      for (const method of ["GET", "POST", "PUT"] as const) {
        yield* router.add(method, options.path, respond)
      }
    })
  )

/**
 * The worker for frameworks with web handlers: Next, Hono, Bun, Workers. The layer is built with the first
 * request; `dispose` waits for what runs and closes it.
 */
export const toWebHandler = <const Jobs extends ReadonlyArray<Job.Any>, E>(
  jobs: Jobs,
  layer: Layer.Layer<Needs<Jobs>, E>,
  options: Options = {}
): { readonly handler: (request: Request) => Promise<Response>; readonly dispose: () => Promise<void> } => {
  class Handler extends Context.Service<Handler, (request: Request) => Promise<Response>>()(
    "effect-jobs/InngestWorker/Handler"
  ) {}
  const runtime = ManagedRuntime.make(Layer.provide(Layer.effect(Handler, webHandler(jobs, options)), layer))
  let built: Promise<Handler["Service"]> | undefined
  return {
    handler: async (request) => (await (built ??= runtime.runPromise(Effect.service(Handler))))(request),
    dispose: () => runtime.dispose()
  }
}

/** What a worker over a WebSocket takes. */
export interface ConnectOptions
  extends Options, Omit<ConnectHandlerOptions, "apps" | "handleShutdownSignals" | "isolateExecution"> {}

/** Inngest's gateway couldn't be reached, or refused the worker. */
export class ConnectError extends Schema.TaggedError<ConnectError>()("ConnectError", {
  cause: Schema.Defect()
}) {
  override get message(): string {
    const { cause } = this
    return `The worker couldn't connect to Inngest: ${cause instanceof Error ? cause.message : String(cause)}`
  }
}

/**
 * The worker over a WebSocket that it opens, so that it needs no port and no public address. The layer is built
 * when it is connected; when the scope closes it takes nothing more and waits for what runs. Everything else
 * is as with {@link layer}. On Node and Bun.
 */
export const layerConnect = <const Jobs extends ReadonlyArray<Listed>>(
  jobs: Jobs,
  options: ConnectOptions = {}
): Layer.Layer<never, ConnectError, Needs<Jobs>> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const { shutdownTimeout, onError, ...connection } = options
      const { client } = yield* InngestClient
      const made = yield* functions(jobs, { shutdownTimeout, onError })
      yield* Effect.acquireRelease(
        Effect.tryPromise({
          try: async () => {
            // loaded here: it has Node's modules, which the rest does without
            const { connect } = await import("inngest/connect")
            return connect({
              ...connection,
              apps: [{ client, functions: made }],
              handleShutdownSignals: [],
              isolateExecution: false
            })
          },
          catch: (cause) => new ConnectError({ cause })
        }),
        (connection) => Effect.ignore(Effect.tryPromise(() => connection.close()))
      )
    })
  )
