// What fault tests have in common: a server with a journal, and the program under test in this process too.
import { PgClient } from "@effect/sql-pg"
import { type Duration, Effect, Layer, type Scope } from "effect"
import { Redis as RedisClient } from "effect/persistence"
import { SqlClient } from "effect/sql"
import type { PersistedQueueStore } from "effect/persistence/PersistedQueue"
import type { Dispatcher } from "../../src/index.ts"
import { QueueDispatcher, QueueStore } from "../../src/queue.ts"
import type { Told } from "./child.ts"
import * as Child from "./child.ts"
import * as Postgres from "./Postgres.ts"
import * as Redis from "./Redis.ts"

/** A line of the journal: what happened to which message of which job, in which attempt, in which worker. */
export interface Entry {
  readonly what: string
  readonly job: string
  readonly n: number
  readonly attempt: number
  readonly worker: string
}

const parse = (line: string): Entry => {
  const [what = "", job = "", n = "", attempt = "", worker = ""] = line.split(" ")
  return { what, job, n: Number(n), attempt: Number(attempt), worker }
}

/** How often each number ended: what is missing is lost, what is there twice ran twice. */
export const count = (entries: ReadonlyArray<Entry>, expected: Iterable<number>) => {
  const times = new Map<number, number>()
  for (const { n, what } of entries) if (what === "ended") times.set(n, (times.get(n) ?? 0) + 1)
  const wanted = new Set(expected)
  return {
    lost: [...wanted].filter((n) => !times.has(n)),
    invented: [...times.keys()].filter((n) => !wanted.has(n)),
    twice: [...times.values()].reduce((sum, count) => sum + count - 1, 0)
  }
}

/** What a fault happens to. */
export interface Ground<in R = never> {
  readonly server: { readonly restart: (pause?: number) => Promise<void> }
  readonly told: Told["server"]
  readonly provided: <A, E>(
    effect: Effect.Effect<A, E, Dispatcher | PersistedQueueStore | R>
  ) => Effect.Effect<A, E>
  readonly entries: Effect.Effect<ReadonlyArray<Entry>, unknown>
  readonly journal: Child.Journal
}

/** A Postgres with the tables of the tests. */
export const onPostgres = (
  lockExpiration?: Duration.Input
): Effect.Effect<Ground<SqlClient.SqlClient>, unknown, Scope.Scope> =>
  Effect.gen(function* () {
    const server = yield* Postgres.make()
    const client = yield* Layer.build(Postgres.client(server.url))
    const store = Layer.provideMerge(
      QueueStore.layerPostgres(PgClient, lockExpiration === undefined ? {} : { lockExpiration }),
      Layer.succeedContext(client)
    )
    const context = yield* Layer.build(Layer.provideMerge(QueueDispatcher.layer, store))
    const provided = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provideContext(effect, context)
    yield* provided(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`CREATE TABLE journal (at timestamptz DEFAULT clock_timestamp(), line text)`
        yield* sql`CREATE TABLE accounts (n integer)`
      })
    )
    const entries = provided(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const rows = yield* sql<{ readonly line: string }>`SELECT line FROM journal ORDER BY at`
        return rows.map(({ line }) => parse(line))
      })
    )
    return {
      server,
      told: { postgres: server.url },
      provided,
      entries,
      journal: yield* provided(Child.sqlJournal)
    }
  })

/** A Redis, and a journal in it. */
export const onRedis: Effect.Effect<Ground, unknown, Scope.Scope> = Effect.gen(function* () {
  const server = yield* Redis.make
  const store = Layer.provideMerge(QueueStore.layerRedis(), Redis.client(server.port))
  const context = yield* Layer.build(Layer.provideMerge(QueueDispatcher.layer, store))
  const provided = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provideContext(effect, context)
  const entries = provided(
    Effect.gen(function* () {
      const redis = yield* RedisClient.Redis
      const lines = yield* redis.send<ReadonlyArray<string>>("LRANGE", "journal", "0", "-1")
      return lines.map(parse)
    })
  )
  return {
    server,
    told: { redis: server.port },
    provided,
    entries,
    journal: yield* provided(Child.redisJournal)
  }
})
