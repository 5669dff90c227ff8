/**
 * A job that a clock starts. Its handler gets the time that it was due at, and usually dispatches jobs.
 */
import * as Clock from "effect/Clock"
import * as Cron from "effect/Cron"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { DefinitionError } from "./DefinitionError.ts"
import type { JobMessage } from "./Dispatcher.ts"
import { makeContract } from "./internal/contract.ts"
import { type Any, type Contract, type Options } from "./Job.ts"

/** The payload of every cron job. */
export const Tick = Schema.Struct({
  /** When the tick was due, which may be a little before its run starts. */
  scheduledAt: Schema.DateTimeUtc
})

/** A cron job: implemented with `toLayer` and put into the list of jobs, as a job is. */
export interface CronJob<
  Name extends string,
  Success extends Schema.Top,
  Error extends Schema.Top
> extends Contract<Name, typeof Tick, Success, Error> {}

/**
 * Defines a cron job:
 * `class DailyReport extends CronJob.make("reports.daily", { cron: "0 9 * * *", timeZone: "Europe/London" }) {}`.
 *
 * Ticks that fall into a time when nothing ran are not made up for. Where a time zone skips an hour, a tick in
 * it comes when the gap is over; where an hour comes twice, a tick in it comes once, in the first, unless the
 * hour field begins with a star: then the schedule just goes on, in both. Throws a
 * `DefinitionError` for an expression that isn't one, or that never comes, and for an unknown time zone.
 */
export const make = <
  const Name extends string,
  Success extends Schema.Top = Schema.Void,
  Error extends Schema.Top = Schema.Defect
>(
  name: Name,
  options: Options<Success, Error> & {
    /** Five fields: minute, hour, day of the month, month, day of the week. */
    readonly cron: string
    /** An IANA name, such as `"Europe/London"`. Default: UTC. */
    readonly timeZone?: string | undefined
  }
): CronJob<Name, Success, Error> => {
  checkedCron(name, options.cron, options.timeZone)
  // sound: makeContract gives every value of the interface, from these very options
  return makeContract("cron job", name, {
    ...options,
    payload: Tick,
    trigger: { _tag: "Cron", expression: options.cron, timeZone: options.timeZone }
  }) as CronJob<Name, Success, Error>
}

const checkedCron = (name: string, expression: string, timeZone: string | undefined): Cron.Cron => {
  const of = `the cron job ${JSON.stringify(name)}`
  const zone = Option.getOrUndefined(DateTime.zoneFromString(timeZone ?? "UTC"))
  if (zone === undefined) {
    throw new DefinitionError({
      message: `${JSON.stringify(timeZone)} can't be the time zone of ${of}: use an IANA name, as in "Europe/London".`
    })
  }
  if (expression.trim().split(/\s+/).length !== 5) {
    throw new DefinitionError({
      message: `${JSON.stringify(expression)} can't be the schedule of ${of}: it must have five fields (minute, hour, day of the month, month, day of the week), as in "0 9 * * 1-5".`
    })
  }
  const cron = Result.getOrElse(
    Cron.parse(expression, zone, { onDstOverlap: overlap(expression) }),
    (error) => {
      throw new DefinitionError({
        message: `${JSON.stringify(expression)} can't be the schedule of ${of}: ${error.message}.`
      })
    }
  )
  try {
    Cron.next(cron, 0)
  } catch {
    throw new DefinitionError({
      message: `${JSON.stringify(expression)} can't be the schedule of ${of}: no date fits it.`
    })
  }
  return cron
}

/**
 * What the hour that comes twice means, as in Vixie cron: for a schedule of every hour (its hour field begins
 * with a star) both count, so that every 20 minutes stays every 20 minutes; for one with hours, the first.
 */
const overlap = (expression: string): Cron.DstOverlapPolicy =>
  expression.trim().split(/\s+/)[1]?.startsWith("*") === true ? "both" : "earlier"

/**
 * The message of one tick. Its id is the job's name and the time, so that every process that ticks the same
 * schedule sends the same id.
 */
export const tickMessage = (job: Any, scheduledAt: number): JobMessage => {
  const iso = DateTime.formatIso(DateTime.makeUnsafe(scheduledAt))
  return {
    id: `${job.jobName}@${iso}`,
    name: job.jobName,
    payload: { scheduledAt: iso },
    dispatchedAt: scheduledAt
  }
}

/**
 * Hands every tick of a cron job to `offer`, when it is due on the Clock, until interrupted. For engines that
 * have no scheduler of their own.
 */
export const runTicks = <E, R>(
  job: Any,
  offer: (message: JobMessage) => Effect.Effect<void, E, R>
): Effect.Effect<never, E, R> => {
  const { trigger } = job
  if (trigger._tag !== "Cron") return Effect.never
  const cron = checkedCron(job.jobName, trigger.expression, trigger.timeZone)
  return Effect.gen(function* () {
    while (true) {
      const now = yield* Clock.currentTimeMillis
      const due = Cron.next(cron, now).getTime()
      yield* sleepUntil(due)
      yield* offer(tickMessage(job, due))
    }
  })
}

/** Timers hold at most 2^31 - 1 ms (24.8 days), and a wall clock may be set: so it looks again every hour. */
const sleepUntil = (time: number): Effect.Effect<void> =>
  Effect.gen(function* () {
    while (true) {
      const left = time - (yield* Clock.currentTimeMillis)
      if (left <= 0) return
      yield* Effect.sleep(Duration.millis(Math.min(left, 3_600_000)))
    }
  })
