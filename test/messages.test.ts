// Every refusal as a user meets it in a terminal. Each is a full sentence that says what, where and how else.
import { it } from "@effect/vitest"
import { Cause, Duration, Effect, Exit, Fiber, Layer, Schedule, Schema } from "effect"
import { TestClock } from "effect/testing"
import {
  Outcome,
  CronJob,
  type DispatchError,
  Dispatcher,
  DomainEvent,
  InlineDispatcher,
  Job,
  Listener,
  PayloadTooLarge,
  Rejected,
  RetryPolicy,
  Unavailable
} from "effect-jobs"
import { makeRunner } from "effect-jobs/engine"
import { InngestClient, InngestWorker } from "effect-jobs/inngest"
import { QueueStore, QueueWorker } from "effect-jobs/queue"
import { describe, expect } from "vitest"
import { checkedJobs } from "../src/internal/compiled.ts"

/** What someone without types may write. */
const untyped = (value: unknown): never =>
  // sound: it is what these tests are about
  value as never

const thrown = (make: () => unknown): string => {
  try {
    make()
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
  return "nothing was thrown"
}

const death = <A, E>(effect: Effect.Effect<A, E>) =>
  Effect.map(Effect.exit(effect), (exit) =>
    Exit.isFailure(exit) ? (Cause.prettyErrors(exit.cause)[0]?.message ?? "") : "it was built"
  )

class Mail extends Job.make("mail.welcome", {
  payload: { to: Schema.Struct({ email: Schema.String }), tags: Schema.Array(Schema.Int) },
  timeout: "1 second",
  retry: { attempts: 3 }
}) {}
class Other extends Job.make("mail.other", { payload: {} }) {}
const MailLive = Mail.toLayer(() => Effect.void)

describe("messages", () => {
  it("of definitions that can't be", () => {
    const payload = { a: Schema.String }
    expect(
      [
        () => Job.make("", { payload }),
        () => Job.make("Mail Welcome", { payload }),
        () => Job.make("a".repeat(201), { payload }),
        () => Job.make("mail", { payload: untyped(Schema.String) }),
        () => Job.make("mail", { payload: untyped({ a: "string" }) }),
        () => Job.make("mail", { payload, retry: { attempts: -3 } }),
        () => Job.make("mail", { payload, retry: { attempts: 1.5 } }),
        () => Job.make("mail", { payload, timeout: 0 }),
        () => Job.make("mail", { payload, timeout: "-1 seconds" }),
        () => Job.make("mail", { payload, timeout: untyped("soon") }),
        () => DomainEvent.make("Post Published", { payload }),
        () => DomainEvent.make("post.published", { payload: untyped("text") }),
        () => Listener.make("On Published", { event: DomainEvent.make("post.published", { payload }) }),
        () => RetryPolicy.fixed({ attempts: 2, delay: Duration.infinity }),
        () => RetryPolicy.fixed({ attempts: 2, delay: "-1 seconds" }),
        () => RetryPolicy.exponential({ attempts: 2, initialDelay: 1, factor: 0.5 }),
        () => RetryPolicy.make({ attempts: 2, jitter: 2 }),
        () => RetryPolicy.fromSchedule(Schedule.forever),
        () => CronJob.make("Every Day", { cron: "0 9 * * *" }),
        () => CronJob.make("daily", { cron: "0 9 * *" }),
        () => CronJob.make("daily", { cron: "0 25 * * *" }),
        () => CronJob.make("daily", { cron: "0 0 30 2 *" }),
        () => CronJob.make("daily", { cron: "0 9 * * *", timeZone: "Europe/Londn" }),
        () => checkedJobs([Mail, Other, Mail])
      ].map(thrown)
    ).toMatchInlineSnapshot(`
      [
        """ can't be the name of a job: use words of a-z and 0-9 joined by ".", "-", "_" or "/", as in "mail.welcome".",
        ""Mail Welcome" can't be the name of a job: use words of a-z and 0-9 joined by ".", "-", "_" or "/", as in "mail.welcome".",
        "The name of a job has at most 200 characters, and "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…" has 201.",
        "The payload of the job "mail" must be struct fields, or a schema whose JSON is an object, as in { email: Schema.String }.",
        "The payload of the job "mail" must be struct fields, or a schema whose JSON is an object, as in { email: Schema.String }.",
        "A retry policy's attempts must be an integer of at least 1 (the first run counts), not -3.",
        "A retry policy's attempts must be an integer of at least 1 (the first run counts), not 1.5.",
        "The timeout of the job "mail" must be longer than nothing.",
        "The timeout of the job "mail" must be a duration of 0 to 36525 days, not "-1 seconds".",
        "The timeout of the job "mail" must be a duration of 0 to 36525 days, not "soon".",
        ""Post Published" can't be the name of a domain event: use words of a-z and 0-9 joined by ".", "-", "_" or "/", as in "mail.welcome".",
        "The payload of the domain event "post.published" must be struct fields, or a schema whose JSON is an object, as in { email: Schema.String }.",
        ""On Published" can't be the name of a listener: use words of a-z and 0-9 joined by ".", "-", "_" or "/", as in "mail.welcome".",
        "A retry policy's delay must be a duration of 0 to 36525 days, not Infinity.",
        "A retry policy's delay must be a duration of 0 to 36525 days, not "-1 seconds".",
        "A retry policy's factor must be a finite number of at least 1, not 0.5.",
        "A retry policy's jitter must be from 0 to 1, not 2.",
        "A retry policy from a schedule that never ends needs attempts: say how many runs there may be.",
        ""Every Day" can't be the name of a cron job: use words of a-z and 0-9 joined by ".", "-", "_" or "/", as in "mail.welcome".",
        ""0 9 * *" can't be the schedule of the cron job "daily": it must have five fields (minute, hour, day of the month, month, day of the week), as in "0 9 * * 1-5".",
        ""0 25 * * *" can't be the schedule of the cron job "daily": Expected a value between 0 and 23.",
        ""0 0 30 2 *" can't be the schedule of the cron job "daily": no date fits it.",
        ""Europe/Londn" can't be the time zone of the cron job "daily": use an IANA name, as in "Europe/London".",
        "The job "mail.welcome" is in the list twice: leave one out.",
      ]
    `)
  })

  it.effect("of layers that can't be built", () =>
    Effect.gen(function* () {
      const inline = (options: InlineDispatcher.Options) =>
        death(Effect.scoped(Layer.build(Layer.provide(InlineDispatcher.layer([Mail], options), MailLive))))
      class Slow extends Job.make("mail.slow", {
        payload: {},
        retry: RetryPolicy.fixed({ attempts: 2, delay: "500 days" })
      }) {}
      const SlowLive = Slow.toLayer(() => Effect.void)
      class Many extends Job.make("mail.many", { payload: {}, retry: { attempts: 30 } }) {}
      const ManyLive = Many.toLayer(() => Effect.void)
      const noDispatcher = Layer.succeed(Dispatcher, { send: () => Effect.void })
      expect([
        yield* death(
          Effect.scoped(Layer.build(Layer.provide(InlineDispatcher.layer([Mail, Mail]), MailLive)))
        ),
        yield* inline({ concurrency: 0 }),
        yield* inline({ shutdownTimeout: "-1 seconds" }),
        yield* inline({ deduplication: { capacity: 1.5 } }),
        yield* inline({ deduplication: { timeToLive: "-1 seconds" } }),
        yield* death(
          Effect.scoped(
            Layer.build(
              QueueWorker.layer([Mail], { concurrency: 0.5 }).pipe(
                Layer.provide([MailLive, noDispatcher, QueueStore.layerMemory])
              )
            )
          )
        ),
        yield* death(
          Effect.scoped(InngestWorker.functions([Many])).pipe(
            Effect.provide([ManyLive, noDispatcher, InngestClient.layer({ id: "a", isDev: true })])
          )
        ),
        yield* death(
          Effect.scoped(InngestWorker.functions([Slow])).pipe(
            Effect.provide([SlowLive, noDispatcher, InngestClient.layer({ id: "a", isDev: true })])
          )
        )
      ]).toMatchInlineSnapshot(`
        [
          "The job "mail.welcome" is in the list twice: leave one out.",
          "The concurrency of InlineDispatcher.layer must be an integer of at least 1, not 0.",
          "The shutdownTimeout of InlineDispatcher.layer must be a duration of 0 to 36525 days, not "-1 seconds".",
          "The deduplication.capacity of InlineDispatcher.layer must be an integer of at least 1, not 1.5.",
          "The deduplication.timeToLive of InlineDispatcher.layer must be a duration of 0 to 36525 days, not "-1 seconds".",
          "The concurrency of QueueWorker.layer must be an integer of at least 1, not 0.5.",
          ""mail.many" can't have 30 attempts on Inngest: it has at most 21 (20 retries).",
          ""mail.slow" can't wait for 500d after attempt 1 on Inngest: a retry comes after 1d at most.",
        ]
      `)
    })
  )

  it.effect("of dispatches that can't be", () =>
    Effect.gen(function* () {
      const inline = Layer.provide(InlineDispatcher.layer([Mail]), MailLive)
      const payload = { to: { email: "a" }, tags: [] }
      const of = (dispatch: Effect.Effect<unknown, DispatchError, Dispatcher>) =>
        Effect.map(Effect.flip(Effect.provide(dispatch, inline)), ({ message }) => message)
      expect([
        yield* of(Mail.dispatch(untyped({ to: {}, tags: [1, "2"] }))),
        yield* of(Mail.dispatch(untyped("text"))),
        yield* of(Mail.dispatch(payload, { id: "" })),
        yield* of(Mail.dispatch(payload, { id: "x".repeat(256) })),
        yield* of(Mail.dispatch(payload, { delay: "-1 seconds" })),
        yield* of(Mail.dispatch(payload, { delay: untyped("soon") })),
        yield* of(Mail.dispatch(payload, { delay: 1, at: 1 })),
        yield* of(Mail.dispatch(payload, { at: "soon" })),
        yield* of(Other.dispatch({})),
        new Unavailable({ job: "mail.welcome", engine: "Inngest", detail: "fetch failed" }).message,
        new Rejected({ job: "mail.welcome", engine: "Inngest", status: 401, detail: "Event key not found" })
          .message,
        new PayloadTooLarge({ job: "mail.welcome", engine: "Inngest", size: 4_000_000, limit: 3_145_728 })
          .message
      ]).toMatchInlineSnapshot(`
        [
          "The payload for "mail.welcome" is invalid: Missing key at "to.email"; Expected number at "tags[1]".",
          "The payload for "mail.welcome" is invalid: Expected object.",
          ""mail.welcome" can't be dispatched with this id: it must have 1 to 255 characters, not 0.",
          ""mail.welcome" can't be dispatched with this id: it must have 1 to 255 characters, not 256.",
          ""mail.welcome" can't be dispatched with this delay: it must be a duration of 0 to 36525 days, not "-1 seconds".",
          ""mail.welcome" can't be dispatched with this delay: it must be a duration of 0 to 36525 days, not "soon".",
          ""mail.welcome" can't be dispatched with this at: say either at or delay, not both.",
          ""mail.welcome" can't be dispatched with this at: it isn't a valid date and time.",
          ""mail.other" is not in the list of jobs given to InlineDispatcher.layer: add it there, with its handler.",
          ""mail.welcome" couldn't be dispatched now, Inngest is unavailable: fetch failed.",
          ""mail.welcome" was rejected by Inngest with status 401: Event key not found.",
          "The message for "mail.welcome" has 4000000 bytes, more than the 3145728 that Inngest takes.",
        ]
      `)
    })
  )

  it.effect("of runs that have failed", () =>
    Effect.gen(function* () {
      class Once extends Job.make("mail.once", {
        payload: {},
        success: Schema.Struct({ name: Schema.String })
      }) {}
      class Picky extends Job.make("mail.picky", {
        payload: {},
        error: Schema.String,
        retry: { attempts: 3, while: (error) => error !== "no such address" }
      }) {}
      const worker = {
        name: "the test's worker",
        dispatcher: { send: () => Effect.void },
        onError: () => Effect.void
      }
      const runner = yield* makeRunner([Mail, Once, Picky], worker).pipe(
        Effect.provide([
          Mail.toLayer(({ tags }) => (tags.length === 0 ? Effect.fail("the server is busy") : Effect.never)),
          Once.toLayer(() => Effect.succeed(untyped({ name: 1 }))),
          Picky.toLayer(() => Effect.fail("no such address"))
        ])
      )
      const run = (payload: Schema.Json, attempt: number, name: string = Mail.jobName) => {
        const message = { id: "an-id", name, payload, dispatchedAt: 0 }
        return Effect.flatMap(runner.attempt(message, { attempt }), (outcome) =>
          outcome._tag === "Failed"
            ? Effect.map(runner.failed(message, outcome, { attempt }), (failed) => failed.message)
            : Effect.succeed(
                outcome._tag === "Retry"
                  ? (Cause.prettyErrors(outcome.cause)[0]?.message ?? "")
                  : "it succeeded"
              )
        )
      }
      const good = { to: { email: "a" }, tags: [] }
      const slow = yield* Effect.forkChild(run({ ...good, tags: [1] }, 2))
      yield* TestClock.adjust("1 second")
      expect([
        yield* run({ to: { email: 1 }, tags: ["x"] }, 1),
        yield* run(good, 3),
        yield* run({}, 1, Once.jobName),
        yield* run({}, 1, Picky.jobName),
        yield* run({}, 1, "mail.unknown"),
        yield* Fiber.join(slow),
        new Outcome.WorkerLost({ job: "mail.welcome", id: "an-id", attempt: 3, detail: "EOF" }).message,
        new Outcome.WorkerLost({ job: "mail.welcome", id: "an-id", attempt: 3 }).message
      ]).toMatchInlineSnapshot(`
        [
          "The message "an-id" for "mail.welcome" has an invalid payload: Expected string at "to.email"; Expected number at "tags[0]".",
          ""mail.welcome" (id an-id) failed in all of its 3 attempts, the last time with: the server is busy.",
          "The handler of "mail.once" (id an-id) succeeded with what its success schema doesn't encode: Expected string at "name".",
          ""mail.picky" (id an-id) failed in attempt 1 with an error that isn't retried: no such address.",
          "The message "an-id" can't be run: "mail.unknown" is not in the list of jobs given to the test's worker: add it there, with its handler.",
          "Attempt 2 of "mail.welcome" (id an-id) was interrupted: it took longer than its timeout of 1s.",
          "The worker of "mail.welcome" (id an-id) was lost in attempt 3, the last one: EOF",
          "The worker of "mail.welcome" (id an-id) was lost in attempt 3, the last one.",
        ]
      `)
    })
  )
})
