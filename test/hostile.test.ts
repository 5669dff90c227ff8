// User code is hostile code: whatever is thrown or returned, wherever it runs, the policy decides and the worker goes on.
import { assert, describe, it } from "@effect/vitest"
import {
  Cause,
  Effect,
  Fiber,
  Layer,
  Logger,
  Redacted,
  References,
  Schema,
  SchemaGetter,
  Tracer
} from "effect"
import {
  Dispatcher,
  type DispatchError,
  DomainEvent,
  InlineDispatcher,
  Job,
  type JobMessage,
  type OnError,
  Outcome,
  RetryPolicy
} from "effect-jobs"
import { makeRunner } from "effect-jobs/engine"
import { TestClock } from "effect/testing"

const worker = (onError: OnError = () => Effect.void) => ({
  name: "the test's worker",
  dispatcher: { send: () => Effect.void },
  onError
})

const message = (name: string, payload: Schema.Json = {}): JobMessage => ({
  id: "1",
  name,
  payload,
  dispatchedAt: 0
})

/** Values that throw, or worse, when they are read. */
const hostile: Readonly<Record<string, () => unknown>> = {
  "a getter that throws": () =>
    Object.defineProperty(new Error("x"), "message", {
      get: () => {
        throw new Error("the getter throws")
      }
    }),
  "a revoked proxy": () => {
    const { proxy, revoke } = Proxy.revocable({}, {})
    revoke()
    return proxy
  },
  "a toJSON that throws": () => ({
    toJSON: () => {
      throw new Error("toJSON throws")
    }
  }),
  "a name and a stack that throw": () => {
    const broken = {
      get: () => {
        throw new Error("broken")
      }
    }
    return Object.defineProperties(new Error("x"), { name: broken, stack: broken, cause: broken })
  },
  "twenty thousand causes": () => {
    let error = new Error("the first")
    for (let n = 0; n < 20_000; n++) error = new Error(`number ${n}`, { cause: error })
    return error
  },
  "a circular object": () => {
    const self: Record<string, unknown> = {}
    self["self"] = self
    return self
  },
  "a symbol": () => Symbol("s"),
  undefined: () => undefined,
  null: () => null,
  "a function": () => () => 1,
  "an object without a prototype": () => Object.create(null) as unknown,
  "a BigInt": () => 1n
}

class Once extends Job.make("hostile.once", { payload: {}, retry: { attempts: 1 } }) {}
class Thrice extends Job.make("hostile.thrice", {
  payload: {},
  retry: RetryPolicy.fixed({ attempts: 3, delay: "1 second" })
}) {}
class Never extends Job.make("hostile.never", {
  payload: {},
  retry: { attempts: 3, while: () => false }
}) {}

describe("a value that is thrown", () => {
  for (const [what, make] of Object.entries(hostile)) {
    for (const [how, fail] of [
      ["failed with", (value: unknown) => Effect.fail(value)],
      ["died of", (value: unknown) => Effect.die(value)],
      [
        "thrown",
        (value: unknown) => {
          throw value
        }
      ]
    ] as const) {
      it.effect(`${what}, ${how}: it is told once, and is JSON`, () =>
        Effect.gen(function* () {
          let told = 0
          const runner = yield* Effect.provide(
            makeRunner(
              [Once],
              worker(() => Effect.sync(() => void told++))
            ),
            Once.toLayer(() => fail(make()) as Effect.Effect<never>)
          )
          const outcome = yield* runner.attempt(message(Once.jobName), { attempt: 1 })
          assert(outcome._tag === "Failed")
          assert.strictEqual(outcome.reason, "AttemptsExhausted")
          const failed = yield* runner.failed(message(Once.jobName), outcome, { attempt: 1 })
          assert.isString(failed.message)
          assert.isBelow(failed.message.length, 700)
          assert.notInclude(failed.message, "\n")
          assert.strictEqual(told, 1)
          const { json } = yield* runner.encodeFailure(Once.jobName, outcome.cause)
          assert.isString(JSON.stringify(json))
          const cause = yield* runner.decodeFailure(Once.jobName, { json, typed: false })
          assert.isTrue(Cause.hasDies(cause))
        })
      )
    }

    it.effect(`${what}: the policy decides, and is logged`, () =>
      Effect.gen(function* () {
        const runner = yield* Effect.provide(makeRunner([Thrice, Never], worker()), [
          Thrice.toLayer(() => Effect.fail(make())),
          Never.toLayer(() => Effect.fail(make()))
        ])
        const retry = yield* runner.attempt(message(Thrice.jobName), { attempt: 1 })
        assert(retry._tag === "Retry")
        const never = yield* runner.attempt(message(Never.jobName), { attempt: 1 })
        assert.deepInclude(never, { _tag: "Failed", reason: "NotRetryable" })
      })
    )
  }
})

describe("a handler that returns", () => {
  for (const [what, returned] of [
    ["a Promise", () => Promise.resolve(1)],
    ["undefined", () => undefined],
    ["a number", () => 1],
    ["a revoked proxy", hostile["a revoked proxy"] ?? (() => 1)]
  ] as const) {
    it.effect(`${what} has failed, and so has its onFailure and onError`, () =>
      Effect.gen(function* () {
        const logs: Array<string> = []
        const runner = yield* Effect.provide(
          makeRunner(
            [Once],
            worker(() => returned() as Effect.Effect<void>)
          ),
          [
            Once.toLayer(() => returned() as Effect.Effect<void>, {
              onFailure: () => returned() as Effect.Effect<void>
            }),
            logged(logs)
          ]
        )
        const outcome = yield* runner.attempt(message(Once.jobName), { attempt: 1 })
        assert(outcome._tag === "Failed")
        const failed = yield* runner.failed(message(Once.jobName), outcome, { attempt: 1 })
        assert.match(failed.message, /The handler of "hostile.once" returned .*, and not an Effect/)
        assert.include(logs.join("\n"), `The onFailure of "hostile.once" (id 1) failed itself.`)
        assert.include(logs.join("\n"), `The onError of the test's worker failed itself`)
      })
    )
  }

  it.effect("something else in the middle of it has failed: permits, ids and gauges are as before", () =>
    Effect.gen(function* () {
      let runs = 0
      const released: Array<number> = []
      class Middle extends Job.make("hostile.middle", { payload: {} }) {}
      yield* Effect.gen(function* () {
        for (let n = 0; n < 3; n++) yield* Middle.dispatch({}, { id: "same" })
        yield* Middle.dispatch()
        // one permit: it would not run if the first had kept it
        yield* Effect.yieldNow
        yield* TestClock.adjust("1 second")
      }).pipe(
        Effect.provide(
          InlineDispatcher.layer([Middle], {
            background: true,
            concurrency: 1,
            onError: () => Effect.void
          }).pipe(
            Layer.provide(
              Middle.toLayer(() =>
                Effect.acquireRelease(
                  Effect.sync(() => ++runs),
                  (run) => Effect.sync(() => void released.push(run))
                ).pipe(Effect.flatMap(() => Promise.resolve() as unknown as Effect.Effect<void>))
              )
            )
          )
        )
      )
      assert.strictEqual(runs, 2)
      assert.deepStrictEqual(released, [1, 2])
    })
  )
})

const logged = (logs: Array<string>) =>
  Logger.layer([Logger.make(({ message }) => void logs.push([message].flat().map(String).join(" ")))])

describe("onError", () => {
  for (const background of [false, true]) {
    it.effect(`that throws changes nothing (background: ${background})`, () =>
      Effect.gen(function* () {
        let onFailure = 0
        const logs: Array<string> = []
        const jobs = InlineDispatcher.layer([Once], {
          background,
          onError: () => {
            throw new Error("onError throws")
          }
        }).pipe(
          Layer.provide(
            Once.toLayer(() => Effect.fail("no"), { onFailure: () => Effect.sync(() => void onFailure++) })
          ),
          Layer.provideMerge(logged(logs))
        )
        yield* Effect.andThen(Once.dispatch(), TestClock.adjust("1 second")).pipe(Effect.provide(jobs))
        assert.strictEqual(onFailure, 1)
        assert.strictEqual(logs.filter((log) => log.includes("failed itself")).length, 1)
      })
    )
  }
})

describe("a logger that throws", () => {
  it.effect("changes nothing", () =>
    Effect.gen(function* () {
      let runs = 0
      const throwing = Logger.layer([
        Logger.make(() => {
          throw new Error("the logger throws")
        })
      ])
      const jobs = InlineDispatcher.layer([Thrice]).pipe(
        Layer.provide(
          Thrice.toLayer(() =>
            Effect.andThen(
              Effect.sync(() => void runs++),
              Effect.fail("no")
            )
          )
        ),
        Layer.provide(throwing)
      )
      const fiber = yield* Effect.forkChild(Effect.provide(Thrice.dispatch(), jobs))
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(fiber.pollUnsafe()?._tag, "Success")
      assert.strictEqual(runs, 3)
    })
  )
})

describe("a schema that throws", () => {
  const Throws = (when: "decode" | "encode") =>
    Schema.String.pipe(
      Schema.decodeTo(Schema.String, {
        decode: SchemaGetter.transform((text: string) => {
          if (when === "decode") throw new TypeError(`no ${text}`)
          return text
        }),
        encode: SchemaGetter.transform((text: string) => {
          if (when === "encode") throw new TypeError(`no ${text}`)
          return text
        })
      })
    )
  const send = { send: () => Effect.void }

  it.effect("when it decodes: InvalidPayload, and the handler isn't called", () =>
    Effect.gen(function* () {
      let runs = 0
      class Decodes extends Job.make("hostile.decodes", {
        payload: { url: Throws("decode") },
        retry: { attempts: 5 }
      }) {}
      const runner = yield* Effect.provide(
        makeRunner([Decodes], worker()),
        Decodes.toLayer(() => Effect.sync(() => void runs++))
      )
      const outcome = yield* runner.attempt(message(Decodes.jobName, { url: "secret" }), { attempt: 1 })
      assert(outcome._tag === "Failed")
      assert.strictEqual(outcome.reason, "InvalidPayload")
      const { summary } = yield* runner.failed(message(Decodes.jobName), outcome, { attempt: 1 })
      assert.include(
        summary,
        `The message "1" for "hostile.decodes" has an invalid payload: its schema threw TypeError`
      )
      assert.notInclude(summary, "secret")
      assert.strictEqual(runs, 0)
    })
  )

  it.effect("when it encodes a payload: the dispatch fails with InvalidPayload, for jobs and events", () =>
    Effect.gen(function* () {
      class Encodes extends Job.make("hostile.encodes", { payload: { url: Throws("encode") } }) {}
      class Happens extends DomainEvent.make("hostile.happens", { payload: { url: Throws("encode") } }) {}
      for (const dispatch of [
        Encodes.dispatch({ url: "secret" }),
        Encodes.dispatchAll([{ url: "secret" }]),
        Happens.publish({ url: "secret" })
      ].map((dispatch) => Effect.asVoid<unknown, DispatchError, Dispatcher>(dispatch))) {
        const error = yield* Effect.flip(dispatch)
        assert.strictEqual(error.reason._tag, "InvalidPayload")
        assert.include(error.message, "its schema threw TypeError")
        assert.notInclude(error.message, "secret")
      }
    }).pipe(Effect.provideService(Dispatcher, send))
  )

  it.effect("when it encodes a success: it has failed for good; an error: it is retried", () =>
    Effect.gen(function* () {
      class Succeeds extends Job.make("hostile.succeeds", {
        payload: {},
        success: Throws("encode"),
        retry: { attempts: 3 }
      }) {}
      class Fails extends Job.make("hostile.fails", {
        payload: {},
        error: Throws("encode"),
        retry: { attempts: 3 }
      }) {}
      const runner = yield* Effect.provide(makeRunner([Succeeds, Fails], worker()), [
        Succeeds.toLayer(() => Effect.succeed("done")),
        Fails.toLayer(() => Effect.fail("the failure"))
      ])
      const succeeded = yield* runner.attempt(message(Succeeds.jobName), { attempt: 1 })
      assert.deepInclude(succeeded, { _tag: "Failed", reason: "InvalidSuccess" })
      const failed = yield* runner.attempt(message(Fails.jobName), { attempt: 1 })
      assert(failed._tag === "Retry")
      const { json, typed } = yield* runner.encodeFailure(Fails.jobName, failed.cause)
      assert.isFalse(typed)
      assert.include(
        JSON.stringify(json),
        `The handler of \\"hostile.fails\\" failed with what its error schema doesn't encode (its schema threw TypeError): the failure.`
      )
    })
  )
})

describe("what makes an id", () => {
  const cases: ReadonlyArray<readonly [string, () => unknown, string]> = [
    [
      "throws",
      () => {
        throw new TypeError("secret")
      },
      "the function that makes it threw TypeError"
    ],
    ["gives a number", () => 1, "it must be a string, not a number"],
    ["gives nothing", () => undefined, "it must be a string, not a undefined"],
    ["gives an empty text", () => "", "it must have 1 to 255 characters, not 0"]
  ]
  for (const [what, key, sentence] of cases) {
    it.effect(`${what}: the dispatch fails with InvalidOption`, () =>
      Effect.gen(function* () {
        class Keyed extends Job.make("hostile.keyed", { payload: {}, idempotencyKey: key as () => string }) {}
        class Plain extends Job.make("hostile.plain", { payload: {} }) {}
        for (const dispatch of [
          Keyed.dispatch(),
          Keyed.dispatchAll([{}]),
          Plain.dispatchAll([{}], { id: key as () => string })
        ].map((dispatch) => Effect.asVoid<unknown, DispatchError, Dispatcher>(dispatch))) {
          const error = yield* Effect.flip(dispatch)
          assert.strictEqual(error.reason._tag, "InvalidOption")
          assert.include(error.message, sentence)
        }
      }).pipe(Effect.provideService(Dispatcher, { send: () => Effect.void }))
    )
  }
})

describe("a payload that has no JSON", () => {
  it.effect("is an InvalidPayload, and nothing is sent", () =>
    Effect.gen(function* () {
      class Any extends Job.make("hostile.any", { payload: { data: Schema.Any } }) {}
      const circular: Record<string, unknown> = {}
      circular["self"] = circular
      for (const data of [
        circular,
        1n,
        hostile["a toJSON that throws"]?.(),
        hostile["a revoked proxy"]?.()
      ]) {
        const error = yield* Effect.flip(Any.dispatch({ data }))
        assert.strictEqual(error.reason._tag, "InvalidPayload", error.message)
      }
    }).pipe(Effect.provideService(Dispatcher, { send: () => Effect.die("nothing may be sent") }))
  )
})

describe("a tracer that sees a failure", () => {
  it.effect("gets the error's type on the span", () =>
    Effect.gen(function* () {
      const spans: Array<Tracer.Span> = []
      const tracer = Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          spans.push(span)
          return span
        }
      })
      const runner = yield* Effect.provide(
        makeRunner([Once], worker()),
        Layer.merge(
          Once.toLayer(() => Effect.fail(new RangeError("out of range"))),
          Layer.succeed(Tracer.Tracer, tracer)
        )
      ).pipe(Effect.withTracer(tracer))
      yield* runner.attempt(message(Once.jobName), { attempt: 1 })
      assert.strictEqual(spans[0]?.attributes.get("error.type"), "RangeError")
    })
  )
})

describe("what is logged", () => {
  class Refused extends Schema.TaggedError<Refused>()("Refused", {
    status: Schema.Int,
    token: Schema.Redacted(Schema.String)
  }) {}
  class Hook extends Job.make("logs.hook", {
    payload: { url: Schema.String },
    error: Refused,
    retry: RetryPolicy.fixed({ attempts: 2, delay: "4 seconds" })
  }) {}
  const refused = Effect.fail(new Refused({ status: 429, token: Redacted.make("hush") }))

  const lines = (level?: typeof Outcome.RetryLogLevel.Service) =>
    Effect.gen(function* () {
      const logs: Array<{ readonly level: string; readonly text: string; readonly annotations: unknown }> = []
      const logger = Logger.layer([
        Logger.make(({ fiber, logLevel, message }) => {
          const annotations = fiber.getRef(References.CurrentLogAnnotations)
          logs.push({ level: logLevel, text: [message].flat().map(String).join(" "), annotations })
        })
      ])
      const jobs = Layer.provide(
        InlineDispatcher.layer([Hook]),
        Hook.toLayer(() => refused)
      ).pipe(
        Layer.provide(level === undefined ? Layer.empty : Layer.succeed(Outcome.RetryLogLevel, level)),
        Layer.provide(logger)
      )
      const fiber = yield* Effect.forkChild(
        Hook.dispatch({ url: "https://secret" }, { id: "an id" }).pipe(Effect.provide(jobs))
      )
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      return logs.filter(({ level }) => level !== "Debug")
    })

  it.effect(
    "one warning for each attempt that is retried, and one error at the end, with job, id and attempt",
    () =>
      Effect.gen(function* () {
        const [retried, failed, ...more] = yield* lines()
        assert.deepStrictEqual(more, [])
        assert.deepStrictEqual(retried, {
          level: "Warn",
          text: `"logs.hook" (id an id) failed in attempt 1 of 2, and is tried again in 4s: Refused (status: 429, token: <redacted>)`,
          annotations: { job: "logs.hook", id: "an id", attempt: 1 }
        })
        assert.strictEqual(failed?.level, "Error")
        assert.include(
          failed?.text,
          `"logs.hook" (id an id) failed in all of its 2 attempts, the last time with: Refused (status: 429, token: <redacted>).`
        )
        assert.deepStrictEqual(failed?.annotations, { job: "logs.hook", id: "an id", attempt: 2 })
        assert.notInclude(JSON.stringify([retried, failed]), "secret")
        assert.notInclude(JSON.stringify([retried, failed]), "hush")
      })
  )

  it.effect("the warning has a level of its own, or isn't there", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(
        (yield* lines("Info")).map(({ level }) => level),
        ["Info", "Error"]
      )
      assert.deepStrictEqual(
        (yield* lines("None")).map(({ level }) => level),
        ["Error"]
      )
    })
  )
})
