export * as Attempt from "./Attempt.ts"
export * as CronJob from "./CronJob.ts"
export { DefinitionError } from "./DefinitionError.ts"
export {
  type Dispatchable,
  type DispatchAllOptions,
  Dispatcher,
  DispatchError,
  type DispatchOptions,
  DispatchReason,
  InvalidOption,
  InvalidPayload,
  JobMessage,
  PayloadTooLarge,
  type Receipt,
  Rejected,
  type Request,
  Unavailable,
  UnknownJob
} from "./Dispatcher.ts"
export * as DomainEvent from "./DomainEvent.ts"
export * as InlineDispatcher from "./layers/InlineDispatcher.ts"
export * as Job from "./Job.ts"
export * as Listener from "./Listener.ts"
export * as RetryPolicy from "./RetryPolicy.ts"
export * as Steps from "./Steps.ts"
