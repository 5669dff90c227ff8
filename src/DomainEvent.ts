/**
 * "This happened": a named fact with a payload, that any number of listeners may care about. Who publishes it
 * knows none of them.
 */
import type * as Effect from "effect/Effect"
import {
  dispatchAll,
  dispatchOne,
  type Dispatchable,
  type DispatchAllOptions,
  type Dispatcher,
  type DispatchOptions,
  type Receipt
} from "./Dispatcher.ts"
import { type DispatchError } from "./DispatchError.ts"
import {
  type AnyStructSchema,
  checkedName,
  checkedPayload,
  dispatchable,
  type PayloadInput,
  type PayloadSchema
} from "./Job.ts"

const TypeId: unique symbol = Symbol.for("effect-jobs/DomainEvent")

/** A domain event: `class PostPublished extends DomainEvent.make("post.published", { payload: {…} }) {}`. */
export interface DomainEvent<Name extends string, Payload extends AnyStructSchema> {
  new (_: never): {}

  readonly [TypeId]: typeof TypeId
  readonly eventName: Name
  readonly payloadSchema: Payload
  readonly target: Dispatchable<Payload["EncodingServices"]>

  /**
   * Hands the checked, encoded payload to the `Dispatcher` of the environment, which starts one run for each
   * listener; an event without listeners is no error. A published id reaches each listener once, for as long as
   * the engine remembers ids. Fails with a `DispatchError`, and then nothing was published.
   */
  publish(
    payload: Payload["~type.make.in"],
    options?: DispatchOptions
  ): Effect.Effect<Receipt, DispatchError, Dispatcher | Payload["EncodingServices"]>

  /** Many payloads at once, in as few round trips as the engine allows. All are checked before any is sent. */
  publishAll(
    payloads: ReadonlyArray<Payload["~type.make.in"]>,
    options?: DispatchAllOptions<Payload["Type"]>
  ): Effect.Effect<ReadonlyArray<Receipt>, DispatchError, Dispatcher | Payload["EncodingServices"]>
}

/** Any domain event, for engines and helpers. */
export interface Any {
  readonly [TypeId]: typeof TypeId
  readonly eventName: string
  readonly payloadSchema: AnyStructSchema
  readonly target: Dispatchable
}

export type Payload<E> = E extends DomainEvent<infer _N, infer P> ? P["Type"] : never
export type Name<E> = E extends { readonly eventName: infer Name extends string } ? Name : never

export const isDomainEvent = (u: unknown): u is Any => typeof u === "function" && TypeId in u

const Proto = {
  [TypeId]: TypeId,
  publish(this: Any, payload: unknown, options?: DispatchOptions) {
    return dispatchOne(this.target, payload, options)
  },
  publishAll(this: Any, payloads: ReadonlyArray<unknown>, options?: DispatchAllOptions<never>) {
    return dispatchAll(this.target, payloads, options ?? {})
  }
}

/**
 * Defines a domain event. The name is what travels: words of `a-z` and `0-9` joined by `.`, `-`, `_` or `/`, at
 * most 200 characters. Throws a `DefinitionError` for what can't be.
 */
export const make = <const Name extends string, const Payload extends PayloadInput>(
  name: Name,
  options: {
    /** Struct fields or a struct schema, encoded as JSON on its way. */
    readonly payload: Payload
    /** The id of a publish that is given none. Default: a new UUID. */
    readonly idempotencyKey?: ((payload: PayloadSchema<Payload>["Type"]) => string) | undefined
  }
): DomainEvent<Name, PayloadSchema<Payload>> => {
  const eventName = checkedName(name, "domain event")
  const payloadSchema = checkedPayload(options.payload, "domain event", eventName)
  function Event() {}
  Object.setPrototypeOf(Event, Proto)
  Object.assign(Event, {
    eventName,
    payloadSchema,
    target: dispatchable({
      kind: "event",
      name: eventName,
      payloadSchema,
      idempotencyKey: options.idempotencyKey
    })
  })
  // sound: its values have just been put onto it, its methods are those of Proto
  return Event as unknown as DomainEvent<Name, PayloadSchema<Payload>>
}
