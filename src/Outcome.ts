/**
 * What an attempt comes to, and who is told of a run that has failed for good. Engines act on an {@link Outcome},
 * and on nothing else.
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { JobMessage } from "./Dispatcher.ts"
import type * as Job from "./Job.ts"

/** Why a message has failed for good. */
export type FailedReason =
  /** The payload doesn't decode: the handler never saw it. */
  | "InvalidPayload"
  /** The last attempt that the policy allows has failed. */
  | "AttemptsExhausted"
  /** The policy's `while` said no. */
  | "NotRetryable"
  /** The runner has no job of this name. */
  | "UnknownJob"

/** What an engine has to act on after an attempt. */
export type Outcome = Succeeded | Retry | Failed

export interface Succeeded {
  readonly _tag: "Succeeded"
  readonly value: unknown
  /** The value as the job's success schema encodes it. */
  readonly encoded: Schema.Json
}

export interface Retry {
  readonly _tag: "Retry"
  /** Run it again after this long or more. */
  readonly delay: Duration.Duration
  /** Whether the policy or the error named `delay`; if not, an engine may use a backoff of its own. */
  readonly stated: boolean
  readonly cause: Cause.Cause<unknown>
}

export interface Failed {
  readonly _tag: "Failed"
  readonly reason: FailedReason
  readonly cause: Cause.Cause<unknown>
}

/** An attempt that took longer than its job's `timeout`. It is a defect, so `while` isn't asked about it. */
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

/** A handler's success that its job's success schema doesn't encode. It is a defect. */
export class InvalidSuccess extends Schema.TaggedError<InvalidSuccess>()("InvalidSuccess", {
  job: Schema.String,
  id: Schema.String,
  issue: Schema.String
}) {
  override get message(): string {
    return `The handler of "${this.job}" (id ${this.id}) succeeded with what its success schema doesn't encode: ${this.issue}.`
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
  /** What the engine says of it, where it says something. */
  detail: Schema.optionalKey(Schema.String)
}) {
  override get message(): string {
    const detail = this.detail === undefined ? "." : `: ${this.detail}`
    return `The worker of "${this.job}" (id ${this.id}) was lost in attempt ${this.attempt}, the last one${detail}`
  }
}

/** A job that has failed for good, as `onError` and logs get it. The message is one sentence. */
export class JobFailed extends Schema.TaggedError<JobFailed>()("JobFailed", {
  job: Schema.String,
  id: Schema.String,
  /** The attempts made; 0 where the handler never saw the message. */
  attempts: Schema.Int,
  reason: Schema.Literals(["InvalidPayload", "AttemptsExhausted", "NotRetryable", "UnknownJob"]),
  cause: Schema.Cause(Schema.Unknown, Schema.Unknown)
}) {
  static of(message: JobMessage, attempt: number, failed: Failed): JobFailed {
    const seen = failed.reason === "AttemptsExhausted" || failed.reason === "NotRetryable"
    return new JobFailed({
      job: message.name,
      id: message.id,
      attempts: seen ? attempt : 0,
      reason: failed.reason,
      cause: failed.cause
    })
  }
  override get message(): string {
    const error = Cause.prettyErrors(this.cause)[0]
    const last = error?.message || error?.name || "it was interrupted from within"
    const end = /[.!?]$/.test(last) ? last : `${last}.`
    const job = `"${this.job}" (id ${this.id})`
    switch (this.reason) {
      case "InvalidPayload":
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

/** Gets a job that has failed for good. What it fails with is logged and goes no further. */
export type OnError = (error: JobFailed, job: Job.Any | undefined) => Effect.Effect<unknown, unknown>

/** The failure as one sentence, and its cause below it. Not the payload. */
export const logJobFailed: OnError = (error) => Effect.logError(error.message, error.cause)
