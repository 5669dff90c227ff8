/**
 * The engine in this process, under `InlineDispatcher` and `TestDispatcher`: which messages run, where, and what
 * each Outcome means when nothing outlives the process.
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import { makeRunner, type Runner, tell } from "../../Attempt.ts"
import { JobFailed, type OnError, type Outcome } from "../../Outcome.ts"
import { runTicks } from "../../CronJob.ts"
import { type Dispatcher, type JobMessage, type DispatchRequest } from "../../Dispatcher.ts"
import { DispatchError, Unavailable, UnknownJob } from "../../DispatchError.ts"
import type * as Job from "../../Job.ts"
import * as Steps from "../../Steps.ts"

/** The ids that have run, bounded in number and in time. */
export interface RememberedIds {
  /** `false` where a run of this key has been claimed and isn't forgotten. */
  readonly claim: (key: string, now: number) => boolean
  readonly release: (key: string) => void
}

/** A run among all others: names have no spaces. */
export const runKey = (message: JobMessage): string => `${message.name} ${message.id}`

/**
 * In two generations, so that forgetting costs nothing: when the younger one is full it becomes the older one, and
 * what was the older one is forgotten at once. So `capacity` ids or more are remembered, and less than twice as
 * many.
 */
export const rememberedIds = (capacity: number, timeToLive: number): RememberedIds => {
  let younger = new Map<string, number>()
  let older = new Map<string, number>()
  return {
    claim: (key, now) => {
      const expiry = younger.get(key) ?? older.get(key)
      if (expiry !== undefined && expiry > now) return false
      if (younger.size >= capacity) {
        older = younger
        younger = new Map()
      }
      younger.set(key, now + timeToLive)
      return true
    },
    release: (key) => {
      younger.delete(key)
      older.delete(key)
    }
  }
}

/** Where a message ended: after its only or last attempt. */
export interface Ended {
  readonly attempts: number
  readonly outcome: Exclude<Outcome, { readonly _tag: "Retry" }>
}

/** What the loop of attempts needs to know of its surroundings. */
export interface RunToEnd {
  readonly runner: Runner
  readonly dispatcher: Dispatcher["Service"]
  /** Waits out the pause before a retry. */
  readonly sleep: (delay: Duration.Duration) => Effect.Effect<void>
  /** Around each attempt, such as a permit. */
  readonly limit: <A>(attempt: Effect.Effect<A>) => Effect.Effect<A>
  readonly onAttempt:
    | ((message: JobMessage, attempt: number, outcome: Outcome) => Effect.Effect<void>)
    | undefined
}

/**
 * Attempts until one is the last; then, if it failed, the job's `onFailure`. The durable steps are the same for all
 * of them.
 */
export const runToEnd = (
  self: RunToEnd,
  message: JobMessage,
  steps: () => Steps.RunSteps,
  attempt = 1
): Effect.Effect<Ended> => {
  const options = { attempt, dispatcher: self.dispatcher, steps }
  const { onAttempt } = self
  const run = self.runner.run(message, options)
  return Effect.flatMap(
    self.limit(
      onAttempt === undefined ? run : Effect.tap(run, (outcome) => onAttempt(message, attempt, outcome))
    ),
    (outcome) => {
      switch (outcome._tag) {
        case "Succeeded":
          return Effect.succeed({ attempts: attempt, outcome })
        case "Retry":
          return Effect.flatMap(self.sleep(outcome.delay), () => runToEnd(self, message, steps, attempt + 1))
        case "Failed":
          return Effect.as(self.runner.giveUp(message, { ...options, cause: outcome.cause }), {
            attempts: attempt,
            outcome
          })
      }
    }
  )
}

/**
 * The messages to run for a request: a job's is its own, an event's is one for each listener, a completion has
 * none. `undefined` for a job that isn't in the list: nothing would ever run it.
 */
export const fanOut = (
  runner: Runner,
  { kind, message }: DispatchRequest
): ReadonlyArray<JobMessage> | undefined => {
  switch (kind) {
    case "completion":
      return []
    case "event":
      return runner.listeners(message.name).map(({ jobName }) => ({ ...message, name: jobName }))
    case "job":
      return runner.get(message.name) === undefined ? undefined : [message]
  }
}

/** The refusal of what {@link fanOut} has no messages for. */
export const unknownJob = (
  { message }: DispatchRequest,
  dispatcher: string
): Effect.Effect<never, DispatchError> =>
  Effect.fail(DispatchError.of(new UnknownJob({ job: message.name, dispatcher })))

/** What both dispatchers say about themselves. */
export interface Options {
  /** Its name in errors. */
  readonly name: string
  /** `true`: a dispatch returns before its run. A delayed one always does. */
  readonly background: boolean
  readonly concurrency: number
  readonly shutdownTimeout: Duration.Duration
  readonly deduplication: { readonly capacity: number; readonly timeToLive: Duration.Duration }
  readonly onError: OnError
  /** Sees each request before anything else does, and may put another in its place. */
  readonly onRequest: (request: DispatchRequest) => DispatchRequest
  readonly onAttempt: RunToEnd["onAttempt"]
}

/** The Dispatcher of a list of jobs in this process. It and the cron jobs' clocks live as long as the Scope. */
export const make = <const Jobs extends ReadonlyArray<Job.Any>>(
  jobs: Jobs,
  options: Options
): Effect.Effect<Dispatcher["Service"], never, Job.HandlerOf<Jobs[number]> | Scope.Scope> =>
  Effect.gen(function* () {
    const runner = yield* makeRunner(jobs)
    const clock = yield* Clock.Clock
    const ids = rememberedIds(
      options.deduplication.capacity,
      Duration.toMillis(options.deduplication.timeToLive)
    )
    const permits = Semaphore.makeUnsafe(options.concurrency)
    const fibers = yield* FiberSet.make<void>()
    const closing = yield* Deferred.make<void>()
    let closed = false
    let dropped = 0

    /** Ends early, with `false`, when the engine closes. */
    const wait = (delay: Duration.Duration) =>
      Effect.raceFirst(Effect.as(Effect.sleep(delay), true), Effect.as(Deferred.await(closing), false))

    /** A run in the background gives up its place when the engine closes while it waits. */
    const drop = Effect.suspend(() => {
      dropped++
      return Effect.interrupt
    })
    const waitOrDrop = (delay: Duration.Duration) =>
      Effect.flatMap(wait(delay), (waited) => (waited ? Effect.void : drop))

    /** The runs that have begun and not ended, with their durable steps. */
    const active = new Map<string, () => Steps.RunSteps>()

    /** The run of a key that was claimed. */
    const run = (how: RunToEnd, message: JobMessage, key: string): Effect.Effect<void> => {
      const steps = Steps.once(Steps.inMemory)
      active.set(key, steps)
      return Effect.onExit(
        Effect.flatMap(runToEnd(how, message, steps), (ended) =>
          ended.outcome._tag === "Succeeded" ? Effect.void : report(message, ended.attempts, ended.outcome)
        ),
        (exit) => {
          active.delete(key)
          // what was interrupted has not run: its id may come again
          if (Exit.isFailure(exit)) ids.release(key)
          return Effect.void
        }
      )
    }

    /** A deferred can be completed while its run lives. */
    const complete = (message: JobMessage) => {
      const steps = active.get(runKey(message))
      return steps === undefined
        ? Effect.logWarning(
            `${options.name} got the completion of a deferred of "${message.name}" (id ${message.id}), which isn't running: it is lost.`
          )
        : Steps.complete(steps(), message)
    }

    const report = (
      message: JobMessage,
      attempts: number,
      outcome: Extract<Outcome, { readonly _tag: "Failed" }>
    ) =>
      tell(options.onError, options.name, JobFailed.of(message, attempts, outcome), runner.get(message.name))

    const forkRun = yield* FiberSet.runtime(fibers)<never>()
    const fork = (message: JobMessage, notBefore: number | undefined, now: number): void => {
      const key = runKey(message)
      if (!ids.claim(key, now)) return
      const started = Effect.suspend(() => run(inBackground, message, key))
      forkRun(
        notBefore === undefined
          ? started
          : Effect.andThen(waitOrDrop(Duration.millis(notBefore - now)), started)
      )
    }
    const runHere = (message: JobMessage): Effect.Effect<void> => {
      const key = runKey(message)
      return ids.claim(key, clock.currentTimeMillisUnsafe()) ? run(here, message, key) : Effect.void
    }

    const isLater = (notBefore: number | undefined, now: number) => notBefore !== undefined && notBefore > now

    /** What is to be waited for goes back; all else is forked. */
    const start = (
      messages: ReadonlyArray<JobMessage>,
      notBefore: number | undefined
    ): ReadonlyArray<JobMessage> => {
      const now = clock.currentTimeMillisUnsafe()
      const later = isLater(notBefore, now)
      if (!later && !options.background) return messages
      for (const message of messages) fork(message, later ? notBefore : undefined, now)
      return []
    }

    const await_ = ([only, ...more]: ReadonlyArray<JobMessage>): Effect.Effect<void> =>
      only === undefined
        ? Effect.void
        : more.length === 0
          ? runHere(only)
          : Effect.forEach([only, ...more], (message) => Effect.suspend(() => runHere(message)), {
              concurrency: options.concurrency,
              discard: true
            })

    const sendMany = Effect.fnUntraced(function* (requests: ReadonlyArray<DispatchRequest>) {
      const fanned: Array<readonly [ReadonlyArray<JobMessage>, number | undefined]> = []
      for (const request of requests) {
        if (request.kind === "completion") yield* complete(request.message)
        const messages = fanOut(runner, request)
        if (messages === undefined) return yield* unknownJob(request, options.name)
        fanned.push([messages, request.notBefore])
      }
      yield* await_(fanned.flatMap(([messages, notBefore]) => start(messages, notBefore)))
    })

    const sendOne = (request: DispatchRequest): Effect.Effect<void, DispatchError> => {
      if (request.kind === "completion") return complete(request.message)
      const messages = fanOut(runner, request)
      return messages === undefined
        ? unknownJob(request, options.name)
        : await_(start(messages, request.notBefore))
    }

    const dispatcher: Dispatcher["Service"] = {
      send: (requests) =>
        Effect.suspend(() => {
          const [first, ...more] = requests
          if (closed) {
            return Effect.fail(
              DispatchError.of(
                new Unavailable({
                  job: first.message.name,
                  engine: options.name,
                  detail: "its scope is closed"
                })
              )
            )
          }
          return more.length === 0
            ? sendOne(options.onRequest(first))
            : sendMany(requests.map(options.onRequest))
        })
    }

    const common = { runner, dispatcher, onAttempt: options.onAttempt }
    const here: RunToEnd = { ...common, sleep: Effect.sleep, limit: (attempt) => attempt }
    const inBackground: RunToEnd = {
      ...common,
      sleep: waitOrDrop,
      limit: Semaphore.withPermit(permits)
    }

    yield* Effect.addFinalizer(() =>
      Effect.gen(function* () {
        yield* Deferred.succeed(closing, undefined)
        const drained = yield* Effect.timeoutOption(FiberSet.awaitEmpty(fibers), options.shutdownTimeout)
        closed = true
        if (Option.isNone(drained)) {
          const left = yield* FiberSet.size(fibers)
          yield* Effect.logWarning(
            `${options.name} closed while ${left} runs went on after its shutdownTimeout of ${Duration.format(
              options.shutdownTimeout
            )}: they are interrupted.`
          )
        }
        if (dropped > 0) {
          yield* Effect.logWarning(
            `${options.name} closed with ${dropped} runs still waiting for their time or their retry: they are lost.`
          )
        }
      })
    )

    for (const job of jobs) {
      if (job.trigger._tag !== "Cron") continue
      yield* Effect.forkScoped(
        runTicks(job, (message) =>
          Effect.sync(() => fork(message, undefined, clock.currentTimeMillisUnsafe()))
        )
      )
    }
    return dispatcher
  })
