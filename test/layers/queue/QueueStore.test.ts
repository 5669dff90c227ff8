import { PgClient } from "@effect/sql-pg"
import { assert, describe, layer, type Vitest } from "@effect/vitest"
import { Context, type Duration, Effect, Layer } from "effect"
import type { Dispatcher } from "effect-jobs"
import { QueueDispatcher, QueueStore } from "effect-jobs/queue"
import type { PersistedQueue } from "effect/persistence"
import { Redis as RedisClient } from "effect/persistence/Redis"
import { SqlClient } from "effect/sql"
import { eventually } from "../../support/eventually.ts"
import { onRedis } from "../../support/needs.ts"
import * as Postgres from "../../support/Postgres.ts"
import { start, Work } from "../../support/queueWorker.ts"
import * as Stores from "../../support/Stores.ts"

type Methods = Vitest.MethodsNonLive<Dispatcher | PersistedQueue.PersistedQueueStore>

/** Dispatches that each wait for the run of the one before. */
const oneByOne = (count: number, seen: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    for (let n = 1; n <= count; n++) {
      yield* Work.dispatch({ key: `${n}` })
      yield* eventually(
        Effect.sync(() => seen.length),
        (length) => length === n
      )
    }
  })

/** Tests of one store one after another, beside those of other stores. */
const onEach = (options: QueueStore.Options, title: string, declare: (it: Methods) => void) => {
  for (const [name, store] of Stores.every(options)) {
    describe.concurrent(name, () => {
      layer(Layer.provideMerge(QueueDispatcher.layer, store), {
        excludeTestServices: true,
        timeout: "3 minutes",
        concurrent: false
      })(title, declare)
    })
  }
}

onEach({}, "a store", (it) => {
  it.effect("an id may hold what no column takes", () =>
    Effect.gen(function* () {
      const ids: Array<string> = []
      const stop = yield* start((run) => Effect.sync(() => void ids.push(run.id)))
      const odd = ["a\0b", "half \uD83D", "x".repeat(255), "😀".repeat(127), `'; DROP TABLE effect_queue; --`]
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
})

onEach({ pollInterval: "1 hour" }, "a store that is asked once an hour", (it) => {
  it.effect("what is dispatched in the worker's own process runs at once", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const stop = yield* start((_, key) => Effect.sync(() => void seen.push(key)))
      yield* Effect.sleep(200)
      yield* oneByOne(20, seen)
      yield* stop
    }).pipe(Effect.scoped)
  )
})

/** The address of a database, and a client in a time zone for it. */
class Server extends Context.Service<Server, string>()("Server") {
  static readonly layer = Layer.effect(Server, Stores.database)
  static readonly client = (timezone?: string) =>
    Layer.unwrap(
      Effect.map(Server, (url) => Postgres.client(url, timezone === undefined ? {} : { timezone }))
    )
}

/** Stores on it, by how a worker learns of what another process has queued. */
const polling = (pollInterval: Duration.Input) =>
  Layer.provide(QueueStore.layerSql({ pollInterval }), Server.client())
const notified = Layer.provide(
  QueueStore.layerPostgres(PgClient, { pollInterval: "1 hour" }),
  Server.client()
)

/** A dispatcher with a store and a client of its own: it shares nothing with the worker but the database. */
const elsewhere = <E, R>(store: Layer.Layer<PersistedQueue.PersistedQueueStore, E, R>) =>
  Layer.fresh(Layer.provide(QueueDispatcher.layer, store))

onRedis("QueueStore on Redis", () => {
  const dispatcher = Layer.provideMerge(QueueDispatcher.layer, QueueStore.layerRedis())
  layer(Layer.provideMerge(dispatcher, Stores.redis), { excludeTestServices: true, timeout: "3 minutes" })(
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
          assert.deepStrictEqual(yield* redis.send("KEYS", "effectq:*"), ["effectq:default:ids"])
          assert.deepStrictEqual(yield* redis.send("ZRANGE", "effectq:default:ids", "0", "-1"), [
            "queue.work given"
          ])
        }).pipe(Effect.scoped)
      )
    }
  )
})

layer(Server.layer, { excludeTestServices: true, timeout: "3 minutes" })("QueueStore on Postgres", (it) => {
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

  it.effect("what another process dispatches is found when the store is asked again", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const stop = yield* start((_, key) => Effect.sync(() => void seen.push(key)))
      yield* oneByOne(3, seen).pipe(Effect.provide(elsewhere(polling("200 millis"))))
      yield* stop
    }).pipe(Effect.scoped, Effect.provide(Layer.provideMerge(QueueDispatcher.layer, polling("200 millis"))))
  )

  it.effect("with LISTEN and NOTIFY it runs at once, also where the store is asked once an hour", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const stop = yield* start((_, key) => Effect.sync(() => void seen.push(key)))
      yield* Effect.sleep(500)
      yield* oneByOne(20, seen).pipe(Effect.provide(elsewhere(notified)))
      // the element that wakes is none of ours
      const sql = yield* SqlClient.SqlClient
      const [row] = yield* sql<{ readonly failed: string }>`
        SELECT COUNT(*) AS failed FROM effect_queue WHERE state = 'failed'`
      assert.strictEqual(Number(row?.failed), 0)
      yield* stop
    }).pipe(
      Effect.scoped,
      Effect.provide(
        Layer.provideMerge(QueueDispatcher.layer, notified).pipe(Layer.provideMerge(Server.client()))
      )
    )
  )
})
