/**
 * Runs code of users in fibers of their own. A value that isn't an Effect ends the fiber that meets it, without running
 * what is on its stack (`Fiber.runLoop: Not a valid effect`). So it must never be a fiber of ours.
 */
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { attempted, readable } from "./describe.ts"

/** Waits for a child fiber. Interruption reaches it, and is over when its finalizers are. */
export const awaited = <A, E>(fiber: Fiber.Fiber<A, E>): Effect.Effect<Exit.Exit<A, E>> => {
  const exit = fiber.pollUnsafe()
  return exit === undefined
    ? Effect.onInterrupt(Fiber.await(fiber), () => Fiber.interrupt(fiber))
    : Effect.succeed(exit)
}

/**
 * Runs an effect in a child fiber and gives its Exit, however it ended. The child is interruptible, also where its
 * parent isn't; it is interrupted with its parent.
 */
export const isolated = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  onFork?: (fiber: Fiber.Fiber<A, E>) => void
): Effect.Effect<Exit.Exit<A, E>, never, R> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(Effect.forkChild(effect, { startImmediately: true }), (fiber) => {
      onFork?.(fiber)
      return restore(awaited(fiber))
    })
  )

/** The Effect that a function of a user's gives, or a defect that says what it gave instead. */
export const called = <A, E, R>(
  what: string,
  f: () => Effect.Effect<A, E, R> | undefined
): Effect.Effect<A, E, R> =>
  Effect.suspend(() => {
    const effect: unknown = f()
    return attempted(() => Effect.isEffect(effect), false)
      ? // sound: an Effect there has the type that the function says
        (effect as Effect.Effect<A, E, R>)
      : Effect.die(new TypeError(`${what} returned ${kindOf(effect)}, and not an Effect.`))
  })

const kindOf = (value: unknown): string =>
  typeof value !== "object" || value === null
    ? String(value)
    : attempted(() => value instanceof Promise, false)
      ? "a Promise"
      : "an object"

/** Logs. A logger may be a user's, so whatever it throws is ignored. */
export const report = (log: Effect.Effect<void>): Effect.Effect<void> => Effect.asVoid(isolated(log))

/** As {@link report}, of a failure. */
export const reportCause = (
  log: (...message: ReadonlyArray<unknown>) => Effect.Effect<void>,
  sentence: string,
  cause: Cause.Cause<unknown>
): Effect.Effect<void> => report(Effect.suspend(() => log(sentence, readable(cause))))
