/**
 * Effect's Workflows in a worker's list: each as a job, whose handler runs an execution as Effect's engines do.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type * as Schema from "effect/Schema"
import * as Workflow from "effect/workflow/Workflow"
import { type Encoded, type WorkflowEngine, WorkflowInstance } from "effect/workflow/WorkflowEngine"
import { Decided } from "../../Attempt.ts"
import { DefinitionError } from "../../DefinitionError.ts"
import type { Dispatchable } from "../../Dispatcher.ts"
import { makeContract } from "../../internal/contract.ts"
import * as Job from "../../Job.ts"
import * as RunState from "../../internal/RunState.ts"
import * as StepEngine from "../../internal/StepEngine.ts"
import type { OutgoingEvent } from "./Event.ts"
import * as Mailbox from "./Mailbox.ts"
import { maxAttempts } from "./Retry.ts"

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
export interface Registered {
  readonly execute: Execute
  readonly context: Context.Context<never>
}

/** What `InngestWorker` needs to run workflows: provided by its `layer`, beside Effect's `WorkflowEngine`. */
export class InngestWorkflowEngine extends Context.Service<
  InngestWorkflowEngine,
  {
    readonly engine: WorkflowEngine["Service"]
    readonly registered: (workflow: string) => Registered | undefined
  }
>()("effect-jobs/InngestWorkflowEngine") {}

const jobs = new WeakMap<Workflow.Any, Job.Any>()

/** The contract of a workflow as that of a job: its tag is the event's name and the function's id. */
export const jobOf = (workflow: Workflow.Any): Job.Any => {
  let job = jobs.get(workflow)
  if (job === undefined) {
    // sound: `makeContract` gives a contract, which every job is
    job = makeContract("workflow", workflow._tag, {
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
  target: jobOf(workflow).target,
  run: (payload) =>
    Effect.gen(function* () {
      const state = yield* RunState.CurrentRunState
      for (let time = 1; ; time++) {
        const instance = WorkflowInstance.initial(workflow, state.id)
        const services = Context.make(WorkflowInstance, instance).pipe(
          // a failed activity runs again when its execution was resumed, and not when a worker has died
          Context.add(
            RunState.CurrentRunState,
            RunState.make({ job: state.job, id: state.id, attempt: time, steps: state.steps }, "handler")
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
            : yield* Effect.fail(
                new Decided({ _tag: "Failed", reason: "NotRetryable", cause: result.exit.cause })
              )
        }
        if (result.failed !== true) return yield* Effect.interrupt
        yield* Effect.logWarning(
          `The execution ${state.id} of "${workflow._tag}" has failed, and waits until it is resumed.`,
          result.cause
        )
        yield* state.steps.workflows?.resumed(time) ?? Effect.never
      }
    }) as ReturnType<Job.HandlerService["run"]>
})

/** When a run of a workflow is cancelled, by one of the worker's keys. */
export const cancelledBy = (eventPrefix: string, key: string) => ({
  event: Mailbox.interruptedEvent(eventPrefix, key),
  if: "async.data.id == event.id && async.data.job == event.name"
})

/** The event that keeps the result of an execution; `undefined` where its workflow says that nobody wants it. */
export const resultEvent = (
  job: Job.Any,
  id: string,
  exit: Exit.Exit<Schema.Json, Schema.Json>,
  by: Pick<Mailbox.Talk, "eventPrefix" | "keyring">
): Effect.Effect<OutgoingEvent | undefined> =>
  Context.get(job.annotations, KeepResult)
    ? Effect.flatMap(StepEngine.encodeExit(exit), (json) =>
        Effect.promise(() =>
          Mailbox.completed(
            {
              run: { name: job.jobName, id },
              deferred: Mailbox.resultDeferred,
              exit: json,
              kept: true
            },
            by
          )
        )
      )
    : Effect.succeed(undefined)

/** What dispatches an execution. */
export const target = (workflow: Workflow.Any) =>
  // sound: the services that encode its payload are among the requirements of `execute`
  jobOf(workflow).target as Dispatchable<never>
