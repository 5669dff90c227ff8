import { PgClient } from "@effect/sql-pg"
import { assert, describe, it, layer } from "@effect/vitest"
import { type Cause, Clock, Context, DateTime, Effect, Exit, Fiber, Layer, Schema, Scope } from "effect"
import { CronJob, Dispatcher, DomainEvent, Job, Listener, RetryPolicy } from "effect-jobs"
import { QueueDispatcher, QueueStore, QueueWorker } from "effect-jobs/queue"
import { PersistedQueue } from "effect/persistence"
import { Redis as RedisClient } from "effect/persistence/Redis"
import { SqlClient } from "effect/sql"
import { TestClock } from "effect/testing"
import { eventually } from "../../support/eventually.ts"
import * as Postgres from "../../support/Postgres.ts"
import * as Redis from "../../support/Redis.ts"
import * as Stores from "../../support/Stores.ts"

class Work extends Job.make("queue.work", {
  payload: { key: Schema.String },
  retry: RetryPolicy.fixed<unknown>({
    attempts: 5,
    delay: "1 hour",
    while: (error) => error !== "never again",
    retryAfter: (error) => (error === "soon" ? "2 seconds" : undefined)
  })
}) {}
class Else extends Job.make("queue.else", { payload: { key: Schema.String } }) {}
class Keyed extends Job.make("queue.keyed", {
  payload: { key: Schema.String },
  idempotencyKey: ({ key }) => key
}) {}
class Happened extends DomainEvent.make("queue.happened", { payload: { key: Schema.String } }) {}
class Hears extends Listener.make("queue.hears", { event: Happened }) {}
class HearsToo extends Listener.make("queue.hears-too", { event: Happened }) {}
class Hourly extends CronJob.make("queue.hourly", { cron: "0 * * * *" }) {}
const jobs = [Work, Else, Hears, HearsToo, Hourly] as const

/** What every handler of a test does. */
type Handle = (run: typeof Job.CurrentRun.Service, key: string) => Effect.Effect<void, unknown>

const handlers = (handle: Handle, onFailure?: (key: string, cause: Cause.Cause<unknown>) => void) => {
  const one = ({ key }: { readonly key: string }) => Effect.flatMap(Job.CurrentRun, (run) => handle(run, key))
  const options = {
    onFailure: ({ key }: { readonly key: string }, cause: Cause.Cause<unknown>) =>
      Effect.sync(() => onFailure?.(key, cause))
  }
  return Layer.mergeAll(
    Work.toLayer(one, options),
    Else.toLayer(one, options),
    Hears.toLayer(one, options),
    HearsToo.toLayer(one, options),
    Hourly.toLayer(({ scheduledAt }) => one({ key: DateTime.formatIso(scheduledAt) }))
  )
}

/** A worker in a scope of its own, on the store and the dispatcher of the environment. */
const start = (
  handle: Handle,
  options: QueueWorker.Options & { readonly onFailure?: Parameters<typeof handlers>[1] } = {}
) =>
  Effect.gen(function* () {
    const scope = yield* Scope.fork(yield* Effect.scope)
    const worker = QueueWorker.layer(jobs, { onError: () => Effect.void, ...options })
    yield* Layer.buildWithScope(Layer.provide(worker, handlers(handle, options.onFailure)), scope)
    return Scope.close(scope, Exit.void)
  })

const memory = QueueDispatcher.layer.pipe(Layer.provideMerge(QueueStore.layerMemory))

/** Lets the fibers do what they can without time. */
const settle = Effect.forEach(Array.from({ length: 20 }), () => TestClock.adjust(0), { discard: true })

describe("QueueWorker", () => {
  it.effect("concurrency bounds what runs at once, over all jobs", () =>
    Effect.gen(function* () {
      let running = 0
      let most = 0
      let done = 0
      yield* start(
        () =>
          Effect.gen(function* () {
            most = Math.max(most, ++running)
            yield* Effect.sleep("1 second")
            running--
            done++
          }),
        { concurrency: 3 }
      )
      yield* Work.dispatchAll(Array.from({ length: 10 }, (_, n) => ({ key: `${n}` })))
      yield* Else.dispatchAll(Array.from({ length: 10 }, (_, n) => ({ key: `${n}` })))
      for (let n = 0; n < 100; n++) yield* TestClock.adjust("250 millis")
      assert.strictEqual(most, 3)
      assert.strictEqual(done, 20)
    }).pipe(Effect.scoped, Effect.provide(memory))
  )

  it.effect("what a busy worker has claimed and can't run goes to another one after a second", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const handle =
        (worker: string): Handle =>
        (run, key) => {
          seen.push(`${key} in ${worker}, attempt ${run.attempt}`)
          return worker === "busy" ? Effect.never : Effect.void
        }
      yield* start(handle("busy"), { concurrency: 1, shutdownTimeout: 0 })
      yield* settle
      yield* Work.dispatch({ key: "first" })
      yield* Else.dispatch({ key: "second" })
      yield* settle
      assert.deepStrictEqual(seen, ["first in busy, attempt 1"])
      yield* start(handle("free"))
      yield* TestClock.adjust("900 millis")
      assert.lengthOf(seen, 1)
      yield* TestClock.adjust("200 millis")
      assert.deepStrictEqual(seen, ["first in busy, attempt 1", "second in free, attempt 1"])
    }).pipe(Effect.scoped, Effect.provide(memory))
  )

  it.effect("queues without messages keep no slot from one that has some", () =>
    Effect.gen(function* () {
      let done = 0
      const others = Array.from({ length: 19 }, (_, n) =>
        Job.make(`queue.other-${n}`, { payload: { key: Schema.String } })
      )
      const worker = QueueWorker.layer([Work, ...others], { shutdownTimeout: 0 }).pipe(
        Layer.provide(
          Layer.mergeAll(
            Work.toLayer(() =>
              Effect.andThen(
                Effect.sleep("10 millis"),
                Effect.sync(() => done++)
              )
            ),
            ...others.map((job) => job.toLayer(() => Effect.void))
          )
        )
      )
      // each of the others has had something, so that each of their takers has been through a busy worker
      for (const job of others) {
        yield* job.dispatchAll(Array.from({ length: 10 }, (_, n) => ({ key: `${n}` })))
      }
      yield* Work.dispatchAll(Array.from({ length: 1_000 }, (_, n) => ({ key: `${n}` })))
      yield* Layer.build(worker)
      // ten at once, 10 ms each: one second; and what it takes to find out that 19 queues are empty
      for (let n = 0; n < 110; n++) yield* TestClock.adjust("10 millis")
      assert.strictEqual(done, 1_000)
    }).pipe(Effect.scoped, Effect.provide(memory))
  )

  it.effect("a closed scope takes nothing more and waits for what runs", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const stop = yield* start((_, key) =>
        Effect.sleep("10 seconds").pipe(
          Effect.andThen(Effect.sync(() => seen.push(`${key} ended`))),
          Effect.onInterrupt(() => Effect.sync(() => seen.push(`${key} interrupted`)))
        )
      )
      yield* Work.dispatch({ key: "running" })
      yield* settle
      const stopping = yield* Effect.forkChild(stop)
      yield* settle
      yield* Work.dispatch({ key: "late" })
      yield* TestClock.adjust("9 seconds")
      assert.isUndefined(stopping.pollUnsafe())
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(stopping)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(seen, ["running ended"])
    }).pipe(Effect.scoped, Effect.provide(memory))
  )

  it.effect("what runs longer than shutdownTimeout is interrupted, given back, and has used no attempt", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const stop = yield* start(
        (run) =>
          Effect.onInterrupt(Effect.never, () =>
            Effect.sync(() => seen.push(`interrupted in ${run.attempt}`))
          ),
        { shutdownTimeout: "5 seconds" }
      )
      yield* Else.dispatch({ key: "long" })
      yield* settle
      const stopping = yield* Effect.forkChild(stop)
      yield* TestClock.adjust("4 seconds")
      assert.isEmpty(seen)
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(stopping)
      assert.deepStrictEqual(seen, ["interrupted in 1"])
      yield* start((run) => Effect.sync(() => void seen.push(`ended in ${run.attempt}`)))
      yield* settle
      assert.deepStrictEqual(seen, ["interrupted in 1", "ended in 1"])
    }).pipe(Effect.scoped, Effect.provide(memory))
  )

  it.effect("an error's own delay and its stop hold for its message alone", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const failed: Array<string> = []
      yield* start(
        (run, key) =>
          Effect.gen(function* () {
            const now = yield* Clock.currentTimeMillis
            if (run.job === "queue.hourly") return
            seen.push(`${key} ${run.attempt} at ${now}`)
            if (key === "stops") return yield* Effect.fail(run.attempt === 1 ? "soon" : "never again")
            if (run.attempt === 1) return yield* Effect.fail("slow")
          }),
        { onFailure: (key) => failed.push(key) }
      )
      yield* Work.dispatch({ key: "waits" })
      yield* Work.dispatch({ key: "stops" })
      yield* TestClock.adjust("1 second")
      yield* TestClock.adjust("2 hours")
      assert.deepStrictEqual(seen, ["waits 1 at 0", "stops 1 at 0", "stops 2 at 2000", "waits 2 at 3600000"])
      assert.deepStrictEqual(failed, ["stops"])
    }).pipe(Effect.scoped, Effect.provide(memory))
  )

  it.effect("a tick of a cron job runs in one of many workers", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      for (let worker = 1; worker <= 3; worker++) {
        yield* start((run, key) => Effect.sync(() => void seen.push(`${key} ${run.job}`)))
      }
      yield* TestClock.adjust("3 hours")
      yield* settle
      assert.deepStrictEqual(seen, [
        "1970-01-01T01:00:00.000Z queue.hourly",
        "1970-01-01T02:00:00.000Z queue.hourly",
        "1970-01-01T03:00:00.000Z queue.hourly"
      ])
    }).pipe(Effect.scoped, Effect.provide(memory))
  )

  it.effect(
    "an event's messages wait for a worker with listeners; fanned out again, nothing runs twice",
    () =>
      Effect.gen(function* () {
        const store = yield* PersistedQueue.PersistedQueueStore
        const { id } = yield* Happened.publish({ key: "event" })
        const seen: Array<string> = []
        yield* start((run, key) => Effect.sync(() => void seen.push(`${run.job} ${key} ${run.id === id}`)))
        yield* settle
        const expected = ["queue.hears event true", "queue.hears-too event true"]
        assert.sameMembers(seen, expected)
        // as if the worker had died between the fan-out and its acknowledgement
        yield* store.offer({
          name: "@event/queue.happened",
          id: "once more",
          element: { id, name: "queue.happened", payload: { key: "event" }, dispatchedAt: 0 },
          isCustomId: true
        })
        yield* settle
        assert.sameMembers(seen, expected)
      }).pipe(Effect.scoped, Effect.provide(memory))
  )

  it.effect("the store is told which ids have to be remembered: those that may come again", () =>
    Effect.gen(function* () {
      const store = yield* PersistedQueue.PersistedQueueStore
      const offered: Array<string> = []
      const noting = Layer.succeed(PersistedQueue.PersistedQueueStore, {
        ...store,
        offer: (options) => {
          offered.push(`${options.name} ${options.isCustomId ? "remembered" : "new"}`)
          return store.offer(options)
        }
      })
      yield* Effect.gen(function* () {
        yield* Work.dispatch({ key: "a" })
        yield* Work.dispatch({ key: "b" }, { delay: "1 hour" })
        yield* Work.dispatch({ key: "c" }, { id: "given" })
        yield* Else.dispatchAll([{ key: "d" }])
        yield* Else.dispatchAll([{ key: "e" }], { id: ({ key }) => key })
        yield* Keyed.dispatch({ key: "f" })
        assert.deepStrictEqual(offered.splice(0), [
          "queue.work new",
          "queue.work new",
          "queue.work remembered",
          "queue.else new",
          "queue.else remembered",
          "queue.keyed remembered"
        ])
        yield* Happened.publish({ key: "g" })
        yield* start(() => Effect.void)
        yield* settle
        // a fan-out may be done twice
        assert.deepStrictEqual(offered, [
          "@event/queue.happened new",
          "queue.hears remembered",
          "queue.hears-too remembered"
        ])
      }).pipe(Effect.provide(Layer.provideMerge(QueueDispatcher.layer, noting)))
    }).pipe(Effect.scoped, Effect.provide(QueueStore.layerMemory))
  )

  it.effect("a store that fails makes the dispatch Unavailable, and the worker go on", () =>
    Effect.gen(function* () {
      const store = yield* PersistedQueue.PersistedQueueStore
      let down = true
      const error = new PersistedQueue.PersistedQueueError({ message: "down" })
      const flaky = Layer.succeed(PersistedQueue.PersistedQueueStore, {
        ...store,
        offer: (options) => (down ? Effect.fail(error) : store.offer(options)),
        take: (options) => (down ? Effect.fail(error) : store.take(options))
      })
      const seen: Array<string> = []
      yield* Effect.gen(function* () {
        const failure = yield* Effect.flip(Work.dispatch({ key: "a" }))
        assert.strictEqual(failure.reason._tag, "Unavailable")
        assert.strictEqual(
          failure.message,
          `"queue.work" couldn't be dispatched now, the queue's store is unavailable: it didn't take the message.`
        )
        yield* start((_, key) => Effect.sync(() => void seen.push(key)))
        yield* TestClock.adjust("3 seconds")
        down = false
        yield* Work.dispatch({ key: "b" })
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(seen, ["b"])
      }).pipe(Effect.provide(Layer.provideMerge(QueueDispatcher.layer, flaky)))
    }).pipe(Effect.scoped, Effect.provide(QueueStore.layerMemory))
  )

  it.effect("options that can't be are refused when the worker is built", () =>
    Effect.gen(function* () {
      const build = (options: QueueWorker.Options) => Effect.exit(start(() => Effect.void, options))
      assert.include(String(yield* build({ concurrency: 0 })), "must be an integer of at least 1, not 0")
      assert.include(String(yield* build({ shutdownTimeout: "-1 second" })), "shutdownTimeout")
    }).pipe(Effect.scoped, Effect.provide(memory))
  )
})

for (const [name, store] of Stores.all) {
  layer(Layer.provideMerge(QueueDispatcher.layer, store), {
    excludeTestServices: true,
    timeout: "60 seconds"
  })(`QueueWorker on ${name}`, (it) => {
    it.effect("an id may hold what no column takes", () =>
      Effect.gen(function* () {
        const ids: Array<string> = []
        const stop = yield* start((run) => Effect.sync(() => void ids.push(run.id)))
        const odd = [
          "a\0b",
          "half \uD83D",
          "x".repeat(255),
          "😀".repeat(127),
          `'; DROP TABLE effect_queue; --`
        ]
        for (const id of odd) yield* Work.dispatch({ key: "k" }, { id })
        for (const id of odd) yield* Work.dispatch({ key: "k" }, { id })
        yield* eventually(
          Effect.sync(() => ids.length),
          (length) => length === odd.length
        )
        yield* Effect.sleep(300)
        assert.sameMembers(ids, odd)
        yield* stop
      }).pipe(Effect.scoped)
    )

    it.effect("a failure that isn't retried is settled at once, and no delay of its own is forgotten", () =>
      Effect.gen(function* () {
        const seen: Array<string> = []
        const stop = yield* start((run, key) => {
          seen.push(`${key} ${run.attempt}`)
          return run.attempt === 1 && key === "soon" ? Effect.fail("soon") : Effect.fail("never again")
        })
        yield* Work.dispatch({ key: "soon" })
        yield* Work.dispatch({ key: "never" })
        yield* eventually(
          Effect.sync(() => seen.length),
          (length) => length === 3
        )
        yield* Effect.sleep(2_500)
        assert.deepStrictEqual(seen.toSorted(), ["never 1", "soon 1", "soon 2"])
        yield* stop
      }).pipe(Effect.scoped)
    )

    it.effect("a retry never comes before its delay, whenever in a second it failed", () =>
      Effect.gen(function* () {
        const at = new Map<string, Array<number>>()
        const stop = yield* start((run, key) => {
          at.set(key, [...(at.get(key) ?? []), performance.now()])
          return run.attempt === 1 ? Effect.fail("soon") : Effect.void
        })
        for (let n = 0; n < 8; n++) {
          yield* Work.dispatch({ key: `retry ${n}` })
          yield* Effect.sleep(125)
        }
        const gaps = () =>
          [...at.values()].flatMap(([first = 0, second]) => (second === undefined ? [] : [second - first]))
        yield* eventually(Effect.sync(gaps), ({ length }) => length === 8)
        // a timer may fire a fraction of a millisecond before its time by performance.now
        assert.isAtLeast(Math.min(...gaps()), 1_999)
        yield* stop
      }).pipe(Effect.scoped)
    )

    it.effect("from a dispatch to its run in the same process: under 20 ms at the median", () =>
      Effect.gen(function* () {
        const took: Array<number> = []
        const stop = yield* start((_, key) =>
          Effect.sync(() => void took.push(performance.now() - Number(key)))
        )
        yield* Effect.sleep(200)
        for (let n = 0; n < 60; n++) {
          yield* Work.dispatch({ key: String(performance.now()) })
          yield* Effect.sleep(10)
        }
        yield* eventually(
          Effect.sync(() => took.length),
          (length) => length === 60
        )
        const median = took.toSorted((a, b) => a - b)[30] ?? Number.NaN
        console.log(`${name}: dispatch to run in the same process: ${median.toFixed(1)} ms at the median`)
        assert.isBelow(median, 20)
        yield* stop
      }).pipe(Effect.scoped)
    )
  })
}

/** A Postgres, and a client in a time zone for it. */
class Server extends Context.Service<Server, Postgres.Postgres>()("Server") {
  static readonly layer = Layer.effect(Server, Postgres.make())
  static readonly client = (timezone?: string) =>
    Layer.unwrap(
      Effect.map(Server, ({ url }) => Postgres.client(url, timezone === undefined ? {} : { timezone }))
    )
}

/** Each says when it was dispatched, and the next one waits for its run. */
const dispatchOneByOne = (
  count: number,
  elsewhere: Context.Context<Dispatcher>,
  took: ReadonlyArray<number>
) =>
  Effect.gen(function* () {
    for (let n = 0; n < count; n++) {
      yield* Effect.sleep(137)
      yield* Work.dispatch({ key: String(performance.now()) }).pipe(
        Effect.provideService(Dispatcher, Context.get(elsewhere, Dispatcher))
      )
      yield* eventually(
        Effect.sync(() => took.length),
        (length) => length === n + 1
      )
    }
  })

if (Redis.hasRedis) {
  const dispatcher = Layer.provideMerge(QueueDispatcher.layer, QueueStore.layerRedis())
  layer(Layer.provideMerge(dispatcher, Stores.redis), { excludeTestServices: true, timeout: "60 seconds" })(
    "QueueStore on Redis",
    (it) => {
      it.effect("of what is done, the ids that were given stay, and nothing else", () =>
        Effect.gen(function* () {
          const redis = yield* RedisClient
          let ran = 0
          const stop = yield* start(() => Effect.sync(() => void ran++))
          for (let n = 0; n < 20; n++) yield* Work.dispatch({ key: "generated" })
          yield* Work.dispatch({ key: "given" }, { id: "given" })
          yield* eventually(
            Effect.sync(() => ran),
            (ran) => ran === 21
          )
          yield* stop
          assert.deepStrictEqual(yield* redis.send("KEYS", "effectq:*"), ["effectq:queue.work:ids"])
          assert.deepStrictEqual(yield* redis.send("ZRANGE", "effectq:queue.work:ids", "0", "-1"), ["given"])
        }).pipe(Effect.scoped)
      )
    }
  )
}

layer(Server.layer, { excludeTestServices: true, timeout: "60 seconds" })("QueueStore on Postgres", (it) => {
  it.effect("processes that start together on a new database all get their store", () =>
    Effect.gen(function* () {
      const store = Layer.provide(QueueStore.layerSql(), Server.client())
      yield* Effect.forEach(Array.from({ length: 4 }), () => Effect.scoped(Layer.build(Layer.fresh(store))), {
        concurrency: "unbounded",
        discard: true
      })
    })
  )

  it.effect("a session that isn't in UTC is refused, in words that say what to do", () =>
    Effect.gen(function* () {
      const build = (zone: string) =>
        Effect.scoped(Layer.build(Layer.provide(QueueStore.layerSql(), Server.client(zone))))
      const error = yield* Effect.flip(build("Asia/Tokyo"))
      assert(error._tag === "QueueStoreError")
      assert.strictEqual(error.reason, "SessionTimeZone")
      assert.include(error.message, `have the time zone "Asia/Tokyo"`)
      assert.include(error.message, `startupParameters: { timezone: "UTC" }`)
      for (const zone of ["GMT", "Etc/UTC"]) yield* build(zone)
    })
  )

  it.effect("a dispatch in a transaction of the store's own client is part of it", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const stop = yield* start((_, key) => Effect.sync(() => void seen.push(key)))
      const sql = yield* SqlClient.SqlClient
      yield* Work.dispatch({ key: "rolled back" }).pipe(
        Effect.andThen(Effect.fail("no")),
        sql.withTransaction,
        Effect.flip
      )
      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* Work.dispatch({ key: "committed" })
          yield* Effect.sleep(1_500)
          assert.isEmpty(seen)
        })
      )
      yield* eventually(
        Effect.sync(() => seen),
        (seen) => seen.length > 0
      )
      assert.deepStrictEqual(seen, ["committed"])
      yield* stop
    }).pipe(
      Effect.scoped,
      Effect.provide(
        QueueDispatcher.layer.pipe(
          Layer.provideMerge(QueueStore.layerSql()),
          Layer.provideMerge(Server.client())
        )
      )
    )
  )

  it.effect("in another process it runs within the poll interval and 100 ms", () =>
    Effect.gen(function* () {
      // a store and a client of its own share nothing with the worker's but the database
      const elsewhere = yield* Layer.build(
        Layer.fresh(
          QueueDispatcher.layer.pipe(Layer.provide(QueueStore.layerSql()), Layer.provide(Server.client()))
        )
      )
      const took: Array<number> = []
      const stop = yield* start((_, key) =>
        Effect.sync(() => void took.push(performance.now() - Number(key)))
      )
      yield* dispatchOneByOne(8, elsewhere, took)
      console.log(`Postgres, in another process: ${took.map((ms) => ms.toFixed(0)).join(", ")} ms`)
      assert.isBelow(Math.max(...took), 1_100)
      assert.isAbove(Math.max(...took), 50)
      yield* stop
    }).pipe(
      Effect.scoped,
      Effect.provide(
        QueueDispatcher.layer.pipe(Layer.provideMerge(QueueStore.layerSql()), Layer.provide(Server.client()))
      )
    )
  )

  it.effect("with LISTEN and NOTIFY it runs in another process within 50 ms at the median", () =>
    Effect.gen(function* () {
      const elsewhere = yield* Layer.build(
        Layer.fresh(
          QueueDispatcher.layer.pipe(
            Layer.provide(QueueStore.layerPostgres(PgClient)),
            Layer.provide(Server.client())
          )
        )
      )
      const took: Array<number> = []
      const stop = yield* start((_, key) =>
        Effect.sync(() => void took.push(performance.now() - Number(key)))
      )
      yield* Effect.sleep(500)
      yield* dispatchOneByOne(20, elsewhere, took)
      const sorted = took.toSorted((a, b) => a - b)
      console.log(
        `Postgres with NOTIFY, in another process: ${sorted[10]?.toFixed(0)} ms at the median, ${sorted[19]?.toFixed(0)} ms at most`
      )
      assert.isBelow(sorted[10] ?? Number.NaN, 50)
      // the element that wakes is none of ours
      const sql = yield* SqlClient.SqlClient
      const [row] = yield* sql<{ readonly failed: string }>`
        SELECT COUNT(*) AS failed FROM effect_queue WHERE state = 'failed'`
      assert.strictEqual(Number(row?.failed), 0)
      yield* stop
    }).pipe(
      Effect.scoped,
      Effect.provide(
        QueueDispatcher.layer.pipe(
          Layer.provideMerge(QueueStore.layerPostgres(PgClient)),
          Layer.provideMerge(Server.client())
        )
      )
    )
  )
})
