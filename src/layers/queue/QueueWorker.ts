/**
 * Runs what `QueueDispatcher` has queued: takes messages, hands them to `Attempt`, and settles each as its
 * Outcome says.
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { PersistedQueueStore } from "effect/persistence/PersistedQueue"
import * as Schedule from "effect/Schedule"
import { makeRunner, type Runner } from "../../Attempt.ts"
import { type Failed, type OnError, WorkerLost } from "../../Outcome.ts"
import { runTicks, tickEnded, type TickRecords } from "../../internal/ticks.ts"
import { Dispatcher, type JobMessage } from "../../Dispatcher.ts"
import { InvalidPayload } from "../../DispatchError.ts"
import { announce } from "../../internal/announce.ts"
import { summary } from "../../internal/describe.ts"
import type * as Job from "../../Job.ts"
import { checkedCount, checkedDuration } from "../../internal/checks.ts"
import * as Element from "./Element.ts"
import * as StepRecords from "./StepRecords.ts"
import * as Takers from "./Takers.ts"
import * as QueueTickRecords from "./TickRecords.ts"

export interface Options {
  /**
   * How many attempts run at once in this worker, over all of its jobs. Default 10. Messages that are claimed
   * and wait for a free place aren't counted; they are given back after a second.
   */
  readonly concurrency?: number | undefined
  /**
   * How long the scope's close waits for what runs, once nothing more is taken. Then it is interrupted and
   * given back, which uses no attempt. Default 30 seconds.
   */
  readonly shutdownTimeout?: Duration.Input | undefined
  /**
   * Gets each job that has failed for good, after its `onFailure` and before it is stored as failed. Default:
   * logs at error level, without the payload.
   */
  readonly onError?: OnError | undefined
}

/**
 * The worker of a list of jobs, listeners and cron jobs, on a `PersistedQueueStore`. It runs from when the Layer
 * is built until its scope closes. Handlers dispatch with the `Dispatcher` of its surroundings.
 *
 * - At least once: a message whose worker dies comes again when its lock has expired (see `QueueStore`), and the
 *   lost run counts as an attempt. Any number of workers may share a store.
 * - What has failed for good stays in the store as failed, with its reason: see `DeadLetters`.
 * - An interrupted run is given back and uses no attempt.
 * - An event's messages go to the listeners in this list, so all listeners of one event belong into one list.
 * - Cron jobs tick in every worker, and each tick is run by one: its id is the job's name and the time.
 */
export const layer = <const Jobs extends ReadonlyArray<Job.Any>>(
  jobs: Jobs,
  options: Options = {}
): Layer.Layer<never, never, Job.HandlerOf<Jobs[number]> | Dispatcher | PersistedQueueStore> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const concurrency = checkedCount(options.concurrency ?? 10, "The concurrency of QueueWorker.layer")
      const shutdownTimeout = checkedDuration(
        options.shutdownTimeout ?? "30 seconds",
        "The shutdownTimeout of QueueWorker.layer"
      )
      yield* announce("QueueWorker.layer", { jobs: jobs.map(({ jobName }) => jobName), concurrency })
      const store = yield* PersistedQueueStore
      const dispatcher = yield* Dispatcher
      const runner = yield* makeRunner(jobs, {
        name: "QueueWorker.layer",
        dispatcher,
        onError: options.onError
      })
      const steps = yield* StepRecords.make
      const ticks = yield* QueueTickRecords.make
      const self: Worker = { runner, store, steps, ticks }
      const events = new Set(jobs.flatMap(({ trigger }) => (trigger._tag === "Event" ? [trigger.event] : [])))
      yield* Takers.run({
        name: "QueueWorker.layer",
        store,
        concurrency,
        shutdownTimeout,
        onClose: Effect.void,
        sources: [
          ...jobs.map((job) => ({
            queue: Element.jobQueue(job.jobName),
            handle: (item: Element.Item) => runJob(self, job, item)
          })),
          ...Array.from(events, (event) => ({
            queue: Element.eventQueue(event),
            handle: (item: Element.Item) => fanOut(self, event, item)
          }))
        ]
      })
      for (const job of jobs) {
        if (job.trigger._tag !== "Cron") continue
        yield* Effect.forkScoped(
          runTicks(
            job,
            (message) => Effect.retry(offerNow(self, message), { schedule: offerAgain }),
            self.ticks
          )
        )
      }
    })
  )

interface Worker {
  readonly runner: Runner
  readonly store: PersistedQueueStore["Service"]
  readonly steps: StepRecords.StepRecords
  readonly ticks: TickRecords
}

/** A tick is offered until the store takes it: a quarter of a second, doubling, at most 10 seconds. */
const offerAgain = Schedule.min([Schedule.exponential("250 millis"), Schedule.spaced("10 seconds")])

const offerNow = (self: Worker, message: JobMessage) =>
  Element.offer(self.store, {
    queue: Element.jobQueue(message.name),
    id: message.id,
    element: message
  })

const runJob = (self: Worker, job: Job.Any, item: Element.Item): Effect.Effect<Element.Settlement> => {
  const message = item.element
  if (!Element.isJobMessage(message) || message.name !== job.jobName) return notOurs(job.jobName, item)
  const { attempts } = job.retry
  if (item.attempts > attempts) {
    const cause = Cause.die(new WorkerLost({ job: job.jobName, id: message.id, attempt: attempts }))
    return fail(
      self,
      message,
      attempts,
      { _tag: "Failed", reason: "AttemptsExhausted", cause },
      {
        // a worker that dies in onFailure, again and again, isn't given the message for ever
        giveUp: item.attempts <= attempts + 3
      }
    )
  }
  const run = { attempt: item.attempts, steps: self.steps.of(message) }
  return Effect.flatMap(self.runner.attempt(message, run), (outcome) => {
    switch (outcome._tag) {
      case "Succeeded":
        return Effect.mapEager(ended(self, message), () => Element.complete)
      case "Retry":
        return Effect.map(note(self, message, "Retry", outcome.cause), (note): Element.Settlement => ({
          _tag: "Retry",
          delay: outcome.delay,
          note
        }))
      case "Failed":
        return fail(self, message, item.attempts, outcome, { giveUp: true })
    }
  })
}

/** The run is over: nothing of it is needed any more. */
const ended = (self: Worker, message: JobMessage): Effect.Effect<void> => {
  const job = self.runner.get(message.name)
  const steps = self.steps.ended(message)
  return job?.trigger._tag === "Cron" ? Effect.andThen(steps, tickEnded(self.ticks, job, message)) : steps
}

const fail = (
  self: Worker,
  message: JobMessage,
  attempt: number,
  failed: Failed,
  options: { readonly giveUp: boolean }
): Effect.Effect<Element.Settlement> =>
  Effect.gen(function* () {
    const { cause } = failed
    yield* self.runner.failed(message, failed, {
      attempt,
      steps: self.steps.of(message),
      skipOnFailure: !options.giveUp
    })
    yield* ended(self, message)
    return { _tag: "Dead", note: yield* note(self, message, failed.reason, cause) }
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

/** What lies in the queue of a job and isn't a message of it: written by something else. */
const notOurs = (queue: string, item: Element.Item): Effect.Effect<Element.Settlement> => {
  const error = new InvalidPayload({
    job: queue,
    id: item.id,
    issues: [{ path: "", message: "it isn't a message of this job" }]
  })
  return Effect.as(Effect.logError(error.message), {
    _tag: "Dead",
    note: { reason: "InvalidPayload", message: error.message }
  })
}

/**
 * An event's message becomes one a listener, in the listener's own queue and under the event's id: fanned out
 * again after a crash, each is already there.
 */
const fanOut = (self: Worker, event: string, item: Element.Item): Effect.Effect<Element.Settlement> => {
  const message = item.element
  if (!Element.isJobMessage(message) || message.name !== event) {
    return notOurs(Element.eventQueue(event), item)
  }
  return Effect.forEach(
    self.runner.listeners(event),
    ({ jobName }) => offerNow(self, { ...message, name: jobName }),
    { discard: true }
  ).pipe(
    Effect.as(Element.complete),
    Effect.catch((error) =>
      Effect.succeed<Element.Settlement>({
        _tag: "Retry",
        delay: Duration.seconds(Math.min(60, 2 ** Math.min(item.attempts, 6))),
        note: { reason: "Unavailable", message: error.message }
      })
    )
  )
}
