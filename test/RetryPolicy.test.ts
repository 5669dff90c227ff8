import { assert, describe, it } from "@effect/vitest"
import { DefinitionError, RetryPolicy } from "effect-jobs"
import { Cause, Duration, Effect, Exit, Option, Random, Schedule, Schema } from "effect"
import { TestClock } from "effect/testing"

const Millis = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 100_000 }))
const Attempts = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 12 }))

/** Every kind of policy, with every option that changes a pause. */
const Input = Schema.Struct({
  attempts: Attempts,
  jitter: Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 })),
  backoff: Schema.Union([
    Schema.Struct({ _tag: Schema.tag("Fixed"), delay: Millis }),
    Schema.Struct({
      _tag: Schema.tag("Exponential"),
      initialDelay: Millis,
      factor: Schema.Finite.check(Schema.isBetween({ minimum: 1, maximum: 10 })),
      maxDelay: Millis
    }),
    Schema.Struct({ _tag: Schema.tag("Listed"), delays: Schema.Array(Millis).check(Schema.isMaxLength(15)) }),
    Schema.Struct({ _tag: Schema.tag("NotStated") })
  ])
})

const policyOf = ({ attempts, backoff, jitter }: typeof Input.Type): RetryPolicy.RetryPolicy => {
  switch (backoff._tag) {
    case "Fixed":
      return RetryPolicy.fixed({ attempts, jitter, delay: backoff.delay })
    case "Exponential":
      return RetryPolicy.exponential({ attempts, jitter, ...backoff })
    case "Listed":
      return RetryPolicy.fromSchedule(listed(backoff.delays), { attempts, jitter })
    case "NotStated":
      return RetryPolicy.make({ attempts, jitter })
  }
}

const listed = (delays: ReadonlyArray<number>): Schedule.Schedule<number> =>
  Schedule.fromStepWithMetadata(
    Effect.succeed((meta: Schedule.InputMetadata<unknown>) => {
      const delay = delays[meta.attempt - 1]
      return delay === undefined
        ? Cause.done(0)
        : Effect.succeed<[number, Duration.Duration]>([delay, Duration.millis(delay)])
    })
  )

/** The pauses of the compiled Schedule, stepped by hand. */
const pausesOf = (policy: RetryPolicy.RetryPolicy) =>
  Effect.gen(function* () {
    const step = yield* Schedule.toStep(RetryPolicy.toSchedule(policy))
    const pauses: Array<number> = []
    while (pauses.length <= 20) {
      const exit = yield* Effect.exit(step(0, "an error"))
      if (Exit.isFailure(exit)) break
      pauses.push(Duration.toMillis(exit.value[1]))
    }
    return pauses
  })

describe("RetryPolicy", () => {
  it.effect.prop(
    "the Schedule's pauses are those of delayAfter, and attempts - 1 in number",
    [Input],
    ([input]) =>
      Effect.gen(function* () {
        const policy = policyOf({ ...input, jitter: 0 })
        const pauses = yield* pausesOf(policy)
        assert.deepStrictEqual(
          pauses,
          Array.from({ length: policy.attempts - 1 }, (_, index) =>
            Duration.toMillis(RetryPolicy.delayAfter(policy, index + 1))
          )
        )
      })
  )

  it.effect.prop("no policy makes more runs than its attempts, under Effect.retry too", [Input], ([input]) =>
    Effect.gen(function* () {
      const policy = policyOf({ ...input, jitter: 0 })
      let runs = 0
      const fiber = yield* Effect.forkChild(
        Effect.exit(
          Effect.retry(
            Effect.suspend(() => Effect.fail(++runs)),
            RetryPolicy.toSchedule(policy)
          )
        )
      )
      yield* TestClock.adjust("1000 days")
      assert.isDefined(fiber.pollUnsafe())
      assert.strictEqual(runs, policy.attempts)
      assert.isAtMost(policy.attempts, input.attempts)
    })
  )

  it.effect.prop("jitter lengthens a pause by at most its fraction, and maxDelay holds", [Input], ([input]) =>
    Effect.gen(function* () {
      const policy = policyOf(input)
      for (const [index, pause] of (yield* pausesOf(policy)).entries()) {
        const plain = Duration.toMillis(RetryPolicy.delayAfter(policy, index + 1))
        assert.isAtLeast(pause, plain)
        assert.isAtMost(pause, plain * (1 + input.jitter) + 1)
        if (input.backoff._tag === "Exponential") assert.isAtMost(pause, input.backoff.maxDelay)
      }
    })
  )

  it.effect("jitter comes from Effect's Random", () =>
    Effect.gen(function* () {
      const policy = RetryPolicy.fixed({ attempts: 4, delay: "1 second", jitter: 0.5 })
      const seeded = pausesOf(policy).pipe(Random.withSeed("a seed"))
      const pauses = yield* seeded
      assert.deepStrictEqual(pauses, yield* seeded)
      assert.strictEqual(new Set(pauses).size, 3)
    })
  )

  it("exponential grows by its factor up to maxDelay", () => {
    const policy = RetryPolicy.exponential({
      attempts: 9,
      initialDelay: "1 second",
      factor: 3,
      maxDelay: "20 seconds"
    })
    const seconds = [1, 2, 3, 4, 1000].map((n) => Duration.toSeconds(RetryPolicy.delayAfter(policy, n)))
    assert.deepStrictEqual(seconds, [1, 3, 9, 20, 20])
  })

  it("without a stated backoff: 1 second, doubling, at most 5 minutes", () => {
    const policy = RetryPolicy.make({ attempts: 20 })
    const seconds = [1, 2, 3, 15].map((n) => Duration.toSeconds(RetryPolicy.delayAfter(policy, n)))
    assert.deepStrictEqual(seconds, [1, 2, 4, 300])
  })

  it("fromSchedule reads the pauses of a Schedule that ends by itself", () => {
    const policy = RetryPolicy.fromSchedule(Schedule.upTo(Schedule.exponential("1 second"), { times: 3 }))
    assert.strictEqual(policy.attempts, 4)
    const seconds = [1, 2, 3].map((n) => Duration.toSeconds(RetryPolicy.delayAfter(policy, n)))
    assert.deepStrictEqual(seconds, [1, 2, 4])
  })

  describe("next", () => {
    const next = <E>(policy: RetryPolicy.RetryPolicy<E>, attempt: number, error?: E) =>
      RetryPolicy.next(policy, attempt, error === undefined ? Option.none() : Option.some(error))

    it.effect("asks while about typed errors only", () =>
      Effect.gen(function* () {
        const policy = RetryPolicy.fixed<string>({
          attempts: 3,
          delay: 1000,
          while: (error) => error !== "no"
        })
        assert.deepInclude(yield* next(policy, 1, "no"), { _tag: "Stop", reason: "NotRetryable" })
        assert.deepInclude(yield* next(policy, 1, "yes"), { _tag: "Retry", stated: true })
        assert.deepInclude(yield* next(policy, 1), { _tag: "Retry" })
        assert.deepInclude(yield* next(policy, 3), { _tag: "Stop", reason: "AttemptsExhausted" })
      })
    )

    it.effect("takes retryAfter as it is, unless it can't be a pause", () =>
      Effect.gen(function* () {
        const policy = RetryPolicy.exponential<Duration.Input | undefined>({
          attempts: 3,
          initialDelay: "1 second",
          maxDelay: "10 seconds",
          jitter: 1,
          retryAfter: (error) => error
        })
        assert.deepInclude(yield* next(policy, 1, "1 hour"), { delay: Duration.hours(1), stated: true })
        for (const none of [undefined, Duration.infinity, "-1 seconds"] as const) {
          const retry = yield* RetryPolicy.next(policy, 1, Option.some(none))
          assert(retry._tag === "Retry")
          assert.isAtMost(Duration.toMillis(retry.delay), 2000)
        }
      })
    )

    it.effect("says whether the pause was stated", () =>
      Effect.gen(function* () {
        assert.deepInclude(yield* next(RetryPolicy.make({ attempts: 2 }), 1), { stated: false })
        assert.deepInclude(yield* next(RetryPolicy.fixed({ attempts: 2, delay: 0 }), 1), { stated: true })
      })
    )
  })

  const refused: ReadonlyArray<readonly [string, () => unknown, string]> = [
    [
      "attempts of 0",
      () => RetryPolicy.make({ attempts: 0 }),
      "attempts must be an integer of at least 1 (the first run counts), not 0."
    ],
    [
      "attempts of -3",
      () => RetryPolicy.make({ attempts: -3 }),
      "attempts must be an integer of at least 1 (the first run counts), not -3."
    ],
    [
      "attempts of 1.5",
      () => RetryPolicy.make({ attempts: 1.5 }),
      "attempts must be an integer of at least 1 (the first run counts), not 1.5."
    ],
    [
      "attempts of NaN",
      () => RetryPolicy.make({ attempts: Number.NaN }),
      "attempts must be an integer of at least 1 (the first run counts), not NaN."
    ],
    [
      "a negative delay",
      () => RetryPolicy.fixed({ attempts: 2, delay: -1 }),
      "delay must be a finite duration that isn't negative, not -1ms."
    ],
    [
      "an infinite delay",
      () => RetryPolicy.fixed({ attempts: 2, delay: "Infinity" }),
      "delay must be a finite duration that isn't negative, not Infinity."
    ],
    [
      "a delay that is none",
      () => RetryPolicy.fixed({ attempts: 2, delay: "soon" as never }),
      'delay must be a finite duration that isn\'t negative, not "soon".'
    ],
    [
      "a negative initialDelay",
      () => RetryPolicy.exponential({ attempts: 2, initialDelay: -5 }),
      "initialDelay must be a finite duration that isn't negative, not -5ms."
    ],
    [
      "an infinite maxDelay",
      () => RetryPolicy.exponential({ attempts: 2, initialDelay: 1, maxDelay: Duration.infinity }),
      "maxDelay must be a finite duration that isn't negative, not Infinity."
    ],
    [
      "a factor below 1",
      () => RetryPolicy.exponential({ attempts: 2, initialDelay: 1, factor: 0.5 }),
      "factor must be a finite number of at least 1, not 0.5."
    ],
    [
      "a jitter above 1",
      () => RetryPolicy.make({ attempts: 2, jitter: 1.1 }),
      "jitter must be from 0 to 1, not 1.1."
    ],
    [
      "a schedule without end",
      () => RetryPolicy.fromSchedule(Schedule.forever),
      "needs attempts: say how many runs there may be."
    ]
  ]
  for (const [what, make, sentence] of refused) {
    it(`refuses ${what}`, () => {
      assert.throws(make, DefinitionError)
      try {
        make()
      } catch (error) {
        assert.include(String(error), sentence)
      }
    })
  }
})
