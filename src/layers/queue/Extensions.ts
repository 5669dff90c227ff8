/**
 * The part of our stores that goes beyond Effect's `PersistedQueueStore`: limits, offers of many, waits and lost
 * claims. Each is optional, so that any other `PersistedQueueStore` works as well.
 */
import * as Data from "effect/Data"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type { PersistedQueueError, PersistedQueueStore } from "effect/persistence/PersistedQueue"

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

/** The store can't keep the element; the message says which limit it is over. */
export class ElementRefused extends Data.TaggedError("ElementRefused")<{
  readonly reason: "TooLarge" | "TooLate"
  /** In bytes, or in milliseconds since 1970. */
  readonly limit: number
  readonly actual: number
  readonly message: string
}> {}

export const tooLarge = (queue: string, id: string, actual: number, limit: number): ElementRefused =>
  new ElementRefused({
    reason: "TooLarge",
    actual,
    limit,
    message: `The element "${id}" of the queue "${queue}" has ${actual} bytes, and its store takes ${limit} at most.`
  })

export const tooLate = (queue: string, id: string, actual: number, limit: number): ElementRefused =>
  new ElementRefused({
    reason: "TooLate",
    actual,
    limit,
    message: `The element "${id}" of the queue "${queue}" is due at ${actual} ms since 1970, and its store keeps no time after ${limit}.`
  })

/** The bytes of a text in UTF-8 if they may be more than the limit, else 0. */
export const bytesOver = (text: string, limit: number): number => {
  // a unit of UTF-16 has at most three bytes
  if (text.length * 3 <= limit) return 0
  const bytes = Buffer.byteLength(text)
  return bytes > limit ? bytes : 0
}
