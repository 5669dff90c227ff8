/**
 * The Outcome of an attempt, and the errors of a run that has failed for good. Engines act on an {@link Outcome}, and on
 * nothing else.
 */
import type * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as LogLevel from "effect/LogLevel"
import * as Schema from "effect/Schema"
import type { JobMessage } from "./Dispatcher.ts"
import { reportCause } from "./internal/isolated.ts"
import type * as Job from "./Job.ts"

/**
 * The reason why a run has failed for good.
 *
 * - `InvalidPayload`: the payload doesn't decode; the handler never saw it.
 * - `AttemptsExhausted`: the last attempt that the policy allows has failed.
 * - `NotRetryable`: the policy's `while` returned `false`, or the policy itself threw.
 * - `InvalidSuccess`: the success schema doesn't encode what the handler succeeded with.
 * - `UnknownJob`: the worker has no job of this name.
 */
export const FailedReason = Schema.Literals([
  "InvalidPayload",
  "AttemptsExhausted",
  "NotRetryable",
  "InvalidSuccess",
  "UnknownJob"
])
export type FailedReason = typeof FailedReason.Type

/** The end of an attempt, on which an engine acts. */
export type Outcome = Succeeded | Retry | Failed

/**
 * The run only waits, and holds nothing any more. It has used no attempt. It comes again at its time, or when a deferred of
 * it is completed, and its handler starts again over its recorded steps.
 */
export interface Suspended {
  readonly _tag: "Suspended"
  /** When the first of its waits ends by itself, in milliseconds since the epoch; `undefined` if none does. */
  readonly until: number | undefined
  /** Whether it also waits for a deferred. */
  readonly isAsking: boolean
}

/** The handler has succeeded. */
export interface Succeeded {
  readonly _tag: "Succeeded"
  readonly value: unknown
  /** The value as the job's success schema encodes it. */
  readonly encoded: Schema.Json
}

/** The attempt has failed, and another one follows. */
export interface Retry {
  readonly _tag: "Retry"
  /** Run it again after this long or more. */
  readonly delay: Duration.Duration
  /** Whether the policy or the error named `delay`; if not, an engine may use a backoff of its own. */
  readonly stated: boolean
  readonly cause: Cause.Cause<unknown>
}

/** The run has failed for good: `Runner.failed` follows. */
export interface Failed {
  readonly _tag: "Failed"
  readonly reason: FailedReason
  readonly cause: Cause.Cause<unknown>
}

/**
 * An attempt that was interrupted at its job's `timeout`. It is a defect, so `while` isn't asked about it. Finalizers,
 * and what is uninterruptible, go on until they end.
 */
export class JobTimeout extends Schema.TaggedError<JobTimeout>()("JobTimeout", {
  job: Schema.String,
  id: Schema.String,
  attempt: Schema.Int,
  timeout: Schema.DurationFromMillis
}) {
  override get message(): string {
    return `Attempt ${this.attempt} of "${this.job}" (id ${this.id}) was interrupted: it took longer than its timeout of ${Duration.format(
      this.timeout
    )}.`
  }
}

/** A handler's success that its job's success schema doesn't encode. It is a defect, and is never retried. */
export class InvalidSuccess extends Schema.TaggedError<InvalidSuccess>()("InvalidSuccess", {
  job: Schema.String,
  id: Schema.String,
  issue: Schema.String
}) {
  override get message(): string {
    return `The handler of "${this.job}" (id ${this.id}) succeeded with what its success schema doesn't encode: ${this.issue}.`
  }
}

/** A typed error that its job's error schema doesn't encode, as it is recorded: a defect. */
export class InvalidError extends Schema.TaggedError<InvalidError>()("InvalidError", {
  job: Schema.String,
  issue: Schema.String,
  /** The error in words. */
  error: Schema.String
}) {
  override get message(): string {
    return `The handler of "${this.job}" failed with what its error schema doesn't encode (${this.issue}): ${this.error}.`
  }
}

/**
 * The worker died (killed, out of memory, power cut) or couldn't be reached in the last attempt that the policy
 * allows. It is a defect, and what `onFailure` gets then, from the worker that is there.
 */
export class WorkerLost extends Schema.TaggedError<WorkerLost>()("WorkerLost", {
  job: Schema.String,
  id: Schema.String,
  attempt: Schema.Int,
  /** More about it, where the engine knows more. */
  detail: Schema.optionalKey(Schema.String)
}) {
  override get message(): string {
    const detail = this.detail === undefined ? "." : `: ${this.detail}`
    return `The worker of "${this.job}" (id ${this.id}) was lost in attempt ${this.attempt}, the last one${detail}`
  }
}

/** A run that has failed for good, as `onError` and logs get it. The message is one sentence. */
export class JobFailed extends Schema.TaggedError<JobFailed>()("JobFailed", {
  job: Schema.String,
  id: Schema.String,
  /** The attempts made; 0 where the handler never saw the message. */
  attempts: Schema.Int,
  reason: FailedReason,
  /** The failure in one line. */
  summary: Schema.String,
  cause: Schema.Cause(Schema.Unknown, Schema.Unknown)
}) {
  /** @internal */
  static of(message: JobMessage, attempt: number, failed: Failed, summary: string): JobFailed {
    const seen = failed.reason !== "InvalidPayload" && failed.reason !== "UnknownJob"
    return new JobFailed({
      job: message.name,
      id: message.id,
      attempts: seen ? attempt : 0,
      reason: failed.reason,
      summary,
      cause: failed.cause
    })
  }
  override get message(): string {
    const end = /[.!?]$/.test(this.summary) ? this.summary : `${this.summary}.`
    const job = `"${this.job}" (id ${this.id})`
    switch (this.reason) {
      case "InvalidPayload":
      case "InvalidSuccess":
        // it names the message, the job and the path itself
        return end
      case "UnknownJob":
        return `The message "${this.id}" can't be run: ${end}`
      case "NotRetryable":
        return `${job} failed in attempt ${this.attempts} with an error that isn't retried: ${end}`
      case "AttemptsExhausted":
        return this.attempts === 1
          ? `${job} failed in its only attempt: ${end}`
          : `${job} failed in all of its ${this.attempts} attempts, the last time with: ${end}`
    }
  }
}

/**
 * Gets each run that has failed for good, after its job's `onFailure`. `job` is undefined where the worker has none
 * of this name. A failure of its own is logged and changes nothing.
 */
export type OnError = (error: JobFailed, job: Job.Any | undefined) => Effect.Effect<unknown, unknown>

/**
 * The default `onError`: the failure as one sentence at error level, with its cause, and annotated with job, id and
 * attempts. Not the payload.
 */
export const logJobFailed: OnError = (error) =>
  Effect.annotateLogs(reportCause(Effect.logError, error.message, error.cause), {
    job: error.job,
    id: error.id,
    attempt: error.attempts
  })

/**
 * The level at which a worker logs an attempt that will be retried: one line with job, id, attempt, the failure and
 * the delay. Set it around the worker's Layer: `Layer.provide(Layer.succeed(Outcome.RetryLogLevel, "Debug"))`.
 * `"None"` logs nothing. Default `"Warn"`.
 */
export const RetryLogLevel = Context.Reference<LogLevel.Severity | "None">("effect-jobs/RetryLogLevel", {
  defaultValue: () => "Warn"
})
