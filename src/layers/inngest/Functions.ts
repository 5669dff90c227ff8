/**
 * The Inngest functions of a worker: one for each job, listener and cron job, and our own.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Workflow from "effect/workflow/Workflow"
import type { Inngest, InngestFunction } from "inngest"
import { makeRunner } from "../../Attempt.ts"
import { announce } from "../../internal/announce.ts"
import { DefinitionError } from "../../DefinitionError.ts"
import { Dispatcher } from "../../Dispatcher.ts"
import { checkedDuration } from "../../internal/checks.ts"
import type * as Job from "../../Job.ts"
import type { OnError } from "../../Outcome.ts"
import { InngestClient } from "./InngestClient.ts"
import * as InngestEvent from "./Event.ts"
import * as Mailbox from "./Mailbox.ts"
import { RequestMiddleware, requestOf } from "./Request.ts"
import * as InngestRetry from "./Retry.ts"
import { attempt, failed, type RunContext, type Worker } from "./Run.ts"
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
 * its scope closes. An invalid list (two jobs of one name, more than 21 attempts, a workflow without a handler)
 * dies with a `DefinitionError`. Outside of dev mode give that `serve` a `serveOrigin`, or a stranger's request may
 * register the app elsewhere.
 */
export const functions = <const Jobs extends ReadonlyArray<Listed>>(
  list: Jobs,
  options: Options = {}
): Effect.Effect<Array<InngestFunction.Any>, never, Needs<Jobs> | Scope.Scope> =>
  Effect.map(make(list, options), ({ functions }) => functions)

/** A worker's functions, for a transport. */
export interface Made {
  readonly functions: Array<InngestFunction.Any>
  /** Waits for what runs, up to the `shutdownTimeout` from when it is first asked to, and interrupts the rest. */
  readonly drain: Effect.Effect<void>
}

export const make = <const Jobs extends ReadonlyArray<Listed>>(
  list: Jobs,
  options: Options
): Effect.Effect<Made, never, Needs<Jobs> | Scope.Scope> =>
  Effect.gen(function* () {
    const shutdownTimeout = checkedDuration(
      options.shutdownTimeout ?? "30 seconds",
      "The shutdownTimeout of InngestWorker"
    )
    const { engine, handlers, isWorkflow, jobs } = yield* InngestWorkflows.resolve(list)
    const runner = yield* Effect.provideContext(
      makeRunner(jobs, {
        name: "InngestWorker",
        dispatcher: yield* Dispatcher,
        engine,
        onError: options.onError,
        hasOwnBackoff: true
      }),
      // sound: the workflows' are here, and the jobs' are what this effect requires
      handlers as Context.Context<Job.Handler<string>>
    )
    yield* announce("InngestWorker", { jobs: jobs.map(({ jobName }) => jobName) })
    const { client, eventPrefix } = yield* InngestClient
    checkNames(jobs, eventPrefix)
    for (const job of jobs) InngestRetry.checked(job)
    const keyring = Mailbox.keyring(client) ?? missingKey(client)
    const { drain, fork } = yield* makeDrain(shutdownTimeout)
    const self: Worker = {
      runner,
      eventPrefix,
      keyring,
      isWorkflow,
      keepResult: keepResult({ client, eventPrefix, keyring, isWorkflow }),
      fork
    }
    const cancelOn = (yield* Effect.promise(() => keyring.interrupted())).map((key) =>
      InngestWorkflows.cancelledBy(eventPrefix, key)
    )
    // sound: the SDK infers types of events from its options, and here every job has its own schemas
    const create = client.createFunction as unknown as Create
    const own = jobs.map((job) => {
      const given = Option.getOrElse(
        Context.getOption(job.annotations as Context.Context<FunctionOptions>, FunctionOptions),
        (): FunctionOptions["Service"] => ({})
      )
      return create(
        {
          ...(job.trigger._tag === "Cron" &&
            job.trigger.overlap === "skip" && { singleton: { mode: "skip" } }),
          ...given,
          id: job.jobName,
          triggers: [trigger(job, eventPrefix)],
          cancelOn: isWorkflow(job) ? [...(given.cancelOn ?? []), ...cancelOn] : (given.cancelOn ?? []),
          retries: job.retry.attempts - 1,
          onFailure: (context: RunContext) => failed(self, job, context),
          middleware: [...(given.middleware ?? []), RequestMiddleware]
        },
        (context) => attempt(self, job, context)
      )
    })
    return { functions: [...own, ...internal(create, self, jobs, client.id)], drain }
  })

type Create = (
  options: Record<string, unknown>,
  handler: (context: RunContext) => Promise<unknown>
) => InngestFunction.Any

const missingKey = (client: Inngest.Any): never => {
  throw new DefinitionError({
    message: `The InngestWorker of "${client.id}" has no signing key: set INNGEST_SIGNING_KEY, or INNGEST_DEV=1 for a dev server.`
  })
}

/** The ids of our own functions begin so, and the names of our own events. */
const reservedPrefixes = ["effect-jobs.", "effect-jobs/"]

/** Names that can't stand side by side on Inngest. The runner has refused two of one name. */
const checkNames = (jobs: ReadonlyArray<Job.Any>, eventPrefix: string): void => {
  const refuse = (message: string): never => {
    throw new DefinitionError({ message })
  }
  const names = new Set(jobs.map(({ jobName }) => jobName))
  const dispatched = new Set(
    jobs.flatMap(({ jobName, trigger }) => (trigger._tag === "Dispatch" ? [jobName] : []))
  )
  for (const { jobName, trigger } of jobs) {
    if (reservedPrefixes.some((prefix) => jobName.startsWith(prefix))) {
      refuse(
        `"${jobName}" can't be a job on Inngest: names that begin with "effect-jobs" are the worker's own.`
      )
    }
    if (trigger._tag === "Dispatch" && InngestEvent.isReservedName(eventPrefix + jobName)) {
      refuse(`"${jobName}" can't be a job on Inngest: it refuses events whose names begin with "inngest/".`)
    }
    if (names.has(`${jobName}-failure`)) {
      refuse(
        `"${jobName}" and "${jobName}-failure" can't both be jobs on Inngest: the second is the id of the first one's failure function.`
      )
    }
    if (trigger._tag === "Event" && dispatched.has(trigger.event)) {
      refuse(
        `"${trigger.event}" is a job, and an event that "${jobName}" listens to: on Inngest each would run for the other, give them names of their own.`
      )
    }
  }
}

/** Forks what runs, and waits for it when the scope closes, or earlier, where a transport knows of its end first. */
const makeDrain = (shutdownTimeout: Duration.Duration) =>
  Effect.gen(function* () {
    const fibers = yield* FiberSet.make<unknown, unknown>()
    const fork = yield* FiberSet.runtime(fibers)<never>()
    const drain = yield* Effect.cached(
      Effect.gen(function* () {
        const drained = yield* Effect.timeoutOption(FiberSet.awaitEmpty(fibers), shutdownTimeout)
        if (Option.isSome(drained)) return
        yield* Effect.logWarning(
          `InngestWorker closed while runs went on after its shutdownTimeout of ${Duration.format(shutdownTimeout)}: they are interrupted.`
        )
        // each answers the server with that, as long as there is a way to
        for (const fiber of fibers) fiber.interruptUnsafe()
      })
    )
    yield* Effect.addFinalizer(() => drain)
    return { fork, drain }
  })

const keepResult =
  (about: {
    readonly client: Inngest.Any
    readonly eventPrefix: string
    readonly keyring: Mailbox.Keyring
    readonly isWorkflow: (job: Job.Any) => boolean
  }) =>
  (job: Job.Any, id: string, exit: Exit.Exit<Schema.Json, Schema.Json>): Effect.Effect<unknown> =>
    about.isWorkflow(job)
      ? Effect.flatMap(InngestWorkflows.resultEvent(job, id, exit, about), (event) =>
          event === undefined ? Effect.void : Effect.promise(() => about.client.send(event))
        )
      : Effect.void

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

const decodeCancelled = Schema.decodeUnknownOption(
  Schema.Struct({
    function_id: Schema.String,
    event: Schema.Struct({ id: Schema.String })
  })
)

/** Our own functions, where they are used. */
const internal = (
  create: Create,
  self: Worker,
  jobs: ReadonlyArray<Job.Any>,
  app: string
): ReadonlyArray<InngestFunction.Any> => {
  const { eventPrefix, isWorkflow, keyring, runner } = self
  const called = ({ event, step }: RunContext): Mailbox.Called => ({
    data: event.data,
    tools: step,
    eventPrefix,
    keyring,
    runs: (name) => runner.get(name) !== undefined
  })
  const deferreds = create(
    {
      id: "effect-jobs.deferreds",
      triggers: [{ event: eventPrefix + Mailbox.events.completed }],
      retries: 20
    },
    (context) => Mailbox.deliver(called(context))
  )
  const kept = jobs.filter(
    (job) => isWorkflow(job) && Context.get(job.annotations, InngestWorkflows.KeepResult)
  )
  if (kept.length === 0) return [deferreds]
  const results = create(
    {
      id: "effect-jobs.results",
      triggers: [{ event: eventPrefix + Mailbox.events.asked }],
      retries: 20,
      // with it, some servers' API shows a completed run without its output, which is what this one is for
      checkpointing: false
    },
    (context) => Mailbox.answer(called(context))
  )
  const ids = new Map(kept.map((job) => [`${app}-${job.jobName}`, job]))
  // whoever has cancelled a run (an event, a time limit, someone on the screens), its result is that it was
  const cancelled = create(
    {
      id: "effect-jobs.cancelled",
      triggers: [
        {
          event: "inngest/function.cancelled",
          if: Array.from(ids.keys(), (id) => `event.data.function_id == ${JSON.stringify(id)}`).join(" || ")
        }
      ],
      retries: 20
    },
    (context) => {
      const data = Option.getOrUndefined(decodeCancelled(context.event.data))
      const job = data === undefined ? undefined : ids.get(data.function_id)
      return data === undefined || job === undefined
        ? Promise.resolve()
        : requestOf(context).promise(self.fork, self.keepResult(job, data.event.id, Exit.interrupt()))
    }
  )
  return [deferreds, results, cancelled]
}
