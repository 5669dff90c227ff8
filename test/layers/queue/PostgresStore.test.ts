import { PgClient } from "@effect/sql-pg"
import { assert, layer } from "@effect/vitest"
import { Context, Duration, Effect, Exit, Fiber, Layer, Redacted, Schema, Tracer } from "effect"
import { QueueStore } from "effect-jobs/queue"
import { PersistedQueue } from "effect/persistence"
import { SqlClient } from "effect/sql"
import * as Extensions from "../../../src/layers/queue/Extensions.ts"
import { eventually } from "../../support/eventually.ts"
import { fresh, offer, open, quick, quiet, row, rows, Server, take } from "../../support/postgresStore.ts"

layer(Server.layer, { excludeTestServices: true, timeout: "60 seconds" })(
  "QueueStore.layerPostgres",
  (it) => {
    it.effect("bare PersistedQueue works on it as on Effect's store", () =>
      Effect.gen(function* () {
        const tableName = fresh()
        const { sql, store } = yield* open({ tableName, ...quick })
        const seen: Array<string> = []
        yield* Effect.gen(function* () {
          const queue = yield* PersistedQueue.make({
            name: "q",
            schema: Schema.Struct({ n: Schema.Int }),
            maxAttempts: 2
          })
          yield* queue.offer({ n: 1 }, { id: "one" })
          yield* queue.offer({ n: 2 }, { id: "one" })
          yield* queue.take(({ n }, { attempts, id }) =>
            Effect.sync(() => seen.push(`${id} ${n} ${attempts}`))
          )
          // undecodable: never tried again, and the next is taken
          yield* offer(store, "broken", { element: { n: "x" } })
          yield* queue.offer({ n: 3 }, { id: "three" })
          yield* queue.take(({ n }, { attempts, id }) =>
            Effect.sync(() => seen.push(`${id} ${n} ${attempts}`))
          )
        }).pipe(
          Effect.provide(PersistedQueue.layer),
          Effect.provideService(PersistedQueue.PersistedQueueStore, store)
        )
        assert.deepStrictEqual(seen, ["one 1 1", "three 3 1"])
        assert.strictEqual((yield* row(sql, tableName, "one"))?.state, "completed")
        assert.strictEqual((yield* row(sql, tableName, "broken"))?.state, "failed")
      }).pipe(Effect.scoped)
    )

    it.effect("a failure is retried until its attempts are used, and kept; an interruption uses none", () =>
      Effect.gen(function* () {
        const tableName = fresh()
        const { sql, store } = yield* open({ tableName, ...quick })
        yield* offer(store, "a")
        const attempts: Array<number> = []
        const interrupted = yield* Effect.forkScoped(
          take(store, ({ attempts: n }) =>
            Effect.andThen(
              Effect.sync(() => attempts.push(n)),
              Effect.never
            )
          )
        )
        yield* eventually(
          Effect.sync(() => attempts.length),
          (length) => length === 1
        )
        yield* Fiber.interrupt(interrupted)
        assert.deepInclude(yield* row(sql, tableName, "a"), {
          state: "pending",
          attempts: 0,
          acquired_by: null
        })
        for (let n = 0; n < 3; n++) {
          yield* Effect.exit(take(store, (item) => (attempts.push(item.attempts), Effect.fail(`no ${n}\0`))))
        }
        assert.deepStrictEqual(attempts, [1, 1, 2, 3])
        const dead = yield* row(sql, tableName, "a")
        assert.deepInclude(dead, { state: "failed", attempts: 3, acquired_by: null })
        assert.include(dead?.last_failure ?? "", "no 2")
      }).pipe(Effect.scoped)
    )

    it.effect("the options of a take are read when its scope closes", () =>
      Effect.gen(function* () {
        const tableName = fresh()
        const { sql, store } = yield* open({ tableName, ...quick })
        yield* offer(store, "a")
        let maxAttempts = 100
        const failing = take(store, () => ((maxAttempts = 0), Effect.fail("no")), {
          get maxAttempts() {
            return maxAttempts
          }
        })
        yield* Effect.exit(failing)
        assert.strictEqual((yield* row(sql, tableName, "a"))?.state, "failed")
      }).pipe(Effect.scoped)
    )

    it.effect("an offer joins the transaction, and so do many in one statement", () =>
      Effect.gen(function* () {
        const tableName = fresh()
        const { sql, store } = yield* open({ tableName, ...quick })
        const { offerAll } = Extensions.extensionsOf(store)
        assert(offerAll !== undefined)
        const many = (prefix: string, count: number) =>
          offerAll(
            Array.from({ length: count }, (_, n) => ({
              name: `q${n % 2}`,
              id: `${prefix}${n}`,
              element: n,
              isCustomId: true
            }))
          )
        yield* Effect.exit(
          sql.withTransaction(Effect.andThen(Effect.andThen(offer(store, "a"), many("x", 5)), Effect.fail(0)))
        )
        assert.lengthOf(yield* rows(sql, tableName), 0)
        yield* sql.withTransaction(Effect.andThen(offer(store, "a"), many("x", 5)))
        yield* many("x", 6)
        assert.deepStrictEqual(
          (yield* rows(sql, tableName)).map(({ id }) => id),
          ["a", "x0", "x1", "x2", "x3", "x4", "x5"]
        )
        // one that the table doesn't take, and none is there
        const error = yield* Effect.flip(
          offerAll([
            { name: "q", id: "good", element: 1, isCustomId: true },
            { name: "q", id: "x".repeat(256), element: 1, isCustomId: true }
          ])
        )
        assert.strictEqual(Extensions.failureOf(error), "Refused")
        assert.isUndefined(yield* row(sql, tableName, "good"))
      }).pipe(Effect.scoped)
    )

    it.effect("delays are kept to the millisecond, and none that Postgres can't keep is accepted", () =>
      Effect.gen(function* () {
        const tableName = fresh()
        const { store } = yield* open({ tableName, ...quick })
        const start = performance.now()
        yield* offer(store, "later", { delay: Duration.millis(300) })
        yield* take(store, () => Effect.void)
        assert.isAtLeast(performance.now() - start, 299)
        yield* offer(store, "never", { delay: Duration.days(365_000) })
        const error = yield* Effect.flip(offer(store, "too late", { delay: Duration.days(200_000_000) }))
        assert.strictEqual(Extensions.failureOf(error), "Refused")
        assert.include(error.message, `"too late"`)
      }).pipe(Effect.scoped)
    )

    it.effect(
      "a pool that its program uses up keeps no claim from being renewed, not even a pool of one",
      () =>
        Effect.gen(function* () {
          const tableName = fresh()
          const { sql, store } = yield* open({ tableName, ...quick }, { maxConnections: 1 })
          const other = yield* open({ tableName, ...quick })
          yield* offer(store, "a")
          const seen: Array<string> = []
          const mine = yield* Effect.forkScoped(
            take(store, ({ attempts }) =>
              sql.withTransaction(
                Effect.andThen(
                  Effect.sync(() => seen.push(`mine ${attempts}`)),
                  Effect.sleep("2500 millis")
                )
              )
            )
          )
          yield* eventually(
            Effect.sync(() => seen.length),
            (length) => length === 1
          )
          yield* Effect.forkScoped(
            take(other.store, ({ attempts }) => Effect.sync(() => seen.push(`other ${attempts}`)))
          )
          yield* Fiber.join(mine)
          assert.deepStrictEqual(seen, ["mine 1"])
          assert.strictEqual((yield* row(sql, tableName, "a"))?.state, "completed")
        }).pipe(Effect.scoped)
    )

    it.effect("without a connection of its own it is refused when it is built", () =>
      Effect.gen(function* () {
        const { url } = yield* Server
        const { sql } = yield* open({ tableName: fresh() })
        yield* sql`CREATE ROLE single LOGIN PASSWORD 'single' CONNECTION LIMIT 1`
        const single = url.replace("postgres:postgres@", "single:single@")
        const error = yield* Effect.flip(
          Effect.scoped(
            Effect.gen(function* () {
              const pool = yield* Layer.build(
                PgClient.layer({
                  url: Redacted.make(single),
                  maxConnections: 1,
                  startupParameters: { timezone: "UTC" }
                })
              )
              const client = Context.get(pool, PgClient.PgClient)
              return yield* Effect.provideContext(Layer.build(QueueStore.layerPostgres(PgClient)), pool).pipe(
                Effect.tap(() => client`SELECT 1`)
              )
            })
          )
        )
        assert(error._tag === "QueueStoreError")
        assert.strictEqual(error.reason, "Connection")
        assert.include(error.message, "connections of its own")
      }).pipe(Effect.scoped, quiet)
    )

    it.effect("a schema may hold the table; a name that Postgres would shorten is refused", () =>
      Effect.gen(function* () {
        const { sql } = yield* open({ tableName: fresh() })
        yield* sql`CREATE SCHEMA "Jobs"`
        for (const tableName of [`Jobs.${"t".repeat(52)}`, `"; DROP TABLE x; --`]) {
          for (let n = 0; n < 2; n++) {
            yield* Effect.scoped(
              Effect.gen(function* () {
                const { store } = yield* open({ tableName, ...quick })
                yield* offer(store, `a${n}`)
                yield* take(store, () => Effect.void)
                assert.strictEqual((yield* row(sql, tableName, `a${n}`))?.state, "completed")
              })
            )
          }
        }
        const exit = yield* Effect.exit(Effect.scoped(open({ tableName: "t".repeat(53) })))
        assert.include(String(Exit.isFailure(exit) ? exit.cause : ""), "at most 52 bytes")
      }).pipe(Effect.scoped)
    )

    it.effect("a role without CREATE works where the tables are", () =>
      Effect.gen(function* () {
        const { url } = yield* Server
        const tableName = fresh()
        const { sql } = yield* open({ tableName, ...quick })
        yield* sql`CREATE ROLE plain LOGIN PASSWORD 'plain'`
        yield* sql`REVOKE CREATE ON SCHEMA public FROM PUBLIC`
        yield* sql`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO plain`
        yield* sql`GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO plain`
        const { store } = yield* open(
          { tableName, ...quick },
          { url: url.replace("postgres:postgres@", "plain:plain@") }
        )
        yield* offer(store, "a")
        yield* take(store, () => Effect.void)
        assert.strictEqual((yield* row(sql, tableName, "a"))?.state, "completed")
      }).pipe(Effect.scoped, quiet)
    )

    it.effect(
      "a table of Effect's store gets its indexes and a wide sequence, also by stores that start together",
      () =>
        Effect.gen(function* () {
          const tableName = fresh()
          const { sql } = yield* open({ tableName: fresh() })
          yield* PersistedQueue.makeStoreSql({ tableName }).pipe(
            Effect.provideService(SqlClient.SqlClient, sql)
          )
          yield* Effect.forEach([1, 2, 3], () => open({ tableName }), { concurrency: "unbounded" })
          const names = sql<{ readonly name: string }>`
        SELECT indexrelid::regclass::text AS name FROM pg_index WHERE indrelid = to_regclass(${tableName}) AND indisvalid`
          yield* eventually(names, (names) =>
            ["due", "failed"].every((suffix) =>
              names.some(({ name }) => name === `idx_${tableName}_${suffix}`)
            )
          )
          const [sequence] = yield* sql<{ readonly type: string }>`
        SELECT data_type::text AS type FROM pg_sequences WHERE sequencename = ${`${tableName}_sequence_seq`}`
          assert.strictEqual(sequence?.type, "bigint")
        }).pipe(Effect.scoped)
    )

    it.effect("its own statements make no spans, and many idle queues are one poll", () =>
      Effect.gen(function* () {
        const spans: Array<string> = []
        const tracer = Tracer.make({
          span: (options) => {
            const span = new Tracer.NativeSpan(options)
            spans.push(span.name)
            return span
          }
        })
        yield* Effect.gen(function* () {
          const { sql, store } = yield* open({
            tableName: fresh(),
            pollInterval: "200 millis",
            lockExpiration: "1 second"
          })
          for (let n = 0; n < 50; n++) {
            yield* Effect.forkScoped(take(store, () => Effect.void, { name: `idle-${n}` }))
          }
          yield* Effect.sleep(500)
          spans.length = 0
          const count = Effect.map(
            sql<{
              readonly calls: string
            }>`SELECT xact_commit + xact_rollback AS calls FROM pg_stat_database WHERE datname = current_database()`.pipe(
              Effect.withTracerEnabled(false)
            ),
            ([row]) => Number(row?.calls)
          )
          const before = yield* count
          yield* Effect.sleep(3_000)
          const calls = (yield* count) - before
          // fifteen polls, and what the server does itself
          assert.isBelow(calls, 40)
          assert.isEmpty(spans)
        }).pipe(Effect.scoped, Effect.withTracer(tracer))
      })
    )

    it.effect("a wake-up and a park that meet never sleep: 300 races", () =>
      Effect.gen(function* () {
        const tableName = fresh()
        const { sql, store } = yield* open({ tableName, pollInterval: "100 millis" })
        const waker = yield* open({ tableName })
        const { wake } = Extensions.extensionsOf(waker.store)
        assert(wake !== undefined)
        const runs = new Set<string>()
        let woken = 0
        for (let n = 0; n < 10; n++) {
          yield* Effect.forkScoped(
            Effect.forever(
              Effect.exit(
                take(
                  store,
                  ({ id }) =>
                    Effect.gen(function* () {
                      const first = !runs.has(id)
                      runs.add(id)
                      if (!first) {
                        woken++
                        return
                      }
                      // just before, while or after it parks
                      yield* Effect.forkDetach(Effect.andThen(Effect.sleep(Math.random() * 6), wake("q", id)))
                      yield* Effect.sleep(Math.random() * 6)
                      return yield* Effect.fail("parks")
                    }),
                  { parkFor: Duration.hours(1) }
                )
              )
            )
          )
        }
        for (let n = 0; n < 300; n++) yield* offer(store, String(n))
        yield* eventually(
          Effect.sync(() => woken),
          (woken) => woken === 300,
          30_000
        )
        // parking has used no attempt
        const all = yield* eventually(rows(sql, tableName), (rows) =>
          rows.every(({ state }) => state === "completed")
        )
        assert.strictEqual(Math.max(...all.map(({ attempts }) => attempts)), 1)
      }).pipe(Effect.scoped)
    )

    it.effect("a wake-up touches neither a delayed element nor one that waits for its retry", () =>
      Effect.gen(function* () {
        const tableName = fresh()
        const { sql, store } = yield* open({ tableName, ...quick })
        const { wake } = Extensions.extensionsOf(store)
        assert(wake !== undefined)
        yield* offer(store, "retried")
        yield* Effect.exit(
          take(store, () => Effect.fail("no"), { retryDelay: () => Effect.succeed(Duration.hours(1)) })
        )
        yield* offer(store, "parked")
        yield* Effect.exit(take(store, () => Effect.fail("parks"), { parkFor: Duration.hours(1) }))
        yield* offer(store, "delayed", { delay: Duration.hours(1) })
        const due = Effect.map(rows(sql, tableName), (rows) =>
          rows.filter(({ due }) => due).map(({ id }) => id)
        )
        assert.deepStrictEqual(yield* due, [])
        for (const id of ["retried", "parked", "delayed"]) yield* wake("q", id)
        assert.deepStrictEqual(yield* due, ["parked"])
        yield* take(store, ({ attempts, id }) =>
          Effect.sync(() => assert.strictEqual(`${id} ${attempts}`, "parked 1"))
        )
      }).pipe(Effect.scoped)
    )

    it.effect("cleanup removes what is completed, and what has failed where it is told to", () =>
      Effect.gen(function* () {
        const tableName = fresh()
        const { sql, store } = yield* open({ tableName, ...quick })
        for (const id of ["done", "dead", "waits"]) yield* offer(store, id)
        yield* sql`UPDATE ${sql(tableName)} SET updated_at = NOW() - INTERVAL '2 days',
        state = CASE id WHEN 'done' THEN 'completed' WHEN 'dead' THEN 'failed' ELSE state END`
        const left = Effect.map(rows(sql, tableName), (rows) => rows.map(({ id }) => id))
        yield* store.cleanup({ timeToLive: Duration.days(1), failedTimeToLive: undefined })
        assert.deepStrictEqual(yield* left, ["dead", "waits"])
        yield* store.cleanup({ timeToLive: Duration.days(1), failedTimeToLive: Duration.days(1) })
        assert.deepStrictEqual(yield* left, ["waits"])
      }).pipe(Effect.scoped)
    )
  }
)
