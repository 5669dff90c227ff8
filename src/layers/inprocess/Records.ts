/**
 * The requests that a test dispatcher has recorded, and their runs.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { DispatchRequest, JobMessage } from "../../Dispatcher.ts"
import { complete, inMemory } from "../../internal/RunRecords.ts"
import type { RunSteps } from "../../internal/RunState.ts"
import type { Outcome } from "../../Outcome.ts"
import { runKey } from "./Engine.ts"
import type { RememberedIds } from "./Ids.ts"

/** One attempt, with its Exit as the handler gave it. */
export interface RecordedAttempt {
  readonly name: string
  readonly id: string
  readonly attempt: number
  readonly time: number
  readonly exit: Exit.Exit<unknown, unknown>
}

/** A run that `drain` has begun, or that has a completion. With it an id has one run over all drains. */
export interface RecordedRun {
  /** Open: it hasn't begun, or its drain was interrupted. */
  state: "open" | "running" | "ended"
  /** Outlive an interrupted drain: the next one doesn't repeat a finished activity. */
  readonly steps: RunSteps
  /** The attempts that have failed so far. */
  failedAttempts: number
}

/** The records of both layers of `TestDispatcher`, which its other functions read. */
export class Records extends Context.Service<
  Records,
  {
    /** Every accepted request, in the order of dispatch; another array after `clear`. */
    requests: Array<DispatchRequest>
    readonly runs: Map<string, RecordedRun>
    readonly attempts: Array<RecordedAttempt>
    /** The ids of runs that `layerRunning` remembers; `undefined` where nothing runs before `drain`. */
    readonly engineIds: RememberedIds | undefined
  }
>()("effect-jobs/TestDispatcher/Records") {}

export const make = (engineIds: RememberedIds | undefined): Records["Service"] => ({
  requests: [],
  runs: new Map(),
  attempts: [],
  engineIds
})

/** Forgets everything, ids too. */
export const clear = (records: Records["Service"]): void => {
  records.requests = []
  records.runs.clear()
  records.engineIds?.clear()
  records.attempts.length = 0
}

/** Records requests for `drain`. A completion is handed to the steps of its run, which may begin later. */
export const record = (
  records: Records["Service"],
  requests: ReadonlyArray<DispatchRequest>
): Effect.Effect<void> => {
  for (const request of requests) records.requests.push(request)
  const completions = requests.filter(({ kind }) => kind === "completion")
  return completions.length === 0
    ? Effect.void
    : Effect.forEach(completions, ({ message }) => complete(runOf(records, message).steps, message), {
        discard: true
      })
}

export const runOf = (records: Records["Service"], message: JobMessage): RecordedRun => {
  const key = runKey(message)
  let run = records.runs.get(key)
  if (run === undefined) {
    run = { state: "open", steps: inMemory(), failedAttempts: 0 }
    records.runs.set(key, run)
  }
  return run
}

export const recordAttempt = (
  records: Records["Service"],
  { id, name }: JobMessage,
  attempt: number,
  outcome: Outcome,
  time: number
): void => void records.attempts.push({ name, id, attempt, time, exit: exitOf(outcome) })

/** How an attempt or a run ended, as its handler gave it. */
export const exitOf = (outcome: Outcome): Exit.Exit<unknown, unknown> =>
  outcome._tag === "Succeeded" ? Exit.succeed(outcome.value) : Exit.failCause(outcome.cause)
