/**
 * The messages that have failed for good, of a queue and of the outbox, on SQL: to look at, to run again, or to
 * let go. They are PersistedQueue's own failed elements, with the reason that the worker or the relay gave.
 */
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaParser from "effect/SchemaParser"
import { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import type { Fragment } from "effect/sql/Statement"
import { type JobMessage } from "../../Dispatcher.ts"
import { InvalidPayload } from "../../DispatchError.ts"
import type * as Job from "../../Job.ts"
import * as Element from "./Element.ts"
import { makeSql, type QueueStoreError } from "./QueueStore.ts"

/** One message that has failed for good. */
export interface DeadLetter {
  /** Its number in the table: larger is newer. */
  readonly sequence: string
  /** `queue`: a job's run. `event`: its hand-over to listeners. `outbox`: its hand-over to the relay's target. */
  readonly source: "queue" | "event" | "outbox"
  /** The job or event; `undefined` for an element that isn't a message. */
  readonly name: string | undefined
  /** As it was dispatched; `undefined` for an element that isn't a message. */
  readonly message: JobMessage | undefined
  /**
   * Why: an `Outcome.FailedReason` of a run, a `DispatchReason`'s tag of a hand-over, or `Unknown` where the
   * store itself gave it up.
   */
  readonly reason: string
  /** What failed, in words. */
  readonly error: string
  /** What failed, as the job's error schema encodes it; `decode` reads it. */
  readonly failure: Schema.Json
  /** How often it was claimed. */
  readonly attempts: number
  readonly failedAt: DateTime.Utc
}

/** Which letters are meant; all of them without a filter. */
export interface Filter {
  /** Those of this job, by its name: runs, and hand-overs from the outbox. */
  readonly job?: string | undefined
  readonly source?: DeadLetter["source"] | undefined
  readonly reason?: string | undefined
}

/** Dead letters on SQL. Works on the table of PersistedQueue as effect 4.1 makes it. */
export class DeadLetters extends Context.Service<
  DeadLetters,
  {
    /** The newest first. `limit` is 100 by default; `before` is the `sequence` of the last one seen. */
    readonly list: (
      options?: Filter & { readonly limit?: number | undefined; readonly before?: string | undefined }
    ) => Effect.Effect<ReadonlyArray<DeadLetter>, SqlError>
    readonly count: (filter?: Filter) => Effect.Effect<number, SqlError>
    /**
     * Runs it again, from its first attempt, as soon as a worker sees it: within the store's poll interval.
     * `false`: it wasn't among the dead letters any more.
     */
    readonly retry: (letter: Pick<DeadLetter, "sequence">) => Effect.Effect<boolean, SqlError>
    /** As `retry`, for all that the filter means; the number of them. */
    readonly retryAll: (filter: Filter) => Effect.Effect<number, SqlError>
    /**
     * Lets it go: it counts as completed, so its id still makes no second run, and `PersistedQueue.layerCleanup`
     * removes it in its time. `false`: it wasn't among the dead letters any more.
     */
    readonly discard: (letter: Pick<DeadLetter, "sequence">) => Effect.Effect<boolean, SqlError>
    /** As `discard`, for all that the filter means; the number of them. */
    readonly discardAll: (filter: Filter) => Effect.Effect<number, SqlError>
  }
>()("effect-jobs/DeadLetters") {}

/** The dead letters of a table, on the `SqlClient` of the environment. Default: that of the stores. */
export const layer = (options?: {
  readonly tableName?: string | undefined
}): Layer.Layer<DeadLetters, SqlError | QueueStoreError, SqlClient> =>
  Layer.effect(
    DeadLetters,
    Effect.gen(function* () {
      const sql = (yield* SqlClient).withoutTransforms()
      // makes the table where there is none yet
      yield* makeSql({ tableName: options?.tableName })
      const self = statements(sql, options?.tableName ?? "effect_queue")
      const again = sql`state = 'pending', attempts = 0, last_failure = NULL, visible_at = ${self.now}`
      const gone = sql`state = 'completed'`
      const one = ({ sequence }: Pick<DeadLetter, "sequence">): Fragment =>
        sql.and([sql`state = 'failed'`, sql`sequence = ${sql.literal(checkedSequence(sequence))}`])
      const all = (filter: Filter | undefined) => matching(sql, filter)
      const any = Effect.map((count: number) => count > 0)
      return {
        list: (options) => self.list(options ?? {}),
        count: (filter) => self.count(all(filter)),
        retry: (letter) => any(self.change(one(letter), again)),
        retryAll: (filter) => self.change(all(filter), again),
        discard: (letter) => any(self.change(one(letter), gone)),
        discardAll: (filter) => self.change(all(filter), gone)
      }
    })
  )

/** The condition that a filter is. */
const matching = (sql: SqlClient, filter: Filter | undefined): Fragment => {
  const conditions: Array<Fragment> = [sql`state = 'failed'`]
  if (filter?.job !== undefined) {
    const inOutbox = sql`(queue_name = ${Element.outboxQueue} AND id LIKE ${`job ${escapeLike(filter.job)} %`} ESCAPE '!')`
    const inQueue = sql`(queue_name NOT LIKE '@%' AND id LIKE ${`${escapeLike(filter.job)} %`} ESCAPE '!')`
    conditions.push(sql`(${inQueue} OR ${inOutbox})`)
  }
  if (filter?.source === "outbox") conditions.push(sql`queue_name = ${Element.outboxQueue}`)
  if (filter?.source === "event") conditions.push(sql`queue_name = ${Element.eventQueue}`)
  if (filter?.source === "queue") conditions.push(sql`queue_name NOT LIKE '@%'`)
  if (filter?.reason !== undefined) {
    conditions.push(sql`last_failure LIKE ${`${escapeLike(filter.reason)}: %`} ESCAPE '!'`)
  }
  return sql.and(conditions)
}

/** What databases say differently. */
const dialectOf = (sql: SqlClient) => ({
  epochSeconds: sql.onDialectOrElse({
    pg: () => sql.literal("EXTRACT(EPOCH FROM updated_at)"),
    mysql: () => sql.literal("UNIX_TIMESTAMP(updated_at)"),
    orElse: () => sql.literal("unixepoch(updated_at)")
  }),
  now: sql.onDialectOrElse({
    pg: () => sql.literal("NOW()"),
    mysql: () => sql.literal("NOW()"),
    orElse: () => sql.literal("CURRENT_TIMESTAMP")
  }),
  forUpdate: sql.onDialectOrElse({
    pg: () => sql.literal("FOR UPDATE"),
    mysql: () => sql.literal("FOR UPDATE"),
    orElse: () => sql.literal("")
  })
})

const statements = (sql: SqlClient, tableName: string) => {
  const table = sql(tableName)
  const { epochSeconds, forUpdate, now } = dialectOf(sql)
  return {
    now,
    list: ({
      before,
      limit = 100,
      ...filter
    }: Filter & { readonly limit?: number | undefined; readonly before?: string | undefined }) => {
      const older = before === undefined ? [] : [sql`sequence < ${sql.literal(checkedSequence(before))}`]
      return Effect.map(
        sql<Row>`SELECT CAST(sequence AS CHAR(20)) AS sequence, id, queue_name, element, attempts, last_failure,
            ${epochSeconds} AS failed_at
          FROM ${table}
          WHERE ${sql.and([matching(sql, filter), ...older])}
          ORDER BY ${table}.sequence DESC
          LIMIT ${sql.literal(String(Math.max(0, Math.floor(limit))))}`,
        (rows) => rows.map(letterOf)
      )
    },
    count: (where: Fragment) =>
      Effect.map(
        sql<{ readonly count: number | string }>`SELECT COUNT(*) AS count FROM ${table} WHERE ${where}`,
        ([row]) => Number(row?.count ?? 0)
      ),
    /** How many there are is counted before they change, for not every database tells it afterwards. */
    change: (where: Fragment, set: Fragment) =>
      Effect.gen(function* () {
        const rows = yield* sql<{
          readonly sequence: string
        }>`SELECT CAST(sequence AS CHAR(20)) AS sequence FROM ${table} WHERE ${where} ${forUpdate}`
        if (rows.length === 0) return 0
        const sequences = rows.map(({ sequence }) => checkedSequence(sequence)).join(",")
        yield* sql`UPDATE ${table} SET ${set}, acquired_at = NULL, acquired_by = NULL, updated_at = ${now}
          WHERE state = 'failed' AND sequence IN (${sql.literal(sequences)})`
        return rows.length
      }).pipe(sql.withTransaction)
  }
}

/** A letter's payload and failure as the job's schemas decode them, where they do. */
export interface Decoded<Payload, Error> {
  readonly payload: Result.Result<Payload, InvalidPayload>
  /** None where the failure was a defect, or isn't what the error schema knows today. */
  readonly error: Option.Option<Error>
}

/** Reads a letter with the schemas of its job. A letter of another job has a payload that is invalid. */
export const decode = <J extends Job.Any>(
  job: J,
  letter: DeadLetter
): Effect.Effect<
  Decoded<Job.Payload<J>, Job.Error<J>>,
  never,
  J["payloadSchema"]["DecodingServices"] | J["errorSchema"]["DecodingServices"]
> =>
  Effect.gen(function* () {
    const payload = yield* Effect.result(
      letter.name === job.jobName
        ? Effect.mapError(
            SchemaParser.decodeUnknownEffect(Schema.toCodecJson(job.payloadSchema))(letter.message?.payload),
            (issue) => InvalidPayload.fromIssue(job.jobName, issue, letter.message?.id)
          )
        : Effect.fail(
            new InvalidPayload({
              job: job.jobName,
              issues: [{ path: "", message: "it is a letter of another job" }]
            })
          )
    )
    const error =
      letter.source === "queue" && letter.name === job.jobName
        ? yield* Effect.option(
            SchemaParser.decodeUnknownEffect(Schema.toCodecJson(job.errorSchema))(letter.failure)
          )
        : Option.none()
    // sound: these are what the job's own schemas decode to
    return { payload, error } as Decoded<Job.Payload<J>, Job.Error<J>>
  })

interface Row {
  readonly sequence: string
  readonly id: string
  readonly queue_name: string
  readonly element: string
  readonly attempts: number | string
  readonly last_failure: string | null
  readonly failed_at: number | string
}

const letterOf = (row: Row): DeadLetter => {
  const element = parseJson(row.element)
  const source =
    row.queue_name === Element.outboxQueue
      ? "outbox"
      : row.queue_name === Element.eventQueue
        ? "event"
        : "queue"
  const message =
    source === "outbox"
      ? Element.decodeRequest(element)?.message
      : Element.isJobMessage(element)
        ? element
        : undefined
  const note = Element.parseNote(row.last_failure)
  return {
    sequence: row.sequence.trim(),
    source,
    name: message?.name,
    message,
    reason: note?.reason ?? "Unknown",
    error: note?.message ?? row.last_failure ?? "",
    failure: note?.failure ?? null,
    attempts: Number(row.attempts),
    failedAt: DateTime.makeUnsafe(Number(row.failed_at) * 1000)
  }
}

const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

const escapeLike = (text: string): string => text.replaceAll(/[!%_]/g, "!$&")

/** It goes into the statement as it is, for databases differ in what a 64-bit parameter may be. */
const checkedSequence = (sequence: string): string => {
  const digits = /^\d{1,20}$/.exec(sequence.trim())
  return digits === null ? "-1" : digits[0]
}
