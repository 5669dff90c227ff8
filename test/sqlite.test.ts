import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Layer, Schema } from "effect"
import { Job } from "effect-jobs"
import { QueueDispatcher, QueueStore, QueueWorker } from "effect-jobs/queue"
import { SqliteClient } from "effect-jobs/sqlite"
import { SqlClient } from "effect/sql"
import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { eventually } from "./support/eventually.ts"

const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "effect-jobs-sqlite-"))),
  (folder) => Effect.sync(() => rmSync(folder, { recursive: true }))
)

const sqlOf = (options: SqliteClient.Options) =>
  Effect.flatMap(Layer.build(Layer.fresh(SqliteClient.layer(options))), (context) =>
    Effect.provideContext(SqlClient.SqlClient, context)
  )

describe("SqliteClient", () => {
  it.live("a file in WAL mode keeps what was committed, and nothing else", () =>
    Effect.gen(function* () {
      const filename = join(yield* folder, "jobs.db")
      yield* Effect.scoped(
        Effect.gen(function* () {
          const sql = yield* sqlOf({ filename })
          yield* sql`CREATE TABLE t (n INTEGER, at TEXT, yes INTEGER, blob BLOB)`
          const row = { n: 1, at: new Date(0), yes: true, blob: new Uint8Array([1, 2]) }
          yield* sql.withTransaction(sql`INSERT INTO t ${sql.insert(row)}`)
          yield* Effect.exit(
            sql.withTransaction(Effect.andThen(sql`INSERT INTO t (n) VALUES (2)`, Effect.fail("no")))
          )
          yield* sql.withTransaction(
            Effect.andThen(
              sql`INSERT INTO t (n) VALUES (3)`,
              Effect.exit(
                sql.withTransaction(Effect.andThen(sql`INSERT INTO t (n) VALUES (4)`, Effect.fail("no")))
              )
            )
          )
        })
      )
      const sql = yield* sqlOf({ filename, synchronous: "normal" })
      assert.deepStrictEqual(yield* sql`SELECT n, at, yes, hex(blob) AS blob FROM t`, [
        { n: 1, at: "1970-01-01T00:00:00.000Z", yes: 1, blob: "0102" },
        { n: 3, at: null, yes: null, blob: "" }
      ])
      assert.deepStrictEqual(yield* sql`SELECT n, n FROM t`.values, [
        [1, 1],
        [3, 3]
      ])
      assert.deepStrictEqual(yield* sql`PRAGMA journal_mode`, [{ journal_mode: "wal" }])
      assert.deepStrictEqual(yield* sql`PRAGMA synchronous`, [{ synchronous: 1 }])
      assert.deepStrictEqual(yield* sql`PRAGMA foreign_keys`, [{ foreign_keys: 1 }])
    }).pipe(Effect.scoped)
  )

  it.live("a transaction is alone from its start: another client waits for it, for busyTimeout", () =>
    Effect.gen(function* () {
      const filename = join(yield* folder, "jobs.db")
      const one = yield* sqlOf({ filename })
      const other = yield* sqlOf({ filename, busyTimeout: "50 millis" })
      yield* one`CREATE TABLE t (n INTEGER)`
      const error = yield* one.withTransaction(Effect.flip(other`INSERT INTO t (n) VALUES (1)`))
      assert.strictEqual(error.reason._tag, "LockTimeoutError")
      yield* other`INSERT INTO t (n) VALUES (1)`
      assert.lengthOf(yield* one`SELECT n FROM t`, 1)
    }).pipe(Effect.scoped)
  )

  it.live("errors are typed, and a statement that is used again works after one", () =>
    Effect.gen(function* () {
      const sql = yield* sqlOf({ filename: ":memory:", preparedStatements: 1 })
      yield* sql`CREATE TABLE t (n INTEGER UNIQUE)`
      const insert = (n: number) => sql`INSERT INTO t (n) VALUES (${n})`
      yield* insert(1)
      assert.strictEqual((yield* Effect.flip(insert(1))).reason._tag, "UniqueViolation")
      yield* insert(2)
      assert.strictEqual((yield* Effect.flip(sql`SELEC`)).reason._tag, "UnknownError")
      assert.isTrue(Exit.isFailure(yield* Effect.exit(sql`SELECT ${Symbol("no value")}`)))
      assert.lengthOf(yield* sql`SELECT n FROM t`, 2)
    }).pipe(Effect.scoped)
  )

  it.live("a file that can't be opened, or is no database, fails the layer", () =>
    Effect.gen(function* () {
      const dir = yield* folder
      writeFileSync(join(dir, "text"), "this is no database, but some text that is long enough")
      for (const filename of [join(dir, "nowhere", "jobs.db"), join(dir, "text")]) {
        const error = yield* Effect.flip(sqlOf({ filename }))
        assert.strictEqual(error._tag, "SqlError")
        assert.include(error.reason.message, filename)
      }
      for (const options of [{ busyTimeout: -1 }, { preparedStatements: 0 }]) {
        const exit = yield* Effect.exit(sqlOf({ filename: ":memory:", ...options }))
        assert.include(String(Exit.isFailure(exit) ? exit.cause : ""), "SqliteClient")
      }
    }).pipe(Effect.scoped)
  )

  it.live("a queue in a file is there after a restart", () =>
    Effect.gen(function* () {
      class Work extends Job.make("sqlite.work", { payload: { n: Schema.Int } }) {}
      const filename = join(yield* folder, "jobs.db")
      const seen: Array<number> = []
      const dispatcher = () =>
        Layer.provideMerge(
          QueueDispatcher.layer,
          Layer.fresh(Layer.provide(QueueStore.layerSql(), SqliteClient.layer({ filename })))
        )
      yield* Effect.provide(Work.dispatch({ n: 1 }), dispatcher())
      const worker = QueueWorker.layer([Work]).pipe(
        Layer.provide(Work.toLayer(({ n }) => Effect.sync(() => seen.push(n)))),
        Layer.provide(dispatcher())
      )
      yield* Layer.build(worker)
      yield* eventually(
        Effect.sync(() => seen.length),
        (length) => length === 1
      )
    }).pipe(Effect.scoped)
  )
})

// Bun runs TypeScript and has its own SQLite; it is no dependency, so this is tested where it is installed.
const bun = process.env["BUN"] ?? "bun"
const hasBun = spawnSync(bun, ["--version"]).status === 0
describe.skipIf(!hasBun)("SqliteClient on Bun", () => {
  it("works as on Node", () => {
    const program = `
      import { Effect } from "effect"
      import { SqlClient } from "effect/sql"
      import { SqliteClient } from ${JSON.stringify(fileURLToPath(new URL("../src/sqlite.ts", import.meta.url)))}
      const rows = await Effect.runPromise(Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql\`CREATE TABLE t (n INTEGER, yes INTEGER)\`
        yield* sql.withTransaction(sql\`INSERT INTO t \${sql.insert({ n: 1, yes: true })}\`)
        yield* Effect.exit(sql.withTransaction(Effect.andThen(sql\`INSERT INTO t (n) VALUES (2)\`, Effect.fail("no"))))
        return [yield* sql\`SELECT n, yes FROM t\`, yield* sql\`SELECT n, yes FROM t\`.values]
      }).pipe(Effect.provide(SqliteClient.layer({ filename: ":memory:" }))))
      console.log(JSON.stringify(rows))`
    const child = spawnSync(bun, ["--eval", program], {
      cwd: fileURLToPath(new URL("..", import.meta.url)),
      encoding: "utf8"
    })
    assert.strictEqual(child.status, 0, child.stderr)
    assert.deepStrictEqual(JSON.parse(child.stdout), [[{ n: 1, yes: 1 }], [[1, 1]]])
  })
})
