/**
 * PersistedQueue's table on Postgres: made and upgraded by PersistedQueue's own migration, with two indexes of ours,
 * and the statements that `PostgresStore` runs on it.
 */
import type * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as PersistedQueue from "effect/persistence/PersistedQueue"
import type * as Scope from "effect/Scope"
import * as SqlClient from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { DefinitionError } from "../../DefinitionError.ts"

/** A name may have at most 63 bytes on Postgres, and `_migrations` and the indexes' names are longer by 11. */
const longestName = 52

/** The columns that the store reads and writes. */
const columns = [
  "acquired_at",
  "acquired_by",
  "attempts",
  "created_at",
  "element",
  "id",
  "last_failure",
  "queue_name",
  "sequence",
  "state",
  "updated_at",
  "visible_at"
]

/** `table` or `schema.table`. */
export interface Name {
  readonly schema: string | undefined
  readonly table: string
  /** For SQL. */
  readonly quoted: string
}

const quote = (identifier: string): string => `"${identifier.replaceAll('"', '""')}"`

/** Throws a `DefinitionError` where Postgres would shorten the name, or the names of its indexes. */
export const nameOf = (tableName: string): Name => {
  const parts = tableName.split(".")
  const table = parts.at(-1) ?? ""
  const schema = parts.length === 2 ? parts[0] : undefined
  if (parts.length > 2 || parts.includes("") || tableName.includes("\0")) {
    throw new DefinitionError({
      message: `The tableName of a queue's store on Postgres must be a table or schema.table, not ${JSON.stringify(tableName)}.`
    })
  }
  if (Buffer.byteLength(table) > longestName) {
    throw new DefinitionError({
      message: `The tableName of a queue's store on Postgres may have at most ${longestName} bytes, and "${table}" has ${Buffer.byteLength(table)}.`
    })
  }
  return { schema, table, quoted: parts.map(quote).join(".") }
}

/**
 * Makes what is missing of the table. Where all is there it only reads the catalog, so that a role without CREATE
 * will do. Processes that start together wait for each other.
 */
export const prepare = (sql: SqlClient.SqlClient, name: Name): Effect.Effect<void, SqlError, Scope.Scope> =>
  Effect.gen(function* () {
    const found = yield* hasColumns(sql, name)
    if (!found) yield* Effect.scoped(create(sql, name))
    // the rest is an older table's, and what its owner alone may do isn't needed for the store to work
    yield* Effect.catch(wideSequence(sql, name), (error) =>
      Effect.logWarning(
        `The sequence of ${name.quoted} has 32 bits and can't be altered by this role: after 2,147,483,647 offers nothing more can be queued. Its owner should run ALTER SEQUENCE ... AS bigint.`,
        error
      )
    )
    if ((yield* missingIndexes(sql, name)).length > 0) yield* Effect.forkScoped(indexes(sql, name))
  })

const hasColumns = (sql: SqlClient.SqlClient, name: Name) =>
  Effect.map(
    sql<{ readonly name: string }>`
      SELECT attname AS name FROM pg_attribute
      WHERE attrelid = to_regclass(${name.quoted}) AND attnum > 0 AND NOT attisdropped`,
    (rows) => {
      const there = new Set(rows.map(({ name }) => name))
      return columns.every((column) => there.has(column))
    }
  )

/** PersistedQueue's migration knows no schemas, so it runs with the schema as its search path. */
const create = (sql: SqlClient.SqlClient, name: Name) =>
  sql.withTransaction(
    Effect.gen(function* () {
      yield* sql`SELECT pg_advisory_xact_lock(hashtextextended(${`effect-jobs ${name.quoted}`}, 0))`
      if (name.schema !== undefined) yield* sql`SET LOCAL search_path TO ${sql(name.schema)}`
      yield* PersistedQueue.makeStoreSql({ tableName: name.table }).pipe(
        Effect.provideService(SqlClient.SqlClient, sql)
      )
      for (const index of ours(name)) yield* sql`${sql.literal(index.create("IF NOT EXISTS"))}`
    })
  )

const ours = (name: Name) =>
  [
    // a claim reads its rows in order, and sorts nothing
    { suffix: "due", on: "(queue_name, visible_at, sequence) WHERE state = 'pending'" },
    // dead letters, and their cleanup
    { suffix: "failed", on: "(queue_name, updated_at) WHERE state = 'failed'" }
  ].map(({ on, suffix }) => {
    const index = `idx_${name.table}_${suffix}`
    const qualified = name.schema === undefined ? quote(index) : `${quote(name.schema)}.${quote(index)}`
    return {
      qualified,
      drop: `DROP INDEX CONCURRENTLY IF EXISTS ${qualified}`,
      create: (how: string) => `CREATE INDEX ${how} ${quote(index)} ON ${name.quoted} ${on}`
    }
  })

/** Those that aren't there, or that a start which was cut off has left unusable. */
const missingIndexes = (sql: SqlClient.SqlClient, name: Name) =>
  Effect.filter(ours(name), ({ qualified }) =>
    Effect.map(
      sql`SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(${qualified}) AND indisvalid`,
      (rows) => rows.length === 0
    )
  )

/** On a table with rows, beside what writes to it, and by one process at a time. Until they are there, claims sort. */
const indexes = (sql: SqlClient.SqlClient, name: Name) =>
  Effect.scoped(
    Effect.gen(function* () {
      const connection = yield* sql.reserve
      const run = (statement: string) => connection.executeUnprepared(statement, [], undefined)
      const key = `hashtextextended('effect-jobs index ${name.quoted.replaceAll("'", "''")}', 0)`
      const [row] = yield* run(`SELECT pg_try_advisory_lock(${key}) AS ours`)
      if (row?.ours !== true) return
      for (const index of yield* missingIndexes(sql, name)) {
        yield* run(index.drop)
        yield* run(index.create("CONCURRENTLY"))
      }
      yield* run(`SELECT pg_advisory_unlock(${key})`)
    })
  ).pipe(
    Effect.catch((error) =>
      Effect.logWarning(
        `The queue's store couldn't add its indexes to ${name.quoted}: a claim sorts what is due. The table's owner should run: ${ours(
          name
        )
          .map(({ create }) => create("CONCURRENTLY IF NOT EXISTS"))
          .join("; ")}.`,
        error
      )
    )
  )

const wideSequence = (sql: SqlClient.SqlClient, name: Name) =>
  Effect.gen(function* () {
    const [row] = yield* sql<{ readonly sequence: string }>`
      SELECT c.oid::regclass::text AS sequence FROM pg_class c JOIN pg_sequence s ON s.seqrelid = c.oid
      WHERE c.oid = to_regclass(pg_get_serial_sequence(${name.quoted}, 'sequence')) AND s.seqtypid = 'integer'::regtype`
    // as regclass gives it, it is quoted where it has to be
    if (row !== undefined) yield* sql`ALTER SEQUENCE ${sql.literal(row.sequence)} AS bigint`
  })

/** What becomes of a claimed row, as the statement below takes it. */
export type Kind = "complete" | "fail" | "expired" | "retry" | "park" | "giveBack"

/** A row that this store has claimed and not yet settled. */
export interface Claim {
  readonly sequence: string
  readonly lock: string
  readonly queue: string
  readonly id: string
  readonly attempts: number
  /** `null`: it is too large to be read. */
  readonly element: string | null
  readonly lost: Deferred.Deferred<void>
}

/** What is to be stored of a claim. */
export interface End {
  readonly claim: Claim
  readonly kind: Kind
  readonly delay: number
  readonly failure: string | null
  readonly done: Deferred.Deferred<void>
  readonly deadline: number
  /** Not before this time: another session has locked the row. */
  after: number
  /** Statements with it that have failed, and may have stored it all the same. */
  tries: number
}

/** A row of a claim, or of an end where `id` is null. */
export interface Row {
  readonly sequence: string
  readonly lock: string
  readonly queue_name: string
  readonly id: string | null
  readonly attempts: number
  readonly element: string | null
}

export const claimIds = (claims: ReadonlyArray<Claim>) => [
  claims.map(({ sequence }) => sequence),
  claims.map(({ lock }) => lock)
]

export const endParams = (ends: ReadonlyArray<End>) => [
  ...claimIds(ends.map(({ claim }) => claim)),
  ends.map(({ kind }) => kind),
  ends.map(({ delay }) => String(delay)),
  // an array of nothing but nulls has no type
  ends.some(({ failure }) => failure !== null)
    ? ends.map(({ failure }) => failure)
    : `{${ends.map(() => "NULL")}}`
]

/** `last_failure` of a row that waits to be woken. */
export const parked = "@parked"

export interface Statements {
  readonly claim: string
  readonly settle: string
  readonly settleAndClaim: string
  readonly owned: string
  readonly renew: string
  readonly release: string
  readonly wake: string
  readonly offerAll: string
  readonly cleanup: string
}

/**
 * A parameter whose value the planner can't see. So a plan for any values costs what one for these values does, and
 * Postgres keeps it: planning these statements takes as long as running them.
 */
const hidden = (parameter: string) => `(SELECT ${parameter})`

const milliseconds = (parameter: string) => `${parameter} * INTERVAL '1 millisecond'`

const ends = (from: number) =>
  `unnest(${[`$${from}::text[]::bigint[]`, `$${from + 1}::text[]::uuid[]`, `$${from + 2}::text[]`, `$${from + 3}::text[]::float8[]`, `$${from + 4}::text[]`].map(hidden)}) d(sequence, lock, kind, delay, failure)`
/** Stores ends of claims, as `ended`; `from` is the number of its first parameter. */
const settled = (table: string, from: number) => `free AS (
    SELECT t.sequence, d.kind, d.delay, d.failure FROM ${ends(from)} JOIN ${table} t ON t.sequence = d.sequence AND t.acquired_by = d.lock
    FOR NO KEY UPDATE OF t SKIP LOCKED
  ), ended AS (
    UPDATE ${table} t SET acquired_at = NULL, acquired_by = NULL, updated_at = NOW(),
      state = CASE d.kind WHEN 'complete' THEN 'completed' WHEN 'fail' THEN 'failed' WHEN 'expired' THEN 'failed' ELSE 'pending' END,
      attempts = t.attempts - CASE WHEN d.kind IN ('giveBack', 'park', 'expired') THEN 1 ELSE 0 END,
      visible_at = CASE d.kind
        WHEN 'retry' THEN clock_timestamp() + ${milliseconds("d.delay")}
        WHEN 'park' THEN CASE WHEN t.visible_at = 'epoch' THEN NOW() ELSE clock_timestamp() + ${milliseconds("d.delay")} END
        ELSE t.visible_at END,
      last_failure = CASE WHEN d.kind = 'expired' THEN COALESCE(t.last_failure, d.failure) ELSE COALESCE(d.failure, t.last_failure) END
    FROM free d WHERE t.sequence = d.sequence RETURNING t.sequence
  )`

/** Claims what is due, as `claimed`. */
const claimed = (table: string, but: string) => `due AS (
    SELECT d.sequence FROM json_to_recordset(${hidden("$1::json")}) want(name text, most int) CROSS JOIN LATERAL (
      SELECT sequence FROM ${table} WHERE queue_name = want.name AND state = 'pending' AND visible_at <= NOW()
        AND (acquired_at IS NULL OR acquired_at < NOW() - ${milliseconds(hidden("$2::float8"))}${but})
      ORDER BY visible_at, sequence LIMIT want.most FOR NO KEY UPDATE SKIP LOCKED
    ) d
  ), claimed AS (
    UPDATE ${table} t SET acquired_at = NOW(), acquired_by = $3::uuid, attempts = t.attempts + 1,
      visible_at = CASE WHEN t.visible_at = 'epoch' THEN NOW() ELSE t.visible_at END
    WHERE t.sequence = ANY (ARRAY (SELECT sequence FROM due))
    RETURNING t.sequence, t.id, t.queue_name, t.element, t.attempts, t.visible_at
  )`

/**
 * Lists are arrays of text, which any client can bind. None of the statements waits for a lock that another
 * session holds on a row: it skips the row, but for a wake-up, which has to wait for a row that is being parked.
 *
 * A row that is woken while it runs gets the time 'epoch'. Parking it sees that, and so does no sleep.
 */
export const statements = ({ quoted: table }: Name): Statements => {
  const rows = `SELECT sequence::text, id, queue_name, attempts,
      CASE WHEN octet_length(element) <= $4::int THEN element END AS element FROM claimed`
  const order = "ORDER BY visible_at, claimed.sequence"
  return {
    claim: `WITH ${claimed(table, "")} ${rows} ${order}`,
    settle: `WITH ${settled(table, 1)} SELECT sequence::text FROM ended`,
    settleAndClaim: `WITH ${settled(table, 5)}, ${claimed(table, ` AND sequence <> ALL (${hidden("$5::text[]::bigint[]")}::bigint[])`)},
      claims AS (${rows} ${order})
      SELECT sequence, id, queue_name, attempts, element FROM claims
      UNION ALL SELECT sequence::text, NULL, NULL, NULL, NULL FROM ended`,
    owned: `SELECT t.sequence::text FROM unnest($1::text[]::bigint[], $2::text[]::uuid[]) d(sequence, lock)
      JOIN ${table} t ON t.sequence = d.sequence AND t.acquired_by = d.lock`,
    // what another session has locked nobody can claim, and it is renewed the next time
    renew: `WITH held AS (
        SELECT t.sequence, d.lock FROM unnest($1::text[]::bigint[], $2::text[]::uuid[]) d(sequence, lock)
        JOIN ${table} t ON t.sequence = d.sequence AND t.acquired_by = d.lock
      ), free AS (
        SELECT t.sequence FROM ${table} t JOIN held ON held.sequence = t.sequence FOR NO KEY UPDATE OF t SKIP LOCKED
      ), renewed AS (
        UPDATE ${table} t SET acquired_at = NOW() FROM free WHERE t.sequence = free.sequence
      ) SELECT sequence::text, lock::text FROM held`,
    release: `UPDATE ${table} SET acquired_at = NULL, acquired_by = NULL, attempts = attempts - 1
      WHERE state = 'pending' AND acquired_by = ANY ($1::text[]::uuid[])`,
    wake: `UPDATE ${table} SET visible_at = CASE WHEN acquired_by IS NULL THEN LEAST(visible_at, NOW()) ELSE 'epoch' END
      WHERE id = $1 AND queue_name = $2 AND state = 'pending' AND (acquired_by IS NOT NULL OR last_failure = '${parked}')`,
    offerAll: `INSERT INTO ${table} (id, queue_name, element, state, attempts, visible_at, created_at, updated_at)
      SELECT id, queue_name, element, 'pending', 0,
        CASE WHEN delay > 0 THEN clock_timestamp() + ${milliseconds("delay")} ELSE NOW() END, NOW(), NOW()
      FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]::float8[]) WITH ORDINALITY d(id, queue_name, element, delay, place)
      ORDER BY place ON CONFLICT (id, queue_name) DO NOTHING`,
    cleanup: `WITH gone AS (
        DELETE FROM ${table} WHERE sequence IN (
          SELECT sequence FROM ${table} WHERE state = $1 AND updated_at <= NOW() - ${milliseconds("$2::float8")} LIMIT 1000
        ) RETURNING 1
      ) SELECT COUNT(*)::int AS count FROM gone`
  }
}
