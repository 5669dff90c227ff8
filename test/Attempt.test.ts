import { assert, describe, it } from "@effect/vitest"
import { InlineDispatcher, Job, RetryPolicy } from "effect-jobs"
import { makeRunner } from "effect-jobs/engine"
import { Cause, Context, Effect, Layer, Logger, Metric, References, Schema, Tracer } from "effect"
import { TestClock } from "effect/testing"

const secret = "a-secret-that-must-not-leave"

class Oops extends Schema.TaggedError<Oops>()("Oops", { code: Schema.Int }) {}
class Work extends Job.make("attempt.work", {
  payload: { password: Schema.String, failures: Schema.Int },
  error: Oops,
  retry: RetryPolicy.fixed({ attempts: 2, delay: "1 second" })
}) {}
const WorkLive = Work.toLayer(({ failures }) =>
  Effect.gen(function* () {
    const { attempt } = yield* Job.CurrentRun
    yield* Effect.logInfo("working")
    yield* Effect.sleep("100 millis")
    if (attempt <= failures) return yield* new Oops({ code: attempt })
  })
)

/** Everything that leaves by spans, metrics and logs. */
const observe = Effect.gen(function* () {
  const spans: Array<Tracer.Span> = []
  const native = yield* Effect.tracer
  const tracer = Tracer.make({
    span: (options) => {
      const span = native.span(options)
      spans.push(span)
      return span
    }
  })
  const logs: Array<{
    readonly message: string
    readonly cause: string
    readonly annotations: Record<string, unknown>
  }> = []
  const logger = Logger.make(({ cause, fiber, message }) => {
    logs.push({
      message: String(message),
      cause: Cause.pretty(cause),
      annotations: { ...fiber.getRef(References.CurrentLogAnnotations) }
    })
  })
  const layer = Layer.mergeAll(
    Layer.succeed(Tracer.Tracer, tracer),
    Logger.layer([logger]),
    Layer.succeed(Metric.MetricRegistry, new Map())
  )
  return { spans, logs, layer }
})

const observed = Effect.fnUntraced(function* (failures: number) {
  const { layer, logs, spans } = yield* observe
  const metrics = yield* Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(
      Effect.withSpan(Work.dispatch({ password: secret, failures }, { id: "id-1" }), "caller")
    )
    yield* TestClock.adjust("10 seconds")
    yield* Effect.yieldNow
    assert.isDefined(fiber.pollUnsafe())
    return yield* Metric.snapshot
  }).pipe(
    Effect.provide(InlineDispatcher.layer([Work]).pipe(Layer.provide(WorkLive), Layer.provideMerge(layer)))
  )
  return { logs, metrics, spans }
})

const attributesOf = (span: Tracer.Span | undefined) => Object.fromEntries(span?.attributes ?? [])

describe("observability", () => {
  it.effect("a producer span, and a consumer span an attempt that continues its trace", () =>
    Effect.gen(function* () {
      const { spans } = yield* observed(1)
      const [caller, producer, first, second] = spans
      assert.deepStrictEqual(
        spans.map(({ kind, name }) => [name, kind]),
        [
          ["caller", "internal"],
          ["dispatch attempt.work", "producer"],
          ["process attempt.work", "consumer"],
          ["process attempt.work", "consumer"]
        ]
      )
      assert.deepStrictEqual(attributesOf(producer), {
        "messaging.system": "effect-jobs",
        "messaging.operation.type": "send",
        "messaging.operation.name": "dispatch",
        "messaging.destination.name": "attempt.work",
        "messaging.message.id": "id-1"
      })
      for (const [index, span] of [first, second].entries()) {
        assert.deepStrictEqual(attributesOf(span), {
          "messaging.system": "effect-jobs",
          "messaging.operation.type": "process",
          "messaging.operation.name": "process",
          "messaging.destination.name": "attempt.work",
          "messaging.message.id": "id-1",
          "effect_jobs.attempt": index + 1,
          ...(index === 0 ? { "error.type": "Oops" } : {})
        })
        assert.strictEqual(span?.traceId, caller?.traceId)
        assert.strictEqual(span?.parent._tag === "Some" && span.parent.value.spanId, producer?.spanId)
        assert.strictEqual(span?.status._tag, "Ended")
      }
      const failed = (span: Tracer.Span | undefined) => span?.status._tag === "Ended" && span.status.exit._tag
      assert.deepStrictEqual([first, second].map(failed), ["Failure", "Success"])
    })
  )

  it.effect("counters, a histogram and a gauge, labelled by job", () =>
    Effect.gen(function* () {
      const { metrics } = yield* observed(2)
      const of = (id: string, outcome?: string) =>
        metrics.find(
          (metric) =>
            metric.id === id &&
            metric.attributes?.job === "attempt.work" &&
            (outcome === undefined || metric.attributes?.outcome === outcome)
        )?.state
      assert.deepInclude(of("effect_jobs_dispatched"), { count: 1 })
      assert.deepInclude(of("effect_jobs_attempts", "retry"), { count: 1 })
      assert.deepInclude(of("effect_jobs_attempts", "failed"), { count: 1 })
      assert.isUndefined(of("effect_jobs_attempts", "succeeded"))
      assert.deepInclude(of("effect_jobs_attempt_duration"), { count: 2, min: 0.1, max: 0.1 })
      assert.deepInclude(of("effect_jobs_in_flight"), { value: 0 })
    })
  )

  it.effect("log annotations for job, id and attempt, in the handler", () =>
    Effect.gen(function* () {
      const { logs } = yield* observed(1)
      assert.deepStrictEqual(
        logs.filter(({ message }) => message === "working").map(({ annotations }) => annotations),
        [
          { job: "attempt.work", id: "id-1", attempt: 1 },
          { job: "attempt.work", id: "id-1", attempt: 2 }
        ]
      )
    })
  )

  it.effect("no payload in spans, metrics or logs, also where a job fails or its payload is refused", () =>
    Effect.gen(function* () {
      const { layer, logs, spans } = yield* observe
      const metrics = yield* Effect.gen(function* () {
        yield* Effect.forkChild(Work.dispatch({ password: secret, failures: 9 }))
        yield* Effect.exit(Work.dispatch({ password: secret, failures: secret as never }))
        yield* TestClock.adjust("10 seconds")
        return yield* Metric.snapshot
      }).pipe(
        Effect.provide(
          InlineDispatcher.layer([Work]).pipe(Layer.provide(WorkLive), Layer.provideMerge(layer))
        )
      )
      const left = JSON.stringify([
        logs,
        metrics,
        spans.map((span) => [
          span.name,
          attributesOf(span),
          span.status._tag === "Ended" && span.status.exit._tag === "Failure"
            ? Cause.pretty(span.status.exit.cause)
            : ""
        ])
      ])
      assert.isAbove(logs.length, 2)
      assert.notInclude(left, secret)
    })
  )
})

describe("a run", () => {
  const message = (name: string, payload: Schema.Json) => ({ id: "1", name, payload, dispatchedAt: 0 })
  const worker = { name: "the test's worker", dispatcher: { send: () => Effect.void } }
  const runner = Effect.provide(makeRunner([Work], worker), WorkLive)
  const options = { attempt: 1 }

  it.effect("of a job that the runner doesn't have has failed, by name", () =>
    Effect.gen(function* () {
      const outcome = yield* (yield* runner).attempt(message("other", {}), options)
      assert(outcome._tag === "Failed")
      assert.strictEqual(outcome.reason, "UnknownJob")
      assert.include(
        String(Cause.squash(outcome.cause)),
        `"other" is not in the list of jobs given to the test's worker`
      )
    })
  )

  it.effect("of a message that doesn't decode says what is wrong and where", () =>
    Effect.gen(function* () {
      const { attempt: run } = yield* runner
      const wrong = yield* run(message("attempt.work", { failures: "none" }), options)
      assert(wrong._tag === "Failed")
      assert.strictEqual(
        (yield* (yield* runner).failed(message("attempt.work", {}), wrong, options)).message,
        `The message "1" for "attempt.work" has an invalid payload: Missing key at "password"; Expected number at "failures".`
      )
      assert.deepInclude(yield* run(message("attempt.work", null), options), { reason: "InvalidPayload" })
      assert.deepInclude(yield* run(message("attempt.work", "text"), options), { reason: "InvalidPayload" })
    })
  )

  it.effect("whose while throws isn't repeated, and both causes are kept", () =>
    Effect.gen(function* () {
      class Picky extends Job.make("picky", {
        payload: {},
        retry: {
          attempts: 3,
          while: () => {
            throw new Error("while is broken")
          }
        }
      }) {}
      const { attempt: run } = yield* Effect.provide(
        makeRunner([Picky], worker),
        Picky.toLayer(() => Effect.fail(new Error("the failure")))
      )
      const outcome = yield* run(message("picky", {}), options)
      assert(outcome._tag === "Failed")
      assert.strictEqual(outcome.reason, "NotRetryable")
      assert.include(Cause.pretty(outcome.cause), "the failure")
      assert.include(Cause.pretty(outcome.cause), "while is broken")
    })
  )

  it.effect("encodes its success, and one that doesn't encode is a defect", () =>
    Effect.gen(function* () {
      class Counts extends Job.make("counts", {
        payload: { of: Schema.Finite },
        success: Schema.Struct({ at: Schema.Date, count: Schema.Int })
      }) {}
      const { attempt: run } = yield* Effect.provide(
        makeRunner([Counts], worker),
        Counts.toLayer(({ of }) => Effect.succeed({ at: new Date(0), count: of }))
      )
      assert.deepInclude(yield* run(message("counts", { of: 1 }), options), {
        _tag: "Succeeded",
        encoded: { at: "1970-01-01T00:00:00.000Z", count: 1 }
      })
      const outcome = yield* run(message("counts", { of: 1.5 }), options)
      assert(outcome._tag === "Failed")
      assert.include(
        String(Cause.squash(outcome.cause)),
        `The handler of "counts" (id 1) succeeded with what its success schema doesn't encode`
      )
    })
  )

  it.effect("encodes its failures: typed ones by the job's schema, others as defects", () =>
    Effect.gen(function* () {
      const { encodeFailure } = yield* runner
      assert.deepStrictEqual(yield* encodeFailure("attempt.work", Cause.fail(new Oops({ code: 7 }))), {
        json: { _tag: "Oops", code: 7 },
        typed: true
      })
      const boom = yield* encodeFailure("attempt.work", Cause.die(new Error("boom")))
      assert.deepInclude(boom.json, { message: "boom" })
      assert.isFalse(boom.typed)
      // sound: it is what the test is about
      const other = yield* encodeFailure("attempt.work", Cause.fail(new Error("not an Oops")))
      assert.isFalse(other.typed)
      assert.include(JSON.stringify(other.json), "failed with what its error schema doesn't encode")
      assert.include(JSON.stringify(other.json), "not an Oops")
    })
  )

  it.effect("runs with the services of its handler's Layer, not those of who dispatches", () =>
    Effect.gen(function* () {
      class Tenant extends Context.Service<Tenant, string>()("test/Tenant") {}
      class Who extends Job.make("who", { payload: {}, success: Schema.String }) {}
      const WhoLive = Who.toLayer(() => Effect.map(Tenant, (name) => name)).pipe(
        Layer.provide(Layer.succeed(Tenant, "of the Layer"))
      )
      const { attempt: run } = yield* Effect.provide(makeRunner([Who], worker), WhoLive)
      const outcome = yield* Effect.provideService(run(message("who", {}), options), Tenant, "of the caller")
      assert.deepInclude(outcome, { value: "of the Layer" })
    })
  )

  it.effect("of two jobs with one name is refused when the runner is made", () =>
    Effect.gen(function* () {
      class Again extends Job.make("attempt.work", { payload: {} }) {}
      const exit = yield* Effect.exit(
        Layer.build(InlineDispatcher.layer([Work, Again]).pipe(Layer.provide(WorkLive)))
      )
      assert.include(
        String(exit),
        `Two jobs in the list have the name "attempt.work": give each a name of its own.`
      )
    })
  )
})
