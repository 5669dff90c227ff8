/**
 * One attempt of one run: decode, start, perform, classify, record. No other place decides an Outcome.
 *
 * Every engine hands its messages to a {@link Runner} and acts on the `Outcome`; none of them has a rule of its own.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import type * as SchemaIssue from "effect/SchemaIssue"
import { ParentSpan, type Span } from "effect/Tracer"
import type { WorkflowEngine } from "effect/workflow/WorkflowEngine"
import { InvalidPayload, UnknownJob } from "./DispatchError.ts"
import type { Dispatcher, JobMessage } from "./Dispatcher.ts"
import { type Compiled, compileAll } from "./internal/compiled.ts"
import { attempted, kindOfThrown, summary } from "./internal/describe.ts"
import * as FailureJson from "./internal/failureJson.ts"
import { called, isolated, report, reportCause } from "./internal/isolated.ts"
import { limited } from "./internal/limited.ts"
import { runContext } from "./internal/RunContext.ts"
import { inMemory } from "./internal/RunRecords.ts"
import type { RunSteps } from "./internal/RunState.ts"
import type * as Suspension from "./internal/Suspension.ts"
import * as TraceParent from "./internal/TraceParent.ts"
import type * as Job from "./Job.ts"
import {
  type Failed,
  InvalidSuccess,
  JobFailed,
  JobTimeout,
  logJobFailed,
  type OnError,
  type Outcome,
  type Retry,
  RetryLogLevel,
  type Succeeded,
  type Suspended
} from "./Outcome.ts"
import * as RetryPolicy from "./RetryPolicy.ts"

/** The parts of a worker that its runner knows. They never change. */
export interface WorkerOptions {
  /** Its name in logs and errors, such as `QueueWorker.layer`. */
  readonly name: string
  /** Handlers dispatch with it. */
  readonly dispatcher: Dispatcher["Service"]
  /** The `WorkflowEngine` of handlers. Default: one that has steps, and no workflows. */
  readonly engine?: WorkflowEngine["Service"] | undefined
  /** Default: logs at error level, without the payload. */
  readonly onError?: OnError | undefined
  /** Whether the engine has a backoff of its own where a policy states none. Default `false`. */
  readonly hasOwnBackoff?: boolean | undefined
  /** The clock of handlers, limits and logs. Default: that of the surroundings. */
  readonly clock?: Clock.Clock | undefined
}

/** One attempt, as an engine asks for it. */
export interface AttemptOptions {
  /** From 1. */
  readonly attempt: number
  /** Where the run keeps its durable steps. Default: in memory, for this attempt alone. */
  readonly steps?: RunSteps | undefined
}

/** Runs messages of a list of jobs. */
export interface Runner {
  readonly jobs: ReadonlyArray<Job.Any>
  /** The job of this name, if it is in the list. */
  readonly get: (name: string) => Job.Any | undefined
  /** The listeners of the event of this name; an event without any is no error. */
  readonly listeners: (event: string) => ReadonlyArray<Job.Any>
  /**
   * Makes one attempt. It never fails. If its fiber is interrupted it has no Outcome, and counts as no attempt. A handler
   * that interrupts itself has failed.
   */
  readonly attempt: (message: JobMessage, options: AttemptOptions) => Effect.Effect<Outcome>
  /**
   * As {@link Runner.attempt}, for engines that bring a suspended run back: an attempt whose run only waits ends as
   * `Suspended`. The steps are made with the `waiting` and `busy` of this suspension.
   */
  readonly attemptOrSuspend: (
    message: JobMessage,
    options: AttemptOptions & { readonly suspension: Suspension.Suspension }
  ) => Effect.Effect<Outcome | Suspended>
  /**
   * Follows a `Failed`: runs the job's `onFailure`, then the worker's `onError`. It never fails, and a failure of either
   * changes nothing. A message that doesn't decode has only `onError`. So has one with `skipOnFailure`, for engines whose
   * workers have died in its `onFailure` again and again.
   */
  readonly failed: (
    message: JobMessage,
    failed: Failed,
    options: AttemptOptions & { readonly skipOnFailure?: boolean | undefined }
  ) => Effect.Effect<JobFailed>
  /** A failure as JSON: a typed error as the job's error schema encodes it, anything else as a defect. */
  readonly encodeFailure: (
    name: string,
    cause: Cause.Cause<unknown>
  ) => Effect.Effect<FailureJson.FailureJson>
  /** {@link Runner.encodeFailure} backwards; a typed error that doesn't decode becomes a defect. */
  readonly decodeFailure: (
    name: string,
    failure: FailureJson.FailureJson
  ) => Effect.Effect<Cause.Cause<unknown>>
}

/** A failure that bypasses the retry policy: `outcome` is the Outcome. For handlers that are an engine's own. */
export class Decided {
  readonly outcome: Failed
  constructor(outcome: Failed) {
    this.outcome = outcome
  }
}

/**
 * The runner of a list of jobs, with the handlers of the environment. It dies with a `DefinitionError` where a job is
 * in the list twice, where two jobs have one name, and where the handler of a job is that of another contract.
 */
export const makeRunner = <const Jobs extends ReadonlyArray<Job.Any>>(
  jobs: Jobs,
  options: WorkerOptions
): Effect.Effect<Runner, never, Job.HandlerOf<Jobs[number]>> =>
  Effect.contextWith((services: Context.Context<Job.HandlerOf<Jobs[number]>>) =>
    Effect.sync((): Runner => {
      const { clock } = options
      const surroundings = clock === undefined ? services : Context.add(services, Clock.Clock, clock)
      const compiled = compileAll(jobs, surroundings, options)
      const listeners = Map.groupBy(
        jobs.filter(({ trigger }) => trigger._tag === "Event"),
        ({ trigger }) => (trigger._tag === "Event" ? trigger.event : "")
      )
      const worker: Worker = {
        name: options.name,
        surroundings,
        hasOwnBackoff: options.hasOwnBackoff ?? false,
        onError: options.onError ?? logJobFailed
      }
      const attempted = (
        message: JobMessage,
        options: AttemptOptions,
        suspension: Suspension.Suspension | undefined
      ): Effect.Effect<Outcome | Suspended> => {
        const job = compiled.get(message.name)
        const { attempt: number, steps = inMemory() } = options
        return job === undefined
          ? Effect.succeed(unknownJob(worker, message))
          : attempt({ worker, job, message, attempt: number, steps, suspension })
      }
      return {
        jobs,
        get: (name) => compiled.get(name)?.job,
        listeners: (event) => listeners.get(event) ?? [],
        // sound: without a suspension no attempt is suspended
        attempt: (message, options) => attempted(message, options, undefined) as Effect.Effect<Outcome>,
        attemptOrSuspend: (message, options) => attempted(message, options, options.suspension),
        failed: (message, failed, options) =>
          failedForGood(worker, compiled.get(message.name), message, failed, options),
        encodeFailure: (name, cause) => FailureJson.encode(compiled.get(name), cause),
        decodeFailure: (name, { json, typed }) =>
          FailureJson.decode(typed ? compiled.get(name) : undefined, json)
      }
    })
  )

interface Worker {
  readonly name: string
  readonly surroundings: Context.Context<never>
  readonly hasOwnBackoff: boolean
  readonly onError: OnError
}

/** One attempt on its way through the pipeline. */
interface Current {
  readonly worker: Worker
  readonly job: Compiled
  readonly message: JobMessage
  readonly attempt: number
  readonly steps: RunSteps
  /** Where the engine brings suspended runs back. */
  readonly suspension: Suspension.Suspension | undefined
}

const unknownJob = (worker: Worker, message: JobMessage): Failed => ({
  _tag: "Failed",
  reason: "UnknownJob",
  cause: Cause.fail(new UnknownJob({ job: message.name, dispatcher: worker.name }))
})

/** The pipeline, in the context of the worker and never in that of the caller. */
const attempt = (self: Current): Effect.Effect<Outcome | Suspended> =>
  Effect.updateContext(
    // the region is entered before anything is counted: an interruption may come in any operation before
    Effect.uninterruptibleMask((restore) =>
      Effect.suspend(() => {
        const record = start(self)
        return Effect.onExit(restore(decided(self)), (exit) => Effect.sync(() => record(exit)))
      })
    ),
    () => self.job.context
  )

/** Counts the attempt as in flight; gives what records its end. */
const start = ({ job }: Current): ((exit: Exit.Exit<Outcome | Suspended>) => void) => {
  const { attempts, context, duration, inFlight } = job
  const clock = Context.get(context, Clock.Clock)
  const startedAt = clock.monotonicTimeNanosUnsafe()
  inFlight.modifyUnsafe(1, context)
  return (exit) => {
    inFlight.modifyUnsafe(-1, context)
    attempts[Exit.isSuccess(exit) ? exit.value._tag : "Interrupted"].updateUnsafe(1, context)
    duration.updateUnsafe(Number(clock.monotonicTimeNanosUnsafe() - startedAt) / 1e9, context)
  }
}

/** The phase that an attempt has reached: a failure means something else in each. */
interface Progress {
  phase: "decode" | "handle" | "encode"
}

const decided = (self: Current): Effect.Effect<Outcome | Suspended> => {
  const progress: Progress = { phase: "decode" }
  return Effect.matchCauseEffect(spanned(self, progress), {
    onFailure: (cause) => classify(self, progress, cause),
    onSuccess: Effect.succeed
  })
}

/** Under the consumer span, which continues the trace of the dispatch. */
const spanned = (self: Current, progress: Progress): Effect.Effect<Succeeded | Suspended, unknown> => {
  const { attempt, job, message } = self
  const parent = TraceParent.toSpan(message.trace)
  return Effect.useSpan(
    job.spanName,
    parent === undefined
      ? { kind: "consumer", attributes: job.spanAttributes, root: true }
      : { kind: "consumer", attributes: job.spanAttributes, parent },
    (span) => {
      span.attribute("messaging.message.id", message.id)
      span.attribute("effect_jobs.attempt", attempt)
      return Effect.onExit(perform(self, progress, span), (exit) => {
        if (Exit.isFailure(exit)) span.attribute("error.type", errorType(exit.cause))
        return Effect.void
      })
    }
  )
}

/** OpenTelemetry's `error.type`: the tag or name of the failure. */
const errorType = (cause: Cause.Cause<unknown>): string => {
  const error = Cause.findErrorOption(cause)
  return kindOfThrown(error._tag === "Some" ? error.value : Cause.squash(cause))
}

/**
 * Decodes, runs the handler within its time limit, and encodes its success, in a fiber of its own. The handler's Scope
 * closes afterwards, outside of the limit.
 */
const perform = (
  self: Current,
  progress: Progress,
  span: Span
): Effect.Effect<Succeeded | Suspended, unknown> => {
  const { attempt, job, message, suspension } = self
  const { jobName, timeout } = job.job
  const scope = Scope.makeUnsafe()
  const context = runContext(job.context, { ...self, job: job.job, part: "handler" }, [
    [ParentSpan.key, span],
    [Scope.Scope.key, scope]
  ])
  // sound: the context has all that a handler and its schemas need
  const handled = handle(self, progress) as Effect.Effect<Succeeded, unknown>
  const exit = limited(
    Effect.updateContext(handled, (_: Context.Context<never>) => context),
    timeout,
    () => new JobTimeout({ job: jobName, id: message.id, attempt, timeout: timeout ?? Duration.zero }),
    suspension?.attach
  )
  const ended = Effect.flatMap(exit, (exit): Effect.Effect<Succeeded | Suspended, unknown> => {
    const suspended = suspension?.suspended()
    return suspended !== undefined && Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause)
      ? Effect.succeed(suspended)
      : exit
  })
  return Effect.onExit(ended, (exit) =>
    scope.state._tag === "Empty" ? Effect.void : Effect.flatten(isolated(Scope.close(scope, exit)))
  )
}

const handle = ({ job, message }: Current, progress: Progress): Effect.Effect<Succeeded, unknown, unknown> =>
  Effect.flatMapEager(
    Effect.suspend(() => job.job.target.codec.decode(message.payload)),
    (payload) => {
      progress.phase = "handle"
      const handled = called(`The handler of "${job.job.jobName}"`, () => job.handler.run(payload))
      const { encodeSuccess } = job
      return encodeSuccess === undefined
        ? Effect.as(handled, nothing)
        : Effect.flatMap(handled, (value) => {
            progress.phase = "encode"
            return Effect.map(encodeSuccess(value), (encoded): Succeeded => {
              progress.phase = "handle"
              return { _tag: "Succeeded", value, encoded }
            })
          })
    }
  )

const nothing: Succeeded = { _tag: "Succeeded", value: undefined, encoded: null }

const classify = (self: Current, progress: Progress, cause: Cause.Cause<unknown>): Effect.Effect<Outcome> => {
  const { job, message } = self
  const error = Cause.findErrorOption(cause)
  if (progress.phase === "decode") return Effect.succeed(undecodable(self, cause))
  if (progress.phase === "encode") {
    // sound: the only typed failure of an encoder is its issue
    const issue = FailureJson.mismatch(cause as Cause.Cause<SchemaIssue.Issue>)
    const invalid = new InvalidSuccess({ job: job.job.jobName, id: message.id, issue })
    return Effect.succeed({ _tag: "Failed", reason: "InvalidSuccess", cause: Cause.die(invalid) })
  }
  const decided = error._tag === "Some" ? decidedOf(error.value) : undefined
  if (decided !== undefined) return Effect.succeed(decided.outcome)
  // sound: a typed error of this job's handler is what this job's policy looks at
  const policy = job.job.retry as RetryPolicy.RetryPolicy
  return Effect.matchCauseEffect(RetryPolicy.next(policy, self.attempt, error), {
    // a `while` or `retryAfter` that throws hasn't allowed another attempt
    onFailure: (thrown) =>
      Effect.succeed<Outcome>({
        _tag: "Failed",
        reason: "NotRetryable",
        cause: Cause.combine(cause, thrown)
      }),
    onSuccess: (next) => {
      if (next._tag === "Stop") return Effect.succeed<Outcome>({ _tag: "Failed", reason: next.reason, cause })
      const retry: Retry = { _tag: "Retry", delay: next.delay, stated: next.stated, cause }
      return Effect.as(logRetry(self, retry), retry)
    }
  })
}

const decidedOf = (error: unknown): Decided | undefined =>
  attempted(() => (error instanceof Decided ? error : undefined), undefined)

const undecodable = ({ job, message }: Current, cause: Cause.Cause<unknown>): Failed => {
  const { jobName } = job.job
  const issue = Cause.findErrorOption(cause)
  const invalid =
    issue._tag === "Some"
      ? // sound: the only typed failure of a decoder is its issue
        InvalidPayload.fromIssue(jobName, issue.value as SchemaIssue.Issue, message.id)
      : new InvalidPayload({
          job: jobName,
          id: message.id,
          issues: [{ path: "", message: `its schema threw ${kindOfThrown(Cause.squash(cause))}` }]
        })
  return { _tag: "Failed", reason: "InvalidPayload", cause: Cause.fail(invalid) }
}

/** One line for each attempt that will be retried, so that nothing fails for hours in silence. */
const logRetry = (self: Current, retry: Retry): Effect.Effect<void> => {
  const { attempt, job, message, worker } = self
  const level = Context.get(job.context, RetryLogLevel)
  if (level === "None") return Effect.void
  const { jobName, retry: policy } = job.job
  return Effect.flatMap(FailureJson.encode(job, retry.cause), ({ json, typed }) => {
    const when = retry.stated || !worker.hasOwnBackoff ? ` in ${Duration.format(retry.delay)}` : ""
    return report(
      Effect.annotateLogs(
        Effect.logWithLevel(level)(
          `"${jobName}" (id ${message.id}) failed in attempt ${attempt} of ${policy.attempts}, and is tried again${when}: ${summary(retry.cause, typed ? json : undefined)}`
        ),
        { job: jobName, id: message.id, attempt }
      )
    )
  })
}

/** The job's `onFailure`, then the worker's `onError`, with the trace of the dispatch. */
const failedForGood = (
  worker: Worker,
  job: Compiled | undefined,
  message: JobMessage,
  failed: Failed,
  options: Parameters<Runner["failed"]>[2]
): Effect.Effect<JobFailed> => {
  const parent = TraceParent.toSpan(message.trace)
  const base = job?.context ?? worker.surroundings
  const context =
    parent === undefined ? Context.omit(ParentSpan)(base) : Context.add(base, ParentSpan, parent)
  const told = Effect.gen(function* () {
    if (job !== undefined && failed.reason !== "InvalidPayload" && options.skipOnFailure !== true) {
      const { attempt, steps = inMemory() } = options
      yield* onFailure({ worker, job, message, attempt, steps, suspension: undefined }, failed, context)
    }
    const { json, typed } = yield* FailureJson.encode(job, failed.cause)
    const error = JobFailed.of(
      message,
      options.attempt,
      failed,
      summary(failed.cause, typed ? json : undefined)
    )
    const exit = yield* isolated(
      called(`The onError of ${worker.name}`, () => worker.onError(error, job?.job))
    )
    if (Exit.isFailure(exit)) {
      yield* reportCause(
        Effect.logError,
        `The onError of ${worker.name} failed itself for "${message.name}" (id ${message.id}).`,
        exit.cause
      )
    }
    return error
  })
  return Effect.updateContext(told, () => context)
}

const onFailure = (self: Current, failed: Failed, traced: Context.Context<never>): Effect.Effect<void> => {
  const { job, message } = self
  const run = job.handler.onFailure
  if (run === undefined) return Effect.void
  const handled: Effect.Effect<unknown, unknown, unknown> = Effect.scoped(
    Effect.flatMap(job.job.target.codec.decode(message.payload), (payload) =>
      called(`The onFailure of "${message.name}"`, () => run(payload, failed.cause))
    )
  )
  // sound: the context has all that a handler and its schemas need
  const provided = Effect.updateContext(
    handled as Effect.Effect<unknown, unknown>,
    (_: Context.Context<never>) => runContext(traced, { ...self, job: job.job, part: "onFailure" })
  )
  return Effect.flatMap(isolated(provided), (exit) =>
    Exit.isSuccess(exit)
      ? Effect.void
      : reportCause(
          Effect.logError,
          `The onFailure of "${message.name}" (id ${message.id}) failed itself.`,
          exit.cause
        )
  )
}
