import { assert, describe, it } from "@effect/vitest"
import { DomainEvent, Job, Listener, Outcome, RetryPolicy, Steps } from "effect-jobs"
import { TestDispatcher } from "effect-jobs/testing"
import { Cause, DateTime, Deferred, Effect, Exit, Fiber, Layer, Schema } from "effect"
import { TestClock } from "effect/testing"
import { Activity, DurableClock, DurableDeferred } from "effect/workflow"

class Work extends Job.make("drain.work", { payload: {}, success: Schema.Unknown }) {}
class Limited extends Job.make("drain.limited", { payload: {}, timeout: "30 seconds" }) {}
class Other extends Job.make("drain.other", { payload: { n: Schema.Int } }) {}

const Answer = DurableDeferred.make("answer", { success: Schema.String })

type Handler = (payload: {}) => Effect.Effect<unknown, never, Job.Provided>

/** Drains one dispatch of `Work`, under the id "w". */
const drained = (handler: Handler, options?: TestDispatcher.DrainOptions) =>
  Effect.gen(function* () {
    yield* Work.dispatch({}, { id: "w" })
    return yield* TestDispatcher.drain([Work], options)
  }).pipe(Effect.provide([TestDispatcher.layer, Work.toLayer(handler)]))

const seconds = Effect.map(DateTime.now, (now) => DateTime.toEpochMillis(now) / 1000)

/** Completes the deferred of a run, as another process would. */
const answer = (id: string, value: string) =>
  DurableDeferred.succeed(Answer, {
    token: new DurableDeferred.TokenParsed({
      workflowName: Work.jobName,
      executionId: id,
      deferredName: Answer.name
    }).asToken,
    value
  })

describe("moves the TestClock", () => {
  it.effect("for a handler that sleeps", () =>
    Effect.gen(function* () {
      const [run] = yield* drained(() => Effect.as(Effect.sleep("1 hour"), "slept"))
      assert.deepStrictEqual(run?.exit, Exit.succeed("slept"))
      assert.strictEqual(yield* seconds, 3600)
    })
  )

  it.effect("for a handler in which many sleep", () =>
    Effect.gen(function* () {
      const [run] = yield* drained(() =>
        Effect.all([Effect.sleep("1 hour"), Effect.never], { concurrency: 2 }).pipe(
          Effect.timeoutOption("90 minutes"),
          Effect.andThen(seconds)
        )
      )
      assert.deepStrictEqual(run?.exit, Exit.succeed(5400))
    })
  )

  it.effect("to the time limit of a job that never ends", () =>
    Effect.gen(function* () {
      yield* Limited.dispatch({}, { id: "l" })
      const [run] = yield* TestDispatcher.drain([Limited], { patience: "900 millis" })
      assert(run !== undefined && Exit.isFailure(run.exit))
      assert.instanceOf(Cause.squash(run.exit.cause), Outcome.JobTimeout)
      assert.strictEqual(yield* seconds, 30)
    }).pipe(Effect.provide([TestDispatcher.layer, Limited.toLayer(() => Effect.never)]))
  )

  it.effect("not for a handler that is at something real", () =>
    Effect.gen(function* () {
      yield* Limited.dispatch({})
      const [run] = yield* TestDispatcher.drain([Limited], { patience: "900 millis" })
      assert.deepStrictEqual(run?.exit, Exit.void)
      assert.strictEqual(yield* seconds, 0)
    }).pipe(
      Effect.provide([
        TestDispatcher.layer,
        Limited.toLayer(() => Effect.promise(() => new Promise<void>((done) => setTimeout(done, 60))))
      ])
    )
  )

  for (const duration of ["30 seconds", "3 days"] as const) {
    it.effect(`for a durable sleep of ${duration}`, () =>
      Effect.gen(function* () {
        const [run] = yield* drained(() =>
          Effect.andThen(DurableClock.sleep({ name: "pause", duration }), seconds)
        )
        assert.deepStrictEqual(run?.exit, Exit.succeed(duration === "3 days" ? 3 * 86_400 : 30))
      })
    )
  }

  it.effect("for the pauses of Steps.retry", () =>
    Effect.gen(function* () {
      let tries = 0
      const flaky = Activity.make({
        name: "flaky",
        success: Schema.Int,
        error: Schema.String,
        execute: Effect.suspend(() => (++tries < 3 ? Effect.fail("busy") : Effect.succeed(tries)))
      })
      const [run] = yield* drained(() =>
        Effect.orDie(Steps.retry(flaky, RetryPolicy.fixed({ attempts: 3, delay: "10 minutes" })))
      )
      assert.deepStrictEqual(run?.exit, Exit.succeed(3))
      assert.strictEqual(yield* seconds, 1200)
    })
  )

  it.effect(
    "no further than it must: what is dispatched with a delay stays, unless its time has come",
    () => {
      const times: Array<number> = []
      return Effect.gen(function* () {
        yield* Work.dispatch({})
        const ran = yield* TestDispatcher.drain([Work, Other])
        assert.deepStrictEqual(
          ran.map(({ name }) => name),
          ["drain.work", "drain.other"]
        )
        assert.deepStrictEqual(times, [7200])
        yield* TestClock.adjust("1 day")
        assert.strictEqual((yield* TestDispatcher.drain([Work, Other])).length, 1)
      }).pipe(
        Effect.provide([
          TestDispatcher.layer,
          Work.toLayer(() =>
            Other.dispatch({ n: 1 }, { delay: "1 hour" }).pipe(
              Effect.andThen(Other.dispatch({ n: 2 }, { delay: "1 day" })),
              Effect.andThen(Effect.sleep("2 hours")),
              Effect.orDie
            )
          ),
          Other.toLayer(() => Effect.map(seconds, (time) => void times.push(time)))
        ])
      )
    }
  )

  it.effect("with a handler that moves it itself, and one whose finalizer sleeps", () =>
    Effect.gen(function* () {
      const [run] = yield* drained(() =>
        Effect.acquireRelease(Effect.void, () => Effect.sleep("1 minute")).pipe(
          Effect.andThen(Effect.forkChild(Effect.sleep("1 hour"))),
          Effect.tap(TestClock.adjust("1 hour")),
          Effect.flatMap(Fiber.join),
          Effect.as("both")
        )
      )
      assert.deepStrictEqual(run?.exit, Exit.succeed("both"))
      assert.strictEqual(yield* seconds, 3660)
    })
  )

  it.live("a real clock is waited for", () =>
    Effect.gen(function* () {
      const before = yield* seconds
      const [run] = yield* drained(() => Effect.as(Effect.sleep("40 millis"), "slept"), {
        patience: "10 millis"
      })
      assert.deepStrictEqual(run?.exit, Exit.succeed("slept"))
      assert.isAtLeast((yield* seconds) - before, 0.039)
    })
  )
})

describe("a run that waits for a deferred", () => {
  let activities = 0
  const counted = Activity.make({ name: "counted", execute: Effect.sync(() => void activities++) })
  const waiting = Work.toLayer(() =>
    Effect.andThen(
      counted,
      Effect.map(DurableDeferred.await(Answer), (text) => `got ${text}`)
    )
  )
  const recording = Layer.provideMerge(Steps.layer, TestDispatcher.layer)
  const succeeded = (text: string) => [
    { name: "drain.work" as const, id: "w", attempts: 1, exit: Exit.succeed(text) }
  ]

  it.effect("says so, and goes on in the next drain, with the steps that it has recorded", () =>
    Effect.gen(function* () {
      activities = 0
      yield* Work.dispatch({}, { id: "w" })
      const error = yield* Effect.flip(TestDispatcher.drain([Work], { patience: "300 millis" }))
      assert.strictEqual(
        error.message,
        `TestDispatcher.drain can't go on: "drain.work" (id w) waits in attempt 1 for the deferred "answer", which nobody has completed.`
      )
      assert.strictEqual(error.runs.length, 1)
      yield* answer("w", "later")
      assert.deepStrictEqual(yield* TestDispatcher.drain([Work]), succeeded("got later"))
      assert.strictEqual(activities, 1)
      assert.strictEqual(yield* seconds, 0)
    }).pipe(Effect.provide([recording, waiting]))
  )

  it.effect("gets a completion that was there before", () =>
    Effect.gen(function* () {
      yield* answer("w", "early")
      yield* Work.dispatch({}, { id: "w" })
      assert.deepStrictEqual(yield* TestDispatcher.drain([Work]), succeeded("got early"))
    }).pipe(Effect.provide([recording, waiting]))
  )

  it.effect("gets one that is sent meanwhile", () =>
    Effect.gen(function* () {
      yield* Work.dispatch({}, { id: "w" })
      const drain = yield* Effect.forkChild(TestDispatcher.drain([Work]), { startImmediately: true })
      yield* answer("w", "meanwhile")
      assert.deepStrictEqual(yield* Fiber.join(drain), succeeded("got meanwhile"))
    }).pipe(Effect.provide([recording, waiting]))
  )

  it.effect("gets one that another run sends, which was dispatched after it", () =>
    Effect.gen(function* () {
      yield* Work.dispatch({}, { id: "w" })
      yield* Other.dispatch({ n: 1 })
      const ran = yield* TestDispatcher.drain([Work, Other])
      assert.deepStrictEqual(
        ran.map(({ exit }) => exit),
        [Exit.succeed("got other"), Exit.void]
      )
    }).pipe(
      Effect.provide([
        recording,
        waiting,
        Layer.provide(
          Other.toLayer(() => answer("w", "other")),
          recording
        )
      ])
    )
  )

  it.effect(
    "an answer, or a day: it takes the answer of a message that is due on the way, else the day",
    () => {
      const orDay = Work.toLayer(() =>
        DurableDeferred.raceAll({
          name: "answer or day",
          success: Schema.String,
          error: Schema.Never,
          effects: [
            DurableDeferred.await(Answer),
            Effect.as(DurableClock.sleep({ name: "day", duration: "1 day" }), "nobody")
          ]
        })
      )
      return Effect.gen(function* () {
        yield* Work.dispatch({}, { id: "w" })
        yield* Other.dispatch({ n: 1 }, { delay: "1 hour" })
        const ran = yield* TestDispatcher.drain([Work, Other])
        assert.deepStrictEqual(ran[0]?.exit, Exit.succeed("other"))
        assert.strictEqual(yield* seconds, 3600)
        yield* Work.dispatch({}, { id: "w2" })
        const [second] = yield* TestDispatcher.drain([Work, Other])
        assert.deepStrictEqual(second?.exit, Exit.succeed("nobody"))
        assert.strictEqual(yield* seconds, 3600 + 86_400)
      }).pipe(Effect.provide([recording, orDay, Other.toLayer(() => answer("w", "other"))]))
    }
  )

  it.effect("many of them: five are named, the others counted", () =>
    Effect.gen(function* () {
      yield* Work.dispatchAll(Array.from({ length: 12 }, () => ({})))
      const error = yield* Effect.flip(TestDispatcher.drain([Work], { patience: "300 millis" }))
      assert.strictEqual(error.message.split("drain.work").length, 6)
      assert.include(error.message, "; and 7 more wait.")
      assert.strictEqual(error.runs.length, 12)
    }).pipe(Effect.provide([recording, waiting]))
  )
})

describe("fails in a sentence", () => {
  const messageOf = (handler: Handler) =>
    Effect.map(Effect.flip(drained(handler, { patience: "100 millis" })), ({ message }) => message)

  it.effect("for a run that waits for something that never comes", () =>
    Effect.gen(function* () {
      assert.strictEqual(
        yield* messageOf(() => Effect.never),
        `TestDispatcher.drain can't go on: "drain.work" (id w) waits in attempt 1 for something outside of the run, which hasn't come in 100ms.`
      )
    })
  )

  it.effect("for a run that sleeps again and again", () =>
    Effect.gen(function* () {
      assert.match(
        yield* messageOf(() => Effect.forever(Effect.sleep("1 day"))),
        /"drain.work" \(id w\) waits in attempt 1 for the clock again and again: for 100ms only the clock has moved, to 1970-01-\d\dT00:00:00.000Z\.$/
      )
    })
  )

  it.effect("for a handler that ignores its interruption, and ends", () =>
    Effect.gen(function* () {
      yield* Limited.dispatch({}, { id: "l" })
      const { message } = yield* Effect.flip(TestDispatcher.drain([Limited], { patience: "150 millis" }))
      assert.include(message, `"drain.limited" (id l) waits in attempt 1 for`)
      assert.include(message, "ignores its interruption at the time limit")
    }).pipe(
      Effect.provide([TestDispatcher.layer, Limited.toLayer(() => Effect.uninterruptible(Effect.never))])
    )
  )

  it.effect("where the layer runs everything by itself", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(TestDispatcher.drain([]))
      assert.include(error.message, "TestDispatcher.layerRunning runs each dispatch by itself")
    }).pipe(Effect.provide(TestDispatcher.layerRunning([])))
  )
})

describe("whatever a handler does, drain ends", () => {
  const unreadable = Proxy.revocable({}, {})
  unreadable.revoke()
  const hostile: Record<string, Handler> = {
    "throws undefined": () => {
      throw undefined
    },
    "dies with what can't be read": () => Effect.die(unreadable.proxy),
    // sound: none of these is an Effect, which is the point
    "returns a Promise": () => Promise.resolve(1) as unknown as Effect.Effect<unknown>,
    "returns a Promise within": () =>
      Effect.flatMap(Effect.void, () => Promise.resolve(1) as unknown as Effect.Effect<unknown>),
    "interrupts itself": () => Effect.interrupt
  }
  for (const [what, handler] of Object.entries(hostile)) {
    it.effect(what, () =>
      Effect.gen(function* () {
        const [run] = yield* drained(handler)
        assert(run !== undefined && Exit.isFailure(run.exit))
      })
    )
  }
})

describe("loses nothing", () => {
  it.effect("an event stays for the listeners of a later drain; each runs once", () => {
    class Posted extends DomainEvent.make("drain.posted", { payload: {} }) {}
    class First extends Listener.make("drain.first", { event: Posted }) {}
    class Second extends Listener.make("drain.second", { event: Posted }) {}
    const names = (jobs: ReadonlyArray<typeof First | typeof Second>) =>
      Effect.map(TestDispatcher.drain(jobs), (ran) => ran.map(({ name }) => name))
    return Effect.gen(function* () {
      yield* Posted.publish({})
      assert.deepStrictEqual(yield* names([First]), ["drain.first"])
      assert.deepStrictEqual(yield* names([First, Second]), ["drain.second"])
      assert.deepStrictEqual(yield* names([First, Second]), [])
    }).pipe(
      Effect.provide([
        TestDispatcher.layer,
        First.toLayer(() => Effect.void),
        Second.toLayer(() => Effect.void)
      ])
    )
  })

  it.effect(
    "an interrupted drain: what it ran begins again in the next, in the attempt that it was in",
    () => {
      class Flaky extends Job.make("drain.flaky", {
        payload: {},
        success: Schema.Int,
        error: Schema.Literal("first"),
        retry: RetryPolicy.fixed({ attempts: 2, delay: "1 second" })
      }) {}
      const started = Deferred.makeUnsafe<void>()
      let calls = 0
      const handler = Effect.fnUntraced(function* () {
        const { attempt } = yield* Job.CurrentRun
        calls++
        if (attempt === 1) return yield* Effect.fail("first" as const)
        if (calls === 2) return yield* Effect.andThen(Deferred.succeed(started, undefined), Effect.never)
        return calls
      })
      return Effect.gen(function* () {
        yield* Flaky.dispatch({}, { id: "f" })
        yield* Flaky.dispatch({}, { id: "g" })
        const drain = yield* Effect.forkChild(TestDispatcher.drain([Flaky]), { startImmediately: true })
        yield* Deferred.await(started)
        yield* Fiber.interrupt(drain)
        assert.deepStrictEqual(yield* TestDispatcher.drain([Flaky]), [
          { name: "drain.flaky", id: "f", attempts: 2, exit: Exit.succeed(3) },
          { name: "drain.flaky", id: "g", attempts: 2, exit: Exit.succeed(5) }
        ])
        assert.deepStrictEqual(yield* TestDispatcher.drain([Flaky]), [])
        assert.deepStrictEqual(
          (yield* TestDispatcher.attempts(Flaky)).map(({ attempt, id }) => [id, attempt]),
          [
            ["f", 1],
            ["f", 2],
            ["g", 1],
            ["g", 2]
          ]
        )
      }).pipe(Effect.provide([TestDispatcher.layer, Flaky.toLayer(handler)]))
    }
  )

  it.effect("wherever it is interrupted, each message has one run in the end", () =>
    Effect.gen(function* () {
      for (let turns = 0; turns < 40; turns++) {
        yield* TestDispatcher.clear
        yield* Work.dispatchAll(Array.from({ length: 5 }, () => ({})))
        const drain = yield* Effect.forkChild(TestDispatcher.drain([Work]))
        yield* Effect.repeat(Effect.yieldNow, { times: turns })
        yield* Fiber.interrupt(drain)
        const before = (yield* TestDispatcher.attempts(Work)).length
        const after = yield* TestDispatcher.drain([Work])
        assert.strictEqual(before + after.length, 5, `interrupted after ${turns} turns`)
      }
    }).pipe(
      Effect.provide([
        TestDispatcher.layer,
        Work.toLayer(() => Effect.as(Effect.repeat(Effect.yieldNow, { times: 3 }), null))
      ])
    )
  )

  it.effect("an onFailure that waits: the last attempt is repeated, and no further one is made", () => {
    class Pay extends Job.make("drain.pay", {
      payload: {},
      retry: RetryPolicy.fixed({ attempts: 2, delay: 1 })
    }) {}
    const attempts: Array<number> = []
    let failures = 0
    const handlers = Pay.toLayer(
      () =>
        Effect.flatMap(Job.CurrentRun, ({ attempt }) => {
          attempts.push(attempt)
          return Effect.fail("no")
        }),
      {
        onFailure: () =>
          Effect.andThen(Effect.sleep("1 hour"), DurableDeferred.await(Answer)).pipe(
            Effect.andThen(Effect.sync(() => failures++))
          )
      }
    )
    return Effect.gen(function* () {
      yield* Pay.dispatch({}, { id: "p" })
      const error = yield* Effect.flip(TestDispatcher.drain([Pay], { patience: "300 millis" }))
      assert.include(error.message, `"drain.pay" (id p) waits in attempt 2 for the deferred "answer"`)
      yield* DurableDeferred.succeed(Answer, {
        token: new DurableDeferred.TokenParsed({
          workflowName: Pay.jobName,
          executionId: "p",
          deferredName: Answer.name
        }).asToken,
        value: "ok"
      })
      const [pay] = yield* TestDispatcher.drain([Pay])
      assert.strictEqual(pay?.attempts, 2)
      assert.deepStrictEqual(attempts, [1, 2, 2])
      assert.strictEqual(failures, 1)
    }).pipe(Effect.provide([Layer.provideMerge(Steps.layer, TestDispatcher.layer), handlers]))
  })

  it.effect("a failure is in the exit as the handler gave it; onError gets it too", () => {
    const failed: Array<string> = []
    class Refused extends Schema.TaggedError<Refused>()("Refused", { code: Schema.Int }) {}
    class Pay extends Job.make("drain.pay", { payload: {}, error: Refused }) {}
    return Effect.gen(function* () {
      yield* Pay.dispatch({})
      const [pay] = yield* TestDispatcher.drain([Pay], {
        onError: ({ message }) => Effect.sync(() => failed.push(message))
      })
      assert.deepStrictEqual(pay?.exit, Exit.fail(new Refused({ code: 402 })))
      assert.strictEqual(failed.length, 1)
    }).pipe(
      Effect.provide([TestDispatcher.layer, Pay.toLayer(() => Effect.fail(new Refused({ code: 402 })))])
    )
  })
})
