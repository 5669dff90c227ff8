/**
 * A `PersistedQueueStore` on PersistedQueue's table on Postgres, for any number of queues. Claims and
 * acknowledgements go in batches, on connections of its own.
 *
 * One fiber, the loop, does one statement at a time: it stores the ends that have gathered since the last one, and
 * claims for the takers that wait. A claimed row is handed to a taker in the step that has read it, and the loop is
 * never interrupted in a statement, so a close can't come between a claim and what becomes of it.
 *
 * - A take's scope closes when the end is stored. A crash before that leaves the row claimed: it comes again when its
 *   lock has expired, so at most the runs that were under way are repeated, one for each taker.
 * - An end is stored where the claim still is this store's. The end of a lost claim isn't, which is logged.
 * - Another fiber renews the claims, so neither user code nor a slow statement keeps it from doing so.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import { uuidV4Unsafe } from "effect/crypto/SecureRandom"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import { PersistedQueueError, type PersistedQueueStore } from "effect/persistence/PersistedQueue"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import type { SqlClient } from "effect/sql/SqlClient"
import type { Connection } from "effect/sql/SqlConnection"
import type { SqlError } from "effect/sql/SqlError"
import * as Extensions from "./Extensions.ts"
import { type Kind, type Name, parked, type Statements, statements } from "./PostgresTable.ts"

export interface Options {
  readonly name: Name
  /** For offers: the program's client, whose transactions they join. */
  readonly sql: SqlClient
  /** For all else: a client that nobody else uses. */
  readonly own: SqlClient
  readonly notify: (queues: ReadonlyArray<string>) => void
  readonly maxElementSize: number
  readonly pollInterval: Duration.Duration
  readonly lockExpiration: Duration.Duration
  readonly lockRefreshInterval: Duration.Duration
}

/** A row that this store has claimed and not yet settled. */
interface Claim {
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
interface End {
  readonly claim: Claim
  readonly kind: Kind
  readonly delay: number
  readonly failure: string | null
  readonly done: Deferred.Deferred<void>
  readonly deadline: number
  /** Not before this time: another session has locked the row. */
  after: number
  /** A statement with it has failed, and may have stored it all the same. */
  tried: boolean
}

type Restore = <A>(effect: Effect.Effect<A>) => Effect.Effect<A>

/** The takers of one queue, in this process. */
interface Box {
  readonly name: string
  readonly waiting: Set<(claim: Claim) => void>
  /** Claimed for takers whose end was stored by the same statement, and who are about to come back. */
  readonly ready: Array<Claim>
  readyAt: number
  /** Until then, takers aren't expected to come back: some haven't. */
  distrustUntil: number
  /** There may be something due. */
  look: boolean
}

/** For how long a claimed row waits for a taker that is expected. */
const readyMillis = 5
const distrustMillis = 10_000
/** Ends in one statement. */
const most = 1_000
/** JavaScript's last time, which Postgres keeps as well. */
export const latest = 8_640_000_000_000_000
/** Some three thousand years, for a delay that has no end. */
const longestDelay = 100_000_000_000_000
const outageLogMillis = 60_000
const planMillis = 10_000

export interface Store {
  readonly store: PersistedQueueStore["Service"]
  /** Looks at the queue at once, if it has takers here; without a name, at all of them. */
  readonly look: (queue?: string) => void
  /** Completes when something is first taken. */
  readonly started: Effect.Effect<void>
}

export const make = (options: Options): Effect.Effect<Store, never, Scope.Scope> =>
  Effect.gen(function* () {
    const self = new Loop(options, yield* Clock.Clock)
    const running = yield* Effect.forkDetach(Effect.andThen(self.started.await, self.run))
    yield* Effect.addFinalizer(() => self.close(running))
    yield* Effect.forkScoped(Effect.andThen(self.started.await, self.renewing))
    return { store: self.store, look: self.look, started: self.started.await }
  })

class Loop {
  readonly options: Options
  readonly clock: Clock.Clock
  readonly statements: Statements
  readonly boxes = new Map<string, Box>()
  readonly held = new Set<Claim>()
  readonly started = Latch.makeUnsafe(false)
  /** Opened when there may be something to do. */
  readonly work = Latch.makeUnsafe(false)
  readonly store: PersistedQueueStore["Service"]
  ends: Array<End> = []
  /** Of claims whose statement has failed, and may have claimed all the same. */
  doubtful: Array<string> = []
  pollAt = 0
  /** Statements that have failed in a row. */
  failures = 0
  loggedAt = Number.NEGATIVE_INFINITY
  closing = false
  closed = false

  constructor(options: Options, clock: Clock.Clock) {
    this.options = options
    this.clock = clock
    this.statements = statements(options.name)
    this.store = Extensions.extend(
      {
        offer: (element) => this.offerAll([element]),
        take: (options) => this.take(options),
        cleanup: this.cleanup
      },
      {
        maxElementSize: options.maxElementSize,
        latest,
        offerAll: (elements) => this.offerAll(elements),
        wake: (queue, id) => this.wake(queue, id)
      }
    )
  }

  readonly now = () => this.clock.currentTimeMillisUnsafe()

  // ---- what others call

  readonly look = (queue?: string): void => {
    for (const box of queue === undefined ? this.boxes.values() : [this.boxes.get(queue)]) {
      if (box === undefined) continue
      box.look = true
      if (box.waiting.size > 0) this.work.openUnsafe()
    }
  }

  readonly box = (name: string): Box => {
    let box = this.boxes.get(name)
    if (box === undefined) {
      box = { name, waiting: new Set(), ready: [], readyAt: 0, distrustUntil: 0, look: true }
      this.boxes.set(name, box)
    }
    return box
  }

  offerAll(elements: ReadonlyArray<Extensions.Offered>): Effect.Effect<void, PersistedQueueError> {
    const { maxElementSize, notify, sql } = this.options
    if (elements.length === 0) return Effect.void
    return Effect.suspend((): Effect.Effect<unknown, SqlError | PersistedQueueError> => {
      const rows = elements.map(({ element }) => JSON.stringify(element))
      const moment = this.now()
      for (const [n, element] of elements.entries()) {
        const refusal = Extensions.refusal(element, rows[n] ?? "", moment, { maxElementSize, latest })
        if (refusal !== undefined) return Effect.fail(refusal)
      }
      const delays = elements.map(({ delay }) => (delay === undefined ? 0 : Duration.toMillis(delay)))
      const columns = [
        elements.map(({ id }) => id),
        elements.map(({ name }) => name),
        rows,
        delays.map(String)
      ]
      const now = new Set(elements.flatMap(({ delay, name }) => (delay === undefined ? [name] : [])))
      return Effect.andThen(
        sql.unsafe(this.statements.offerAll, columns),
        sql.afterCommit(
          Effect.sync(() => {
            if (now.size > 0) notify([...now])
            for (const name of now) this.look(name)
          })
        )
      )
    }).pipe(refused("Failed to offer to the queue's store on Postgres"))
  }

  wake(queue: string, id: string): Effect.Effect<void, PersistedQueueError> {
    const { notify, sql } = this.options
    return Effect.andThen(
      sql.unsafe(this.statements.wake, [id, queue]),
      sql.afterCommit(
        Effect.sync(() => {
          notify([queue])
          this.look(queue)
        })
      )
    ).pipe(refused("Failed to wake an element of the queue's store on Postgres"))
  }

  readonly cleanup: PersistedQueueStore["Service"]["cleanup"] = ({ failedTimeToLive, timeToLive }) => {
    const some = (state: string, age: Duration.Duration): Effect.Effect<unknown, SqlError> =>
      Effect.map(
        this.options.own.unsafe<{ readonly count: number }>(this.statements.cleanup, [
          state,
          Duration.toMillis(age)
        ]),
        ([row]) => row?.count ?? 0
      ).pipe(Effect.repeat({ while: (count) => count === 1_000, schedule: Schedule.spaced("10 millis") }))
    const failed = failedTimeToLive === undefined ? Effect.void : some("failed", failedTimeToLive)
    return Effect.andThen(some("completed", timeToLive), failed).pipe(
      Effect.withTracerEnabled(false),
      refused("Failed to clean up the queue's store")
    )
  }

  // ---- a claim, from a taker's side

  take(options: Extensions.TakeOptions): ReturnType<PersistedQueueStore["Service"]["take"]> {
    const box = this.box(options.name)
    // one mask for all that it comes by: within another one, the wait couldn't be interrupted
    const next = (restore: Restore): ReturnType<PersistedQueueStore["Service"]["take"]> =>
      Effect.flatMap(this.receive(box, restore), (claim) => {
        if (claim.attempts > options.maxAttempts) {
          return Effect.andThen(
            this.end(claim, "expired", { failure: "Lock expired after final attempt" }),
            next(restore)
          )
        }
        const parsed = parse(claim)
        if (Exit.isFailure(parsed)) {
          return Effect.andThen(this.end(claim, "fail", { failure: pretty(parsed.cause) }), next(restore))
        }
        const item = { id: claim.id, attempts: claim.attempts, element: parsed.value }
        return Effect.as(
          Effect.addFinalizer((exit) => this.settle(claim, exit, options)),
          Extensions.withLost(item, Deferred.await(claim.lost))
        )
      })
    return Effect.suspend(() => {
      this.started.openUnsafe()
      return Effect.uninterruptibleMask(next)
    })
  }

  /** A claim of the queue; what was handed over to a fiber that is interrupted goes back. */
  receive(box: Box, restore: Restore): Effect.Effect<Claim> {
    return Effect.suspend(() => {
      let got = box.ready.shift()
      if (got !== undefined) return Effect.succeed(got)
      const wait = Effect.callback<Claim>((resume) => {
        const taker = (claim: Claim) => {
          got = claim
          resume(Effect.succeed(claim))
        }
        box.waiting.add(taker)
        // with the first one there is a poll to wait for
        if (box.look || box.waiting.size === 1) this.work.openUnsafe()
        return Effect.sync(() => box.waiting.delete(taker))
      })
      return Effect.onInterrupt(restore(wait), () =>
        got === undefined ? Effect.void : this.end(got, "giveBack")
      )
    })
  }

  settle(
    claim: Claim,
    exit: Exit.Exit<unknown, unknown>,
    options: Extensions.TakeOptions
  ): Effect.Effect<void> {
    if (Exit.isSuccess(exit)) return this.end(claim, "complete")
    const { cause } = exit
    const undecodable = deadLetter(cause)
    if (undecodable !== undefined) return this.end(claim, "fail", { failure: pretty(undecodable) })
    if (Cause.hasInterruptsOnly(cause)) return this.end(claim, "giveBack")
    if (options.parkFor !== undefined) {
      return this.end(claim, "park", { delay: options.parkFor, failure: parked })
    }
    const failure = pretty(cause)
    if (claim.attempts >= options.maxAttempts) return this.end(claim, "fail", { failure })
    return options.retryDelay(claim.attempts).pipe(
      // a delay that dies keeps no element for ever
      Effect.catchCause(() => Effect.succeed(Duration.seconds(1))),
      Effect.flatMap((delay) => this.end(claim, "retry", { delay, failure }))
    )
  }

  /** Waits until it is stored. Dies if it can't be for as long as a lock lasts. */
  end(
    claim: Claim,
    kind: Kind,
    options: { readonly delay?: Duration.Duration; readonly failure?: string } = {}
  ): Effect.Effect<void> {
    return Effect.suspend(() =>
      this.closed
        ? Effect.die(new Error("The queue's store is closed."))
        : Deferred.await(this.push(claim, kind, options))
    )
  }

  push(
    claim: Claim,
    kind: Kind,
    { delay, failure }: { readonly delay?: Duration.Duration; readonly failure?: string } = {}
  ): Deferred.Deferred<void> {
    const done = Deferred.makeUnsafe<void>()
    const millis = delay === undefined ? 0 : Duration.toMillis(delay)
    this.ends.push({
      claim,
      kind,
      delay: Math.min(Math.max(millis, 0) || 0, longestDelay),
      failure: failure?.toWellFormed().replaceAll("\0", "\uFFFD") ?? null,
      done,
      deadline: this.now() + Duration.toMillis(this.options.lockExpiration),
      after: 0,
      tried: false
    })
    this.work.openUnsafe()
    return done
  }

  // ---- the loop

  readonly run: Effect.Effect<void> = Effect.suspend(() => Effect.scoped(this.session)).pipe(
    Effect.sandbox,
    Effect.catch((cause) => this.failed(cause)),
    Effect.repeat({ while: () => !this.closed })
  )

  /** Works on one connection until a statement fails, or all is done after the close has begun. */
  readonly session: Effect.Effect<void, SqlError, Scope.Scope> = Effect.gen({ self: this }, function* () {
    const connection = yield* this.options.own.reserve
    while (true) {
      yield* Effect.yieldNow
      this.work.closeUnsafe()
      this.giveUpWaiting()
      const claims = this.wanted()
      const ends = this.due()
      if (this.doubtful.length > 0) yield* this.release(connection)
      if (claims.length > 0 || ends.length > 0) {
        yield* this.turn(connection, ends, claims)
        this.failures = 0
        continue
      }
      if (this.closing && this.ends.length === 0) {
        this.closed = true
        return
      }
      yield* Effect.raceFirst(this.work.await, this.pause())
    }
  })

  /** Until the next poll, or until something that was put off is due. */
  pause(): Effect.Effect<void> {
    const now = this.now()
    let until = Number.POSITIVE_INFINITY
    for (const box of this.boxes.values()) {
      if (box.waiting.size > 0) until = Math.min(until, this.pollAt)
      if (box.ready.length > 0) until = Math.min(until, box.readyAt + readyMillis)
    }
    for (const { after } of this.ends) until = Math.min(until, after)
    return until === Number.POSITIVE_INFINITY ? Effect.never : Effect.sleep(Math.max(until - now, 1))
  }

  /** Rows that were claimed for takers who haven't come back go back. */
  giveUpWaiting(): void {
    const now = this.now()
    for (const box of this.boxes.values()) {
      if (box.ready.length === 0 || (!this.closing && now < box.readyAt + readyMillis)) continue
      box.distrustUntil = now + distrustMillis
      for (const claim of box.ready.splice(0)) this.push(claim, "giveBack")
    }
  }

  /** How many rows of which queues to claim. */
  wanted(): Array<{ readonly box: Box; readonly count: number }> {
    if (this.closing || (this.failures > 0 && this.ends.length > 0)) return []
    const now = this.now()
    if (now >= this.pollAt) {
      this.pollAt = now + Duration.toMillis(this.options.pollInterval)
      for (const box of this.boxes.values()) box.look = true
    }
    const wanted: Array<{ readonly box: Box; readonly count: number }> = []
    for (const box of this.boxes.values()) {
      if (!box.look) continue
      let count = box.waiting.size
      if (now >= box.distrustUntil) {
        for (const { claim, kind } of this.ends) {
          if (claim.queue === box.name && kind !== "giveBack") count++
        }
      }
      count -= box.ready.length
      if (count > 0) wanted.push({ box, count })
    }
    return wanted
  }

  /** The ends for the next statement; after a failure one by one, so that none keeps the others from being stored. */
  due(): ReadonlyArray<End> {
    const now = this.now()
    const due = this.ends.filter(({ after }) => after <= now).slice(0, this.failures > 0 ? 1 : most)
    return due
  }

  turn(connection: Connection, ends: ReadonlyArray<End>, claims: ReturnType<Loop["wanted"]>) {
    const lock = uuidV4Unsafe()
    const statement =
      claims.length === 0
        ? this.statements.settle
        : ends.length === 0
          ? this.statements.claim
          : this.statements.settleAndClaim
    const params = [
      ...(claims.length === 0 ? [] : this.claimParams(claims, lock)),
      ...(ends.length === 0 ? [] : endParams(ends))
    ]
    for (const { box } of claims) box.look = false
    // a plan is kept for ten seconds: one that was made for an empty table would read a full one from end to end
    const planned = `${statement} -- ${Math.floor(this.now() / planMillis)}`
    return this.execute(connection, planned, params).pipe(
      Effect.onError(() =>
        Effect.sync(() => {
          for (const end of ends) end.tried = true
          for (const { box } of claims) box.look = true
          if (claims.length > 0) this.doubtful.push(lock)
        })
      ),
      Effect.flatMap((rows) => {
        this.deliver(claims, rows, lock)
        return this.stored(connection, ends, rows)
      })
    )
  }

  /** One statement, which isn't interrupted but by its time limit. */
  execute(connection: Connection, statement: string, params: ReadonlyArray<unknown>) {
    return Effect.timeoutOrElse(connection.execute(statement, params, undefined), {
      duration: statementLimit(this.options.lockExpiration),
      orElse: () => Effect.die(new Error("Postgres hasn't answered in time."))
    })
  }

  claimParams(claims: ReturnType<Loop["wanted"]>, lock: string): ReadonlyArray<unknown> {
    return [
      JSON.stringify(claims.map(({ box, count }) => ({ name: box.name, most: count }))),
      Duration.toMillis(this.options.lockExpiration),
      lock,
      this.options.maxElementSize
    ]
  }

  /** Hands the claimed rows to the takers that wait, and keeps the others for those who are about to come back. */
  deliver(claims: ReturnType<Loop["wanted"]>, rows: ReadonlyArray<Row>, lock: string): void {
    const counts = new Map<string, number>()
    for (const row of rows) {
      if (row.id === null) continue
      const box = this.box(row.queue_name)
      const { attempts, element, id, sequence } = row
      const claim: Claim = {
        sequence,
        lock,
        queue: box.name,
        id,
        attempts,
        element,
        lost: Deferred.makeUnsafe()
      }
      this.held.add(claim)
      counts.set(box.name, (counts.get(box.name) ?? 0) + 1)
      const [taker] = box.waiting
      if (taker === undefined) {
        box.ready.push(claim)
        box.readyAt = this.now()
      } else {
        box.waiting.delete(taker)
        taker(claim)
      }
    }
    for (const { box, count } of claims) if (counts.get(box.name) === count) box.look = true
  }

  stored(
    connection: Connection,
    ends: ReadonlyArray<End>,
    rows: ReadonlyArray<Row>
  ): Effect.Effect<void, SqlError> {
    if (ends.length === 0) return Effect.void
    const ended = new Set(
      rows.flatMap(({ id, sequence }) => (id === null || id === undefined ? [sequence] : []))
    )
    const left = ends.filter((end) => !ended.has(end.claim.sequence))
    this.forget(ends.filter((end) => ended.has(end.claim.sequence)))
    return left.length === 0 ? Effect.void : this.notStored(connection, left)
  }

  /** Each is another's by now, or locked by another session for the moment. */
  notStored(connection: Connection, ends: ReadonlyArray<End>): Effect.Effect<void, SqlError> {
    return Effect.flatMap(
      this.execute(connection, this.statements.owned, claimIds(ends.map(({ claim }) => claim))),
      (rows: ReadonlyArray<Row>) => {
        const owned = new Set(rows.map(({ sequence }) => sequence))
        const after = this.now() + 50
        for (const end of ends) end.after = after
        const lost = ends.filter(({ claim }) => !owned.has(claim.sequence))
        this.forget(lost)
        return Effect.forEach(
          lost.filter(({ kind, tried }) => !tried && kind !== "giveBack"),
          ({ claim }) =>
            Effect.logWarning(
              `The end of a run wasn't stored: the claim of "${claim.id}" of the queue "${claim.queue}" was lost.`
            ),
          { discard: true }
        )
      }
    )
  }

  forget(ends: ReadonlyArray<End>, exit: Exit.Exit<void> = Exit.void): void {
    if (ends.length === 0) return
    const gone = new Set(ends)
    this.ends = this.ends.filter((end) => !gone.has(end))
    for (const { claim, done } of ends) {
      this.held.delete(claim)
      Deferred.doneUnsafe(done, exit)
    }
  }

  /** What a statement without an answer may have claimed goes back, so that no attempt is used. */
  release(connection: Connection): Effect.Effect<void, SqlError> {
    const locks = this.doubtful
    return Effect.map(this.execute(connection, this.statements.release, [locks]), () => {
      this.doubtful = this.doubtful.filter((lock) => !locks.includes(lock))
    })
  }

  failed(cause: Cause.Cause<SqlError>): Effect.Effect<void> {
    return Effect.suspend(() => {
      const now = this.now()
      this.failures++
      this.forget(
        this.ends.filter(({ deadline }) => deadline <= now),
        Exit.failCause(Cause.die(Cause.squash(cause)))
      )
      const log =
        now < this.loggedAt + outageLogMillis
          ? Effect.void
          : Effect.logWarning(
              `The queue's store on ${this.options.name.quoted} can't work now: it tries again.`,
              cause
            )
      if (now >= this.loggedAt + outageLogMillis) this.loggedAt = now
      return Effect.andThen(log, Effect.sleep(Math.min(200 * 1.5 ** (this.failures - 1), 5_000)))
    })
  }

  /** Stores what is left, for as long as one statement may take. */
  close(running: Fiber.Fiber<void>): Effect.Effect<void> {
    return Effect.gen({ self: this }, function* () {
      this.closing = true
      this.work.openUnsafe()
      if (!this.started.isOpen()) return yield* Fiber.interrupt(running)
      const closed = yield* Effect.timeoutOption(
        Fiber.await(running),
        statementLimit(this.options.lockExpiration)
      )
      this.closed = true
      if (closed._tag === "Some") return
      yield* Fiber.interrupt(running)
      yield* Effect.logWarning(
        `The queue's store on ${this.options.name.quoted} closed without having stored ${this.ends.length} ends: those messages come again when their locks have expired.`
      )
      this.forget(this.ends, Exit.die(new Error("The queue's store closed before this end was stored.")))
    })
  }

  // ---- renewal

  readonly renewing: Effect.Effect<void> = Effect.suspend(() => {
    if (this.held.size === 0) return Effect.void
    const held = [...this.held]
    return Effect.flatMap(this.options.own.reserve, (connection) =>
      this.execute(connection, this.statements.renew, claimIds(held))
    ).pipe(
      Effect.scoped,
      Effect.map((rows: ReadonlyArray<Row>) => {
        const owned = new Set(rows.map(({ lock, sequence }) => `${sequence} ${lock}`))
        const ending = new Set(this.ends.map(({ claim }) => claim))
        for (const claim of held) {
          if (owned.has(`${claim.sequence} ${claim.lock}`) || !this.held.has(claim) || ending.has(claim))
            continue
          this.held.delete(claim)
          Deferred.doneUnsafe(claim.lost, Exit.void)
        }
      }),
      Effect.sandbox,
      Effect.retry(
        Schedule.spaced("500 millis").pipe(Schedule.upTo({ duration: this.options.lockRefreshInterval }))
      ),
      Effect.catch((cause) => Effect.logWarning("The queue's store couldn't renew its claims.", cause))
    )
  }).pipe(
    Effect.andThen(Effect.suspend(() => Effect.sleep(this.options.lockRefreshInterval))),
    Effect.forever
  )
}

/** A row of a claim, or of an end where `id` is null. */
interface Row {
  readonly sequence: string
  readonly lock: string
  readonly queue_name: string
  readonly id: string | null
  readonly attempts: number
  readonly element: string | null
}

const statementLimit = (lockExpiration: Duration.Duration) =>
  Duration.min(lockExpiration, Duration.seconds(15))

const claimIds = (claims: ReadonlyArray<Claim>) => [
  claims.map(({ sequence }) => sequence),
  claims.map(({ lock }) => lock)
]

const endParams = (ends: ReadonlyArray<End>) => [
  ...claimIds(ends.map(({ claim }) => claim)),
  ends.map(({ kind }) => kind),
  ends.map(({ delay }) => String(delay)),
  // an array of nothing but nulls has no type
  ends.some(({ failure }) => failure !== null)
    ? ends.map(({ failure }) => failure)
    : `{${ends.map(() => "NULL")}}`
]

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
