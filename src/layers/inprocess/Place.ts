/**
 * The place of a run among those that run at once. It is held by an attempt, and given away while the run waits.
 *
 * States: free, taking (one of the run's fibers waits for a permit, and the others for it), held.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import type * as Semaphore from "effect/Semaphore"

export interface Place {
  /** Holds the place for an attempt. */
  readonly hold: <A, E, R>(attempt: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** Gives it away for a wait, and takes it again before what follows. */
  readonly away: <A, E, R>(wait: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
}

export const make = (permits: Semaphore.Semaphore): Place => {
  // a permit is taken and registered for its release in one step, so that no interruption loses it
  let scope = Scope.makeUnsafe()
  let taking: Deferred.Deferred<void> | undefined
  const isHeld = () => scope.state._tag === "Open"

  const take: Effect.Effect<void> = Effect.suspend(() => {
    if (isHeld()) return Effect.void
    if (taking !== undefined) return Effect.andThen(Deferred.await(taking), take)
    const done = (taking = Deferred.makeUnsafe())
    return Effect.ensuring(
      Scope.provide(permits.takeScoped(1), scope),
      Effect.suspend(() => {
        taking = undefined
        return Deferred.succeed(done, undefined)
      })
    )
  })
  const give = Effect.suspend(() => {
    const held = scope
    scope = Scope.makeUnsafe()
    return Scope.close(held, Exit.void)
  })
  return {
    hold: (attempt) => Effect.ensuring(Effect.andThen(take, attempt), give),
    away: (wait) => Effect.tap(Effect.andThen(give, wait), () => take)
  }
}
