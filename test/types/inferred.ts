import {
  CronJob,
  type Dispatcher,
  type DispatchError,
  DomainEvent,
  InlineDispatcher,
  type InvalidPayload,
  Job,
  Listener,
  type Receipt
} from "effect-jobs"
import { type InngestClient, InngestWorker, type InngestWorkflowEngine } from "effect-jobs/inngest"
import { TestDispatcher } from "effect-jobs/testing"
import { Context, type DateTime, Effect, type Exit, type Layer, Schema, type Scope } from "effect"
import { Workflow } from "effect/workflow"
import { describe, expectTypeOf, it } from "vitest"

class MailError extends Schema.TaggedError<MailError>()("MailError", { code: Schema.Int }) {}
class Mailer extends Context.Service<Mailer, { readonly send: Effect.Effect<void, MailError> }>()(
  "types/Mailer"
) {}
class Welcome extends Job.make("mail.welcome", {
  payload: { email: Schema.String, joinedAt: Schema.Date },
  success: Schema.Int,
  error: MailError,
  retry: { attempts: 3, while: ({ code }) => code !== 404 },
  idempotencyKey: ({ email }) => email
}) {}
class Plain extends Job.make("plain", { payload: Schema.Struct({ n: Schema.FiniteFromString }) }) {}
class Happened extends DomainEvent.make("happened", { payload: { id: Schema.String } }) {}
class Hears extends Listener.make("hears", { event: Happened }) {}
class Tick extends CronJob.make("tick", { cron: "* * * * *" }) {}
const jobs = [Welcome, Plain, Hears, Tick] as const

describe("types", () => {
  it("dispatch takes the payload and needs a Dispatcher", () => {
    expectTypeOf(Welcome.dispatch({ email: "a", joinedAt: new Date() })).toEqualTypeOf<
      Effect.Effect<Receipt, DispatchError, Dispatcher>
    >()
    expectTypeOf(Plain.dispatch).parameter(0).toEqualTypeOf<{ readonly n: number }>()
    expectTypeOf(Happened.publish({ id: "1" })).toEqualTypeOf<
      Effect.Effect<Receipt, DispatchError, Dispatcher>
    >()
  })

  it("toLayer leaves the handler's own requirements, without what the runner provides", () => {
    const live = Welcome.toLayer(({ email, joinedAt }) =>
      Effect.gen(function* () {
        expectTypeOf(email).toEqualTypeOf<string>()
        expectTypeOf(joinedAt).toEqualTypeOf<Date>()
        yield* Effect.addFinalizer(() => Effect.void)
        const { attempt } = yield* Job.CurrentRun
        yield* Effect.orDie(Welcome.dispatch({ email, joinedAt }))
        yield* (yield* Mailer).send
        return attempt
      })
    )
    expectTypeOf(live).toEqualTypeOf<Layer.Layer<Job.Handler<"mail.welcome">, never, Mailer>>()
  })

  it("the handler of a listener gets the event's payload, that of a cron job its tick", () => {
    Hears.toLayer((payload) =>
      Effect.sync(() => expectTypeOf(payload).toEqualTypeOf<{ readonly id: string }>())
    )
    Tick.toLayer(({ scheduledAt }) =>
      Effect.sync(() => expectTypeOf(scheduledAt).toEqualTypeOf<DateTime.Utc>())
    )
  })

  it("a list of jobs requires the handler of each", () => {
    expectTypeOf(InlineDispatcher.layer([Welcome, Plain, Hears, Tick])).toEqualTypeOf<
      Layer.Layer<
        Dispatcher,
        never,
        Job.Handler<"mail.welcome"> | Job.Handler<"plain"> | Job.Handler<"hears"> | Job.Handler<"tick">
      >
    >()
    expectTypeOf(InlineDispatcher.layer(jobs)).toEqualTypeOf(
      InlineDispatcher.layer([Welcome, Plain, Hears, Tick])
    )
  })

  it("a worker on Inngest requires the handlers of its jobs, and the engine of its workflows", () => {
    const Work = Workflow.make("Work", { payload: { id: Schema.String }, idempotencyKey: ({ id }) => id })
    expectTypeOf(InngestWorker.functions([Welcome])).toExtend<
      Effect.Effect<unknown, never, Job.Handler<"mail.welcome"> | Dispatcher | InngestClient | Scope.Scope>
    >()
    expectTypeOf(InngestWorker.layerConnect([Welcome, Work])).toEqualTypeOf<
      Layer.Layer<
        never,
        InngestWorker.ConnectError,
        Job.Handler<"mail.welcome"> | InngestWorkflowEngine.InngestWorkflowEngine | Dispatcher | InngestClient
      >
    >()
  })

  it("run fails with the handler's error or the payload's", () => {
    expectTypeOf(Welcome.run({ email: "a", joinedAt: new Date() })).toEqualTypeOf<
      Effect.Effect<number, MailError | DispatchError, Job.Handler<"mail.welcome">>
    >()
  })

  it("the test dispatcher's answers are typed by the job", () => {
    expectTypeOf(TestDispatcher.payloads(Welcome)).toEqualTypeOf<
      Effect.Effect<
        ReadonlyArray<{ readonly email: string; readonly joinedAt: Date }>,
        never,
        TestDispatcher.Records
      >
    >()
    expectTypeOf<
      Effect.Success<ReturnType<typeof TestDispatcher.drain<[typeof Welcome]>>>[number]["exit"]
    >().toEqualTypeOf<Exit.Exit<number, MailError | InvalidPayload>>()
    expectTypeOf<
      Effect.Success<ReturnType<typeof TestDispatcher.drain<ReadonlyArray<Job.Any>>>>[number]["exit"]
    >().toEqualTypeOf<Exit.Exit<unknown, unknown>>()
    expectTypeOf<
      Effect.Success<ReturnType<typeof TestDispatcher.drain<typeof jobs>>>[number]["name"]
    >().toEqualTypeOf<"mail.welcome" | "plain" | "hears" | "tick">()
  })

  it("extractors", () => {
    expectTypeOf<Job.Payload<typeof Welcome>>().toEqualTypeOf<{
      readonly email: string
      readonly joinedAt: Date
    }>()
    expectTypeOf<Job.Success<typeof Welcome>>().toEqualTypeOf<number>()
    expectTypeOf<Job.Payload<Job.Any>>().toEqualTypeOf<unknown>()
    expectTypeOf<Job.Success<Job.Any>>().toEqualTypeOf<unknown>()
    expectTypeOf<Job.Error<Job.Any>>().toEqualTypeOf<unknown>()
    expectTypeOf<Job.Error<typeof Welcome>>().toEqualTypeOf<MailError>()
    expectTypeOf<Job.Name<typeof Welcome>>().toEqualTypeOf<"mail.welcome">()
  })
})
