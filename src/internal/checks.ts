/**
 * The checks that definitions, options and dispatches share, each written once.
 */
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import { DefinitionError } from "../DefinitionError.ts"

/** The longest duration that is taken anywhere: 100 years. */
export const longest = Duration.days(36_525)

/**
 * The latest time that a run may have: the beginning of the last day of 9999. SQLite's dates end with that year, and
 * stores that keep whole seconds round up.
 */
export const latest = Date.UTC(9999, 11, 31)

/** The fields of a `Duration.Input` that is an object. */
const units = new Set([
  "weeks",
  "days",
  "hours",
  "minutes",
  "seconds",
  "milliseconds",
  "microseconds",
  "nanoseconds"
])

/** The units that a Temporal.Duration has beside those, and that have no fixed length. */
const unfixed = ["years", "months"]

/**
 * An object's parts, read once, or `undefined` where it is no duration. `Duration.fromInput` takes NaN, misspelt units
 * and objects of any other kind for zero.
 */
const partsOf = (input: object): Record<string, number> | undefined => {
  // sound: a view that admits anything under any name
  const fields = input as Readonly<Record<string, unknown>>
  if (Object.keys(input).some((key) => !units.has(key) && !unfixed.includes(key))) return undefined
  if (unfixed.some((key) => Boolean(fields[key]))) return undefined
  const parts: Record<string, number> = {}
  for (const unit of units) {
    const part = fields[unit]
    if (part === undefined) continue
    if (typeof part !== "number" || Number.isNaN(part)) return undefined
    parts[unit] = part
  }
  return Object.keys(parts).length === 0 ? undefined : parts
}

const parse = (input: unknown): Duration.Duration | undefined => {
  if (typeof input === "number" && Number.isNaN(input)) return undefined
  if (Array.isArray(input) && input.some(Number.isNaN)) return undefined
  const readable =
    typeof input !== "object" || input === null || Array.isArray(input) || Duration.isDuration(input)
      ? input
      : partsOf(input)
  // sound: `fromInput` gives none for whatever isn't an Input
  return Option.getOrUndefined(Duration.fromInput(readable as Duration.Input))
}

/**
 * The Duration, if it is finite, not negative, and at most {@link longest}. NaN is none, in whatever form it comes;
 * nor is an object whose properties throw.
 */
export const durationOf = (input: unknown): Duration.Duration | undefined => {
  try {
    const duration = parse(input)
    return duration !== undefined &&
      Duration.isGreaterThanOrEqualTo(duration, Duration.zero) &&
      Duration.isLessThanOrEqualTo(duration, longest)
      ? duration
      : undefined
  } catch {
    return undefined
  }
}

const dateParts = ["epochMilliseconds", "year", "month", "day", "hour", "minute", "second", "millisecond"]

/** `DateTime.make` takes an object of any other kind for the beginning of 1970. */
const isDate = (input: object): boolean =>
  input instanceof Date || DateTime.isDateTime(input) || dateParts.some((part) => part in input)

/** The time in whole milliseconds since the epoch, if it is one. Parts of a millisecond round up. */
export const timeOf = (input: unknown): number | undefined => {
  try {
    if (typeof input === "number") return Number.isFinite(input) ? Math.ceil(input) : undefined
    if (typeof input !== "string" && (typeof input !== "object" || input === null)) return undefined
    if (typeof input === "object" && !isDate(input)) return undefined
    // sound: `make` gives none for whatever isn't an Input
    const time = Option.getOrUndefined(DateTime.make(input as DateTime.DateTime.Input))
    const millis = time === undefined ? Number.NaN : DateTime.toEpochMillis(time)
    return Number.isFinite(millis) ? Math.ceil(millis) : undefined
  } catch {
    return undefined
  }
}

/** Any value in a sentence, in at most some 100 characters. */
export const shown = (value: unknown): string => {
  try {
    const text = textOf(value)
    return text.length > 100 ? `${text.slice(0, 100)}…` : text
  } catch {
    return `a value of type ${typeof value}`
  }
}

const textOf = (value: unknown): string => {
  if (Duration.isDuration(value)) return Duration.format(value)
  if (typeof value === "function") return "a function"
  return typeof value === "string" || (typeof value === "object" && value !== null)
    ? JSON.stringify(value)
    : String(value)
}

/** Why {@link durationOf} refuses a value, as the rest of a sentence. */
export const durationIssue = (input: unknown): string =>
  `must be a duration of 0 to ${Duration.toDays(longest)} days, not ${shown(input)}`

/** The Duration, or a refusal in one sentence; `name` is its subject. */
export const checkedDuration = (input: Duration.Input, name: string): Duration.Duration => {
  const duration = durationOf(input)
  if (duration === undefined) throw new DefinitionError({ message: `${name} ${durationIssue(input)}.` })
  return duration
}

/** The number, or a refusal in one sentence. */
export const checkedCount = (value: number, name: string): number => {
  if (Number.isSafeInteger(value) && value >= 1) return value
  throw new DefinitionError({ message: `${name} must be an integer of at least 1, not ${shown(value)}.` })
}

/** When a message may run, in milliseconds since the epoch; `undefined` is now. Or which option is wrong, and why. */
export const timeOfDispatch = (
  { at, delay }: { readonly delay?: unknown; readonly at?: unknown },
  now: number
): number | undefined | { readonly option: "delay" | "at"; readonly issue: string } => {
  if (delay === undefined && at === undefined) return undefined
  if (delay !== undefined && at !== undefined) {
    return { option: "at", issue: "say either at or delay, not both" }
  }
  const option = delay === undefined ? "at" : "delay"
  const pause = durationOf(delay)
  const time = pause === undefined ? timeOf(at) : now + Math.ceil(Duration.toMillis(pause))
  if (time === undefined) {
    const issue = option === "at" ? "it isn't a valid date and time" : `it ${durationIssue(delay)}`
    return { option, issue }
  }
  if (time > latest) {
    return { option, issue: `it must not be later than ${new Date(latest).toISOString()}` }
  }
  return time > now ? time : undefined
}
