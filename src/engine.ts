/**
 * For whoever writes an engine of their own: the runner of attempts, the records of durable steps, and the ticks of
 * cron jobs. `docs/own-dispatcher.md` has a whole one. Programs that use jobs need none of it.
 */
export { type AttemptOptions, Decided, makeRunner, type Runner, type WorkerOptions } from "./Attempt.ts"
export { recordsInMemory, runTicks, tickEnded, type TickRecords } from "./internal/ticks.ts"
export type { FailureJson } from "./internal/failureJson.ts"
export {
  type AroundWait,
  complete as completeDeferred,
  completionOf,
  fromRecords as stepsFromRecords,
  inMemory as stepsInMemory,
  type Records as StepRecords
} from "./internal/RunRecords.ts"
export { make as makeSuspension, type Suspension } from "./internal/Suspension.ts"
export type { RunSteps, Workflows } from "./internal/RunState.ts"
export type { Failed, Outcome, Retry, Succeeded, Suspended } from "./Outcome.ts"
