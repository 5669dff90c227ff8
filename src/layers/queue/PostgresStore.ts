/**
 * A `PersistedQueueStore` on PersistedQueue's table on Postgres, for any number of queues. Claims and
 * acknowledgements go in batches, on connections of its own; see `PostgresLoop`.
 *
 * - A take's scope closes when the end is stored. A crash before that leaves the row claimed: it comes again when its
 *   lock has expired, so at most the runs that were under way are repeated, one for each taker.
 * - An end is stored where the claim still is this store's. The end of a lost claim isn't, which is logged.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { PersistedQueueError, type PersistedQueueStore } from "effect/persistence/PersistedQueue"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import * as Extensions from "./Extensions.ts"
import * as Loop from "./PostgresLoop.ts"
import { type Claim, claimIds, parked, type Row } from "./PostgresTable.ts"

export interface Options extends Loop.Options {
  /** For offers: the program's client, whose transactions they join. */
  readonly sql: SqlClient
  /** Tells other processes of the queues. */
  readonly notify: (queues: ReadonlyArray<string>) => void
}

/** JavaScript's last time, which Postgres keeps as well. */
export const latest = 8_640_000_000_000_000

type Service = PersistedQueueStore["Service"]

export interface Store {
  readonly store: Service
  /** Looks at the queue at once, if it has takers here; without a name, at all of them. */
  readonly look: (queue?: string) => void
  /** Completes when something is first taken. */
  readonly started: Effect.Effect<void>
}

export const make = (options: Options): Effect.Effect<Store, never, Scope.Scope> =>
  Effect.gen(function* () {
    const clock = yield* Clock.Clock
    const loop = new Loop.Loop(options, clock)
    const started = loop.started.await
    const running = yield* Effect.forkDetach(Effect.andThen(started, loop.run))
    yield* Effect.addFinalizer(() => loop.close(running))
    yield* Effect.forkScoped(Effect.andThen(started, renewing(loop)))
    const told = (queues: ReadonlyArray<string>) =>
      options.sql.afterCommit(
        Effect.sync(() => {
          if (queues.length > 0) options.notify(queues)
          for (const queue of queues) loop.look(queue)
        })
      )
    const offerAll = (elements: ReadonlyArray<Extensions.Offered>) => insert(options, clock, elements, told)
    const store = Extensions.extend<Service>(
      { offer: (element) => offerAll([element]), take: take(loop), cleanup: cleanup(options) },
      {
        maxElementSize: options.maxElementSize,
        latest,
        offerAll,
        wake: (queue, id) =>
          Effect.andThen(options.sql.unsafe(options.statements.wake, [id, queue]), told([queue])).pipe(
            refused("Failed to wake an element of the queue's store on Postgres")
          )
      }
    )
    return { store, look: loop.look, started }
  })

const insert = (
  { maxElementSize, sql, statements }: Options,
  clock: Clock.Clock,
  elements: ReadonlyArray<Extensions.Offered>,
  told: (queues: ReadonlyArray<string>) => Effect.Effect<void>
): Effect.Effect<void, PersistedQueueError> =>
  Effect.suspend((): Effect.Effect<unknown, SqlError | PersistedQueueError> => {
    if (elements.length === 0) return Effect.void
    const now = clock.currentTimeMillisUnsafe()
    const rows = elements.map(({ element }) => JSON.stringify(element))
    for (const [n, element] of elements.entries()) {
      const refusal = Extensions.refusal(element, rows[n] ?? "", now, { maxElementSize, latest })
      if (refusal !== undefined) return Effect.fail(refusal)
    }
    const delays = elements.map(({ delay }) => (delay === undefined ? "0" : String(Duration.toMillis(delay))))
    const due = new Set(elements.flatMap(({ delay, name }) => (delay === undefined ? [name] : [])))
    const columns = [elements.map(({ id }) => id), elements.map(({ name }) => name), rows, delays]
    return Effect.andThen(sql.unsafe(statements.offerAll, columns), told([...due]))
  }).pipe(refused("Failed to offer to the queue's store on Postgres"))

const cleanup =
  ({ own, statements }: Options): Service["cleanup"] =>
  ({ failedTimeToLive, timeToLive }) => {
    const some = (state: string, age: Duration.Duration): Effect.Effect<unknown, SqlError> =>
      Effect.map(
        own.unsafe<{ readonly count: number }>(statements.cleanup, [state, Duration.toMillis(age)]),
        ([row]) => row?.count ?? 0
      ).pipe(Effect.repeat({ while: (count) => count === 1_000, schedule: Schedule.spaced("10 millis") }))
    const failed = failedTimeToLive === undefined ? Effect.void : some("failed", failedTimeToLive)
    return Effect.andThen(some("completed", timeToLive), failed).pipe(
      Effect.withTracerEnabled(false),
      refused("Failed to clean up the queue's store on Postgres")
    )
  }

const take =
  (loop: Loop.Loop) =>
  (options: Extensions.TakeOptions): ReturnType<Service["take"]> => {
    // one mask for all that it comes by: within another one, the wait couldn't be interrupted
    const next = (restore: Loop.Restore): ReturnType<Service["take"]> =>
      Effect.flatMap(loop.receive(options.name, restore), (claim) => {
        if (claim.attempts > options.maxAttempts) {
          const failure = "Lock expired after final attempt"
          return Effect.andThen(loop.end(claim, "expired", { failure }), next(restore))
        }
        const parsed = parse(claim)
        if (Exit.isFailure(parsed)) {
          return Effect.andThen(loop.end(claim, "fail", { failure: pretty(parsed.cause) }), next(restore))
        }
        const item = { id: claim.id, attempts: claim.attempts, element: parsed.value }
        return Effect.as(
          Effect.addFinalizer((exit) => settle(loop, claim, exit, options)),
          Extensions.withLost(item, Deferred.await(claim.lost))
        )
      })
    return Effect.uninterruptibleMask(next)
  }

const settle = (
  loop: Loop.Loop,
  claim: Claim,
  exit: Exit.Exit<unknown, unknown>,
  options: Extensions.TakeOptions
): Effect.Effect<void> => {
  if (Exit.isSuccess(exit)) return loop.end(claim, "complete")
  const { cause } = exit
  const undecodable = deadLetter(cause)
  if (undecodable !== undefined) return loop.end(claim, "fail", { failure: pretty(undecodable) })
  if (Cause.hasInterruptsOnly(cause)) return loop.end(claim, "giveBack")
  if (options.parkFor !== undefined) {
    return loop.end(claim, "park", { delay: options.parkFor, failure: parked })
  }
  const failure = pretty(cause)
  if (claim.attempts >= options.maxAttempts) return loop.end(claim, "fail", { failure })
  return options.retryDelay(claim.attempts).pipe(
    // a delay that dies keeps no element for ever
    Effect.catchCause(() => Effect.succeed(Duration.seconds(1))),
    Effect.flatMap((delay) => loop.end(claim, "retry", { delay, failure }))
  )
}

const parse = ({ element, id, queue }: Claim): Exit.Exit<unknown> => {
  if (element === null) {
    return Exit.die(
      new Error(`The element "${id}" of the queue "${queue}" is larger than its store can read.`)
    )
  }
  try {
    return Exit.succeed(JSON.parse(element))
  } catch (defect) {
    return Exit.die(defect)
  }
}

/** PersistedQueue fails with this where an element doesn't decode: it is never tried again. */
const deadLetter = (cause: Cause.Cause<unknown>): Cause.Cause<unknown> | undefined => {
  for (const reason of cause.reasons) {
    if (!Cause.isFailReason(reason)) continue
    const error: unknown = reason.error
    if (typeof error !== "object" || error === null || !("_tag" in error) || !("cause" in error)) continue
    if (error._tag === "~effect/persistence/PersistedQueue/DeadLetter" && Cause.isCause(error.cause))
      return error.cause
  }
  return undefined
}

/** Values may throw where they are printed. */
const pretty = (cause: Cause.Cause<unknown>): string => {
  try {
    return Cause.pretty(cause)
  } catch {
    return "The failure can't be printed."
  }
}

/**
 * Renews the claims beside the loop, so neither user code nor a slow statement keeps it from doing so. A claim that isn't
 * this store's any more is lost.
 */
const renewing = (loop: Loop.Loop): Effect.Effect<never> => {
  const { lockRefreshInterval, own, statements } = loop.options
  const renew = Effect.suspend(() => {
    const held = [...loop.held]
    if (held.length === 0) return Effect.void
    return Effect.flatMap(own.reserve, (connection) =>
      loop.execute(connection, statements.renew, claimIds(held))
    ).pipe(
      Effect.scoped,
      Effect.map((rows: ReadonlyArray<Row>) => {
        const owned = new Set(rows.map(({ lock, sequence }) => `${sequence} ${lock}`))
        const ending = new Set(loop.ends.map(({ claim }) => claim))
        for (const claim of held) {
          if (owned.has(`${claim.sequence} ${claim.lock}`) || ending.has(claim)) continue
          if (loop.held.delete(claim)) Deferred.doneUnsafe(claim.lost, Exit.void)
        }
      })
    )
  })
  return renew.pipe(
    Effect.sandbox,
    Effect.retry(Schedule.spaced("500 millis").pipe(Schedule.upTo({ duration: lockRefreshInterval }))),
    Effect.catch((cause) => Effect.logWarning("The queue's store couldn't renew its claims.", cause)),
    Effect.andThen(Effect.sleep(lockRefreshInterval)),
    Effect.forever
  )
}

/** As PersistedQueue's error; `cause` is the `SqlError`. */
const refused =
  (message: string) =>
  <A>(effect: Effect.Effect<A, SqlError | PersistedQueueError>): Effect.Effect<void, PersistedQueueError> =>
    Effect.catchCause(Effect.asVoid(effect), (cause) => {
      if (Cause.hasInterruptsOnly(cause)) return Effect.interrupt
      const error = Cause.squash(cause)
      return Effect.fail(
        error instanceof PersistedQueueError ? error : new PersistedQueueError({ message, cause: error })
      )
    })
