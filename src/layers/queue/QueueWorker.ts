/**
 * Runs the messages that `QueueDispatcher` has queued: takes them, hands them to `Attempt`, and settles each by its
 * Outcome.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { PersistedQueueStore } from "effect/persistence/PersistedQueue"
import * as Schedule from "effect/Schedule"
import { makeRunner, type Runner } from "../../Attempt.ts"
import { InvalidPayload } from "../../DispatchError.ts"
import { Dispatcher, type JobMessage } from "../../Dispatcher.ts"
import { announce } from "../../internal/announce.ts"
import { checkedCount, checkedDuration } from "../../internal/checks.ts"
import { checkedName } from "../../internal/contract.ts"
import { summary } from "../../internal/describe.ts"
import { report } from "../../internal/isolated.ts"
import * as Suspension from "../../internal/Suspension.ts"
import { runTicks, tickEnded, type TickRecords } from "../../internal/ticks.ts"
import type * as Job from "../../Job.ts"
import { type Failed, type OnError, type Suspended, WorkerLost } from "../../Outcome.ts"
import * as Element from "./Element.ts"
import * as Extensions from "./Extensions.ts"
import * as Listeners from "./Listeners.ts"
import * as StepRecords from "./StepRecords.ts"
import * as Takers from "./Takers.ts"
import * as QueueTickRecords from "./TickRecords.ts"

export interface Options {
  /** The attempts that run at once in each queue of this worker, an integer of at least 1. Default 10. */
  readonly concurrency?: number | undefined
  /**
   * The attempts that run at once in a queue of this name, as in `{ media: 2 }`. The worker also takes from queues that
   * none of its jobs has, so that a job can move to another queue in a deploy. Default: `concurrency` each.
   */
  readonly queues?: Readonly<Record<string, number>> | undefined
  /**
   * How long the scope's close waits for attempts that run, once nothing more is taken. Then they are interrupted and
   * given back, which uses no attempt. Default 20 seconds.
   */
  readonly shutdownTimeout?: Duration.Input | undefined
  /**
   * Called with each run that has failed for good, after its job's `onFailure` and before it is stored as failed.
   * Default: logs at error level, without the payload.
   */
  readonly onError?: OnError | undefined
}

const name = "QueueWorker.layer"

/**
 * The worker of a list of jobs, listeners and cron jobs, on a `PersistedQueueStore`. It runs from when the Layer
 * is built until its scope closes. Handlers dispatch with the `Dispatcher` of its surroundings.
 *
 * - It takes from the queues of its jobs, each with a concurrency of its own, and claims only what it begins at once.
 * - At least once: a message whose worker dies comes again when its lock has expired (see `QueueStore`), and the
 *   lost attempt counts. Any number of workers may share a store.
 * - A message of a job that isn't in the list goes back for a worker that has it, and uses no attempt.
 * - A run that has failed for good stays in the store as failed, with its reason: see `DeadLetters`.
 * - An interrupted attempt is given back and doesn't count.
 * - Its listeners are made known in the store: an event reaches all that are known, whichever worker takes it.
 * - Cron jobs tick in every worker, and each tick is run by one: its id is the job's name and the time.
 *
 * Dies with a `DefinitionError` if an option or the list of jobs is invalid.
 */
export const layer = <const Jobs extends ReadonlyArray<Job.Any>>(
  jobs: Jobs,
  options: Options = {}
): Layer.Layer<never, never, Job.HandlerOf<Jobs[number]> | Dispatcher | PersistedQueueStore> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const lanes = lanesOf(jobs, options)
      const shutdownTimeout = checkedDuration(
        options.shutdownTimeout ?? "20 seconds",
        `The shutdownTimeout of ${name}`
      )
      yield* announce(name, {
        jobs: jobs.map(({ jobName }) => jobName),
        queues: Object.fromEntries(lanes)
      })
      const store = yield* PersistedQueueStore
      const dispatcher = yield* Dispatcher
      const runner = yield* makeRunner(jobs, { name, dispatcher, onError: options.onError })
      const self: Worker = {
        runner,
        store,
        steps: yield* StepRecords.make,
        listeners: yield* Listeners.make(jobs),
        ticks: yield* QueueTickRecords.make,
        suspensions: new Set(),
        lanes,
        running: new Map(),
        unknownLoggedAt: new Map()
      }
      yield* Takers.run({
        name,
        store,
        shutdownTimeout,
        // a run that waits isn't waited for
        onClose: Effect.sync(() => {
          for (const { suspendNow } of self.suspensions) suspendNow()
        }),
        lanes: [...lanes, [Element.eventQueue, eventsAtOnce] as const].map(([queue, concurrency]) => ({
          queue,
          concurrency,
          handle: (item) =>
            queue === Element.eventQueue
              ? fanOut(self, item)
              : counted(self, queue, runItem(self, queue, item))
        }))
      })
      for (const job of jobs) {
        if (job.trigger._tag !== "Cron") continue
        yield* Effect.forkScoped(
          runTicks(
            job,
            (message) => Effect.retry(offerNow(self, message, job.queue), { schedule: offerAgain }),
            self.ticks
          )
        )
      }
    })
  )

/** The queues of the jobs and those that are named, each with its concurrency. */
const lanesOf = (jobs: ReadonlyArray<Job.Any>, options: Options): ReadonlyMap<string, number> => {
  const concurrency = checkedCount(options.concurrency ?? 10, `The concurrency of ${name}`)
  const lanes = new Map(jobs.map(({ queue }) => [queue, concurrency]))
  for (const [queue, count] of Object.entries(options.queues ?? {})) {
    lanes.set(
      checkedName(queue, "queue"),
      checkedCount(count, `The concurrency of the queue "${queue}" of ${name}`)
    )
  }
  return lanes
}

/** The events that are handed on at once. No handler runs in it, so a few are enough. */
const eventsAtOnce = 4

/** After how many milliseconds a run that waits for a deferred looks again if nothing wakes it: the older it is, the later. */
const relook = (waited: number): number => Math.min(30_000, Math.max(1_000, waited / 10))
/** The same on a store that wakes it: a worker may have died between a completion and the wake-up. */
const relookIfWoken = 300_000

interface Worker {
  readonly runner: Runner
  readonly store: PersistedQueueStore["Service"]
  readonly steps: StepRecords.StepRecords
  readonly listeners: Listeners.Listeners
  readonly ticks: TickRecords
  /** The attempts that run now. */
  readonly suspensions: Set<Suspension.Suspension>
  /** The concurrency of each queue, and how many of its messages are in the hands of takers. */
  readonly lanes: ReadonlyMap<string, number>
  readonly running: Map<string, number>
  readonly unknownLoggedAt: Map<string, number>
}

/** The pauses between offers of a tick, until the store takes it: a quarter of a second, doubling, at most 10 seconds. */
const offerAgain = Schedule.min([Schedule.exponential("250 millis"), Schedule.spaced("10 seconds")])

const offerNow = (self: Worker, message: JobMessage, queue: string) =>
  Effect.flatMap(Element.messageElement(message, { queue }), (element) => self.store.offer(element))

const runItem = (self: Worker, queue: string, item: Element.Item): Effect.Effect<Element.Settlement> => {
  const message = item.element
  if (!Element.isJobMessage(message)) return notOurs(queue, item)
  const job = self.runner.get(message.name)
  return job === undefined
    ? unknownJob(self, message, item.attempts)
    : Effect.flatMap(self.steps.attemptOf(message, item.attempts), (attempt) =>
        runJob(self, job, { message, attempt, claim: item.attempts, parked: { queue, id: item.id } })
      )
}

const counted = <A>(self: Worker, queue: string, handled: Effect.Effect<A>): Effect.Effect<A> => {
  const count = (by: number) =>
    Effect.sync(() => void self.running.set(queue, (self.running.get(queue) ?? 0) + by))
  return Effect.acquireUseRelease(
    count(1),
    () => handled,
    () => count(-1)
  )
}

/** A message in the hands of a taker. */
interface Claimed {
  readonly message: JobMessage
  readonly attempt: number
  /** How often the store has given it out. */
  readonly claim: number
  readonly parked: StepRecords.Parked
}

const runJob = (
  self: Worker,
  job: Job.Any,
  { attempt, claim, message, parked }: Claimed
): Effect.Effect<Element.Settlement> => {
  const { attempts } = job.retry
  if (attempt > attempts) {
    return Effect.flatMap(self.steps.hasFailed(message, claim), (hasFailed) => {
      const lost = new WorkerLost({ job: job.jobName, id: message.id, attempt: attempts })
      const cause = hasFailed
        ? Cause.die(new Error(`its policy allows ${attempts} attempts now, and ${attempt - 1} have failed`))
        : Cause.die(lost)
      // a worker that dies in onFailure, again and again, isn't given the message for ever
      const skipOnFailure = attempt > attempts + 3
      return fail(
        self,
        message,
        { attempt: attempts, claim, skipOnFailure },
        { _tag: "Failed", reason: "AttemptsExhausted", cause }
      )
    })
  }
  const { queue } = parked
  // all slots of its queue are taken: who waits in one is in the way
  const suspension = Suspension.make(() => (self.running.get(queue) ?? 0) >= (self.lanes.get(queue) ?? 1))
  const steps = self.steps.of(message, suspension)
  self.suspensions.add(suspension)
  return Effect.flatMap(
    Effect.ensuring(
      self.runner.attemptOrSuspend(message, { attempt, steps, suspension }),
      Effect.sync(() => self.suspensions.delete(suspension))
    ),
    (outcome) => {
      switch (outcome._tag) {
        case "Succeeded":
          return Effect.as(runEnded(self, message), {
            _tag: "Complete",
            after: self.steps.ended(message, claim)
          } satisfies Element.Settlement)
        case "Retry":
          return Effect.andThen(
            self.steps.failed(message, claim),
            Effect.map(note(self, message, "Retry", outcome.cause), (note): Element.Settlement => ({
              _tag: "Retry",
              delay: outcome.delay,
              note
            }))
          )
        case "Suspended":
          return park(self, { message, attempt, claim, parked }, outcome)
        case "Failed":
          return fail(self, message, { attempt, claim, skipOnFailure: false }, outcome)
      }
    }
  )
}

/**
 * Parks a suspended run. It comes again at its time, when it is woken, or to look for itself. If the store can't park, a
 * record says that the claim was no attempt.
 */
const park = Effect.fnUntraced(function* (
  self: Worker,
  { claim, message, parked }: Claimed,
  { isAsking, until = Number.POSITIVE_INFINITY }: Suspended
): Effect.fn.Return<Element.Settlement> {
  const { wake } = Extensions.extensionsOf(self.store)
  yield* self.steps.parked(message, parked)
  if (wake === undefined) yield* self.steps.uncounted(message, claim)
  const now = yield* Clock.currentTimeMillis
  const look = wake === undefined ? relook(now - message.dispatchedAt) : relookIfWoken
  const delay = isAsking ? Math.min(until - now, look) : until - now
  return { _tag: "Park", delay: Duration.millis(Math.max(0, delay)) }
})

/** Before the settlement: the next tick of a cron job may begin. */
const runEnded = (self: Worker, message: JobMessage): Effect.Effect<void> => {
  const job = self.runner.get(message.name)
  return job?.trigger._tag === "Cron" ? tickEnded(self.ticks, job, message) : Effect.void
}

/** The steps stay with the dead letter, so that its retry repeats none. */
const fail = Effect.fnUntraced(function* (
  self: Worker,
  message: JobMessage,
  run: { readonly attempt: number; readonly claim: number; readonly skipOnFailure: boolean },
  failed: Failed
): Effect.fn.Return<Element.Settlement> {
  const { attempt, claim, skipOnFailure } = run
  yield* self.runner.failed(message, failed, { attempt, steps: self.steps.of(message), skipOnFailure })
  yield* self.steps.ended(message, claim, { keepSteps: true })
  yield* runEnded(self, message)
  return { _tag: "Dead", note: yield* note(self, message, failed.reason, failed.cause) }
})

const note = (
  self: Worker,
  message: JobMessage,
  reason: string,
  cause: Cause.Cause<unknown>
): Effect.Effect<Element.Note> =>
  Effect.map(self.runner.encodeFailure(message.name, cause), ({ json, typed }) => ({
    reason,
    message: summary(cause, typed ? json : undefined),
    failure: json
  }))

/** The message waits for a worker that has the job: from a second, doubling, to half a minute. The claim was no attempt. */
const unknownJob = Effect.fnUntraced(function* (
  self: Worker,
  message: JobMessage,
  claim: number
): Effect.fn.Return<Element.Settlement> {
  yield* self.steps.uncounted(message, claim)
  const now = yield* Clock.currentTimeMillis
  const unknownSince = now - message.dispatchedAt
  if (unknownSince > unknownFor && now - (self.unknownLoggedAt.get(message.name) ?? 0) > unknownLogEvery) {
    self.unknownLoggedAt.set(message.name, now)
    const days = Math.floor(unknownSince / unknownLogEvery)
    yield* report(
      Effect.logWarning(
        `${name} doesn't have the job "${message.name}", whose message "${message.id}" no worker has run for ${days} days.`
      )
    )
  }
  return {
    _tag: "Retry",
    delay: Duration.seconds(Math.min(30, 2 ** Math.min(claim - 1, 5))),
    note: { reason: "UnknownJob", message: `no worker has taken it yet that has the job "${message.name}"` }
  }
})

/** After a week it is said, once a day. */
const unknownFor = Duration.toMillis("7 days")
const unknownLogEvery = Duration.toMillis("1 day")

/** An element that isn't a message, for something else has written it. */
const notOurs = (queue: string, item: Element.Item): Effect.Effect<Element.Settlement> => {
  const error = new InvalidPayload({
    job: queue,
    id: item.id,
    issues: [{ path: "", message: "it isn't a message of a job" }]
  })
  return Effect.as(report(Effect.logError(error.message)), {
    _tag: "Dead",
    note: { reason: "InvalidPayload", message: error.message }
  })
}

/**
 * How often an event is looked at that has no listener, at most once a minute: for a week. A deploy may start publishers
 * before listeners.
 */
const unheardLooks = 7 * 24 * 60

/**
 * Makes a message for each listener of an event, in the listener's own queue and under the event's id. Fanned out again
 * after a crash, each is already there.
 */
const fanOut = (self: Worker, item: Element.Item): Effect.Effect<Element.Settlement> => {
  const message = item.element
  if (!Element.isJobMessage(message)) return notOurs(Element.eventQueue, item)
  const again = (reason: string, said: string): Element.Settlement => ({
    _tag: "Retry",
    delay: Duration.seconds(Math.min(60, 2 ** Math.min(item.attempts, 6))),
    note: { reason, message: said }
  })
  return Effect.gen(function* () {
    const listeners = yield* self.listeners.of(message.name)
    if (listeners.size === 0) {
      return item.attempts > unheardLooks ? Element.complete : again("Unheard", "no listener is known yet")
    }
    yield* Effect.forEach(
      listeners,
      ([listener, queue]) => offerNow(self, { ...message, name: listener }, queue),
      { discard: true }
    )
    return Element.complete
  }).pipe(Effect.catch((error) => Effect.succeed(again("Unavailable", error.message))))
}
