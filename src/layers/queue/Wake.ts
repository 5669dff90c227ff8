/**
 * Wakes the workers of other processes by Postgres' LISTEN and NOTIFY, so that they needn't wait for their next
 * poll.
 *
 * A `PersistedQueueStore` looks at a queue at once when something is offered to it in its own process, even if an
 * element of that id is there already. So a process that hears of a new message offers one element that has long
 * been there: nothing is added, and its own workers look.
 */
import { uuidV4Unsafe } from "effect/crypto/SecureRandom"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import type { PersistedQueueStore } from "effect/persistence/PersistedQueue"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { wake } from "./Element.ts"

/** What `PgClient` of `@effect/sql-pg` has: the payloads of a channel's notifications, until the scope closes. */
export interface Listening {
  readonly listen: (
    channel: string
  ) => Effect.Effect<Queue.Dequeue<{ readonly payload: string }, SqlError>, SqlError, Scope.Scope>
}

/** Notifications within this time become one, each way, so a busy queue costs ten of them a second. */
const pause = Duration.millis(100)

/** The store with a notification after each commit of an offer, and a wake-up after each notification. */
export const make = (
  store: PersistedQueueStore["Service"],
  options: { readonly sql: SqlClient; readonly listening: Listening; readonly channel: string }
): Effect.Effect<PersistedQueueStore["Service"], never, Scope.Scope> =>
  Effect.gen(function* () {
    const { channel, listening, sql } = options
    const self = uuidV4Unsafe()
    const taken = new Set<string>()

    const notify = yield* collected((queue) =>
      Effect.ignore(sql`SELECT pg_notify(${channel}, ${`${self} ${queue}`})`)
    )
    const look = yield* collected((queue) =>
      Effect.ignore(store.offer({ name: queue, id: wake, element: wake, isCustomId: true }))
    )
    const hear = Effect.scoped(
      Effect.gen(function* () {
        const notifications = yield* listening.listen(channel)
        // what was offered while nobody listened
        for (const queue of taken) look(queue)
        while (true) {
          const { payload } = yield* Queue.take(notifications)
          const space = payload.indexOf(" ")
          const queue = payload.slice(space + 1)
          if (payload.slice(0, space) !== self && taken.has(queue)) look(queue)
        }
      })
    )
    yield* hear.pipe(
      Effect.tapCause((cause) =>
        Effect.logWarning(`The queue's store can't listen on "${channel}" now: its workers poll.`, cause)
      ),
      Effect.retry(Schedule.spaced("1 second")),
      Effect.forkScoped
    )

    return {
      ...store,
      offer: (element) =>
        element.delay === undefined
          ? Effect.tap(store.offer(element), () => sql.afterCommit(Effect.sync(() => notify(element.name))))
          : store.offer(element),
      take: (from) =>
        Effect.suspend(() => {
          taken.add(from.name)
          return store.take(from)
        })
    }
  })

/** Runs `each` for every name it is given, once for those that come during its run or the pause after it. */
const collected = (
  each: (name: string) => Effect.Effect<void>
): Effect.Effect<(name: string) => void, never, Scope.Scope> =>
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
          yield* Effect.forEach(now, each, { discard: true })
          yield* Effect.sleep(pause)
        })
      )
    )
    return (name) => {
      names.add(name)
      some.openUnsafe()
    }
  })
