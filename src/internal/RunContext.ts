/**
 * The context of handlers: that in which their worker and their Layer were built, and over it the run's own services. It
 * has nothing of the context of who dispatches.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { CurrentLogAnnotations } from "effect/References"
import * as Scope from "effect/Scope"
import { ParentSpan } from "effect/Tracer"
import { WorkflowEngine, WorkflowInstance } from "effect/workflow/WorkflowEngine"
import { DispatchError, InvalidPayload, Unavailable } from "../DispatchError.ts"
import { Dispatcher, type JobMessage } from "../Dispatcher.ts"
import type * as Job from "../Job.ts"
import { CurrentRun } from "./CurrentRun.ts"
import { called } from "./isolated.ts"
import { inMemory } from "./RunRecords.ts"
import { CurrentRunState, make as makeState, type RunSteps } from "./RunState.ts"
import { engine as stepEngine, instanceOf } from "./StepEngine.ts"
import { outermost } from "./wrapped.ts"

/** The services of a Layer or a worker, without those that a run brings itself. */
export const ownServices: (context: Context.Context<never>) => Context.Context<never> = Context.omit(
  Dispatcher,
  CurrentRun,
  Scope.Scope,
  ParentSpan,
  WorkflowEngine,
  WorkflowInstance,
  CurrentRunState,
  Layer.CurrentMemoMap
)

/**
 * The context of all runs of a job in a worker: the worker's surroundings, over them the services of the handler's Layer,
 * and over these the worker's own.
 */
export const workerContext = (
  surroundings: Context.Context<never>,
  handler: Job.HandlerService,
  dispatcher: Dispatcher["Service"],
  engine: WorkflowEngine["Service"] = stepEngine,
  clock?: Clock.Clock
): Context.Context<never> => {
  const context = Context.merge(ownServices(surroundings), handler.context).pipe(
    Context.add(Dispatcher, outermost(dispatcher)),
    Context.add(WorkflowEngine, engine)
  )
  return clock === undefined ? context : Context.add(context, Clock.Clock, clock)
}

/** An attempt of a run, and the part of it that executes. */
export interface CurrentAttempt {
  readonly job: Pick<Job.Any, "jobName" | "retry">
  readonly message: JobMessage
  readonly attempt: number
  readonly steps: RunSteps
  readonly part: "handler" | "onFailure"
}

/** The context of a part of a run: that of its worker, and over it the run's own services and `more`, by their keys. */
export const runContext = (
  worker: Context.Context<never>,
  current: CurrentAttempt,
  more: ReadonlyArray<readonly [key: string, service: unknown]> = []
): Context.Context<Exclude<Job.Provided, Scope.Scope>> => {
  const { attempt, job, message, part, steps } = current
  const state = makeState({ job: job.jobName, id: message.id, attempt, steps }, part)
  const run: CurrentRun["Service"] = {
    id: message.id,
    job: job.jobName,
    attempt,
    maxAttempts: job.retry.attempts,
    // made when it is read, which few handlers do
    get dispatchedAt() {
      return DateTime.makeUnsafe(message.dispatchedAt)
    }
  }
  const annotations = {
    ...Context.get(worker, CurrentLogAnnotations),
    job: job.jobName,
    id: message.id,
    attempt
  }
  // one copy of the worker's context, and not one for each
  const own: ReadonlyArray<readonly [string, unknown]> = [
    [CurrentRun.key, run],
    [CurrentRunState.key, state],
    [WorkflowInstance.key, instanceOf(state)],
    [CurrentLogAnnotations.key, annotations],
    ...more
  ]
  return Context.merge(worker, Context.makeUnsafe(new Map(own)))
}

/** The dispatcher that a handler sees where a test calls it without one. */
const noDispatcher: Dispatcher["Service"] = {
  send: ([{ message }]) =>
    Effect.fail(
      DispatchError.of(
        new Unavailable({
          job: message.name,
          engine: "Job.run",
          detail:
            "it has no Dispatcher, provide one (such as TestDispatcher.layer) to the effect that calls run"
        })
      )
    )
}

/** `Job.run`: calls the handler once, in the caller's fiber. */
export const runOnce = Effect.fnUntraced(function* (
  job: Pick<Job.Any, "jobName" | "retry" | "target" | "handler">,
  input: unknown
) {
  const payload = yield* Effect.mapError(job.target.codec.make(input), (issue) =>
    DispatchError.of(InvalidPayload.fromIssue(job.jobName, issue))
  )
  const context = yield* Effect.context<never>()
  const handler = Context.getUnsafe(context, job.handler)
  const dispatcher = Option.getOrElse(Context.getOption(context, Dispatcher), () => noDispatcher)
  const message = {
    id: crypto.randomUUID(),
    name: job.jobName,
    payload: null,
    dispatchedAt: DateTime.toEpochMillis(yield* DateTime.now)
  }
  const worker = workerContext(context, handler, dispatcher)
  const handled = called(`The handler of "${job.jobName}"`, () => handler.run(payload))
  return yield* Effect.updateContext(Effect.scoped(handled), () =>
    runContext(worker, { job, message, attempt: 1, steps: inMemory(), part: "handler" })
  )
})
