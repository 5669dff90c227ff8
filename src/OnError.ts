/**
 * Who is told of a job that has failed for good, after its own `onFailure`: the same on every engine that runs jobs.
 */
import * as Effect from "effect/Effect"
import type { JobFailed } from "./Attempt.ts"
import type * as Job from "./Job.ts"

/** Gets a job that has failed for good. What it fails with is logged and goes no further. */
export type OnError = (error: JobFailed, job: Job.Any | undefined) => Effect.Effect<unknown, unknown>

/** The failure as one sentence, and its cause below it. Not the payload. */
export const logJobFailed: OnError = (error) => Effect.logError(error.message, error.cause)

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
