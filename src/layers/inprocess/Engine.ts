/**
 * The engine in this process, under `InlineDispatcher` and `TestDispatcher`. Nothing outlives the process.
 *
 * A run is scheduled (it waits for its time), running (an attempt or the pause before one) or ended. An awaited run is in
 * the fiber of its dispatch; all others are in the background, in fibers that the engine owns.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { identity } from "effect/Function"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import { makeRunner, type Runner } from "../../Attempt.ts"
import { DispatchError, Unavailable, UnknownJob } from "../../DispatchError.ts"
import type { Dispatcher, DispatchRequest, JobMessage } from "../../Dispatcher.ts"
import { announce } from "../../internal/announce.ts"
import { plural } from "../../internal/describe.ts"
import { report } from "../../internal/isolated.ts"
import { ownServices } from "../../internal/RunContext.ts"
import { complete, inMemory } from "../../internal/RunRecords.ts"
import { CurrentRunState, type RunSteps } from "../../internal/RunState.ts"
import { endFibers, reportLeft } from "../../internal/shutdown.ts"
import type * as Job from "../../Job.ts"
import type { OnError, Outcome } from "../../Outcome.ts"
import type { RememberedIds } from "./Ids.ts"
import * as Place from "./Place.ts"

/** A run among all others: names have no spaces. */
export const runKey = ({ id, name }: Pick<JobMessage, "id" | "name">): string => `${name} ${id}`

/** The end of a run: after its only or last attempt. */
export interface Ended {
  readonly attempts: number
  readonly outcome: Exclude<Outcome, { readonly _tag: "Retry" }>
}

/** The parts that the loop of attempts needs. */
export interface Loop {
  readonly runner: Runner
  readonly steps: RunSteps
  /** Waits out the pause before a retry. */
  readonly sleep: (delay: Duration.Duration) => Effect.Effect<void>
  /** Put around each attempt, to hold a permit for it. */
  readonly hold: Place.Place["hold"]
  readonly onAttempt:
    | ((message: JobMessage, attempt: number, outcome: Outcome) => Effect.Effect<void>)
    | undefined
}

/**
 * Makes attempts until one is the last, then runs `runner.failed` if it failed. Each attempt has a payload of its own.
 * `first` is the number of the first attempt, default 1.
 */
export const runToEnd = (self: Loop, message: JobMessage, first = 1): Effect.Effect<Ended> => {
  const text = JSON.stringify(message.payload)
  const from = (attempt: number): Effect.Effect<Ended> => {
    const options = { attempt, steps: self.steps }
    // sound: it is the text of a message's payload, which is JSON
    const fresh = () => ({ ...message, payload: JSON.parse(text) as JobMessage["payload"] })
    const { onAttempt, runner } = self
    const run = runner.attempt(fresh(), options)
    return Effect.flatMap(
      self.hold(
        onAttempt === undefined ? run : Effect.tap(run, (outcome) => onAttempt(message, attempt, outcome))
      ),
      (outcome) => {
        switch (outcome._tag) {
          case "Succeeded":
            return Effect.succeed({ attempts: attempt, outcome })
          case "Retry":
            return Effect.flatMap(self.sleep(outcome.delay), () => from(attempt + 1))
          case "Failed":
            return Effect.as(runner.failed(fresh(), outcome, options), { attempts: attempt, outcome })
        }
      }
    )
  }
  return from(first)
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

/** The refusal of a request for which {@link fanOut} has no messages. */
export const unknownJob = ({ message }: DispatchRequest, dispatcher: string): DispatchError =>
  DispatchError.of(new UnknownJob({ job: message.name, dispatcher }))

/** The options in which the two dispatchers differ. */
export interface Options {
  /** Its name in errors. */
  readonly name: string
  /** `true`: a dispatch returns before its run. A delayed one always does. */
  readonly background: boolean
  readonly concurrency: number
  readonly shutdownTimeout: Duration.Duration
  /** Remembers the ids of runs that have ended. */
  readonly ids: RememberedIds
  readonly onError: OnError | undefined
  /** Sees each request that was accepted. */
  readonly onRequest: ((request: DispatchRequest) => void) | undefined
  readonly onAttempt: Loop["onAttempt"]
}

/** An awaited dispatch: it is over when its run and all that this has dispatched have ended. */
interface Root {
  readonly fibers: Set<Fiber.Fiber<void>>
}

/** A run from its claim to its end. */
interface Run {
  readonly key: string
  readonly message: JobMessage
  readonly steps: RunSteps
  readonly ended: Deferred.Deferred<void>
  readonly root: Root | undefined
  readonly isRemembered: boolean
  isScheduled: boolean
}

interface Engine {
  readonly runner: Runner
  readonly options: Options
  /** The Layer's own. Its runs have nothing of the context of who dispatches them. */
  readonly context: Context.Context<never>
  readonly clock: Clock.Clock
  readonly permits: Semaphore.Semaphore
  /** The ids of runs that have ended; those of the others are the keys of `runs`. */
  readonly ids: RememberedIds
  readonly runs: Map<string, Run>
  /** The runs in the background. The engine owns them: its close ends them. */
  readonly fibers: Map<Fiber.Fiber<void>, Run>
  readonly closing: Deferred.Deferred<void>
  closed: boolean
  dropped: number
}

/** The Dispatcher of a list of jobs in this process. It and the cron jobs' clocks live as long as the Scope. */
export const make = <const Jobs extends ReadonlyArray<Job.Any>>(
  jobs: Jobs,
  options: Options
): Effect.Effect<Dispatcher["Service"], never, Job.HandlerOf<Jobs[number]> | Scope.Scope> =>
  Effect.gen(function* () {
    const { concurrency, ids, name, onError } = options
    const dispatcher: Dispatcher["Service"] = {
      send: (requests) => Effect.suspend(() => send(engine, requests))
    }
    const context = yield* Effect.context<never>()
    yield* announce(name, { jobs: jobs.map(({ jobName }) => jobName), concurrency }, "Debug")
    const engine: Engine = {
      runner: yield* makeRunner(jobs, { name, dispatcher, onError }),
      options,
      context: ownServices(context),
      clock: Context.get(context, Clock.Clock),
      permits: Semaphore.makeUnsafe(concurrency),
      ids,
      runs: new Map(),
      fibers: new Map(),
      closing: Deferred.makeUnsafe(),
      closed: false,
      dropped: 0
    }
    yield* Effect.addFinalizer(() => close(engine))
    yield* tick(engine, jobs)
    return dispatcher
  })

/** The clocks of the cron jobs. */
const tick = (self: Engine, jobs: ReadonlyArray<Job.Any>): Effect.Effect<void, never, Scope.Scope> =>
  Effect.forEach(
    jobs,
    (job) => {
      const { trigger } = job
      if (trigger._tag !== "Cron") return Effect.void
      const records = trigger.clock.recordsInMemory()
      const offer = (message: JobMessage) =>
        Effect.suspend(() => {
          start(self, message, { delay: 0, isRemembered: true })
          const run = self.runs.get(runKey(message))
          const over = trigger.clock.tickEnded(records, job, message)
          return run === undefined || trigger.overlap !== "skip"
            ? over
            : Effect.asVoid(Effect.forkChild(Effect.andThen(Deferred.await(run.ended), over)))
        })
      return Effect.forkScoped(trigger.clock.runTicks(job, offer, records))
    },
    { discard: true }
  )

/** All requests are checked before any is acted on. */
const send = (self: Engine, requests: ReadonlyArray<DispatchRequest>): Effect.Effect<void, DispatchError> => {
  const { name, onRequest } = self.options
  if (self.closed) {
    const job = requests[0]?.message.name ?? ""
    return Effect.fail(
      DispatchError.of(new Unavailable({ job, engine: name, detail: "its scope is closed" }))
    )
  }
  const fanned: Array<{ readonly request: DispatchRequest; readonly messages: ReadonlyArray<JobMessage> }> =
    []
  for (const request of requests) {
    const messages = fanOut(self.runner, request)
    if (messages === undefined) return Effect.fail(unknownJob(request, name))
    fanned.push({ request, messages })
  }
  if (onRequest !== undefined) for (const request of requests) onRequest(request)
  return Effect.withFiber((fiber) => {
    const parent = runOf(self, fiber.context)
    const effects = fanned.flatMap(({ messages, request }) =>
      request.kind === "completion"
        ? [completed(self, request.message)]
        : messages.flatMap((message) => accepted(self, request, message, parent))
    )
    const [only, ...more] = effects
    if (only === undefined) return Effect.void
    return more.length === 0
      ? only
      : Effect.forEach(effects, identity, { concurrency: self.options.concurrency, discard: true })
  })
}

/** The run whose handler the caller is in, if it is in one. */
const runOf = (self: Engine, context: Context.Context<never>): Run | undefined => {
  const state = Context.getOrUndefined(context, CurrentRunState)
  return state === undefined ? undefined : self.runs.get(runKey({ name: state.job, id: state.id }))
}

/**
 * Forks a background run, or returns the run that the caller must await. A dispatch from within a run never waits, as on
 * every engine; the outermost dispatch waits for all of them.
 */
const accepted = (
  self: Engine,
  { generatedId = false, notBefore = 0 }: DispatchRequest,
  message: JobMessage,
  parent: Run | undefined
): ReadonlyArray<Effect.Effect<void>> => {
  const delay = Math.max(0, notBefore - self.clock.currentTimeMillisUnsafe())
  if (!self.options.background && delay === 0 && parent === undefined) {
    return [awaited(self, message, !generatedId)]
  }
  start(self, message, { delay, isRemembered: !generatedId, root: parent?.root })
  return []
}

/** Claims an id: gives a run for it, unless one is there or a remembered one has ended. */
const claim = (
  self: Engine,
  message: JobMessage,
  options: {
    readonly delay: number
    readonly isRemembered: boolean
    readonly root?: Root | undefined
    /** A run that its dispatch waits for has no place among those in the background. */
    readonly place?: Place.Place | undefined
  }
): Run | undefined => {
  const key = runKey(message)
  if (self.runs.has(key) || self.ids.has(key, self.clock.currentTimeMillisUnsafe())) return undefined
  const run: Run = {
    key,
    message,
    steps: inMemory(options.place?.away),
    ended: Deferred.makeUnsafe(),
    root: options.root,
    isRemembered: options.isRemembered,
    isScheduled: options.delay > 0
  }
  self.runs.set(key, run)
  return run
}

/** Ends a run. The id of an interrupted one isn't remembered, so that it may run again. */
const end = (self: Engine, run: Run, exit: Exit.Exit<unknown>): void => {
  self.runs.delete(run.key)
  if (run.isRemembered && Exit.isSuccess(exit)) {
    self.ids.add(run.key, self.clock.currentTimeMillisUnsafe())
  }
  Deferred.doneUnsafe(run.ended, Exit.void)
}

const start = (self: Engine, message: JobMessage, options: Parameters<typeof claim>[2]): void => {
  const place = Place.make(self.permits)
  const run = claim(self, message, { ...options, place })
  if (run === undefined) return
  const loop = runToEnd(
    loopOf(self, run, place.hold, (delay) => waitOrDrop(self, delay)),
    message
  )
  const due = Effect.suspend(() => {
    run.isScheduled = false
    return Effect.asVoid(loop)
  })
  const delayed =
    options.delay === 0 ? due : Effect.andThen(waitOrDrop(self, Duration.millis(options.delay)), due)
  const fiber = Effect.runForkWith(self.context)(delayed)
  self.fibers.set(fiber, run)
  run.root?.fibers.add(fiber)
  fiber.addObserver((exit) => {
    self.fibers.delete(fiber)
    run.root?.fibers.delete(fiber)
    end(self, run, exit)
  })
}

const loopOf = (self: Engine, run: Run, hold: Loop["hold"], sleep: Loop["sleep"]): Loop => ({
  runner: self.runner,
  steps: run.steps,
  sleep,
  hold,
  onAttempt: self.options.onAttempt
})

/**
 * Runs a message in the caller's fiber. Interrupting the dispatch interrupts the run, and all that it has dispatched. A
 * second dispatch of its id waits for its end.
 */
const awaited = (self: Engine, message: JobMessage, isRemembered: boolean): Effect.Effect<void> =>
  // the region is entered before the id is claimed: an interruption may come in any operation before
  Effect.uninterruptibleMask((restore) =>
    Effect.suspend(() => {
      const root: Root = { fibers: new Set() }
      const run = claim(self, message, { delay: 0, isRemembered, root })
      if (run === undefined) {
        const first = self.runs.get(runKey(message))
        return first === undefined || first.isScheduled ? Effect.void : restore(Deferred.await(first.ended))
      }
      const loop = Effect.updateContext(
        runToEnd(loopOf(self, run, identity, Effect.sleep), message),
        (_: Context.Context<never>) => self.context
      )
      return Effect.onExit(restore(loop), (exit) => Effect.sync(() => end(self, run, exit))).pipe(
        Effect.andThen(restore(settled(root))),
        Effect.onInterrupt(() => Fiber.interruptAll(root.fibers))
      )
    })
  )

/** Waits for all that the run has dispatched, and for what that has dispatched. */
const settled = (root: Root): Effect.Effect<void> =>
  Effect.whileLoop({
    while: () => root.fibers.size > 0,
    body: () => Fiber.awaitAll(root.fibers),
    step: () => {}
  })

/** Completes a deferred of a run. After the run's end the completion is lost, which is logged. */
const completed = (self: Engine, message: JobMessage): Effect.Effect<void> => {
  const run = self.runs.get(runKey(message))
  return run === undefined
    ? report(
        Effect.logWarning(
          `${self.options.name} got the completion of a deferred of "${message.name}" (id ${message.id}), which isn't running: it is lost.`
        )
      )
    : complete(run.steps, message)
}

/** Waits for the time of a background run. If the engine closes meanwhile, the run is dropped and counted. */
const waitOrDrop = (self: Engine, delay: Duration.Duration): Effect.Effect<void> =>
  Effect.raceFirst(
    Effect.sleep(delay),
    Effect.andThen(Deferred.await(self.closing), () => {
      self.dropped++
      return Effect.interrupt
    })
  )

const close = Effect.fnUntraced(function* (self: Engine) {
  const { name, shutdownTimeout } = self.options
  yield* Deferred.succeed(self.closing, undefined)
  const left = yield* endFibers(self.fibers, shutdownTimeout, self.clock)
  self.closed = true
  yield* reportLeft(name, shutdownTimeout, left)
  if (self.dropped > 0) {
    yield* report(
      Effect.logWarning(
        `${name} closed with ${plural(self.dropped, "run")} still waiting for their time or their retry: they are lost.`
      )
    )
  }
})
