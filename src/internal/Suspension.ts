/**
 * Ends an attempt whose run only waits as `Suspended`, with nothing held. It is run again over its recorded steps.
 *
 * States of an attempt: busy (a step is under way, or nothing waits), waiting (all that is under way are durable waits;
 * it stays in memory for some seconds), suspended. It is suspended by interrupting its root fiber from outside: a waiter
 * that interrupted itself would be taken for a failure by user code around it (`catchCause`, a race, a join), and the run
 * would go on with a wrong value.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import type { Suspended } from "../Outcome.ts"
import type { AroundWait } from "./RunRecords.ts"

/** How long a run that waits stays in memory, so that shorter waits, and answers that come at once, cost no replay. */
const stayFor = Duration.seconds(2)

/** In milliseconds: how soon a run that waits in a crowd gives its place away. */
const firstLook = 5
const lookEvery = 50

export interface Suspension {
  /** Around a durable wait; `until` is when it ends by itself, in milliseconds since the epoch. */
  readonly waiting: AroundWait
  /** Around a step: while one is under way, the run isn't suspended. */
  readonly busy: <A, E, R>(step: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** The root fiber of the attempt. */
  readonly attach: (fiber: Fiber.Fiber<unknown, unknown>) => void
  /** Suspends the run if it waits now, for a worker that closes. */
  readonly suspendNow: () => void
  /** `undefined`: the attempt wasn't suspended. */
  readonly suspended: () => Suspended | undefined
}

/** `isCrowded`: whether others wait for the place of this run, which then waits for nothing in memory. */
export const make = (isCrowded: () => boolean = () => false): Suspension => {
  const waits = new Set<{ readonly until: number | undefined }>()
  let steps = 0
  let root: Fiber.Fiber<unknown, unknown> | undefined
  let suspended: Suspended | undefined

  const suspendNow = () => {
    if (suspended !== undefined || root === undefined || waits.size === 0 || steps > 0) return
    const times = Array.from(waits, ({ until }) => until).filter((until) => until !== undefined)
    suspended = {
      _tag: "Suspended",
      until: times.length === 0 ? undefined : Math.min(...times),
      isAsking: times.length < waits.size
    }
    root.interruptUnsafe()
  }
  /** Looks again and again: a step may be under way beside it. */
  const suspending: Effect.Effect<never> = Effect.suspend(() => {
    let waited = 0
    const look = (pause: number): Effect.Effect<void> =>
      Effect.andThen(
        Effect.sleep(pause),
        Effect.sync(() => {
          waited += pause
          if (waited >= Duration.toMillis(stayFor) || isCrowded()) suspendNow()
        })
      )
    return Effect.andThen(look(firstLook), Effect.forever(look(lookEvery)))
  })
  return {
    waiting: (wait, until) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        const isShort = until !== undefined && until - now <= Duration.toMillis(stayFor)
        const entry = { until }
        const waiting = Effect.interruptible(isShort ? wait : Effect.raceFirst(wait, suspending))
        return Effect.acquireUseRelease(
          Effect.sync(() => waits.add(entry)),
          () => waiting,
          () => Effect.sync(() => waits.delete(entry))
        )
      }),
    busy: (step) =>
      Effect.acquireUseRelease(
        Effect.sync(() => void steps++),
        () => step,
        () => Effect.sync(() => void steps--)
      ),
    attach: (fiber) => {
      root = fiber
    },
    suspendNow,
    suspended: () => suspended
  }
}
