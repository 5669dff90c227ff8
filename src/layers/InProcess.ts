/**
 * The engine in this process, under `InlineDispatcher` and `TestDispatcher`: which messages run, where, and what
 * each Outcome means when nothing outlives the process.
 */
import type * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import { JobFailed, makeRunner, type Outcome, type Runner } from "../Attempt.ts"
import { runTicks } from "../CronJob.ts"
import {
  type Dispatcher,
  DispatchError,
  type JobMessage,
  type Request,
  Unavailable,
  UnknownJob
} from "../Dispatcher.ts"
import type * as Job from "../Job.ts"
import * as Steps from "../Steps.ts"

/** The ids that have run, bounded in number and in time. */
export interface RememberedIds {
  /** `false` where a message of this job with this id has been claimed and isn't forgotten. */
  readonly claim: (message: JobMessage, now: number) => boolean
  readonly release: (message: JobMessage) => void
}

/** A run among all others: names have no spaces. */
const runKey = (message: JobMessage): string => `${message.name} ${message.id}`

export const rememberedIds = (capacity: number, timeToLive: number): RememberedIds => {
  // insertion order is the order of expiry, for all live equally long
  const expiries = new Map<string, number>()
  return {
    claim: (message, now) => {
      for (const [oldest, expiry] of expiries) {
        if (expiry > now) break
        expiries.delete(oldest)
      }
      if (expiries.has(runKey(message))) return false
      expiries.set(runKey(message), now + timeToLive)
      if (expiries.size > capacity) {
        for (const oldest of expiries.keys()) {
          expiries.delete(oldest)
          break
        }
      }
      return true
    },
    release: (message) => {
      expiries.delete(runKey(message))
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
  /** The durable steps of the run, the same for all of its attempts. */
  readonly steps: () => Steps.RunSteps
  /** Waits out the pause before a retry. */
  readonly sleep: (delay: Duration.Duration) => Effect.Effect<void>
  /** Around each attempt, such as a permit. */
  readonly limit: <A>(attempt: Effect.Effect<A>) => Effect.Effect<A>
  readonly onAttempt: (message: JobMessage, attempt: number, outcome: Outcome) => Effect.Effect<void>
}

/** Attempts until one is the last; then, if it failed, the job's `onFailure`. */
export const runToEnd = (self: RunToEnd, message: JobMessage): Effect.Effect<Ended> =>
  Effect.gen(function* () {
    for (let attempt = 1; ; attempt++) {
      const options = { attempt, dispatcher: self.dispatcher, steps: self.steps }
      const outcome = yield* self.limit(
        Effect.tap(self.runner.run(message, options), (outcome) => self.onAttempt(message, attempt, outcome))
      )
      if (outcome._tag === "Retry") {
        yield* self.sleep(outcome.delay)
        continue
      }
      if (outcome._tag === "Failed") {
        yield* self.runner.giveUp(message, { ...options, cause: outcome.cause })
      }
      return { attempts: attempt, outcome }
    }
  })

/**
 * The messages to run for a request: a job's is its own, an event's is one for each listener, a completion has
 * none. A job that isn't in the list is refused by name, for nothing would ever run it.
 */
export const fanOut = (
  runner: Runner,
  request: Request,
  dispatcher: string
): Effect.Effect<ReadonlyArray<JobMessage>, DispatchError> => {
  const { message } = request
  if (request.kind === "completion") return Effect.succeed([])
  if (request.kind === "event") {
    return Effect.succeed(
      runner.listeners(message.name).map(({ jobName }) => ({ ...message, name: jobName }))
    )
  }
  return runner.get(message.name) === undefined
    ? Effect.fail(DispatchError.of(new UnknownJob({ job: message.name, dispatcher })))
    : Effect.succeed([message])
}

/** Gets a job that has failed for good. What it fails with is logged and goes no further. */
export type OnError = (error: JobFailed, job: Job.Any | undefined) => Effect.Effect<unknown, unknown>

/** The failure as one sentence, and its cause below it. Not the payload. */
export const logJobFailed: OnError = (error) => Effect.logError(error.message, error.cause)

/** What both dispatchers say about themselves. */
export interface Options {
  /** Its name in errors. */
  readonly name: string
  /** `true`: a dispatch returns before its run. A delayed one always does. */
  readonly background: boolean
  readonly concurrency: number
  readonly drainTimeout: Duration.Duration
  readonly rememberIds: { readonly capacity: number; readonly timeToLive: Duration.Duration }
  readonly onError: OnError
  /** Sees each request before anything else does, and may put another in its place. */
  readonly onRequest: (request: Request) => Request
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
    const ids = rememberedIds(options.rememberIds.capacity, Duration.toMillis(options.rememberIds.timeToLive))
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

    const run = (how: Pick<RunToEnd, "sleep" | "limit">, message: JobMessage): Effect.Effect<void> =>
      Effect.suspend(() => {
        const key = runKey(message)
        const steps = Steps.once(Steps.inMemory)
        active.set(key, steps)
        return Effect.onExit(
          Effect.flatMap(
            runToEnd({ ...how, runner, dispatcher, steps, onAttempt: options.onAttempt }, message),
            (ended) =>
              ended.outcome._tag === "Succeeded"
                ? Effect.void
                : report(message, ended.attempts, ended.outcome)
          ),
          (exit) => {
            active.delete(key)
            // what was interrupted has not run: its id may come again
            if (Exit.isFailure(exit)) ids.release(message)
            return Effect.void
          }
        )
      })

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
      Effect.catchCause(
        options.onError(JobFailed.of(message, attempts, outcome), runner.get(message.name)),
        (cause: Cause.Cause<unknown>) =>
          Effect.logError(
            `The onError of ${options.name} failed itself for "${message.name}" (id ${message.id}).`,
            cause
          )
      )

    const here: Pick<RunToEnd, "sleep" | "limit"> = { sleep: Effect.sleep, limit: (attempt) => attempt }
    const inBackground: Pick<RunToEnd, "sleep" | "limit"> = {
      sleep: waitOrDrop,
      limit: Semaphore.withPermit(permits)
    }

    const forkRun = yield* FiberSet.runtime(fibers)<never>()
    const fork = (message: JobMessage, notBefore: number | undefined, now: number): void => {
      if (!ids.claim(message, now)) return
      const started = run(inBackground, message)
      forkRun(
        notBefore === undefined
          ? started
          : Effect.andThen(waitOrDrop(Duration.millis(notBefore - now)), started)
      )
    }
    const runHere = (message: JobMessage) =>
      Effect.suspend(() =>
        ids.claim(message, clock.currentTimeMillisUnsafe()) ? run(here, message) : Effect.void
      )

    const dispatcher: Dispatcher["Service"] = {
      send: (requests) =>
        Effect.gen(function* () {
          if (closed) {
            return yield* Effect.fail(
              DispatchError.of(
                new Unavailable({
                  job: requests[0].message.name,
                  engine: options.name,
                  detail: "its scope is closed"
                })
              )
            )
          }
          const fanned: Array<readonly [JobMessage, number | undefined]> = []
          for (const request of requests.map(options.onRequest)) {
            if (request.kind === "completion") yield* complete(request.message)
            for (const message of yield* fanOut(runner, request, options.name)) {
              fanned.push([message, request.notBefore])
            }
          }
          const now = clock.currentTimeMillisUnsafe()
          const awaited: Array<JobMessage> = []
          for (const [message, notBefore] of fanned) {
            const later = notBefore !== undefined && notBefore > now
            if (later || options.background) fork(message, later ? notBefore : undefined, now)
            else awaited.push(message)
          }
          const [only] = awaited
          if (only === undefined) return
          yield* awaited.length === 1
            ? runHere(only)
            : Effect.forEach(awaited, runHere, { concurrency: options.concurrency, discard: true })
        })
    }

    yield* Effect.addFinalizer(() =>
      Effect.gen(function* () {
        yield* Deferred.succeed(closing, undefined)
        const drained = yield* Effect.timeoutOption(FiberSet.awaitEmpty(fibers), options.drainTimeout)
        closed = true
        if (Option.isNone(drained)) {
          const left = yield* FiberSet.size(fibers)
          yield* Effect.logWarning(
            `${options.name} closed while ${left} runs went on after its drainTimeout of ${Duration.format(
              options.drainTimeout
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
