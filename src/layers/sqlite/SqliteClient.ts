/**
 * A `SqlClient` on the SQLite that the runtime has built in: `node:sqlite` on Node, `bun:sqlite` on Bun. It has no
 * dependency, and serves until Effect's own client is published for Effect 4.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Reactivity from "effect/reactivity/Reactivity"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as SqlClient from "effect/sql/SqlClient"
import type * as SqlConnection from "effect/sql/SqlConnection"
import { classifySqliteError, SqlError } from "effect/sql/SqlError"
import * as Statement from "effect/sql/Statement"
import * as Stream from "effect/Stream"
import { checkedCount, checkedDuration } from "../../internal/checks.ts"
import { type Database, open, type Prepared } from "./Database.ts"

export interface Options {
  /** A file, which is made where it isn't there, in a folder that is; or `:memory:`. */
  readonly filename: string
  /**
   * How long a statement waits for another process that writes, in whole milliseconds; then it fails with a
   * `LockTimeoutError`. SQLite waits within the call, so nothing else runs in this process meanwhile. Default 5 seconds.
   */
  readonly busyTimeout?: Duration.Input | undefined
  /**
   * Whether a commit survives a power cut. `full`, the default, waits for the disk at each commit; `normal` doesn't, and
   * may lose the last ones then. A crash of the process loses none either way.
   */
  readonly synchronous?: "full" | "normal" | undefined
  /** Statements that are kept prepared. Default 200. */
  readonly preparedStatements?: number | undefined
  /** Turns column names into those of rows. Default: as they are. */
  readonly transformResultNames?: ((name: string) => string) | undefined
  /** Turns names in statements into those of columns. Default: as they are. */
  readonly transformQueryNames?: ((name: string) => string) | undefined
}

/**
 * A client with one connection, in WAL mode with foreign keys enforced. One statement or transaction runs at a time, and
 * a transaction locks the database for writers from its start (`BEGIN IMMEDIATE`), so it never fails half way for
 * another writer. Booleans are stored as 0 and 1, dates as ISO 8601, `undefined` as NULL.
 *
 * Throws a `DefinitionError` for invalid options, and fails with a `SqlError` if the file can't be opened.
 */
export const make = (
  options: Options
): Effect.Effect<SqlClient.SqlClient, SqlError, Scope.Scope | Reactivity.Reactivity> =>
  Effect.gen(function* () {
    const busyTimeout = Duration.toMillis(
      checkedDuration(options.busyTimeout ?? "5 seconds", "The busyTimeout of SqliteClient")
    )
    const kept = checkedCount(options.preparedStatements ?? 200, "The preparedStatements of SqliteClient")
    const db = yield* Effect.acquireRelease(
      Effect.tryPromise({
        try: () => open(options.filename, busyTimeout, options.synchronous ?? "full"),
        catch: (cause) => sqlError(cause, `SQLite couldn't open ${options.filename}`, "connect")
      }),
      (db) => Effect.sync(() => db.close())
    )
    const { transformResultNames } = options
    return yield* SqlClient.make({
      ...SqlClient.makeSqliteAcquirers({
        connection: Effect.succeed(connectionOf(db, kept)),
        semaphore: yield* Semaphore.make(1),
        isTransaction: () => db.isTransaction()
      }),
      compiler: Statement.makeCompilerSqlite(options.transformQueryNames),
      driver: "effect-jobs-sqlite",
      beginTransaction: "BEGIN IMMEDIATE",
      releaseSavepoint: (name) => `RELEASE SAVEPOINT ${name}`,
      spanAttributes: [["db.system.name", "sqlite"]],
      transformRows:
        transformResultNames === undefined
          ? undefined
          : Statement.defaultTransforms(transformResultNames).array
    })
  })

/** The client of a file, or of `:memory:`; see {@link make}. */
export const layer = (options: Options): Layer.Layer<SqlClient.SqlClient, SqlError> =>
  Layer.provide(Layer.effect(SqlClient.SqlClient, make(options)), Reactivity.layer)

/** `node:sqlite` has SQLite's code as `errcode`; Effect looks for `errno`, which Bun has. */
const sqlError = (cause: unknown, message: string, operation: string) => {
  if (cause instanceof Error && "errcode" in cause && !("errno" in cause)) {
    Object.defineProperty(cause, "errno", { value: cause.errcode })
    // a code that says nothing hides the number
    if ("code" in cause) Object.defineProperty(cause, "code", { value: cause.errcode })
  }
  return new SqlError({ reason: classifySqliteError(cause, { message, operation }) })
}

const connectionOf = (db: Database, kept: number): SqlConnection.Connection => {
  const prepared = cache(db, kept)
  const run = <A>(
    sql: string,
    params: ReadonlyArray<unknown>,
    f: (statement: Prepared, params: Array<unknown>) => A
  ) =>
    Effect.try({
      try: () => f(prepared(sql), params.map(bindable)),
      catch: (cause) => sqlError(cause, "Failed to execute statement", "execute")
    })
  const all = (sql: string, params: ReadonlyArray<unknown>) =>
    run(sql, params, (statement, params) => statement.all(params))
  const values = (sql: string, params: ReadonlyArray<unknown>) =>
    run(sql, params, (statement, params) => statement.values(params))
  const execute: SqlConnection.Connection["execute"] = (sql, params, transform) =>
    transform === undefined ? all(sql, params) : Effect.map(all(sql, params), transform)
  return {
    execute,
    executeUnprepared: execute,
    executeRaw: all,
    executeValues: values,
    executeValuesUnprepared: values,
    executeStream: (sql, params, transform) =>
      Stream.unwrap(Effect.map(execute(sql, params, transform), Stream.fromIterable))
  }
}

/** The statements that were used last. */
const cache = (db: Database, kept: number) => {
  const statements = new Map<string, Prepared>()
  return (sql: string): Prepared => {
    const statement = statements.get(sql) ?? db.prepare(sql)
    statements.delete(sql)
    statements.set(sql, statement)
    const [oldest] = statements.keys()
    if (statements.size > kept && oldest !== undefined) statements.delete(oldest)
    return statement
  }
}

/** SQLite has neither booleans nor dates; what else it hasn't, it refuses itself. */
const bindable = (value: unknown): unknown => {
  if (value === undefined) return null
  if (typeof value === "boolean") return value ? 1 : 0
  return value instanceof Date ? value.toISOString() : value
}
