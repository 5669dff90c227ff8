/**
 * Runs what a test has recorded, to its end, and moves the TestClock where all that runs waits for it.
 *
 * A run is pausing (between two attempts), waiting (for a deferred), asleep (on the clock) or busy (it does something,
 * or waits for something real). A busy run can't be told from one that is asleep but by time: if the state stays the same
 * for some milliseconds of the live clock, all of them are asleep.
 */
import type * as Cause from "effect/Cause"
import type * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as TestClock from "effect/testing/TestClock"
import type { Runner } from "../../Attempt.ts"
import type { DispatchRequest, JobMessage } from "../../Dispatcher.ts"
import type { RunSteps } from "../../internal/RunState.ts"
import { endFibers, isTestClock, live, reportLeft } from "../../internal/shutdown.ts"
import { type Ended, fanOut, runKey, runToEnd } from "./Engine.ts"
import { exitOf, recordAttempt, type RecordedRun, type Records, runOf } from "./Records.ts"

/**
 * `drain` can't go on: a run waits for a deferred that nobody completes, or for something that never comes. The
 * message names each job, its id and attempt, and what it waits for. These runs were interrupted, and begin again in
 * the next drain: with the steps that they have recorded, and without having used an attempt.
 */
export class DrainError extends Schema.TaggedError<DrainError>()("DrainError", {
  message: Schema.String,
  /** The runs that were in progress. */
  runs: Schema.Array(
    Schema.Struct({
      job: Schema.String,
      id: Schema.String,
      attempt: Schema.Int,
      /** In words, as in `the deferred "approval"`. */
      waitsFor: Schema.String
    })
  )
}) {}

/**
 * The state is looked at this often on the live clock, in milliseconds. Times are counted in looks, so that a process
 * that was held up for seconds hasn't waited for them.
 */
const lookEvery = 5
/** How long a state must stay the same before the TestClock is moved, in milliseconds. */
const settleTime = 15
/**
 * The same before a job's own time limit is reached, and before a deferred counts as one that nobody completes: a
 * handler may be at something real.
 */
const longSettleTime = ({ patience }: Drain): number => patience / 6

/** A run that ended in a drain. */
export interface EndedRun {
  readonly name: string
  readonly id: string
  readonly attempts: number
  readonly exit: Exit.Exit<unknown, unknown>
}

/** A run in progress. */
interface Run {
  readonly message: JobMessage
  readonly record: RecordedRun
  attempt: number
  isPausing: boolean
  /** The deferreds that its fibers wait for. */
  readonly waits: Array<string>
  /** When the attempt reaches the time limit of its job. */
  limitAt: number | undefined
  ended: EndedRun | undefined
}

/** The clock of drained runs: that of the test, with a list of what sleeps on it. */
export interface WatchedClock {
  readonly clock: Clock.Clock
  readonly sleeps: Set<{ readonly until: number }>
  /** Opened whenever a sleep begins or ends. */
  readonly changed: Latch.Latch
}

/** A sleep without an end is none: it is no wake-up to go to. */
export const watch = (clock: Clock.Clock): WatchedClock => {
  const sleeps: WatchedClock["sleeps"] = new Set()
  const changed = Latch.makeUnsafe()
  const sleep = (duration: Duration.Duration) =>
    Duration.isFinite(duration)
      ? Effect.suspend(() => {
          const entry = { until: clock.currentTimeMillisUnsafe() + Duration.toMillis(duration) }
          sleeps.add(entry)
          changed.openUnsafe()
          return Effect.ensuring(
            clock.sleep(duration),
            Effect.sync(() => {
              sleeps.delete(entry)
              changed.openUnsafe()
            })
          )
        })
      : clock.sleep(duration)
  // sound: an object that inherits from a Clock is one
  return { clock: Object.assign(Object.create(clock) as Clock.Clock, { sleep }), sleeps, changed }
}

/** A drain under way. */
interface Drain {
  readonly records: Records["Service"]
  readonly runner: Runner
  readonly watched: WatchedClock
  /** The clock that `drain` moves; `undefined` if the clock is real, and time passes by itself. */
  readonly testClock: TestClock.TestClock | undefined
  /** In milliseconds of the live clock. */
  readonly patience: number
  /** The runs that were begun, in order. */
  readonly begun: Array<Run>
  readonly fibers: Map<Fiber.Fiber<void>, Run>
  /** The requests that aren't due yet, and the first time at which one is. */
  later: Array<DispatchRequest>
  laterFrom: number
  /** How long the state has been the same, in milliseconds. */
  sameFor: number
  /** How long nothing has begun, ended or been recorded, whatever the clock did. */
  silentFor: number
  /** The cause of a run that broke off, which would be a fault of ours. */
  defect: Cause.Cause<never> | undefined
}

/** Runs all that is due. Interrupted or failed, it interrupts what runs, and nothing is lost. */
export const drain = (options: {
  readonly records: Records["Service"]
  readonly runner: Runner
  readonly clock: Clock.Clock
  readonly watched: WatchedClock
  readonly patience: Duration.Duration
}): Effect.Effect<ReadonlyArray<EndedRun>, DrainError> =>
  Effect.suspend(() => {
    const { clock, patience, records, runner, watched } = options
    const self: Drain = {
      records,
      runner,
      watched,
      // sound: only a TestClock can be moved
      testClock: isTestClock(clock) ? (clock as TestClock.TestClock) : undefined,
      patience: Duration.toMillis(patience),
      begun: [],
      fibers: new Map(),
      later: [],
      laterFrom: Number.POSITIVE_INFINITY,
      sameFor: 0,
      silentFor: 0,
      defect: undefined
    }
    return Effect.onExit(drainDue(self), () => interruptRuns(self))
  })

const interruptRuns = (self: Drain): Effect.Effect<void> =>
  self.fibers.size === 0
    ? Effect.void
    : Effect.flatMap(endFibers(self.fibers, Duration.zero, self.watched.clock), ({ ignoring }) =>
        reportLeft("TestDispatcher.drain", Duration.zero, { interrupted: [], ignoring })
      )

/** One run at a time. Where it waits for a deferred, others may begin: they may complete it. */
const drainDue = Effect.fnUntraced(function* (self: Drain) {
  const due = dueMessages(self)
  while (true) {
    const message = allWait(self) ? due.next().value : undefined
    if (message !== undefined) yield* begin(self, message)
    else if (self.fibers.size > 0) yield* nextChange(self)
    else if (self.defect !== undefined) return yield* Effect.failCause(self.defect)
    else return self.begun.flatMap(({ ended }) => ended ?? [])
  }
})

const allWait = (self: Drain): boolean => {
  for (const run of self.fibers.values()) if (run.waits.length === 0) return false
  return true
}

/** The messages of open runs, in the order of dispatch; `undefined` while none is due. It never ends. */
function* dueMessages(self: Drain): Generator<JobMessage | undefined, never> {
  const { records, watched } = self
  let { requests } = records
  let seen = 0
  while (true) {
    if (requests !== records.requests) {
      requests = records.requests
      seen = 0
      setLater(self, [])
    }
    const now = watched.clock.currentTimeMillisUnsafe()
    if (self.laterFrom <= now) {
      const { later } = self
      setLater(
        self,
        later.filter(({ notBefore = 0 }) => notBefore > now)
      )
      for (const request of later) if ((request.notBefore ?? 0) <= now) yield* openMessages(self, request)
      continue
    }
    const request = requests[seen]
    if (request === undefined) {
      yield undefined
      continue
    }
    seen++
    if ((request.notBefore ?? 0) <= now) yield* openMessages(self, request)
    else if (fanOut(self.runner, request) !== undefined) {
      self.later.push(request)
      self.laterFrom = Math.min(self.laterFrom, request.notBefore ?? 0)
    }
  }
}

const setLater = (self: Drain, later: Array<DispatchRequest>): void => {
  self.later = later
  self.laterFrom = later.reduce(
    (first, { notBefore = 0 }) => Math.min(first, notBefore),
    Number.POSITIVE_INFINITY
  )
}

/** A job that isn't listed has none; neither has an id that has run. */
function* openMessages(self: Drain, request: DispatchRequest): Generator<JobMessage> {
  for (const message of fanOut(self.runner, request) ?? []) {
    const state = self.records.runs.get(runKey(message))?.state
    if (state === undefined || state === "open") yield message
  }
}

/** Uninterruptible, so that no run is forked that the end of the drain doesn't know. */
const begin = (self: Drain, message: JobMessage): Effect.Effect<void> =>
  Effect.uninterruptible(
    Effect.suspend(() => {
      const record = runOf(self.records, message)
      const run: Run = {
        message,
        record,
        attempt: record.failedAttempts,
        isPausing: false,
        waits: [],
        limitAt: undefined,
        ended: undefined
      }
      record.state = "running"
      self.begun.push(run)
      const ended = Effect.map(loop(self, run), ({ attempts, outcome }) => {
        run.ended = { name: message.name, id: message.id, attempts, exit: exitOf(outcome) }
      })
      return Effect.map(Effect.forkDetach(ended, { startImmediately: true }), (fiber) => {
        self.fibers.set(fiber, run)
        fiber.addObserver((exit) => {
          self.fibers.delete(fiber)
          record.state = Exit.isSuccess(exit) ? "ended" : "open"
          if (Exit.isFailure(exit)) self.defect = exit.cause
          progressed(self)
        })
      })
    })
  )

const progressed = (self: Drain): void => {
  self.silentFor = 0
  self.watched.changed.openUnsafe()
}

/** The attempts of a run, which say what state it is in. */
const loop = (self: Drain, run: Run): Effect.Effect<Ended> => {
  const { records, runner, watched } = self
  const { timeout } = runner.get(run.message.name) ?? {}
  return runToEnd(
    {
      runner,
      steps: watchedSteps(self, run),
      sleep: (delay) =>
        Effect.suspend(() => {
          run.isPausing = true
          return Effect.ensuring(
            watched.clock.sleep(delay),
            Effect.sync(() => {
              run.isPausing = false
            })
          )
        }),
      hold: (attempt) =>
        Effect.suspend(() => {
          run.attempt++
          run.limitAt =
            timeout === undefined
              ? undefined
              : watched.clock.currentTimeMillisUnsafe() + Duration.toMillis(timeout)
          return attempt
        }),
      onAttempt: (message, attempt, outcome) =>
        Effect.sync(() => {
          run.limitAt = undefined
          if (outcome._tag === "Retry") run.record.failedAttempts = attempt
          recordAttempt(records, message, attempt, outcome, watched.clock.currentTimeMillisUnsafe())
          progressed(self)
        })
    },
    run.message,
    run.record.failedAttempts + 1
  )
}

const watchedSteps = (self: Drain, run: Run): RunSteps => {
  const { steps } = run.record
  return {
    ...steps,
    run: (id, execute) =>
      Effect.tap(steps.run(id, execute), () =>
        Effect.sync(() => {
          progressed(self)
        })
      ),
    wait: (deferred) =>
      Effect.suspend(() => {
        run.waits.push(deferred)
        self.watched.changed.openUnsafe()
        return Effect.ensuring(
          steps.wait(deferred),
          Effect.sync(() => {
            run.waits.splice(run.waits.indexOf(deferred), 1)
            progressed(self)
          })
        )
      })
  }
}

/** Waits until a run goes on by itself. Where none does, makes it: the TestClock moves, or the drain fails. */
const nextChange = (self: Drain): Effect.Effect<void, DrainError> =>
  Effect.suspend(() => {
    const { changed } = self.watched
    changed.closeUnsafe()
    const wakeUp = nextWakeUp(self)
    if (self.testClock === undefined && wakeUp !== undefined) {
      return Effect.map(changed.await, () => progressed(self))
    }
    if (wakeUp !== undefined && allPause(self)) return moveClock(self, wakeUp)
    return Effect.flatMap(live(Effect.timeoutOption(changed.await, lookEvery)), (change) => {
      self.sameFor = Option.isSome(change) ? 0 : self.sameFor + lookEvery
      if (Option.isSome(change)) return Effect.void
      self.silentFor += lookEvery
      if (self.silentFor >= self.patience) return Effect.fail(stuck(self))
      if (self.sameFor < settleTimeOf(self, wakeUp)) return Effect.void
      return wakeUp === undefined ? Effect.fail(stuck(self)) : moveClock(self, wakeUp)
    })
  })

const allPause = (self: Drain): boolean => {
  for (const { isPausing } of self.fibers.values()) if (!isPausing) return false
  return true
}

/** The next time at which something that sleeps goes on, or at which a message that may complete a deferred is due. */
const nextWakeUp = (self: Drain): number | undefined => {
  let first = Number.POSITIVE_INFINITY
  for (const { until } of self.watched.sleeps) first = Math.min(first, until)
  if (first === Number.POSITIVE_INFINITY) return undefined
  return allWait(self) ? Math.min(first, self.laterFrom) : first
}

/** Without an end where a run may be busy and nothing sleeps. */
const settleTimeOf = (self: Drain, wakeUp: number | undefined): number => {
  if (wakeUp === undefined) {
    return self.testClock !== undefined && allWait(self) ? longSettleTime(self) : Number.POSITIVE_INFINITY
  }
  for (const { limitAt } of self.fibers.values()) if (limitAt === wakeUp) return longSettleTime(self)
  return settleTime
}

const moveClock = ({ testClock }: Drain, to: number): Effect.Effect<void> =>
  Effect.suspend(() =>
    testClock === undefined
      ? Effect.void
      : testClock.setTime(Math.max(to, testClock.currentTimeMillisUnsafe()))
  )

const stuck = (self: Drain): DrainError => {
  const runs = Array.from(self.fibers.values(), (run) => ({
    job: run.message.name,
    id: run.message.id,
    attempt: run.attempt,
    waitsFor: waitsFor(self, run)
  }))
  const sentences = runs
    .slice(0, 5)
    .map(
      ({ attempt, id, job, waitsFor }) => `"${job}" (id ${id}) waits in attempt ${attempt} for ${waitsFor}`
    )
  const more = runs.length > 5 ? `; and ${runs.length - 5} more wait` : ""
  return new DrainError({
    message: `TestDispatcher.drain can't go on: ${sentences.join("; ")}${more}.`,
    runs
  })
}

const waitsFor = ({ patience, watched }: Drain, { limitAt, waits }: Run): string => {
  const [deferred] = waits
  const now = watched.clock.currentTimeMillisUnsafe()
  if (deferred !== undefined) return `the deferred "${deferred}", which nobody has completed`
  const time = Duration.format(Duration.millis(patience))
  if (limitAt !== undefined && limitAt <= now) {
    return `the end of its handler, which ignores its interruption at the time limit`
  }
  return watched.sleeps.size > 0
    ? `the clock again and again: for ${time} only the clock has moved, to ${DateTime.formatIso(DateTime.makeUnsafe(now))}`
    : `something outside of the run, which hasn't come in ${time}`
}
