/**
 * The connections of the store on Postgres, and its notifications: a commit in one process makes the workers of the
 * others look at once, and not at their next poll.
 */
import { uuidV4Unsafe } from "effect/crypto/SecureRandom"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Queue from "effect/Queue"
import * as Reactivity from "effect/reactivity/Reactivity"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"

/** A client of `@effect/sql-pg`. */
export interface PgClient extends SqlClient {
  readonly config: {
    readonly applicationName?: string | undefined
    readonly startupParameters?: Readonly<Record<string, string>> | undefined
    readonly maxMessageSize?: number | undefined
    readonly keepAlive?: Duration.Input | undefined
  }
  /** The payloads of a channel's notifications, until the scope closes. */
  readonly listen: (
    channel: string
  ) => Effect.Effect<Queue.Dequeue<{ readonly payload: string }, SqlError>, SqlError, Scope.Scope>
}

/** The module `PgClient` of `@effect/sql-pg`. */
export interface PgModule<Client extends PgClient, Id> {
  readonly PgClient: Effect.Effect<Client, never, Id>
  readonly make: (
    config: Client["config"] & { readonly maxConnections: number }
  ) => Effect.Effect<Client, SqlError, Scope.Scope | Reactivity.Reactivity>
}

/** One listens, one claims and acknowledges, one renews and notifies, and one adds an index to an old table. */
export const ownConnections = 4

/** In place of the program's settings of its pool. */
const ownPool = { minConnections: 0, multiplex: false }

/** A client with the settings of the program's, whose connections nobody else uses. It has opened one. */
export const makeOwn = <Client extends PgClient, Id>(
  module: PgModule<Client, Id>,
  client: Client
): Effect.Effect<Client, SqlError, Scope.Scope> =>
  Effect.gen(function* () {
    const { config } = client
    const own = yield* module
      .make({
        ...config,
        applicationName: config.applicationName ?? "effect-jobs",
        keepAlive: config.keepAlive ?? "30 seconds",
        startupParameters: { ...config.startupParameters, timezone: "UTC" },
        ...ownPool,
        maxConnections: ownConnections
      })
      .pipe(Effect.provideServiceEffect(Reactivity.Reactivity, Reactivity.make))
    yield* own`SELECT 1`
    return own.withoutTransforms()
  })

/** Notifications within this time become one, each way, so a busy queue costs ten of them a second. */
const pause = Duration.millis(100)

export const make = (own: PgClient, channel: string) =>
  Effect.gen(function* () {
    const self = uuidV4Unsafe()
    const notify = yield* collected((queues) =>
      Effect.scoped(
        Effect.flatMap(own.reserve, (connection) =>
          connection.execute(
            "SELECT pg_notify($1, $2 || ' ' || queue) FROM unnest($3::text[]) queue",
            [channel, self, queues],
            undefined
          )
        )
      )
    )
    /** Calls `look` for each queue that another process has notified, and for all when it begins to listen. */
    const hear = (look: (queue?: string) => void): Effect.Effect<never> =>
      Effect.scoped(
        Effect.gen(function* () {
          const notifications = yield* own.listen(channel)
          look()
          while (true) {
            const { payload } = yield* Queue.take(notifications)
            const space = payload.indexOf(" ")
            if (payload.slice(0, space) !== self) look(payload.slice(space + 1))
          }
        })
      ).pipe(
        Effect.sandbox,
        Effect.tapError((cause) =>
          Effect.logWarning(`The queue's store can't listen on "${channel}" now: its workers poll.`, cause)
        ),
        Effect.retry(Schedule.min([Schedule.exponential("1 second"), Schedule.spaced("30 seconds")])),
        Effect.orDie
      )
    return { notify, hear }
  })

/** Runs `each` for the names it is given, once for those that come during its run or the pause after it. */
const collected = (
  each: (names: ReadonlyArray<string>) => Effect.Effect<unknown, SqlError>
): Effect.Effect<(names: ReadonlyArray<string>) => void, never, Scope.Scope> =>
  Effect.gen(function* () {
    const names = new Set<string>()
    const some = Latch.makeUnsafe(false)
    yield* Effect.forkScoped(
      Effect.forever(
        Effect.gen(function* () {
          yield* some.await
          some.closeUnsafe()
          const now = [...names]
          names.clear()
          yield* Effect.ignoreCause(each(now))
          yield* Effect.sleep(pause)
        })
      )
    )
    return (more) => {
      for (const name of more) names.add(name)
      some.openUnsafe()
    }
  })
