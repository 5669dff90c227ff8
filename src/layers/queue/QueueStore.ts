/**
 * The stores of the durable queue: one of our own on Postgres, and Effect's `PersistedQueue` stores elsewhere, with
 * defaults that suit jobs and a check of what would lose or delay them. Beside each is Effect's `BackingPersistence`
 * in the same place, for the durable steps of the jobs.
 */
import * as Clock from "effect/Clock"
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PersistedQueue from "effect/persistence/PersistedQueue"
import * as Persistence from "effect/persistence/Persistence"
import { Redis } from "effect/persistence/Redis"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { DefinitionError } from "../../DefinitionError.ts"
import { checkedDuration, longest } from "../../internal/checks.ts"
import * as Extensions from "./Extensions.ts"
import * as PostgresStore from "./PostgresStore.ts"
import { nameOf, prepare, statements } from "./PostgresTable.ts"
import * as PostgresWake from "./PostgresWake.ts"
import * as RedisStore from "./RedisStore.ts"

export { causeOf, ElementRefused, failureOf, lost } from "./Extensions.ts"

/** What all stores take. */
export interface Options {
  /**
   * How long it takes at most until a worker sees what another process has queued, and what has become due.
   * What its own process queues, it sees at once. Default 1 second; every queue of a worker asks this often.
   */
  readonly pollInterval?: Duration.Input | undefined
  /**
   * How long a message stays claimed when its worker is gone; then another worker runs it, which counts as a new
   * attempt. Default 30 seconds. A living worker renews its claims every third of this time, so it must be
   * longer than a worker's event loop may ever stand still.
   */
  readonly lockExpiration?: Duration.Input | undefined
}

/** What a store on SQL takes. */
export interface SqlOptions extends Options {
  /** Made, with its indexes, by PersistedQueue's own migration. Default `effect_queue`. */
  readonly tableName?: string | undefined
}

/** What a store on Redis takes. */
export interface RedisOptions extends Options {
  /** Before every key. Default `effectq:`. */
  readonly prefix?: string | undefined
}

/** The store can't be used as it is set up. The message says what to change. */
export class QueueStoreError extends Data.TaggedError("QueueStoreError")<{
  readonly reason: "SessionTimeZone" | "Migration" | "Connection" | "Cluster"
  readonly message: string
  readonly cause?: unknown
}> {}

const timing = (options: Options) => {
  const lockExpiration = checkedDuration(
    options.lockExpiration ?? "30 seconds",
    "The lockExpiration of a queue's store"
  )
  const pollInterval = checkedDuration(
    options.pollInterval ?? "1 second",
    "The pollInterval of a queue's store"
  )
  if (Duration.toMillis(lockExpiration) < 1_000) {
    throw new DefinitionError({ message: "The lockExpiration of a queue's store must be at least 1 second." })
  }
  return { pollInterval, lockExpiration, lockRefreshInterval: Duration.times(lockExpiration, 1 / 3) }
}

const utc = new Set(["utc", "gmt", "uct", "zulu", "universal", "greenwich", "gmt0", "gmt+0", "gmt-0"])

/**
 * PersistedQueue's times are columns without a zone, written and compared with the session's NOW(): sessions in
 * two zones would hide a message from each other for hours.
 */
const checkTimeZone = (sql: SqlClient): Effect.Effect<void, SqlError | QueueStoreError> =>
  sql.onDialectOrElse({
    pg: () =>
      Effect.flatMap(sql<{ readonly zone: string }>`SELECT current_setting('TimeZone') AS zone`, ([row]) => {
        const zone = row?.zone ?? ""
        return utc.has(zone.toLowerCase().replace(/^etc\//, ""))
          ? Effect.void
          : Effect.fail(
              new QueueStoreError({
                reason: "SessionTimeZone",
                message: `The queue's Postgres sessions have the time zone "${zone}", and workers with another one would see its messages hours late or early: set it to UTC, as in PgClient.layer({ startupParameters: { timezone: "UTC" } }).`
              })
            )
      }),
    orElse: () => Effect.void
  })

/** PersistedQueue's SQL store on the `SqlClient`, as `layerSql` provides it. */
export const makeSql = (
  options: SqlOptions = {}
): Effect.Effect<
  PersistedQueue.PersistedQueueStore["Service"],
  SqlError | QueueStoreError,
  SqlClient | Scope.Scope
> =>
  Effect.gen(function* () {
    const sql = (yield* SqlClient).withoutTransforms()
    yield* checkTimeZone(sql)
    const tableName = options.tableName ?? "effect_queue"
    const isPostgres = sql.onDialectOrElse({ pg: () => true, orElse: () => false })
    if (isPostgres && nameOf(tableName).schema !== undefined) {
      throw new DefinitionError({
        message: `The tableName of QueueStore.layerSql can't name a schema, as "${tableName}" does: QueueStore.layerPostgres can.`
      })
    }
    const store = yield* migrated(tableName, PersistedQueue.makeStoreSql({ tableName, ...timing(options) }))
    return sql.onDialectOrElse({
      pg: () => limited(store, { maxElementSize: maxElementSizeOf(sql), latest: PostgresStore.latest }),
      mssql: () => store,
      sqlite: () => limited(wholeSeconds(store), { maxElementSize: sqliteMaxString, latest: endOfYear9999 }),
      orElse: () => wholeSeconds(store)
    })
  })

/** SQLite's limit of a string, in bytes. */
const sqliteMaxString = 1_000_000_000

/** SQLite's dates end here, and an offer rounds up by up to two seconds. */
const endOfYear9999 = Date.UTC(9999, 11, 31, 23, 59, 57)

/**
 * Effect's store, which refuses what it would lose: SQLite makes NULL of a later time, and ignores a row with it;
 * PgClient ends its connection at a longer row, whenever it is claimed.
 */
const limited = (
  store: PersistedQueue.PersistedQueueStore["Service"],
  limits: { readonly maxElementSize: number; readonly latest: number }
): PersistedQueue.PersistedQueueStore["Service"] =>
  Extensions.extend(
    {
      ...store,
      offer: (element) =>
        Effect.flatMap(Clock.currentTimeMillis, (now) => {
          const refusal = Extensions.refusal(element, JSON.stringify(element.element), now, limits)
          return refusal === undefined ? store.offer(element) : Effect.fail(refusal)
        })
    },
    limits
  )

/**
 * SQLite's and MySQL's clocks drop the fraction of the second, so that a retry would come up to a second too
 * early. PersistedQueue makes up for it in a delayed offer, and this does so in a retry.
 */
const wholeSeconds = (
  store: PersistedQueue.PersistedQueueStore["Service"]
): PersistedQueue.PersistedQueueStore["Service"] => ({
  ...store,
  take: (options) =>
    store.take({
      name: options.name,
      get maxAttempts() {
        return options.maxAttempts
      },
      retryDelay: (attempts) =>
        Effect.map(options.retryDelay(attempts), (delay) =>
          // no date is after the year 9999
          Duration.isZero(delay) ? delay : Duration.sum(Duration.min(delay, longest), Duration.seconds(1))
        )
    })
})

/** Processes that start together on a new database may meet in its migration, which then dies. */
const migrated = <A, E, R>(
  table: string,
  make: Effect.Effect<A, E, R>
): Effect.Effect<A, E | QueueStoreError, R> =>
  make.pipe(
    Effect.catchDefect((cause) =>
      Effect.fail(
        new QueueStoreError({
          reason: "Migration",
          message: `Effect couldn't make or upgrade the table "${table}".`,
          cause
        })
      )
    ),
    Effect.retry({
      while: (error) => error instanceof QueueStoreError,
      times: 5,
      schedule: Schedule.exponential("100 millis")
    })
  )

/** Where durable steps are kept on SQL. */
const steps: Layer.Layer<Persistence.BackingPersistence, SqlError | QueueStoreError, SqlClient> =
  Layer.effectContext(
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const anothers = sql.onDialectOrElse({
        pg: () => sql`SELECT 1 FROM pg_class WHERE oid = to_regclass('effect_persistence')
          AND NOT (pg_has_role(relowner, 'USAGE') AND has_schema_privilege(relnamespace, 'CREATE'))`,
        orElse: () => Effect.succeed([])
      })
      const backing = migrated("effect_persistence", Layer.build(Persistence.layerBackingSql))
      return yield* (yield* anothers).length === 0
        ? backing
        : Effect.provideService(backing, SqlClient, withoutCreate(sql))
    })
  )

/** For a role that doesn't own the table: it may not say CREATE ... IF NOT EXISTS where the thing exists either. */
const withoutCreate = (sql: SqlClient): SqlClient => {
  const plain = sql.withoutTransforms()
  const statement = (strings: unknown, ...params: ReadonlyArray<unknown>): unknown =>
    Array.isArray(strings) && /^\s*CREATE (TABLE|INDEX) IF NOT EXISTS/.test(String(strings[0]))
      ? Effect.void
      : Reflect.apply(plain, undefined, [strings, ...params])
  // sound: but for those statements, it is the client
  const client = Object.assign(statement, plain, { withoutTransforms: () => client }) as unknown as SqlClient
  return client
}

/**
 * Effect's store on the `SqlClient` of the environment, such as `SqliteClient.layer` of `effect-jobs/sqlite`: SQLite and
 * Postgres are tested. Use the very client that the rest of the program uses: a dispatch inside a transaction of another
 * client doesn't join it. On Postgres {@link layerPostgres} does the same, several times as fast.
 *
 * On Postgres the session's time zone must be UTC; if it isn't, the Layer fails with a `QueueStoreError` that
 * says so.
 */
export const layerSql = (
  options?: SqlOptions
): Layer.Layer<
  PersistedQueue.PersistedQueueStore | Persistence.BackingPersistence,
  SqlError | QueueStoreError,
  SqlClient
> => Layer.merge(Layer.effect(PersistedQueue.PersistedQueueStore, makeSql(options)), steps)

/** What a store on Postgres takes. */
export interface PostgresOptions extends SqlOptions {
  /** A table, or `schema.table`; at most 52 bytes. Default `effect_queue`. */
  readonly tableName?: string | undefined
  /** Of the notifications; at most 63 bytes. Default: the table's name. */
  readonly channel?: string | undefined
}

/** PersistedQueue's store on Postgres, as `layerPostgres` provides it. */
export const makePostgres = <Client extends PostgresWake.PgClient, Id>(
  module: PostgresWake.PgModule<Client, Id>,
  options: PostgresOptions = {}
): Effect.Effect<
  PersistedQueue.PersistedQueueStore["Service"],
  SqlError | QueueStoreError,
  Id | Scope.Scope
> =>
  Effect.gen(function* () {
    const client = yield* module.PgClient
    const sql = client.withoutTransforms()
    const name = nameOf(options.tableName ?? "effect_queue")
    yield* checkTimeZone(sql)
    const own = yield* PostgresWake.makeOwn(module, client).pipe(
      Effect.mapError(
        (cause) =>
          new QueueStoreError({
            reason: "Connection",
            message: `The queue's store on Postgres works on connections of its own beside the program's pool, up to ${PostgresWake.ownConnections} of them, and couldn't open one.`,
            cause
          })
      )
    )
    yield* migrated(name.quoted, prepare(own, name))
    const channel = options.channel ?? options.tableName ?? "effect_queue"
    const wake = yield* PostgresWake.make(own, channel)
    const { look, started, store } = yield* PostgresStore.make({
      table: name.quoted,
      statements: statements(name),
      sql,
      own,
      notify: wake.notify,
      maxElementSize: maxElementSizeOf(client),
      ...timing(options)
    })
    yield* Effect.forkScoped(Effect.andThen(started, wake.hear(look)))
    return store
  })

/** PgClient ends a connection at a longer row, and has the limit in its settings. */
const maxElementSizeOf = (sql: object): number => {
  // sound: read from whatever is there
  const { config } = sql as { readonly config?: { readonly maxMessageSize?: unknown } }
  const size = config?.maxMessageSize
  return (typeof size === "number" ? size : 16 * 1024 * 1024) - rowOverhead
}

/** What a claimed row has beside its element: an id and a queue's name of 255 characters, and numbers. */
const rowOverhead = 4_096

/**
 * A store of our own on PersistedQueue's table on Postgres; any `PersistedQueue` works on it. Give it the module
 * `PgClient` of `@effect/sql-pg`: `QueueStore.layerPostgres(PgClient)`.
 *
 * - Claims and acknowledgements go in batches: several times the messages a second of `layerSql`.
 * - What one process has committed, a worker in another one sees within milliseconds, by `LISTEN` and `NOTIFY`. Polling
 *   goes on, one statement for all queues, and finds what a lost notification hasn't told.
 * - It opens two to four connections of its own beside the client's pool, with the client's settings, so a pool that is
 *   used up keeps no lock from being renewed. A process that only dispatches closes its one after a minute.
 * - Delays are kept to the millisecond, by the database's clock.
 * - An end is reported when it is stored. A crash between a run and its acknowledgement repeats the run, once its lock
 *   has expired: at most those that the process had under way.
 */
export const layerPostgres = <Client extends PostgresWake.PgClient, Id>(
  module: PostgresWake.PgModule<Client, Id>,
  options: PostgresOptions = {}
): Layer.Layer<
  PersistedQueue.PersistedQueueStore | Persistence.BackingPersistence,
  SqlError | QueueStoreError,
  Id
> =>
  Layer.merge(
    Layer.effect(PersistedQueue.PersistedQueueStore, makePostgres(module, options)),
    Layer.provide(steps, Layer.effect(SqlClient, module.PgClient))
  )

/** PersistedQueue's store on Redis, as `layerRedis` provides it. */
export const makeRedis = (
  options: RedisOptions = {}
): Effect.Effect<PersistedQueue.PersistedQueueStore["Service"], QueueStoreError, Redis | Scope.Scope> =>
  Effect.gen(function* () {
    const redis = yield* Redis
    const clock = yield* Clock.Clock
    const server = yield* RedisStore.serverOf(redis)
    if (server.get("cluster_enabled") === "1") {
      return yield* new QueueStoreError({
        reason: "Cluster",
        message:
          "The queue's Redis is a cluster, and each step of a message uses keys of several of its slots (CROSSSLOT): use a server that is none."
      })
    }
    yield* Effect.forEach(RedisStore.warnings(server), (warning) => Effect.logWarning(warning))
    const store = yield* PersistedQueue.makeStoreRedis({ prefix: options.prefix, ...timing(options) }).pipe(
      Effect.provideService(
        Redis,
        RedisStore.recovering(redis, () => clock.currentTimeMillisUnsafe())
      )
    )
    return Extensions.extend(store, {
      maxElementSize: redisMaxString - rowOverhead,
      latest: PostgresStore.latest
    })
  })

/** Redis' `proto-max-bulk-len`. */
const redisMaxString = 512 * 1024 * 1024

/**
 * The store on the `Redis` of the environment, such as `NodeRedis.layer`. What is accepted is as durable as the
 * server's persistence: use `appendonly yes`. A cluster is refused; a server that may lose messages is logged.
 */
export const layerRedis = (
  options: RedisOptions = {}
): Layer.Layer<PersistedQueue.PersistedQueueStore | Persistence.BackingPersistence, QueueStoreError, Redis> =>
  Layer.merge(
    Layer.effect(PersistedQueue.PersistedQueueStore, makeRedis(options)),
    Persistence.layerBackingRedis
  )

/** Each take has a copy of its element, as on every other store: no attempt sees what another did to its payload. */
const copies = Layer.effect(
  PersistedQueue.PersistedQueueStore,
  Effect.map(PersistedQueue.PersistedQueueStore, (store) => ({
    ...store,
    take: (options) =>
      Effect.map(store.take(options), (taken) => ({ ...taken, element: structuredClone(taken.element) }))
  }))
)

/** The store in this process's memory, for development and tests: nothing outlives the process. */
export const layerMemory: Layer.Layer<PersistedQueue.PersistedQueueStore | Persistence.BackingPersistence> =
  Layer.merge(Layer.provide(copies, PersistedQueue.layerStoreMemory), Persistence.layerBackingMemory)
