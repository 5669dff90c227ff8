/**
 * Effect's Workflows on Inngest: each is one of its functions, an execution is a run of it, and its activities,
 * clocks and deferreds are steps. For code that is written for `effect/workflow`, and for jobs that execute
 * such workflows.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Workflow from "effect/workflow/Workflow"
import { type Encoded, makeUnsafe, WorkflowEngine } from "effect/workflow/WorkflowEngine"
import type { Inngest } from "inngest"
import { Dispatcher } from "../../Dispatcher.ts"
import { dispatchOne } from "../../internal/dispatching.ts"
import { ownServices } from "../../internal/RunContext.ts"
import * as RunState from "../../internal/RunState.ts"
import * as StepEngine from "../../internal/StepEngine.ts"
import { InngestClient } from "./InngestClient.ts"
import * as Api from "./Api.ts"
import * as Mailbox from "./Mailbox.ts"
import * as InngestWorkflows from "./Workflows.ts"
import { InngestWorkflowEngine, KeepResult } from "./Workflows.ts"

export { InngestWorkflowEngine, KeepResult } from "./Workflows.ts"

/** How long the server waits for a result, for one who isn't a run, until it is asked again. */
const askedTimeout = "5 minutes"
/** And for `poll`. */
const pollTimeout = "3 seconds"
/** And how long it may take until an answer can be read. */
const answerPatience = Duration.seconds(30)

/** How often an answer is looked for. */
const looks = Schedule.min([Schedule.exponential("100 millis", 1.5), Schedule.spaced("2 seconds")])

const decodeRuns = Schema.decodeUnknownEffect(
  Schema.Struct({
    data: Schema.NullOr(
      Schema.Array(Schema.Struct({ status: Schema.String, output: Schema.optionalKey(Schema.Unknown) }))
    )
  })
)

/**
 * Effect's `WorkflowEngine` on Inngest, and what `InngestWorker` needs to run workflows in its list. Executions
 * are dispatched with the `Dispatcher` of the environment, such as `InngestDispatcher.layer`.
 *
 * - One run an execution id, for the 24 hours that Inngest remembers ids; `execute` of an id that ran within
 *   them gives the result that is there.
 * - `execute` waits for the result: inside a run as a step, elsewhere through Inngest's API, which wants the
 *   client's signing key outside of dev mode. A server that doesn't take the event makes it die with the
 *   `DispatchError`.
 * - `interrupt` cancels the run, and so does `interruptUnsafe`: Inngest doesn't call the function again, so no
 *   finalizer and no compensation runs. Who waits gets the interruption.
 * - `poll` starts a run that looks for the result, and takes up to some seconds.
 */
export const layer: Layer.Layer<WorkflowEngine | InngestWorkflowEngine, never, Dispatcher | InngestClient> =
  Layer.effectContext(
    Effect.gen(function* () {
      const { client, eventPrefix } = yield* InngestClient
      const self: Self = {
        client,
        eventPrefix,
        dispatcher: yield* Dispatcher,
        keyring: keyringOf(client),
        registered: new Map()
      }
      const engine = makeUnsafe(encoded(self))
      return Context.make(WorkflowEngine, engine).pipe(
        Context.add(InngestWorkflowEngine, {
          engine,
          registered: (workflow) => self.registered.get(workflow)
        })
      )
    })
  )

interface Self {
  readonly client: Inngest.Any
  readonly eventPrefix: string
  readonly dispatcher: Dispatcher["Service"]
  readonly keyring: Effect.Effect<Mailbox.Keyring>
  readonly registered: Map<string, InngestWorkflows.Registered>
}

/** Who only starts executions needs none. */
const keyringOf = (client: Inngest.Any): Effect.Effect<Mailbox.Keyring> => {
  const keyring = Mailbox.keyring(client)
  return keyring === undefined
    ? Effect.die(
        new Error(
          "InngestWorkflowEngine has no signing key: set INNGEST_SIGNING_KEY to wait for results, to interrupt and to resume."
        )
      )
    : Effect.succeed(keyring)
}

const encoded = (self: Self): Encoded => ({
  ...StepEngine.encoded,
  deferredDone: (options) =>
    Effect.provideService(StepEngine.encoded.deferredDone(options), Dispatcher, self.dispatcher),
  register: (workflow, execute) =>
    Effect.acquireRelease(
      Effect.map(Effect.context<never>(), (context) => {
        self.registered.set(workflow._tag, { execute, context: ownServices(context) })
      }),
      () => Effect.sync(() => self.registered.delete(workflow._tag))
    ),
  // sound: the type says that there is a result where it isn't discarded, and so it is
  execute: ((workflow, options) => execute(self, workflow, options)) as Encoded["execute"],
  poll: (workflow, executionId) =>
    Effect.flatMap(
      once(`poll ${workflow._tag} ${executionId}`, ask(self, workflow, executionId, pollTimeout)),
      (json) => (json === null ? Effect.succeedNone : Effect.map(complete(workflow, json), Option.some))
    ),
  interrupt: (workflow, id) => interrupt(self, workflow, id),
  interruptUnsafe: (workflow, id) => interrupt(self, workflow, id),
  resume: (workflow, id) =>
    Effect.flatMap(keysOf(self, workflow, id, Mailbox.resumedDeferred), (keys) =>
      once(
        `resume ${workflow._tag} ${id}`,
        Effect.as(
          send(
            self,
            ...keys.map((key) => ({ name: self.eventPrefix + Mailbox.events.resumed, data: { key } }))
          ),
          null
        )
      )
    )
})

const send = (
  { client }: Self,
  ...events: ReadonlyArray<{ readonly name: string; readonly data: unknown }>
): Effect.Effect<ReadonlyArray<string>> => Effect.orDie(Api.send(client, events))

/** As a step where a run asks for it, so that a replay doesn't do it again. */
const once = <A extends Schema.Json>(what: string, effect: Effect.Effect<A>): Effect.Effect<A> =>
  Effect.flatMap(Effect.serviceOption(RunState.CurrentRunState), (state) =>
    Option.isNone(state)
      ? effect
      : // sound: what is recorded is what the effect gave
        (state.value.steps.run(RunState.stepId(state.value, "workflow", what), effect) as Effect.Effect<A>)
  )

const keysOf = ({ keyring }: Self, workflow: Workflow.Any, id: string, deferred: string) =>
  Effect.flatMap(keyring, (keys) => Effect.promise(() => keys.of({ name: workflow._tag, id }, deferred)))

const runsOf = ({ client }: Self, event: string, look: number) =>
  // the server keeps an answer for 15 seconds, by the whole address
  Api.get(client, `/v1/events/${event}/runs?look=${look}`).pipe(
    Effect.catchIf(
      // it doesn't have the event yet
      (error) => error.status === 404,
      () => Effect.succeed({ data: [] })
    ),
    Effect.flatMap(decodeRuns),
    Effect.orDie
  )

/** The result, if it is there in time. */
const ask = (
  self: Self,
  workflow: Workflow.Any,
  id: string,
  timeout: Duration.Input
): Effect.Effect<Schema.Json | null> =>
  Effect.gen(function* () {
    const [key] = yield* keysOf(self, workflow, id, Mailbox.resultDeferred)
    const seconds = Duration.toSeconds(Duration.fromInputUnsafe(timeout))
    const ids = yield* send(self, {
      name: self.eventPrefix + Mailbox.events.asked,
      data: { key, job: workflow._tag, id, timeout: `${seconds}s` }
    })
    let look = 0
    const answered = Effect.map(
      Effect.suspend(() => runsOf(self, ids[0] ?? "", look++)),
      ({ data }) =>
        (data ?? [])
          .flatMap(({ output, status }) =>
            status === "Completed" ? Option.toArray(Mailbox.decodeAnswer(output)) : []
          )
          .find(({ answers }) => answers)
    )
    const answer = yield* Effect.repeat(answered, {
      schedule: looks,
      until: (answer) => answer !== undefined
    }).pipe(
      // a run that was cancelled, or lost with its server, answers nothing: it is asked once more
      Effect.timeoutOption(Duration.sum(Duration.seconds(seconds), answerPatience))
    )
    return Option.getOrUndefined(answer)?.exit ?? null
  })

const awaitResult = (self: Self, workflow: Workflow.Any, id: string): Effect.Effect<Schema.Json> =>
  Effect.flatMap(ask(self, workflow, id, askedTimeout), (exit) =>
    exit === null ? awaitResult(self, workflow, id) : Effect.succeed(exit)
  )

const execute = (
  self: Self,
  workflow: Workflow.Any,
  { discard, executionId, payload }: Parameters<Encoded["execute"]>[1]
) =>
  Effect.gen(function* () {
    const state = Option.getOrUndefined(yield* Effect.serviceOption(RunState.CurrentRunState))
    const here = state?.steps.workflows
    yield* once(
      `execute ${workflow._tag} ${executionId}`,
      dispatchOne(InngestWorkflows.target(workflow), payload, { id: executionId }).pipe(
        Effect.provideService(Dispatcher, self.dispatcher),
        Effect.orDie,
        Effect.as(null)
      )
    )
    if (discard) return undefined
    if (!Context.get(workflow.annotations, KeepResult)) {
      return yield* Effect.die(
        new Error(`The result of "${workflow._tag}" isn't kept (KeepResult): execute it with discard.`)
      )
    }
    const json =
      here === undefined
        ? yield* awaitResult(self, workflow, executionId)
        : yield* here.result(workflow._tag, executionId)
    return yield* complete(workflow, json)
  })

const interrupt = (self: Self, workflow: Workflow.Any, id: string): Effect.Effect<void> =>
  Effect.gen(function* () {
    const { eventPrefix } = self
    const keyring = yield* self.keyring
    const job = InngestWorkflows.jobOf(workflow)
    const result = yield* InngestWorkflows.resultEvent(job, id, Exit.interrupt(), { eventPrefix, keyring })
    const events = (yield* Effect.promise(() => keyring.interrupted())).map((key) => ({
      name: Mailbox.interruptedEvent(eventPrefix, key),
      data: { id, job: eventPrefix + workflow._tag }
    }))
    yield* once(
      `interrupt ${workflow._tag} ${id}`,
      Effect.as(send(self, ...events, ...(result === undefined ? [] : [result])), null)
    )
  })

/** A result as it was published, with the workflow's own values in it. */
const complete = (
  workflow: Workflow.Any,
  json: Schema.Json
): Effect.Effect<Workflow.Complete<unknown, unknown>> =>
  Schema.decodeUnknownEffect(
    Schema.toCodecJson(Schema.Exit(workflow.successSchema, workflow.errorSchema, Schema.Defect()))
  )(json).pipe(
    Effect.orDie,
    Effect.map((exit) => new Workflow.Complete({ exit })),
    // sound: the services that decode are among the requirements of `execute` and `poll`
    (effect) => effect as Effect.Effect<Workflow.Complete<unknown, unknown>>
  )
