/**
 * The time limit of an attempt. At the limit the fiber is interrupted as soon as it can be: what is uninterruptible,
 * such as a finalizer, goes on, and if the fiber succeeds with that, it has succeeded.
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { awaited, isolated } from "./isolated.ts"

/** How often a fiber that couldn't be interrupted at its limit is looked at. */
const lookAgain = Duration.millis(100)

/**
 * Runs an effect in a child fiber, as {@link isolated} does; where it was interrupted at the limit, the Exit is the
 * defect that `onLimit` gives.
 */
export const limited = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  limit: Duration.Duration | undefined,
  onLimit: () => unknown,
  onFork: ((fiber: Fiber.Fiber<unknown, unknown>) => void) | undefined
): Effect.Effect<Exit.Exit<A, E>, never, R> =>
  limit === undefined
    ? isolated(effect, onFork)
    : Effect.uninterruptibleMask((restore) =>
        Effect.flatMap(Effect.forkChild(effect, { startImmediately: true }), (fiber) => {
          const exit = fiber.pollUnsafe()
          onFork?.(fiber)
          if (exit !== undefined) return Effect.succeed(exit)
          let reached = false
          const timer = interruptAfter(fiber, limit, () => {
            reached = true
          })
          return Effect.flatMap(Effect.forkChild(timer, { startImmediately: true }), (timer) =>
            Effect.ensuring(
              Effect.map(restore(awaited(fiber)), (exit) =>
                reached && Exit.isFailure(exit) && Cause.hasInterrupts(exit.cause)
                  ? Exit.die(onLimit())
                  : exit
              ),
              Fiber.interrupt(timer)
            )
          )
        })
      )

const interruptAfter = Effect.fnUntraced(function* (
  fiber: Fiber.Fiber<unknown, unknown>,
  limit: Duration.Duration,
  onInterrupt: () => void
) {
  yield* Effect.sleep(limit)
  while (fiber.pollUnsafe() === undefined) {
    if (isInterruptible(fiber)) {
      onInterrupt()
      fiber.interruptUnsafe()
      return
    }
    yield* Effect.sleep(lookAgain)
  }
})

/**
 * Whether an interruption would take effect at once. One that comes in an uninterruptible region is kept, and fails
 * the fiber when the region ends, whatever the region succeeded with. The public interface of a fiber doesn't say.
 */
const isInterruptible = (fiber: Fiber.Fiber<unknown, unknown>): boolean =>
  (fiber as { readonly interruptible?: boolean }).interruptible !== false
