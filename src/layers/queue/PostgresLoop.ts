/**
 * The work of the store on Postgres on connections of its own, in batches.
 *
 * One fiber, the loop, does one statement at a time: it stores the ends that have gathered since the last one, and
 * claims for the takers that wait. A claimed row is handed to a taker in the step that has read it, and the loop is
 * never interrupted in a statement, so a close can't come between a claim and what becomes of it.
 *
 * Takers whose ends are stored come back at once, so the statement that stores them claims for them as well. Rows
 * whose taker doesn't come go back after five milliseconds.
 */
import * as Cause from "effect/Cause"
import type * as Clock from "effect/Clock"
import { uuidV4Unsafe } from "effect/crypto/SecureRandom"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import type * as Scope from "effect/Scope"
import type { SqlClient } from "effect/sql/SqlClient"
import type { Connection } from "effect/sql/SqlConnection"
import type { SqlError } from "effect/sql/SqlError"
import {
  type Claim,
  claimIds,
  type End,
  endParams,
  type Kind,
  type Row,
  type Statements
} from "./PostgresTable.ts"

export interface Options {
  /** In logs. */
  readonly table: string
  readonly statements: Statements
  /** A client that nobody else uses. */
  readonly own: SqlClient
  readonly maxElementSize: number
  readonly pollInterval: Duration.Duration
  readonly lockExpiration: Duration.Duration
  readonly lockRefreshInterval: Duration.Duration
}

export type Restore = <A>(effect: Effect.Effect<A>) => Effect.Effect<A>

/** The takers of one queue, in this process. */
export interface Box {
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

/** Rows to be claimed for a queue. */
interface Want {
  readonly box: Box
  readonly count: number
}

/** For how long a claimed row waits for a taker that is expected. */
const readyMillis = 5
const distrustMillis = 10_000
/** Ends in one statement. */
const most = 1_000
/** Some three thousand years, for a delay that has no end. */
const longestDelay = 100_000_000_000_000
const outageLogMillis = 60_000
const planMillis = 10_000

export class Loop {
  readonly options: Options
  readonly clock: Clock.Clock
  readonly boxes = new Map<string, Box>()
  readonly held = new Set<Claim>()
  readonly started = Latch.makeUnsafe(false)
  /** Opened when there may be something to do. */
  readonly work = Latch.makeUnsafe(false)
  ends: Array<End> = []
  /** Of claims whose statement has failed, and may have claimed all the same. */
  doubtful: Array<string> = []
  pollAt = 0
  /** Whether the last statement stored an end of one that had failed. */
  triedNext = false
  /** Statements that have failed in a row. */
  failures = 0
  loggedAt = Number.NEGATIVE_INFINITY
  closing = false
  closed = false

  constructor(options: Options, clock: Clock.Clock) {
    this.options = options
    this.clock = clock
  }

  readonly now = () => this.clock.currentTimeMillisUnsafe()

  // ---- what the store calls

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

  /** A claim of the queue; what was handed over to a fiber that is interrupted goes back. */
  receive(queue: string, restore: Restore): Effect.Effect<Claim> {
    return Effect.suspend(() => {
      this.started.openUnsafe()
      const box = this.box(queue)
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
      tries: 0
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
      const ends = this.due()
      const claims = this.wanted(ends)
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

  /** How many rows of which queues to claim, for those who wait and those whose ends are stored with it. */
  wanted(ends: ReadonlyArray<End>): ReadonlyArray<Want> {
    if (this.closing || (this.failures > 0 && this.ends.length > 0)) return []
    const now = this.now()
    if (now >= this.pollAt) {
      this.pollAt = now + Duration.toMillis(this.options.pollInterval)
      for (const box of this.boxes.values()) box.look = true
    }
    const wanted: Array<Want> = []
    for (const box of this.boxes.values()) {
      if (!box.look) continue
      let count = box.waiting.size
      if (now >= box.distrustUntil) {
        for (const { claim, kind } of ends) {
          if (claim.queue === box.name && kind !== "giveBack") count++
        }
      }
      count -= box.ready.length
      if (count > 0) wanted.push({ box, count })
    }
    return wanted
  }

  /**
   * The ends for the next statement. Those of one that has failed go one by one, the least tried first and in turn with
   * the others, so that none keeps another from being stored.
   */
  due(): ReadonlyArray<End> {
    const now = this.now()
    const due = this.ends.filter(({ after }) => after <= now)
    const fresh = due.filter(({ tries }) => tries === 0)
    const tried = due.filter(({ tries }) => tries > 0).toSorted((a, b) => a.tries - b.tries)
    this.triedNext = tried.length > 0 && (fresh.length === 0 || !this.triedNext)
    return this.triedNext ? tried.slice(0, 1) : fresh.slice(0, most)
  }

  turn(connection: Connection, ends: ReadonlyArray<End>, claims: ReadonlyArray<Want>) {
    const lock = uuidV4Unsafe()
    const statement =
      claims.length === 0
        ? this.options.statements.settle
        : ends.length === 0
          ? this.options.statements.claim
          : this.options.statements.settleAndClaim
    const params = [
      ...(claims.length === 0 ? [] : claimParams(claims, lock, this.options)),
      ...(ends.length === 0 ? [] : endParams(ends))
    ]
    for (const { box } of claims) box.look = false
    // a plan is kept for ten seconds: one that was made for an empty table would read a full one from end to end
    const planned = `${statement} -- ${Math.floor(this.now() / planMillis)}`
    return this.execute(connection, planned, params).pipe(
      Effect.onError(() =>
        Effect.sync(() => {
          for (const end of ends) end.tries++
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

  /** Hands the claimed rows to the takers that wait, and keeps the others for those who are about to come back. */
  deliver(claims: ReadonlyArray<Want>, rows: ReadonlyArray<Row>, lock: string): void {
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
      if (this.closing) {
        this.push(claim, "giveBack")
      } else if (taker === undefined) {
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
      this.execute(connection, this.options.statements.owned, claimIds(ends.map(({ claim }) => claim))),
      (rows: ReadonlyArray<Row>) => {
        const owned = new Set(rows.map(({ sequence }) => sequence))
        const after = this.now() + 50
        for (const end of ends) end.after = after
        const lost = ends.filter(({ claim }) => !owned.has(claim.sequence))
        this.forget(lost)
        return Effect.forEach(
          lost.filter(({ kind, tries }) => tries === 0 && kind !== "giveBack"),
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
    return Effect.map(this.execute(connection, this.options.statements.release, [locks]), () => {
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
              `The queue's store on ${this.options.table} can't work now: it tries again.`,
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
        `The queue's store on ${this.options.table} closed without having stored ${this.ends.length} ends: those messages come again when their locks have expired.`
      )
      this.forget(this.ends, Exit.die(new Error("The queue's store closed before this end was stored.")))
    })
  }
}

const statementLimit = (lockExpiration: Duration.Duration) =>
  Duration.min(lockExpiration, Duration.seconds(15))

const claimParams = (
  claims: ReadonlyArray<Want>,
  lock: string,
  { lockExpiration, maxElementSize }: Options
) => [
  JSON.stringify(claims.map(({ box, count }) => ({ name: box.name, most: count }))),
  Duration.toMillis(lockExpiration),
  lock,
  maxElementSize
]
