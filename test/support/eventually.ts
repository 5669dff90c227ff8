import { Clock, Data, Effect } from "effect"

/** What was waited for hadn't come true in time. */
class NotInTime extends Data.TaggedError("NotInTime")<{ readonly message: string }> {}

/** Asks, on the live clock, until the answer is as wanted, for 2 minutes or as long as `patience` says. In milliseconds. */
export const eventually = <A, E, R>(
  ask: Effect.Effect<A, E, R>,
  wanted: (answer: A) => boolean,
  patience = 120_000,
  interval = 10
): Effect.Effect<A, E | NotInTime, R> =>
  Effect.gen(function* () {
    const start = yield* Clock.currentTimeMillis
    while (true) {
      const answer = yield* ask
      if (wanted(answer)) return answer
      if ((yield* Clock.currentTimeMillis) - start > patience) {
        return yield* new NotInTime({ message: `after ${patience} ms it is still ${JSON.stringify(answer)}` })
      }
      yield* Effect.sleep(interval)
    }
  })
