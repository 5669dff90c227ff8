/**
 * The meaning of `Activity`, `DurableClock` and `DurableDeferred` of `effect/workflow` inside a run, for every engine. An
 * engine keeps a run's steps, as {@link RunSteps}.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { identity } from "effect/Function"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Activity from "effect/workflow/Activity"
import { Complete } from "effect/workflow/Workflow"
import type * as Workflow from "effect/workflow/Workflow"
import type { WorkflowEngine } from "effect/workflow/WorkflowEngine"
import { type Encoded, makeUnsafe, WorkflowInstance } from "effect/workflow/WorkflowEngine"
import { Dispatcher } from "../Dispatcher.ts"
import {
  againId,
  CurrentRunState,
  inActivity,
  type RunState,
  type RunSteps,
  stepId,
  tryId,
  withTry
} from "./RunState.ts"

/** An activity's Exit as JSON. The activity's schemas have encoded its values, but not its defects. */
const ActivityExit = Schema.toCodecJson(Schema.Exit(Schema.Json, Schema.Json, Schema.Defect()))
export const encodeExit = (exit: Exit.Exit<unknown, unknown>): Effect.Effect<Schema.Json> =>
  Effect.orDie(Schema.encodeUnknownEffect(ActivityExit)(Exit.map(exit, (value) => value ?? null)))
const decodeExit = (json: Schema.Json): Effect.Effect<Exit.Exit<Schema.Json, Schema.Json>> =>
  Effect.orDie(Schema.decodeUnknownEffect(ActivityExit)(json))

/** A deferred's Exit as JSON. The deferred's schemas have encoded all of it, also its defects. */
const DeferredExit = Schema.toCodecJson(Schema.Exit(Schema.Json, Schema.Json, Schema.Json))
const encodeDeferred = (exit: Exit.Exit<unknown, unknown>): Effect.Effect<Schema.Json> =>
  Effect.orDie(Schema.encodeUnknownEffect(DeferredExit)(Exit.map(exit, (value) => value ?? null)))
const decodeDeferred = (json: Schema.Json): Effect.Effect<Exit.Exit<unknown, unknown>> =>
  Effect.orDie(Schema.decodeUnknownEffect(DeferredExit)(json))

/** The record of an activity or a race, with the attempt of the job in which it ended. */
const Recorded = Schema.Struct({ attempt: Schema.Int, exit: Schema.Json })
const decodeRecorded = (json: Schema.Json) => Effect.orDie(Schema.decodeUnknownEffect(Recorded)(json))

const currentState = (what: string): Effect.Effect<RunState> =>
  Effect.flatMap(Effect.serviceOption(CurrentRunState), (state) =>
    Option.isSome(state) && !state.value.isActivity
      ? Effect.succeed(state.value)
      : Effect.die(
          new Error(
            `${what} isn't in the handler of a job: steps can't be inside an activity or outside of a run.`
          )
        )
  )

/** The name that `DurableClock.sleep` gives to the activity of a sleep below its `inMemoryThreshold`. */
const isSleep = (activity: Activity.Any): boolean => activity.name.startsWith("DurableClock/")

const activityExecute = Effect.fnUntraced(function* (
  activity: Activity.Any,
  attempt: number
): Effect.fn.Return<Workflow.Result<unknown, unknown>> {
  const state = yield* currentState(`The activity "${activity.name}"`)
  const { steps } = state
  const surroundings = yield* Effect.context<never>()
  const first = stepIdOf(state, activity.name, attempt)
  const nextTry = withTry(first, attempt + 1)
  // sound: what an activity needs was in its handler's context, which this is, but for the steps
  const body = Effect.updateContext(
    Effect.scoped(Effect.suspend(() => activity.executeEncoded)) as Effect.Effect<unknown, unknown>,
    (_: Context.Context<never>) =>
      Context.add(
        Context.add(surroundings, CurrentRunState, inActivity(state, withTry(first, 1))),
        WorkflowInstance,
        instanceOf(state)
      )
  )
  const idle = isSleep(activity) ? (steps.idle ?? identity) : identity
  const execute = Effect.exit(idle(body)).pipe(
    Effect.flatMap(encodeExit),
    Effect.map((exit) => ({ attempt: state.attempt, exit }))
  )
  for (let time = 1; ; time++) {
    const recorded = yield* decodeRecorded(yield* steps.run(againId(first, time), execute))
    const exit = yield* decodeExit(recorded.exit)
    // the job is retried for a failure of an earlier attempt, if that was the last try of its activity
    const again =
      Exit.isFailure(exit) && recorded.attempt < state.attempt && Option.isNone(yield* steps.peek(nextTry))
    if (!again) return new Complete({ exit })
  }
})

/** The tries of one activity (`Activity.retry` numbers them) belong together: the first gives them their name. */
const stepIdOf = (state: RunState, name: string, attempt: number): string =>
  attempt === 1 ? stepId(state, "activity", name) : tryId(state, name, attempt)

/** Whether a deferred is a race's: only the race completes it and looks at it. */
const isRace = (deferred: string): boolean => deferred.startsWith("raceAll/")

const raceId = (name: string): string => `race/${name}`

/**
 * The last record of a race, and the number (from 1) of the next one. A failure of an earlier attempt of the job is no
 * result, since the job is retried for it.
 */
const raceRecord = Effect.fnUntraced(function* (state: RunState, name: string) {
  for (let time = 1; ; time++) {
    const json = yield* state.steps.peek(againId(raceId(name), time))
    if (Option.isNone(json)) return { time, exit: Option.none() }
    const { attempt, exit } = yield* decodeRecorded(json.value)
    const decoded = yield* decodeDeferred(exit)
    if (Exit.isSuccess(decoded) || attempt === state.attempt) return { time, exit: Option.some(decoded) }
  }
})

const deferredResult = Effect.fnUntraced(function* (deferred: {
  readonly name: string
}): Effect.fn.Return<Option.Option<Exit.Exit<unknown, unknown>>, never, WorkflowInstance> {
  const state = yield* currentState(`The wait for "${deferred.name}"`)
  const duration = state.clocks.get(deferred.name)
  if (duration !== undefined) {
    yield* state.steps.sleep(stepId(state, "clock", deferred.name), duration)
    return Option.some(Exit.void)
  }
  // `DurableDeferred.await` says that it waits before it asks; a race only looks
  const { awaitedDeferreds } = yield* WorkflowInstance
  return awaitedDeferreds.has(deferred.name)
    ? Option.some(yield* Effect.flatMap(state.steps.wait(deferred.name), decodeDeferred))
    : (yield* raceRecord(state, deferred.name)).exit
})

const deferredDone = Effect.fnUntraced(function* (options: {
  readonly workflowName: string
  readonly executionId: string
  readonly deferredName: string
  readonly exit: Exit.Exit<unknown, unknown>
}) {
  const exit = yield* encodeDeferred(options.exit)
  const state = Option.getOrUndefined(yield* Effect.serviceOption(CurrentRunState))
  if (state !== undefined && state.job === options.workflowName && state.id === options.executionId) {
    if (!isRace(options.deferredName)) return yield* state.steps.complete(options.deferredName, exit)
    const { time } = yield* raceRecord(state, options.deferredName)
    yield* state.steps.run(
      againId(raceId(options.deferredName), time),
      Effect.succeed({ attempt: state.attempt, exit })
    )
    return
  }
  const dispatcher = Option.getOrUndefined(yield* Effect.serviceOption(Dispatcher))
  if (dispatcher === undefined) {
    return yield* Effect.die(
      new Error(
        `The deferred "${options.deferredName}" can't be completed: there is no Dispatcher to send it by.`
      )
    )
  }
  const message = {
    id: options.executionId,
    name: options.workflowName,
    payload: { deferred: options.deferredName, exit },
    dispatchedAt: yield* Clock.currentTimeMillis
  }
  yield* Effect.orDie(dispatcher.send([{ kind: "completion", notBefore: undefined, message }]))
})

const noWorkflows = (workflow: Workflow.Any) =>
  Effect.die(
    new Error(
      `The workflow "${workflow._tag}" can't be run from a job: jobs have activities, clocks and deferreds.`
    )
  )

/** The parts of {@link engine}, for engines that have more. */
export const encoded: Encoded = {
  register: noWorkflows,
  execute: noWorkflows,
  poll: noWorkflows,
  interrupt: noWorkflows,
  interruptUnsafe: noWorkflows,
  resume: noWorkflows,
  activityExecute,
  // sound: `DurableDeferred`, which alone asks, requires the WorkflowInstance
  deferredResult: deferredResult,
  deferredDone,
  scheduleClock: (_workflow, { clock }) =>
    Effect.map(currentState(`The sleep "${clock.name}"`), (state) => {
      state.clocks.set(clock.deferred.name, clock.duration)
    })
}

/** The engine that every run sees. It keeps nothing; the state of a run is its {@link CurrentRunState}. */
export const engine: WorkflowEngine["Service"] = makeUnsafe(encoded)

/** Workflows that stand for jobs, by the job's name: an instance must have one. */
const workflows = new Map<string, Workflow.Any>()

const workflowOf = (job: string): Workflow.Any => {
  let workflow = workflows.get(job)
  if (workflow === undefined) {
    // sound: engines and tokens read nothing of a workflow but its tag; jobs don't go through the rest
    workflow = { _tag: job, annotations: Context.empty() } as unknown as Workflow.Any
    workflows.set(job, workflow)
  }
  return workflow
}

/** The instance of a run. Nobody closes its Scope, so finalizers that a job adds to it don't run. */
export const instanceOf = ({ id, job }: Pick<RunState, "job" | "id">): WorkflowInstance["Service"] =>
  WorkflowInstance.initial(workflowOf(job), id)

export type { RunSteps }
