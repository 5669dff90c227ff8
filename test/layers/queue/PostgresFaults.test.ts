import { assert, layer } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Option } from "effect"
import { PersistedQueue } from "effect/persistence"
import * as Extensions from "../../../src/layers/queue/Extensions.ts"
import { eventually } from "../../support/eventually.ts"
import { fresh, offer, open, quick, quiet, row, rows, Server, take } from "../../support/postgresStore.ts"

layer(Server.layer, { excludeTestServices: true, timeout: "60 seconds" })(
  "QueueStore.layerPostgres, when things go wrong",
  (it) => {
    it.effect("a lock that isn't renewed expires; in the last attempt the element has failed", () =>
      Effect.gen(function* () {
        const tableName = fresh()
        const { sql, store } = yield* open({ tableName, ...quick })
        for (const id of ["again", "dead"]) yield* offer(store, id)
        // as a worker that was killed leaves it
        yield* sql`UPDATE ${sql(tableName)} SET acquired_at = NOW() - INTERVAL '500 milliseconds',
        acquired_by = ${crypto.randomUUID()}, attempts = CASE id WHEN 'dead' THEN 3 ELSE 1 END`
        const seen: Array<string> = []
        yield* take(store, ({ attempts, id }) => Effect.sync(() => seen.push(`${id} ${attempts}`)))
        assert.deepStrictEqual(seen, ["again 2"])
        yield* Effect.forkScoped(take(store, () => Effect.void))
        const dead = yield* eventually(row(sql, tableName, "dead"), (row) => row?.state === "failed")
        assert.deepInclude(dead, { attempts: 3, last_failure: "Lock expired after final attempt" })
      }).pipe(Effect.scoped)
    )

    it.effect("a lost claim is told, and its end doesn't overwrite the new owner's", () =>
      Effect.gen(function* () {
        const tableName = fresh()
        const { sql, store } = yield* open({ tableName, ...quick })
        yield* offer(store, "a")
        const owner = crypto.randomUUID()
        yield* take(store, (item) =>
          Effect.gen(function* () {
            assert.isTrue(Option.isNone(yield* Effect.timeoutOption(Extensions.lost(item), "1500 millis")))
            yield* sql`UPDATE ${sql(tableName)} SET acquired_by = ${owner}, acquired_at = NOW() + INTERVAL '1 hour'`
            yield* Extensions.lost(item)
          })
        )
        assert.deepInclude(yield* row(sql, tableName, "a"), {
          state: "pending",
          acquired_by: owner,
          attempts: 1
        })
      }).pipe(Effect.scoped, quiet)
    )

    it.effect("a row that another session has locked keeps neither the others nor the renewals waiting", () =>
      Effect.gen(function* () {
        const tableName = fresh()
        const { sql, store } = yield* open({ tableName, ...quick })
        for (const id of ["locked", "free"]) yield* offer(store, id)
        const claimed = yield* Deferred.make<void>()
        const ended = yield* Deferred.make<void>()
        const locked = yield* Effect.forkScoped(
          take(store, () => Effect.andThen(Deferred.succeed(claimed, undefined), Deferred.await(ended)))
        )
        yield* Deferred.await(claimed)
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`SELECT 1 FROM ${sql(tableName)} WHERE id = 'locked' FOR UPDATE`
            yield* Deferred.succeed(ended, undefined)
            yield* take(store, ({ id }) => Effect.sync(() => assert.strictEqual(id, "free")))
            yield* Effect.sleep("1500 millis")
            assert.isUndefined(locked.pollUnsafe())
          })
        )
        yield* Fiber.join(locked)
        assert.deepStrictEqual(
          (yield* rows(sql, tableName)).map(({ state }) => state),
          ["completed", "completed"]
        )
      }).pipe(Effect.scoped)
    )

    it.effect(
      "stores that close under load give back what they had claimed: nothing is lost, no attempt is used",
      () =>
        Effect.gen(function* () {
          const tableName = fresh()
          const { sql, store } = yield* open({ tableName })
          const { offerAll } = Extensions.extensionsOf(store)
          const count = 2_000
          yield* (
            offerAll?.(
              Array.from({ length: count }, (_, n) => ({
                name: "q",
                id: String(n),
                element: n,
                isCustomId: true
              }))
            ) ?? Effect.void
          )
          const ran = new Map<string, number>()
          let most = 0
          const once = Effect.scoped(
            Effect.gen(function* () {
              const { store } = yield* open({ tableName })
              for (let n = 0; n < 10; n++) {
                yield* Effect.forkScoped(
                  Effect.forever(
                    take(store, ({ attempts, id }) =>
                      Effect.sync(() => {
                        most = Math.max(most, attempts)
                        ran.set(id, (ran.get(id) ?? 0) + 1)
                      })
                    )
                  )
                )
              }
              const before = ran.size
              yield* eventually(
                Effect.sync(() => ran.size),
                (size) => size >= Math.min(before + 10, count),
                20_000,
                1
              )
              yield* Effect.sleep(Math.random() * 20)
            })
          )
          for (let n = 0; n < 20; n++) yield* once
          const held = yield* sql`SELECT 1 FROM ${sql(tableName)} WHERE acquired_by IS NOT NULL`
          assert.lengthOf(held, 0)
          const states = yield* rows(sql, tableName)
          assert.strictEqual(states.filter(({ state }) => state === "completed").length, ran.size)
          assert.strictEqual(most, 1)
          assert.isTrue([...ran.values()].every((times) => times === 1))
          assert.isTrue(states.every(({ attempts, state }) => attempts === (state === "completed" ? 1 : 0)))
        }).pipe(Effect.scoped)
    )

    it.effect("connections that are cut lose nothing, and what they had claimed uses no attempt", () =>
      Effect.gen(function* () {
        const tableName = fresh()
        const { sql, store } = yield* open({ tableName, lockExpiration: "30 seconds" })
        const { offerAll } = Extensions.extensionsOf(store)
        const count = 1_000
        yield* (
          offerAll?.(
            Array.from({ length: count }, (_, n) => ({
              name: "q",
              id: String(n),
              element: n,
              isCustomId: true
            }))
          ) ?? Effect.void
        )
        const ran = new Set<string>()
        for (let n = 0; n < 10; n++) {
          yield* Effect.forkScoped(Effect.forever(take(store, ({ id }) => Effect.sync(() => ran.add(id)))))
        }
        for (let n = 0; n < 5; n++) {
          yield* Effect.sleep(60)
          yield* Effect.exit(
            sql`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'effect-jobs' AND pid <> pg_backend_pid()`
          )
        }
        yield* eventually(
          Effect.sync(() => ran.size),
          (size) => size === count
        )
        yield* eventually(rows(sql, tableName), (rows) => rows.every(({ state }) => state === "completed"))
        assert.strictEqual(Math.max(...(yield* rows(sql, tableName)).map(({ attempts }) => attempts)), 1)
      }).pipe(Effect.scoped, quiet)
    )

    it.effect("a row that was too large for its client is set aside, and one that would be is refused", () =>
      Effect.gen(function* () {
        const tableName = fresh()
        const limit = 100_000
        const { sql, store } = yield* open({ tableName, ...quick }, { maxMessageSize: limit })
        const { maxElementSize = 0 } = Extensions.extensionsOf(store)
        assert.isBelow(maxElementSize, limit)
        const error = yield* Effect.flip(offer(store, "large", { element: "ü".repeat(maxElementSize / 2) }))
        assert.strictEqual(Extensions.failureOf(error), "Refused")
        assert(error.cause instanceof Extensions.ElementRefused)
        assert.strictEqual(error.cause.limit, maxElementSize)
        // the longest that is taken
        yield* offer(store, "x".repeat(255), { element: "x".repeat(maxElementSize - 2) })
        yield* sql`INSERT INTO ${sql(tableName)} (id, queue_name, element, state, attempts, visible_at, created_at, updated_at)
        VALUES ('old', 'q', ${JSON.stringify("y".repeat(limit * 2))}, 'pending', 0, 'epoch', NOW(), NOW())`
        yield* take(store, ({ id }) => Effect.sync(() => assert.lengthOf(id, 255)))
        assert.deepInclude(yield* row(sql, tableName, "old"), { state: "failed" })
      }).pipe(Effect.scoped)
    )

    it.effect("a deadlock is told apart from a store that is away", () =>
      Effect.gen(function* () {
        const { sql, store } = yield* open({ tableName: fresh() })
        const both = yield* Deferred.make<void>()
        let ready = 0
        const crossing = (first: string, second: string) =>
          sql.withTransaction(
            Effect.gen(function* () {
              yield* offer(store, first)
              if (++ready === 2) yield* Deferred.succeed(both, undefined)
              yield* Deferred.await(both)
              yield* offer(store, second)
            })
          )
        const exits = yield* Effect.all([Effect.exit(crossing("a", "b")), Effect.exit(crossing("b", "a"))], {
          concurrency: 2
        })
        const failed = exits.filter(Exit.isFailure)
        assert.lengthOf(failed, 1)
        const error = failed[0]?.cause.reasons[0]
        assert(error?._tag === "Fail" && error.error instanceof PersistedQueue.PersistedQueueError)
        assert.strictEqual(Extensions.failureOf(error.error), "Conflict")
      }).pipe(Effect.scoped)
    )
  }
)
