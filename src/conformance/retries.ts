// Retries: of which failures, how often and when; and what follows the last failure.
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Job from "../Job.ts"
import * as RetryPolicy from "../RetryPolicy.ts"
import {
  at,
  key,
  type Keyed,
  type Note,
  noteFailure,
  Refused,
  type Row,
  secondTime,
  typedError
} from "./Suite.ts"

const retry = RetryPolicy.exponential({ attempts: 3, initialDelay: "1 second" })

export class AlwaysFails extends Job.make("conformance.always-fails", {
  payload: key,
  error: Refused,
  retry
}) {}
export class AlwaysDies extends Job.make("conformance.always-dies", {
  payload: key,
  retry: RetryPolicy.fixed({ attempts: 2, delay: "1 second" })
}) {}
export class SecondTime extends Job.make("conformance.second-time", { payload: key, retry }) {}
export class Once extends Job.make("conformance.once", { payload: key, error: Refused }) {}
export class NotThisOne extends Job.make("conformance.not-this-one", {
  payload: key,
  error: Refused,
  retry: RetryPolicy.fixed<Refused>({ attempts: 5, delay: "1 second", while: ({ code }) => code !== 404 })
}) {}
export class NamedDelay extends Job.make("conformance.named-delay", {
  payload: key,
  error: Refused,
  retry: RetryPolicy.fixed<Refused>({
    attempts: 2,
    delay: "1 hour",
    retryAfter: ({ code }) => `${code} seconds`
  })
}) {}
export class Defective extends Job.make("conformance.defective", {
  payload: key,
  error: Refused,
  retry: RetryPolicy.fixed<Refused>({ attempts: 2, delay: "1 second", while: () => false })
}) {}
export class Interrupts extends Job.make("conformance.interrupts", {
  payload: key,
  retry: RetryPolicy.fixed({ attempts: 2, delay: "1 second" })
}) {}

export const jobs = [
  AlwaysFails,
  AlwaysDies,
  SecondTime,
  Once,
  NotThisOne,
  NamedDelay,
  Defective,
  Interrupts
] as const

export const handlers = (note: Note) => {
  const onFailure = noteFailure(note)
  const failing = (code: (attempt: number) => number) => (payload: Keyed) =>
    Effect.flatMap(note("run", payload.key), ({ attempt }) =>
      Effect.fail(new Refused({ code: code(attempt), at }))
    )
  return Layer.mergeAll(
    AlwaysFails.toLayer(
      failing((attempt) => attempt),
      { onFailure }
    ),
    AlwaysDies.toLayer(({ key }) => Effect.andThen(note("run", key), Effect.die(new Error("a defect"))), {
      onFailure
    }),
    SecondTime.toLayer(secondTime(note), { onFailure }),
    Once.toLayer(
      failing(() => 1),
      { onFailure }
    ),
    NotThisOne.toLayer(
      failing((attempt) => (attempt === 1 ? 500 : 404)),
      { onFailure }
    ),
    NamedDelay.toLayer(({ key }) =>
      Effect.flatMap(note("run", key), ({ attempt }) =>
        attempt < 2 ? Effect.fail(new Refused({ code: 2, at })) : Effect.void
      )
    ),
    Defective.toLayer(({ key }) => Effect.andThen(note("run", key), Effect.die(new Error("a defect"))), {
      onFailure
    }),
    Interrupts.toLayer(({ key }) => Effect.andThen(note("run", key), Effect.interrupt), { onFailure })
  )
}

export const rows: ReadonlyArray<Row> = [
  {
    name: "attempts: a handler that always fails runs as often as the policy says, its delays apart",
    test: ({ assertApart, during, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const runsOf = (job: typeof AlwaysFails | typeof AlwaysDies) =>
          Effect.map(
            exactly(1, () => of(job, key, "failed")),
            () => of(job, key)
          )
        const [runs, dies] = yield* during(
          Effect.all([AlwaysFails.dispatch({ key }), AlwaysDies.dispatch({ key })], {
            concurrency: "unbounded"
          }),
          Effect.all([runsOf(AlwaysFails), runsOf(AlwaysDies)])
        )
        assert.deepStrictEqual(
          runs.map(({ attempt }) => attempt),
          [1, 2, 3]
        )
        assertApart(runs, [1000, 2000])
        assert.deepStrictEqual(
          dies.map(({ attempt }) => attempt),
          [1, 2]
        )
        assertApart(dies, [1000])
      })
  },
  {
    name: "the last failure: onFailure runs once, with the error as it was thrown",
    test: ({ during, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const [failed] = yield* during(
          AlwaysFails.dispatch({ key }, { id: `${key} last` }),
          exactly(1, () => of(AlwaysFails, key, "failed"))
        )
        const error = typedError(failed)
        assert.instanceOf(error, Refused)
        assert.strictEqual(error.code, 3)
        assert.deepStrictEqual(error.at, at)
        assert.strictEqual(failed?.id, `${key} last`)
        assert.strictEqual(of(AlwaysFails, key).length, 3)
      })
  },
  {
    name: "without a policy there is one attempt",
    test: ({ during, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        yield* during(
          Once.dispatch({ key }),
          exactly(1, () => of(Once, key, "failed"))
        )
        assert.deepStrictEqual(
          of(Once, key).map(({ attempt, maxAttempts }) => [attempt, maxAttempts]),
          [[1, 1]]
        )
      })
  },
  {
    name: "what is retried: while says no and there is no further attempt",
    test: ({ during, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const [failed] = yield* during(
          NotThisOne.dispatch({ key }),
          exactly(1, () => of(NotThisOne, key, "failed"))
        )
        assert.deepStrictEqual(
          of(NotThisOne, key).map(({ attempt }) => attempt),
          [1, 2]
        )
        const error = typedError(failed)
        assert.instanceOf(error, Refused)
        assert.strictEqual(error.code, 404)
      })
  },
  {
    name: "what is retried: a defect is, and while isn't asked about it",
    test: ({ during, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        yield* during(
          Defective.dispatch({ key }),
          exactly(1, () => of(Defective, key, "failed"))
        )
        assert.deepStrictEqual(
          of(Defective, key).map(({ attempt }) => attempt),
          [1, 2]
        )
      })
  },
  {
    name: "what is retried: a pause that the error names goes before the policy's",
    test: ({ assertApart, during, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const runs = yield* during(
          NamedDelay.dispatch({ key }),
          exactly(2, () => of(NamedDelay, key))
        )
        assertApart(runs, [2000])
      })
  },
  {
    name: "what is retried: a success ends it, and onFailure stays away",
    test: ({ during, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        yield* during(
          SecondTime.dispatch({ key }),
          exactly(2, () => of(SecondTime, key), "3 seconds")
        )
        assert.deepStrictEqual(of(SecondTime, key, "failed"), [])
      })
  },
  {
    name: "what is retried: a handler that interrupts itself has failed",
    test: ({ during, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        yield* during(
          Interrupts.dispatch({ key }),
          exactly(1, () => of(Interrupts, key, "failed"))
        )
        assert.deepStrictEqual(
          of(Interrupts, key).map(({ attempt }) => attempt),
          [1, 2]
        )
      })
  }
]
