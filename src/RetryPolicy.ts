/**
 * When a failed job runs again: plain data, decided in one place for every engine.
 *
 * A policy counts runs (`attempts`, the first included), names the pause after each failed one (`backoff`,
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
import { checkedDuration, durationOf } from "./internal/checks.ts"

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
  /** Every run, the first included; an integer of at least 1. */
  readonly attempts: number
  /** `undefined`: not stated. Inngest then uses its own; every other engine uses {@link defaultBackoff}. */
  readonly backoff: Backoff | undefined
  /** From 0 to 1: each pause is lengthened by a random part of up to this fraction, never beyond `maxDelay`. */
  readonly jitter: number
  readonly while: ((error: E) => boolean) | undefined
  readonly retryAfter: ((error: E) => Duration.Input | undefined) | undefined
}

/** What may be said beside the backoff, for every constructor. */
export interface Options<in E = unknown> {
  /** Every run, the first included; an integer of at least 1. */
  readonly attempts: number
  /** From 0 to 1, default 0: each pause is lengthened by a random part of up to this fraction of itself. */
  readonly jitter?: number | undefined
  /** Return `false` and the job fails at once, whatever attempts are left. Typed errors only. */
  readonly while?: ((error: E) => boolean) | undefined
  /**
   * A pause that the error itself names (an HTTP 429's `Retry-After`): used as it is, in place of the backoff
   * and its `maxDelay`, without jitter. `undefined`, a negative or an infinite one leaves the backoff's.
   */
  readonly retryAfter?: ((error: E) => Duration.Input | undefined) | undefined
}

/** Accepted wherever a policy is: a policy, or just its options, as in `{ attempts: 3 }`. */
export type Input<E = unknown> = RetryPolicy<E> | Options<E>

/** What engines use where a policy states no backoff: 1 second, doubling, at most 5 minutes. */
export const defaultBackoff: Backoff = {
  _tag: "Exponential",
  initialDelay: Duration.seconds(1),
  factor: 2,
  maxDelay: Duration.minutes(5)
}

export const isRetryPolicy = (u: unknown): u is RetryPolicy<never> => Predicate.hasProperty(u, TypeId)

const build = <E>(options: Options<E>, backoff: Backoff | undefined): RetryPolicy<E> => {
  if (!Number.isSafeInteger(options.attempts) || options.attempts < 1) {
    throw new DefinitionError({
      message: `A retry policy's attempts must be an integer of at least 1 (the first run counts), not ${options.attempts}.`
    })
  }
  const jitter = options.jitter ?? 0
  if (!(jitter >= 0 && jitter <= 1)) {
    throw new DefinitionError({ message: `A retry policy's jitter must be from 0 to 1, not ${jitter}.` })
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
export const make = <E = unknown>(input: Input<E>): RetryPolicy<E> =>
  TypeId in input ? input : build(input, undefined)

/** One run, no retry: what a job without a policy has. */
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
    throw new DefinitionError({
      message: `A retry policy's factor must be a finite number of at least 1, not ${factor}.`
    })
  }
  return build(options, {
    _tag: "Exponential",
    initialDelay: checkedDuration(options.initialDelay, "A retry policy's initialDelay"),
    factor,
    maxDelay: checkedDuration(options.maxDelay ?? Duration.days(1), "A retry policy's maxDelay")
  })
}

/**
 * The pauses of any Effect `Schedule`, read once, here: the schedule is stepped with a clock that starts at 0
 * and moves by its own delays, so the policy stays plain data and every engine sees the same pauses.
 *
 * A schedule that ends sooner lowers `attempts`; without `attempts` the schedule must end by itself within
 * 1,000 steps. Schedules that look at the error or at the wall clock have no fixed pauses: use `while` and
 * `retryAfter` for the first, a cron job for the second.
 */
export const fromSchedule = <Output, E = unknown>(
  schedule: Schedule.Schedule<Output>,
  options?: Omit<Options<E>, "attempts"> & { readonly attempts?: number | undefined }
): RetryPolicy<E> => {
  const checked = build({ ...options, attempts: options?.attempts ?? 1 }, undefined)
  const limit = options?.attempts === undefined ? 1_000 : checked.attempts - 1
  const delays = Effect.runSync(
    Effect.gen(function* () {
      const step = yield* Schedule.toStep(schedule)
      const delays: Array<Duration.Duration> = []
      let now = 0
      while (delays.length < limit) {
        const next = yield* step(now, undefined).pipe(
          Effect.map(Option.some),
          Effect.catchIf(Cause.isDone, () => Effect.succeed(Option.none()))
        )
        if (Option.isNone(next)) return { delays, ended: true }
        const delay = checkedDuration(next.value[1], "A delay of a retry policy's schedule")
        delays.push(delay)
        now += Duration.toMillis(delay)
      }
      return { delays, ended: false }
    })
  )
  if (options?.attempts === undefined && !delays.ended) {
    throw new DefinitionError({
      message:
        "A retry policy from a schedule that never ends needs attempts: say how many runs there may be."
    })
  }
  return build({ ...options, attempts: delays.delays.length + 1 }, { _tag: "Listed", delays: delays.delays })
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

/** What follows a failed attempt. */
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
    const named = Option.isSome(error) ? policy.retryAfter?.(error.value) : undefined
    const own = named === undefined ? undefined : durationOf(named)
    if (own !== undefined) {
      return Effect.succeed<Next>({ _tag: "Retry", delay: own, stated: true })
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
  return backoff._tag === "Exponential" ? Duration.min(longer, backoff.maxDelay) : longer
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
