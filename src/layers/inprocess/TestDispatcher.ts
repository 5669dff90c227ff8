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
import type * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import type * as Schema from "effect/Schema"
import { makeRunner } from "../../Attempt.ts"
import type { OnError } from "../../Outcome.ts"
import { InvalidPayload } from "../../DispatchError.ts"
import { Dispatcher, type DispatchRequest } from "../../Dispatcher.ts"
import type * as DomainEvent from "../../DomainEvent.ts"
import { checkedDuration } from "../../internal/checks.ts"
import type * as Job from "../../Job.ts"
import * as Drain from "./Drain.ts"
import { DrainError } from "./Drain.ts"
import * as Engine from "./Engine.ts"
import { rememberedIds } from "./Ids.ts"
import * as Recording from "./Records.ts"
import { Records } from "./Records.ts"

export { DrainError, Records }

/** A dispatched job or a published event, as it travels. */
export interface Message {
  readonly id: string
  /** The job's or the event's name. */
  readonly name: string
  /** Encoded, as JSON. For the decoded one: `payloads`. */
  readonly payload: Schema.Json
  readonly dispatchedAt: DateTime.Utc
  /** The time before which it must not run; `undefined` is at once. */
  readonly notBefore: DateTime.Utc | undefined
}

/** A run that has ended in a `drain`. */
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

/** One attempt of a run. */
export interface Attempt<A, E> {
  readonly id: string
  /** From 1. */
  readonly attempt: number
  /** When it ended, on the test's clock. */
  readonly time: DateTime.Utc
  readonly exit: Exit.Exit<A, E>
}

/** Records every dispatch and publish, in order, and runs nothing. `drain` runs what was recorded. */
export const layer: Layer.Layer<Dispatcher | Records> = Layer.effectContext(
  Effect.sync(() => {
    const records = Recording.make(undefined)
    return Context.make(Records, records).pipe(
      Context.add(Dispatcher, {
        send: (requests) => Effect.suspend(() => Recording.record(records, requests))
      })
    )
  })
)

/** The options that `layerRunning` and `drain` share. */
export interface RunningOptions {
  /** Called with each run that has failed for good. Default: logs at error level, without the payload. */
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
): Layer.Layer<Dispatcher | Records, never, Job.HandlerOf<Jobs[number]>> =>
  Layer.effectContext(
    Effect.gen(function* () {
      const ids = rememberedIds(Number.MAX_SAFE_INTEGER, Number.POSITIVE_INFINITY)
      const records = Recording.make(ids)
      const engine = yield* Engine.make(jobs, {
        name: "TestDispatcher.layerRunning",
        background: true,
        concurrency: Number.MAX_SAFE_INTEGER,
        shutdownTimeout: Duration.zero,
        ids,
        onError: options.onError,
        onRequest: (request) => void records.requests.push(request),
        onAttempt: (message, attempt, outcome) =>
          Effect.map(Clock.currentTimeMillis, (time) =>
            Recording.recordAttempt(records, message, attempt, outcome, time)
          )
      })
      return Context.make(Records, records).pipe(Context.add(Dispatcher, engine))
    })
  )

const messagesOf = (kind: DispatchRequest["kind"]): Effect.Effect<ReadonlyArray<Message>, never, Records> =>
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

/** Every dispatched job since the start or `clear`, in order. A refused dispatch isn't among them. */
export const dispatched: Effect.Effect<ReadonlyArray<Message>, never, Records> = messagesOf("job")

/** Every published event since the start or `clear`, in order. */
export const published: Effect.Effect<ReadonlyArray<Message>, never, Records> = messagesOf("event")

/** Forgets what was dispatched, published and attempted, what waits for `drain`, and the ids of runs. */
export const clear: Effect.Effect<void, never, Records> = Effect.map(Records, Recording.clear)

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

/** The options of `drain`. */
export interface DrainOptions extends RunningOptions {
  /**
   * How long nothing may begin, end or be recorded before `drain` gives up, on the live clock. A sixth of it goes by
   * before the clock is moved to a job's own `timeout`. More for handlers that take their time for something real, or
   * that sleep hundreds of times. Default: 3 seconds, less than the time limit of a test.
   */
  readonly patience?: Duration.Input | undefined
}

/**
 * Runs the recorded messages that are due, and those that their handlers dispatch, to their end: in order, one
 * at a time, each with its retries and its `onFailure`. Returns how each ended, in the order in which they began.
 *
 * Where all that runs waits for the TestClock (a retry, a sleep, a time limit), `drain` moves it to the next wake-up;
 * with a real clock, it waits. A run that waits for a deferred lets others begin, which may complete it. Where nobody
 * does, or where nothing happens for as long as `patience` says, `drain` fails with a `DrainError` that names the job
 * and what it waits for.
 *
 * One id runs once, over all drains. What isn't due yet and jobs that aren't in the list stay for a later drain, and so
 * do events, for other listeners. An interrupted or failed `drain` loses nothing: what it ran begins again in the next
 * one, with its recorded steps.
 */
export const drain = <const Jobs extends ReadonlyArray<Job.Any>>(
  jobs: Jobs,
  options: DrainOptions = {}
): Effect.Effect<
  ReadonlyArray<Drained<Jobs[number]>>,
  DrainError,
  Records | Dispatcher | Job.HandlerOf<Jobs[number]>
> =>
  Effect.gen(function* () {
    const records = yield* Records
    if (records.engineIds !== undefined) {
      return yield* new DrainError({
        message:
          "TestDispatcher.drain has nothing to run: TestDispatcher.layerRunning runs each dispatch by itself as the TestClock moves. Use drain with TestDispatcher.layer.",
        runs: []
      })
    }
    const patience = checkedDuration(options.patience ?? "3 seconds", "The patience of TestDispatcher.drain")
    const clock = yield* Clock.Clock
    const watched = Drain.watch(clock)
    const runner = yield* makeRunner(jobs, {
      name: "TestDispatcher.drain",
      dispatcher: yield* Dispatcher,
      onError: options.onError,
      clock: watched.clock
    })
    const drained = yield* Drain.drain({ records, runner, clock, watched, patience })
    // sound: each name is one of `jobs`, and its exit comes from the handler of that name
    return drained as unknown as ReadonlyArray<Drained<Jobs[number]>>
  })

/** The attempts that `layerRunning` or `drain` has made of a job, in the order in which they ended. */
export const attempts = <
  Name extends string,
  Payload extends Schema.Top,
  Success extends Schema.Top,
  Error extends Schema.Top
>(
  job: Job.Contract<Name, Payload, Success, Error>
): Effect.Effect<ReadonlyArray<Attempt<Success["Type"], Error["Type"] | InvalidPayload>>, never, Records> =>
  Effect.map(Records, ({ attempts }) =>
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
