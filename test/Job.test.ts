import { assert, describe, it } from "@effect/vitest"
import {
  CronJob,
  DefinitionError,
  DispatchError,
  DomainEvent,
  InlineDispatcher,
  Job,
  Listener
} from "effect-jobs"
import { TestDispatcher } from "effect-jobs/testing"
import { Context, Effect, Exit, Layer, Schema } from "effect"
import { Fixed } from "./support/annotation.ts"

const payload = { email: Schema.String }

/** What a definition is refused with, or fails the test. */
const refusal = (make: () => unknown): string => {
  try {
    make()
  } catch (error) {
    assert.instanceOf(error, DefinitionError)
    return error.message
  }
  return assert.fail("it was not refused")
}

describe("names", () => {
  for (const name of [
    "a",
    "mail.welcome",
    "mail-welcome",
    "mail_welcome",
    "mail/welcome",
    "v2.mail/welcome-1_x"
  ]) {
    it(`takes ${name}`, () => {
      assert.strictEqual(Job.make(name, { payload }).jobName, name)
      assert.strictEqual(DomainEvent.make(name, { payload }).eventName, name)
    })
  }
  for (const name of [
    "",
    " ",
    "Mail",
    "mail..welcome",
    ".mail",
    "mail.",
    "mail welcome",
    "mail:welcome",
    "mäil",
    "a\n"
  ]) {
    it(`refuses ${JSON.stringify(name)} in one sentence`, () => {
      const rest = `use words of a-z and 0-9 joined by ".", "-", "_" or "/", as in "mail.welcome".`
      assert.strictEqual(
        refusal(() => Job.make(name, { payload })),
        `${JSON.stringify(name)} can't be the name of a job: ${rest}`
      )
      assert.strictEqual(
        refusal(() => DomainEvent.make(name, { payload })),
        `${JSON.stringify(name)} can't be the name of a domain event: ${rest}`
      )
    })
  }
  it("refuses one of more than 200 characters", () => {
    assert.strictEqual(
      refusal(() => Job.make("x".repeat(201), { payload })),
      `The name of a job has at most 200 characters, and "${"x".repeat(40)}…" has 201.`
    )
  })
})

describe("payloads", () => {
  class Subscriber extends Schema.Class<Subscriber>("Subscriber")({ email: Schema.String }) {}
  it("are struct fields, a Struct or a Class", () => {
    assert.deepStrictEqual(Object.keys(Job.make("a", { payload }).payloadSchema.fields), ["email"])
    assert.deepStrictEqual(
      Object.keys(Job.make("a", { payload: Schema.Struct(payload) }).payloadSchema.fields),
      ["email"]
    )
    assert.deepStrictEqual(Object.keys(Job.make("a", { payload: Subscriber }).payloadSchema.fields), [
      "email"
    ])
  })
  for (const wrong of [
    Schema.String,
    Schema.Array(Schema.String),
    "email",
    null,
    { email: "string" },
    undefined
  ]) {
    it(`refuses ${Schema.isSchema(wrong) ? wrong.ast._tag : JSON.stringify(wrong)}`, () => {
      assert.strictEqual(
        refusal(() => Job.make("a.b", { payload: wrong as never })),
        `The payload of the job "a.b" must be struct fields, or a schema whose JSON is an object, as in { email: Schema.String }.`
      )
    })
  }
})

describe("time limits", () => {
  it("are refused where they can't be", () => {
    assert.strictEqual(
      refusal(() => Job.make("a", { payload, timeout: "-1 seconds" })),
      `The timeout of the job "a" must be a duration of 0 to 36525 days, not "-1 seconds".`
    )
    assert.strictEqual(
      refusal(() => Job.make("a", { payload, timeout: 0 })),
      `The timeout of the job "a" must be longer than nothing.`
    )
  })
})

describe("cron jobs", () => {
  it("quote what they refuse", () => {
    assert.strictEqual(
      refusal(() => CronJob.make("a", { cron: "0 25 * * *" })),
      `"0 25 * * *" can't be the schedule of the cron job "a": Expected a value between 0 and 23.`
    )
    assert.include(
      refusal(() => CronJob.make("a", { cron: "every day" })),
      `"every day" can't be the schedule of the cron job "a": it must have five fields`
    )
    assert.include(
      refusal(() => CronJob.make("a", { cron: "0 0 9 * * *" })),
      "it must have five fields"
    )
    assert.strictEqual(
      refusal(() => CronJob.make("a", { cron: "0 0 31 2 *" })),
      `"0 0 31 2 *" can't be the schedule of the cron job "a": no date fits it.`
    )
    assert.strictEqual(
      refusal(() => CronJob.make("a", { cron: "0 9 * * *", timeZone: "Europe/Londn" })),
      `"Europe/Londn" can't be the time zone of the cron job "a": use an IANA name, as in "Europe/London".`
    )
  })
})

describe("contracts", () => {
  it("annotate makes another with the annotation, and the class keeps its own", () => {
    class A extends Job.make("a", { payload }) {}
    const annotated = A.annotate(Fixed, 5)
    assert.strictEqual(Context.getUnsafe(annotated.annotations, Fixed), 5)
    assert.strictEqual(annotated.jobName, "a")
    assert.isFalse(Context.getOption(A.annotations, Fixed)._tag === "Some")
    class B extends Job.make("b", { payload }).annotate(Fixed, 6) {}
    assert.strictEqual(Context.getUnsafe(B.annotations, Fixed), 6)
  })
  it("know what starts them", () => {
    class Happened extends DomainEvent.make("happened", { payload }) {}
    assert.deepStrictEqual(Job.make("a", { payload }).trigger, { _tag: "Dispatch" })
    assert.deepStrictEqual(Listener.make("a", { event: Happened }).trigger, {
      _tag: "Event",
      event: "happened"
    })
    assert.deepInclude(CronJob.make("a", { cron: "* * * * *" }).trigger, {
      _tag: "Cron",
      expression: "* * * * *",
      timeZone: undefined
    })
    assert.isTrue(!Job.isJob(Happened) && DomainEvent.isDomainEvent(Happened))
  })
})

describe("run", () => {
  class MailError extends Schema.TaggedError<MailError>()("MailError", { to: Schema.String }) {}
  class Mailer extends Context.Service<
    Mailer,
    { readonly send: (to: string) => Effect.Effect<void, MailError> }
  >()("test/Mailer") {}
  class Welcome extends Job.make("mail.welcome", {
    payload: { ...payload, tries: Schema.Int.pipe(Schema.withConstructorDefault(Effect.succeed(1))) },
    error: MailError,
    success: Schema.Int,
    retry: { attempts: 5 }
  }) {}
  let released = 0
  const WelcomeLive = Welcome.toLayer(({ email, tries }) =>
    Effect.gen(function* () {
      yield* Effect.addFinalizer(() => Effect.sync(() => released++))
      const mailer = yield* Mailer
      const run = yield* Job.CurrentRun
      assert.deepInclude(run, { job: "mail.welcome", attempt: 1, maxAttempts: 5 })
      yield* mailer.send(email)
      return tries
    })
  )
  const mailer = (send: Mailer["Service"]["send"]) =>
    Layer.provide(WelcomeLive, Layer.succeed(Mailer, { send }))

  it.effect("calls the handler once, with the payload's defaults, and closes its scope", () =>
    Effect.gen(function* () {
      released = 0
      assert.strictEqual(yield* Welcome.run({ email: "a@b.c" }), 1)
      assert.strictEqual(released, 1)
    }).pipe(Effect.provide(mailer(() => Effect.void)))
  )

  it.effect("fails with the handler's own error, typed", () =>
    Effect.gen(function* () {
      const exit = yield* Effect.exit(Welcome.run({ email: "a@b.c" }))
      assert.deepStrictEqual(exit, Exit.fail(new MailError({ to: "a@b.c" })))
    }).pipe(Effect.provide(mailer((to) => Effect.fail(new MailError({ to })))))
  )

  it.effect("checks the payload", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Welcome.run({ email: 1 as never }))
      assert(error instanceof DispatchError)
      assert.strictEqual(
        error.message,
        `The payload for "mail.welcome" is invalid: Expected string at "email".`
      )
    }).pipe(Effect.provide(mailer(() => Effect.void)))
  )

  class Follow extends Job.make("follow", { payload: {} }) {}
  const FollowLive = Follow.toLayer(() => Effect.asVoid(Welcome.dispatch({ email: "f@b.c" })))

  it.effect("dispatches to the Dispatcher of the environment", () =>
    Effect.gen(function* () {
      yield* Follow.run({})
      assert.deepStrictEqual(yield* TestDispatcher.payloads(Welcome), [{ email: "f@b.c", tries: 1 }])
    }).pipe(Effect.provide([FollowLive, TestDispatcher.layer]))
  )

  it.effect("says so where there is none", () =>
    Effect.gen(function* () {
      const exit = yield* Effect.exit(Follow.run({}))
      assert.include(String(Exit.isFailure(exit) && exit.cause), "it has no Dispatcher, provide one")
    }).pipe(Effect.provide(FollowLive))
  )
})

describe("verbs", () => {
  class Mail extends Job.make("verbs.mail", { payload: { to: Schema.String } }) {
    static readonly from = "noreply"
  }
  class Empty extends Job.make("verbs.empty", { payload: { note: Schema.optionalKey(Schema.String) } }) {}
  class Sent extends DomainEvent.make("verbs.sent", { payload: { to: Schema.String } }) {}

  it.effect("work unbound", () =>
    Effect.gen(function* () {
      const { dispatch, dispatchAll, run, toLayer } = Mail
      const { publish, publishAll } = Sent
      yield* dispatch({ to: "a" })
      yield* dispatchAll([{ to: "b" }])
      yield* Effect.flatMap(Effect.succeed({ to: "c" }), Mail.dispatch)
      yield* publish({ to: "d" })
      yield* publishAll([{ to: "e" }])
      assert.strictEqual((yield* TestDispatcher.dispatched).length, 3)
      assert.strictEqual((yield* TestDispatcher.published).length, 2)
      const seen: Array<string> = []
      yield* run({ to: "f" }).pipe(Effect.provide(toLayer(({ to }) => Effect.sync(() => void seen.push(to)))))
      assert.deepStrictEqual(seen, ["f"])
    }).pipe(Effect.provide(TestDispatcher.layer))
  )

  it.effect("need no payload where nothing in it is required", () =>
    Effect.gen(function* () {
      yield* Empty.dispatch()
      yield* Empty.dispatch({ note: "n" })
      yield* Empty.dispatch(undefined, { id: "an id" })
      assert.deepStrictEqual(yield* TestDispatcher.payloads(Empty), [{}, { note: "n" }, {}])
      yield* Empty.run().pipe(Effect.provide(Empty.toLayer(() => Effect.void)))
    }).pipe(Effect.provide(TestDispatcher.layer))
  )

  class Owner extends Context.Service<Owner, string>()("test/Owner") {}

  it.effect("annotate keeps the class's own statics, and the contract", () =>
    Effect.gen(function* () {
      const annotated = Mail.annotate(Owner, "team a").annotate(Owner, "team b")
      assert.strictEqual(annotated.from, "noreply")
      assert.strictEqual(annotated.jobName, "verbs.mail")
      assert.isTrue(Job.isJob(annotated))
      assert.strictEqual(Context.getUnsafe(annotated.annotations, Owner), "team b")
      assert.isFalse(Context.getOption(Mail.annotations as Context.Context<Owner>, Owner)._tag === "Some")
      // the handler of the one is that of the other
      yield* annotated.dispatch({ to: "a" }).pipe(
        Effect.provide(
          Layer.provide(
            InlineDispatcher.layer([annotated]),
            Mail.toLayer(() => Effect.void)
          )
        )
      )
    })
  )

  it.effect("take any payload whose JSON is an object: a union of structs, a recursive one", () =>
    Effect.gen(function* () {
      const Shape = Schema.Union([
        Schema.Struct({ kind: Schema.Literal("circle"), radius: Schema.Finite }),
        Schema.Struct({ kind: Schema.Literal("square"), at: Schema.Date })
      ])
      class Draw extends Job.make("verbs.draw", { payload: Shape }) {}
      const at = new Date(5)
      yield* Draw.dispatch({ kind: "square", at })
      assert.deepStrictEqual(yield* TestDispatcher.payloads(Draw), [{ kind: "square", at }])
      const error = yield* Effect.flip(Draw.dispatch(undefined as never))
      assert.strictEqual(error.reason._tag, "InvalidPayload")
    }).pipe(Effect.provide(TestDispatcher.layer))
  )
})

describe("two contracts of one name", () => {
  class First extends Job.make("contracts.same", { payload: { a: Schema.String } }) {}
  class Second extends Job.make("contracts.same", { payload: { b: Schema.Int } }) {}
  const refusalOf = <A>(layer: Layer.Layer<A>) =>
    Effect.map(Effect.exit(Effect.scoped(Layer.build(layer))), (exit) => String(exit))

  it.effect("are refused when a worker is made, also where only the handler is another's", () =>
    Effect.gen(function* () {
      const handlers = First.toLayer(() => Effect.void)
      assert.include(
        yield* refusalOf(Layer.provide(InlineDispatcher.layer([First, Second]), handlers)),
        `Two jobs in the list have the name "contracts.same"`
      )
      assert.include(
        yield* refusalOf(Layer.provide(InlineDispatcher.layer([Second]), handlers)),
        `The handler of "contracts.same" was made by another contract of that name`
      )
      assert.include(
        yield* refusalOf(Layer.provide(InlineDispatcher.layer([First, First]), handlers)),
        `The job "contracts.same" is in the list twice`
      )
    })
  )
})
