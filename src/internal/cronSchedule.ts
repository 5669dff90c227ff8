/**
 * Cron expressions and time zones that mean the same on every engine. Effect's `Cron` ticks in this process and on a
 * queue, Inngest's server reads schedules with robfig/cron v3.0.1, and the two differ: what both can express is
 * rewritten so that they agree, and what only one of them knows is refused.
 *
 * | written | Effect | robfig/cron | here |
 * | --- | --- | --- | --- |
 * | `7` as a day of the week, `5-7` | Sunday | error | `0`, `0,5,6` |
 * | `1/2` as a day of the week | with Sunday | without | `1-6/2` |
 * | `?` as a day, `@daily` | error | accepted | `*`, `0 0 * * *` |
 * | `5,*` | two kinds of values | a star | `*` |
 * | `0 0 1 * 1` | either day | either day | either day |
 * | `0 0 *\/10 * 1` | both days | either day | refused |
 */
import * as Cron from "effect/Cron"
import { DefinitionError } from "../DefinitionError.ts"
import { shown } from "./checks.ts"

interface Field {
  readonly min: number
  readonly max: number
  /** The names of its values, from `min`. */
  readonly names: ReadonlyArray<string>
}

const field = (min: number, max: number, ...names: ReadonlyArray<string>): Field => ({ min, max, names })

/** Minute, hour, day of the month, month, day of the week; Sunday is 0 or 7. */
const fields = [
  field(0, 59),
  field(0, 23),
  field(1, 31),
  field(1, 12, "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
  field(0, 7, "sun", "mon", "tue", "wed", "thu", "fri", "sat")
]
const dayOfMonth = 2
const dayOfWeek = 4

const descriptors: Readonly<Record<string, string>> = {
  "@yearly": "0 0 1 1 *",
  "@annually": "0 0 1 1 *",
  "@monthly": "0 0 1 * *",
  "@weekly": "0 0 * * 0",
  "@daily": "0 0 * * *",
  "@midnight": "0 0 * * *",
  "@hourly": "0 * * * *"
}

/** Inngest takes 255 characters, the time zone with them. */
const maxLength = 200

const item = /^(?:\*|(\w+)(?:-(\w+))?)(?:\/(\d+))?$/

/** Throws, with the reason. */
type Refuse = (reason: string) => never

const valueOf = (text: string, { max, min, names }: Field, refuse: Refuse): number => {
  const named = names.indexOf(text.toLowerCase())
  if (named !== -1) return min + named
  if (!/^\d+$/.test(text)) return refuse(`${shown(text)} is no value of its field`)
  const value = Number(text)
  return value < min || value > max ? refuse(`Expected a value between ${min} and ${max}`) : value
}

const normalItem = (text: string, index: number, refuse: Refuse): string => {
  const of = fields[index]
  const match = item.exec(text)
  if (match === null || of === undefined) {
    return refuse(`${shown(text)} is neither "*", a value nor a range, with or without a step`)
  }
  const [, low, high, by] = match
  const step = by === undefined ? 1 : Number(by)
  const max = index === dayOfWeek ? 6 : of.max
  if (step < 1 || step > of.max) refuse(`a step must be from 1 to ${of.max}, and isn't in ${shown(text)}`)
  const every = step === 1 ? "" : `/${step}`
  if (low === undefined) return `*${every}`
  const from = valueOf(low, of, refuse)
  const last = high === undefined ? (by === undefined ? from : max) : valueOf(high, of, refuse)
  // FRI-SUN
  const to = index === dayOfWeek && last === 0 && from > 0 && high !== "0" ? 7 : last
  if (from > to) refuse(`${shown(text)} ends before it begins, so write two ranges, as in "22-23,0-4"`)
  if (to > max) return sundays(from, to, step)
  return from === to ? `${from}` : `${from}-${to}${every}`
}

/** Days of the week of which one may be 7, each by itself. */
const sundays = (from: number, to: number, step: number): string => {
  const days = new Set<number>()
  for (let day = from; day <= to; day += step) days.add(day % 7)
  return [...days].toSorted((a, b) => a - b).join(",")
}

const normalField = (text: string, index: number, refuse: Refuse): string => {
  if (text === "?" && (index === dayOfMonth || index === dayOfWeek)) return "*"
  const items = text.split(",").map((text) => normalItem(text, index, refuse))
  return items.includes("*") ? "*" : [...new Set(items.join(",").split(","))].join(",")
}

const normalExpression = (expression: unknown, refuse: Refuse): string => {
  const trimmed = typeof expression === "string" ? expression.trim() : ""
  const texts = (descriptors[trimmed.toLowerCase()] ?? trimmed).split(/\s+/)
  if (texts.length !== fields.length) {
    refuse(
      'it must have five fields (minute, hour, day of the month, month, day of the week), as in "0 9 * * 1-5"'
    )
  }
  const normal = texts.map((text, index) => normalField(text, index, refuse))
  const [days = "*", weekdays = "*"] = [normal[dayOfMonth], normal[dayOfWeek]]
  if (days !== "*" && weekdays !== "*" && (days.includes("*") || weekdays.includes("*"))) {
    refuse(
      'engines differ in what "*/" means where a day of the month and a day of the week are given, so list the days, as in "1,11,21"'
    )
  }
  const text = normal.join(" ")
  return text.length > maxLength ? refuse(`it has more than ${maxLength} characters`) : text
}

const isRegionAndCity = /^[A-Z][a-z]+(?:\/[A-Z][a-z]+(?:[_-][A-Z][a-z]+)*)+$/

/**
 * The zone in the spelling of the IANA database, where Inngest's server looks it up; `undefined` where it isn't there.
 * Offsets aren't, nor are ICU's zones of its own. Another name of a zone (`Asia/Kolkata` for ICU's `Asia/Calcutta`)
 * stays if its case is right.
 */
const normalZone = (timeZone: string): string | undefined => {
  if (/^(?:GMT)?[+-]|^SystemV\//i.test(timeZone)) return undefined
  try {
    const known = new Intl.DateTimeFormat("en-US", { timeZone }).resolvedOptions().timeZone
    return isRegionAndCity.test(timeZone) && known.toLowerCase() !== timeZone.toLowerCase() ? timeZone : known
  } catch {
    return undefined
  }
}

/** A schedule as engines get it. */
export interface CronSchedule {
  readonly expression: string
  /** `undefined` is UTC. */
  readonly timeZone: string | undefined
}

/** The schedule in the form that every engine reads alike, or a refusal in one sentence. */
export const checkedSchedule = (name: string, given: CronSchedule): CronSchedule => {
  const timeZone = given.timeZone === undefined ? undefined : normalZone(given.timeZone)
  if (given.timeZone !== undefined && timeZone === undefined) {
    throw new DefinitionError({
      message: `${shown(given.timeZone)} can't be the time zone of the cron job "${name}": use an IANA name, as in "Europe/London".`
    })
  }
  const refuse: Refuse = (reason) => {
    throw new DefinitionError({
      message: `${shown(given.expression)} can't be the schedule of the cron job "${name}": ${reason}.`
    })
  }
  const schedule: CronSchedule = { expression: normalExpression(given.expression, refuse), timeZone }
  const cron = parse(schedule)
  try {
    Cron.next(cron, 0)
  } catch {
    refuse("no date fits it")
  }
  return schedule
}

/**
 * The hour that comes twice means, as in Vixie cron: for a schedule of every hour (its hour field begins with a
 * star) both count, so that every 20 minutes stays every 20 minutes; for one with hours, the first. UTC has no such
 * hour, and looking for it takes twice the time.
 */
export const parse = ({ expression, timeZone = "UTC" }: CronSchedule): Cron.Cron =>
  Cron.parseUnsafe(expression, timeZone, {
    onDstOverlap:
      timeZone !== "UTC" && expression.split(" ")[1]?.startsWith("*") === true ? "both" : "earlier"
  })
