/**
 * One run of one job, and the only place where one is decided: decode, start, perform, classify, record.
 *
 * Every engine hands its messages to a `Runner` and acts on the `Outcome`; none of them has a rule of its own.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Metric from "effect/Metric"
import { CurrentLogAnnotations } from "effect/References"
import * as Schema from "effect/Schema"
import * as SchemaParser from "effect/SchemaParser"
import type * as SchemaIssue from "effect/SchemaIssue"
import type * as Scope from "effect/Scope"
import { ParentSpan, type Span } from "effect/Tracer"
import type { WorkflowEngine } from "effect/workflow/WorkflowEngine"
import { DefinitionError } from "./DefinitionError.ts"
import { type Dispatcher, type JobMessage } from "./Dispatcher.ts"
import { InvalidPayload, issuesOf, issuesSentence, UnknownJob } from "./DispatchError.ts"
import * as Job from "./Job.ts"
import {
  InvalidSuccess,
  type JobFailed,
  JobTimeout,
  type OnError,
  type Outcome,
  type Succeeded
} from "./Outcome.ts"
import * as RetryPolicy from "./RetryPolicy.ts"
import * as Steps from "./Steps.ts"
import * as TraceParent from "./internal/TraceParent.ts"

/** What an engine knows about the attempt that it asks for. */
export interface RunOptions {
  /** From 1. */
  readonly attempt: number
  /** What the handler dispatches with. */
  readonly dispatcher: Dispatcher["Service"]
  /** Where the run keeps its durable steps. Default: in memory, for this attempt alone. */
  readonly steps?: (() => Steps.RunSteps) | undefined
  /** What the handler sees as its `WorkflowEngine`. Default: one that has steps, and no workflows. */
  readonly engine?: WorkflowEngine["Service"] | undefined
}

/** Runs messages of a list of jobs. */
export interface Runner {
  readonly jobs: ReadonlyArray<Job.Any>
  /** The job of this name, if it is in the list. */
  readonly get: (name: string) => Job.Any | undefined
  /** The listeners of the event of this name; an event without any is no error. */
  readonly listeners: (event: string) => ReadonlyArray<Job.Any>
  /**
   * One attempt. It never fails; it is interrupted where its fiber is, and then counts as no attempt. A handler
   * that interrupts itself has failed.
   */
  readonly run: (message: JobMessage, options: RunOptions) => Effect.Effect<Outcome>
  /**
   * What follows `Failed`: the job's `onFailure`, once. Never fails, a failure of `onFailure` is logged. Nothing
   * for a message that doesn't decode.
   */
  readonly giveUp: (
    message: JobMessage,
    options: RunOptions & { readonly cause: Cause.Cause<unknown> }
  ) => Effect.Effect<void>
  /** A failure as the job's error schema encodes it; what isn't a typed error, as a defect. */
  readonly encodeFailure: (name: string, cause: Cause.Cause<unknown>) => Effect.Effect<Schema.Json>
  /** What {@link Runner.encodeFailure} made, as the cause it was; a typed error that doesn't decode, as a defect. */
  readonly decodeFailure: (
    name: string,
    failure: Schema.Json,
    typed: boolean
  ) => Effect.Effect<Cause.Cause<unknown>>
}

/** A job with all that doesn't change from run to run. */
interface Compiled {
  readonly job: Job.Any
  readonly handler: Job.HandlerService
  /** `undefined`: a job that succeeds with nothing, and there is nothing to encode. */
  readonly encodeSuccess:
    | ((value: unknown) => Effect.Effect<Schema.Json, SchemaIssue.Issue, unknown>)
    | undefined
  readonly encodeError: (error: unknown) => Effect.Effect<Schema.Json, unknown, unknown>
  readonly decodeError: (failure: Schema.Json) => Effect.Effect<unknown, unknown, unknown>
  readonly spanName: string
  readonly spanAttributes: Readonly<Record<string, string>>
  readonly workerContext: (
    surroundings: Context.Context<never>,
    options: RunOptions
  ) => Context.Context<Dispatcher | WorkflowEngine>
  readonly attempts: Record<Outcome["_tag"] | "Interrupted", Metric.Counter<number>>
  readonly inFlight: Metric.Gauge<number>
  readonly duration: Metric.Histogram<number>
}

/** A list in which two jobs have one name is refused: their messages couldn't be told apart. */
export const checkedJobs = <Jobs extends ReadonlyArray<Job.Any>>(jobs: Jobs): Jobs => {
  const seen = new Set<string>()
  for (const { jobName } of jobs) {
    if (seen.has(jobName)) {
      throw new DefinitionError({
        message: `Two jobs in the list have the name "${jobName}": give each a name of its own.`
      })
    }
    seen.add(jobName)
  }
  return jobs
}

/** The runner of a list of jobs, with the handlers of the environment. Two jobs of one name: it dies. */
export const makeRunner = <const Jobs extends ReadonlyArray<Job.Any>>(
  jobs: Jobs
): Effect.Effect<Runner, never, Job.HandlerOf<Jobs[number]>> =>
  Effect.contextWith((context: Context.Context<Job.HandlerOf<Jobs[number]>>) =>
    Effect.sync((): Runner => {
      const compiled = new Map<string, Compiled>()
      const listeners = new Map<string, Array<Job.Any>>()
      for (const job of checkedJobs(jobs)) {
        compiled.set(job.jobName, compile(job, Context.getUnsafe(context, job.handler)))
        if (job.trigger._tag === "Event") {
          const event = listeners.get(job.trigger.event)
          if (event === undefined) listeners.set(job.trigger.event, [job])
          else event.push(job)
        }
      }
      return {
        jobs,
        get: (name) => compiled.get(name)?.job,
        listeners: (event) => listeners.get(event) ?? [],
        run: (message, options) => {
          const job = compiled.get(message.name)
          return job === undefined ? unknownJob(message) : run(job, message, options)
        },
        giveUp: (message, options) => {
          const job = compiled.get(message.name)
          return job?.handler.onFailure === undefined ? Effect.void : giveUp(job, message, options)
        },
        encodeFailure: (name, cause) => encodeFailure(compiled.get(name), cause),
        decodeFailure: (name, failure, typed) =>
          decodeFailure(typed ? compiled.get(name) : undefined, failure)
      }
    })
  )

const compile = (job: Job.Any, handler: Job.HandlerService): Compiled => {
  const success: Schema.Top = job.successSchema
  return {
    job,
    handler,
    encodeSuccess: success.ast === Schema.Void.ast ? undefined : encoder(success),
    encodeError: encoder(job.errorSchema),
    decodeError: decoder(job.errorSchema),
    spanName: `process ${job.jobName}`,
    spanAttributes: {
      "messaging.system": "effect-jobs",
      "messaging.operation.type": "process",
      "messaging.operation.name": "process",
      "messaging.destination.name": job.jobName
    },
    workerContext: workerContext(handler),
    attempts: {
      Succeeded: attemptsTotal(job, "succeeded"),
      Retry: attemptsTotal(job, "retry"),
      Failed: attemptsTotal(job, "failed"),
      Interrupted: attemptsTotal(job, "interrupted")
    },
    inFlight: Metric.gauge("effect_jobs_in_flight", {
      description: "Attempts that run now, by job",
      attributes: { job: job.jobName }
    }),
    duration: Metric.histogram("effect_jobs_attempt_duration", {
      description: "How long attempts took, in seconds, by job",
      attributes: { job: job.jobName },
      boundaries: durationBoundaries
    })
  }
}

/** {@link Job.workerContext}, made again when what it is made of has changed: a worker has one. */
const workerContext = (handler: Job.HandlerService): Compiled["workerContext"] => {
  let last:
    | {
        readonly surroundings: Context.Context<never>
        readonly dispatcher: Dispatcher["Service"]
        readonly engine: WorkflowEngine["Service"] | undefined
        readonly made: Context.Context<Dispatcher | WorkflowEngine>
      }
    | undefined
  return (surroundings, { dispatcher, engine }) => {
    if (last?.surroundings !== surroundings || last.dispatcher !== dispatcher || last.engine !== engine) {
      const made = Job.workerContext(surroundings, handler, dispatcher, engine)
      last = { surroundings, dispatcher, engine, made }
    }
    return last.made
  }
}

const encoder = (schema: Schema.Top) => SchemaParser.encodeUnknownEffect(Schema.toCodecJson(schema))

const decoder = (schema: Schema.Top) => SchemaParser.decodeUnknownEffect(Schema.toCodecJson(schema))

const attemptsTotal = (job: Job.Any, outcome: string) =>
  Metric.counter("effect_jobs_attempts", {
    description: "Attempts that ended, by job and outcome",
    attributes: { job: job.jobName, outcome },
    incremental: true
  })

/** OpenTelemetry's advice for messaging.process.duration up to 10 s; jobs run longer. */
const durationBoundaries = [
  0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 300, 900, 3600
]

const unknownJob = (message: JobMessage): Effect.Effect<Outcome> =>
  Effect.succeed({
    _tag: "Failed",
    reason: "UnknownJob",
    cause: Cause.fail(new UnknownJob({ job: message.name, dispatcher: "this worker" }))
  })

const run = (self: Compiled, message: JobMessage, options: RunOptions): Effect.Effect<Outcome> =>
  Effect.withFiber((fiber) => {
    const surroundings = fiber.context
    const clock = fiber.getRef(Clock.Clock)
    const startedAt = clock.currentTimeNanosUnsafe()
    self.inFlight.modifyUnsafe(1, surroundings)
    return Effect.onExit(
      Effect.matchCauseEffect(attempt(self, message, options), {
        onFailure: (cause) => classify(self, options, cause),
        onSuccess: Effect.succeed
      }),
      (exit) => {
        const outcome = Exit.isSuccess(exit) ? exit.value._tag : "Interrupted"
        self.inFlight.modifyUnsafe(-1, surroundings)
        self.attempts[outcome].updateUnsafe(1, surroundings)
        self.duration.updateUnsafe(Number(clock.currentTimeNanosUnsafe() - startedAt) / 1e9, surroundings)
        return Effect.void
      }
    )
  })

/** A message's payload that didn't decode, apart from what a handler may fail with. */
class Undecodable {
  readonly error: InvalidPayload
  constructor(error: InvalidPayload) {
    this.error = error
  }
}

/** What a handler of an engine's own fails with where no policy is to be asked: the cause is the failure. */
export class Final {
  readonly cause: Cause.Cause<unknown>
  constructor(cause: Cause.Cause<unknown>) {
    this.cause = cause
  }
}

/** The attempt under its consumer span. */
const attempt = (
  self: Compiled,
  message: JobMessage,
  options: RunOptions
): Effect.Effect<Succeeded, unknown> => {
  const parent = TraceParent.toSpan(message.trace)
  return Effect.useSpan(
    self.spanName,
    parent === undefined
      ? { kind: "consumer", attributes: self.spanAttributes, root: true }
      : { kind: "consumer", attributes: self.spanAttributes, parent },
    (span) => {
      span.attribute("messaging.message.id", message.id)
      span.attribute("effect_jobs.attempt", options.attempt)
      return Effect.updateContext(perform(self, message, options), (surroundings: Context.Context<never>) =>
        runContext(self, message, options, surroundings, span)
      )
    }
  )
}

const perform = (
  self: Compiled,
  message: JobMessage,
  options: RunOptions
): Effect.Effect<Succeeded, unknown, Exclude<Job.Provided, Scope.Scope>> =>
  Effect.flatMapEager(
    Effect.mapErrorEager(decode(self, message), (error) => new Undecodable(error)),
    (payload): Effect.Effect<Succeeded, unknown, Exclude<Job.Provided, Scope.Scope>> => {
      const handled: Effect.Effect<unknown, unknown, Exclude<Job.Provided, Scope.Scope>> = Effect.scoped(
        Effect.suspend(() => self.handler.run(payload))
      )
      const { timeout } = self.job
      const limited =
        timeout === undefined
          ? handled
          : Effect.timeoutOrElse(handled, {
              duration: timeout,
              orElse: () =>
                Effect.die(
                  new JobTimeout({ job: self.job.jobName, id: message.id, attempt: options.attempt, timeout })
                )
            })
      const { encodeSuccess } = self
      return encodeSuccess === undefined
        ? Effect.as(limited, nothing)
        : Effect.flatMap(limited, (value) =>
            encodeSuccess(value).pipe(
              Effect.map((encoded): Succeeded => ({ _tag: "Succeeded", value, encoded })),
              Effect.catch((issue) =>
                Effect.die(
                  new InvalidSuccess({
                    job: self.job.jobName,
                    id: message.id,
                    issue: issuesSentence(issuesOf(issue))
                  })
                )
              ),
              withSchemaServices
            )
          )
    }
  )

const nothing: Succeeded = { _tag: "Succeeded", value: undefined, encoded: null }

// sound: the services that a job's schemas need are among those that `toLayer` requires, and so in every
// context that `runContext` makes
const withSchemaServices = <A, E>(effect: Effect.Effect<A, E, unknown>): Effect.Effect<A, E> =>
  effect as Effect.Effect<A, E>

/** For a failure's codec, outside of a run. */
const withServices =
  ({ handler }: Compiled) =>
  (surroundings: Context.Context<never>): Context.Context<never> =>
    Context.merge(surroundings, handler.context)

const decode = (self: Compiled, message: JobMessage): Effect.Effect<unknown, InvalidPayload> =>
  withSchemaServices(
    Effect.mapErrorEager(self.job.target.codec.decode(message.payload), (issue) =>
      InvalidPayload.fromIssue(self.job.jobName, issue, message.id)
    )
  )

const runContext = (
  self: Compiled,
  message: JobMessage,
  options: RunOptions,
  surroundings: Context.Context<never>,
  span: Span | undefined
): Context.Context<Exclude<Job.Provided, Scope.Scope>> => {
  const { jobName, retry } = self.job
  const context = Context.add(
    Job.handlerContext(
      self.workerContext(surroundings, options),
      {
        id: message.id,
        job: jobName,
        attempt: options.attempt,
        maxAttempts: retry.attempts,
        // made when it is asked for, which few handlers do
        get dispatchedAt() {
          return DateTime.makeUnsafe(message.dispatchedAt)
        }
      },
      options.steps ?? Steps.inMemory
    ),
    CurrentLogAnnotations,
    {
      ...Context.get(surroundings, CurrentLogAnnotations),
      job: jobName,
      id: message.id,
      attempt: options.attempt
    }
  )
  return span === undefined ? context : Context.add(context, ParentSpan, span)
}

const classify = (
  self: Compiled,
  options: RunOptions,
  cause: Cause.Cause<unknown>
): Effect.Effect<Outcome> => {
  const error = Cause.findErrorOption(cause)
  if (error._tag === "Some" && error.value instanceof Undecodable) {
    return Effect.succeed({ _tag: "Failed", reason: "InvalidPayload", cause: Cause.fail(error.value.error) })
  }
  if (error._tag === "Some" && error.value instanceof Final) {
    return Effect.succeed({ _tag: "Failed", reason: "NotRetryable", cause: error.value.cause })
  }
  // sound: a typed error of this job's handler is what this job's policy looks at
  const policy = self.job.retry as RetryPolicy.RetryPolicy
  return Effect.matchCause(RetryPolicy.next(policy, options.attempt, error), {
    // a `while` or `retryAfter` that throws has not said that there may be another run
    onFailure: (thrown): Outcome => ({
      _tag: "Failed",
      reason: "NotRetryable",
      cause: Cause.combine(cause, thrown)
    }),
    onSuccess: (next): Outcome =>
      next._tag === "Stop"
        ? { _tag: "Failed", reason: next.reason, cause }
        : { _tag: "Retry", delay: next.delay, stated: next.stated, cause }
  })
}

const giveUp = (
  self: Compiled,
  message: JobMessage,
  options: RunOptions & { readonly cause: Cause.Cause<unknown> }
): Effect.Effect<void> =>
  decode(self, message).pipe(
    Effect.matchEffect({
      onFailure: () => Effect.void,
      onSuccess: (payload) =>
        Effect.scoped(Effect.suspend(() => self.handler.onFailure?.(payload, options.cause) ?? Effect.void))
    }),
    Effect.catchCause((cause) =>
      Effect.logError(`The onFailure of "${message.name}" (id ${message.id}) failed itself.`, cause)
    ),
    Effect.updateContext((surroundings: Context.Context<never>) =>
      runContext(self, message, options, surroundings, undefined)
    ),
    Effect.asVoid
  )

const encodeDefect = encoder(Schema.Defect())

const encodeFailure = (
  self: Compiled | undefined,
  cause: Cause.Cause<unknown>
): Effect.Effect<Schema.Json> => {
  const error = Cause.findErrorOption(cause)
  const defect = withSchemaServices(Effect.orDie(encodeDefect(Cause.squash(cause))))
  if (self === undefined || error._tag === "None") return defect
  return withSchemaServices(self.encodeError(error.value)).pipe(
    Effect.catch(() => defect),
    Effect.updateContext(withServices(self))
  )
}

const decodeDefect = decoder(Schema.Defect())

const decodeFailure = (
  self: Compiled | undefined,
  failure: Schema.Json
): Effect.Effect<Cause.Cause<unknown>> => {
  const defect = Effect.map(withSchemaServices(Effect.orDie(decodeDefect(failure))), Cause.die)
  if (self === undefined) return defect
  return withSchemaServices(self.decodeError(failure)).pipe(
    Effect.map((error) => Cause.fail(error)),
    Effect.catch(() => defect),
    Effect.updateContext(withServices(self))
  )
}

/** Tells a layer's `onError` of a job that has failed for good. A failure of its own is logged. */
export const tell = (
  onError: OnError,
  layer: string,
  error: JobFailed,
  job: Job.Any | undefined
): Effect.Effect<unknown> =>
  Effect.catchCause(onError(error, job), (cause) =>
    Effect.logError(`The onError of ${layer} failed itself for "${error.job}" (id ${error.id}).`, cause)
  )
