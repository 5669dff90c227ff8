import { Clock, Duration, Effect, Layer } from "effect"
import { InlineDispatcher } from "effect-jobs"
import { conformance } from "effect-jobs/conformance"

conformance({
  name: "InlineDispatcher on the real clock",
  clock: "live",
  patience: "2 minutes",
  layer: (jobs) => InlineDispatcher.layer(jobs, { background: true })
})

/** The real clock on a machine where every timer fires as early as Node lets some: a millisecond by the wall clock. */
const EarlyTimers = Layer.effect(
  Clock.Clock,
  Effect.map(Clock.clockWith(Effect.succeed), (clock) => {
    const until = (time: number): Effect.Effect<void> =>
      Effect.suspend(() =>
        clock.currentTimeMillisUnsafe() < time ? Effect.andThen(Effect.yieldNow, until(time)) : Effect.void
      )
    return Object.assign(Object.create(clock) as Clock.Clock, {
      sleep: (duration: Duration.Duration) =>
        Effect.suspend(() => {
          const early = Duration.toMillis(duration) - 1
          const end = clock.currentTimeMillisUnsafe() + early
          return Effect.andThen(clock.sleep(Duration.millis(early)), until(end))
        })
    })
  })
)

conformance({
  name: "InlineDispatcher where timers are early",
  clock: "live",
  patience: "2 minutes",
  layer: (jobs) => InlineDispatcher.layer(jobs, { background: true }).pipe(Layer.provideMerge(EarlyTimers))
})
