// The stores that tests run on, each fresh.
import { PgClient } from "@effect/sql-pg"
import { Data, Effect, Layer } from "effect"
import { QueueStore } from "effect-jobs/queue"
import { SqliteClient } from "effect-jobs/sqlite"
import type { PersistedQueueStore } from "effect/persistence/PersistedQueue"
import { inject } from "vitest"
import * as Postgres from "./Postgres.ts"
import * as Redis from "./Redis.ts"

class NoDatabase extends Data.TaggedError("NoDatabase")<{ readonly message: string }> {}

/** The address of a new database, on the Postgres that the whole run shares (shared.ts). */
export const database = Effect.gen(function* () {
  const response = yield* Effect.promise(() => fetch(inject("databases"), { method: "POST" }))
  const answer = yield* Effect.promise(() => response.text())
  return response.ok ? answer : yield* new NoDatabase({ message: answer })
})

/** A database of its own, and its SqlClient. */
export const postgres = Layer.unwrap(Effect.map(database, (url) => Postgres.client(url)))

/** A SQLite in memory, and its SqlClient. */
export const sqlite = SqliteClient.layer({ filename: ":memory:" })

/** A Redis of its own, and its client; only where `Redis.hasRedis`. */
export const redis = Layer.unwrap(Effect.map(Redis.make, ({ port }) => Redis.client(port)))

/** Both kinds of SQL, by name. */
export const sql = [
  ["Postgres", postgres],
  ["SQLite", sqlite]
] as const

/** Every store with these options, by name; Redis where there is one. */
export const every = (
  options: QueueStore.Options = {}
): ReadonlyArray<readonly [name: string, store: Layer.Layer<PersistedQueueStore, unknown>]> => [
  ["memory", QueueStore.layerMemory],
  ["SQLite", Layer.provide(QueueStore.layerSql(options), sqlite)],
  ["Postgres", Layer.provide(QueueStore.layerPostgres(PgClient, options), postgres)],
  ["Postgres with Effect's store", Layer.provide(QueueStore.layerSql(options), postgres)],
  ...(Redis.hasRedis ? [["Redis", Layer.provide(QueueStore.layerRedis(options), redis)] as const] : [])
]

/** Every store with its defaults, by name. */
export const all = every()
