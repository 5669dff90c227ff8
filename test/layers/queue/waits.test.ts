// Durable waits on the queue: a run that only waits holds nothing, uses no attempt, and goes on over its records.
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Layer, Schema, Scope } from "effect"
import { Job, RetryPolicy, Steps } from "effect-jobs"
import { QueueDispatcher, QueueStore, QueueWorker } from "effect-jobs/queue"
import { TestClock } from "effect/testing"
import { Activity, DurableClock, DurableDeferred } from "effect/workflow"
import { eventually } from "../../support/eventually.ts"
import * as Stores from "../../support/Stores.ts"

const memory = QueueDispatcher.layer.pipe(Layer.provideMerge(QueueStore.layerMemory))

class Wait extends Job.make("waits.wait", { payload: { key: Schema.String }, success: Schema.Unknown }) {}
class Task extends Job.make("waits.task", { payload: {} }) {}
const Answer = DurableDeferred.make("answer", { success: Schema.String })

type Handler = (payload: { readonly key: string }) => Effect.Effect<unknown, unknown, Job.Provided>

const start = (handler: Handler, options: QueueWorker.Options & { readonly onTask?: () => void } = {}) =>
  Effect.gen(function* () {
    const scope = yield* Scope.fork(yield* Effect.scope)
    const worker = QueueWorker.layer([Wait, Task], { concurrency: 2, onError: () => Effect.void, ...options })
    yield* Layer.buildWithScope(
      Layer.provide(worker, [
        Wait.toLayer(handler),
        Task.toLayer(() => Effect.sync(() => options.onTask?.()))
      ]),
      scope
    )
    return Scope.close(scope, Exit.void)
  })

const aDay = DurableClock.sleep({ name: "a day", duration: "1 day" })

describe("a run that waits", () => {
  it.effect("for a day comes back at its time, in the same attempt, and repeats no step", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      yield* start(() =>
        Effect.gen(function* () {
          const { attempt } = yield* Job.CurrentRun
          yield* Effect.acquireRelease(
            Effect.sync(() => void seen.push(`acquired in ${attempt}`)),
            () => Effect.sync(() => void seen.push("released"))
          )
          yield* Activity.make({ name: "before", execute: Effect.sync(() => void seen.push("before")) })
          yield* aDay
          yield* Activity.make({ name: "after", execute: Effect.sync(() => void seen.push("after")) })
        })
      )
      yield* Wait.dispatch({ key: "k" })
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(seen, ["acquired in 1", "before", "released"])
      yield* TestClock.adjust("23 hours")
      assert.strictEqual(seen.filter((what) => what === "after").length, 0)
      yield* TestClock.adjust("2 hours")
      assert.strictEqual(seen.filter((what) => what === "before").length, 1)
      assert.strictEqual(seen.filter((what) => what === "after").length, 1)
      assert.isFalse(seen.includes("acquired in 2"))
      assert.strictEqual(
        seen.filter((what) => what === "released").length,
        seen.filter((what) => what.startsWith("acquired")).length
      )
    }).pipe(Effect.scoped, Effect.provide(memory))
  )

  it.effect("holds no slot: twenty of them stop nothing", () =>
    Effect.gen(function* () {
      let tasks = 0
      let ended = 0
      const tokens: Array<DurableDeferred.Token> = []
      yield* start(
        ({ key }) =>
          Effect.gen(function* () {
            tokens.push(yield* DurableDeferred.token(Answer))
            yield* key === "sleeps" ? aDay : DurableDeferred.await(Answer)
            ended++
          }),
        { onTask: () => void tasks++ }
      )
      yield* Wait.dispatchAll(
        Array.from({ length: 20 }, (_, n) => ({ key: n % 2 === 0 ? "sleeps" : "asks" }))
      )
      yield* TestClock.adjust("2 minutes")
      for (let n = 0; n < 10; n++) yield* Task.dispatch()
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(tasks, 10)
      assert.strictEqual(ended, 0)
      for (const token of new Set(tokens)) {
        yield* DurableDeferred.succeed(Answer, { token, value: "yes" }).pipe(Effect.provide(Steps.layer))
      }
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual(ended, 10)
      yield* TestClock.adjust("1 day")
      assert.strictEqual(ended, 20)
    }).pipe(Effect.scoped, Effect.provide(memory))
  )

  it.effect("delays no shutdown, and uses no attempt by it", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const handler: Handler = () =>
        Effect.gen(function* () {
          const { attempt } = yield* Job.CurrentRun
          yield* aDay
          seen.push(`ended in ${attempt}`)
        })
      for (let n = 0; n < 3; n++) {
        const stop = yield* start(handler)
        if (n === 0) yield* Wait.dispatch({ key: "k" })
        yield* TestClock.adjust(n === 1 ? "10 seconds" : "100 millis")
        const stopping = yield* Effect.forkChild(stop)
        yield* TestClock.adjust("1 second")
        yield* Fiber.join(stopping)
      }
      yield* start(handler)
      yield* TestClock.adjust("25 hours")
      assert.deepStrictEqual(seen, ["ended in 1"])
    }).pipe(Effect.scoped, Effect.provide(memory))
  )

  it.effect("and fails afterwards has its attempts, as many as the policy says", () =>
    Effect.gen(function* () {
      const attempts: Array<number> = []
      class Fails extends Job.make("waits.fails", {
        payload: {},
        retry: RetryPolicy.fixed({ attempts: 3, delay: "1 minute" })
      }) {}
      const failed: Array<number> = []
      yield* Layer.build(
        Layer.provide(
          QueueWorker.layer([Fails], {
            onError: (error) => Effect.sync(() => void failed.push(error.attempts))
          }),
          Fails.toLayer(() =>
            Effect.gen(function* () {
              const { attempt } = yield* Job.CurrentRun
              yield* DurableClock.sleep({ name: `nap ${attempt}`, duration: "1 hour" })
              attempts.push(attempt)
              return yield* Effect.fail("no")
            })
          )
        )
      )
      yield* Fails.dispatch()
      yield* TestClock.adjust("5 hours")
      assert.deepStrictEqual(attempts, [1, 2, 3])
      assert.deepStrictEqual(failed, [3])
    }).pipe(Effect.scoped, Effect.provide(memory))
  )

  const shapes: Readonly<Record<string, (wait: typeof aDay) => Effect.Effect<unknown, never, Job.Provided>>> =
    {
      "a catch of every cause": (wait) => Effect.catchCause(wait, () => Effect.succeed("swallowed")),
      "an exit": (wait) =>
        Effect.map(Effect.exit(wait), (exit) => (Exit.isSuccess(exit) ? "slept" : "swallowed")),
      "a race": (wait) =>
        Effect.raceFirst(Effect.as(wait, "slept"), Effect.never).pipe(
          Effect.catchCause(() => Effect.succeed("swallowed"))
        ),
      "all of many": (wait) =>
        Effect.all([wait, DurableClock.sleep({ name: "other", duration: "2 hours" })], {
          concurrency: "unbounded"
        }).pipe(
          Effect.as("slept"),
          Effect.catchCause(() => Effect.succeed("swallowed"))
        ),
      "a fiber that is joined": (wait) =>
        Effect.flatMap(Effect.forkChild(wait), (fiber) => Fiber.join(fiber)).pipe(
          Effect.as("slept"),
          Effect.catchCause(() => Effect.succeed("swallowed"))
        ),
      "a fiber that is awaited": (wait) =>
        Effect.flatMap(Effect.forkChild(wait), (fiber) => Fiber.await(fiber)).pipe(
          Effect.map((exit) => (Exit.isSuccess(exit) ? "slept" : Cause.pretty(exit.cause)))
        ),
      "a timeout that is longer": (wait) =>
        Effect.timeoutOption(wait, "30 days").pipe(
          Effect.map((option) => (option._tag === "Some" ? "slept" : "swallowed"))
        ),
      "an uninterruptible part": (wait) => Effect.uninterruptible(Effect.as(wait, "slept"))
    }
  for (const [what, shape] of Object.entries(shapes)) {
    it.effect(`within ${what} isn't taken for a failure`, () =>
      Effect.gen(function* () {
        const seen: Array<unknown> = []
        yield* start(() =>
          Effect.flatMap(shape(aDay), (result) => Effect.sync(() => void seen.push(result ?? "slept")))
        )
        yield* Wait.dispatch({ key: "k" })
        yield* TestClock.adjust("3 days")
        assert.deepStrictEqual(seen, ["slept"])
      }).pipe(Effect.scoped, Effect.provide(memory))
    )
  }
})

for (const [name, store] of Stores.every({ pollInterval: "200 millis" })) {
  describe.concurrent(`on ${name}`, () => {
    it.live(
      "a run that waits for an answer gives its slot away, and goes on when the answer comes",
      () =>
        Effect.gen(function* () {
          const seen: Array<string> = []
          let token: DurableDeferred.Token | undefined
          yield* start(
            () =>
              Effect.gen(function* () {
                const { attempt } = yield* Job.CurrentRun
                yield* Activity.make({ name: "ask", execute: Effect.sync(() => void seen.push("asked")) })
                token = yield* DurableDeferred.token(Answer)
                seen.push(`${yield* DurableDeferred.await(Answer)} in ${attempt}`)
              }),
            { concurrency: 1, onTask: () => void seen.push("task") }
          )
          yield* Wait.dispatch({ key: "k" })
          yield* eventually(
            Effect.sync(() => token),
            (token) => token !== undefined
          )
          // it has the one slot, and gives it away when it has waited for some seconds
          yield* Task.dispatch()
          yield* eventually(
            Effect.sync(() => seen),
            (seen) => seen.includes("task")
          )
          assert.deepStrictEqual(seen, ["asked", "task"])
          // sound: it was awaited above
          const answered = DurableDeferred.succeed(Answer, {
            token: token as DurableDeferred.Token,
            value: "yes"
          })
          yield* Effect.provide(answered, Steps.layer)
          yield* eventually(
            Effect.sync(() => seen),
            (seen) => seen.includes("yes in 1")
          )
          assert.deepStrictEqual(seen, ["asked", "task", "yes in 1"])
        }).pipe(Effect.scoped, Effect.provide(Layer.provideMerge(QueueDispatcher.layer, store))),
      120_000
    )
  })
}
