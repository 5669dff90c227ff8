/**
 * Dispatchers for tests. `layer` records what is dispatched and runs nothing until `drain`; `layerRunning` runs
 * each dispatch on the test's clock. Both put every message through its JSON text, so a payload that wouldn't
 * survive the wire fails here as well.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { identity } from "effect/Function"
import * as Layer from "effect/Layer"
import type * as Schema from "effect/Schema"
import type * as TestClock from "effect/testing/TestClock"
import { makeRunner } from "../../Attempt.ts"
import { type OnError, type Outcome } from "../../Outcome.ts"
import { type DispatchError, InvalidPayload } from "../../DispatchError.ts"
import { Dispatcher, type DispatchRequest } from "../../Dispatcher.ts"
import type * as DomainEvent from "../../DomainEvent.ts"
import type * as Job from "../../Job.ts"
import * as RunRecords from "../../internal/RunRecords.ts"
import * as Engine from "./Engine.ts"
import { rememberedIds, type RememberedIds } from "./Ids.ts"

/** A dispatched job or a published event, as it travels. */
export interface Recorded {
  readonly id: string
  /** The job's or the event's name. */
  readonly name: string
  /** Encoded, as JSON. For the decoded one: `payloads`. */
  readonly payload: Schema.Json
  readonly dispatchedAt: DateTime.Utc
  /** The time before which it must not run; `undefined` is at once. */
  readonly notBefore: DateTime.Utc | undefined
}

/** A message that `drain` ran to its end. */
export type Drained<J> = J extends Job.Any
  ? {
      readonly name: Job.Name<J>
      readonly id: string
      /** The attempts made, the first included. */
      readonly attempts: number
      /** Of the last attempt. */
      readonly exit: Exit.Exit<Job.Success<J>, Job.Error<J> | InvalidPayload>
    }
  : never

/** One attempt that `layerRunning` made. */
export interface Run<A, E> {
  readonly id: string
  /** From 1. */
  readonly attempt: number
  /** When it ended, on the test's clock. */
  readonly time: DateTime.Utc
  readonly exit: Exit.Exit<A, E>
}

/** What both layers keep, for `dispatched`, `published`, `payloads` and `clear`. */
export class Records extends Context.Service<
  Records,
  {
    /** Every request, in the order of dispatch. */
    readonly requests: Array<DispatchRequest>
    /** Those that `drain` hasn't run. */
    readonly pending: Array<DispatchRequest>
    readonly ids: RememberedIds
  }
>()("effect-jobs/TestDispatcher/Records") {}

/** What `layerRunning` keeps, for `runs`. */
export class Runs extends Context.Service<
  Runs,
  {
    readonly attempts: Array<{
      readonly name: string
      readonly id: string
      readonly attempt: number
      readonly time: number
      readonly exit: Exit.Exit<unknown, unknown>
    }>
  }
>()("effect-jobs/TestDispatcher/Runs") {}

const makeRecords = (): Records["Service"] => ({
  requests: [],
  pending: [],
  ids: rememberedIds(Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)
})

const record = (records: Records["Service"], request: DispatchRequest): DispatchRequest => {
  records.requests.push(request)
  return request
}

/** Records every dispatch and publish, in order, and runs nothing. `drain` runs what was recorded. */
export const layer: Layer.Layer<Dispatcher | Records> = Layer.effectContext(
  Effect.sync(() => {
    const records = makeRecords()
    return Context.make(Records, records).pipe(
      Context.add(Dispatcher, {
        send: (requests) =>
          Effect.sync(() => {
            for (const request of requests) records.pending.push(record(records, request))
          })
      })
    )
  })
)

/** What `layerRunning` takes beside the jobs. */
export interface RunningOptions {
  /** Gets each job that has failed for good. Default: logs at error level, without the payload. */
  readonly onError?: OnError | undefined
}

/**
 * Records every dispatch and publish and runs it in the background of the Layer's scope, retries, delays and cron
 * jobs included, as the test's clock moves: `TestClock.adjust("1 minute")` runs what falls due in that minute.
 * Closing the scope interrupts what still runs.
 */
export const layerRunning = <const Jobs extends ReadonlyArray<Job.Any>>(
  jobs: Jobs,
  options: RunningOptions = {}
): Layer.Layer<Dispatcher | Records | Runs, never, Job.HandlerOf<Jobs[number]>> =>
  Layer.effectContext(
    Effect.gen(function* () {
      const records = makeRecords()
      const runs: Runs["Service"] = { attempts: [] }
      const engine = yield* Engine.make(jobs, {
        name: "TestDispatcher.layerRunning",
        background: true,
        concurrency: Number.MAX_SAFE_INTEGER,
        shutdownTimeout: Duration.zero,
        deduplication: { capacity: Number.MAX_SAFE_INTEGER, timeToLive: Duration.infinity },
        onError: options.onError,
        onRequest: (request) => void record(records, request),
        onAttempt: ({ id, name }, attempt, outcome) =>
          Effect.map(Clock.currentTimeMillis, (time) => {
            runs.attempts.push({ name, id, attempt, time, exit: exitOf(outcome) })
          })
      })
      return Context.make(Records, records).pipe(Context.add(Runs, runs), Context.add(Dispatcher, engine))
    })
  )

const exitOf = (outcome: Outcome): Exit.Exit<unknown, unknown> =>
  outcome._tag === "Succeeded" ? Exit.succeed(outcome.value) : Exit.failCause(outcome.cause)

const recordedOf = (kind: DispatchRequest["kind"]): Effect.Effect<ReadonlyArray<Recorded>, never, Records> =>
  Effect.map(Records, ({ requests }) =>
    requests
      .filter((request) => request.kind === kind)
      .map(({ message, notBefore }) => ({
        id: message.id,
        name: message.name,
        payload: message.payload,
        dispatchedAt: DateTime.makeUnsafe(message.dispatchedAt),
        notBefore: notBefore === undefined ? undefined : DateTime.makeUnsafe(notBefore)
      }))
  )

/** Every dispatched job since the start or `clear`, in order. */
export const dispatched: Effect.Effect<ReadonlyArray<Recorded>, never, Records> = recordedOf("job")

/** Every published event since the start or `clear`, in order. */
export const published: Effect.Effect<ReadonlyArray<Recorded>, never, Records> = recordedOf("event")

/** Forgets what was recorded, what waits for `drain`, and the attempts of `layerRunning`. */
export const clear: Effect.Effect<void, never, Records> = Effect.contextWith(
  (context: Context.Context<Records>) =>
    Effect.sync(() => {
      const records = Context.get(context, Records)
      records.requests.length = 0
      records.pending.length = 0
      const runs = Context.getOption(context, Runs)
      if (runs._tag === "Some") runs.value.attempts.length = 0
    })
)

/** The payloads dispatched to a job, or published as an event, in order; decoded from their JSON. */
export const payloads: {
  <Name extends string, Payload extends Schema.Top, Success extends Schema.Top, Error extends Schema.Top>(
    job: Job.Contract<Name, Payload, Success, Error>
  ): Effect.Effect<ReadonlyArray<Payload["Type"]>, never, Records | Payload["DecodingServices"]>
  <Name extends string, Payload extends Schema.Top>(
    event: DomainEvent.DomainEvent<Name, Payload>
  ): Effect.Effect<ReadonlyArray<Payload["Type"]>, never, Records | Payload["DecodingServices"]>
} = (of: Job.Any | DomainEvent.Any) => {
  const { codec, kind, name } = of.target
  return Effect.flatMap(Records, ({ requests }) =>
    Effect.forEach(
      requests.filter((request) => request.kind === kind && request.message.name === name),
      ({ message }) =>
        codec.decode(message.payload).pipe(
          Effect.mapError((issue) => InvalidPayload.fromIssue(name, issue, message.id)),
          Effect.orDie,
          // sound: the contract's own schema decodes to its payload, and needs that schema's services
          (decoded) => decoded as Effect.Effect<never>
        )
    )
  )
}

/**
 * Runs the recorded messages that are due, and those that their handlers dispatch, to their end: in order, one
 * at a time, each with its retries and its `onFailure`. The pauses between attempts move the TestClock (with a
 * real clock, they are waited for). Returns how each ended, in the order in which they ran.
 *
 * One id runs once, over all drains. What isn't due yet, and what none of `jobs` runs, stays for a later drain.
 * A handler that itself sleeps on the TestClock, or waits for a deferred that nobody has completed yet, needs
 * someone beside it: use `layerRunning` for those.
 */
export const drain = <const Jobs extends ReadonlyArray<Job.Any>>(
  jobs: Jobs
): Effect.Effect<
  ReadonlyArray<Drained<Jobs[number]>>,
  DispatchError,
  Records | Dispatcher | Job.HandlerOf<Jobs[number]>
> =>
  Effect.gen(function* () {
    const records = yield* Records
    const dispatcher = yield* Dispatcher
    const runner = yield* makeRunner(jobs, { name: "TestDispatcher.drain", dispatcher })
    const clock = yield* Clock.Clock
    const moveClock = (delay: Duration.Duration) =>
      isTestClock(clock) ? clock.adjust(delay) : Effect.sleep(delay)
    const drained: Array<{ name: string; id: string; attempts: number; exit: Exit.Exit<unknown, unknown> }> =
      []

    const due = ({ kind, message, notBefore }: DispatchRequest) =>
      (notBefore === undefined || notBefore <= clock.currentTimeMillisUnsafe()) &&
      (kind !== "job" || runner.get(message.name) !== undefined)

    while (true) {
      const index = records.pending.findIndex(due)
      const request = index === -1 ? undefined : records.pending.splice(index, 1)[0]
      if (request === undefined) break
      const messages =
        Engine.fanOut(runner, request) ?? (yield* Engine.unknownJob(request, "TestDispatcher.drain"))
      for (const message of messages) {
        const key = Engine.runKey(message)
        if (records.ids.has(key, clock.currentTimeMillisUnsafe())) continue
        records.ids.add(key, clock.currentTimeMillisUnsafe())
        const steps = RunRecords.inMemory()
        for (const {
          kind,
          message: { id, name },
          message: completion
        } of records.requests) {
          if (kind === "completion" && id === message.id && name === message.name) {
            yield* RunRecords.complete(steps, completion)
          }
        }
        const { attempts, outcome } = yield* Engine.runToEnd(
          { runner, steps, sleep: moveClock, hold: identity, onAttempt: undefined },
          message
        )
        drained.push({ name: message.name, id: message.id, attempts, exit: exitOf(outcome) })
      }
    }
    // sound: each name is one of `jobs`, and its exit comes from the handler of that name
    return drained as unknown as ReadonlyArray<Drained<Jobs[number]>>
  })

const isTestClock = (clock: Clock.Clock): clock is TestClock.TestClock =>
  "adjust" in clock && "setTime" in clock

/** The attempts that `layerRunning` has made of a job, in the order in which they ended. */
export const runs = <
  Name extends string,
  Payload extends Schema.Top,
  Success extends Schema.Top,
  Error extends Schema.Top
>(
  job: Job.Contract<Name, Payload, Success, Error>
): Effect.Effect<ReadonlyArray<Run<Success["Type"], Error["Type"] | InvalidPayload>>, never, Runs> =>
  Effect.map(Runs, ({ attempts }) =>
    attempts
      .filter(({ name }) => name === job.jobName)
      .map(({ attempt, exit, id, time }) => ({
        id,
        attempt,
        time: DateTime.makeUnsafe(time),
        // sound: it is the Exit of this very job's handler
        exit: exit as Exit.Exit<Success["Type"], Error["Type"] | InvalidPayload>
      }))
  )
