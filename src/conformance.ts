/**
 * The suite that every dispatcher passes: what a job may rely on, whatever engine runs it. For whoever writes a
 * dispatcher of their own; it needs vitest and `@effect/vitest`.
 */
import { assert, layer } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Data from "effect/Data"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as TestClock from "effect/testing/TestClock"
import * as Activity from "effect/workflow/Activity"
import * as DurableClock from "effect/workflow/DurableClock"
import * as DurableDeferred from "effect/workflow/DurableDeferred"
import * as CronJob from "./CronJob.ts"
import { Dispatcher } from "./Dispatcher.ts"
import { DispatchError } from "./DispatchError.ts"
import * as DomainEvent from "./DomainEvent.ts"
import * as Job from "./Job.ts"
import * as Listener from "./Listener.ts"
import * as RetryPolicy from "./RetryPolicy.ts"
import * as Steps from "./Steps.ts"

/** The dispatcher to prove, and how to wait for it. */
export interface Engine {
  /** The name of the block of tests. */
  readonly name: string
  /**
   * The dispatcher with a worker that runs `jobs` in this process. Built once for the suite, with a store or a
   * server in which nothing of an earlier suite is left.
   */
  readonly layer: <const Jobs extends ReadonlyArray<Job.Any>>(
    jobs: Jobs
  ) => Layer.Layer<Dispatcher, unknown, Job.HandlerOf<Jobs[number]>>
  /** `test`: the suite moves TestClock. `live`: it waits for the real clock. */
  readonly clock: "test" | "live"
  /**
   * How much too early a run may start, for engines whose delays are in whole seconds. Default: nothing on `test`,
   * 5 milliseconds on `live`, where a timer may fire up to one before its time by the wall clock (Node counts from
   * the start of the millisecond in which it was set).
   */
  readonly early?: Duration.Input | undefined
  /** Whether the suite waits for ticks of a cron job: up to two minutes on a live clock. Default: on `test`. */
  readonly cron?: boolean | undefined
  /** How long a test waits for what it expects, on the engine's clock. Default 30 seconds. */
  readonly patience?: Duration.Input | undefined
}

/** What a handler saw, or what happened to it. */
interface Sighting {
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

class Refused extends Schema.TaggedError<Refused>()("Refused", {
  code: Schema.Int,
  at: Schema.Date
}) {}

const retry = RetryPolicy.exponential({ attempts: 3, initialDelay: "1 second" })
const key = { key: Schema.String }

class Echo extends Job.make("conformance.echo", {
  payload: {
    ...key,
    at: Schema.Date,
    amount: Schema.BigInt,
    tags: Schema.Array(Schema.String),
    note: Schema.optionalKey(Schema.String)
  },
  success: Schema.Struct({ at: Schema.Date })
}) {}
class ById extends Job.make("conformance.by-id", {
  payload: key,
  idempotencyKey: ({ key }) => `id of ${key}`
}) {}
class AlwaysFails extends Job.make("conformance.always-fails", { payload: key, error: Refused, retry }) {}
class AlwaysDies extends Job.make("conformance.always-dies", {
  payload: key,
  retry: RetryPolicy.fixed({ attempts: 2, delay: "1 second" })
}) {}
class SecondTime extends Job.make("conformance.second-time", { payload: key, retry }) {}
class Once extends Job.make("conformance.once", { payload: key, error: Refused }) {}
class NotThisOne extends Job.make("conformance.not-this-one", {
  payload: key,
  error: Refused,
  retry: RetryPolicy.fixed<Refused>({ attempts: 5, delay: "1 second", while: ({ code }) => code !== 404 })
}) {}
class NamedDelay extends Job.make("conformance.named-delay", {
  payload: key,
  error: Refused,
  retry: RetryPolicy.fixed<Refused>({
    attempts: 2,
    delay: "1 hour",
    retryAfter: ({ code }) => `${code} seconds`
  })
}) {}
class NeverEnds extends Job.make("conformance.never-ends", {
  payload: key,
  timeout: "1 second",
  retry: RetryPolicy.fixed({ attempts: 2, delay: "1 second" })
}) {}
class Resourceful extends Job.make("conformance.resourceful", {
  payload: key,
  retry: RetryPolicy.fixed({ attempts: 2, delay: "1 second" })
}) {}
class Interrupts extends Job.make("conformance.interrupts", {
  payload: key,
  retry: RetryPolicy.fixed({ attempts: 2, delay: "1 second" })
}) {}
class Countdown extends Job.make("conformance.countdown", { payload: { ...key, left: Schema.Int } }) {}
class Stepwise extends Job.make("conformance.stepwise", { payload: key, retry }) {}
class Waits extends Job.make("conformance.waits", { payload: key }) {}
const Answer = DurableDeferred.make("answer", { success: Schema.Date, error: Schema.Never })
class Happened extends DomainEvent.make("conformance.happened", { payload: key }) {}
class Unheard extends DomainEvent.make("conformance.unheard", { payload: key }) {}
class Hears extends Listener.make("conformance.hears", { event: Happened }) {}
class HearsLate extends Listener.make("conformance.hears-late", { event: Happened, retry }) {}
class HearsBadly extends Listener.make("conformance.hears-badly", {
  event: Happened,
  retry: RetryPolicy.fixed({ attempts: 2, delay: "1 second" })
}) {}
class EveryMinute extends CronJob.make("conformance.every-minute", { cron: "* * * * *" }) {}

const jobs = [
  Echo,
  ById,
  AlwaysFails,
  AlwaysDies,
  SecondTime,
  Once,
  NotThisOne,
  NamedDelay,
  NeverEnds,
  Resourceful,
  Interrupts,
  Countdown,
  Stepwise,
  Waits,
  Hears,
  HearsLate,
  HearsBadly,
  EveryMinute
] as const

const at = new Date(Date.UTC(2026, 0, 2, 3, 4, 5, 678))

/** The handlers of the suite's jobs: they write down what they see. */
const handlers = (seen: Array<Sighting>) => {
  const note = (what: Sighting["what"], key: string, detail?: unknown) =>
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
  const onFailure = ({ key }: { readonly key: string }, cause: Cause.Cause<unknown>) =>
    note("failed", key, cause)
  const secondTime = ({ key }: { readonly key: string }) =>
    Effect.flatMap(note("run", key), ({ attempt }) => (attempt < 2 ? Effect.fail("not yet") : Effect.void))

  return Layer.mergeAll(
    Echo.toLayer((payload) => Effect.as(note("run", payload.key, payload), { at: payload.at }), {
      onFailure
    }),
    ById.toLayer(({ key }) => note("run", key)),
    AlwaysFails.toLayer(
      ({ key }) =>
        Effect.flatMap(note("run", key), ({ attempt }) => Effect.fail(new Refused({ code: attempt, at }))),
      { onFailure }
    ),
    AlwaysDies.toLayer(({ key }) => Effect.andThen(note("run", key), Effect.die(new Error("a defect"))), {
      onFailure
    }),
    SecondTime.toLayer(secondTime, { onFailure }),
    Once.toLayer(({ key }) => Effect.andThen(note("run", key), Effect.fail(new Refused({ code: 1, at }))), {
      onFailure
    }),
    NotThisOne.toLayer(
      ({ key }) =>
        Effect.flatMap(note("run", key), ({ attempt }) =>
          Effect.fail(new Refused({ code: attempt === 1 ? 500 : 404, at }))
        ),
      { onFailure }
    ),
    NamedDelay.toLayer(({ key }) =>
      Effect.flatMap(note("run", key), ({ attempt }) =>
        attempt < 2 ? Effect.fail(new Refused({ code: 2, at })) : Effect.void
      )
    ),
    NeverEnds.toLayer(
      ({ key }) =>
        note("acquired", key).pipe(
          Effect.andThen(Effect.never),
          Effect.onInterrupt(() => note("released", key))
        ),
      { onFailure }
    ),
    Resourceful.toLayer(({ key }) =>
      Effect.gen(function* () {
        const { attempt } = yield* Effect.acquireRelease(note("acquired", key), () => note("released", key))
        if (attempt < 2) return yield* Effect.fail("not yet")
      })
    ),
    Interrupts.toLayer(({ key }) => Effect.andThen(note("run", key), Effect.interrupt), { onFailure }),
    Countdown.toLayer(({ key, left }) =>
      Effect.andThen(
        note("run", key, left),
        left === 0 ? Effect.void : Countdown.dispatch({ key, left: left - 1 }, { id: `${key} ${left - 1}` })
      )
    ),
    Stepwise.toLayer(
      ({ key }) =>
        Effect.gen(function* () {
          yield* Effect.acquireRelease(note("acquired", key), () => note("released", key))
          const { attempt } = yield* Job.CurrentRun
          const step = <A extends Schema.Top>(name: string, success: A, value: A["Type"]) =>
            Activity.make({ name, success, execute: Effect.as(note("step", key, name), value) })
          const first = yield* step("first", Schema.Date, at)
          const three = yield* Effect.all(
            [1, 2, 3].map((n) => step(`parallel ${n}`, Schema.Int, n)),
            {
              concurrency: "unbounded"
            }
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
        }),
      { onFailure }
    ),
    Waits.toLayer(({ key }) =>
      Effect.gen(function* () {
        yield* Effect.acquireRelease(
          Effect.flatMap(DurableDeferred.token(Answer), (token) => note("acquired", key, token)),
          () => note("released", key)
        )
        yield* note("run", key, yield* DurableDeferred.await(Answer))
      })
    ),
    Hears.toLayer(({ key }) => note("run", key)),
    HearsLate.toLayer(secondTime),
    HearsBadly.toLayer(({ key }) => Effect.andThen(note("run", key), Effect.die("always")), { onFailure }),
    EveryMinute.toLayer(({ scheduledAt }) => note("tick", "", DateTime.toEpochMillis(scheduledAt)))
  )
}

/** What was expected hadn't happened when the engine's patience was over. */
class NotSeen extends Data.TaggedError("NotSeen")<{ readonly message: string }> {}

/** Declares the suite's tests for one dispatcher. */
export const conformance = (engine: Engine): void => {
  const seen: Array<Sighting> = []
  const live = engine.clock === "live"
  const early = Duration.toMillis(engine.early ?? (live ? 5 : 0))
  const patience = Duration.toMillis(engine.patience ?? "30 seconds")
  const step = Duration.millis(live ? 20 : 50)
  const pass = (duration: Duration.Duration) => (live ? Effect.sleep(duration) : TestClock.adjust(duration))

  let last = 0
  /** A key of one test, to find its sightings by. Ids are made of it too, so it differs from run to run. */
  const freshKey = Effect.map(Clock.currentTimeMillis, (now) => `${live ? now : "k"}-${++last}`)

  const of = (job: { readonly jobName: string }, key: string, what: Sighting["what"] = "run") =>
    seen.filter((sighting) => sighting.job === job.jobName && sighting.key === key && sighting.what === what)

  /** Waits until there are `count`, and a little longer to see that there are no more. */
  const await_ = (count: number, get: () => ReadonlyArray<Sighting>, quiet: Duration.Input = "1500 millis") =>
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
      yield* pass(Duration.fromInputUnsafe(quiet))
      assert.strictEqual(get().length, count, "it happened more often than it may")
      return get()
    })

  /** A dispatch may itself wait for the run, so the clock moves beside it. */
  const during = <A, E, R, B, E2, R2>(dispatch: Effect.Effect<A, E, R>, then: Effect.Effect<B, E2, R2>) =>
    Effect.gen(function* () {
      const fiber = yield* Effect.forkChild(dispatch, { startImmediately: true })
      const result = yield* then
      yield* Fiber.join(fiber)
      return result
    })

  const started = (sighting: Sighting | undefined) => sighting?.time ?? Number.NaN
  const assertApart = (runs: ReadonlyArray<Sighting>, delays: ReadonlyArray<number>) => {
    for (const [index, delay] of delays.entries()) {
      assert.isAtLeast(started(runs[index + 1]) - started(runs[index]), delay - early)
    }
  }
  const typedError = (sighting: Sighting | undefined) =>
    // sound: `onFailure` notes its cause, and findErrorOption looks for itself
    Option.getOrUndefined(Cause.findErrorOption(sighting?.detail as Cause.Cause<unknown>))

  layer(Layer.provide(engine.layer(jobs), handlers(seen)), {
    timeout: "60 seconds",
    concurrent: live,
    excludeTestServices: live
  })(engine.name, (it) => {
    const timeout = live ? patience * 2 + 60_000 : 30_000

    it.effect(
      "checked going in: an invalid payload fails the dispatch, with its path, and nothing was sent",
      () =>
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
          yield* await_(0, () => of(Echo, key))
        }),
      timeout
    )

    it.effect(
      "checked going in: an id or a delay that can't be fails the dispatch",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          for (const options of [
            { id: "" },
            { id: "x".repeat(256) },
            { delay: "-1 seconds" as const },
            {
              delay: Duration.infinity
            },
            { at: "no date" },
            { at: 0, delay: 1 }
          ]) {
            const error = yield* Effect.flip(ById.dispatch({ key }, options))
            assert.strictEqual(error.reason._tag, "InvalidOption")
          }
          yield* await_(0, () => of(ById, key))
        }),
      timeout
    )

    it.effect(
      "the payload arrives as it was dispatched, rich types and all",
      () =>
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
            await_(1, () => of(Echo, key))
          )
          assert.deepStrictEqual(run?.detail, payload)
        }),
      timeout
    )

    it.effect(
      "checked coming out: a message that doesn't decode is never handed to the handler",
      () =>
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
            await_(1, () => of(Echo, key))
          )
          assert.deepStrictEqual(
            seen.filter(({ id }) => id.startsWith(`${key} `)),
            []
          )
        }),
      timeout
    )

    it.effect(
      "one run an id",
      () =>
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
          yield* await_(1, () => of(ById, key))
          yield* await_(1, () => of(Once, key))
        }),
      timeout
    )

    it.effect(
      "an id belongs to its job: another job may have the same",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          yield* ById.dispatch({ key }, { id: `${key} shared` })
          yield* Countdown.dispatch({ key, left: 0 }, { id: `${key} shared` })
          yield* await_(1, () => of(ById, key))
          yield* await_(1, () => of(Countdown, key))
        }),
      timeout
    )

    it.effect(
      "an id may have 255 characters of any kind",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          const id = `${key} "é/日本\u{1F98A}' `.padEnd(255, "x")
          yield* ById.dispatch({ key }, { id })
          yield* ById.dispatch({ key }, { id })
          const [run] = yield* await_(1, () => of(ById, key))
          assert.strictEqual(run?.id, id)
        }),
      timeout
    )

    it.effect(
      "dispatchAll runs each payload once and answers in order",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          const lefts = Array.from({ length: 50 }, () => ({ key, left: 0 }))
          const receipts = yield* Countdown.dispatchAll(lefts, { id: (_, index) => `${key} ${index}` })
          assert.deepStrictEqual(
            receipts,
            lefts.map((_, index) => ({ id: `${key} ${index}`, name: Countdown.jobName }))
          )
          const runs = yield* await_(50, () => of(Countdown, key))
          assert.strictEqual(new Set(runs.map(({ id }) => id)).size, 50)
          assert.deepStrictEqual(yield* Countdown.dispatchAll([]), [])
        }),
      timeout
    )

    it.effect(
      "not before its time: delay",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          const start = yield* Clock.currentTimeMillis
          yield* ById.dispatch({ key }, { delay: "2 seconds" })
          const [run] = yield* await_(1, () => of(ById, key))
          assert.isAtLeast(started(run) - start, 2000 - early)
        }),
      timeout
    )

    it.effect(
      "not before its time: at, and one in the past is now",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          const start = yield* Clock.currentTimeMillis
          yield* Countdown.dispatchAll([{ key, left: 0 }], { at: start + 2000 })
          const [run] = yield* await_(1, () => of(Countdown, key))
          assert.isAtLeast(started(run) - start, 2000 - early)
          yield* ById.dispatch({ key }, { at: start - 60_000 })
          yield* await_(1, () => of(ById, key))
        }),
      timeout
    )

    it.effect(
      "attempts: a handler that always fails runs as often as the policy says, its delays apart",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          const [runs, dies] = yield* during(
            Effect.all([AlwaysFails.dispatch({ key }), AlwaysDies.dispatch({ key })], {
              concurrency: "unbounded"
            }),
            Effect.all([
              Effect.map(
                await_(1, () => of(AlwaysFails, key, "failed")),
                () => of(AlwaysFails, key)
              ),
              Effect.map(
                await_(1, () => of(AlwaysDies, key, "failed")),
                () => of(AlwaysDies, key)
              )
            ])
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
        }),
      timeout
    )

    it.effect(
      "the last failure: onFailure runs once, with the error as it was thrown",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          const [failed] = yield* during(
            AlwaysFails.dispatch({ key }, { id: `${key} last` }),
            await_(1, () => of(AlwaysFails, key, "failed"))
          )
          const error = typedError(failed)
          assert.instanceOf(error, Refused)
          assert.strictEqual(error.code, 3)
          assert.deepStrictEqual(error.at, at)
          assert.strictEqual(failed?.id, `${key} last`)
          assert.strictEqual(of(AlwaysFails, key).length, 3)
        }),
      timeout
    )

    it.effect(
      "without a policy there is one attempt",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          yield* during(
            Once.dispatch({ key }),
            await_(1, () => of(Once, key, "failed"))
          )
          assert.deepStrictEqual(
            of(Once, key).map(({ attempt, maxAttempts }) => [attempt, maxAttempts]),
            [[1, 1]]
          )
        }),
      timeout
    )

    it.effect(
      "what is retried: while says no and there is no further attempt",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          const [failed] = yield* during(
            NotThisOne.dispatch({ key }),
            await_(1, () => of(NotThisOne, key, "failed"))
          )
          assert.deepStrictEqual(
            of(NotThisOne, key).map(({ attempt }) => attempt),
            [1, 2]
          )
          const error = typedError(failed)
          assert.instanceOf(error, Refused)
          assert.strictEqual(error.code, 404)
        }),
      timeout
    )

    it.effect(
      "what is retried: a pause that the error names goes before the policy's",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          const runs = yield* during(
            NamedDelay.dispatch({ key }),
            await_(2, () => of(NamedDelay, key))
          )
          assertApart(runs, [2000])
        }),
      timeout
    )

    it.effect(
      "what is retried: a success ends it, and onFailure stays away",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          yield* during(
            SecondTime.dispatch({ key }),
            await_(2, () => of(SecondTime, key), "3 seconds")
          )
          assert.deepStrictEqual(of(SecondTime, key, "failed"), [])
        }),
      timeout
    )

    it.effect(
      "what is retried: a handler that interrupts itself has failed",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          yield* during(
            Interrupts.dispatch({ key }),
            await_(1, () => of(Interrupts, key, "failed"))
          )
          assert.deepStrictEqual(
            of(Interrupts, key).map(({ attempt }) => attempt),
            [1, 2]
          )
        }),
      timeout
    )

    it.effect(
      "limits: at its timeout a handler is interrupted, its finalizers run, and the attempt has failed",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          yield* during(
            NeverEnds.dispatch({ key }),
            await_(1, () => of(NeverEnds, key, "failed"))
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
        }),
      timeout
    )

    it.effect(
      "resources: a handler's Scope closes after every attempt",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          yield* during(
            Resourceful.dispatch({ key }),
            await_(2, () => of(Resourceful, key, "released"))
          )
          const order = seen
            .filter((sighting) => sighting.key === key)
            .map(({ attempt, what }) => `${what} ${attempt}`)
          assert.deepStrictEqual(order, ["acquired 1", "released 1", "acquired 2", "released 2"])
        }),
      timeout
    )

    it.effect(
      "identity: CurrentRun is the same on every attempt, but for its number",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          const before = yield* Clock.currentTimeMillis
          const runs = yield* during(
            SecondTime.dispatch({ key }, { id: `${key} same` }),
            await_(2, () => of(SecondTime, key))
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
        }),
      timeout
    )

    it.effect(
      "tracing: the span of every attempt continues the trace of the dispatch",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          const [traceId, runs] = yield* Effect.useSpan("conformance", (span) =>
            during(
              Effect.withParentSpan(SecondTime.dispatch({ key }), span),
              await_(2, () => of(SecondTime, key))
            ).pipe(Effect.map((runs) => [span.traceId, runs] as const))
          )
          assert.deepStrictEqual(
            runs.map((run) => run.traceId),
            [traceId, traceId]
          )
        }),
      timeout
    )

    it.effect(
      "a handler may dispatch, also its own job",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          const runs = yield* during(
            Countdown.dispatch({ key, left: 3 }),
            await_(4, () => of(Countdown, key))
          )
          assert.deepStrictEqual(
            runs.map(({ detail }) => detail),
            [3, 2, 1, 0]
          )
        }),
      timeout
    )

    it.effect(
      "steps: what has finished isn't done again by a retry, and what was acquired is released",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          const [run] = yield* during(
            Stepwise.dispatch({ key }),
            await_(1, () => of(Stepwise, key))
          )
          const steps = of(Stepwise, key, "step")
          assert.deepStrictEqual(
            steps.map(({ detail }) => String(detail)).toSorted((a, b) => (a < b ? -1 : 1)),
            [
              "first",
              "parallel 1",
              "parallel 2",
              "parallel 3",
              "third time/1",
              "third time/2",
              "third time/3"
            ]
          )
          assert.deepStrictEqual(run?.detail, [at, 1, 2, 3, 3])
          // one second of sleep, and one of the retry's pause
          assert.isAtLeast(started(run) - started(steps.at(-1)), 2000 - early)
          assert.deepStrictEqual(of(Stepwise, key, "failed"), [])
          assert.strictEqual(of(Stepwise, key, "acquired").length, of(Stepwise, key, "released").length)
        }),
      timeout
    )

    it.effect(
      "steps: a deferred is completed from outside of its run, once",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          const answer = (value: Date) =>
            Effect.suspend(() =>
              DurableDeferred.succeed(Answer, {
                // sound: the handler notes it
                token: of(Waits, key, "acquired")[0]?.detail as DurableDeferred.Token,
                value
              })
            ).pipe(Effect.provide(Steps.layer))
          const [run] = yield* during(
            Waits.dispatch({ key }),
            Effect.gen(function* () {
              // an engine that runs a handler again from its start shows it more than once
              while (of(Waits, key, "acquired").length === 0) yield* pass(step)
              yield* pass(Duration.seconds(1))
              yield* answer(at)
              // of two that come within moments, an engine elsewhere may take either for the first
              yield* pass(Duration.seconds(1))
              yield* answer(new Date(0))
              return yield* await_(1, () => of(Waits, key))
            })
          )
          assert.deepStrictEqual(run?.detail, at)
          assert.strictEqual(of(Waits, key, "acquired").length, of(Waits, key, "released").length)
        }),
      timeout
    )

    it.effect(
      "events: each listener runs once, on its own retries; one that fails stops no other",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          yield* during(
            Happened.publish({ key }, { id: `${key} happened` }),
            Effect.all([await_(1, () => of(HearsBadly, key, "failed")), await_(2, () => of(HearsLate, key))])
          )
          assert.deepStrictEqual(
            of(Hears, key).map(({ attempt }) => attempt),
            [1]
          )
          assert.deepStrictEqual(
            of(HearsLate, key).map(({ attempt }) => attempt),
            [1, 2]
          )
          assert.deepStrictEqual(
            of(HearsBadly, key).map(({ attempt }) => attempt),
            [1, 2]
          )
          for (const listener of [Hears, HearsLate, HearsBadly]) {
            for (const run of of(listener, key)) assert.strictEqual(run.id, `${key} happened`)
          }
        }),
      timeout
    )

    it.effect(
      "events: one published id reaches each listener once",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          yield* during(
            Effect.all([
              Happened.publish({ key }, { id: `${key} twice` }),
              Happened.publish({ key }, { id: `${key} twice` })
            ]),
            Effect.all([
              await_(1, () => of(Hears, key)),
              await_(2, () => of(HearsLate, key)),
              await_(1, () => of(HearsBadly, key, "failed"))
            ])
          )
          assert.strictEqual(of(HearsBadly, key).length, 2)
        }),
      timeout
    )

    it.effect(
      "events: one without listeners is no error",
      () =>
        Effect.gen(function* () {
          const key = yield* freshKey
          assert.strictEqual((yield* Unheard.publish({ key }, { id: key })).id, key)
        }),
      timeout
    )

    if (engine.cron ?? !live) {
      it.effect(
        "cron jobs: each tick runs once, when it is due",
        () =>
          Effect.gen(function* () {
            const ticks = () => seen.filter(({ job }) => job === EveryMinute.jobName)
            const before = ticks().length
            const start = yield* Clock.currentTimeMillis
            while (ticks().length < before + 2) {
              assert.isBelow((yield* Clock.currentTimeMillis) - start, 180_000, "no tick came")
              yield* pass(Duration.seconds(1))
            }
            const due = ticks().map(({ detail }) => Number(detail))
            assert.strictEqual(new Set(due).size, due.length)
            for (const [index, time] of due.entries()) {
              assert.strictEqual(time % 60_000, 0)
              assert.isAtLeast(started(ticks()[index]), time - early)
            }
            assert.strictEqual((due.at(-1) ?? 0) - (due.at(-2) ?? 0), 60_000)
          }),
        Math.max(timeout, 200_000)
      )
    }
  })
}
