// The checks and promises of a dispatch: payloads, ids, times.
import { assert } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { Dispatcher } from "../Dispatcher.ts"
import { DispatchError } from "../DispatchError.ts"
import * as Job from "../Job.ts"
import * as RetryPolicy from "../RetryPolicy.ts"
import { AlwaysFails, Once } from "./retries.ts"
import { key, type Note, noteFailure, type Row, started } from "./Suite.ts"

export class Echo extends Job.make("conformance.echo", {
  payload: {
    ...key,
    at: Schema.Date,
    amount: Schema.BigInt,
    tags: Schema.Array(Schema.String),
    note: Schema.optionalKey(Schema.String)
  },
  success: Schema.Struct({ at: Schema.Date })
}) {}
export class ById extends Job.make("conformance.by-id", {
  payload: key,
  idempotencyKey: ({ key }) => `id of ${key}`
}) {}
export class Countdown extends Job.make("conformance.countdown", {
  payload: { ...key, left: Schema.Int }
}) {}

/** Changes its payload, and dispatches; in its first attempt it fails after that. */
export class Repeats extends Job.make("conformance.repeats", {
  payload: { ...key, data: Schema.Json },
  retry: RetryPolicy.fixed({ attempts: 2, delay: "1 second" })
}) {}

export const jobs = [Echo, ById, Countdown, Repeats] as const

export const handlers = (note: Note) =>
  Layer.mergeAll(
    Echo.toLayer((payload) => Effect.as(note("run", payload.key, payload), { at: payload.at }), {
      onFailure: noteFailure(note)
    }),
    ById.toLayer(({ key }) => note("run", key)),
    Countdown.toLayer(({ key, left }) =>
      Effect.andThen(
        note("run", key, left),
        left === 0 ? Effect.void : Countdown.dispatch({ key, left: left - 1 }, { id: `${key} ${left - 1}` })
      )
    ),
    Repeats.toLayer(({ data, key }) =>
      Effect.gen(function* () {
        // sound: the suite dispatches nothing else
        const { list } = data as { readonly list: Array<Schema.Json> }
        const { attempt } = yield* note("run", key, [...list])
        list.push(attempt)
        yield* Countdown.dispatch({ key, left: 0 })
        if (attempt < 2) return yield* Effect.fail("again")
      })
    )
  )

const checked: ReadonlyArray<Row> = [
  {
    name: "checked going in: an invalid payload fails the dispatch, with its path, and nothing was sent",
    test: ({ exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        // sound: it is what the test is about
        const wrong = {
          key,
          at: "tomorrow",
          amount: 1n,
          tags: ["a", 2]
        } as unknown as typeof Echo.payloadSchema.Type
        const error = yield* Effect.flip(Echo.dispatch(wrong))
        assert.instanceOf(error, DispatchError)
        assert(error.reason._tag === "InvalidPayload")
        assert.deepStrictEqual(
          error.reason.issues.map(({ path }) => path),
          ["at", "tags[1]"]
        )
        const valid = { key, at: new Date(0), amount: 1n, tags: [] }
        const many = yield* Effect.flip(Echo.dispatchAll([valid, wrong]))
        assert.strictEqual(many.reason._tag, "InvalidPayload")
        yield* exactly(0, () => of(Echo, key))
      })
  },
  {
    name: "checked going in: an id or a delay that can't be fails the dispatch",
    test: ({ exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        for (const options of [
          { id: "" },
          { id: "x".repeat(256) },
          { delay: "-1 seconds" as const },
          { delay: Duration.infinity },
          { at: "no date" },
          { at: 0, delay: 1 }
        ]) {
          const error = yield* Effect.flip(ById.dispatch({ key }, options))
          assert.strictEqual(error.reason._tag, "InvalidOption")
        }
        yield* exactly(0, () => of(ById, key))
      })
  },
  {
    name: "the payload arrives as it was dispatched, rich types and all",
    test: ({ during, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const payload = {
          key,
          at: new Date(1_234_567_890_123),
          amount: 2n ** 80n,
          tags: ["ü", "日本", "\u{1F98A}", ""]
        }
        const [run] = yield* during(
          Echo.dispatch(payload),
          exactly(1, () => of(Echo, key))
        )
        assert.deepStrictEqual(run?.detail, payload)
      })
  },
  {
    name: "checked coming out: a message that doesn't decode is never handed to the handler",
    test: ({ during, exactly, freshKey, of, seen }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const dispatcher = yield* Dispatcher
        const dispatchedAt = yield* Clock.currentTimeMillis
        const message = { id: `${key} wrong`, name: AlwaysFails.jobName, payload: { key: 1 }, dispatchedAt }
        yield* dispatcher.send([{ kind: "job", notBefore: undefined, message }])
        yield* dispatcher.send([
          {
            kind: "job",
            notBefore: undefined,
            message: { ...message, id: `${key} nothing`, payload: "nothing like it" }
          }
        ])
        yield* during(
          Echo.dispatch({ key, at: new Date(0), amount: 0n, tags: [] }),
          exactly(1, () => of(Echo, key))
        )
        assert.deepStrictEqual(
          seen.filter(({ id }) => id.startsWith(`${key} `)),
          []
        )
      })
  }
]

const ids: ReadonlyArray<Row> = [
  {
    name: "one run an id, also of delayed dispatches",
    test: ({ exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const delayed = { id: `${key} delayed`, delay: "1 second" } as const
        yield* ById.dispatch({ key }, delayed)
        yield* ById.dispatch({ key }, delayed)
        yield* ById.dispatchAll([{ key }], { id: () => delayed.id, delay: delayed.delay })
        yield* exactly(1, () => of(ById, key))
      })
  },
  {
    name: "one run an id",
    test: ({ exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const receipts = yield* Effect.all([
          ById.dispatch({ key }),
          ById.dispatch({ key }),
          Once.dispatch({ key }, { id: key }),
          Once.dispatch({ key }, { id: key })
        ])
        assert.deepStrictEqual(
          receipts.map(({ id }) => id),
          [`id of ${key}`, `id of ${key}`, key, key]
        )
        yield* exactly(1, () => of(ById, key))
        yield* exactly(1, () => of(Once, key))
      })
  },
  {
    name: "an id belongs to its job: another job may have the same",
    test: ({ exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        yield* ById.dispatch({ key }, { id: `${key} shared` })
        yield* Countdown.dispatch({ key, left: 0 }, { id: `${key} shared` })
        yield* exactly(1, () => of(ById, key))
        yield* exactly(1, () => of(Countdown, key))
      })
  },
  {
    name: "an id may have 255 characters of any kind",
    test: ({ exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const id = `${key} "é/日本\u{1F98A}' `.padEnd(255, "x")
        yield* ById.dispatch({ key }, { id })
        yield* ById.dispatch({ key }, { id })
        const [run] = yield* exactly(1, () => of(ById, key))
        assert.strictEqual(run?.id, id)
      })
  },
  {
    name: "dispatchAll runs each payload once and answers in order",
    test: ({ exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const lefts = Array.from({ length: 50 }, () => ({ key, left: 0 }))
        const receipts = yield* Countdown.dispatchAll(lefts, { id: (_, index) => `${key} ${index}` })
        assert.deepStrictEqual(
          receipts,
          lefts.map((_, index) => ({ id: `${key} ${index}`, name: Countdown.jobName }))
        )
        const runs = yield* exactly(50, () => of(Countdown, key))
        assert.strictEqual(new Set(runs.map(({ id }) => id)).size, 50)
        assert.deepStrictEqual(yield* Countdown.dispatchAll([]), [])
      })
  },
  {
    name: "a handler may dispatch, also its own job",
    test: ({ during, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const runs = yield* during(
          Countdown.dispatch({ key, left: 3 }),
          exactly(4, () => of(Countdown, key))
        )
        assert.deepStrictEqual(
          runs.map(({ detail }) => detail),
          [3, 2, 1, 0]
        )
      })
  }
]

const repeated: ReadonlyArray<Row> = [
  {
    name: "JSON: a handler shares no object with who dispatched, or with another attempt",
    test: ({ during, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const data = { list: ["as dispatched"] }
        const runs = yield* during(
          Repeats.dispatch({ key, data }),
          exactly(2, () => of(Repeats, key))
        )
        assert.deepStrictEqual(
          runs.map(({ detail }) => detail),
          [["as dispatched"], ["as dispatched"]]
        )
        assert.deepStrictEqual(data, { list: ["as dispatched"] })
      })
  },
  {
    name: "dispatched once: an attempt that is repeated sends nothing twice",
    test: ({ during, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        yield* during(
          Repeats.dispatch({ key, data: { list: [] } }),
          exactly(2, () => of(Repeats, key))
        )
        yield* exactly(1, () => of(Countdown, key))
      })
  }
]

const times: ReadonlyArray<Row> = [
  {
    name: "not before its time: each of many payloads",
    test: ({ early, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const start = yield* Clock.currentTimeMillis
        const many = Array.from({ length: 3 }, () => ({ key, left: 0 }))
        yield* Countdown.dispatchAll(many, { delay: "2 seconds" })
        for (const run of yield* exactly(3, () => of(Countdown, key))) {
          assert.isAtLeast(started(run) - start, 2000 - early)
        }
      })
  },
  {
    name: "not before its time: delay",
    test: ({ early, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const start = yield* Clock.currentTimeMillis
        yield* ById.dispatch({ key }, { delay: "2 seconds" })
        const [run] = yield* exactly(1, () => of(ById, key))
        assert.isAtLeast(started(run) - start, 2000 - early)
      })
  },
  {
    name: "not before its time: at, and one in the past is now",
    test: ({ early, exactly, freshKey, of }) =>
      Effect.gen(function* () {
        const key = yield* freshKey
        const start = yield* Clock.currentTimeMillis
        yield* Countdown.dispatchAll([{ key, left: 0 }], { at: start + 2000 })
        const [run] = yield* exactly(1, () => of(Countdown, key))
        assert.isAtLeast(started(run) - start, 2000 - early)
        yield* ById.dispatch({ key }, { at: start - 60_000 })
        yield* exactly(1, () => of(ById, key))
      })
  }
]

export const rows: ReadonlyArray<Row> = [...checked, ...ids, ...repeated, ...times]
