export * as CronJob from "./CronJob.ts"
export { DefinitionError } from "./DefinitionError.ts"
export {
  DispatchError,
  DispatchReason,
  InvalidOption,
  InvalidPayload,
  PayloadTooLarge,
  Rejected,
  Unavailable,
  UnknownJob
} from "./DispatchError.ts"
export {
  type Dispatchable,
  type DispatchAllOptions,
  Dispatcher,
  type DispatchOptions,
  type DispatchRequest,
  JobMessage,
  type Receipt
} from "./Dispatcher.ts"
export * as DomainEvent from "./DomainEvent.ts"
export * as InlineDispatcher from "./layers/inprocess/InlineDispatcher.ts"
export * as Job from "./Job.ts"
export * as Listener from "./Listener.ts"
export * as Outcome from "./Outcome.ts"
export { type OnError } from "./Outcome.ts"
export * as RetryPolicy from "./RetryPolicy.ts"
export * as Steps from "./Steps.ts"
