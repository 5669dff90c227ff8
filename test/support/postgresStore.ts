// A Postgres of a file's own, and stores on it as processes have them.
import { PgClient } from "@effect/sql-pg"
import { Context, Duration, Effect, Layer, Redacted, References, Scope } from "effect"
import { QueueStore } from "effect-jobs/queue"
import { PersistedQueue } from "effect/persistence"
import { SqlClient } from "effect/sql"
import type * as Extensions from "../../src/layers/queue/Extensions.ts"
import * as Postgres from "./Postgres.ts"

export class Server extends Context.Service<Server, Postgres.Postgres>()("Server") {
  static readonly layer = Layer.effect(Server, Postgres.make())
}

type Store = PersistedQueue.PersistedQueueStore["Service"]
type Item = Effect.Success<ReturnType<Store["take"]>>

let tables = 0
/** Each test has a table of its own. */
export const fresh = () => `queue_${++tables}`

/** A store as a process has it, until its scope closes. */
export const open = (
  options: QueueStore.PostgresOptions,
  config: { readonly maxConnections?: number; readonly url?: string; readonly maxMessageSize?: number } = {}
) =>
  Effect.gen(function* () {
    const server = yield* Server
    const context = yield* Layer.build(
      Layer.fresh(
        Layer.provideMerge(
          QueueStore.layerPostgres(PgClient, options),
          PgClient.layer({
            url: Redacted.make(config.url ?? server.url),
            maxConnections: config.maxConnections ?? 5,
            maxMessageSize: config.maxMessageSize,
            startupParameters: { timezone: "UTC" }
          })
        )
      )
    )
    return {
      store: Context.get(context, PersistedQueue.PersistedQueueStore),
      sql: Context.get(context, SqlClient.SqlClient)
    }
  })

export const offer = (
  store: Store,
  id: string,
  more: { readonly delay?: Duration.Duration; readonly element?: unknown } = {}
) => store.offer({ name: "q", id, element: more.element ?? { id }, isCustomId: true, delay: more.delay })

/** Takes one, and settles it as `handle` ends. */
export const take = <A, E>(
  store: Store,
  handle: (item: Item) => Effect.Effect<A, E>,
  more: Partial<Extensions.TakeOptions> = {}
) =>
  Effect.scopedWith((scope) => {
    const options: Extensions.TakeOptions = {
      name: "q",
      maxAttempts: 3,
      retryDelay: () => Effect.succeed(Duration.zero)
    }
    return Effect.flatMap(
      Scope.provide(
        store.take(Object.defineProperties(options, Object.getOwnPropertyDescriptors(more))),
        scope
      ),
      handle
    )
  })

export interface Row {
  readonly id: string
  readonly state: string
  readonly attempts: number
  readonly acquired_by: string | null
  readonly last_failure: string | null
  readonly due: boolean
}

export const rows = (sql: SqlClient.SqlClient, table: string) => sql<Row>`
  SELECT id, state, attempts, acquired_by, last_failure, visible_at <= NOW() AS due FROM ${sql(table)} ORDER BY sequence`

export const row = (sql: SqlClient.SqlClient, table: string, id: string) =>
  Effect.map(rows(sql, table), (rows) => rows.find((row) => row.id === id))

/** For what is logged as a warning. */
export const quiet = Effect.provideService(References.MinimumLogLevel, "None")

export const quick = { pollInterval: "50 millis", lockExpiration: "1 second" } as const
