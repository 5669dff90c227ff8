// Shared by the rows of the suite: handlers write down what they see, and tests wait for it.
import { assert } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Data from "effect/Data"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as TestClock from "effect/testing/TestClock"
import type { Dispatcher } from "../Dispatcher.ts"
import * as Job from "../Job.ts"
import type { Engine } from "./Engine.ts"

/** Something that a handler has seen, or that has happened to it. */
export interface Sighting {
  readonly what: "run" | "failed" | "acquired" | "released" | "tick" | "step"
  readonly job: string
  readonly key: string
  readonly time: number
  readonly id: string
  readonly attempt: number
  readonly maxAttempts: number
  readonly dispatchedAt: number
  readonly traceId: string | undefined
  readonly detail: unknown
}

/** The error of the suite's jobs, with a field that JSON hasn't. */
export class Refused extends Schema.TaggedError<Refused>()("Refused", {
  code: Schema.Int,
  at: Schema.Date
}) {}

/** The field of every payload, to find the sightings of one test by. */
export const key = { key: Schema.String }
export interface Keyed {
  readonly key: string
}

/** A date with all that a date has. */
export const at = new Date(Date.UTC(2026, 0, 2, 3, 4, 5, 678))

/** Writes down what a handler sees, and gives the run that it is in. */
export const makeNote = (seen: Array<Sighting>) => (what: Sighting["what"], key: string, detail?: unknown) =>
  Effect.gen(function* () {
    const run = yield* Job.CurrentRun
    const time = yield* Clock.currentTimeMillis
    const span = yield* Effect.option(Effect.currentSpan)
    seen.push({
      what,
      job: run.job,
      key,
      time,
      id: run.id,
      attempt: run.attempt,
      maxAttempts: run.maxAttempts,
      dispatchedAt: DateTime.toEpochMillis(run.dispatchedAt),
      traceId: Option.getOrUndefined(Option.map(span, ({ traceId }) => traceId)),
      detail
    })
    return run
  })

export type Note = ReturnType<typeof makeNote>

/** An `onFailure` that writes its cause down. */
export const noteFailure =
  (note: Note) =>
  ({ key }: Keyed, cause: Cause.Cause<unknown>) =>
    note("failed", key, cause)

/** A handler that fails in its first attempt and succeeds in the second. */
export const secondTime =
  (note: Note) =>
  ({ key }: Keyed) =>
    Effect.flatMap(note("run", key), ({ attempt }) => (attempt < 2 ? Effect.fail("not yet") : Effect.void))

/** The engine's patience was over before the expected happened. */
class NotSeen extends Data.TaggedError("NotSeen")<{ readonly message: string }> {}

/** A dispatch may itself wait for the run, so the clock moves beside it. */
const during = <A, E, R, B, E2, R2>(dispatch: Effect.Effect<A, E, R>, then: Effect.Effect<B, E2, R2>) =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(dispatch, { startImmediately: true })
    const result = yield* then
    yield* Fiber.join(fiber)
    return result
  })

/** When a handler started; not a number where it didn't. */
export const started = (sighting: Sighting | undefined) => sighting?.time ?? Number.NaN

/** The typed error that `onFailure` was given. */
export const typedError = (sighting: Sighting | undefined) =>
  // sound: `onFailure` notes its cause, and findErrorOption looks for itself
  Option.getOrUndefined(Cause.findErrorOption(sighting?.detail as Cause.Cause<unknown>))

/** How a test looks at one engine, and waits for it. */
export const makeSuite = (engine: Engine, seen: ReadonlyArray<Sighting>) => {
  const live = engine.clock === "live"
  const early = Duration.toMillis(engine.early ?? (live ? 5 : 0))
  const patience = Duration.toMillis(engine.patience ?? "30 seconds")
  const step = Duration.millis(live ? 20 : 50)
  const pass = (duration: Duration.Input) =>
    live ? Effect.sleep(duration) : TestClock.adjust(Duration.fromInputUnsafe(duration))

  let last = 0
  return {
    /** Everything that handlers saw, in its order. */
    seen,
    /** How much too early a run may start, in milliseconds. */
    early,
    /** How long a test may take, in milliseconds. */
    timeout: live ? patience * 2 + 60_000 : 30_000,
    /** Lets time pass, on the engine's clock. */
    pass,
    during,
    /** A key of one test, to find its sightings by. Ids are made of it too, so it differs from run to run. */
    freshKey: Effect.map(Clock.currentTimeMillis, (now) => `${live ? now : "k"}-${++last}`),
    /** The sightings of a job, by its test's key. */
    of: (job: { readonly jobName: string }, key: string, what: Sighting["what"] = "run") =>
      seen.filter(
        (sighting) => sighting.job === job.jobName && sighting.key === key && sighting.what === what
      ),
    /** Waits until there is something. */
    some: (get: () => ReadonlyArray<unknown>) =>
      Effect.gen(function* () {
        while (get().length === 0) yield* pass(step)
      }),
    /** Waits until there are `count`, and a little longer to see that there are no more. */
    exactly: (count: number, get: () => ReadonlyArray<Sighting>, quiet: Duration.Input = "1500 millis") =>
      Effect.gen(function* () {
        const start = yield* Clock.currentTimeMillis
        while (get().length < count) {
          if ((yield* Clock.currentTimeMillis) - start > patience) {
            const got = get()
              .map(({ attempt, id, job }) => `${job} (id ${id}, attempt ${attempt})`)
              .join(", ")
            return yield* new NotSeen({
              message: `expected ${count} within ${patience} ms, saw ${get().length}: ${got}`
            })
          }
          yield* pass(step)
        }
        yield* pass(quiet)
        assert.strictEqual(get().length, count, "it happened more often than it may")
        return get()
      }),
    /** Each run started at least its delay after the one before. */
    assertApart: (runs: ReadonlyArray<Sighting>, delays: ReadonlyArray<number>) => {
      for (const [index, delay] of delays.entries()) {
        assert.isAtLeast(started(runs[index + 1]) - started(runs[index]), delay - early)
      }
    }
  }
}

export type Suite = ReturnType<typeof makeSuite>

/** A rule that holds on every dispatcher, and the test of it. */
export interface Row {
  readonly name: string
  readonly test: (suite: Suite) => Effect.Effect<void, unknown, Dispatcher | Scope.Scope>
}
