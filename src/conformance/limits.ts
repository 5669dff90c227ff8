// The limits of an attempt, and a handler's view of its run.
import { assert } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { CurrentLogAnnotations } from "effect/References"
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
/** Its work is done within its limit, and its Scope closes after it. */
export class ClosesLate extends Job.make("conformance.closes-late", {
  payload: key,
  timeout: "1 second",
  retry: RetryPolicy.fixed({ attempts: 2, delay: "1 second" })
}) {}
/** Its handler notes what it has of who dispatches it. */
export class Looks extends Job.make("conformance.looks", { payload: key }) {}
/** Its handler gives something that is no Effect. */
export class GivesPromise extends Job.make("conformance.gives-promise", {
  payload: key,
  retry: RetryPolicy.fixed({ attempts: 2, delay: "1 second" })
}) {}

class Tenant extends Context.Service<Tenant, string>()("effect-jobs/conformance/Tenant") {}

export const jobs = [NeverEnds, Resourceful, ClosesLate, Looks, GivesPromise] as const

export const handlers = (note: Note) =>
  Layer.mergeAll(
    ClosesLate.toLayer(
      ({ key }) =>
        Effect.andThen(
          Effect.addFinalizer(() => Effect.sleep("2 seconds")),
          note("run", key)
        ),
      { onFailure: noteFailure(note) }
    ),
    Looks.toLayer(({ key }) =>
      Effect.gen(function* () {
        const tenant = yield* Effect.serviceOption(Tenant)
        const annotations = Object.keys(yield* CurrentLogAnnotations).filter((name) => name === "tenant")
        yield* note("run", key, [tenant._tag, annotations])
      })
    ),
    GivesPromise.toLayer(
      ({ key }) =>
        Effect.flatMap(
          note("run", key),
          // sound: it isn't, and the suite is about that
          () => Promise.resolve() as unknown as Effect.Effect<void>
        ),
      { onFailure: noteFailure(note) }
    ),
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
    name: "limits: finalizers aren't counted in the time: what was done isn't done again",
    test: ({ during, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        yield* during(
          ClosesLate.dispatch({ key }),
          exactly(1, () => of(ClosesLate, key), "5 seconds")
        )
        assert.deepStrictEqual(of(ClosesLate, key, "failed"), [])
      })
  },
  {
    name: "one context: a handler has no service and no reference of who dispatches it",
    test: ({ during, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const dispatch = Looks.dispatch({ key }).pipe(
          Effect.provideService(Tenant, "of the caller"),
          Effect.annotateLogs("tenant", "of the caller")
        )
        const [run] = yield* during(
          dispatch,
          exactly(1, () => of(Looks, key))
        )
        assert.deepStrictEqual(run?.detail, ["None", []])
      })
  },
  {
    name: "whatever is thrown: a handler that gives what isn't an Effect has failed, and the worker goes on",
    test: ({ during, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        yield* during(
          GivesPromise.dispatch({ key }),
          exactly(1, () => of(GivesPromise, key, "failed"))
        )
        assert.deepStrictEqual(
          of(GivesPromise, key).map(({ attempt }) => attempt),
          [1, 2]
        )
      })
  },
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
