/**
 * Sends what is dispatched in a database transaction once that has committed: for development and tests, where an
 * outbox would be too much. It wraps any Dispatcher.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { SqlClient } from "effect/sql/SqlClient"
import { DispatchError, Rejected } from "../../DispatchError.ts"
import { Dispatcher } from "../../Dispatcher.ts"
import { plural } from "../../internal/describe.ts"
import { reportCause } from "../../internal/isolated.ts"
import { wrap } from "../../internal/wrapped.ts"

type Requests = Parameters<Dispatcher["Service"]["send"]>[0]

/**
 * The Dispatcher on the one below it, for the `SqlClient` of the program. Inside `sql.withTransaction` a `dispatch` or
 * `publish` is handed on right after the commit, before `withTransaction` returns, and in the order of dispatch; after
 * a rollback it never is, nor after that of the savepoint of a nested transaction. Outside of a transaction it is
 * handed on at once. A transaction of another `SqlClient` counts where that client is in the surroundings of the
 * dispatch.
 *
 * Inside a transaction a dispatch fails at once for a payload or an option that is invalid, and where the transaction
 * has already ended. What the Dispatcher below refuses after the commit (`UnknownJob`, `Unavailable` …) nobody can be
 * told any more: it is logged as an error and lost, as are dispatches of a process that dies right after its commit.
 * Where that matters, use `OutboxDispatcher.layer`.
 *
 * Handlers that the Dispatcher below runs dispatch through this one as well. Where that is an `InlineDispatcher` that
 * isn't in the background, `withTransaction` waits for the jobs, and an interruption meanwhile waits for them too.
 */
export const layer: Layer.Layer<Dispatcher, never, Dispatcher | SqlClient> = Layer.effect(
  Dispatcher,
  Effect.gen(function* () {
    const below = yield* Dispatcher
    const sql = yield* SqlClient
    return yield* wrap(below, {
      send: (requests) =>
        Effect.contextWith((context: Context.Context<never>) => {
          const callers = Context.getOrUndefined(context, SqlClient)
          const client = [sql, callers].find(
            (client) =>
              client !== undefined && Context.getOrUndefined(context, client.transactionService) !== undefined
          )
          return client === undefined
            ? below.send(requests)
            : Effect.catchDefect(client.afterCommit(handOn(below, requests)), () => ended(requests))
        })
    })
  })
)

/** After the commit: whatever comes of it, the caller's transaction is done. */
const handOn = (below: Dispatcher["Service"], requests: Requests): Effect.Effect<void> =>
  Effect.catchCause(below.send(requests), (cause) => {
    const [{ message }, ...rest] = requests
    const more = rest.length === 0 ? "" : ` and ${plural(rest.length, "other message")}`
    return reportCause(
      Effect.logError,
      `"${message.name}" (id ${message.id})${more} couldn't be dispatched after the commit of the transaction: lost.`,
      cause
    )
  })

/** The only defect of `afterCommit` itself. */
const ended = ([{ message }]: Requests): Effect.Effect<never, DispatchError> =>
  Effect.fail(
    DispatchError.of(
      new Rejected({
        job: message.name,
        engine: "AfterCommitDispatcher.layer",
        detail:
          "the transaction that it is dispatched in has already ended: dispatch before its end, or outside of it"
      })
    )
  )
