/**
 * The state of a run while an attempt of it executes: its steps, and the names that it has used so far. The ids of steps
 * and of dispatches are made here, so that each replay of a run makes the same ones.
 */
import * as Context from "effect/Context"
import { digest } from "./digest.ts"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import type * as Schema from "effect/Schema"

/** The steps of one run, as its engine keeps them. Everything that is kept is JSON. */
export interface RunSteps {
  /** The record under `id`; without one, runs `execute` and records its result. */
  readonly run: (id: string, execute: Effect.Effect<Schema.Json>) => Effect.Effect<Schema.Json>
  /** The record under `id`, without waiting for it. */
  readonly peek: (id: string) => Effect.Effect<Option.Option<Schema.Json>>
  /** Waits until `duration` after this was first asked for under `id`. */
  readonly sleep: (id: string, duration: Duration.Duration) => Effect.Effect<void>
  /** Waits for the deferred of this name, however often it is asked for. */
  readonly wait: (deferred: string) => Effect.Effect<Schema.Json>
  /** Completes a deferred of this very run; only the first completion counts. */
  readonly complete: (deferred: string, exit: Schema.Json) => Effect.Effect<void>
  /** Put around an activity that only sleeps in memory. Default: nothing. */
  readonly idle?: (<A, E, R>(sleep: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>) | undefined
  /** Waits of an engine that also runs Effect's Workflows. */
  readonly workflows?: Workflows | undefined
}

/** The waits of a run beside those for its own deferreds. */
export interface Workflows {
  /** The Exit of an execution, as it was published. */
  readonly result: (workflow: string, executionId: string) => Effect.Effect<Schema.Json>
  /** Waits until this run is resumed for the n-th time, after it began to wait for that. */
  readonly resumed: (time: number) => Effect.Effect<void>
}

/** The state of a part of a run. */
export interface RunState {
  readonly job: string
  readonly id: string
  /** The attempt of the job, from 1. */
  readonly attempt: number
  readonly steps: RunSteps
  /** `handler`, `onFailure`, or the id of an activity. Each part has names of its own. */
  readonly part: string
  /** Whether steps are refused: an activity is a leaf. */
  readonly isActivity: boolean
  /** How often each name was used, in this attempt and part. */
  readonly used: Map<string, number>
  readonly clocks: Map<string, Duration.Duration>
}

/** The state of the run that executes: put there by the runner. */
export class CurrentRunState extends Context.Service<CurrentRunState, RunState>()("effect-jobs/RunState") {}

/** The state of an attempt in which no name was used yet. */
export const make = (
  run: Pick<RunState, "job" | "id" | "attempt" | "steps">,
  part: "handler" | "onFailure"
): RunState => ({
  job: run.job,
  id: run.id,
  attempt: run.attempt,
  steps: run.steps,
  part,
  isActivity: false,
  used: new Map(),
  clocks: new Map()
})

/** The state in the body of an activity. */
export const inActivity = (state: RunState, id: string): RunState => ({
  ...state,
  part: id,
  isActivity: true,
  used: new Map()
})

/** How often this name was used, this time included. */
export const numbered = (state: RunState, name: string): number => {
  const times = (state.used.get(name) ?? 0) + 1
  state.used.set(name, times)
  return times
}

/** The kind of a step. Ids of two kinds never collide. */
export type StepKind = "activity" | "clock" | "race" | "workflow"

const prefixOf = (state: RunState, kind: StepKind): string =>
  state.part === "handler" ? kind : `${state.part}:${kind}`

/**
 * The id of the next step of this kind and name: `activity/charge`, then `activity(2)/charge`. The number stands before
 * the name, which may end in one itself.
 */
export const stepId = (state: RunState, kind: StepKind, name: string): string => {
  const prefix = prefixOf(state, kind)
  const times = numbered(state, `${prefix}/${name}`)
  return times === 1 ? `${prefix}/${name}` : `${prefix}(${times})/${name}`
}

/** The id of a further try of the last activity of this name: `activity.2/charge`, `activity(2).2/charge`. */
export const tryId = (state: RunState, name: string, attempt: number): string => {
  const prefix = prefixOf(state, "activity")
  const times = state.used.get(`${prefix}/${name}`) ?? 1
  const id = withTry(times === 1 ? `${prefix}/${name}` : `${prefix}(${times})/${name}`, attempt)
  const same = numbered(state, id)
  return same === 1 ? id : marked(id, `~${same}`)
}

/** The id of an activity's try. The first one has no mark, and is the id of the activity. */
export const withTry = (id: string, attempt: number): string =>
  id.replace(/^([^/.~]*)[^/]*/, attempt === 1 ? "$1" : `$1.${attempt}`)

const marked = (id: string, mark: string): string => {
  const slash = id.indexOf("/")
  return `${id.slice(0, slash)}${mark}${id.slice(slash)}`
}

/** The id of the same step once more, where its last record is a failure of an earlier attempt. */
export const againId = (id: string, time: number): string => (time === 1 ? id : marked(id, `@${time}`))

/** The id of a deferred's completion among the records of its run. */
export const completionId = (deferred: string): string => `deferred/${deferred}`

/**
 * The id of a dispatch in a run that is given none: the SHA-256 of the run, the part of it, the target, the payload, and
 * how many equal ones came before. A repeated attempt dispatches under the same id, so nothing is sent twice.
 */
export const dispatchId = (
  state: RunState,
  target: { readonly kind: string; readonly name: string },
  payload: string
): Effect.Effect<string> => {
  const times = numbered(state, `dispatch ${target.kind} ${target.name} ${payload}`)
  return digest(JSON.stringify([state.job, state.id, state.part, target.kind, target.name, payload, times]))
}
