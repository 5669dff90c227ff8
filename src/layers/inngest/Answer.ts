/**
 * How the call of a handler is answered: an `Outcome` as the SDK and Inngest's server take it, within the
 * server's limits.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { NonRetriableError, RetryAfterError } from "inngest"
import type { Runner } from "../../Attempt.ts"
import type { JobMessage } from "../../Dispatcher.ts"
import { attempted, summary } from "../../internal/describe.ts"
import { FailedReason, type Outcome, WorkerLost } from "../../Outcome.ts"
import * as InngestRetry from "./Retry.ts"

/** What a step or a function may give, as JSON (`MaxStepOutputSize`, pkg/consts/consts.go), and some room. */
export const maxResultSize = 4 * 1024 * 1024 - 1024

/** A failure is written down as often as it is retried, and sent to the failure function with its event. */
export const maxFailureSize = 1024 * 1024
const maxStack = 16 * 1024

/**
 * A success of a job or an activity that is longer, as JSON, than Inngest keeps. It is a defect, and isn't
 * retried: it would be as long again.
 */
export class ResultTooLarge extends Schema.TaggedError<ResultTooLarge>()("ResultTooLarge", {
  job: Schema.String,
  id: Schema.String,
  /** The step whose result it is; the job's own without. */
  step: Schema.optionalKey(Schema.String),
  size: Schema.Int,
  limit: Schema.Int
}) {
  override get message(): string {
    const whose = this.step === undefined ? "" : `the step "${this.step}" of `
    return `The result of ${whose}"${this.job}" (id ${this.id}) has ${this.size} bytes as JSON: Inngest keeps at most ${this.limit}.`
  }
}

/** A failure that Inngest's server made, and no attempt: too many steps, an output that is too large. */
export class ServerFailed extends Schema.TaggedError<ServerFailed>()("ServerFailed", {
  job: Schema.String,
  id: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `Inngest's server failed "${this.job}" (id ${this.id}): ${this.detail}`
  }
}

/**
 * What the server keeps of a failure, as the error's `cause`: the SDK sends name, message, stack and cause of an
 * error, and nothing else of it (inngest/inngest-js #948, #1726).
 */
const Recorded = Schema.Struct({
  attempt: Schema.Int,
  /** Absent where there would be another attempt. */
  reason: Schema.optionalKey(FailedReason),
  /** As the job's error schema encodes it; a defect as such. */
  failure: Schema.Json,
  typed: Schema.Boolean,
  /** The worker died in the last attempt, and the server asked for one more. */
  lost: Schema.optionalKey(Schema.Literal(true))
})
export const decodeRecorded = Schema.decodeUnknownOption(Recorded)

/** An answer as JSON: a step that was interrupted with its handler keeps the handler's. */
export const Answer = Schema.Union([
  Schema.Struct({ success: Schema.Json }),
  Schema.Struct({
    message: Schema.String,
    stack: Schema.optionalKey(Schema.String),
    cause: Recorded,
    /** When the next attempt is due, by this worker's clock; or when the server says, or never. */
    retryAt: Schema.Union([Schema.Finite, Schema.Literals(["own", "never"])])
  })
])
export type Answer = typeof Answer.Type

const utf8 = new TextEncoder()

/** The bytes of a value as JSON. */
export const sizeOf = (json: unknown): number =>
  typeof json === "string" || (typeof json === "object" && json !== null)
    ? utf8.encode(JSON.stringify(json)).length
    : 32

/** What makes a failure final, whatever the policy says: it would be the same again. */
const isFinal = (cause: Cause.Cause<unknown>): boolean =>
  cause.reasons.some(
    // by its name: a defect of a step was JSON meanwhile
    (reason) =>
      Cause.isDieReason(reason) &&
      attempted(() => reason.defect instanceof Error && reason.defect.name === "ResultTooLarge", false)
  )

const shortened = (stack: string): string =>
  stack.length <= maxStack ? stack : `${stack.slice(0, maxStack)} (shortened)`

interface Called {
  readonly runner: Runner
  readonly message: JobMessage
  readonly attempt: number
}

/** The answer that an outcome is. */
export const ofOutcome = (called: Called, outcome: Outcome): Effect.Effect<Answer> => {
  switch (outcome._tag) {
    case "Succeeded": {
      const size = sizeOf(outcome.encoded)
      if (size <= maxResultSize) return Effect.succeed({ success: outcome.encoded })
      const { id, name: job } = called.message
      const error = new ResultTooLarge({ job, id, size, limit: maxResultSize })
      return failure(called, Cause.die(error), "NotRetryable", "never")
    }
    case "Retry":
      if (isFinal(outcome.cause)) return failure(called, outcome.cause, "NotRetryable", "never")
      return outcome.stated
        ? Effect.flatMap(Clock.currentTimeMillis, (now) =>
            failure(called, outcome.cause, undefined, InngestRetry.retryAt(now, outcome.delay))
          )
        : failure(called, outcome.cause, undefined, "own")
    case "Failed":
      return failure(called, outcome.cause, outcome.reason, "never")
  }
}

/** The answer of a failure, cut to what the server takes. */
export const failure = (
  { attempt, message, runner }: Called,
  cause: Cause.Cause<unknown>,
  reason: FailedReason | undefined,
  retryAt: number | "own" | "never"
): Effect.Effect<Answer> =>
  Effect.map(runner.encodeFailure(message.name, cause), ({ json, typed }) => {
    const said = summary(cause, typed ? json : undefined)
    const stack = attempted(() => Cause.prettyErrors(cause)[0]?.stack, undefined)
    const fits = sizeOf(json) <= maxFailureSize
    return {
      message: said,
      ...(stack === undefined ? undefined : { stack: shortened(stack) }),
      cause: {
        attempt,
        ...(reason === undefined ? undefined : { reason }),
        failure: fits ? json : { name: "Error", message: said },
        typed: fits && typed,
        ...(attempted(() => Cause.squash(cause) instanceof WorkerLost, false)
          ? { lost: true as const }
          : undefined)
      },
      retryAt
    }
  })

/** The errors that answer for a run, and that the core has logged: the SDK's own line would repeat them. */
const made = new WeakSet<Error>()
export const isAnswer = (error: unknown): boolean => error instanceof Error && made.has(error)

/** What the SDK is given for an answer: its success, or the error that tells the server what is to follow. */
export const settle = (answer: Answer): Effect.Effect<Schema.Json, Error> => {
  if ("success" in answer) return Effect.succeed(answer.success)
  const { cause, message, retryAt, stack } = answer
  const error =
    retryAt === "never"
      ? new NonRetriableError(message, { cause })
      : retryAt === "own"
        ? new Error(message, { cause })
        : new RetryAfterError(message, new Date(retryAt), { cause })
  made.add(error)
  // of where it failed, not of where this error was made
  return Effect.fail(stack === undefined ? error : Object.assign(error, { stack }))
}

/** What the failure function's event has, by the facts of a real server. */
const FailedEvent = Schema.Struct({
  error: Schema.Struct({
    name: Schema.optionalKey(Schema.String),
    message: Schema.String,
    cause: Schema.optionalKey(Schema.Unknown)
  }),
  event: Schema.Struct({
    name: Schema.optionalKey(Schema.String),
    id: Schema.optionalKey(Schema.String),
    data: Schema.optionalKey(Schema.Unknown),
    ts: Schema.optionalKey(Schema.Finite)
  })
})
export const decodeFailed = Schema.decodeUnknownEffect(FailedEvent)

/**
 * What the server says of a worker that gave no answer (pkg/execution/exechttp, pkg/syscode). Everything else
 * that no attempt has said is the server's own.
 */
const lostWords =
  /unable to reach|your server|error performing request|\bEOF\b|connection|stopped[ _]responding|healthy[ _]connection|at[ _]capacity|unreachable|not_sdk|did not come from an Inngest SDK|invalid status code|worker was closed/i

export const isLost = (error: { readonly name?: string; readonly message: string }): boolean =>
  lostWords.test(error.message) || (error.name !== undefined && lostWords.test(error.name))
