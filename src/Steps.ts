/**
 * Durable steps: what `Activity`, `DurableClock` and `DurableDeferred` of `effect/workflow` mean inside a
 * handler. The rules are here, once; an engine says where a run's steps are kept, as a {@link RunSteps}.
 *
 * A finished activity isn't run again when its job is retried or delivered again: its success is recorded as its
 * schemas encode it. One that failed in its last try is tried once more by each further attempt of the job. Steps are told apart by their names;
 * of two with one name in a run, the second to start is the second: give steps in concurrent branches names of
 * their own. An activity is a leaf, no step can be inside it. A body that was interrupted halfway (a crash) runs
 * again: at least once.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Activity from "effect/workflow/Activity"
import * as DurableClock from "effect/workflow/DurableClock"
import { Complete } from "effect/workflow/Workflow"
import type * as Workflow from "effect/workflow/Workflow"
import { type Encoded, makeUnsafe, WorkflowEngine, WorkflowInstance } from "effect/workflow/WorkflowEngine"
import { Dispatcher, type JobMessage } from "./Dispatcher.ts"
import * as RetryPolicy from "./RetryPolicy.ts"

/** Where the steps of one run are kept; made by engines. Everything that goes in is JSON. */
export interface RunSteps {
  /** What is recorded under `id`; without a record, runs `execute` and records what it gives. */
  readonly run: (id: string, execute: Effect.Effect<Schema.Json>) => Effect.Effect<Schema.Json>
  /** What is recorded under `id`, without waiting for it. */
  readonly peek: (id: string) => Effect.Effect<Option.Option<Schema.Json>>
  /** Waits until `duration` after this was first asked for under `id`. */
  readonly sleep: (id: string, duration: Duration.Duration) => Effect.Effect<void>
  /** Waits for the deferred of this name, however often it is asked for. */
  readonly wait: (deferred: string) => Effect.Effect<Schema.Json>
  /** Completes a deferred of this very run; only the first completion counts. */
  readonly complete: (deferred: string, exit: Schema.Json) => Effect.Effect<void>
  /** Where the engine also runs Effect's Workflows. */
  readonly workflows?: Workflows | undefined
}

/** What a run waits for beside its own deferreds. */
export interface Workflows {
  /** The Exit of an execution, as it was published. */
  readonly result: (workflow: string, executionId: string) => Effect.Effect<Schema.Json>
  /** That this run is resumed for the n-th time, after it began to wait for that. */
  readonly resumed: (time: number) => Effect.Effect<void>
}

/** The run whose handler, or attempt of it, asks. */
export interface State {
  readonly job: string
  readonly id: string
  /** Of the job, from 1. */
  readonly attempt: number
  /** Made when the first step asks for it. */
  readonly steps: () => RunSteps
  /** How often each name was used, in this attempt. */
  readonly used: Map<string, number>
  readonly clocks: Map<string, Duration.Duration>
}

/** The steps of the handler's run: put there by the runner, read by {@link engine}. */
export class CurrentSteps extends Context.Service<CurrentSteps, State>()("effect-jobs/Steps/CurrentSteps") {}

/** The payload of a `completion` request: a deferred of the run that the message's name and id say. */
const Completion = Schema.Struct({ deferred: Schema.String, exit: Schema.Json })
const decodeCompletion = Schema.decodeUnknownOption(Completion)

/** What a `completion` request's message completes, and with what; `undefined` for a message that isn't one. */
export const completionOf = (message: JobMessage): typeof Completion.Type | undefined =>
  Option.getOrUndefined(decodeCompletion(message.payload))

/** Hands a `completion` request's message to the steps of its run. One that isn't a completion does nothing. */
export const complete = (steps: RunSteps, message: JobMessage): Effect.Effect<void> => {
  const completion = completionOf(message)
  return completion === undefined ? Effect.void : steps.complete(completion.deferred, completion.exit)
}

/** A step's Exit as JSON. What is in it was encoded by the step's own schemas. */
const ExitJson = Schema.toCodecJson(Schema.Exit(Schema.Json, Schema.Json, Schema.Defect()))
export const encodeExit = (exit: Exit.Exit<unknown, unknown>): Effect.Effect<Schema.Json> =>
  Effect.orDie(Schema.encodeUnknownEffect(ExitJson)(Exit.map(exit, (value) => value ?? null)))
const decodeExit = (json: Schema.Json): Effect.Effect<Exit.Exit<Schema.Json, Schema.Json>> =>
  Effect.orDie(Schema.decodeUnknownEffect(ExitJson)(json))

/** What `run` keeps of an activity. */
const Recorded = Schema.Struct({ attempt: Schema.Int, exit: Schema.Json })
const decodeRecorded = Schema.decodeUnknownEffect(Recorded)

/** The id of a step that is the n-th of its name in this attempt. */
export const unique = (state: State, name: string): string => {
  const times = (state.used.get(name) ?? 0) + 1
  state.used.set(name, times)
  return times === 1 ? name : `${name} (${times})`
}

const currentSteps = (what: string): Effect.Effect<State> =>
  Effect.flatMap(Effect.serviceOption(CurrentSteps), (state) =>
    Option.isSome(state)
      ? Effect.succeed(state.value)
      : Effect.die(
          new Error(
            `${what} isn't in the handler of a job: steps can't be inside an activity or outside of a run.`
          )
        )
  )

/** The tries of one activity (`Activity.retry` numbers them) belong together: the first gives them their name. */
const activityId = (state: State, name: string, attempt: number): string => {
  if (attempt === 1) return unique(state, name)
  const times = state.used.get(name) ?? 1
  return unique(state, times === 1 ? `${name}/${attempt}` : `${name} (${times})/${attempt}`)
}

const activityExecute = (
  activity: Activity.Any,
  attempt: number
): Effect.Effect<Workflow.Result<unknown, unknown>> =>
  Effect.gen(function* () {
    const state = yield* currentSteps(`The activity "${activity.name}"`)
    const surroundings = yield* Effect.context<never>()
    const steps = state.steps()
    const id = activityId(state, activity.name, attempt)
    const nextTry = attempt === 1 ? `${id}/2` : id.replace(/\d+$/, String(attempt + 1))
    // sound: what an activity needs was in its handler's context, which this is, but for the steps
    const body = Effect.updateContext(
      Effect.scoped(Effect.suspend(() => activity.executeEncoded)) as Effect.Effect<unknown, unknown>,
      (_: Context.Context<never>) =>
        Context.add(Context.omit(CurrentSteps)(surroundings), WorkflowInstance, new Instance(state))
    )
    const once = Effect.exit(body).pipe(
      Effect.flatMap(encodeExit),
      Effect.map((exit) => ({ attempt: state.attempt, exit }))
    )
    for (let run = 1; ; run++) {
      const json = yield* steps.run(run === 1 ? id : `${id} [${run}]`, once)
      const recorded = yield* Effect.orDie(decodeRecorded(json))
      const exit = yield* decodeExit(recorded.exit)
      // a failure in an earlier attempt of the job is what the job is retried for, if it was the last try
      const again =
        Exit.isFailure(exit) && recorded.attempt < state.attempt && Option.isNone(yield* steps.peek(nextTry))
      if (!again) return new Complete({ exit })
    }
  })

/** A race keeps its winner in the run itself, and looks for it without waiting. */
const isRace = (deferred: string): boolean => deferred.startsWith("raceAll/")

const deferredResult = (deferred: {
  readonly name: string
}): Effect.Effect<Option.Option<Exit.Exit<unknown, unknown>>> =>
  Effect.gen(function* () {
    const state = yield* currentSteps(`The wait for "${deferred.name}"`)
    const duration = state.clocks.get(deferred.name)
    if (duration !== undefined) {
      yield* state.steps().sleep(unique(state, deferred.name), duration)
      return Option.some(Exit.void)
    }
    if (!isRace(deferred.name)) {
      return Option.some(yield* Effect.flatMap(state.steps().wait(deferred.name), decodeExit))
    }
    const recorded = yield* state.steps().peek(deferred.name)
    return Option.isNone(recorded) ? Option.none() : Option.some(yield* decodeExit(recorded.value))
  })

const deferredDone = (options: {
  readonly workflowName: string
  readonly executionId: string
  readonly deferredName: string
  readonly exit: Exit.Exit<unknown, unknown>
}): Effect.Effect<void> =>
  Effect.gen(function* () {
    const exit = yield* encodeExit(options.exit)
    const state = Option.getOrUndefined(yield* Effect.serviceOption(CurrentSteps))
    if (state !== undefined && state.job === options.workflowName && state.id === options.executionId) {
      return yield* isRace(options.deferredName)
        ? state.steps().run(options.deferredName, Effect.succeed(exit))
        : state.steps().complete(options.deferredName, exit)
    }
    const dispatcher = Option.getOrUndefined(yield* Effect.serviceOption(Dispatcher))
    if (dispatcher === undefined) {
      return yield* Effect.die(
        new Error(
          `The deferred "${options.deferredName}" can't be completed: there is no Dispatcher to send it by.`
        )
      )
    }
    yield* Effect.orDie(
      dispatcher.send([
        {
          kind: "completion",
          notBefore: undefined,
          message: {
            id: options.executionId,
            name: options.workflowName,
            payload: { deferred: options.deferredName, exit },
            dispatchedAt: yield* Clock.currentTimeMillis
          }
        }
      ])
    )
  }).pipe(Effect.asVoid)

const noWorkflows = (workflow: Workflow.Any) =>
  Effect.die(
    new Error(
      `The workflow "${workflow._tag}" can't be run from a job: jobs have activities, clocks and deferreds.`
    )
  )

/** What {@link engine} is made of, for engines that have more. */
export const encoded: Encoded = {
  register: noWorkflows,
  execute: noWorkflows,
  poll: noWorkflows,
  interrupt: noWorkflows,
  interruptUnsafe: noWorkflows,
  resume: noWorkflows,
  activityExecute,
  deferredResult,
  deferredDone,
  scheduleClock: (_workflow, { clock }) =>
    Effect.map(currentSteps(`The sleep "${clock.name}"`), (state) => {
      state.clocks.set(clock.deferred.name, clock.duration)
    })
}

/** The engine that every run sees. It keeps nothing: what belongs to a run is in its {@link CurrentSteps}. */
export const engine: WorkflowEngine["Service"] = makeUnsafe(encoded)

/**
 * A `WorkflowEngine` for those who complete deferreds from outside of a run, with `DurableDeferred.succeed` and
 * the token that the handler gave away: it goes through the `Dispatcher`, to the engine that runs the job. It
 * does nothing else. A dispatcher that fails makes it die with the `DispatchError`.
 */
export const layer: Layer.Layer<WorkflowEngine, never, Dispatcher> = Layer.effect(
  WorkflowEngine,
  Effect.map(Dispatcher, (dispatcher) => ({
    ...engine,
    deferredDone: (...args: Parameters<typeof engine.deferredDone>) =>
      Effect.provideService(engine.deferredDone(...args), Dispatcher, dispatcher)
  }))
)

/** The workflow that a run's instance is said to be of: the job, by name. */
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

/** What `WorkflowInstance.initial` makes, when something of it is asked for: most runs have no steps. */
class Instance implements Instanced {
  readonly executionId: string
  readonly workflow: Workflow.Any
  suspended = false
  interrupted = false
  abandoned = false
  cause: Instanced["cause"] = undefined
  failed = false
  private made: Instanced | undefined = undefined
  constructor({ id, job }: Pick<State, "job" | "id">) {
    this.executionId = id
    this.workflow = workflowOf(job)
  }
  private get initial(): Instanced {
    return (this.made ??= WorkflowInstance.initial(this.workflow, this.executionId))
  }
  get scope() {
    return this.initial.scope
  }
  get awaitedDeferreds() {
    return this.initial.awaitedDeferreds
  }
  get completedDeferreds() {
    return this.initial.completedDeferreds
  }
  get activityState() {
    return this.initial.activityState
  }
}
type Instanced = WorkflowInstance["Service"]

/** A run's state, whose maps are made when a step asks for them. */
class RunState implements State {
  readonly job: string
  readonly id: string
  readonly attempt: number
  readonly steps: () => RunSteps
  private names: State["used"] | undefined = undefined
  private sleeps: State["clocks"] | undefined = undefined
  constructor({ attempt, id, job, steps }: Run) {
    this.job = job
    this.id = id
    this.attempt = attempt
    this.steps = steps
  }
  get used() {
    return (this.names ??= new Map<string, number>())
  }
  get clocks() {
    return (this.sleeps ??= new Map<string, Duration.Duration>())
  }
}

/** What is known of a run before its first step. */
export type Run = Pick<State, "job" | "id" | "attempt" | "steps">

/** The same run's state, with nothing used yet. */
export const stateOf = (run: Run): State => new RunState(run)

/** Adds to a run's context what its steps need, beside the {@link engine}. */
export const provide = <R>(context: Context.Context<R>, run: Run): Context.Context<R | WorkflowInstance> =>
  Context.add(Context.add(context, CurrentSteps, stateOf(run)), WorkflowInstance, new Instance(run))

/** What keeps the records of one run. */
export interface Records {
  readonly get: (id: string) => Effect.Effect<Option.Option<Schema.Json>>
  readonly set: (id: string, value: Schema.Json) => Effect.Effect<void>
  /** How often a waiting run looks for what another process has recorded; `undefined` where none can. */
  readonly pollInterval: Duration.Duration | undefined
}

/** What a deferred was completed with, among the records of its run. */
export const completionId = (deferred: string): string => `deferred/${deferred}`

/** The steps of a run that waits in this process, with its records wherever `records` has them. */
export const fromRecords = (records: Records): RunSteps => {
  const deferreds = new Map<string, Deferred.Deferred<Schema.Json>>()
  const deferredOf = (name: string) => {
    let deferred = deferreds.get(name)
    if (deferred === undefined) {
      deferred = Deferred.makeUnsafe()
      deferreds.set(name, deferred)
    }
    return deferred
  }
  const completed = (name: string): Effect.Effect<Schema.Json> =>
    Effect.flatMap(records.get(completionId(name)), (recorded) => {
      if (Option.isSome(recorded)) return Effect.succeed(recorded.value)
      const here = Deferred.await(deferredOf(name))
      return records.pollInterval === undefined
        ? here
        : Effect.raceFirst(here, Effect.andThen(Effect.sleep(records.pollInterval), completed(name)))
    })
  const run: RunSteps["run"] = (id, execute) =>
    Effect.flatMap(records.get(id), (recorded) =>
      Option.isSome(recorded)
        ? Effect.succeed(recorded.value)
        : Effect.tap(execute, (value) => records.set(id, value))
    )
  return {
    run,
    peek: records.get,
    sleep: (id, duration) =>
      Effect.gen(function* () {
        const now = yield* Clock.currentTimeMillis
        const wakeAt = Number(yield* run(id, Effect.succeed(now + Duration.toMillis(duration))))
        if (wakeAt > now) yield* Effect.sleep(Duration.millis(wakeAt - now))
      }),
    wait: completed,
    complete: (name, exit) =>
      Effect.flatMap(run(completionId(name), Effect.succeed(exit)), (first) =>
        Deferred.succeed(deferredOf(name), first)
      )
  }
}

/** Makes the steps of a run when they are first asked for: most runs have none. */
export const once = <A>(make: () => A): (() => A) => {
  let made: A | undefined
  return () => (made ??= make())
}

/** Steps in memory, for as long as the run lives: its retries see them, another process doesn't. */
export const inMemory = (): RunSteps => {
  const records = new Map<string, Schema.Json>()
  return fromRecords({
    get: (id) => Effect.sync(() => Option.fromUndefinedOr(records.get(id))),
    set: (id, value) => Effect.sync(() => records.set(id, value)),
    pollInterval: undefined
  })
}

/**
 * Runs an activity again after a typed failure, by a retry policy, with pauses that are durable: what is left of
 * one after a crash is waited for, and one that is over isn't waited for again. Each try is a step of its own,
 * as with `Activity.retry`, whose options have no pause.
 */
export const retry = <A, E, R>(
  activity: Effect.Effect<A, E, R> & { readonly name: string },
  policy: RetryPolicy.Input<E>
): Effect.Effect<A, E, R | WorkflowEngine | WorkflowInstance> => {
  const checked = RetryPolicy.make(policy)
  const from = (attempt: number): Effect.Effect<A, E, R | WorkflowEngine | WorkflowInstance> =>
    Effect.catch(Effect.provideService(activity, Activity.CurrentAttempt, attempt), (error) =>
      Effect.flatMap(RetryPolicy.next(checked, attempt, Option.some(error)), (next) =>
        next._tag === "Stop"
          ? Effect.fail(error)
          : Effect.andThen(pause(`${activity.name}/${attempt}`, next.delay), from(attempt + 1))
      )
    )
  return Effect.suspend(() => from(1))
}

const pause = (after: string, duration: Duration.Duration) =>
  DurableClock.sleep({ name: `retry ${after}`, duration, inMemoryThreshold: 0 })
