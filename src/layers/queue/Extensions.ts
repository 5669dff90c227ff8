/**
 * The part of our stores that goes beyond Effect's `PersistedQueueStore`: limits, offers of many, waits and lost
 * claims. Each is optional, so that any other `PersistedQueueStore` works as well.
 */
import * as Cause from "effect/Cause"
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { PersistedQueueError, type PersistedQueueStore } from "effect/persistence/PersistedQueue"
import { SqlError } from "effect/sql/SqlError"

type Store = PersistedQueueStore["Service"]

/** An element as `offer` takes it. */
export type Offered = Parameters<Store["offer"]>[0]

/** Read when a take's scope closes with a failure, as `maxAttempts` and `retryDelay` are. */
export interface TakeOptions {
  readonly name: string
  readonly maxAttempts: number
  readonly retryDelay: (attempts: number) => Effect.Effect<Duration.Duration>
  /**
   * Parks the element for this long, or until `wake`, in place of retrying it. Parking uses no attempt: the claim that
   * ends with it isn't counted. `undefined`: as without it.
   */
  readonly parkFor?: Duration.Duration | undefined
}

export interface Extensions {
  /** The longest element that the store gives out again, in bytes of its JSON in UTF-8. */
  readonly maxElementSize?: number | undefined
  /** The latest time that the store keeps, in milliseconds since 1970. */
  readonly latest?: number | undefined
  /** Adds all elements or none, in one statement. Joins a transaction as `offer` does. */
  readonly offerAll?:
    | ((elements: ReadonlyArray<Offered>) => Effect.Effect<void, PersistedQueueError>)
    | undefined
  /**
   * Makes a parked element due. One that runs now is due again as soon as it parks; no other element is touched: neither
   * one that waits for its retry nor one that was delayed. Joins a transaction as `offer` does. The store that has it
   * reads `parkFor`.
   */
  readonly wake?: ((queue: string, id: string) => Effect.Effect<void, PersistedQueueError>) | undefined
}

const ExtensionsId: unique symbol = Symbol.for("effect-jobs/queue/Extensions")
const LostId: unique symbol = Symbol.for("effect-jobs/queue/Lost")

/** The store with its extensions; a copy of it by `...` keeps them. */
export const extend = <S extends Store>(store: S, extensions: Extensions): S =>
  Object.assign({ ...store }, { [ExtensionsId]: { ...extensionsOf(store), ...extensions } })

/** None for a store that isn't ours. */
export const extensionsOf = (store: Store): Extensions => {
  // sound: `extend` alone writes this property
  const { [ExtensionsId]: extensions } = store as { readonly [ExtensionsId]?: Extensions }
  return extensions ?? {}
}

/** A claimed item that knows when its claim is lost. */
export const withLost = <I extends object>(item: I, lost: Effect.Effect<void>): I =>
  Object.defineProperty(item, LostId, { value: lost })

/**
 * Completes when the item's claim is lost: its lock has expired and another worker has claimed it, or it was settled by
 * hand. An end of the item isn't stored then. Never completes on a store that doesn't tell.
 */
export const lost = (item: object): Effect.Effect<void> => {
  // sound: `withLost` alone writes this property
  const { [LostId]: signal } = item as { readonly [LostId]?: Effect.Effect<void> }
  return signal ?? Effect.never
}

/** Whether the item's store tells of a lost claim. */
export const tellsLost = (item: object): boolean => LostId in item

/** The store can't keep the element; the message says which limit it is over. */
export class ElementRefused extends Data.TaggedError("ElementRefused")<{
  readonly reason: "TooLarge" | "TooLate"
  /** In bytes, or in milliseconds since 1970. */
  readonly limit: number
  readonly actual: number
  readonly message: string
}> {}

/** Why the store can't keep the element, as `offer` fails; `json` is the element in JSON. */
export const refusal = (
  { delay, id, name }: Offered,
  json: string,
  now: number,
  limits: { readonly maxElementSize: number; readonly latest: number }
): PersistedQueueError | undefined => {
  const which = `The element "${id}" of the queue "${name}"`
  const { latest, maxElementSize } = limits
  const size = bytesOver(json, maxElementSize)
  if (size > 0) {
    return refused({
      reason: "TooLarge",
      actual: size,
      limit: maxElementSize,
      message: `${which} has ${size} bytes, and its store takes ${maxElementSize} at most.`
    })
  }
  const due = delay === undefined ? now : now + Duration.toMillis(delay)
  if (due <= latest) return undefined
  return refused({
    reason: "TooLate",
    actual: due,
    limit: latest,
    message: `${which} is due later than ${new Date(latest).toISOString()}, and its store keeps no such time.`
  })
}

const refused = (refused: ConstructorParameters<typeof ElementRefused>[0]): PersistedQueueError =>
  new PersistedQueueError({ message: refused.message, cause: new ElementRefused(refused) })

/** The bytes of a text in UTF-8 if they are more than the limit, else 0. */
const bytesOver = (text: string, limit: number): number => {
  // a unit of UTF-16 has at most three bytes
  if (text.length * 3 <= limit) return 0
  const bytes = Buffer.byteLength(text)
  return bytes > limit ? bytes : 0
}

/**
 * The error below a `PersistedQueueError`, which says why an offer failed. `SqlError` has a `reason` whose tag tells a
 * database that is away (`ConnectionError`, `AuthenticationError`, `StatementTimeoutError`) from a transaction to be
 * repeated (`DeadlockError`, `SerializationError`) and from a row that the table doesn't take (`ConstraintError`,
 * `UniqueViolation`); others are an {@link ElementRefused} or a `RedisError`.
 */
export const causeOf = (error: PersistedQueueError): unknown =>
  Cause.isCause(error.cause) ? Cause.squash(error.cause) : error.cause

/** Reasons of a `SqlError` for which the transaction may be repeated at once. */
const repeatable = new Set(["DeadlockError", "SerializationError"])

/** Reasons of a `SqlError` that a repeated offer meets again. */
const lasting = new Set(["ConstraintError", "UniqueViolation", "SqlSyntaxError", "AuthorizationError"])

/**
 * What an offer's failure means: `Unavailable`: the store is away or hasn't answered; `Conflict`: the transaction was in
 * another's way, and may be repeated; `Refused`: the store doesn't take this element, or not from this role.
 */
export const failureOf = (error: PersistedQueueError): "Unavailable" | "Conflict" | "Refused" => {
  const cause = causeOf(error)
  if (cause instanceof ElementRefused) return "Refused"
  if (!(cause instanceof SqlError)) return "Unavailable"
  if (repeatable.has(cause.reason._tag)) return "Conflict"
  if (lasting.has(cause.reason._tag)) return "Refused"
  // class 22 of SQL's states: a value that the column doesn't take
  return cause.reason._tag === "UnknownError" && stateOf(cause.reason.cause)?.startsWith("22") === true
    ? "Refused"
    : "Unavailable"
}

/** The SQLSTATE of a driver's error, where it has one. */
const stateOf = (cause: unknown): string | undefined => {
  if (typeof cause !== "object" || cause === null) return undefined
  if ("code" in cause && typeof cause.code === "string") return cause.code
  if ("fields" in cause) return stateOf(cause.fields)
  return "cause" in cause ? stateOf(cause.cause) : undefined
}
