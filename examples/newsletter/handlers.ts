// How it is done: one Layer a job. What a handler needs is a service, and main.ts provides it.
import { Job } from "effect-jobs"
import { Cause, Console, DateTime, Effect, Layer, Schema, Stream } from "effect"
import { Activity, DurableClock } from "effect/workflow"
import { EnqueueIssue, ImportSubscribers, SendIssue, SendWelcome, WeeklyDigest } from "./jobs.ts"
import { type Mail, Mailer } from "./Mailer.ts"
import { Registry } from "./Registry.ts"
import { Subscribers } from "./Subscribers.ts"
import { Summary } from "./Summary.ts"

/** The run's id is the same on every attempt, and so is the mail's: a mail that is sent twice is one mail. */
const deliver = Effect.fn("deliver")(function* (mail: Omit<Mail, "id">) {
  const mailer = yield* Mailer
  const summary = yield* Summary
  const run = yield* Job.CurrentRun
  yield* mailer.send({ id: run.id, ...mail })
  yield* summary.sent(run)
})

const gaveUp = Effect.fn("gaveUp")(function* (cause: Cause.Cause<unknown>) {
  const summary = yield* Summary
  const run = yield* Job.CurrentRun
  yield* summary.failed(run, Cause.prettyErrors(cause)[0]?.message ?? "interrupted")
})

/** One mail job a subscriber. To do it again is harmless, for the ids are the same. */
const enqueueForAll = Effect.fn("enqueueForAll")(function* (issue: string, title: string) {
  const subscribers = yield* Subscribers
  const summary = yield* Summary
  yield* subscribers.all.pipe(
    Stream.grouped(100),
    Stream.mapEffect((group) => SendIssue.dispatchAll(group.map((to) => ({ issue, title, to })))),
    Stream.runForEach(summary.accepted)
  )
  yield* summary.done(yield* Job.CurrentRun)
})

const SendWelcomeLive = SendWelcome.toLayer(
  ({ email, joinedAt, name }) =>
    deliver({
      to: { name, address: email },
      subject: "Welcome",
      text: `Dear ${name},\n\nyou have been with us since ${DateTime.formatIsoDateUtc(joinedAt)}.\n`
    }),
  { onFailure: (_, cause) => gaveUp(cause) }
)

const SendIssueLive = SendIssue.toLayer(
  ({ title, to }) =>
    deliver({
      to: { name: to.name, address: to.email },
      subject: title,
      text: `Dear ${to.name},\n\nthe new issue is out: ${title}.\n`
    }),
  { onFailure: (_, cause) => gaveUp(cause) }
)

const EnqueueIssueLive = EnqueueIssue.toLayer(({ issue, title }) => enqueueForAll(issue, title), {
  onFailure: (_, cause) => gaveUp(cause)
})

const WeeklyDigestLive = WeeklyDigest.toLayer(({ scheduledAt }) => {
  const day = DateTime.formatIsoDateUtc(scheduledAt)
  return enqueueForAll(`digest-${day}`, `The week before ${day}`)
})

/**
 * A large file as one job: each batch is an activity, so what is in the registry isn't written again when the job
 * is, and between two batches it pauses, for a fifth of a second in all however often it is interrupted.
 */
const ImportSubscribersLive = ImportSubscribers.toLayer(
  Effect.fn("ImportSubscribers")(function* ({ batch, file }) {
    const registry = yield* Registry
    const batches = yield* Subscribers.read(file).pipe(
      Stream.grouped(batch),
      Stream.runCollect,
      Effect.provide(Summary.layer)
    )
    let imported = 0
    for (const [n, subscribers] of batches.entries()) {
      const count = yield* Activity.make({
        name: `batch ${n + 1}`,
        success: Schema.Int,
        execute: Effect.orDie(registry.add(file, n + 1, subscribers))
      })
      yield* Console.log(`batch ${n + 1} of ${batches.length} is in: ${count} subscribers`)
      imported += count
      yield* DurableClock.sleep({
        name: `after batch ${n + 1}`,
        duration: "200 millis",
        inMemoryThreshold: 0
      })
    }
    const summary = yield* Summary
    yield* summary.done(yield* Job.CurrentRun)
    return imported
  }),
  { onFailure: (_, cause) => gaveUp(cause) }
)

export const handlers = Layer.mergeAll(
  SendWelcomeLive,
  SendIssueLive,
  EnqueueIssueLive,
  WeeklyDigestLive,
  ImportSubscribersLive
)
