/**
 * A cron job is a job that a clock starts. Its handler gets the time at which it was due, and usually dispatches jobs.
 */
import * as Schema from "effect/Schema"
import { DefinitionError } from "./DefinitionError.ts"
import { shown } from "./internal/checks.ts"
import { makeContract } from "./internal/contract.ts"
import { checkedSchedule } from "./internal/cronSchedule.ts"
import { cronClock } from "./internal/ticks.ts"
import type { Contract, Options } from "./Job.ts"

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
 * The expression and the zone mean the same on every engine: names, `7` for Sunday and `@daily` are rewritten, and what
 * engines read in two ways is refused. A day of the month beside a day of the week means either of them, as in cron.
 * Throws a `DefinitionError` for an invalid expression, for one that no date fits, and for an unknown time zone.
 *
 * - The clock is looked at every minute, or every 5 while the next tick is more than an hour away. A tick that is noticed
 *   more than 5 minutes late, such as after a laptop was suspended, is skipped unless `catchUp` is set. No tick comes
 *   twice, also when the clock is set back.
 * - Where a time zone skips an hour, a tick in it comes when the gap is over. Where an hour comes twice, a tick in it
 *   comes once, in the first; if the hour field begins with a star, in both.
 * - A run that takes longer than its interval goes on beside the next one, unless `overlap` is set.
 *
 * On Inngest its server ticks, by its own rules.
 */
export const make = <
  const Name extends string,
  Success extends Schema.Top = Schema.Void,
  Error extends Schema.Top = Schema.Defect
>(
  name: Name,
  options: Options<Success, Error> & {
    /**
     * Five fields: minute, hour, day of the month, month, day of the week (0 or 7 is Sunday). Each is `*`, a value, a
     * range, or a list of these, with steps. Or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
     */
    readonly cron: string
    /** An IANA name, such as `"Europe/London"`, in any case. Default: UTC. */
    readonly timeZone?: string | undefined
    /**
     * `"once"`: ticks that were missed since the last run make one run, that of the latest. They are missed while the
     * machine is suspended and, on a queue, while no worker runs. Default: missed ticks are skipped.
     */
    readonly catchUp?: "once" | undefined
    /**
     * `"skip"`: a tick begins no run while the one before goes on, with its retries and waits. A run of more than a day
     * no longer counts. Default: each tick has its run, and runs may overlap.
     */
    readonly overlap?: "skip" | undefined
  }
): CronJob<Name, Success, Error> => {
  const { expression, timeZone } = checkedSchedule(name, {
    expression: options.cron,
    timeZone: options.timeZone
  })
  // sound: makeContract gives every value of the interface, from these very options
  return makeContract("cron job", name, {
    ...options,
    payload: Tick,
    trigger: {
      _tag: "Cron",
      expression,
      timeZone,
      clock: cronClock,
      ...only(name, "catchUp", options.catchUp, "once"),
      ...only(name, "overlap", options.overlap, "skip")
    }
  }) as CronJob<Name, Success, Error>
}

/** An option that has one allowed value, if it is given. */
const only = <Key extends string, Value extends string>(
  name: string,
  key: Key,
  given: Value | undefined,
  value: Value
): { readonly [K in Key]?: Value } | undefined => {
  if (given === undefined) return undefined
  if (given !== value) {
    throw new DefinitionError({
      message: `The ${key} of the cron job "${name}" must be "${value}" or left out, not ${shown(given)}.`
    })
  }
  // sound: a computed key of one literal type
  return { [key]: given } as { readonly [K in Key]: Value }
}
