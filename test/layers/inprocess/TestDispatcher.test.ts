import { assert, describe, it } from "@effect/vitest"
import { CronJob, DomainEvent, Job, Listener, RetryPolicy } from "effect-jobs"
import { TestDispatcher } from "effect-jobs/testing"
import { Cause, DateTime, Duration, Effect, Exit, Layer, Schema } from "effect"
import { TestClock } from "effect/testing"

class MailError extends Schema.TaggedError<MailError>()("MailError", { attempt: Schema.Int }) {}
class Mail extends Job.make("test.mail", {
  payload: { to: Schema.String, at: Schema.Date },
  success: Schema.Struct({ to: Schema.String }),
  error: MailError,
  retry: RetryPolicy.exponential({ attempts: 3, initialDelay: "1 second" })
}) {}
class Signup extends Job.make("test.signup", { payload: { to: Schema.String } }) {}
class Posted extends DomainEvent.make("test.posted", { payload: { at: Schema.Date } }) {}
class OnPosted extends Listener.make("test.on-posted", { event: Posted, success: Schema.Int }) {}
class Nightly extends CronJob.make("test.nightly", { cron: "0 2 * * *" }) {}

const Live = Layer.mergeAll(
  Mail.toLayer(({ to }) =>
    Effect.gen(function* () {
      const { attempt } = yield* Job.CurrentRun
      if (to === "nobody" || (to === "twice" && attempt < 3)) return yield* new MailError({ attempt })
      return { to }
    })
  ),
  Signup.toLayer(({ to }) => Mail.dispatch({ to, at: new Date(1) }, { id: `mail ${to}` })),
  OnPosted.toLayer(({ at }) => Effect.succeed(at.getTime())),
  Nightly.toLayer(({ scheduledAt }) => Signup.dispatch({ to: DateTime.formatIso(scheduledAt) }))
)
const millis = Effect.map(DateTime.now, DateTime.toEpochMillis)

describe("layer", () => {
  const test = (name: string, effect: Effect.Effect<void, unknown, Layer.Success<typeof recording>>) =>
    it.effect(name, () => Effect.provide(effect, recording))
  const recording = Layer.merge(TestDispatcher.layer, Live)

  test(
    "records what is dispatched, in order, and runs nothing",
    Effect.gen(function* () {
      yield* Mail.dispatch({ to: "a", at: new Date(5) }, { id: "1", delay: "1 hour" })
      yield* Signup.dispatchAll([{ to: "b" }, { to: "c" }], { id: ({ to }) => to })
      yield* Posted.publish({ at: new Date(6) }, { id: "p" })
      yield* TestClock.adjust("1 day")
      assert.deepStrictEqual(yield* TestDispatcher.dispatched, [
        {
          id: "1",
          name: "test.mail",
          payload: { to: "a", at: "1970-01-01T00:00:00.005Z" },
          dispatchedAt: DateTime.makeUnsafe(0),
          notBefore: DateTime.makeUnsafe(3_600_000)
        },
        {
          id: "b",
          name: "test.signup",
          payload: { to: "b" },
          dispatchedAt: DateTime.makeUnsafe(0),
          notBefore: undefined
        },
        {
          id: "c",
          name: "test.signup",
          payload: { to: "c" },
          dispatchedAt: DateTime.makeUnsafe(0),
          notBefore: undefined
        }
      ])
      assert.deepStrictEqual(
        (yield* TestDispatcher.published).map(({ id, name }) => [id, name]),
        [["p", "test.posted"]]
      )
    })
  )

  test(
    "payloads are decoded from their JSON, typed",
    Effect.gen(function* () {
      yield* Mail.dispatch({ to: "a", at: new Date(5) })
      yield* Posted.publish({ at: new Date(6) })
      const [mail] = yield* TestDispatcher.payloads(Mail)
      assert.deepStrictEqual(mail, { to: "a", at: new Date(5) })
      const [posted] = yield* TestDispatcher.payloads(Posted)
      assert.deepStrictEqual(posted?.at.getTime(), 6)
      assert.deepStrictEqual(yield* TestDispatcher.payloads(Signup), [])
    })
  )

  test(
    "a payload that JSON can't carry fails its dispatch",
    Effect.gen(function* () {
      class Odd extends Job.make("test.odd", { payload: { value: Schema.Unknown } }) {}
      const error = yield* Effect.flip(Odd.dispatch({ value: () => 1 }))
      assert(error.reason._tag === "InvalidPayload")
      assert.strictEqual(error.reason.path, "value")
      assert.deepStrictEqual(yield* TestDispatcher.dispatched, [])
    })
  )

  test(
    "drain runs what is due with its retries, and what that dispatches; the clock moves",
    Effect.gen(function* () {
      yield* Signup.dispatch({ to: "twice" }, { id: "s1" })
      yield* Mail.dispatch({ to: "nobody", at: new Date(0) }, { id: "m1" })
      yield* Posted.publish({ at: new Date(7) }, { id: "p1" })
      const drained = yield* TestDispatcher.drain([Mail, Signup, OnPosted])
      assert.deepStrictEqual(drained, [
        { name: "test.signup", id: "s1", attempts: 1, exit: Exit.succeed(undefined) },
        { name: "test.mail", id: "m1", attempts: 3, exit: Exit.fail(new MailError({ attempt: 3 })) },
        { name: "test.on-posted", id: "p1", attempts: 1, exit: Exit.succeed(7) },
        { name: "test.mail", id: "mail twice", attempts: 3, exit: Exit.succeed({ to: "twice" }) }
      ])
      assert.strictEqual(yield* millis, 6000)
      assert.deepStrictEqual(yield* TestDispatcher.drain([Mail, Signup, OnPosted]), [])
    })
  )

  test(
    "drain leaves what isn't due and what isn't listed",
    Effect.gen(function* () {
      yield* Mail.dispatch({ to: "later", at: new Date(0) }, { id: "later", delay: "1 hour" })
      yield* Signup.dispatch({ to: "x" }, { id: "unlisted" })
      assert.deepStrictEqual(yield* TestDispatcher.drain([Mail]), [])
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(
        (yield* TestDispatcher.drain([Mail])).map(({ id }) => id),
        ["later"]
      )
      assert.deepStrictEqual(
        (yield* TestDispatcher.drain([Mail, Signup])).map(({ id }) => id),
        ["unlisted", "mail x"]
      )
    })
  )

  test(
    "drain runs an id once",
    Effect.gen(function* () {
      yield* Mail.dispatch({ to: "a", at: new Date(0) }, { id: "1" })
      yield* Mail.dispatch({ to: "a", at: new Date(0) }, { id: "1" })
      assert.strictEqual((yield* TestDispatcher.drain([Mail])).length, 1)
      yield* Mail.dispatch({ to: "a", at: new Date(0) }, { id: "1" })
      assert.strictEqual((yield* TestDispatcher.drain([Mail])).length, 0)
      assert.strictEqual((yield* TestDispatcher.dispatched).length, 3)
    })
  )

  test(
    "clear forgets, ids too, and what was pending never runs",
    Effect.gen(function* () {
      yield* Mail.dispatch({ to: "a", at: new Date(0) }, { id: "1" })
      yield* TestDispatcher.drain([Mail])
      yield* Mail.dispatch({ to: "a", at: new Date(0) }, { id: "2" })
      yield* Posted.publish({ at: new Date(0) })
      yield* TestDispatcher.clear
      assert.deepStrictEqual(yield* TestDispatcher.dispatched, [])
      assert.deepStrictEqual(yield* TestDispatcher.published, [])
      assert.deepStrictEqual(yield* TestDispatcher.attempts(Mail), [])
      assert.deepStrictEqual(yield* TestDispatcher.drain([Mail, OnPosted]), [])
      yield* Mail.dispatch({ to: "a", at: new Date(0) }, { id: "1" })
      assert.deepStrictEqual(
        (yield* TestDispatcher.drain([Mail])).map(({ id }) => id),
        ["1"]
      )
    })
  )

  test(
    "attempts says of each one when it ended, and how",
    Effect.gen(function* () {
      yield* Mail.dispatch({ to: "twice", at: new Date(0) }, { id: "m" })
      yield* TestDispatcher.drain([Mail])
      assert.deepStrictEqual(
        (yield* TestDispatcher.attempts(Mail)).map(({ attempt, exit, time }) => [
          attempt,
          DateTime.toEpochMillis(time),
          Exit.isSuccess(exit)
        ]),
        [
          [1, 0, false],
          [2, 1000, false],
          [3, 3000, true]
        ]
      )
    })
  )

  test(
    "a failure is in the exit as its job's error type, a defect as it was thrown",
    Effect.gen(function* () {
      class Broken extends Job.make("test.broken", { payload: {} }) {}
      yield* Mail.dispatch({ to: "nobody", at: new Date(0) })
      yield* Broken.dispatch({})
      const [mail, broken] = yield* Effect.provide(
        TestDispatcher.drain([Mail, Broken]),
        Broken.toLayer(() => Effect.die(new Error("a bug")))
      )
      assert.deepStrictEqual(mail?.exit, Exit.fail(new MailError({ attempt: 3 })))
      assert(broken?.name === "test.broken" && Exit.isFailure(broken.exit))
      assert.deepStrictEqual(Cause.squash(broken.exit.cause), new Error("a bug"))
    })
  )
})

describe("layerRunning", () => {
  const running = TestDispatcher.layerRunning([Mail, Signup, OnPosted, Nightly]).pipe(Layer.provide(Live))

  it.effect("runs each dispatch on the test's clock, and says when, which attempt and how it ended", () =>
    Effect.gen(function* () {
      yield* Signup.dispatch({ to: "twice" })
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(yield* TestDispatcher.attempts(Mail), [
        {
          id: "mail twice",
          attempt: 1,
          time: DateTime.makeUnsafe(0),
          exit: Exit.fail(new MailError({ attempt: 1 }))
        },
        {
          id: "mail twice",
          attempt: 2,
          time: DateTime.makeUnsafe(1000),
          exit: Exit.fail(new MailError({ attempt: 2 }))
        },
        { id: "mail twice", attempt: 3, time: DateTime.makeUnsafe(3000), exit: Exit.succeed({ to: "twice" }) }
      ])
      assert.deepStrictEqual(
        (yield* TestDispatcher.dispatched).map(({ name }) => name),
        ["test.signup", "test.mail"]
      )
    }).pipe(Effect.provide(running))
  )

  it.effect("fires cron jobs as the clock moves", () =>
    Effect.gen(function* () {
      yield* TestClock.adjust("3 days")
      assert.deepStrictEqual(
        (yield* TestDispatcher.attempts(Nightly)).map(({ time }) => DateTime.formatIso(time)),
        ["1970-01-01T02:00:00.000Z", "1970-01-02T02:00:00.000Z", "1970-01-03T02:00:00.000Z"]
      )
      assert.strictEqual((yield* TestDispatcher.attempts(Mail)).length, 3)
      yield* TestDispatcher.clear
      assert.deepStrictEqual(yield* TestDispatcher.attempts(Nightly), [])
    }).pipe(Effect.provide(running))
  )

  it.effect("an unlisted job says so by name, and isn't recorded", () =>
    Effect.gen(function* () {
      class Other extends Job.make("test.other", { payload: {} }) {}
      const error = yield* Effect.flip(Other.dispatch({}))
      assert.include(
        error.message,
        `"test.other" is not in the list of jobs given to TestDispatcher.layerRunning`
      )
      assert.deepStrictEqual(yield* TestDispatcher.dispatched, [])
    }).pipe(Effect.provide(running))
  )

  it.effect("clear forgets ids too", () =>
    Effect.gen(function* () {
      const run = Effect.andThen(
        Mail.dispatch({ to: "a", at: new Date(0) }, { id: "1" }),
        TestClock.adjust("1 second")
      )
      yield* Effect.andThen(run, run)
      assert.strictEqual((yield* TestDispatcher.attempts(Mail)).length, 1)
      yield* TestDispatcher.clear
      yield* run
      assert.strictEqual((yield* TestDispatcher.attempts(Mail)).length, 1)
    }).pipe(Effect.provide(running))
  )

  it.effect("closing interrupts what runs", () => {
    let released = 0
    class Endless extends Job.make("test.endless", { payload: {} }) {}
    return Effect.gen(function* () {
      yield* Effect.provide(
        Effect.andThen(Endless.dispatch({}), TestClock.adjust(Duration.hours(1))),
        TestDispatcher.layerRunning([Endless]).pipe(
          Layer.provide(
            Endless.toLayer(() => Effect.onInterrupt(Effect.never, () => Effect.sync(() => released++)))
          )
        )
      )
      assert.strictEqual(released, 1)
    })
  })
})
