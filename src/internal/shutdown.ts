/**
 * Ends the runs of a worker when its scope closes. The time counts on the live clock, since nobody moves a TestClock while
 * a scope closes.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type { JobMessage } from "../Dispatcher.ts"
import { plural } from "./describe.ts"
import { report } from "./isolated.ts"

/** On the live clock. */
export const live = Effect.provideService(Clock.Clock, Clock.Clock.defaultValue())

/** Runs that sleep on a TestClock don't end by waiting. */
const testPatience = Duration.seconds(2)

/** How long the close waits for an interrupted run. One that ignores its interruption doesn't hold the close. */
const interruptPatience = Duration.seconds(2)

export const isTestClock = (clock: Clock.Clock): boolean => "adjust" in clock && "setTime" in clock

type Named = Pick<JobMessage, "id" | "name">

/** The runs that hadn't ended when the time of a close was over. */
export interface Left {
  /** Interrupted, when the time was over. */
  readonly interrupted: ReadonlyArray<Named>
  /** Those of them that went on all the same. */
  readonly ignoring: ReadonlyArray<Named>
}

/** Waits for the fibers, then interrupts those that are left. Fibers that end take themselves out of the map. */
export const endFibers = (
  fibers: ReadonlyMap<Fiber.Fiber<void>, { readonly message: Named }>,
  timeout: Duration.Duration,
  clock: Clock.Clock
): Effect.Effect<Left> =>
  live(
    Effect.gen(function* () {
      const patience = isTestClock(clock) ? Duration.min(timeout, testPatience) : timeout
      yield* ended(fibers, patience)
      const interrupted = Array.from(fibers.values(), ({ message }) => message)
      for (const fiber of fibers.keys()) fiber.interruptUnsafe()
      yield* ended(fibers, interruptPatience)
      return { interrupted, ignoring: Array.from(fibers.values(), ({ message }) => message) }
    })
  )

/** Waits until all fibers have ended, but not for longer. Fibers that end take themselves out of the map. */
export const ended = (
  fibers: ReadonlyMap<Fiber.Fiber<void>, unknown>,
  patience: Duration.Duration = interruptPatience
): Effect.Effect<unknown> =>
  live(
    Effect.timeoutOption(
      Effect.whileLoop({
        while: () => fibers.size > 0,
        body: () => Fiber.awaitAll(fibers.keys()),
        step: () => {}
      }),
      patience
    )
  )

/** Logs which runs a close has cut off; `end` says what became of them. */
export const reportLeft = (
  name: string,
  timeout: Duration.Duration,
  { ignoring, interrupted }: Left,
  end = ""
): Effect.Effect<void> =>
  Effect.gen(function* () {
    if (interrupted.length > 0) {
      yield* report(
        Effect.logWarning(
          `${name} closed while ${plural(interrupted.length, "run")} went on after its shutdownTimeout of ${Duration.format(
            timeout
          )}: ${interrupted.length === 1 ? "it is" : "they are"} interrupted${end}.`
        )
      )
    }
    if (ignoring.length > 0) {
      const first = ignoring.slice(0, 3).map(({ id, name }) => `"${name}" (id ${id})`)
      yield* report(
        Effect.logWarning(
          `${name} didn't wait for ${plural(ignoring.length, "run")} that ignored the interruption: ${first.join(", ")}.`
        )
      )
    }
  })
