// What there is to do, as contracts. Whoever dispatches or publishes needs this file alone.
import { CronJob, DomainEvent, Job, Listener, RetryPolicy } from "effect-jobs"
import { Schema } from "effect"
import { MailError, Subscriber } from "./model.ts"

const retry = RetryPolicy.exponential({
  attempts: 4,
  initialDelay: "200 millis",
  maxDelay: "1 minute",
  while: (error: MailError) => error.isTemporary
})

export class SendWelcome extends Job.make("mail.welcome", {
  payload: Subscriber,
  error: MailError,
  retry,
  timeout: "30 seconds",
  idempotencyKey: ({ email }) => `welcome/${email}`
}) {}

export class SendIssue extends Job.make("mail.issue", {
  payload: { issue: Schema.String, title: Schema.String, to: Subscriber },
  error: MailError,
  retry,
  timeout: "30 seconds",
  idempotencyKey: ({ issue, to }) => `${issue}/${to.email}`
}) {}

export class PostPublished extends DomainEvent.make("post.published", {
  payload: { issue: Schema.String, title: Schema.String }
}) {}

export class EnqueueIssue extends Listener.make("posts.enqueue-issue", {
  event: PostPublished,
  retry: { attempts: 3 }
}) {}

export class WeeklyDigest extends CronJob.make("mail.weekly-digest", {
  cron: "0 9 * * 1",
  timeZone: "Europe/London",
  retry: { attempts: 3 }
}) {}

export class ImportSubscribers extends Job.make("subscribers.import", {
  payload: { file: Schema.String, batch: Schema.Int },
  success: Schema.Int,
  retry: RetryPolicy.fixed({ attempts: 5, delay: "1 second" }),
  idempotencyKey: ({ file }) => `import/${file}`
}) {}

export const jobs = [SendWelcome, SendIssue, EnqueueIssue, WeeklyDigest, ImportSubscribers] as const
