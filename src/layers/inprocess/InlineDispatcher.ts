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
   * `false`, the default: a dispatch returns when its job has run, retries included, and interrupting it
   * interrupts the job. `true`: it returns at once, and the run belongs to the Layer's scope. A delayed dispatch
   * and the ticks of cron jobs are always in the background.
   */
  readonly background?: boolean | undefined
  /** How many attempts run at once in the background, or of one awaited `dispatchAll` or event. Default 10. */
  readonly concurrency?: number | undefined
  /**
   * How long the scope's close waits for what runs; then it is interrupted. Default 30 seconds. Runs that still
   * wait for their time or for a retry aren't waited for: they are lost, and counted in a warning.
   */
  readonly shutdownTimeout?: Duration.Input | undefined
  /**
   * How many ids are remembered, and how long: `capacity` or more, and less than twice as many. Default: 10,000,
   * for 24 hours.
   */
  readonly deduplication?:
    | {
        readonly capacity?: number | undefined
        readonly timeToLive?: Duration.Input | undefined
      }
    | undefined
  /**
   * Gets each job that has failed for good. The dispatch itself succeeds, as it would with an engine that runs
   * the job elsewhere. Default: logs at error level, without the payload.
   */
  readonly onError?: OnError | undefined
}

/**
 * The Dispatcher that runs `jobs` here. A missing handler doesn't compile; a dispatched job that isn't in the
 * list fails with reason `UnknownJob`; two jobs of one name die when the Layer is built.
 *
 * Delays and retries wait on the Clock, to the millisecond, so TestClock drives them. Ids are remembered as
 * `deduplication` says; an interrupted run's is forgotten. At most once: what runs is lost with the process.
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
