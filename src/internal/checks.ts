/**
 * The checks that definitions, options and dispatches share, each written once.
 */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import { DefinitionError } from "../DefinitionError.ts"

/** The longest duration that is taken anywhere: 100 years. Every store keeps times that far from now. */
export const longest = Duration.days(36_525)

/** The latest time that a run may have: SQLite's dates end with the year 9999, and stores round up. */
export const latest = Date.UTC(9999, 11, 31)

/** In words, for errors. */
export const durationRule = `a duration of 0 to ${Duration.toDays(longest)} days`

/**
 * The Duration, if it is finite, not negative, and at most {@link longest}. `Duration.fromInput` takes `NaN` for
 * zero, also in tuples and objects; here it is no duration.
 */
export const durationOf = (input: unknown): Duration.Duration | undefined => {
  if (hasNaN(input)) return undefined
  // sound: what isn't an Input makes `fromInput` give none
  const duration = Option.getOrUndefined(Duration.fromInput(input as Duration.Input))
  return duration === undefined ||
    !Duration.isFinite(duration) ||
    Duration.isNegative(duration) ||
    Duration.isGreaterThan(duration, longest)
    ? undefined
    : duration
}

const hasNaN = (input: unknown): boolean => {
  if (typeof input === "number") return Number.isNaN(input)
  if (typeof input !== "object" || input === null || Duration.isDuration(input)) return false
  const parts = Object.values(input).filter((part) => part !== undefined)
  return parts.length === 0 || parts.some((part) => typeof part !== "number" || Number.isNaN(part))
}

/** Any value in a sentence. */
export const shown = (value: unknown): string => {
  if (typeof value === "string") return JSON.stringify(value)
  if (Duration.isDuration(value)) return Duration.format(value)
  if (typeof value !== "object" || value === null) return String(value)
  try {
    return JSON.stringify(value) ?? typeof value
  } catch {
    return typeof value
  }
}

/** The Duration, or a refusal in one sentence; `what` is its subject. */
export const checkedDuration = (input: Duration.Input, what: string): Duration.Duration => {
  const duration = durationOf(input)
  if (duration === undefined) {
    throw new DefinitionError({ message: `${what} must be ${durationRule}, not ${shown(input)}.` })
  }
  return duration
}

/** The number, or a refusal in one sentence. */
export const checkedCount = (value: number, what: string): number => {
  if (Number.isSafeInteger(value) && value >= 1) return value
  throw new DefinitionError({ message: `${what} must be an integer of at least 1, not ${value}.` })
}
