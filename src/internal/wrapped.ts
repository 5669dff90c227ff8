/**
 * Dispatchers that wrap another one. An engine gives its own Dispatcher to its handlers, which knows nothing of the
 * one that was put around it later; so each wrapper says here what it wraps, for as long as its Scope is open.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Dispatcher } from "../Dispatcher.ts"

const wrappers = new WeakMap<Dispatcher["Service"], Dispatcher["Service"]>()

/** Makes handlers that were given `below` dispatch through `wrapper`. */
export const wrap = (
  below: Dispatcher["Service"],
  wrapper: Dispatcher["Service"]
): Effect.Effect<Dispatcher["Service"], never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      wrappers.set(below, wrapper)
      return wrapper
    }),
    () =>
      Effect.sync(() => {
        if (wrappers.get(below) === wrapper) wrappers.delete(below)
      })
  )

/** The Dispatcher with all that is put around it when something is sent. */
export const outermost = (dispatcher: Dispatcher["Service"]): Dispatcher["Service"] => ({
  send: (requests) => {
    let last = dispatcher
    for (let next = wrappers.get(last); next !== undefined; next = wrappers.get(last)) last = next
    return last.send(requests)
  }
})
