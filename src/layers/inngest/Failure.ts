/**
 * A failed attempt as Inngest's server keeps it, on its way there and back.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { Runner } from "../../Attempt.ts"
import { FailedReason } from "../../Outcome.ts"
import { summary } from "../../internal/describe.ts"
import type { JobMessage } from "../../Dispatcher.ts"

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
  typed: Schema.Boolean
})
export const decodeRecorded = Schema.decodeUnknownOption(Recorded)

export interface Failure {
  readonly message: string
  readonly stack: string | undefined
  readonly cause: typeof Recorded.Type
}

/** A cause as it is recorded. */
export const make = (
  runner: Runner,
  message: JobMessage,
  attempt: number,
  reason: FailedReason | undefined,
  cause: Cause.Cause<unknown>
): Effect.Effect<Failure> =>
  Effect.map(runner.encodeFailure(message.name, cause), ({ json, typed }) => {
    return {
      message: summary(cause, typed ? json : undefined),
      stack: stackOf(cause),
      cause: {
        attempt,
        ...(reason === undefined ? undefined : { reason }),
        failure: json,
        typed
      }
    }
  })

const stackOf = (cause: Cause.Cause<unknown>): string | undefined => {
  try {
    return Cause.prettyErrors(cause)[0]?.stack
  } catch {
    // an error that throws when it is read
    return undefined
  }
}

/** With the stack of where it failed, not of where the SDK's error was made. */
export const dressed = (failure: Failure, error: Error): Error =>
  failure.stack === undefined ? error : Object.assign(error, { stack: failure.stack })

/** What the failure function's event has, by the facts of a real server. */
const FailedEvent = Schema.Struct({
  error: Schema.Struct({ message: Schema.String, cause: Schema.optionalKey(Schema.Unknown) }),
  event: Schema.Struct({
    name: Schema.optionalKey(Schema.String),
    id: Schema.optionalKey(Schema.String),
    data: Schema.optionalKey(Schema.Unknown),
    ts: Schema.optionalKey(Schema.Finite)
  })
})
export const decodeEvent = Schema.decodeUnknownEffect(FailedEvent)
