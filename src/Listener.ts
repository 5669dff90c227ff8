/**
 * A listener is a job that a domain event starts. An event may have any number of them. Each has its own retries and its
 * own failure, and neither stops nor repeats another.
 */
import type * as Schema from "effect/Schema"
import type { DomainEvent } from "./DomainEvent.ts"
import { makeContract } from "./internal/contract.ts"
import { type Contract, type Options } from "./Job.ts"

/** A listener: implemented with `toLayer` and put into the list of jobs, as a job is. */
export interface Listener<
  Name extends string,
  Payload extends Schema.Top,
  Success extends Schema.Top,
  Error extends Schema.Top
> extends Contract<Name, Payload, Success, Error> {}

/**
 * Defines a listener: `class EnqueueMail extends Listener.make("posts.enqueue-mail", { event: PostPublished }) {}`.
 *
 * Its payload and the id of its run (`Job.CurrentRun`) are those of the published event. Throws a `DefinitionError` if
 * the definition is invalid.
 */
export const make = <
  const Name extends string,
  const Event extends string,
  Payload extends Schema.Top,
  Success extends Schema.Top = Schema.Void,
  Error extends Schema.Top = Schema.Defect
>(
  name: Name,
  options: Options<Success, Error> & {
    /** The event that starts it. */
    readonly event: DomainEvent<Event, Payload>
  }
): Listener<Name, Payload, Success, Error> =>
  // sound: makeContract gives every value of the interface, from these very options
  makeContract("listener", name, {
    ...options,
    payload: options.event.payloadSchema,
    trigger: { _tag: "Event", event: options.event.eventName }
  }) as Listener<Name, Payload, Success, Error>
