// A row and a mail in one transaction: both, or neither.
import { Clock, DateTime, Effect } from "effect"
import { SqlClient } from "effect/sql"
import { SendWelcome } from "./jobs.ts"

export const signUp = Effect.fn("signUp")(function* (options: {
  readonly email: string
  readonly name: string
  /** Fails after the dispatch, to show that nothing is sent then. */
  readonly fail: boolean
}) {
  const { email, fail, name } = options
  const sql = yield* SqlClient.SqlClient
  const joinedAt = DateTime.makeUnsafe(yield* Clock.currentTimeMillis)
  return yield* sql.withTransaction(
    Effect.gen(function* () {
      yield* sql`INSERT INTO subscribers ${sql.insert({ email, name, joined_at: DateTime.toDateUtc(joinedAt) })}
        ON CONFLICT (email) DO NOTHING`
      const receipt = yield* SendWelcome.dispatch({ email, name, joinedAt })
      if (fail) return yield* Effect.fail(new Error("the sign-up failed after its dispatch"))
      return receipt
    })
  )
})
