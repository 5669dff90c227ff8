// Domain events and the jobs that listen to them.
import { assert } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as DomainEvent from "../DomainEvent.ts"
import * as Listener from "../Listener.ts"
import * as RetryPolicy from "../RetryPolicy.ts"
import { key, type Note, noteFailure, type Row, secondTime, started } from "./Suite.ts"

export class Happened extends DomainEvent.make("conformance.happened", { payload: key }) {}
class Unheard extends DomainEvent.make("conformance.unheard", { payload: key }) {}
export class Hears extends Listener.make("conformance.hears", { event: Happened }) {}
export class HearsLate extends Listener.make("conformance.hears-late", {
  event: Happened,
  retry: RetryPolicy.exponential({ attempts: 3, initialDelay: "1 second" })
}) {}
export class HearsBadly extends Listener.make("conformance.hears-badly", {
  event: Happened,
  retry: RetryPolicy.fixed({ attempts: 2, delay: "1 second" })
}) {}

export const jobs = [Hears, HearsLate, HearsBadly] as const

export const handlers = (note: Note) =>
  Layer.mergeAll(
    Hears.toLayer(({ key }) => note("run", key)),
    HearsLate.toLayer(secondTime(note)),
    HearsBadly.toLayer(({ key }) => Effect.andThen(note("run", key), Effect.die("always")), {
      onFailure: noteFailure(note)
    })
  )

export const rows: ReadonlyArray<Row> = [
  {
    name: "events: each listener runs once, on its own retries; one that fails stops no other",
    test: ({ during, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        yield* during(
          Happened.publish({ key }, { id: `${key} happened` }),
          Effect.all([exactly(1, () => of(HearsBadly, key, "failed")), exactly(2, () => of(HearsLate, key))])
        )
        const attemptsOf = (listener: (typeof jobs)[number]) =>
          of(listener, key).map(({ attempt }) => attempt)
        assert.deepStrictEqual(attemptsOf(Hears), [1])
        assert.deepStrictEqual(attemptsOf(HearsLate), [1, 2])
        assert.deepStrictEqual(attemptsOf(HearsBadly), [1, 2])
        for (const listener of jobs) {
          for (const run of of(listener, key)) assert.strictEqual(run.id, `${key} happened`)
        }
      })
  },
  {
    name: "events: one published id reaches each listener once",
    test: ({ during, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        yield* during(
          Effect.all([
            Happened.publish({ key }, { id: `${key} twice` }),
            Happened.publish({ key }, { id: `${key} twice` })
          ]),
          Effect.all([
            exactly(1, () => of(Hears, key)),
            exactly(2, () => of(HearsLate, key)),
            exactly(1, () => of(HearsBadly, key, "failed"))
          ])
        )
        assert.strictEqual(of(HearsBadly, key).length, 2)
      })
  },
  {
    name: "events: not before its time: a delayed publish",
    test: ({ early, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const start = yield* Clock.currentTimeMillis
        yield* Happened.publish({ key }, { delay: "2 seconds" })
        const [run] = yield* exactly(1, () => of(Hears, key))
        assert.isAtLeast(started(run) - start, 2000 - early)
      })
  },
  {
    name: "events: publishAll publishes each, once, under its id and at its time",
    test: ({ early, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const keys = [1, 2, 3].map((n) => `${key} ${n}`)
        const start = yield* Clock.currentTimeMillis
        const publish = Happened.publishAll(
          keys.map((key) => ({ key })),
          { id: ({ key }) => `${key} of many`, delay: "1 second" }
        )
        const ids = keys.map((key) => `${key} of many`)
        for (const receipts of [yield* publish, yield* publish]) {
          assert.deepStrictEqual(
            receipts.map(({ id }) => id),
            ids
          )
        }
        const runs = yield* exactly(3, () => keys.flatMap((key) => of(Hears, key)))
        assert.sameMembers(
          runs.map(({ id }) => id),
          ids
        )
        for (const run of runs) assert.isAtLeast(started(run) - start, 1000 - early)
        assert.deepStrictEqual(yield* Happened.publishAll([]), [])
      })
  },
  {
    name: "events: one without listeners is no error",
    test: ({ freshKey }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        assert.strictEqual((yield* Unheard.publish({ key }, { id: key })).id, key)
      })
  }
]
