/**
 * Runs jobs in this process, with their retries: for development, for scripts, and for work that may be lost
 * with the process. Nothing is stored.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { DefinitionError } from "../DefinitionError.ts"
import { Dispatcher } from "../Dispatcher.ts"
import type * as Job from "../Job.ts"
import { logJobFailed, type OnError } from "../OnError.ts"
import { checkedDelay } from "../RetryPolicy.ts"
import * as InProcess from "./InProcess.ts"

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
  readonly drainTimeout?: Duration.Input | undefined
  /**
   * How many ids are remembered, and how long: `capacity` or more, and less than twice as many. Default: 10,000,
   * for 24 hours.
   */
  readonly rememberIds?:
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
 * `rememberIds` says; an interrupted run's is forgotten. At most once: what runs is lost with the process.
 */
export const layer = <const Jobs extends ReadonlyArray<Job.Any>>(
  jobs: Jobs,
  options: Options = {}
): Layer.Layer<Dispatcher, never, Job.HandlerOf<Jobs[number]>> =>
  Layer.effect(
    Dispatcher,
    Effect.suspend(() =>
      InProcess.make(jobs, {
        name: "InlineDispatcher.layer",
        background: options.background ?? false,
        concurrency: checkedCount(options.concurrency ?? 10, "concurrency"),
        drainTimeout: checkedDelay(
          options.drainTimeout ?? "30 seconds",
          "The drainTimeout of InlineDispatcher.layer"
        ),
        rememberIds: {
          capacity: checkedCount(options.rememberIds?.capacity ?? 10_000, "rememberIds.capacity"),
          timeToLive: checkedDelay(
            options.rememberIds?.timeToLive ?? "24 hours",
            "The rememberIds.timeToLive of InlineDispatcher.layer"
          )
        },
        onError: options.onError ?? logJobFailed,
        onRequest: (request) => request,
        onAttempt: undefined
      })
    )
  )

const checkedCount = (value: number, option: string): number => {
  if (Number.isSafeInteger(value) && value >= 1) return value
  throw new DefinitionError({
    message: `The ${option} of InlineDispatcher.layer must be an integer of at least 1, not ${value}.`
  })
}
