// The limits of an attempt, and a handler's view of its run.
import { assert } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Job from "../Job.ts"
import * as RetryPolicy from "../RetryPolicy.ts"
import { SecondTime } from "./retries.ts"
import { key, type Note, noteFailure, type Row, started } from "./Suite.ts"

export class NeverEnds extends Job.make("conformance.never-ends", {
  payload: key,
  timeout: "1 second",
  retry: RetryPolicy.fixed({ attempts: 2, delay: "1 second" })
}) {}
export class Resourceful extends Job.make("conformance.resourceful", {
  payload: key,
  retry: RetryPolicy.fixed({ attempts: 2, delay: "1 second" })
}) {}

export const jobs = [NeverEnds, Resourceful] as const

export const handlers = (note: Note) =>
  Layer.merge(
    NeverEnds.toLayer(
      ({ key }) =>
        note("acquired", key).pipe(
          Effect.andThen(Effect.never),
          Effect.onInterrupt(() => note("released", key))
        ),
      { onFailure: noteFailure(note) }
    ),
    Resourceful.toLayer(({ key }) =>
      Effect.gen(function* () {
        const { attempt } = yield* Effect.acquireRelease(note("acquired", key), () => note("released", key))
        if (attempt < 2) return yield* Effect.fail("not yet")
      })
    )
  )

export const rows: ReadonlyArray<Row> = [
  {
    name: "limits: at its timeout a handler is interrupted, its finalizers run, and the attempt has failed",
    test: ({ during, early, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        yield* during(
          NeverEnds.dispatch({ key }),
          exactly(1, () => of(NeverEnds, key, "failed"))
        )
        const acquired = of(NeverEnds, key, "acquired")
        const released = of(NeverEnds, key, "released")
        assert.deepStrictEqual(
          acquired.map(({ attempt }) => attempt),
          [1, 2]
        )
        assert.deepStrictEqual(
          released.map(({ attempt }) => attempt),
          [1, 2]
        )
        for (const index of [0, 1])
          assert.isAtLeast(started(released[index]) - started(acquired[index]), 1000 - early)
      })
  },
  {
    name: "resources: a handler's Scope closes after every attempt",
    test: ({ during, exactly, freshKey, of, seen }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        yield* during(
          Resourceful.dispatch({ key }),
          exactly(2, () => of(Resourceful, key, "released"))
        )
        const order = seen
          .filter((sighting) => sighting.key === key)
          .map(({ attempt, what }) => `${what} ${attempt}`)
        assert.deepStrictEqual(order, ["acquired 1", "released 1", "acquired 2", "released 2"])
      })
  },
  {
    name: "identity: CurrentRun is the same on every attempt, but for its number",
    test: ({ during, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const before = yield* Clock.currentTimeMillis
        const runs = yield* during(
          SecondTime.dispatch({ key }, { id: `${key} same` }),
          exactly(2, () => of(SecondTime, key))
        )
        assert.deepStrictEqual(
          runs.map(({ attempt }) => attempt),
          [1, 2]
        )
        for (const run of runs) {
          assert.strictEqual(run.id, `${key} same`)
          assert.strictEqual(run.maxAttempts, 3)
          assert.strictEqual(run.dispatchedAt, runs[0]?.dispatchedAt)
          assert.isAtLeast(run.dispatchedAt, before)
          assert.isAtMost(run.dispatchedAt, run.time)
        }
      })
  },
  {
    name: "tracing: the span of every attempt continues the trace of the dispatch",
    test: ({ during, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const [traceId, runs] = yield* Effect.useSpan("conformance", (span) =>
          during(
            Effect.withParentSpan(SecondTime.dispatch({ key }), span),
            exactly(2, () => of(SecondTime, key))
          ).pipe(Effect.map((runs) => [span.traceId, runs] as const))
        )
        assert.deepStrictEqual(
          runs.map((run) => run.traceId),
          [traceId, traceId]
        )
      })
  }
]
