/**
 * When a failed job runs again: plain data, decided in one place for every engine.
 *
 * A policy counts attempts (`attempts`, the first included), names the pause after each failed one (`backoff`,
 * `jitter`), and may look at the error (`while`, `retryAfter`). `toSchedule` compiles it to an Effect
 * `Schedule`, `delayAfter` answers for one attempt, and `next` is the decision that every engine follows.
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import { DefinitionError } from "./DefinitionError.ts"
import { checkedDuration, durationOf, longest, shown } from "./internal/checks.ts"
import { delaysOf } from "./internal/scheduleDelays.ts"

const TypeId: unique symbol = Symbol.for("effect-jobs/RetryPolicy")

/**
 * The pause after each failed attempt, as data.
 *
 * - `Fixed`: the same pause each time.
 * - `Exponential`: `initialDelay * factor ** (attempt - 1)`, at most `maxDelay`.
 * - `Listed`: one pause an attempt, in order; the last one stays.
 */
export type Backoff =
  | { readonly _tag: "Fixed"; readonly delay: Duration.Duration }
  | {
      readonly _tag: "Exponential"
      readonly initialDelay: Duration.Duration
      readonly factor: number
      readonly maxDelay: Duration.Duration
    }
  | { readonly _tag: "Listed"; readonly delays: ReadonlyArray<Duration.Duration> }

/**
 * A checked retry policy. Made by `make`, `fixed`, `exponential`, `fromSchedule` or `none`.
 *
 * `E` is the typed error that `while` and `retryAfter` look at; defects and time limits are always retried
 * while attempts are left.
 */
export interface RetryPolicy<in E = unknown> {
  readonly [TypeId]: typeof TypeId
  /** Every attempt, the first included; an integer of at least 1. */
  readonly attempts: number
  /** `undefined`: not stated. Inngest then uses its own; every other engine uses {@link defaultBackoff}. */
  readonly backoff: Backoff | undefined
  /** From 0 to 1: each pause is lengthened by a random part of up to this fraction, never beyond `maxDelay`. */
  readonly jitter: number
  readonly while: ((error: E) => boolean) | undefined
  readonly retryAfter: ((error: E) => Duration.Input | undefined) | undefined
}

/** The options of every constructor, beside the backoff. */
export interface Options<in E = unknown> {
  /** Every attempt, the first included; an integer of at least 1. */
  readonly attempts: number
  /** From 0 to 1, default 0: each pause is lengthened by a random part of up to this fraction of itself. */
  readonly jitter?: number | undefined
  /**
   * Called with each typed error. If it returns `false` the job fails at once, whatever attempts are left. Only `false`
   * stops: a function that returns nothing, or a Promise, lets the policy go on. Default: every error is retried.
   */
  readonly while?: ((error: E) => boolean) | undefined
  /**
   * Reads a pause from the error (an HTTP 429's `Retry-After`). It replaces that of the backoff, without jitter and
   * `maxDelay`. The backoff's pause stays for `undefined`, and for all that isn't more than zero and at most 100 years.
   * Zero is among that, since `Duration.seconds(NaN)` is zero: without the header, a server that answered 429 would be
   * called again at once.
   */
  readonly retryAfter?: ((error: E) => Duration.Input | undefined) | undefined
}

/** Accepted wherever a policy is: a policy, or just its options, as in `{ attempts: 3 }`. */
export type Input<E = unknown> = RetryPolicy<E> | Options<E>

/** The backoff of engines where a policy states none: 1 second, doubling, at most 5 minutes. */
export const defaultBackoff: Backoff = {
  _tag: "Exponential",
  initialDelay: Duration.seconds(1),
  factor: 2,
  maxDelay: Duration.minutes(5)
}

export const isRetryPolicy = (u: unknown): u is RetryPolicy<never> => Predicate.hasProperty(u, TypeId)

const refuse = (message: string): never => {
  throw new DefinitionError({ message })
}

const build = <E>(options: Options<E>, backoff: Backoff | undefined): RetryPolicy<E> => {
  if (!Number.isSafeInteger(options.attempts) || options.attempts < 1) {
    refuse(
      `A retry policy's attempts must be an integer of at least 1 (the first run counts), not ${shown(options.attempts)}.`
    )
  }
  const jitter = options.jitter ?? 0
  if (typeof jitter !== "number" || !(jitter >= 0 && jitter <= 1)) {
    refuse(`A retry policy's jitter must be from 0 to 1, not ${shown(jitter)}.`)
  }
  for (const name of ["while", "retryAfter"] as const) {
    const given: unknown = options[name]
    if (given !== undefined && typeof given !== "function") {
      refuse(`A retry policy's ${name} must be a function of the error, not ${shown(given)}.`)
    }
  }
  return {
    [TypeId]: TypeId,
    attempts: options.attempts,
    backoff,
    jitter,
    while: options.while,
    retryAfter: options.retryAfter
  }
}

/** The policy for an {@link Input}: `{ attempts: 3 }` becomes one without a stated backoff. */
export const make = <E = unknown>(input: Input<E>): RetryPolicy<E> => {
  if (typeof input !== "object" || input === null) {
    refuse(`A retry policy must be made from options, as in { attempts: 3 }, not from ${shown(input)}.`)
  }
  return TypeId in input ? input : build(input, undefined)
}

/** One attempt, no retry: the policy of a job that is given none. */
export const none: RetryPolicy = build({ attempts: 1 }, undefined)

/** The same pause after every failed attempt. */
export const fixed = <E = unknown>(
  options: Options<E> & { readonly delay: Duration.Input }
): RetryPolicy<E> =>
  build(options, { _tag: "Fixed", delay: checkedDuration(options.delay, "A retry policy's delay") })

/**
 * Pauses that grow: `initialDelay` after the first failed attempt, `factor` (default 2, at least 1) times as
 * long after each further one, never longer than `maxDelay` (default 1 day).
 */
export const exponential = <E = unknown>(
  options: Options<E> & {
    readonly initialDelay: Duration.Input
    readonly factor?: number | undefined
    readonly maxDelay?: Duration.Input | undefined
  }
): RetryPolicy<E> => {
  const factor = options.factor ?? 2
  if (!Number.isFinite(factor) || factor < 1) {
    refuse(`A retry policy's factor must be a finite number of at least 1, not ${shown(factor)}.`)
  }
  return build(options, {
    _tag: "Exponential",
    initialDelay: checkedDuration(options.initialDelay, "A retry policy's initialDelay"),
    factor,
    maxDelay: checkedDuration(options.maxDelay ?? Duration.days(1), "A retry policy's maxDelay")
  })
}

/**
 * The pauses of an Effect `Schedule`, read once, here: the schedule is stepped with a clock that starts at 0
 * and moves by its own delays, so the policy stays plain data and every engine sees the same pauses.
 *
 * A schedule that ends sooner lowers `attempts`; without `attempts` the schedule must end by itself within
 * 10,000 steps. `Schedule.jittered` becomes the policy's `jitter`. Throws a `DefinitionError` for a schedule without
 * fixed pauses: one that looks at the error (use `while` and `retryAfter`), at the time of day (use a cron job), that
 * is random in another way (use `jitter`), or that is asynchronous or fails.
 */
export const fromSchedule = <Output, E = unknown>(
  schedule: Schedule.Schedule<Output>,
  options?: Omit<Options<E>, "attempts"> & { readonly attempts?: number | undefined }
): RetryPolicy<E> => {
  const checked = build({ ...options, attempts: options?.attempts ?? 1 }, undefined)
  const limit = options?.attempts === undefined ? undefined : checked.attempts - 1
  const { delays, ended, jitter } = delaysOf(schedule, limit)
  if (limit === undefined && !ended) {
    refuse("A retry policy from a schedule that never ends needs attempts: say how many runs there may be.")
  }
  if (jitter > 0 && options?.jitter !== undefined) {
    refuse("A retry policy from a schedule that is jittered already can't have another jitter.")
  }
  return build(
    {
      ...options,
      attempts: ended ? delays.length + 1 : checked.attempts,
      jitter: options?.jitter ?? jitter
    },
    { _tag: "Listed", delays }
  )
}

/**
 * The pause after the failed attempt of this number (from 1), before jitter. It is that of
 * {@link defaultBackoff} where the policy states none.
 */
export const delayAfter = (policy: RetryPolicy<never>, attempt: number): Duration.Duration => {
  const backoff = policy.backoff ?? defaultBackoff
  switch (backoff._tag) {
    case "Fixed":
      return backoff.delay
    case "Exponential": {
      const millis = Duration.toMillis(backoff.initialDelay) * backoff.factor ** (attempt - 1)
      // 0 * Infinity: no pause grows out of none
      return Number.isNaN(millis) ? Duration.zero : Duration.min(Duration.millis(millis), backoff.maxDelay)
    }
    case "Listed":
      return backoff.delays[Math.min(attempt, backoff.delays.length) - 1] ?? Duration.zero
  }
}

/** The decision after a failed attempt. */
export type Next =
  | {
      readonly _tag: "Retry"
      readonly delay: Duration.Duration
      /** Whether the policy or the error named the pause; if not, an engine may use a backoff of its own. */
      readonly stated: boolean
    }
  | { readonly _tag: "Stop"; readonly reason: "AttemptsExhausted" | "NotRetryable" }

/**
 * The decision after the failed attempt of this number (from 1). `error` is the typed error, if it was one.
 * A `while` or `retryAfter` that throws makes this die with what it threw.
 */
export const next = <E>(
  policy: RetryPolicy<E>,
  attempt: number,
  error: Option.Option<E>
): Effect.Effect<Next> =>
  Effect.suspend(() => {
    if (Option.isSome(error) && policy.while?.(error.value) === false) {
      return Effect.succeed<Next>({ _tag: "Stop", reason: "NotRetryable" })
    }
    if (attempt >= policy.attempts) {
      return Effect.succeed<Next>({ _tag: "Stop", reason: "AttemptsExhausted" })
    }
    const named = Option.isSome(error) ? durationOf(policy.retryAfter?.(error.value)) : undefined
    if (named !== undefined && !Duration.isZero(named)) {
      return Effect.succeed<Next>({ _tag: "Retry", delay: named, stated: true })
    }
    const delay = delayAfter(policy, attempt)
    const stated = policy.backoff !== undefined
    if (policy.jitter === 0) return Effect.succeed<Next>({ _tag: "Retry", delay, stated })
    return Effect.map(Random.next, (random): Next => ({
      _tag: "Retry",
      delay: lengthened(policy, delay, random),
      stated
    }))
  })

const lengthened = (
  policy: RetryPolicy<never>,
  delay: Duration.Duration,
  random: number
): Duration.Duration => {
  const longer = Duration.times(delay, 1 + policy.jitter * random)
  const backoff = policy.backoff ?? defaultBackoff
  return Duration.min(longer, backoff._tag === "Exponential" ? backoff.maxDelay : longest)
}

/**
 * The policy as an Effect `Schedule`: its input is the error, its output the pause. Good for `Effect.retry`
 * too, where it makes at most `attempts` runs.
 */
export const toSchedule = <E>(policy: RetryPolicy<E>): Schedule.Schedule<Duration.Duration, E> =>
  Schedule.fromStepWithMetadata(
    Effect.succeed((meta: Schedule.InputMetadata<E>) =>
      Effect.flatMap(next(policy, meta.attempt, Option.some(meta.input)), (next) =>
        next._tag === "Stop"
          ? Cause.done(Duration.zero)
          : Effect.succeed<[Duration.Duration, Duration.Duration]>([next.delay, next.delay])
      )
    )
  )
