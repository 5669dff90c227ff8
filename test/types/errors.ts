// What must not compile, and a part of what the compiler says about it. Compiled by `npm run check`;
// test/types.test.ts reads the messages.
import { CronJob, DomainEvent, InlineDispatcher, Job, Listener, RetryPolicy } from "effect-jobs"
import { TestDispatcher } from "effect-jobs/testing"
import { Context, Effect, Layer, Schema } from "effect"

class MailError extends Schema.TaggedError<MailError>()("MailError", { code: Schema.Int }) {}
class Mailer extends Context.Service<Mailer, { readonly send: Effect.Effect<void> }>()("types/Mailer") {}
class Welcome extends Job.make("mail.welcome", { payload: { email: Schema.String }, error: MailError }) {}
class Digest extends Job.make("mail.digest", { payload: { at: Schema.Date }, success: Schema.Int }) {}
class Happened extends DomainEvent.make("happened", { payload: { id: Schema.String } }) {}
class Hears extends Listener.make("hears", { event: Happened }) {}
class Tick extends CronJob.make("tick", { cron: "* * * * *" }) {}

const run = <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> => effect
const WelcomeLive = Welcome.toLayer(() => Effect.void)

// a missing handler
export const missing = run(
  // @ts-expect-error Handler<"mail.digest">
  Effect.provide(
    Welcome.dispatch({ email: "a" }),
    InlineDispatcher.layer([Welcome, Digest]).pipe(Layer.provide(WelcomeLive))
  )
)

// a missing dispatcher
// @ts-expect-error Type 'Dispatcher' is not assignable to type 'never'
export const nowhere = run(Welcome.dispatch({ email: "a" }))

// a wrong payload
// @ts-expect-error Type 'number' is not assignable to type 'string'
export const wrong = Welcome.dispatch({ email: 1 })
// @ts-expect-error Property 'email' is missing in type '{}'
export const none = Welcome.dispatch({})
// @ts-expect-error 'mail' does not exist in type
export const other = Welcome.dispatchAll([{ email: "a", mail: "b" }])
// @ts-expect-error Type 'string' is not assignable to type 'Date'
export const text = Digest.run({ at: "tomorrow" })
// @ts-expect-error Type 'number' is not assignable to type 'string'
export const event = Happened.publish({ id: 1 })

// a handler's unmet requirement
export const unmet = run(
  // @ts-expect-error Type 'Mailer' is not assignable to type 'never'
  Effect.provide(
    Welcome.run({ email: "a" }),
    Welcome.toLayer(() => Effect.flatMap(Mailer, ({ send }) => send))
  )
)

// a handler that doesn't fit its contract
// @ts-expect-error Type 'string' is not assignable to type 'MailError'
export const failing = Welcome.toLayer(() => Effect.fail("no"))
// @ts-expect-error Type 'string' is not assignable to type 'number'
export const answering = Digest.toLayer(() => Effect.succeed("1"))

// what can't be dispatched
// @ts-expect-error Property 'dispatch' does not exist on type 'typeof Hears'
export const listener = Hears.dispatch({ id: "1" })
// @ts-expect-error Property 'dispatch' does not exist on type 'typeof Tick'
export const cron = Tick.dispatch({})

// a payload that isn't a struct
// @ts-expect-error Type 'String' is not assignable to type 'PayloadInput'
export const shapeless = Job.make("a", { payload: Schema.String })

// a policy that looks at another error
export const policy = Job.make("a", {
  payload: {},
  error: MailError,
  // @ts-expect-error Property 'status' does not exist on type 'MailError'
  retry: { attempts: 2, while: (error) => error.status !== 404 }
})
// @ts-expect-error Property 'attempts' is missing
export const endless = RetryPolicy.fixed({ delay: "1 second" })

// attempts that only a test dispatcher records
export const attempts = run(
  // @ts-expect-error Type 'Records' is not assignable to type 'never'
  Effect.provide(TestDispatcher.attempts(Welcome), InlineDispatcher.layer([]))
)
