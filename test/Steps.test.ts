import { assert, describe, it } from "@effect/vitest"
import { DomainEvent, InlineDispatcher, Job, RetryPolicy, Steps } from "effect-jobs"
import { stepsFromRecords } from "effect-jobs/engine"
import { TestDispatcher } from "effect-jobs/testing"
import { Cause, Deferred, Duration, Effect, Exit, Fiber, Layer, Option, Schema } from "effect"
import { TestClock } from "effect/testing"
import { Activity, DurableClock, DurableDeferred } from "effect/workflow"

class StepError extends Schema.TaggedError<StepError>()("StepError", { at: Schema.Date }) {}
class Work extends Job.make("steps.work", {
  payload: { key: Schema.String },
  success: Schema.Unknown,
  retry: RetryPolicy.fixed({ attempts: 3, delay: "1 second" })
}) {}

type Handler = (payload: { readonly key: string }) => Effect.Effect<unknown, unknown, Job.Provided>
/** Runs the job once on the test's clock, and answers with its last exit. */
const running = (
  handler: Handler,
  beside: Effect.Effect<void, unknown, Layer.Success<typeof none>> = Effect.void
) =>
  Effect.gen(function* () {
    yield* Work.dispatch({ key: "k" }, { id: "run" })
    yield* beside
    yield* TestClock.adjust("1 day")
    const runs = yield* TestDispatcher.attempts(Work)
    return runs.map(({ exit }) => exit)
  }).pipe(
    Effect.provide(
      TestDispatcher.layerRunning([Work], { onError: () => Effect.void }).pipe(
        Layer.provide(Work.toLayer(handler)),
        (dispatcher) => Layer.provideMerge(Steps.layer, dispatcher)
      )
    )
  )
const none = Layer.provideMerge(Steps.layer, TestDispatcher.layerRunning([]))

const outcomeOf = (exit: Exit.Exit<unknown, unknown>) =>
  Exit.isSuccess(exit) ? exit.value : Cause.squash(exit.cause)

const counted = () => {
  const counts: Record<string, number> = {}
  const count = (name: string) => Effect.sync(() => (counts[name] = (counts[name] ?? 0) + 1))
  return { count, counts }
}

describe("activities", () => {
  it.effect("a retry of the job doesn't repeat finished ones, and their results are decoded again", () => {
    const { count, counts } = counted()
    return Effect.gen(function* () {
      const exits = yield* running(() =>
        Effect.gen(function* () {
          const { attempt } = yield* Job.CurrentRun
          const at = yield* Activity.make({
            name: "a",
            success: Schema.Date,
            execute: Effect.as(count("a"), new Date(5))
          })
          assert.instanceOf(at, Date)
          const all = yield* Effect.all(
            [1, 2, 3].map((n) =>
              Activity.make({
                name: `parallel ${n}`,
                success: Schema.Int,
                execute: Effect.as(count(`${n}`), n)
              })
            ),
            { concurrency: "unbounded" }
          )
          if (attempt < 3) return yield* Effect.fail("again")
          return [at.getTime(), ...all]
        })
      )
      assert.deepStrictEqual(exits[2], Exit.succeed([5, 1, 2, 3]))
      assert.deepStrictEqual(counts, { a: 1, "1": 1, "2": 1, "3": 1 })
    })
  })

  it.effect("one that failed runs again with the job's next attempt", () => {
    const { count, counts } = counted()
    return Effect.gen(function* () {
      const exits = yield* running(() =>
        Effect.gen(function* () {
          const { attempt } = yield* Job.CurrentRun
          yield* Activity.make({ name: "before", execute: count("before") })
          yield* Activity.make({
            name: "fails",
            error: StepError,
            execute: Effect.andThen(
              count("fails"),
              attempt < 3 ? Effect.fail(new StepError({ at: new Date(attempt) })) : Effect.void
            )
          })
          return null
        })
      )
      assert.deepStrictEqual(exits.map(outcomeOf), [
        new StepError({ at: new Date(1) }),
        new StepError({ at: new Date(2) }),
        null
      ])
      assert.deepStrictEqual(counts, { before: 1, fails: 3 })
    })
  })

  it.effect("Activity.retry counts the attempts of a step", () => {
    const { counts, count } = counted()
    return Effect.gen(function* () {
      const attempts: Array<number> = []
      const [exit] = yield* running(() =>
        Activity.make({
          name: "flaky",
          error: StepError,
          success: Schema.Int,
          execute: Effect.gen(function* () {
            yield* count("flaky")
            const attempt = yield* Activity.CurrentAttempt
            attempts.push(attempt)
            return attempt < 3 ? yield* new StepError({ at: new Date(0) }) : attempt
          })
        }).pipe(Activity.retry({ times: 4 }))
      )
      assert.deepStrictEqual(exit, Exit.succeed(3))
      assert.deepStrictEqual(attempts, [1, 2, 3])
      assert.deepStrictEqual(counts, { flaky: 3 })
    })
  })

  it.effect(
    "Steps.retry pauses by the policy, and a retry of the job doesn't pause again for what is done",
    () => {
      const times: Array<number> = []
      return Effect.gen(function* () {
        const exits = yield* running(() =>
          Effect.gen(function* () {
            const { attempt } = yield* Job.CurrentRun
            const clock = yield* TestClock.testClockWith(Effect.succeed)
            yield* Steps.retry(
              Activity.make({
                name: "flaky",
                error: StepError,
                execute: Effect.suspend(() => {
                  times.push(clock.currentTimeMillisUnsafe())
                  return times.length < 3 ? new StepError({ at: new Date(0) }) : Effect.void
                })
              }),
              RetryPolicy.exponential({ attempts: 3, initialDelay: "10 seconds" })
            )
            if (attempt < 2) return yield* Effect.fail("again")
            return clock.currentTimeMillisUnsafe()
          })
        )
        assert.deepStrictEqual(times, [0, 10_000, 30_000])
        assert.deepStrictEqual(exits[1], Exit.succeed(31_000))
      })
    }
  )

  it.effect("Steps.retry ends with the policy's attempts, and where its while says no", () => {
    const { count, counts } = counted()
    const flaky = (name: string, policy: RetryPolicy.Input<StepError>) =>
      Effect.flip(
        Steps.retry(
          Activity.make({
            name,
            error: StepError,
            execute: Effect.andThen(count(name), new StepError({ at: new Date(7) }))
          }),
          policy
        )
      )
    return Effect.gen(function* () {
      const [exit] = yield* running(() =>
        Effect.gen(function* () {
          const error = yield* flaky("thrice", { attempts: 3 })
          yield* flaky("once", { attempts: 3, while: ({ at }) => at.getTime() !== 7 })
          return error.at.getTime()
        })
      )
      assert.deepStrictEqual(exit, Exit.succeed(7))
      assert.deepStrictEqual(counts, { thrice: 3, once: 1 })
    })
  })

  it.effect("of one name are told apart by the order in which they start", () => {
    const { count, counts } = counted()
    return Effect.gen(function* () {
      const exits = yield* running(() =>
        Effect.gen(function* () {
          const { attempt } = yield* Job.CurrentRun
          const results = yield* Effect.forEach([1, 2, 3], (n) =>
            Activity.make({ name: "batch", success: Schema.Int, execute: Effect.as(count(`${n}`), n) })
          )
          if (attempt < 2) return yield* Effect.fail("again")
          return results
        })
      )
      assert.deepStrictEqual(exits[1], Exit.succeed([1, 2, 3]))
      assert.deepStrictEqual(counts, { "1": 1, "2": 1, "3": 1 })
    })
  })

  it.effect("have a scope and the handler's services, and no step inside", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const exits = yield* running(() =>
        Effect.gen(function* () {
          yield* Activity.make({
            name: "outer",
            execute: Effect.gen(function* () {
              const { id } = yield* Job.CurrentRun
              yield* Effect.acquireRelease(
                Effect.sync(() => seen.push(`acquire ${id}`)),
                () => Effect.sync(() => seen.push("release"))
              )
            })
          })
          seen.push("after")
          yield* Activity.make({
            name: "nesting",
            execute: Activity.make({ name: "nested", execute: Effect.void })
          })
        })
      )
      assert.deepStrictEqual(seen.slice(0, 3), ["acquire run", "release", "after"])
      assert.include(
        String(exits[0]),
        `The activity "nested" isn't in the handler of a job: steps can't be inside an activity`
      )
    })
  )
})

describe("clocks", () => {
  it.effect("a sleep takes its time on the test's clock, once for all attempts of the job", () => {
    const times: Array<number> = []
    return Effect.gen(function* () {
      yield* running(() =>
        Effect.gen(function* () {
          const clock = yield* TestClock.testClockWith(Effect.succeed)
          yield* DurableClock.sleep({ name: "long", duration: "1 hour" })
          yield* DurableClock.sleep({ name: "short", duration: "10 seconds", inMemoryThreshold: 0 })
          yield* DurableClock.sleep({ name: "in memory", duration: "5 seconds" })
          times.push(clock.currentTimeMillisUnsafe())
          return yield* Effect.fail("again")
        })
      )
      assert.deepStrictEqual(times, [3_615_000, 3_616_000, 3_617_000])
    })
  })
})

describe("deferreds", () => {
  const Answer = DurableDeferred.make("answer", { success: Schema.Date, error: StepError })

  it.effect("are completed from outside, with the token that the handler gave away", () =>
    Effect.gen(function* () {
      const given = yield* Deferred.make<DurableDeferred.Token>()
      const exits = yield* running(
        () =>
          Effect.gen(function* () {
            const { attempt } = yield* Job.CurrentRun
            yield* Deferred.succeed(given, yield* DurableDeferred.token(Answer))
            const answer = yield* DurableDeferred.await(Answer)
            assert.instanceOf(answer, Date)
            if (attempt < 2) return yield* Effect.fail("again")
            return answer.getTime()
          }),
        Effect.flatMap(Deferred.await(given), (token) =>
          Effect.andThen(
            DurableDeferred.succeed(Answer, { token, value: new Date(42) }),
            DurableDeferred.succeed(Answer, { token, value: new Date(43) })
          )
        )
      )
      assert.deepStrictEqual(exits[1], Exit.succeed(42))
    })
  )

  it.effect("fail with their typed error", () =>
    Effect.gen(function* () {
      const given = yield* Deferred.make<DurableDeferred.Token>()
      const exits = yield* running(
        () =>
          Effect.gen(function* () {
            yield* Deferred.succeed(given, yield* DurableDeferred.token(Answer))
            return yield* DurableDeferred.await(Answer)
          }),
        Effect.flatMap(Deferred.await(given), (token) =>
          DurableDeferred.fail(Answer, { token, error: new StepError({ at: new Date(1) }) })
        )
      )
      assert.deepStrictEqual(exits.map(outcomeOf)[0], new StepError({ at: new Date(1) }))
    })
  )

  it.effect("may be completed by another branch of the same run, and raced", () =>
    Effect.gen(function* () {
      const [exit] = yield* running(() =>
        Effect.gen(function* () {
          const [answer] = yield* Effect.all(
            [DurableDeferred.await(Answer), DurableDeferred.into(Effect.succeed(new Date(3)), Answer)],
            { concurrency: "unbounded" }
          )
          const winner = yield* Activity.raceAll("race", [
            Activity.make({
              name: "slow",
              success: Schema.Int,
              execute: Effect.as(Effect.sleep("1 hour"), 1)
            }),
            Activity.make({
              name: "fast",
              success: Schema.Int,
              execute: Effect.as(Effect.sleep("1 minute"), 2)
            })
          ])
          return [answer.getTime(), winner]
        })
      )
      assert.deepStrictEqual(exit, Exit.succeed([3, 2]))
    })
  )
})

describe("elsewhere", () => {
  const handler = () =>
    Effect.gen(function* () {
      const a = yield* Activity.make({ name: "a", success: Schema.Int, execute: Effect.succeed(1) })
      yield* DurableClock.sleep({ name: "pause", duration: "2 seconds", inMemoryThreshold: 0 })
      return a
    })

  it.effect("the same handler on inline", () =>
    Effect.gen(function* () {
      const fiber = yield* Effect.forkChild(Work.dispatch({ key: "k" }))
      yield* TestClock.adjust("1999 millis")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      yield* Fiber.join(fiber)
    }).pipe(Effect.provide(InlineDispatcher.layer([Work]).pipe(Layer.provide(Work.toLayer(handler)))))
  )

  it.effect("and in Job.run", () =>
    Effect.gen(function* () {
      const fiber = yield* Effect.forkChild(Work.run({ key: "k" }))
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), 1)
    }).pipe(Effect.provide(Work.toLayer(handler)))
  )
})

describe("names", () => {
  it.effect("that end in a number, or look like another step's, collide with none", () => {
    const { count, counts } = counted()
    const named = (name: string, value: number) =>
      Activity.make({ name, success: Schema.Int, execute: Effect.as(count(`${name} ${value}`), value) })
    return Effect.gen(function* () {
      const Answer = DurableDeferred.make("answer", { success: Schema.Int })
      const exits = yield* running(() =>
        Effect.gen(function* () {
          const { attempt } = yield* Job.CurrentRun
          const values = [
            yield* named("a", 1),
            yield* named("a", 2),
            yield* named("a (2)", 3),
            yield* named("activity(2)/a", 4),
            yield* named("deferred/answer", 5),
            yield* named("race/raceAll/r", 6),
            yield* named("a.2", 7),
            yield* named("DurableClock/nap", 8),
            ...(yield* Effect.all(
              [DurableDeferred.await(Answer), DurableDeferred.into(Effect.succeed(9), Answer)],
              { concurrency: "unbounded" }
            )),
            yield* Activity.raceAll("r", [named("left", 10)])
          ]
          yield* DurableClock.sleep({ name: "nap", duration: "2 minutes" })
          return attempt < 2 ? yield* Effect.fail("again") : values
        })
      )
      assert.deepStrictEqual(outcomeOf(exits[1] ?? Exit.void), [1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 10])
      assert.deepStrictEqual(
        Object.values(counts),
        Object.keys(counts).map(() => 1)
      )
    })
  })

  it.effect("that the handler used are free in onFailure: a compensation happens", () => {
    const { count, counts } = counted()
    return Effect.gen(function* () {
      class Compensated extends Job.make("steps.compensated", { payload: {} }) {}
      const charge = (what: string) => Activity.make({ name: "charge", execute: count(what) })
      yield* Compensated.dispatch().pipe(
        Effect.provide(
          InlineDispatcher.layer([Compensated], { onError: () => Effect.void }).pipe(
            Layer.provide(
              Compensated.toLayer(() => Effect.andThen(charge("charged"), Effect.fail("no")), {
                onFailure: () => charge("refunded")
              })
            )
          )
        )
      )
      assert.deepStrictEqual(counts, { charged: 1, refunded: 1 })
    })
  })
})

describe("races", () => {
  it.effect("between an answer and a day are won by the day", () =>
    Effect.gen(function* () {
      const Answer = DurableDeferred.make("answer", { success: Schema.String })
      const exits = yield* running(() =>
        DurableDeferred.raceAll({
          name: "answer or a day",
          success: Schema.String,
          error: Schema.Never,
          effects: [
            DurableDeferred.await(Answer),
            Effect.as(DurableClock.sleep({ name: "day", duration: "10 hours" }), "nobody answered")
          ]
        })
      )
      assert.deepStrictEqual(exits.map(outcomeOf), ["nobody answered"])
    })
  )

  it.effect("that were lost are run again by the next attempt of the job, those that were won aren't", () => {
    const { count, counts } = counted()
    return Effect.gen(function* () {
      const exits = yield* running(() =>
        Effect.gen(function* () {
          const { attempt } = yield* Job.CurrentRun
          yield* Activity.raceAll("won", [
            Activity.make({ name: "first", success: Schema.Int, execute: Effect.as(count("won"), 1) })
          ])
          return yield* DurableDeferred.raceAll({
            name: "lost",
            success: Schema.Int,
            error: Schema.String,
            effects: [
              Effect.andThen(count("lost"), attempt < 3 ? Effect.fail("not yet") : Effect.succeed(attempt))
            ]
          })
        })
      )
      assert.deepStrictEqual(exits.map(outcomeOf), ["not yet", "not yet", 3])
      assert.deepStrictEqual(counts, { won: 1, lost: 3 })
    })
  })

  it.effect("a deferred whose name begins as a race's is waited for", () =>
    Effect.gen(function* () {
      const Odd = DurableDeferred.make("raceAll/odd", { success: Schema.String })
      const given = yield* Deferred.make<DurableDeferred.Token>()
      const exits = yield* running(
        () =>
          Effect.gen(function* () {
            yield* Deferred.succeed(given, yield* DurableDeferred.token(Odd))
            return yield* DurableDeferred.await(Odd)
          }),
        Effect.flatMap(Deferred.await(given), (token) =>
          DurableDeferred.succeed(Odd, { token, value: "answered" })
        )
      )
      assert.deepStrictEqual(exits.map(outcomeOf), ["answered"])
    })
  )
})

describe("a deferred", () => {
  it.effect("that a defect was put into gives that defect", () =>
    Effect.gen(function* () {
      const Answer = DurableDeferred.make("answer", { success: Schema.String })
      const exits = yield* running(() =>
        Effect.gen(function* () {
          yield* Effect.exit(DurableDeferred.into(Effect.die(new Error("the defect")), Answer))
          const exit = yield* Effect.exit(DurableDeferred.await(Answer))
          return Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "it succeeded"
        })
      )
      assert.deepStrictEqual(exits.map(outcomeOf), ["Error: the defect"])
    })
  )

  it.effect("is waited for by looking again and again, in steady memory", () =>
    Effect.gen(function* () {
      let looks = 0
      const steps = stepsFromRecords({
        get: () => Effect.sync(() => (++looks < 100_000 ? Option.none() : Option.some(1))),
        set: () => Effect.void,
        pollInterval: Duration.millis(1)
      })
      const waiting = yield* Effect.forkChild(steps.wait("answer"))
      yield* TestClock.adjust("1 second")
      assert.isAbove(looks, 900)
      looks = 99_999
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Fiber.join(waiting), 1)
    })
  )
})

describe("dispatches from within a run", () => {
  class Child extends Job.make("steps.child", { payload: { n: Schema.Int } }) {}
  class Happened extends DomainEvent.make("steps.happened", { payload: {} }) {}

  it.effect("have the same id in every attempt; what differs is another dispatch", () =>
    Effect.gen(function* () {
      const sent: Array<readonly [string, number, string]> = []
      yield* Effect.andThen(Work.dispatch({ key: "k" }, { id: "run" }), TestClock.adjust("1 minute")).pipe(
        Effect.provide(
          InlineDispatcher.layer([Work, Child], { background: true, onError: () => Effect.void }).pipe(
            Layer.provide([
              Child.toLayer(() => Effect.void),
              Work.toLayer(() =>
                Effect.gen(function* () {
                  const { attempt } = yield* Job.CurrentRun
                  const note = (what: string) => (receipt: { readonly id: string }) =>
                    Effect.sync(() => void sent.push([what, attempt, receipt.id]))
                  yield* Effect.flatMap(Child.dispatch({ n: 1 }), note("first"))
                  yield* Activity.make({
                    name: "inside",
                    execute: Effect.flatMap(Effect.orDie(Child.dispatch({ n: 1 })), note("inside"))
                  })
                  yield* Effect.flatMap(Child.dispatch({ n: 1 }), note("second"))
                  yield* Effect.flatMap(Child.dispatch({ n: attempt }), note("differs"))
                  yield* Effect.flatMap(Happened.publish(), note("event"))
                  yield* DurableClock.sleep({ name: "nap", duration: "1 second", inMemoryThreshold: 0 })
                  if (attempt < 3) return yield* Effect.fail("again")
                })
              )
            ])
          )
        )
      )
      const ids = (what: string) => new Set(sent.filter(([name]) => name === what).map(([, , id]) => id))
      for (const what of ["first", "inside", "second", "event"]) assert.strictEqual(ids(what).size, 1, what)
      assert.strictEqual(
        new Set([...ids("first"), ...ids("inside"), ...ids("second"), ...ids("event")]).size,
        4
      )
      // the third equal one of attempt 1, and two others
      assert.strictEqual(ids("differs").size, 3)
      assert.strictEqual(sent.filter(([name]) => name === "inside").length, 1)
    })
  )
})
