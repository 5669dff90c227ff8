/**
 * Durable steps: `Activity`, `DurableClock` and `DurableDeferred` of `effect/workflow`, inside any handler.
 *
 * A finished activity isn't run again when its job is retried or delivered again: its success is recorded as its
 * schemas encode it. One that failed in its last try is tried once more by each further attempt of the job.
 *
 * **Gotchas**
 *
 * - Steps are told apart by their names. A repeated name is numbered in start order; concurrent steps need distinct
 *   names.
 * - An activity is a leaf: no step can be inside it.
 * - A body that was interrupted halfway (a crash) runs again: at least once.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Activity from "effect/workflow/Activity"
import * as DurableClock from "effect/workflow/DurableClock"
import { WorkflowEngine, type WorkflowInstance } from "effect/workflow/WorkflowEngine"
import { Dispatcher } from "./Dispatcher.ts"
import { engine } from "./internal/StepEngine.ts"
import * as RetryPolicy from "./RetryPolicy.ts"

/**
 * A `WorkflowEngine` for programs that complete a deferred from outside of its run, with `DurableDeferred.succeed` and the
 * token that the handler gave away. The completion goes through the `Dispatcher` to the engine that runs the job. If the
 * dispatcher fails, it dies with the `DispatchError`. It has no other use.
 */
export const layer: Layer.Layer<WorkflowEngine, never, Dispatcher> = Layer.effect(
  WorkflowEngine,
  Effect.map(Dispatcher, (dispatcher) => ({
    ...engine,
    deferredDone: (...args: Parameters<typeof engine.deferredDone>) =>
      Effect.provideService(engine.deferredDone(...args), Dispatcher, dispatcher)
  }))
)

/**
 * Runs an activity again after a typed failure, by a retry policy. Its pauses are durable: after a crash only the rest of
 * one is waited for, and a replay doesn't repeat one that is over. Each try is a step of its own, as with
 * `Activity.retry`, which has no pauses.
 */
export const retry = <A, E, R>(
  activity: Effect.Effect<A, E, R> & { readonly name: string },
  policy: RetryPolicy.Input<E>
): Effect.Effect<A, E, R | WorkflowEngine | WorkflowInstance> => {
  const checked = RetryPolicy.make(policy)
  const from = (attempt: number): Effect.Effect<A, E, R | WorkflowEngine | WorkflowInstance> =>
    Effect.catch(Effect.provideService(activity, Activity.CurrentAttempt, attempt), (error) =>
      Effect.flatMap(RetryPolicy.next(checked, attempt, Option.some(error)), (next) =>
        next._tag === "Stop"
          ? Effect.fail(error)
          : Effect.andThen(pause(`${activity.name}/${attempt}`, next.delay), from(attempt + 1))
      )
    )
  return Effect.suspend(() => from(1))
}

const pause = (after: string, duration: Duration.Duration) =>
  DurableClock.sleep({ name: `retry ${after}`, duration, inMemoryThreshold: 0 })
