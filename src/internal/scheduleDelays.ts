/**
 * The delays of an Effect `Schedule` as plain data, for a retry policy.
 *
 * The schedule is stepped several times: with other numbers from Random, and from another time of day. What comes out
 * the same each time is fixed; what differs as by `Schedule.jittered` is jitter; anything else is refused.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import { DefinitionError } from "../DefinitionError.ts"
import { checkedDuration, longest } from "./checks.ts"

/** A schedule that goes on for more steps is taken for endless. */
const maxSteps = 10_000

/** The delays before jitter, and how much longer each may become. */
export interface Delays {
  readonly delays: ReadonlyArray<Duration.Duration>
  /** Whether the schedule ended by itself. */
  readonly ended: boolean
  /** From 0 to 1: the part of a delay that is added to it at most, at random. */
  readonly jitter: number
}

interface Stepped {
  readonly delays: ReadonlyArray<number>
  readonly ended: boolean
}

const refuse = (why: string): never => {
  throw new DefinitionError({ message: `A retry policy can't be made from a schedule that ${why}.` })
}

const looksAtError = () =>
  refuse("looks at the error: its delays must be fixed, so use the policy's while and retryAfter")

/** In place of the error: whatever a schedule does with it, but to pass it on, is refused. */
const anError: unknown = new Proxy(
  {},
  Object.fromEntries(
    (["get", "has", "ownKeys", "getPrototypeOf", "getOwnPropertyDescriptor", "set"] as const).map((trap) => [
      trap,
      looksAtError
    ])
  )
)

/** One walk through the schedule, from a time of day and with one number for all that Random is asked for. */
const walk = (
  schedule: Schedule.Schedule<unknown>,
  limit: number | undefined,
  { random, start }: { readonly start: number; readonly random: number }
): Stepped => {
  let now = start
  const clock = clockAt(() => now)
  const exit = Effect.runSyncExit(
    Effect.gen(function* () {
      const step = yield* Schedule.toStep(schedule)
      const delays: Array<number> = []
      while (true) {
        const next = yield* step(now, anError).pipe(
          Effect.map(Option.some),
          Effect.catchIf(Cause.isDone, () => Effect.succeed(Option.none()))
        )
        if (Option.isNone(next)) return { delays, ended: true }
        const delay = next.value[1]
        // one step more than is used says whether it ends
        if (delays.length === (limit ?? maxSteps)) return { delays, ended: false }
        if (limit === undefined && grows(delay)) return { delays, ended: false }
        const millis = Duration.toMillis(checkedDuration(delay, "A delay of a retry policy's schedule"))
        delays.push(millis)
        now += millis
      }
    }).pipe(
      Effect.provideService(Clock.Clock, clock),
      Effect.provideService(Random.Random, {
        nextDoubleUnsafe: () => random,
        nextIntUnsafe: () => Math.floor(random * Number.MAX_SAFE_INTEGER)
      })
    )
  )
  if (Exit.isSuccess(exit)) return exit.value
  const error = Cause.squash(exit.cause)
  if (error instanceof DefinitionError) throw error
  return refuse("is asynchronous or fails: its delays must be fixed, and known when the policy is made")
}

/** Without a limit, a delay of more than 100 years is one of an endless schedule. */
const grows = (delay: Duration.Duration): boolean =>
  Duration.isFinite(delay) && Duration.isGreaterThan(delay, longest)

const clockAt = (now: () => number): Clock.Clock => {
  const nanos = () => BigInt(Math.floor(now() * 1_000_000))
  return {
    currentTimeMillisUnsafe: now,
    currentTimeMillis: Effect.sync(now),
    currentTimeNanosUnsafe: nanos,
    currentTimeNanos: Effect.sync(nanos),
    monotonicTimeNanosUnsafe: nanos,
    monotonicTimeNanos: Effect.sync(nanos),
    sleep: () => Effect.never
  }
}

/** Apart from rounding. */
const isClose = (a: number, b: number): boolean => Math.abs(a - b) <= 1e-6 * Math.max(1, a, b)

const areClose = (a: Stepped, b: Stepped): boolean =>
  a.ended === b.ended &&
  a.delays.length === b.delays.length &&
  a.delays.every((delay, index) => isClose(delay, b.delays[index] ?? Number.NaN))

/**
 * The delays of a schedule of at most `limit` steps, or of as many as it has. Throws a `DefinitionError` where they
 * aren't fixed.
 */
export const delaysOf = (schedule: Schedule.Schedule<unknown>, limit: number | undefined): Delays => {
  const steps = limit === undefined ? undefined : Math.min(limit, maxSteps)
  const least = walk(schedule, steps, { start: 0, random: 0 })
  if (steps === undefined && !least.ended) return { ...asDurations(least), jitter: 0 }
  // neither the hour, the minute nor the second is that of 0
  if (!areClose(least, walk(schedule, steps, { start: 27_308_765_432, random: 0 }))) {
    refuse("looks at the time of day, or differs from time to time: its delays must be fixed")
  }
  const jitter = ratio(least, walk(schedule, steps, { start: 0, random: 1 })) - 1
  const middle = walk(schedule, steps, { start: 0, random: 0.5 })
  if (!(jitter >= 0 && jitter <= 1) || !areClose(middle, lengthened(least, 1 + jitter / 2))) {
    refuse("is random, other than by Schedule.jittered: use the policy's jitter")
  }
  return { ...asDurations(least), jitter: Math.round(jitter * 1e6) / 1e6 }
}

const asDurations = ({ delays, ended }: Stepped) => ({
  delays: delays.map((delay) => Duration.millis(delay)),
  ended
})

const lengthened = ({ delays, ended }: Stepped, factor: number): Stepped => ({
  ended,
  delays: delays.map((delay) => delay * factor)
})

/** How many times as long all the delays of the second are, or NaN where that isn't one number. */
const ratio = (least: Stepped, most: Stepped): number => {
  const longestAt = least.delays.indexOf(Math.max(...least.delays))
  const factor = (most.delays[longestAt] ?? 1) / (least.delays[longestAt] ?? 1)
  const all = Number.isFinite(factor) ? factor : 1
  return areClose(lengthened(least, all), most) ? all : Number.NaN
}
