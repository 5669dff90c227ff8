/**
 * Failures in words. Anything may be thrown, and reading it may throw as well or never end. A description always ends, and
 * never throws.
 */
import * as Cause from "effect/Cause"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"

/** The longest description, in characters. */
const longest = 500

const unreadable = "an error that can't be read"

/** Reads a user's value; `otherwise` if reading throws, as with a revoked proxy. */
export const attempted = <A>(read: () => A, otherwise: A): A => {
  try {
    return read()
  } catch {
    return otherwise
  }
}

const oneLine = (text: string): string => {
  const line = text.replaceAll(/[\r\n\u2028\u2029\t ]+/g, " ").trim()
  return line.length > longest ? `${line.slice(0, longest)}…` : line
}

/**
 * A cause in one line: the error's message; else its tag or name, and of a typed error the simple fields of its
 * encoded form, as in `Refused (code: 404)`. A Redacted field isn't shown.
 */
export const summary = (cause: Cause.Cause<unknown>, encoded?: unknown): string =>
  attempted(() => {
    const typed = Cause.findErrorOption(cause)
    if (Option.isSome(typed)) return described(typed.value, encoded)
    const defect = cause.reasons.find(Cause.isDieReason)
    return defect === undefined ? "it was interrupted from within" : described(defect.defect, undefined)
  }, unreadable)

const described = (error: unknown, encoded: unknown): string => {
  if (typeof error !== "object" || error === null) return oneLine(String(error)) || "an empty string"
  const message = attempted(() => textOf(error, "message"), "")
  if (message !== "") return oneLine(message)
  const name = attempted(() => textOf(error, "_tag") || textOf(error, "name"), "") || "an object"
  const fields = attempted(() => fieldsOf(error, encoded), "")
  return oneLine(fields === "" ? name : `${name} (${fields})`)
}

const textOf = (error: object, key: string): string => {
  const value: unknown = Reflect.get(error, key)
  return typeof value === "string" ? value : ""
}

const hidden = new Set(["_tag", "name", "message", "stack", "cause"])

const fieldsOf = (error: object, encoded: unknown): string =>
  typeof encoded !== "object" || encoded === null
    ? ""
    : Object.entries(encoded)
        .filter(([key]) => !hidden.has(key))
        .slice(0, 10)
        .map(
          ([key, value]) =>
            `${key}: ${Redacted.isRedacted(Reflect.get(error, key)) ? "<redacted>" : valueOf(value)}`
        )
        .join(", ")

const valueOf = (value: unknown): string => {
  if (typeof value === "string") return JSON.stringify(value.slice(0, 100))
  if (typeof value !== "object" || value === null) return String(value)
  return Array.isArray(value) ? "[…]" : "{…}"
}

/** The cause for a logger; one that can't be printed is replaced by its {@link summary}. */
export const readable = (cause: Cause.Cause<unknown>): Cause.Cause<unknown> =>
  attempted(
    () => {
      Cause.pretty(cause)
      return cause
    },
    Cause.die(new Error(summary(cause)))
  )

/** `1 run`, `2 runs`. */
export const plural = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? "" : "s"}`

/**
 * The tag, name or type of a thrown value, without its message: the message of an error that a schema throws often
 * quotes the payload.
 */
export const kindOfThrown = (thrown: unknown): string =>
  typeof thrown === "object" && thrown !== null
    ? attempted(() => textOf(thrown, "_tag") || textOf(thrown, "name"), "") || "an object"
    : `a ${typeof thrown}`
