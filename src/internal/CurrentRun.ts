import * as Context from "effect/Context"
import type * as DateTime from "effect/DateTime"

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
