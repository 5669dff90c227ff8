// A thin SqlClient on Node's own SQLite, for tests: one connection, WAL, one statement or transaction at a time.
import { Effect, Layer, Semaphore, Stream } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient, type SqlConnection, SqlError, Statement } from "effect/sql"
import { DatabaseSync, type SQLInputValue } from "node:sqlite"

const make = (filename: string) =>
  Effect.gen(function* () {
    const db = yield* Effect.acquireRelease(
      Effect.sync(() => new DatabaseSync(filename, { timeout: 5_000 })),
      (db) => Effect.sync(() => db.close())
    )
    db.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")
    const statements = new Map<string, ReturnType<DatabaseSync["prepare"]>>()
    const prepare = (sql: string) => {
      let statement = statements.get(sql)
      if (statement === undefined) {
        statement = db.prepare(sql)
        if (statements.size > 200) statements.clear()
        statements.set(sql, statement)
      }
      return statement
    }
    const run = <A>(
      sql: string,
      params: ReadonlyArray<unknown>,
      f: (s: typeof prepare, p: Array<SQLInputValue>) => A
    ) =>
      Effect.try({
        // sound: what isn't an SQLite value is refused by the statement itself
        try: () => f(prepare, params as Array<SQLInputValue>),
        catch: (cause) =>
          new SqlError.SqlError({ reason: SqlError.classifySqliteError(cause, { message: sql }) })
      })
    const all = (sql: string, params: ReadonlyArray<unknown>) =>
      run(sql, params, (prepare, params) => prepare(sql).all(...params))
    const values = (sql: string, params: ReadonlyArray<unknown>) =>
      Effect.map(all(sql, params), (rows) => rows.map((row) => Object.values(row)))
    const connection: SqlConnection.Connection = {
      execute: (sql, params, transform) =>
        Effect.map(all(sql, params), (rows) => (transform === undefined ? rows : transform(rows))),
      executeRaw: all,
      executeStream: () => Stream.die("not supported"),
      executeValues: values,
      executeValuesUnprepared: values,
      executeUnprepared: (sql, params, transform) =>
        Effect.map(all(sql, params), (rows) => (transform === undefined ? rows : transform(rows)))
    }
    const acquirers = SqlClient.makeSqliteAcquirers({
      connection: Effect.succeed(connection),
      semaphore: yield* Semaphore.make(1),
      isTransaction: () => db.isTransaction
    })
    return yield* SqlClient.make({
      ...acquirers,
      compiler: Statement.makeCompilerSqlite(),
      driver: "sqlite-test",
      beginTransaction: "BEGIN IMMEDIATE",
      spanAttributes: []
    })
  })

/** The client of a database file, or of `:memory:`. */
export const client = (filename: string) =>
  Layer.provide(Layer.effect(SqlClient.SqlClient, make(filename)), Reactivity.layer)
