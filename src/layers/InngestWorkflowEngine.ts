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
import { type Encoded, makeUnsafe, WorkflowEngine, WorkflowInstance } from "effect/workflow/WorkflowEngine"
import { Final } from "../Attempt.ts"
import { DefinitionError } from "../DefinitionError.ts"
import { type Dispatchable, Dispatcher, dispatchOne } from "../Dispatcher.ts"
import * as Job from "../Job.ts"
import * as Steps from "../Steps.ts"
import { InngestClient } from "./InngestClient.ts"
import * as InngestEvent from "./InngestEvent.ts"
import { maxAttempts } from "./InngestRetry.ts"
import * as InngestSteps from "./InngestSteps.ts"

/**
 * Whether the result of a workflow's executions is kept for who waits for it, by `execute` without `discard`, or
 * by `poll`. It costs an event and a waiting run for each execution, for 24 hours: say `false` for workflows that
 * are only ever started. Default `true`. An annotation of the workflow.
 */
export const KeepResult = Context.Reference<boolean>("effect-jobs/InngestWorkflowEngine/KeepResult", {
  defaultValue: () => true
})

type Execute = Parameters<Encoded["register"]>[1]

/** A workflow that was registered by its `toLayer`. */
interface Registered {
  readonly execute: Execute
  readonly context: Context.Context<never>
}

/** What `InngestWorker` needs to run workflows: provided by {@link layer}, beside Effect's `WorkflowEngine`. */
export class InngestWorkflowEngine extends Context.Service<
  InngestWorkflowEngine,
  {
    readonly engine: WorkflowEngine["Service"]
    readonly registered: (workflow: string) => Registered | undefined
  }
>()("effect-jobs/InngestWorkflowEngine") {}

const jobs = new WeakMap<Workflow.Any, Job.Any>()

/** The contract of a workflow as that of a job: its tag is the event's name and the function's id. */
const jobOf = (workflow: Workflow.Any): Job.Any => {
  let job = jobs.get(workflow)
  if (job === undefined) {
    // sound: `makeContract` gives a contract, which every job is
    job = Job.makeContract("workflow", workflow._tag, {
      trigger: { _tag: "Dispatch" },
      payload: workflow.payloadSchema,
      success: workflow.successSchema,
      error: workflow.errorSchema,
      // a worker that dies fails its attempt, so there are as many as can be; a workflow's own failure is final
      retry: { attempts: maxAttempts },
      annotations: workflow.annotations
    }) as Job.Any
    jobs.set(workflow, job)
  }
  return job
}

/** The workflows and jobs of a worker's list. */
export interface Resolved {
  readonly jobs: ReadonlyArray<Job.Any>
  /** Of the workflows alone. */
  readonly handlers: Context.Context<never>
  readonly engine: WorkflowEngine["Service"] | undefined
  readonly isWorkflow: (job: Job.Any) => boolean
}

/** Makes jobs of the workflows in a list. One that was not registered dies with a `DefinitionError`. */
export const resolve = (list: ReadonlyArray<Job.Any | Workflow.Any>): Effect.Effect<Resolved> =>
  Effect.map(Effect.serviceOption(InngestWorkflowEngine), (service) => {
    const own = Option.getOrUndefined(service)
    let handlers = Context.empty()
    const workflows = new Set<Job.Any>()
    const jobs = list.map((item) => {
      if (Job.isJob(item)) return item
      const registered = own?.registered(item._tag)
      if (registered === undefined) {
        throw new DefinitionError({
          message: `The workflow "${item._tag}" of InngestWorker has no handler: provide its toLayer to the worker's Layer.`
        })
      }
      const job = jobOf(item)
      workflows.add(job)
      handlers = Context.add(handlers, job.handler, handlerOf(item, registered))
      return job
    })
    return { jobs, handlers, engine: own?.engine, isWorkflow: (job) => workflows.has(job) }
  })

/** Runs an execution as Effect's engines do, until it is complete. */
const handlerOf = (workflow: Workflow.Any, { context, execute }: Registered): Job.HandlerService => ({
  context,
  onFailure: undefined,
  run: (payload) =>
    Effect.gen(function* () {
      const state = yield* Steps.CurrentSteps
      for (let time = 1; ; time++) {
        const instance = WorkflowInstance.initial(workflow, state.id)
        const services = Context.make(WorkflowInstance, instance).pipe(
          // a failed activity runs again when its execution was resumed, and not when a worker has died
          Context.add(
            Steps.CurrentSteps,
            Steps.stateOf({ job: state.job, id: state.id, attempt: time, steps: state.steps })
          )
        )
        // sound: the payload was decoded by the workflow's own schema, of a struct
        const result = yield* execute(payload as object, state.id).pipe(
          // at a new step the request ends, and with it this fiber: what was added to the execution's scope is
          // for its end
          Effect.onInterrupt(() =>
            Effect.sync(() => {
              instance.suspended = true
            })
          ),
          Workflow.intoResult,
          Effect.provideContext(services)
        )
        if (result._tag === "Complete") {
          return Exit.isSuccess(result.exit)
            ? result.exit.value
            : yield* Effect.fail(new Final(result.exit.cause))
        }
        if (result.failed !== true) return yield* Effect.interrupt
        yield* Effect.logWarning(
          `The execution ${state.id} of "${workflow._tag}" has failed, and waits until it is resumed.`,
          result.cause
        )
        yield* state.steps().workflows?.resumed(time) ?? Effect.never
      }
    }) as ReturnType<Job.HandlerService["run"]>
})

/** When a run of a workflow is cancelled. */
export const cancelledBy = (eventPrefix: string) => ({
  event: eventPrefix + InngestEvent.workflowEvents.interrupted,
  if: "async.data.id == event.id && async.data.job == event.name"
})

/** The event that keeps the result of an execution; `undefined` where its workflow says that nobody wants it. */
export const resultEvent = (
  job: Job.Any,
  id: string,
  exit: Exit.Exit<Schema.Json, Schema.Json>,
  eventPrefix: string
): Effect.Effect<InngestEvent.OutgoingEvent | undefined> =>
  Context.get(job.annotations, KeepResult)
    ? Effect.flatMap(Steps.encodeExit(exit), (json) =>
        Effect.promise(() =>
          InngestEvent.completed({ name: job.jobName, id }, InngestSteps.resultDeferred, json, eventPrefix, {
            kept: true
          })
        )
      )
    : Effect.succeed(undefined)

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
      const registered = new Map<string, Registered>()

      const send = (...events: ReadonlyArray<{ readonly name: string; readonly data: unknown }>) =>
        // sound: the SDK's type of an event's data is of a record, which these are
        Effect.promise(() => client.send(events as Parameters<typeof client.send>[0]))

      /** As a step where a run asks for it, so that a replay doesn't do it again. */
      const once = <A extends Schema.Json>(what: string, effect: Effect.Effect<A>): Effect.Effect<A> =>
        Effect.flatMap(Effect.serviceOption(Steps.CurrentSteps), (state) =>
          Option.isNone(state)
            ? effect
            : // sound: what is recorded is what the effect gave
              (state.value.steps().run(Steps.unique(state.value, what), effect) as Effect.Effect<A>)
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
        Effect.flatMap(resultEvent(jobOf(workflow), id, Exit.interrupt(), eventPrefix), (result) =>
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
        ...Steps.encoded,
        deferredDone: (options) =>
          Effect.provideService(Steps.encoded.deferredDone(options), Dispatcher, dispatcher),
        register: (workflow, execute) =>
          Effect.acquireRelease(
            Effect.map(Effect.context<never>(), (context) => {
              registered.set(workflow._tag, { execute, context: Job.ownServices(context) })
            }),
            () => Effect.sync(() => registered.delete(workflow._tag))
          ),
        // sound: the type says that there is a result where it isn't discarded, and so it is
        execute: ((workflow, { discard, executionId, payload }) =>
          Effect.gen(function* () {
            const state = Option.getOrUndefined(yield* Effect.serviceOption(Steps.CurrentSteps))
            const here = state?.steps().workflows
            yield* once(
              `execute ${workflow._tag} ${executionId}`,
              dispatchOne(target(workflow), payload, { id: executionId }).pipe(
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

/** What dispatches an execution. */
const target = (workflow: Workflow.Any) =>
  // sound: the services that encode its payload are among the requirements of `execute`
  jobOf(workflow).target as Dispatchable<never>

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
