/**
 * A domain event is a named fact with a payload ("this happened"), for any number of listeners. Who publishes it knows
 * none of them.
 */
import type * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import type { DispatchError } from "./DispatchError.ts"
import type { Dispatchable, DispatchAllOptions, Dispatcher, Receipt } from "./Dispatcher.ts"
import { checkedName, checkedPayload, dispatchable, dispatchVerbs } from "./internal/contract.ts"
import type { DispatchArguments, PayloadInput, PayloadSchema } from "./Job.ts"

const TypeId: unique symbol = Symbol.for("effect-jobs/DomainEvent")

/** A domain event: `class PostPublished extends DomainEvent.make("post.published", { payload: {…} }) {}`. */
export interface DomainEvent<Name extends string, Payload extends Schema.Top> {
  new (_: never): {}

  readonly [TypeId]: typeof TypeId
  readonly eventName: Name
  readonly payloadSchema: Payload
  readonly target: Dispatchable<Payload["EncodingServices"]>

  /**
   * Hands the checked, encoded payload to the `Dispatcher` of the environment, which starts one run for each
   * listener; an event without listeners is no error. A published id reaches each listener once, for as long as
   * the engine remembers ids. Fails with a `DispatchError`. Unless that is `Unavailable`, nothing was published.
   */
  publish(
    ...args: DispatchArguments<Payload["~type.make.in"]>
  ): Effect.Effect<Receipt, DispatchError, Dispatcher | Payload["EncodingServices"]>

  /**
   * Publishes many payloads, in as few round trips as the engine allows. All are checked before any is sent. Receipts
   * are in the order of the payloads.
   */
  publishAll(
    payloads: ReadonlyArray<Payload["~type.make.in"]>,
    options?: DispatchAllOptions<Payload["Type"]>
  ): Effect.Effect<ReadonlyArray<Receipt>, DispatchError, Dispatcher | Payload["EncodingServices"]>
}

/** Any domain event, for engines and helpers. */
export interface Any {
  readonly [TypeId]: typeof TypeId
  readonly eventName: string
  readonly payloadSchema: Schema.Top
  readonly target: Dispatchable
}

export type Payload<E> = E extends DomainEvent<infer _N, infer P> ? P["Type"] : never
export type Name<E> = E extends { readonly eventName: infer Name extends string } ? Name : never

export const isDomainEvent = (u: unknown): u is Any => typeof u === "function" && TypeId in u

/**
 * Defines a domain event. The name is what travels: words of `a-z` and `0-9` joined by `.`, `-`, `_` or `/`, at
 * most 200 characters. Throws a `DefinitionError` if the definition is invalid.
 */
export const make = <const Name extends string, const Payload extends PayloadInput>(
  name: Name,
  options: {
    /** Struct fields, or a schema whose JSON is an object. It travels as JSON. */
    readonly payload: Payload
    /** Makes the id of a publish that is given none; see `Job.make`. */
    readonly idempotencyKey?: ((payload: PayloadSchema<Payload>["Type"]) => string) | undefined
  }
): DomainEvent<Name, PayloadSchema<Payload>> => {
  const eventName = checkedName(name, "domain event")
  const payloadSchema = checkedPayload(options.payload, "domain event", eventName)
  const target = dispatchable({
    kind: "event",
    name: eventName,
    // an event's runs are in the lanes of its listeners
    queue: "",
    payloadSchema,
    idempotencyKey: options.idempotencyKey
  })
  const { all, one } = dispatchVerbs(target)
  function Event() {}
  Object.assign(Event, {
    [TypeId]: TypeId,
    eventName,
    payloadSchema,
    target,
    publish: one,
    publishAll: all
  })
  // sound: its values and verbs have just been put onto it
  return Event as unknown as DomainEvent<Name, PayloadSchema<Payload>>
}
