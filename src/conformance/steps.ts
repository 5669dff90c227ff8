// Durable steps: each happens once a run, whatever becomes of the attempt that it is in.
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Activity from "effect/workflow/Activity"
import * as DurableClock from "effect/workflow/DurableClock"
import * as DurableDeferred from "effect/workflow/DurableDeferred"
import * as Job from "../Job.ts"
import * as RetryPolicy from "../RetryPolicy.ts"
import * as Steps from "../Steps.ts"
import {
  at,
  key,
  type Keyed,
  type Note,
  noteFailure,
  Refused,
  type Row,
  type Sighting,
  started
} from "./Suite.ts"

export class Stepwise extends Job.make("conformance.stepwise", {
  payload: key,
  retry: RetryPolicy.exponential({ attempts: 3, initialDelay: "1 second" })
}) {}
export class Waits extends Job.make("conformance.waits", { payload: key }) {}
export class WaitsLate extends Job.make("conformance.waits-late", { payload: key }) {}
/** Its activity fails in the first attempt. */
export class StepFails extends Job.make("conformance.step-fails", {
  payload: key,
  error: Refused,
  retry: RetryPolicy.fixed({ attempts: 2, delay: "1 second" })
}) {}
const Answer = DurableDeferred.make("answer", { success: Schema.Date, error: Schema.Never })

export const jobs = [Stepwise, Waits, WaitsLate, StepFails] as const

/** Completes the deferred of the run whose handler noted its token. */
const answer = (acquired: Sighting | undefined, value: Date) =>
  DurableDeferred.succeed(Answer, {
    // sound: the handler notes it
    token: acquired?.detail as DurableDeferred.Token,
    value
  }).pipe(Effect.provide(Steps.layer))

const stepwise =
  (note: Note) =>
  ({ key }: Keyed) =>
    Effect.gen(function* () {
      yield* Effect.acquireRelease(note("acquired", key), () => note("released", key))
      const { attempt } = yield* Job.CurrentRun
      const step = <A extends Schema.Top>(name: string, success: A, value: A["Type"]) =>
        Activity.make({ name, success, execute: Effect.as(note("step", key, name), value) })
      const first = yield* step("first", Schema.Date, at)
      const three = yield* Effect.all(
        [1, 2, 3].map((n) => step(`parallel ${n}`, Schema.Int, n)),
        { concurrency: "unbounded" }
      )
      const tries = yield* Activity.make({
        name: "third time",
        success: Schema.Int,
        error: Refused,
        execute: Effect.flatMap(Activity.CurrentAttempt, (attempt) =>
          Effect.andThen(
            note("step", key, `third time/${attempt}`),
            attempt < 3 ? Effect.fail(new Refused({ code: attempt, at })) : Effect.succeed(attempt)
          )
        )
      }).pipe(Activity.retry({ times: 3 }))
      yield* DurableClock.sleep({ name: "pause", duration: "1 second", inMemoryThreshold: 0 })
      if (attempt < 2) return yield* Effect.fail("again")
      yield* note("run", key, [first, ...three, tries])
    })

export const handlers = (note: Note) =>
  Layer.mergeAll(
    Stepwise.toLayer(stepwise(note), { onFailure: noteFailure(note) }),
    Waits.toLayer(({ key }) =>
      Effect.gen(function* () {
        yield* Effect.acquireRelease(
          Effect.flatMap(DurableDeferred.token(Answer), (token) => note("acquired", key, token)),
          () => note("released", key)
        )
        yield* note("run", key, yield* DurableDeferred.await(Answer))
      })
    ),
    WaitsLate.toLayer(({ key }) =>
      Effect.gen(function* () {
        yield* note("acquired", key, yield* DurableDeferred.token(Answer))
        yield* DurableClock.sleep({ name: "pause", duration: "4 seconds", inMemoryThreshold: 0 })
        yield* note("run", key, yield* DurableDeferred.await(Answer))
      })
    ),
    StepFails.toLayer(
      ({ key }) =>
        Effect.gen(function* () {
          const { attempt } = yield* Job.CurrentRun
          const value = yield* Activity.make({
            name: "fails once",
            success: Schema.Int,
            error: Refused,
            execute: Effect.andThen(
              note("step", key),
              attempt < 2 ? Effect.fail(new Refused({ code: attempt, at })) : Effect.succeed(attempt)
            )
          })
          yield* note("run", key, value)
        }),
      { onFailure: noteFailure(note) }
    )
  )

export const rows: ReadonlyArray<Row> = [
  {
    name: "steps: what has finished isn't done again by a retry, and what was acquired is released",
    test: ({ during, early, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const [run] = yield* during(
          Stepwise.dispatch({ key }),
          exactly(1, () => of(Stepwise, key))
        )
        const steps = of(Stepwise, key, "step")
        assert.deepStrictEqual(
          steps.map(({ detail }) => String(detail)).toSorted((a, b) => (a < b ? -1 : 1)),
          ["first", "parallel 1", "parallel 2", "parallel 3", "third time/1", "third time/2", "third time/3"]
        )
        assert.deepStrictEqual(run?.detail, [at, 1, 2, 3, 3])
        // one second of sleep, and one of the retry's pause
        assert.isAtLeast(started(run) - started(steps.at(-1)), 2000 - early)
        assert.deepStrictEqual(of(Stepwise, key, "failed"), [])
        assert.strictEqual(of(Stepwise, key, "acquired").length, of(Stepwise, key, "released").length)
      })
  },
  {
    name: "steps: a deferred is completed from outside of its run, once",
    test: ({ during, exactly, freshKey, of, pass, some }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const [run] = yield* during(
          Waits.dispatch({ key }),
          Effect.gen(function* () {
            // an engine that runs a handler again from its start shows it more than once
            yield* some(() => of(Waits, key, "acquired"))
            yield* pass("1 second")
            yield* answer(of(Waits, key, "acquired")[0], at)
            // of two that come within moments, an engine elsewhere may take either for the first
            yield* pass("1 second")
            yield* answer(of(Waits, key, "acquired")[0], new Date(0))
            return yield* exactly(1, () => of(Waits, key))
          })
        )
        assert.deepStrictEqual(run?.detail, at)
        assert.strictEqual(of(Waits, key, "acquired").length, of(Waits, key, "released").length)
      })
  },
  {
    name: "steps: of two completions the first counts, also before the run waits",
    test: ({ during, exactly, freshKey, of, pass, some }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const [run] = yield* during(
          WaitsLate.dispatch({ key }),
          Effect.gen(function* () {
            yield* some(() => of(WaitsLate, key, "acquired"))
            yield* answer(of(WaitsLate, key, "acquired")[0], at)
            yield* pass("1 second")
            yield* answer(of(WaitsLate, key, "acquired")[0], new Date(0))
            return yield* exactly(1, () => of(WaitsLate, key))
          })
        )
        assert.deepStrictEqual(run?.detail, at)
      })
  },
  {
    name: "steps: an activity that failed is tried again by the job's next attempt",
    test: ({ during, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const [run] = yield* during(
          StepFails.dispatch({ key }),
          exactly(1, () => of(StepFails, key))
        )
        assert.strictEqual(run?.detail, 2)
        assert.strictEqual(of(StepFails, key, "step").length, 2)
        assert.deepStrictEqual(of(StepFails, key, "failed"), [])
      })
  }
]
