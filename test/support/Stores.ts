// The stores that tests run on, each fresh.
import { PgClient } from "@effect/sql-pg"
import { Effect, Layer } from "effect"
import { QueueStore } from "effect-jobs/queue"
import { SqliteClient } from "effect-jobs/sqlite"
import type { PersistedQueueStore } from "effect/persistence/PersistedQueue"
import * as Postgres from "./Postgres.ts"
import * as Redis from "./Redis.ts"

/** A Postgres of its own, and its SqlClient. */
export const postgres = Layer.unwrap(Effect.map(Postgres.make(), ({ url }) => Postgres.client(url)))

/** A SQLite in memory, and its SqlClient. */
export const sqlite = SqliteClient.layer({ filename: ":memory:" })

/** A Redis of its own, and its client; only where `Redis.hasRedis`. */
export const redis = Layer.unwrap(Effect.map(Redis.make, ({ port }) => Redis.client(port)))

/** Both kinds of SQL, by name. */
export const sql = [
  ["Postgres", postgres],
  ["SQLite", sqlite]
] as const

/** Every store, by name; Redis where there is one. */
export const all: ReadonlyArray<readonly [name: string, store: Layer.Layer<PersistedQueueStore, unknown>]> = [
  ["memory", QueueStore.layerMemory],
  ["SQLite", Layer.provide(QueueStore.layerSql(), sqlite)],
  ["Postgres", Layer.provide(QueueStore.layerPostgres(PgClient), postgres)],
  ["Postgres with Effect's store", Layer.provide(QueueStore.layerSql(), postgres)],
  ...(Redis.hasRedis ? [["Redis", Layer.provide(QueueStore.layerRedis(), redis)] as const] : [])
]
