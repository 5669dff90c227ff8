import { assert, layer } from "@effect/vitest"
import { Clock, Context, DateTime, Duration, Effect, Layer, Option, Result, Schema } from "effect"
import { Dispatcher, DispatchError, Job, Rejected, RetryPolicy } from "effect-jobs"
import {
  DeadLetters,
  OutboxDispatcher,
  OutboxRelay,
  QueueDispatcher,
  QueueStore,
  QueueWorker
} from "effect-jobs/queue"
import { PersistedQueue } from "effect/persistence"
import { SqlClient } from "effect/sql"
import { Activity } from "effect/workflow"
import { eventually } from "../../support/eventually.ts"
import * as Stores from "../../support/Stores.ts"

class Refused extends Schema.TaggedError<Refused>()("Refused", { code: Schema.Int, at: Schema.Date }) {}

class Charge extends Job.make("dead.charge", {
  payload: { key: Schema.String, due: Schema.Date },
  error: Refused,
  retry: RetryPolicy.fixed<Refused>({ attempts: 3, delay: "1 hour", while: ({ code }) => code !== 404 })
}) {}
class Breaks extends Job.make("dead.breaks", { payload: { key: Schema.String } }) {}
class Other extends Job.make("dead.other", { payload: { key: Schema.String } }) {}

const due = new Date("2026-03-04T05:06:07.089Z")

/** Whether the handlers fail, and what they saw. */
class Switch extends Context.Service<Switch, { fails: boolean; readonly runs: Array<string> }>()("Switch") {}

const handlers = Layer.mergeAll(
  Charge.toLayer(({ key }) =>
    Effect.gen(function* () {
      const { attempt } = yield* Job.CurrentRun
      const { fails, runs } = yield* Switch
      runs.push(`${key} ${attempt}`)
      if (fails) return yield* new Refused({ code: 404, at: due })
    })
  ),
  Breaks.toLayer(() => Effect.die(new Error("it broke"))),
  Other.toLayer(() => Effect.void)
)

/** Refuses every message of `dead.other`. */
const target = Layer.succeed(Dispatcher, {
  send: (requests) =>
    requests.some(({ message }) => message.name === "dead.other")
      ? Effect.fail(
          DispatchError.of(
            new Rejected({ job: "dead.other", engine: "the test", status: 401, detail: "no such key" })
          )
        )
      : Effect.void
})

for (const [name, client] of Stores.sql) {
  const worker = QueueWorker.layer([Charge, Breaks, Other], { onError: () => Effect.void }).pipe(
    Layer.provideMerge(QueueDispatcher.layer),
    Layer.provideMerge(QueueStore.layerSql()),
    Layer.provide(handlers),
    Layer.provideMerge(Layer.sync(Switch, () => ({ fails: true, runs: [] })))
  )
  const live = Layer.provideMerge(Layer.merge(worker, DeadLetters.layer()), client)

  layer(live, { excludeTestServices: true, timeout: "3 minutes" })(`DeadLetters on ${name}`, (it) => {
    it.effect("a message that failed for good is listed with its reason, and decoded by its job", () =>
      Effect.gen(function* () {
        const dead = yield* DeadLetters.DeadLetters
        const before = yield* Clock.currentTimeMillis
        const { id } = yield* Charge.dispatch({ key: "listed", due })
        yield* eventually(dead.count({ job: "dead.charge" }), (count) => count === 1)
        const [letter, ...more] = yield* dead.list({ job: "dead.charge" })
        assert.isEmpty(more)
        assert(letter !== undefined)
        assert.strictEqual(letter.source, "queue")
        assert.strictEqual(letter.name, "dead.charge")
        assert.strictEqual(letter.message?.id, id)
        assert.strictEqual(letter.reason, "NotRetryable")
        assert.strictEqual(letter.attempts, 1)
        assert.deepStrictEqual(letter.failure, { _tag: "Refused", code: 404, at: due.toISOString() })
        // databases keep whole seconds
        assert.isAtLeast(DateTime.toEpochMillis(letter.failedAt), before - 1_000)
        assert.isAtMost(DateTime.toEpochMillis(letter.failedAt), (yield* Clock.currentTimeMillis) + 1_000)

        const decoded = yield* DeadLetters.decode(Charge, letter)
        assert.deepStrictEqual(Result.getOrThrow(decoded.payload), { key: "listed", due })
        assert.deepStrictEqual(Option.getOrThrow(decoded.error), new Refused({ code: 404, at: due }))
        const foreign = yield* DeadLetters.decode(Other, letter)
        assert(Result.isFailure(foreign.payload))
        assert(Option.isNone(foreign.error))
        yield* dead.discard(letter)
      })
    )

    it.effect("a defect is kept in words, and in JSON", () =>
      Effect.gen(function* () {
        const dead = yield* DeadLetters.DeadLetters
        yield* Breaks.dispatch({ key: "a" })
        yield* eventually(dead.count({ job: "dead.breaks" }), (count) => count === 1)
        const [letter] = yield* dead.list({ job: "dead.breaks" })
        assert.strictEqual(letter?.reason, "AttemptsExhausted")
        assert.strictEqual(letter?.error, "it broke")
        assert.include(JSON.stringify(letter?.failure), "it broke")
        yield* dead.discardAll({ job: "dead.breaks" })
      })
    )

    it.effect("retried, it runs from its first attempt; discarded, its id makes no second run", () =>
      Effect.gen(function* () {
        const dead = yield* DeadLetters.DeadLetters
        const self = yield* Switch
        self.runs.length = 0
        yield* Charge.dispatch({ key: "again", due }, { id: "again" })
        yield* Charge.dispatch({ key: "gone", due }, { id: "gone" })
        yield* eventually(dead.count({ job: "dead.charge" }), (count) => count === 2)
        const letters = yield* dead.list({ job: "dead.charge" })
        const again = letters.find(({ message }) => message?.id === "again")
        const gone = letters.find(({ message }) => message?.id === "gone")
        assert(again !== undefined && gone !== undefined)
        self.fails = false
        assert.isTrue(yield* dead.retry(again))
        assert.isFalse(yield* dead.retry(again))
        assert.isTrue(yield* dead.discard(gone))
        assert.isFalse(yield* dead.discard(gone))
        yield* Charge.dispatch({ key: "gone", due }, { id: "gone" })
        yield* eventually(
          Effect.sync(() => self.runs),
          (runs) => runs.length === 3
        )
        yield* Effect.sleep(1_500)
        assert.sameMembers(self.runs, ["again 1", "gone 1", "again 1"])
        assert.strictEqual(yield* dead.count(), 0)
        self.fails = true
      })
    )

    it.effect("many are paged, filtered, retried and discarded at once", () =>
      Effect.gen(function* () {
        const dead = yield* DeadLetters.DeadLetters
        const self = yield* Switch
        yield* Charge.dispatchAll(Array.from({ length: 7 }, (_, n) => ({ key: `many ${n}`, due })))
        yield* Breaks.dispatch({ key: "b" })
        yield* eventually(dead.count(), (count) => count === 8)
        const first = yield* dead.list({ job: "dead.charge", limit: 4 })
        const second = yield* dead.list({ job: "dead.charge", limit: 4, before: first.at(-1)?.sequence })
        const keys = [...first, ...second].map(({ message }) => message?.payload)
        assert.strictEqual(new Set(keys.map((payload) => JSON.stringify(payload))).size, 7)
        assert.strictEqual(yield* dead.count({ reason: "AttemptsExhausted" }), 1)
        assert.strictEqual(yield* dead.count({ reason: "NotRetryable", source: "queue" }), 7)
        assert.strictEqual(yield* dead.count({ source: "outbox" }), 0)
        self.fails = false
        assert.strictEqual(yield* dead.retryAll({ reason: "NotRetryable" }), 7)
        assert.strictEqual(yield* dead.discardAll({}), 1)
        yield* eventually(
          Effect.sync(() => self.runs.filter((run) => run.startsWith("many"))),
          (runs) => runs.length === 14
        )
        self.fails = true
      })
    )

    it.effect("what isn't a message is listed too, and decodes to what is wrong with it", () =>
      Effect.gen(function* () {
        const dead = yield* DeadLetters.DeadLetters
        const sql = yield* SqlClient.SqlClient
        const raw = yield* PersistedQueue.PersistedQueueStore
        const offer = (id: string, element: unknown, delay?: Duration.Duration) =>
          raw.offer({ name: "default", id, element, isCustomId: true, delay })
        yield* offer("foreign", { hello: "world" })
        yield* offer("outdated", {
          id: "outdated",
          name: "dead.charge",
          payload: { key: 1 },
          dispatchedAt: 0
        })
        yield* eventually(dead.count({ reason: "InvalidPayload" }), (count) => count === 2)
        const letters = yield* dead.list()
        const outdated = letters.find(({ message }) => message?.id === "outdated")
        assert(outdated !== undefined)
        const { payload } = yield* DeadLetters.decode(Charge, outdated)
        assert(Result.isFailure(payload))
        assert.include(payload.failure.message, "key")
        const foreign = letters.find(({ message }) => message === undefined)
        assert.strictEqual(foreign?.name, undefined)
        // text that PersistedQueue itself can't read; due later, so that the worker doesn't take it as it is
        yield* offer("broken", {}, Duration.hours(1))
        yield* sql`UPDATE effect_queue SET element = '{', state = 'failed', last_failure = 'Lock expired' WHERE id = 'broken'`
        const [broken] = yield* dead.list({ limit: 1 })
        assert.deepInclude(broken, { message: undefined, reason: "Unknown", error: "Lock expired" })
        yield* dead.discardAll({})
      })
    )

    it.effect("what the relay's target refuses is listed with its reason, and can be relayed again", () =>
      Effect.gen(function* () {
        const dead = yield* DeadLetters.DeadLetters
        yield* Effect.gen(function* () {
          yield* Other.dispatch({ key: "refused" }, { id: "refused" })
          yield* Charge.dispatch({ key: "taken", due })
          yield* eventually(dead.count({ source: "outbox" }), (count) => count === 1)
        }).pipe(
          Effect.provide(Layer.merge(OutboxDispatcher.layer, Layer.provide(OutboxRelay.layer(), target)))
        )
        const [letter] = yield* dead.list({ job: "dead.other", source: "outbox" })
        assert(letter !== undefined)
        assert.strictEqual(letter.name, "dead.other")
        assert.strictEqual(letter.message?.id, "refused")
        assert.strictEqual(letter.reason, "Rejected")
        assert.include(letter.error, "with status 401: no such key")
        assert.strictEqual(yield* dead.retryAll({ job: "dead.other" }), 1)
      })
    )
  })
}

for (const [name, client] of Stores.sql) {
  class Pay extends Job.make("dead.pay", {
    payload: {},
    retry: RetryPolicy.fixed({ attempts: 2, delay: "10 millis" })
  }) {}
  const runs: Array<string> = []
  let fails = true
  const handler = Pay.toLayer(() =>
    Effect.gen(function* () {
      yield* Activity.make({ name: "charge", execute: Effect.sync(() => void runs.push("charge")) })
      yield* Activity.make({
        name: "notify",
        error: Schema.String,
        execute: Effect.suspend(() => {
          runs.push("notify")
          return fails ? Effect.fail("down") : Effect.void
        })
      })
      runs.push("done")
    })
  )
  const live = Layer.merge(
    QueueWorker.layer([Pay], { onError: () => Effect.void }).pipe(
      Layer.provideMerge(QueueDispatcher.layer),
      Layer.provideMerge(QueueStore.layerSql({ pollInterval: "100 millis" })),
      Layer.provide(handler)
    ),
    DeadLetters.layer()
  ).pipe(Layer.provideMerge(client))
  layer(live, { excludeTestServices: true, timeout: "1 minute" })(
    `a dead letter with steps, on ${name}`,
    (it) => {
      it.effect("is retried from the step that has failed: what was done isn't done again", () =>
        Effect.gen(function* () {
          const dead = yield* DeadLetters.DeadLetters
          yield* Pay.dispatch()
          yield* eventually(dead.count({ job: Pay.jobName }), (count) => count === 1)
          assert.deepStrictEqual(runs, ["charge", "notify", "notify"])
          fails = false
          const [letter] = yield* dead.list({ job: Pay.jobName })
          assert(letter !== undefined)
          yield* dead.retry(letter)
          yield* eventually(
            Effect.sync(() => runs),
            (runs) => runs.includes("done")
          )
          assert.deepStrictEqual(runs, ["charge", "notify", "notify", "notify", "done"])
        })
      )
    }
  )
}
