// The rules of every engine on a real Inngest server, with steps in the handler.
import { assert, it } from "@effect/vitest"
import { Cause, Clock, Effect, Layer, Logger, Schema } from "effect"
import { Job, Outcome, RetryPolicy } from "effect-jobs"
import { InngestDispatcher, InngestSteps, InngestWorker } from "effect-jobs/inngest"
import { Activity, DurableClock } from "effect/workflow"
import * as Inngest from "../support/Inngest.ts"
import { holds } from "../support/inngestFaults.ts"
import { onInngest } from "../support/needs.ts"

const delay = 2_000
const fixed = (attempts: number) => RetryPolicy.fixed({ attempts, delay })

class Activities extends Job.make("rules.activities", { payload: {}, retry: fixed(5) }) {}
class Slept extends Job.make("rules.slept", { payload: {}, retry: fixed(5) }) {}
class Late extends Job.make("rules.late", { payload: {}, retry: fixed(4) }) {}
class Parallel extends Job.make("rules.parallel", { payload: {}, retry: fixed(3) }) {}
class Limited extends Job.make("rules.limited", {
  payload: {},
  retry: fixed(2),
  timeout: "1 second"
}) {}
class Fallback extends Job.make("rules.fallback", { payload: {}, success: Schema.String }) {}
class LargeSuccess extends Job.make("rules.large-success", {
  payload: {},
  success: Schema.String,
  retry: fixed(3)
}) {}
class LargeActivity extends Job.make("rules.large-activity", { payload: {}, retry: fixed(3) }) {}
class Big extends Schema.TaggedError<Big>()("Big", { text: Schema.String }) {}
class LargeFailure extends Job.make("rules.large-failure", {
  payload: { size: Schema.Int },
  error: Big,
  retry: { attempts: 1 }
}) {}
class Tools extends Job.make("rules.tools", { payload: {}, retry: fixed(2) }) {}
class Child extends Job.make("rules.child", { payload: { n: Schema.Int } }) {}
class Parent extends Job.make("rules.parent", { payload: {}, retry: fixed(2) }) {}
const jobs = [
  Child,
  Parent,
  Tools,
  Activities,
  Slept,
  Late,
  Parallel,
  Limited,
  Fallback,
  LargeSuccess,
  LargeActivity,
  LargeFailure
] as const

interface Seen {
  readonly what: string
  readonly attempt: number
  readonly time: number
}

const handlers = (seen: Array<Seen>, failed: Map<string, unknown>) => {
  const note = (what: string) =>
    Effect.gen(function* () {
      const { attempt } = yield* Job.CurrentRun
      seen.push({ what, attempt, time: yield* Clock.currentTimeMillis })
    })
  const charge = (what: string) =>
    Activity.make({
      name: "charge",
      error: Schema.String,
      execute: Effect.andThen(note(what), Effect.fail("busy"))
    })
  const nap = DurableClock.sleep({ name: "nap", duration: "1 second", inMemoryThreshold: 0 })
  const fine = (name: string) => Activity.make({ name, execute: Effect.void })
  const onFailure = (what: string) => ({
    onFailure: (_: unknown, cause: Cause.Cause<unknown>) =>
      Effect.sync(() => void failed.set(what, Cause.squash(cause)))
  })
  return Layer.mergeAll(
    Child.toLayer(({ n }) => note(`child ${n}`)),
    Parent.toLayer(() =>
      Effect.gen(function* () {
        const { attempt } = yield* Job.CurrentRun
        yield* fine("before")
        yield* Child.dispatch({ n: 1 })
        yield* nap
        if (attempt === 1) return yield* Effect.fail("once more")
        yield* fine("after")
        yield* Child.dispatch({ n: 2 })
        yield* note("parent")
      })
    ),
    Tools.toLayer(
      () =>
        Effect.gen(function* () {
          yield* Effect.acquireRelease(note("acquired"), () => note("released"))
          const { attempt } = yield* Job.CurrentRun
          if (attempt === 1) return yield* Effect.fail("at once")
          const sent = yield* InngestSteps.tool(
            "event",
            (step, id) => step.sendEvent(id, { name: "rules.nobody", data: {} }),
            Schema.Struct({ ids: Schema.Array(Schema.String) })
          )
          const at = yield* InngestSteps.tool(
            "time",
            (step, id) =>
              step.run(id, () => {
                seen.push({ what: "tool", attempt, time: 0 })
                return new Date(0)
              }),
            Schema.toCodecJson(Schema.Date)
          )
          yield* note(`tools ${sent.ids.length} ${at.getTime()}`)
          return yield* Effect.fail("again")
        }),
      onFailure("tools")
    ),
    Activities.toLayer(() => Effect.andThen(fine("before"), charge("activities")), onFailure("activities")),
    Slept.toLayer(() => Effect.andThen(nap, charge("slept")), onFailure("slept")),
    // no step before the first failure: the sleep and what follows are of the second attempt
    Late.toLayer(
      () =>
        Effect.gen(function* () {
          yield* note("late")
          const { attempt } = yield* Job.CurrentRun
          if (attempt === 1) return yield* Effect.fail("at once")
          yield* nap
          yield* note("late, awake")
          return yield* Effect.fail("again")
        }),
      onFailure("late")
    ),
    Parallel.toLayer(
      () =>
        Effect.gen(function* () {
          const { attempt } = yield* Job.CurrentRun
          if (attempt === 1) return yield* Effect.fail("at once")
          const both = ["a", "b"].map((name) =>
            Activity.make({ name: `${name} ${attempt}`, execute: note(`parallel ${name}`) })
          )
          yield* Effect.all(both, { concurrency: "unbounded" })
          return yield* Effect.fail("again")
        }),
      onFailure("parallel")
    ),
    Limited.toLayer(
      () =>
        Activity.make({ name: "long", execute: Effect.andThen(note("limited"), Effect.sleep("10 seconds")) }),
      onFailure("limited")
    ),
    Fallback.toLayer(() =>
      Effect.gen(function* () {
        const long = Activity.make({
          name: "long",
          success: Schema.String,
          execute: Effect.as(Effect.andThen(note("fallback"), Effect.sleep("10 seconds")), "in time")
        })
        const value = yield* Effect.timeoutOrElse(long, {
          duration: "500 millis",
          orElse: () => Effect.succeed("fallback")
        })
        yield* Activity.make({ name: "after", execute: note(`after ${value}`) })
        yield* note(`end ${value}`)
        return value
      })
    ),
    LargeSuccess.toLayer(
      () => Effect.as(note("large success"), "x".repeat(5 * 1024 * 1024)),
      onFailure("large success")
    ),
    LargeActivity.toLayer(
      () =>
        Effect.asVoid(
          Activity.make({
            name: "large",
            success: Schema.String,
            execute: Effect.as(note("large activity"), "x".repeat(5 * 1024 * 1024))
          })
        ),
      onFailure("large activity")
    ),
    LargeFailure.toLayer(({ size }) => Effect.fail(new Big({ text: "x".repeat(size) })), {
      onFailure: ({ size }, cause) =>
        Effect.sync(() => void failed.set(`large failure ${size}`, Cause.squash(cause)))
    })
  )
}

const app = (checkpointing: boolean) =>
  Effect.gen(function* () {
    const server = yield* Inngest.make(["dev"])
    const seen: Array<Seen> = []
    const failed = new Map<string, unknown>()
    const context = yield* Layer.build(
      Inngest.overHttp(jobs, { onError: () => Effect.void }).pipe(
        Layer.provide(handlers(seen, failed)),
        Layer.provideMerge(InngestDispatcher.layer),
        Layer.provideMerge(Inngest.client(server, { checkpointing })),
        Layer.provide(Logger.layer([]))
      )
    )
    return { context, seen, failed, of: (what: string) => seen.filter((entry) => entry.what === what) }
  })

const attemptsOf = (seen: ReadonlyArray<Seen>) => seen.map(({ attempt }) => attempt)
const distinct = (seen: ReadonlyArray<Seen>) => [...new Set(attemptsOf(seen))]

const assertDelays = (seen: ReadonlyArray<Seen>, more = 0) => {
  for (const [index, { time }] of seen.entries()) {
    const before = seen[index - 1]
    if (before === undefined) continue
    assert.isAtLeast(time - before.time, delay)
    // the server's seconds, and a machine that has other things to do
    assert.isBelow(time - before.time, delay + more + 2_500)
  }
}

onInngest("the rules on Inngest", () => {
  for (const checkpointing of [true, false]) {
    const suffix = `checkpointing ${checkpointing ? "on" : "off"}`
    it.live(
      `${suffix}: a job has its attempts and its policy's delays, whatever its steps`,
      () =>
        Effect.gen(function* () {
          const { context, failed, of, seen } = yield* app(checkpointing)
          yield* Effect.all([
            Activities.dispatch({}),
            Slept.dispatch({}),
            Late.dispatch({}),
            Parallel.dispatch({})
          ]).pipe(Effect.provideContext(context))
          yield* holds(() => assert.strictEqual(failed.size, 4))
          yield* Effect.sleep("3 seconds")
          for (const what of ["activities", "slept"]) {
            assert.deepStrictEqual(attemptsOf(of(what)), [1, 2, 3, 4, 5], what)
            assertDelays(of(what))
            assert.strictEqual(failed.get(what), "busy")
          }
          assert.deepStrictEqual(distinct(of("late")), [1, 2, 3, 4])
          assert.deepStrictEqual(distinct(of("late, awake")), [2, 3, 4])
          for (const name of ["a", "b"]) {
            assert.deepStrictEqual(attemptsOf(of(`parallel ${name}`)), [2, 3], name)
          }
          assert.isAtMost(Math.max(...attemptsOf(seen)), 5)
        }),
      120_000
    )

    it.live(
      `${suffix}: a handler with steps that dispatches a child has one child, in all its calls and attempts`,
      () =>
        Effect.gen(function* () {
          const { context, of } = yield* app(checkpointing)
          yield* Effect.provideContext(Parent.dispatch({}), context)
          yield* holds(() => assert.isNotEmpty(of("parent")))
          yield* holds(() => assert.isNotEmpty(of("child 2")))
          yield* Effect.sleep("2 seconds")
          for (const child of ["child 1", "child 2"]) assert.lengthOf(of(child), 1, child)
        }),
      120_000
    )

    it.live(
      `${suffix}: the tools of the SDK are steps like others`,
      () =>
        Effect.gen(function* () {
          const { context, failed, of } = yield* app(checkpointing)
          yield* Effect.provideContext(Tools.dispatch({}), context)
          yield* holds(() => assert.isTrue(failed.has("tools")))
          assert.lengthOf(of("tool"), 1)
          assert.deepStrictEqual(distinct(of("tools 1 0")), [2])
          assert.isAtLeast(of("acquired").length, 2)
          assert.lengthOf(of("released"), of("acquired").length)
        }),
      120_000
    )

    it.live(
      `${suffix}: an activity that its handler interrupts leaves the outcome to the handler`,
      () =>
        Effect.gen(function* () {
          const { context, failed, of } = yield* app(checkpointing)
          yield* Effect.all([Limited.dispatch({}), Fallback.dispatch({})]).pipe(
            Effect.provideContext(context)
          )
          yield* holds(() => assert.isTrue(failed.has("limited")))
          yield* holds(() => assert.isNotEmpty(of("end fallback")))
          assert.match(String(failed.get("limited")), /took longer than its timeout of 1s/)
          assert.deepStrictEqual(attemptsOf(of("limited")), [1, 2])
          assertDelays(of("limited"), 1_000)
          // its body once, also where the handler is called again
          assert.lengthOf(of("fallback"), 1)
          assert.lengthOf(of("after fallback"), 1)
          assert.isEmpty(of("end in time"))
        }),
      120_000
    )

    it.live(
      `${suffix}: what is too large for the server fails at once, and says so`,
      () =>
        Effect.gen(function* () {
          const { context, failed, of } = yield* app(checkpointing)
          const sizes = [1_000, 500_000, 3_000_000]
          yield* Effect.all([
            LargeSuccess.dispatch({}),
            LargeActivity.dispatch({}),
            ...sizes.map((size) => LargeFailure.dispatch({ size }))
          ]).pipe(Effect.provideContext(context))
          yield* holds(() => assert.strictEqual(failed.size, 5))
          yield* Effect.sleep("3 seconds")
          for (const what of ["large success", "large activity"]) {
            assert.lengthOf(of(what), 1, what)
            assert.match(String(failed.get(what)), /has 5242[89]\d\d bytes as JSON: Inngest keeps at most/)
          }
          assert.deepStrictEqual(failed.get("large failure 1000"), new Big({ text: "x".repeat(1_000) }))
          assert.deepStrictEqual(failed.get("large failure 500000"), new Big({ text: "x".repeat(500_000) }))
          const cut = failed.get("large failure 3000000")
          assert.instanceOf(cut, Error)
          assert.notInstanceOf(cut, Outcome.WorkerLost)
          assert.notInstanceOf(cut, InngestWorker.ServerFailed)
        }),
      120_000
    )
  }
})
