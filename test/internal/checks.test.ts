import { assert, describe, it } from "@effect/vitest"
import { DefinitionError, InlineDispatcher, Job } from "effect-jobs"
import { TestDispatcher } from "effect-jobs/testing"
import { DateTime, Duration, Effect, Layer, Option, Schema } from "effect"
import { TestClock } from "effect/testing"
import {
  checkedCount,
  checkedDuration,
  durationOf,
  latest,
  longest,
  timeOfDispatch,
  shown,
  timeOf
} from "../../src/internal/checks.ts"

const revoked = () => {
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  return proxy
}
const throws = {
  get seconds(): number {
    throw new Error("no seconds")
  }
}
/** As Temporal.Duration has them: on the prototype. */
class Temporal {
  readonly #years: number
  constructor(years: number) {
    this.#years = years
  }
  get years() {
    return this.#years
  }
  get hours() {
    return 2
  }
}

/** What is no duration, whatever Effect makes of it. */
const nonsense: ReadonlyArray<readonly [string, unknown]> = [
  ["NaN", Number.NaN],
  ["{ seconds: NaN }", { seconds: Number.NaN }],
  ["{ hours: 1, nanoseconds: NaN }", { hours: 1, nanoseconds: Number.NaN }],
  ["[NaN, 0]", [Number.NaN, 0]],
  ["[0, NaN]", [0, Number.NaN]],
  ["NaN seconds", "NaN seconds"],
  ["a text", "soon"],
  ["an empty text", ""],
  ["a number without a unit", "30"],
  ["Infinity", Number.POSITIVE_INFINITY],
  ["-Infinity", Number.NEGATIVE_INFINITY],
  ["Infinity in words", "Infinity"],
  ["Duration.infinity", Duration.infinity],
  ["{ days: Infinity }", { days: Number.POSITIVE_INFINITY }],
  ["-1", -1],
  ["-1 seconds", "-1 seconds"],
  ["a negative bigint", -1n],
  ["[-1, 0]", [-1, 0]],
  ["a misspelt unit", { hours: 1, minuts: 30 }],
  ["only a misspelt unit", { second: 30 }],
  ["an empty object", {}],
  ["an empty array", []],
  ["three numbers", [1, 2, 3]],
  ["an Error", new Error("soon")],
  ["a Date", new Date(0)],
  ["a text in a unit", { seconds: "5" }],
  ["null in a unit", { seconds: null }],
  ["null", null],
  ["undefined", undefined],
  ["true", true],
  ["a symbol", Symbol("soon")],
  ["a function", () => 5],
  ["a Promise", Promise.resolve(5)],
  ["a getter that throws", throws],
  ["a revoked proxy", revoked()],
  ["what looks like a Duration", { "~effect/time/Duration": true, "~effect/Duration": true }],
  ["years", new Temporal(1)],
  ["200000000 days", "200000000 days"],
  ["more than 100 years", Duration.sum(longest, Duration.nanos(1n))],
  ["1e300", 1e300]
]

describe("a duration", () => {
  for (const [name, input] of nonsense) {
    it(`isn't ${name}`, () => {
      assert.isUndefined(durationOf(input))
      assert.throws(() => checkedDuration(input as never, "The delay"), DefinitionError)
    })
  }

  const Finite = Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1e15 }))
  const Amount = Schema.Union([Schema.Number, Finite])
  const Input = Schema.Union([
    Amount,
    Schema.Tuple([Amount, Amount]),
    Schema.Struct({ days: Schema.optional(Amount), nanoseconds: Schema.optional(Amount) }),
    Schema.Struct({ hours: Amount, minuts: Amount }),
    Schema.TemplateLiteral([Schema.Finite, " ", Schema.Literals(["nanos", "millis", "days", "weeks"])]),
    Schema.BigInt,
    Schema.Unknown
  ])
  it.prop(
    "is finite, not negative, at most the longest, and what Effect takes the input for",
    [Input],
    ([input]) => {
      const duration = durationOf(input)
      const parts = typeof input === "object" && input !== null ? Object.values(input) : [input]
      if (parts.some(Number.isNaN)) assert.isUndefined(duration)
      if (duration === undefined) return
      const millis = Duration.toMillis(duration)
      assert.isTrue(millis >= 0 && millis <= Duration.toMillis(longest))
      assert.deepStrictEqual(Option.some(duration), Duration.fromInput(input as Duration.Input))
    }
  )

  it.prop("is every one of 0 to the longest", [Finite], ([finite]) => {
    const millis = (finite / 1e15) * Duration.toMillis(longest)
    for (const input of [millis, [millis / 1000, 0], { milliseconds: millis }, Duration.millis(millis)]) {
      assert.isDefined(durationOf(input))
    }
  })

  it("may be a Temporal.Duration without years and months", () => {
    assert.deepStrictEqual(durationOf(new Temporal(0)), Duration.hours(2))
  })

  it("is refused in one sentence, with the bound where it is too long", () => {
    const refusal = (input: unknown) => {
      try {
        checkedDuration(input as never, "The delay")
      } catch (error) {
        return error instanceof DefinitionError ? error.message : "not a DefinitionError"
      }
      return "not refused"
    }
    assert.deepStrictEqual([Number.NaN, -1, "-1 seconds", "soon", { seconds: Number.NaN }].map(refusal), [
      "The delay must be a duration of 0 to 36525 days, not NaN.",
      "The delay must be a duration of 0 to 36525 days, not -1.",
      'The delay must be a duration of 0 to 36525 days, not "-1 seconds".',
      'The delay must be a duration of 0 to 36525 days, not "soon".',
      'The delay must be a duration of 0 to 36525 days, not {"seconds":null}.'
    ])
    assert.strictEqual(
      refusal("200000000 days"),
      'The delay must be a duration of 0 to 36525 days, not "200000000 days".'
    )
    assert.strictEqual(
      refusal(Duration.weeks(9999)),
      "The delay must be a duration of 0 to 36525 days, not 69993d."
    )
    for (const [, input] of nonsense) assert.match(refusal(input), /^The delay must be .*\.$/)
  })
})

describe("a time", () => {
  it("isn't nonsense", () => {
    for (const input of [
      Number.NaN,
      new Date(Number.NaN),
      { year: Number.NaN },
      { epochMilliseconds: Number.NaN },
      Number.POSITIVE_INFINITY,
      "soon",
      "",
      {},
      [],
      new Map(),
      true,
      5n,
      null,
      revoked(),
      Symbol("soon"),
      { epochMilliseconds: Symbol("soon") }
    ]) {
      assert.isUndefined(timeOf(input))
    }
  })
  it("is what DateTime takes, in whole milliseconds, rounded up", () => {
    const time = Date.UTC(2026, 2, 1)
    for (const input of [
      time,
      new Date(time),
      "2026-03-01T00:00:00Z",
      "2026-03-01",
      DateTime.makeUnsafe(time),
      { year: 2026, month: 3, day: 1 },
      { epochMilliseconds: time },
      time - 0.5
    ]) {
      assert.strictEqual(timeOf(input), time)
    }
  })
  it.prop(
    "of a dispatch is in the future, within the bounds, or refused",
    [Schema.Number, Schema.Number],
    ([now, at]) => {
      const start = Number.isFinite(now) ? now : 0
      for (const time of [timeOfDispatch({ at }, start), timeOfDispatch({ delay: at }, start)]) {
        if (typeof time === "number") assert.isTrue(time > start && time <= latest && Number.isInteger(time))
        else if (typeof time === "object") assert.match(time.issue, /^it /)
      }
    }
  )
})

describe("a dispatch", () => {
  class Mail extends Job.make("mail", { payload: {} }) {}
  const issue = (options: Parameters<typeof Mail.dispatch>[1]) =>
    Mail.dispatch({}, options).pipe(
      Effect.flip,
      Effect.map(({ reason }) => (reason._tag === "InvalidOption" ? reason.message : reason._tag))
    )

  it.effect("with a time that no engine keeps is refused, and says the bound", () =>
    Effect.gen(function* () {
      yield* TestClock.setTime(Date.UTC(2026, 0, 1))
      const cant = '"mail" can\'t be dispatched with this'
      for (const delay of [Number.NaN, { seconds: Number.NaN }, [Number.NaN, 0], "NaN seconds"]) {
        assert.strictEqual(
          yield* issue({ delay: delay as Duration.Input }),
          `${cant} delay: it must be a duration of 0 to 36525 days, not ${shown(delay)}.`
        )
      }
      assert.strictEqual(
        yield* issue({ delay: "200000000 days" }),
        `${cant} delay: it must be a duration of 0 to 36525 days, not "200000000 days".`
      )
      for (const at of ["9999-12-31T23:59:59.999Z", "+010000-01-01T00:00:00Z", 8.64e15, latest + 1]) {
        assert.strictEqual(
          yield* issue({ at }),
          `${cant} at: it must not be later than 9999-12-31T00:00:00.000Z.`
        )
      }
      for (const at of [Number.NaN, new Date(Number.NaN), "soon", Number.POSITIVE_INFINITY]) {
        assert.strictEqual(yield* issue({ at }), `${cant} at: it isn't a valid date and time.`)
      }
      assert.deepStrictEqual(yield* TestDispatcher.dispatched, [])
      yield* Mail.dispatch({}, { at: latest })
      yield* Mail.dispatch({}, { delay: longest })
      yield* TestClock.setTime(latest)
      assert.strictEqual(
        yield* issue({ delay: "1 second" }),
        `${cant} delay: it must not be later than 9999-12-31T00:00:00.000Z.`
      )
    }).pipe(Effect.provide(TestDispatcher.layer))
  )

  it("of a definition: NaN and what is too long are refused where they are said", () => {
    for (const [name, make] of [
      ["timeout", () => Job.make("a", { payload: {}, timeout: Number.NaN })],
      ["timeout", () => Job.make("a", { payload: {}, timeout: "200000000 days" })]
    ] as const) {
      assert.throws(make, new RegExp(`${name} of the job "a" must be`))
    }
  })

  it.effect("of a layer: a timeToLive of NaN is refused", () =>
    Effect.gen(function* () {
      const layer = InlineDispatcher.layer([Mail], { deduplication: { timeToLive: Number.NaN } })
      const exit = yield* Effect.exit(
        Effect.scoped(
          Layer.build(
            Layer.provide(
              layer,
              Mail.toLayer(() => Effect.void)
            )
          )
        )
      )
      assert.match(
        String(exit),
        /deduplication.timeToLive of InlineDispatcher.layer must be a duration of 0 to 36525 days/
      )
    })
  )
})

describe("a count", () => {
  it("is an integer of at least 1", () => {
    assert.strictEqual(checkedCount(1, "The count"), 1)
    for (const value of [0, 1.5, Number.NaN, "3", 3n, null, Symbol("three"), revoked()]) {
      assert.throws(
        () => checkedCount(value as never, "The count"),
        /^The count must be an integer of at least 1, not /
      )
    }
  })
})

it("any value can be shown", () => {
  for (const [, value] of nonsense) assert.isAtMost(shown(value).length, 101)
  assert.strictEqual(shown("a".repeat(500)).length, 101)
})
