import { assert, describe, it } from "@effect/vitest"
import { DefinitionError, RetryPolicy } from "effect-jobs"
import { Cause, Clock, Duration, Effect, Exit, Option, Random, Schedule, Schema } from "effect"
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

  const delays = (policy: RetryPolicy.RetryPolicy, count: number) =>
    Array.from({ length: count }, (_, index) => Duration.toMillis(RetryPolicy.delayAfter(policy, index + 1)))

  const Positive = Schema.Finite.check(Schema.isBetween({ minimum: 1, maximum: Number.MAX_VALUE }))
  const Delay = Schema.Finite.check(
    Schema.isBetween({ minimum: 0, maximum: Duration.toMillis(Duration.days(36_525)) })
  )
  it.effect.prop(
    "an exponential backoff never shrinks, is never NaN, and stays within maxDelay, whatever its factor",
    [Delay, Positive, Delay, Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 }))],
    ([initialDelay, factor, maxDelay, jitter]) =>
      Effect.gen(function* () {
        const policy = RetryPolicy.exponential({ attempts: 2000, initialDelay, factor, maxDelay, jitter })
        // to the nanosecond, as a Duration is
        const most = Duration.toMillis(Duration.millis(maxDelay))
        let last = 0
        for (const attempt of [1, 2, 3, 10, 100, 1999, Number.MAX_SAFE_INTEGER]) {
          const delay = Duration.toMillis(RetryPolicy.delayAfter(policy, attempt))
          assert.isTrue(delay >= last && delay <= most, `${delay} after ${last}`)
          last = delay
          const next = yield* RetryPolicy.next(policy, Math.min(attempt, 1999), Option.none())
          assert(next._tag === "Retry")
          assert.isTrue(Duration.toMillis(next.delay) <= most)
        }
      })
  )

  it.effect("jitter makes no pause longer than the longest duration", () =>
    Effect.gen(function* () {
      const policy = RetryPolicy.fixed({ attempts: 2, delay: "36525 days", jitter: 1 })
      const next = yield* RetryPolicy.next(policy, 1, Option.none())
      assert(next._tag === "Retry")
      assert.strictEqual(Duration.toDays(next.delay), 36_525)
    })
  )

  describe("fromSchedule", () => {
    it("takes a schedule of a thousand steps, and of ten thousand", () => {
      for (const steps of [1_000, 10_000]) {
        assert.strictEqual(RetryPolicy.fromSchedule(Schedule.recurs(steps)).attempts, steps + 1)
      }
    })

    it("takes any number of attempts of a schedule that goes on", () => {
      const policy = RetryPolicy.fromSchedule(Schedule.spaced("1 second"), {
        attempts: Number.MAX_SAFE_INTEGER
      })
      assert.strictEqual(policy.attempts, Number.MAX_SAFE_INTEGER)
      assert.strictEqual(Duration.toMillis(RetryPolicy.delayAfter(policy, 50_000)), 1000)
    })

    it("looks no further than it needs to", () => {
      const policy = RetryPolicy.fromSchedule(Schedule.exponential("20000 days"), { attempts: 2 })
      assert.deepStrictEqual(delays(policy, 1), [Duration.toMillis(Duration.days(20_000))])
    })

    it.effect("draws the jitter of Schedule.jittered anew for each pause, as Effect does", () =>
      Effect.gen(function* () {
        const policy = RetryPolicy.fromSchedule(Schedule.jittered(Schedule.exponential("1 second")), {
          attempts: 4
        })
        assert.strictEqual(policy.jitter, 0.5)
        assert.deepStrictEqual(delays(policy, 3), [800, 1600, 3200])
        const first = yield* pausesOf(policy).pipe(Random.withSeed("one"))
        const second = yield* pausesOf(policy).pipe(Random.withSeed("two"))
        for (const [index, plain] of [1000, 2000, 4000].entries()) {
          for (const pauses of [first, second]) {
            assert.isAtLeast(pauses[index] ?? 0, plain * 0.8)
            assert.isAtMost(pauses[index] ?? 0, plain * 1.2)
          }
          assert.notStrictEqual(first[index], second[index])
        }
      })
    )

    const spaced = Schedule.spaced("1 second")
    const modified = (delay: Effect.Effect<Duration.Duration>) => Schedule.modifyDelay(spaced, () => delay)
    const looking = (look: (error: { readonly status: number }) => boolean) =>
      // sound: a schedule that expects an error is what is refused
      Schedule.while(spaced, ({ input }) => look(input as { readonly status: number }))
    const seconds = (n: number) => Duration.seconds(1 + n)
    // sound: the expression is one
    const fiveMinutes = Schedule.cron("*/5 * * * *") as Schedule.Schedule<unknown>
    const unfixed: ReadonlyArray<readonly [string, Schedule.Schedule<unknown>, RegExp]> = [
      ["reads the error", looking(({ status }) => status !== 404), /looks at the error/],
      ["asks the error for a key", looking((error) => "status" in error), /looks at the error/],
      ["looks at the time of day", fiveMinutes, /looks at the time of day/],
      [
        "looks at the Clock",
        modified(Effect.map(Clock.currentTimeMillis, (now) => Duration.millis(now % 1000))),
        /looks at the time of day/
      ],
      ["is random in its own way", modified(Effect.map(Random.next, (n) => seconds(n ** 2))), /is random/],
      ["is random by more than twice", modified(Effect.map(Random.next, (n) => seconds(n * 5))), /is random/],
      ["is random now and then", Schedule.jittered(Schedule.fixed("1 second")), /is random/],
      ["sleeps", modified(Effect.as(Effect.sleep("1 second"), Duration.zero)), /is asynchronous or fails/],
      [
        "waits for a Promise",
        modified(Effect.promise(async () => Duration.zero)),
        /is asynchronous or fails/
      ],
      ["dies", modified(Effect.die("now")), /is asynchronous or fails/],
      ["throws", Schedule.map(spaced, () => assert.fail("now")), /is asynchronous or fails/],
      ["isn't one", undefined as never, /is asynchronous or fails/],
      [
        "has no end of a delay",
        modified(Effect.succeed(Duration.infinity)),
        /must be a duration of 0 to 36525 days/
      ],
      [
        "has a negative delay",
        modified(Effect.succeed(Duration.millis(-1))),
        /must be a duration of 0 to 36525 days/
      ]
    ]
    for (const [name, schedule, sentence] of unfixed) {
      it(`refuses one that ${name}`, () => {
        for (const options of [{ attempts: 5 }, { attempts: 5, jitter: 0.1 }]) {
          const make = () => RetryPolicy.fromSchedule(schedule, options)
          assert.throws(make, DefinitionError)
          assert.throws(make, sentence)
        }
      })
    }

    it("refuses a second jitter", () => {
      assert.throws(
        () => RetryPolicy.fromSchedule(Schedule.jittered(spaced), { attempts: 2, jitter: 0.1 }),
        /is jittered already/
      )
    })

    it("knows a schedule that grows without end for one that never ends", () => {
      assert.throws(() => RetryPolicy.fromSchedule(Schedule.exponential("1 second")), /needs attempts/)
    })
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

    it.effect(
      "leaves the backoff's pause where retryAfter gives no pause, so that there is no hot loop",
      () =>
        Effect.gen(function* () {
          for (const nonsense of [
            Number.NaN,
            { seconds: Number.NaN },
            [Number.NaN, 0],
            "NaN seconds",
            Duration.seconds(Number.NaN),
            0,
            "0 seconds",
            -1,
            Number.NEGATIVE_INFINITY,
            Number.POSITIVE_INFINITY,
            "soon",
            "30",
            { retryAfter: 30 },
            {},
            new Error("429"),
            Promise.resolve("1 hour"),
            null,
            true,
            () => "1 hour",
            "200000000 days"
          ]) {
            const policy = RetryPolicy.fixed<string>({
              attempts: 3,
              delay: "7 seconds",
              // sound: what users' code gives is whatever it gives
              retryAfter: () => nonsense as Duration.Input
            })
            assert.deepStrictEqual(yield* next(policy, 1, "429"), {
              _tag: "Retry",
              delay: Duration.seconds(7),
              stated: true
            })
          }
        })
    )

    it.effect("stops for false only, whatever else while returns", () =>
      Effect.gen(function* () {
        for (const [given, tag] of [
          [false, "Stop"],
          [true, "Retry"],
          [undefined, "Retry"],
          [null, "Retry"],
          [0, "Retry"],
          ["", "Retry"],
          [Promise.resolve(false), "Retry"]
        ] as const) {
          const policy = RetryPolicy.make<string>({
            attempts: 3,
            // sound: what users' code gives is whatever it gives
            while: () => given as boolean
          })
          assert.strictEqual((yield* next(policy, 1, "error"))._tag, tag)
        }
      })
    )

    it.effect("dies with what while or retryAfter throws", () =>
      Effect.gen(function* () {
        for (const thrown of [new Error("mine"), "text", null, undefined, 0]) {
          const throwing = () => {
            throw thrown
          }
          for (const policy of [
            RetryPolicy.make<string>({ attempts: 3, while: throwing }),
            RetryPolicy.make<string>({ attempts: 3, retryAfter: throwing })
          ]) {
            const exit = yield* Effect.exit(next(policy, 1, "error"))
            assert.deepStrictEqual(exit, Exit.die(thrown))
          }
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
      "delay must be a duration of 0 to 36525 days, not -1."
    ],
    [
      "an infinite delay",
      () => RetryPolicy.fixed({ attempts: 2, delay: "Infinity" }),
      'delay must be a duration of 0 to 36525 days, not "Infinity".'
    ],
    [
      "a delay that is none",
      () => RetryPolicy.fixed({ attempts: 2, delay: "soon" as never }),
      'delay must be a duration of 0 to 36525 days, not "soon".'
    ],
    [
      "a negative initialDelay",
      () => RetryPolicy.exponential({ attempts: 2, initialDelay: -5 }),
      "initialDelay must be a duration of 0 to 36525 days, not -5."
    ],
    [
      "an infinite maxDelay",
      () => RetryPolicy.exponential({ attempts: 2, initialDelay: 1, maxDelay: Duration.infinity }),
      "maxDelay must be a duration of 0 to 36525 days, not Infinity."
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
      "a delay of NaN",
      () => RetryPolicy.fixed({ attempts: 2, delay: Number.NaN }),
      "delay must be a duration of 0 to 36525 days"
    ],
    [
      "a delay with NaN in it",
      () => RetryPolicy.fixed({ attempts: 2, delay: { seconds: Number.NaN } }),
      "delay must be a duration of 0 to 36525 days"
    ],
    [
      "a delay of more than 100 years",
      () => RetryPolicy.fixed({ attempts: 2, delay: "200000000 days" }),
      'delay must be a duration of 0 to 36525 days, not "200000000 days".'
    ],
    [
      "an initialDelay of NaN",
      () => RetryPolicy.exponential({ attempts: 2, initialDelay: [Number.NaN, 0] }),
      "initialDelay must be a duration of 0 to 36525 days"
    ],
    [
      "a maxDelay of NaN",
      () => RetryPolicy.exponential({ attempts: 2, initialDelay: 1, maxDelay: Number.NaN }),
      "maxDelay must be a duration of 0 to 36525 days"
    ],
    [
      "a factor of NaN",
      () => RetryPolicy.exponential({ attempts: 2, initialDelay: 1, factor: Number.NaN }),
      "factor must be a finite number of at least 1, not NaN."
    ],
    ["a jitter of NaN", () => RetryPolicy.make({ attempts: 2, jitter: Number.NaN }), "from 0 to 1, not NaN."],
    [
      "a jitter in words",
      () => RetryPolicy.make({ attempts: 2, jitter: "0.5" as never }),
      'from 0 to 1, not "0.5".'
    ],
    [
      "a while that is no function",
      () => RetryPolicy.make({ attempts: 2, while: true as never }),
      "while must be a function of the error, not true."
    ],
    [
      "a retryAfter that is no function",
      () => RetryPolicy.make({ attempts: 2, retryAfter: "1 second" as never }),
      'retryAfter must be a function of the error, not "1 second".'
    ],
    [
      "a number instead of options",
      () => RetryPolicy.make(3 as never),
      "must be made from options, as in { attempts: 3 }, not from 3."
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
