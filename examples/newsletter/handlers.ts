// How it is done: one Layer a job. What a handler needs is a service, and main.ts provides it.
import { Job } from "effect-jobs"
import { Cause, DateTime, Effect, Layer, Stream } from "effect"
import { EnqueueIssue, SendIssue, SendWelcome, WeeklyDigest } from "./jobs.ts"
import { type Mail, Mailer } from "./Mailer.ts"
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

export const handlers = Layer.mergeAll(SendWelcomeLive, SendIssueLive, EnqueueIssueLive, WeeklyDigestLive)
