/**
 * Effect's Workflows on Inngest: each is one of its functions, an execution is a run of it, and its activities,
 * clocks and deferreds are steps. For code that is written for `effect/workflow`, and for jobs that execute
 * such workflows.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Workflow from "effect/workflow/Workflow"
import { type Encoded, makeUnsafe, WorkflowEngine } from "effect/workflow/WorkflowEngine"
import { Dispatcher } from "../../Dispatcher.ts"
import { dispatchOne } from "../../internal/dispatching.ts"
import { ownServices } from "../../internal/RunContext.ts"
import * as RunState from "../../internal/RunState.ts"
import * as StepEngine from "../../internal/StepEngine.ts"
import { InngestClient } from "./InngestClient.ts"
import * as InngestEvent from "./Event.ts"
import * as InngestSteps from "./Steps.ts"
import * as InngestWorkflows from "./Workflows.ts"
import { InngestWorkflowEngine, KeepResult } from "./Workflows.ts"

export { InngestWorkflowEngine, KeepResult } from "./Workflows.ts"

/** How long the server waits for a result, for one who isn't a run, until it is asked again. */
const askedTimeout = "1h"
/** And for `poll`. */
const pollTimeout = "3s"

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
      const dispatcher = yield* Dispatcher
      const { client, eventPrefix } = yield* InngestClient
      const registered = new Map<string, InngestWorkflows.Registered>()

      const send = (...events: ReadonlyArray<{ readonly name: string; readonly data: unknown }>) =>
        // sound: the SDK's type of an event's data is of a record, which these are
        Effect.promise(() => client.send(events as Parameters<typeof client.send>[0]))

      /** As a step where a run asks for it, so that a replay doesn't do it again. */
      const once = <A extends Schema.Json>(what: string, effect: Effect.Effect<A>): Effect.Effect<A> =>
        Effect.flatMap(Effect.serviceOption(RunState.CurrentRunState), (state) =>
          Option.isNone(state)
            ? effect
            : // sound: what is recorded is what the effect gave
              (state.value.steps.run(
                RunState.stepId(state.value, "workflow", what),
                effect
              ) as Effect.Effect<A>)
        )

      const keyOf = (workflow: Workflow.Any, id: string, deferred: string) =>
        Effect.promise(() => InngestEvent.deferredKey({ name: workflow._tag, id }, deferred))

      const runsOf = (event: string, look: number) =>
        Effect.promise(async (signal) => {
          // the server keeps an answer for 15 seconds, by the whole address
          const url = new URL(`/v1/events/${event}/runs?look=${look}`, client.apiBaseUrl)
          const response = await fetch(url, {
            signal,
            headers: client.signingKey === undefined ? {} : { authorization: `Bearer ${client.signingKey}` }
          })
          if (response.ok) return response.json()
          const status = response.status
          if (status === 401 || status === 403) {
            throw new Error(`Inngest's API doesn't tell the result of a workflow, it answers with ${status}.`)
          }
          return { data: [] }
        }).pipe(Effect.flatMap((body) => Effect.orDie(decodeRuns(body))))

      /** The result, if it is there in time. */
      const ask = (workflow: Workflow.Any, id: string, timeout: string): Effect.Effect<Schema.Json | null> =>
        Effect.gen(function* () {
          const key = yield* keyOf(workflow, id, InngestSteps.resultDeferred)
          const { ids } = yield* send({
            name: eventPrefix + InngestEvent.workflowEvents.asked,
            data: { key, job: workflow._tag, timeout }
          })
          let look = 0
          const answer = yield* Effect.repeat(
            Effect.map(
              Effect.suspend(() => runsOf(ids[0] ?? "", look++)),
              ({ data }) =>
                (data ?? [])
                  .flatMap(({ output, status }) =>
                    status === "Completed" ? Option.toArray(InngestSteps.decodeAnswer(output)) : []
                  )
                  .find(({ answers }) => answers)
            ),
            { schedule: looks, until: (answer) => answer !== undefined }
          )
          return answer?.exit ?? null
        })

      const awaitResult = (workflow: Workflow.Any, id: string): Effect.Effect<Schema.Json> =>
        Effect.flatMap(ask(workflow, id, askedTimeout), (exit) =>
          exit === null ? awaitResult(workflow, id) : Effect.succeed(exit)
        )

      const interrupt: Encoded["interrupt"] = (workflow, id) =>
        Effect.flatMap(
          InngestWorkflows.resultEvent(InngestWorkflows.jobOf(workflow), id, Exit.interrupt(), eventPrefix),
          (result) =>
            once(
              `interrupt ${workflow._tag} ${id}`,
              Effect.as(
                send(
                  {
                    name: eventPrefix + InngestEvent.workflowEvents.interrupted,
                    data: { id, job: eventPrefix + workflow._tag }
                  },
                  ...(result === undefined ? [] : [result])
                ),
                null
              )
            )
        )

      const engine = makeUnsafe({
        ...StepEngine.encoded,
        deferredDone: (options) =>
          Effect.provideService(StepEngine.encoded.deferredDone(options), Dispatcher, dispatcher),
        register: (workflow, execute) =>
          Effect.acquireRelease(
            Effect.map(Effect.context<never>(), (context) => {
              registered.set(workflow._tag, { execute, context: ownServices(context) })
            }),
            () => Effect.sync(() => registered.delete(workflow._tag))
          ),
        // sound: the type says that there is a result where it isn't discarded, and so it is
        execute: ((workflow, { discard, executionId, payload }) =>
          Effect.gen(function* () {
            const state = Option.getOrUndefined(yield* Effect.serviceOption(RunState.CurrentRunState))
            const here = state?.steps.workflows
            yield* once(
              `execute ${workflow._tag} ${executionId}`,
              dispatchOne(InngestWorkflows.target(workflow), payload, { id: executionId }).pipe(
                Effect.provideService(Dispatcher, dispatcher),
                Effect.orDie,
                Effect.as(null)
              )
            )
            if (discard) return undefined
            if (!Context.get(workflow.annotations, KeepResult)) {
              return yield* Effect.die(
                new Error(
                  `The result of "${workflow._tag}" isn't kept (KeepResult): execute it with discard.`
                )
              )
            }
            const json =
              here === undefined
                ? yield* awaitResult(workflow, executionId)
                : yield* here.result(workflow._tag, executionId)
            return yield* complete(workflow, json)
          })) as Encoded["execute"],
        poll: (workflow, executionId) =>
          Effect.flatMap(
            once(`poll ${workflow._tag} ${executionId}`, ask(workflow, executionId, pollTimeout)),
            (json) => (json === null ? Effect.succeedNone : Effect.map(complete(workflow, json), Option.some))
          ),
        interrupt,
        interruptUnsafe: interrupt,
        resume: (workflow, executionId) =>
          Effect.flatMap(keyOf(workflow, executionId, InngestSteps.resumedDeferred), (key) =>
            once(
              `resume ${workflow._tag} ${executionId}`,
              Effect.as(
                send({ name: eventPrefix + InngestEvent.workflowEvents.resumed, data: { key } }),
                null
              )
            )
          )
      })
      return Context.make(WorkflowEngine, engine).pipe(
        Context.add(InngestWorkflowEngine, { engine, registered: (workflow) => registered.get(workflow) })
      )
    })
  )

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
