import { Array, Context, DateTime, Effect, Layer } from "effect"
import { SqlClient } from "effect/sql"
import type { SqlError } from "effect/sql/SqlError"
import type { Subscriber } from "./model.ts"

/** The subscribers that were imported: in the database where there is one, and counted only where there is none. */
export class Registry extends Context.Service<
  Registry,
  {
    readonly add: (
      file: string,
      batch: number,
      subscribers: Array.NonEmptyReadonlyArray<Subscriber>
    ) => Effect.Effect<number, SqlError>
    /** How much was written, in words. */
    readonly counted: Effect.Effect<string, SqlError>
  }
>()("newsletter/Registry") {
  static readonly layerCounting = Layer.succeed(Registry, {
    add: (_file, _batch, subscribers) => Effect.succeed(subscribers.length),
    counted: Effect.succeed("nothing is kept")
  })

  static readonly layerSql = Layer.effect(
    Registry,
    Effect.map(SqlClient.SqlClient, (sql) => ({
      counted: Effect.gen(function* () {
        const [row] = yield* sql<Record<string, string>>`SELECT count(*) AS batches,
          count(DISTINCT (file, batch)) AS different, (SELECT count(*) FROM subscribers) AS subscribers FROM batches`
        return `${row?.["batches"]} batches, ${row?.["different"]} of them different, ${row?.["subscribers"]} subscribers`
      }),
      add: (file, batch, subscribers) =>
        sql.withTransaction(
          Effect.gen(function* () {
            const rows = Array.map(
              subscribers,
              ({ email, joinedAt, name }): Record<string, string | Date> => ({
                email,
                name,
                joined_at: DateTime.toDateUtc(joinedAt)
              })
            )
            yield* sql`INSERT INTO subscribers ${sql.insert(rows)} ON CONFLICT (email) DO NOTHING`
            yield* sql`INSERT INTO batches ${sql.insert({ file, batch, lines: rows.length })}`
            return rows.length
          })
        )
    }))
  )
}
