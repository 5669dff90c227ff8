/**
 * Runs jobs in this process, with their retries: for development, for scripts, and for work that may be lost
 * with the process. Nothing is stored.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Dispatcher } from "../../Dispatcher.ts"
import type * as Job from "../../Job.ts"
import type { OnError } from "../../Outcome.ts"
import { checkedCount, checkedDuration } from "../../internal/checks.ts"
import * as Engine from "./Engine.ts"
import { rememberedIds } from "./Ids.ts"

export interface Options {
  /**
   * `false`, the default: a dispatch returns when its run has ended, retries included, and all that this has dispatched.
   * Interrupting it interrupts them. `true`: it returns at once, and the run belongs to the Layer's scope. Delayed
   * dispatches and the ticks of cron jobs are always in the background. A dispatch in a handler returns at once.
   */
  readonly background?: boolean | undefined
  /**
   * The attempts that run at once in the background, and the runs of one awaited `dispatchAll` or event: an integer of at
   * least 1. A background run gives its place to another one while it waits durably. Default 10.
   */
  readonly concurrency?: number | undefined
  /**
   * How long the scope's close waits for background runs; then they are interrupted, and counted in a warning. Default 30
   * seconds. Runs that still wait for their time or for a retry are lost at once, and counted in a warning.
   */
  readonly shutdownTimeout?: Duration.Input | undefined
  /**
   * The ids of ended runs that are remembered: `capacity` or more, and less than twice as many, for `timeToLive` from the
   * run's end. Default: 10,000, for 24 hours. The id of a run that hasn't ended is never forgotten. Generated
   * ids aren't remembered.
   */
  readonly deduplication?:
    | {
        readonly capacity?: number | undefined
        readonly timeToLive?: Duration.Input | undefined
      }
    | undefined
  /**
   * Called with each run that has failed for good. The dispatch itself succeeds, as it would with an engine that runs
   * the job elsewhere. Default: logs at error level, without the payload.
   */
  readonly onError?: OnError | undefined
}

/**
 * The Dispatcher that runs `jobs` in this process. A missing handler doesn't compile; the dispatch of a job that isn't in
 * the list fails with reason `UnknownJob`; two jobs of one name die with a `DefinitionError` when the Layer is built.
 *
 * Delays and retries wait on the Clock, to the millisecond, so TestClock drives them. Ids are remembered as
 * `deduplication` says; that of an interrupted run is forgotten. Nothing is stored: all runs are lost with the process.
 */
export const layer = <const Jobs extends ReadonlyArray<Job.Any>>(
  jobs: Jobs,
  options: Options = {}
): Layer.Layer<Dispatcher, never, Job.HandlerOf<Jobs[number]>> =>
  Layer.effect(
    Dispatcher,
    Effect.suspend(() =>
      Engine.make(jobs, {
        name: "InlineDispatcher.layer",
        background: options.background ?? false,
        concurrency: checkedCount(options.concurrency ?? 10, "The concurrency of InlineDispatcher.layer"),
        shutdownTimeout: checkedDuration(
          options.shutdownTimeout ?? "30 seconds",
          "The shutdownTimeout of InlineDispatcher.layer"
        ),
        ids: rememberedIds(
          checkedCount(
            options.deduplication?.capacity ?? 10_000,
            "The deduplication.capacity of InlineDispatcher.layer"
          ),
          Duration.toMillis(
            checkedDuration(
              options.deduplication?.timeToLive ?? "24 hours",
              "The deduplication.timeToLive of InlineDispatcher.layer"
            )
          )
        ),
        onError: options.onError,
        onRequest: undefined,
        onAttempt: undefined
      })
    )
  )
