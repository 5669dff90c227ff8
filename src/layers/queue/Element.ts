/**
 * One element of a PersistedQueue, from its claim to its settlement: the only place that knows how to make the
 * store do what an Outcome says. Of PersistedQueue it uses the public `PersistedQueueStore` alone.
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { lost, tellsLost, type Offered, type TakeOptions } from "./Extensions.ts"
import type { PersistedQueueError, PersistedQueueStore } from "effect/persistence/PersistedQueue"
import type * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { type DispatchRequest, type JobMessage, maxIdLength } from "../../Dispatcher.ts"
import { digest } from "../../internal/digest.ts"

/** An element as the store gives it; `attempts` is from 1 and counts this claim. */
export interface Item {
  readonly id: string
  readonly attempts: number
  readonly element: unknown
}

/** The end of a claim. */
export type Settlement =
  | {
      readonly _tag: "Complete"
      /** Runs once the store has it. Another worker may repeat all that came before. */
      readonly after?: Effect.Effect<void> | undefined
    }
  /** It comes again after `delay` or more. */
  | { readonly _tag: "Retry"; readonly delay: Duration.Duration; readonly note: Note }
  /** It comes again after `delay`, or when it is woken. The claim was no attempt. */
  | { readonly _tag: "Park"; readonly delay: Duration.Duration }
  /** It stays in the store as failed, and never comes again. */
  | { readonly _tag: "Dead"; readonly note: Note }
  /** As if it had not been claimed. */
  | { readonly _tag: "GiveBack" }

export const complete: Settlement = { _tag: "Complete" }
export const giveBack: Settlement = { _tag: "GiveBack" }

/** The reason why an element wasn't completed, as the store keeps it, and JSON with more. */
export interface Note {
  readonly reason: string
  readonly message: string
  readonly failure?: Schema.Json | undefined
}

/** The largest number that a SQL integer holds: above every policy's attempts, so that the Outcome decides, not the store. */
const unlimited = 2_147_483_647

/** Ten years: far enough off to be never, and near enough for every database's dates. */
const never = Duration.days(3650)

/**
 * The failure that the store writes down. `Cause.pretty` of it is `<reason>: <json>`, in one line, which `parseNote`
 * reads.
 */
class Unsettled {
  readonly name: string
  readonly message: string
  constructor(note: Note) {
    this.name = note.reason
    // of these characters, too, a line may end
    this.message = JSON.stringify({ message: note.message, failure: note.failure ?? null }).replaceAll(
      /[\u2028\u2029\u0085]/g,
      (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`
    )
  }
}

/** The note in a store's record of a failure; `undefined` for a record that the store itself has written. */
export const parseNote = (record: string | null | undefined): Note | undefined => {
  const match = /^(\w+): (\{.*\})$/m.exec(record ?? "")
  const [, reason, json] = match ?? []
  if (reason === undefined || json === undefined) return undefined
  try {
    const { failure, message }: { readonly failure: Schema.Json; readonly message: string } = JSON.parse(json)
    return { reason, message, failure }
  } catch {
    return undefined
  }
}

/**
 * Waits for an element of the queue, claims it, and settles it as `handle` says. Interruption gives it back. The effect
 * belongs to one fiber, which may run it again and again.
 *
 * PersistedQueue reads `maxAttempts` and `retryDelay` when the take's scope closes, so both are set once the Outcome is
 * known: each element has a delay of its own, and may fail before its last attempt. A store that has read `maxAttempts`
 * sooner would ask for a delay, and gets one of ten years.
 */
export const taker = <R>(
  store: PersistedQueueStore["Service"],
  queue: string,
  handle: (item: Item) => Effect.Effect<Settlement, never, R>
): Effect.Effect<void, PersistedQueueError, R> => {
  let maxAttempts = unlimited
  let delay = Duration.zero
  let parkFor: Duration.Duration | undefined
  const options: TakeOptions = {
    name: queue,
    get parkFor() {
      return parkFor
    },
    get maxAttempts() {
      return maxAttempts
    },
    retryDelay: () => Effect.succeed(delay)
  }
  let after: Effect.Effect<void> | undefined
  const settle = (settlement: Settlement): Effect.Effect<void, Unsettled> => {
    switch (settlement._tag) {
      case "Complete":
        after = settlement.after
        return Effect.void
      case "Retry":
        delay = settlement.delay
        return Effect.fail(new Unsettled(settlement.note))
      case "Park":
        parkFor = settlement.delay
        delay = settlement.delay
        return Effect.fail(new Unsettled({ reason: "Suspended", message: "it waits" }))
      case "Dead":
        maxAttempts = 0
        delay = never
        return Effect.fail(new Unsettled(settlement.note))
      case "GiveBack":
        return interrupted
    }
  }
  // an element whose claim is lost is another worker's, and its end would not be stored
  const settled = (item: Item) =>
    Effect.flatMap(
      tellsLost(item) ? Effect.raceFirst(handle(item), Effect.as(lost(item), giveBack)) : handle(item),
      settle
    )
  return Effect.scopedWith((scope) => {
    maxAttempts = unlimited
    delay = Duration.zero
    parkFor = undefined
    after = undefined
    return Effect.flatMap(Scope.provide(store.take(options), scope), settled)
  }).pipe(
    Effect.flatMap(() => after ?? Effect.void),
    Effect.catchCause((cause): Effect.Effect<void, PersistedQueueError> => {
      if (Cause.hasInterruptsOnly(cause)) return Effect.void
      const error = Cause.findErrorOption(cause)
      if (error._tag === "Some" && error.value instanceof Unsettled) return Effect.void
      // sound: the other typed error of the effect is the store's
      return Effect.failCause(cause as Cause.Cause<PersistedQueueError>)
    })
  )
}

const interrupted = Effect.failCause(Cause.interrupt())

/** An element as the store takes it. */
export const elementOf = (options: {
  readonly queue: string
  readonly id: string
  readonly element: unknown
  /** Default: at once. */
  readonly delayMillis?: number | undefined
  /** See `DispatchRequest`: Redis' store keeps no record of the id then. */
  readonly generatedId?: boolean | undefined
}): Offered => {
  const { delayMillis = 0, generatedId = false } = options
  return {
    name: options.queue,
    id: elementId(options.id),
    element: options.element,
    isCustomId: !generatedId,
    delay: delayMillis > 0 ? Duration.millis(delayMillis) : undefined
  }
}

/** Replaces NUL and halves of surrogate pairs, which no database's text column takes, as Redis' store does. */
export const elementId = (id: string): string =>
  id.isWellFormed() && !id.includes("\0") ? id : id.toWellFormed().replaceAll("\0", "\uFFFD")

export { defaultQueue } from "../../internal/contract.ts"

/** The queue of all events. The worker that takes one hands it on to all listeners that are known. */
export const eventQueue = "@events"

/** The id of a message in the store, for an id belongs to its job. Names have no spaces. */
export const keyOf = ({ id, name }: Pick<JobMessage, "id" | "name">): string => `${name} ${id}`

/** A message as an element under its {@link keyOf}, which is hashed where it is longer than the store's column. */
export const messageElement = (
  message: JobMessage,
  options: Omit<Parameters<typeof elementOf>[0], "id" | "element">
): Effect.Effect<Offered> => {
  const key = keyOf(message)
  return key.length <= maxIdLength
    ? Effect.succeed(elementOf({ ...options, id: key, element: message }))
    : Effect.map(digest(key), (hash) =>
        elementOf({ ...options, id: `${message.name.slice(0, 100)} sha256 ${hash}`, element: message })
      )
}

/** The outbox's queue. */
export const outboxQueue = "@outbox"

/** A check by hand, since it is made for every message, and the store's elements are JSON already. */
export const isJobMessage = (u: unknown): u is JobMessage => {
  if (typeof u !== "object" || u === null) return false
  const { dispatchedAt, id, name, payload, trace }: { readonly [K in keyof JobMessage]?: unknown } = u
  return (
    typeof id === "string" &&
    typeof name === "string" &&
    typeof dispatchedAt === "number" &&
    payload !== undefined &&
    (trace === undefined || typeof trace === "string")
  )
}

/** A request as the outbox keeps it. It has no `generatedId`, since it may be relayed again. */
export const encodeRequest = ({ kind, message, notBefore, queue }: DispatchRequest): Schema.Json => ({
  kind,
  queue: queue ?? null,
  notBefore: notBefore ?? null,
  message: { ...message }
})

/** {@link encodeRequest} backwards; `undefined` for an element that isn't a request. */
export const decodeRequest = (u: unknown): DispatchRequest | undefined => {
  if (typeof u !== "object" || u === null) return undefined
  const { kind, message, notBefore, queue }: { readonly [K in keyof DispatchRequest]?: unknown } = u
  if ((kind !== "job" && kind !== "event" && kind !== "completion") || !isJobMessage(message))
    return undefined
  return {
    kind,
    message,
    queue: typeof queue === "string" ? queue : undefined,
    notBefore: typeof notBefore === "number" ? notBefore : undefined
  }
}
