/**
 * The clock of a cron job, for engines without a scheduler of their own.
 *
 * It looks at the Clock every minute (every five minutes while the next tick is more than an hour away), since timers
 * stand still while a machine is suspended, and since a clock may be set. A look finds one of these:
 *
 * - Nothing is due.
 * - A tick is due, and is offered. Of several, only the latest is.
 * - The latest tick is late by more than five minutes, and is skipped unless the job catches up.
 *
 * A tick that was offered isn't offered again, also when the clock is set back.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Cron from "effect/Cron"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { DefinitionError } from "../DefinitionError.ts"
import type { JobMessage } from "../Dispatcher.ts"
import type { Any, Trigger } from "../Job.ts"
import { parse } from "./cronSchedule.ts"

const minute = Duration.toMillis("1 minute")
const hour = 60 * minute

/** A tick that is noticed later than this is skipped, unless the job catches up. */
const maxLateness = 5 * minute

/** How long to wait before the Clock is looked at again, at most {@link maxLateness}. */
const untilNextLook = (left: number): number => Math.min(left, left > hour ? maxLateness : minute)

/** A run that goes on for longer no longer keeps `overlap: "skip"` from offering the next tick. */
const maxRunTime = Duration.toMillis("1 day")

const iso = (time: number): string => DateTime.formatIso(DateTime.makeUnsafe(time))

/**
 * The message of one tick. Its id is the job's name and the time, so that every process that ticks the same
 * schedule sends the same id.
 */
export const tickMessage = (job: Any, scheduledAt: number): JobMessage => ({
  id: `${job.jobName}@${iso(scheduledAt)}`,
  name: job.jobName,
  payload: { scheduledAt: iso(scheduledAt) },
  dispatchedAt: scheduledAt
})

/** When the tick of a message was due. */
const tickTime = ({ payload }: JobMessage): number =>
  typeof payload === "object" &&
  payload !== null &&
  "scheduledAt" in payload &&
  typeof payload.scheduledAt === "string"
    ? Date.parse(payload.scheduledAt)
    : Number.NaN

/**
 * An engine's records of its cron jobs, in milliseconds since the epoch: the last tick that was offered, and the last one
 * whose run has ended. All processes that tick the same schedules share them. They outlive the processes if the
 * messages do. Only jobs with `catchUp` or `overlap` have records.
 */
export interface TickRecords {
  readonly get: (job: string, key: "offered" | "ended") => Effect.Effect<number | undefined>
  readonly set: (job: string, key: "offered" | "ended", time: number) => Effect.Effect<void>
}

/** The records of an engine whose messages don't outlive the process. */
export const recordsInMemory = (): TickRecords => {
  const times = new Map<string, number>()
  return {
    get: (job, key) => Effect.sync(() => times.get(`${key} ${job}`)),
    set: (job, key, time) => Effect.sync(() => times.set(`${key} ${job}`, time))
  }
}

/**
 * Records that the run of a tick has ended: it has succeeded, failed for good or been cancelled. Engines call it, since
 * `overlap: "skip"` would otherwise wait for that run for a day. Does nothing for any other job.
 */
export const tickEnded = (records: TickRecords, job: Any, message: JobMessage): Effect.Effect<void> => {
  if (job.trigger._tag !== "Cron" || job.trigger.overlap !== "skip") return Effect.void
  return Effect.gen(function* () {
    const time = tickTime(message)
    const ended = yield* recorded(records, job.jobName, "ended", yield* Clock.currentTimeMillis)
    if (ended === undefined || time > ended) yield* records.set(job.jobName, "ended", time)
  })
}

/** A record of the future is from before the clock was set back. It would stop all ticks until then, so it is none. */
const recorded = (records: TickRecords, job: string, key: "offered" | "ended", now: number) =>
  Effect.map(records.get(job, key), (time) =>
    time === undefined || time > now + maxLateness ? undefined : time
  )

/** Consecutive ticks that were taken, and the one that follows. */
interface Taken {
  readonly from: number
  to: number
  next: number
}

/**
 * The ticks of a schedule without those that were taken. These are kept as ranges: one, and another for each jump of the
 * clock. `Cron.next` takes up to half a millisecond, so it is called once a tick.
 */
const makeTicks = (cron: Cron.Cron) => {
  const ranges: Array<Taken> = []
  const next = (time: number): number => {
    let tick = Cron.next(cron, time).getTime()
    for (let range = find(tick); range !== undefined; range = find(tick)) tick = range.next
    return tick
  }
  const find = (tick: number) => ranges.find(({ from, to }) => from <= tick && tick <= to)
  return {
    next,
    /** The last one of `due` and what follows it that is due `now`, and the one after it. */
    latest: (due: number, now: number): { readonly tick: number; readonly following: number } => {
      let tick = due
      let following = next(due)
      // a long time may hold many: what lies far back is looked at only where nothing came since
      for (let back = hour; following <= now; back *= 24) {
        const later = next(Math.max(due, now - back))
        if (later > now) continue
        tick = later
        following = next(tick)
        for (; following <= now; following = next(tick)) tick = following
      }
      return { tick, following }
    },
    take: (tick: number, following: number): void => {
      const last = ranges.at(-1)
      if (last?.next === tick) {
        last.to = tick
        last.next = following
      } else ranges.push({ from: tick, to: tick, next: following })
      if (ranges.length > 100) ranges.shift()
    }
  }
}

type CronTrigger = Extract<Trigger, { readonly _tag: "Cron" }>

interface Ticker<E, R> {
  readonly job: Any
  readonly trigger: CronTrigger
  readonly offer: (message: JobMessage) => Effect.Effect<void, E, R>
  readonly records: TickRecords
}

/** Neither a failure nor a defect of an engine stops the clock. */
const offer = <E, R>(self: Ticker<E, R>, tick: number): Effect.Effect<void, never, R> =>
  Effect.catchCause(
    Effect.suspend(() => self.offer(tickMessage(self.job, tick))),
    (cause) =>
      Cause.hasInterruptsOnly(cause)
        ? Effect.interrupt
        : Effect.logError(`The tick of "${self.job.jobName}" at ${iso(tick)} is lost.`, cause)
  )

/**
 * Records a tick, then offers it. A process that dies in between leaves a tick that seems to run and was never offered,
 * so a tick that others wait for is offered again. If it was offered before, its id makes no second run.
 */
const offerOnce = <E, R>(self: Ticker<E, R>, tick: number, now: number): Effect.Effect<void, never, R> =>
  Effect.gen(function* () {
    const { records, trigger } = self
    const name = self.job.jobName
    if (trigger.overlap === undefined && trigger.catchUp === undefined) return yield* offer(self, tick)
    const last = yield* recorded(records, name, "offered", now)
    if (last !== undefined && last > tick) return // another process is ahead
    if (trigger.overlap === "skip" && last !== undefined && last < tick && tick - last < maxRunTime) {
      const ended = yield* recorded(records, name, "ended", now)
      if (ended === undefined || ended < last) {
        yield* Effect.logInfo(`"${name}" skips its tick at ${iso(tick)}: the run of ${iso(last)} goes on.`)
        return yield* offer(self, last)
      }
    }
    yield* records.set(name, "offered", tick)
    yield* offer(self, tick)
  })

/**
 * The time after which ticks count: now or, for a job that catches up, that of the last tick that was offered before this
 * process. The first process ever records its start, so that later ones know what was missed before the first tick.
 */
const beginning = <E, R>({ job, records, trigger }: Ticker<E, R>, now: number): Effect.Effect<number> =>
  trigger.catchUp === undefined
    ? Effect.succeed(now)
    : Effect.gen(function* () {
        const last = yield* recorded(records, job.jobName, "offered", now)
        if (last !== undefined) return Math.min(last, now)
        yield* records.set(job.jobName, "ended", now)
        yield* records.set(job.jobName, "offered", now)
        return now
      })

const tickOn = <E, R>(self: Ticker<E, R>): Effect.Effect<never, never, R> =>
  Effect.gen(function* () {
    const clock = yield* Clock.Clock
    const ticks = makeTicks(parse(self.trigger))
    let looked = yield* beginning(self, clock.currentTimeMillisUnsafe())
    let due = ticks.next(looked)
    while (true) {
      const now = clock.currentTimeMillisUnsafe()
      if (now < looked) due = ticks.next(now)
      looked = now
      if (now < due) {
        yield* Effect.sleep(Duration.millis(untilNextLook(due - now)))
        continue
      }
      const { following, tick } = ticks.latest(due, now)
      due = following
      if (now - tick <= maxLateness || self.trigger.catchUp === "once") {
        ticks.take(tick, following)
        yield* offerOnce(self, tick, now)
      } else {
        yield* Effect.logWarning(
          `"${self.job.jobName}" skips its tick at ${iso(tick)}, which is noticed ${Duration.format(Duration.millis(now - tick))} late.`
        )
      }
    }
  })

/**
 * Hands the ticks of a cron job to `offer`, each when it is due on the Clock, until interrupted. While an offer takes its
 * time, no other tick is looked for. Never ends for any other job. Dies with a `DefinitionError` for a job with
 * `overlap: "skip"` if the engine has no records.
 */
export const runTicks = <E, R>(
  job: Any,
  offer: (message: JobMessage) => Effect.Effect<void, E, R>,
  records?: TickRecords
): Effect.Effect<never, never, R> =>
  Effect.suspend(() => {
    const { trigger } = job
    if (trigger._tag !== "Cron") return Effect.never
    if (records === undefined && trigger.overlap !== undefined) {
      throw new DefinitionError({
        message: `The cron job "${job.jobName}" has overlap: "skip", and this engine doesn't know when a run has ended.`
      })
    }
    return tickOn({ job, trigger, offer, records: records ?? recordsInMemory() })
  })

/**
 * The clock of cron jobs, as their contracts carry it: a program without cron jobs has nothing of it.
 */
export const cronClock = { runTicks, tickEnded, recordsInMemory }
export type CronClock = typeof cronClock
