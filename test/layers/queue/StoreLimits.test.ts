// Each of Effect's stores with what we add, and what of Effect's unstable modules we rely on.
import { assert, describe, it, layer } from "@effect/vitest"
import { Context, Duration, Effect, Exit, Fiber, Layer, Logger, Schema, Scope } from "effect"
import { QueueStore } from "effect-jobs/queue"
import { PersistedQueue } from "effect/persistence"
import { Redis as RedisClient, RedisError } from "effect/persistence/Redis"
import { SqlClient } from "effect/sql"
import * as Extensions from "../../../src/layers/queue/Extensions.ts"
import { recovery } from "../../../src/layers/queue/RedisStore.ts"
import { eventually } from "../../support/eventually.ts"
import * as Redis from "../../support/Redis.ts"
import * as Stores from "../../support/Stores.ts"

type Store = PersistedQueue.PersistedQueueStore["Service"]

const offer = (store: Store, id: string, delay?: Duration.Duration) =>
  store.offer({ name: "q", id, element: { id }, isCustomId: true, delay })

const options = { name: "q", maxAttempts: 3, retryDelay: () => Effect.succeed(Duration.zero) }

const takeId = (store: Store) => Effect.scoped(Effect.map(store.take(options), ({ id }) => id))

const storeOf = <R>(layer: Layer.Layer<PersistedQueue.PersistedQueueStore, unknown, R>) =>
  Effect.map(Layer.build(Layer.fresh(layer)), (context) =>
    Context.get(context, PersistedQueue.PersistedQueueStore)
  )

describe("QueueStore.layerSql on SQLite", () => {
  it.live("a time after the year 9999 is refused, and the last one before is kept", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const store = yield* PersistedQueue.PersistedQueueStore
      const { latest = 0 } = Extensions.extensionsOf(store)
      const error = yield* Effect.flip(offer(store, "never", Duration.millis(latest - Date.now() + 60_000)))
      assert.strictEqual(Extensions.failureOf(error), "Refused")
      assert.include(error.message, "9999-12-31")
      yield* offer(store, "last", Duration.millis(latest - Date.now() - 60_000))
      // a delay of a retry has no limit but is one that the table keeps
      yield* offer(store, "retried")
      yield* Effect.exit(
        Effect.scoped(
          Effect.andThen(
            store.take({ ...options, retryDelay: () => Effect.succeed(Duration.days(10_000_000)) }),
            Effect.fail("no")
          )
        )
      )
      const rows = yield* sql<{ readonly id: string; readonly year: string }>`
        SELECT id, substr(visible_at, 1, 4) AS year FROM effect_queue ORDER BY sequence`
      assert.deepStrictEqual(
        rows.map(({ id }) => id),
        ["last", "retried"]
      )
      assert.strictEqual(rows[0]?.year, "9999")
      assert.isBelow(Number(rows[1]?.year), 2200)
    }).pipe(Effect.provide(Layer.provideMerge(QueueStore.layerSql(), Stores.sqlite)))
  )
})

describe("QueueStore.layerSql on Postgres", () => {
  it.live("an element that PgClient couldn't read is refused", () =>
    Effect.gen(function* () {
      const store = yield* PersistedQueue.PersistedQueueStore
      const { maxElementSize = 0 } = Extensions.extensionsOf(store)
      assert.isBelow(maxElementSize, 16 * 1024 * 1024)
      const large = (length: number) =>
        store.offer({ name: "q", id: `${length}`, element: "x".repeat(length - 2), isCustomId: true })
      const error = yield* Effect.flip(large(maxElementSize + 1))
      assert(error.cause instanceof Extensions.ElementRefused)
      assert.strictEqual(error.cause.reason, "TooLarge")
      yield* large(maxElementSize)
      assert.strictEqual(yield* takeId(store), `${maxElementSize}`)
    }).pipe(Effect.provide(Layer.provide(QueueStore.layerSql(), Stores.postgres)))
  )
})

describe.skipIf(!Redis.hasRedis)("QueueStore.layerRedis", () => {
  it.live("a worker's messages are recovered, although a recovery before has failed", () =>
    Effect.gen(function* () {
      const redis = yield* RedisClient
      let away = false
      let failures = 0
      const flaky = Layer.succeed(RedisClient, {
        ...redis,
        eval: (script) => {
          const run = redis.eval(script)
          return script.lua.includes(recovery)
            ? (...params) =>
                Effect.suspend(() => {
                  if (!away) return run(...params)
                  failures++
                  // as a server that reads its file after a restart
                  return Effect.fail(new RedisError({ cause: new Error("LOADING") }))
                })
            : run
        }
      })
      const open = storeOf(Layer.provide(QueueStore.layerRedis({ lockExpiration: "1 second" }), flaky))
      const dead = yield* Scope.make()
      const lost = yield* Scope.provide(open, dead)
      yield* offer(lost, "a")
      yield* Scope.provide(lost.take(options), yield* Scope.make())
      // as if its worker had been killed: nobody renews its lock from here on
      yield* Scope.close(dead, Exit.void)
      away = true
      const store = yield* open
      const taken = yield* Effect.forkScoped(takeId(store))
      yield* eventually(
        Effect.sync(() => failures),
        (failures) => failures >= 2
      )
      away = false
      assert.strictEqual(yield* Fiber.join(taken), "a")
    }).pipe(Effect.provide(Logger.layer([])), Effect.scoped, Effect.provide(Stores.redis))
  )

  it.live("after a restart of the server as well", () =>
    Effect.gen(function* () {
      const server = yield* Redis.make
      const client = Layer.succeedContext(yield* Layer.build(Redis.client(server.port)))
      const open = storeOf(Layer.provide(QueueStore.layerRedis({ lockExpiration: "2 seconds" }), client))
      const scope = yield* Scope.make()
      const dead = yield* Scope.provide(open, scope)
      yield* offer(dead, "a")
      const living = yield* open
      yield* Scope.provide(dead.take(options), yield* Scope.make())
      const taken = yield* Effect.forkScoped(takeId(living))
      yield* Effect.promise(() => server.restart(1_500))
      // nobody renews its lock from here on
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(yield* Fiber.join(taken), "a")
    }).pipe(Effect.provide(Logger.layer([])), Effect.scoped)
  )

  it.live("a server that may lose messages is said, and a cluster is refused", () =>
    Effect.gen(function* () {
      const redis = yield* RedisClient
      const said: Array<string> = []
      const logger = Logger.layer([Logger.make(({ message }) => void said.push(String(message)))])
      const build = (info?: string) =>
        Effect.scoped(
          storeOf(
            Layer.provide(
              QueueStore.layerRedis(),
              Layer.succeed(RedisClient, {
                ...redis,
                send: <A>(command: string, ...args: ReadonlyArray<string>) =>
                  command === "INFO" && info !== undefined
                    ? // sound: the answer of INFO is a text
                      Effect.succeed(info as A)
                    : redis.send<A>(command, ...args)
              })
            )
          )
        ).pipe(Effect.provide(logger))
      yield* build()
      assert.isEmpty(said)
      yield* redis.send("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
      yield* redis.send("CONFIG", "SET", "appendonly", "no")
      yield* build()
      assert.lengthOf(said, 2)
      assert.include(said[0], `"allkeys-lru"`)
      assert.include(said[1], "appendonly")
      const error = yield* Effect.flip(build("cluster_enabled:1\r\n"))
      assert(error instanceof QueueStore.QueueStoreError)
      assert.strictEqual(error.reason, "Cluster")
    }).pipe(Effect.scoped, Effect.provide(Stores.redis))
  )
})

/** What `Extensions`, `PostgresStore`, `RedisStore` and `DeadLetters` know of Effect's unstable modules. */
for (const [name, client] of Stores.sql) {
  layer(client, { excludeTestServices: true, timeout: "60 seconds" })(
    `PersistedQueue's contract on ${name}`,
    (it) => {
      it.effect("its table has these columns, and no others that must be given", () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          yield* PersistedQueue.makeStoreSql({ tableName: "contract" })
          const columns = yield* sql.onDialectOrElse({
            pg: () =>
              sql<{
                readonly name: string
              }>`SELECT column_name AS name FROM information_schema.columns WHERE table_name = 'contract'`,
            orElse: () => sql<{ readonly name: string }>`SELECT name FROM pragma_table_info('contract')`
          })
          assert.sameMembers(
            columns.map(({ name }) => name),
            [
              "sequence",
              "id",
              "queue_name",
              "element",
              "state",
              "attempts",
              "last_failure",
              "visible_at",
              "acquired_at",
              "acquired_by",
              "created_at",
              "updated_at"
            ]
          )
          const migrations = yield* sql<{
            readonly id: number
          }>`SELECT migration_id AS id FROM contract_migrations ORDER BY migration_id`
          assert.deepStrictEqual(
            migrations.map(({ id }) => id),
            [1, 2]
          )
        }).pipe(Effect.scoped)
      )

      it.effect("its states, its claims, and when it reads a take's options", () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          const store = yield* PersistedQueue.makeStoreSql({
            tableName: "contract2",
            pollInterval: "50 millis"
          })
          assert.sameMembers(Object.keys(store), ["offer", "take", "cleanup"])
          const row = Effect.map(
            sql<{
              readonly state: string
              readonly attempts: number
              readonly claimed: number
              readonly element: string
            }>`
            SELECT state, attempts, element, CASE WHEN acquired_by IS NULL THEN 0 ELSE 1 END AS claimed
            FROM contract2 ORDER BY sequence DESC LIMIT 1`,
            ([row]) => `${row?.state} ${row?.attempts} ${row?.claimed} ${row?.element}`
          )
          yield* offer(store, "a")
          assert.strictEqual(yield* row, `pending 0 0 {"id":"a"}`)
          const scope = yield* Scope.make()
          let maxAttempts = 100
          const item = yield* Scope.provide(
            store.take({
              ...options,
              get maxAttempts() {
                return maxAttempts
              }
            }),
            scope
          )
          assert.deepStrictEqual(item, { id: "a", attempts: 1, element: { id: "a" } })
          assert.strictEqual(yield* row, `pending 1 1 {"id":"a"}`)
          maxAttempts = 0
          yield* Scope.close(scope, Exit.fail("no"))
          assert.strictEqual(yield* row, `failed 1 0 {"id":"a"}`)
          yield* offer(store, "b")
          yield* takeId(store)
          assert.strictEqual(yield* row, `completed 1 0 {"id":"b"}`)
        }).pipe(Effect.scoped)
      )
    }
  )
}

describe("PersistedQueue's contract", () => {
  it.live("an element that doesn't decode ends its take with a tagged signal", () =>
    Effect.gen(function* () {
      let tag: unknown
      let cause = false
      const store: Store = {
        offer: () => Effect.void,
        cleanup: () => Effect.void,
        take: () =>
          Effect.as(
            Effect.addFinalizer((exit) =>
              Effect.sync(() => {
                const reason = Exit.isFailure(exit) ? exit.cause.reasons[0] : undefined
                const error: unknown = reason?._tag === "Fail" ? reason.error : undefined
                if (typeof error !== "object" || error === null || tag !== undefined) return
                tag = "_tag" in error ? error._tag : undefined
                cause = "cause" in error
              })
            ),
            { id: "a", attempts: 1, element: tag === undefined ? "no number" : 1 }
          )
      }
      const queue = yield* PersistedQueue.make({ name: "q", schema: Schema.Int }).pipe(
        Effect.provide(PersistedQueue.layer),
        Effect.provideService(PersistedQueue.PersistedQueueStore, store)
      )
      const taken = yield* Effect.forkChild(queue.take(() => Effect.void))
      yield* eventually(
        Effect.sync(() => tag),
        (tag) => tag !== undefined
      )
      yield* Fiber.interrupt(taken)
      assert.strictEqual(tag, "~effect/persistence/PersistedQueue/DeadLetter")
      assert.isTrue(cause)
    })
  )

  it.live("one script alone recovers on Redis", () =>
    Effect.gen(function* () {
      const scripts: Array<string> = []
      yield* PersistedQueue.makeStoreRedis().pipe(
        Effect.provideService(RedisClient, {
          send: () => Effect.die("unused"),
          subscribe: () => Effect.die("unused"),
          reserve: Effect.die("unused"),
          eval: (script) => {
            scripts.push(script.lua)
            return () => Effect.die("unused")
          }
        })
      )
      assert.lengthOf(
        scripts.filter((lua) => lua.includes(recovery)),
        1
      )
    }).pipe(Effect.scoped)
  )
})
