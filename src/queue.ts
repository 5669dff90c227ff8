export * as QueueDispatcher from "./layers/QueueDispatcher.ts"
export * as QueueStore from "./layers/QueueStore.ts"
export * as QueueWorker from "./layers/QueueWorker.ts"
