export { InngestClient, type InngestClientOptions } from "./layers/inngest/InngestClient.ts"
export * as InngestDispatcher from "./layers/inngest/InngestDispatcher.ts"
export * as InngestWorker from "./layers/inngest/InngestWorker.ts"
export * as InngestWorkflowEngine from "./layers/inngest/InngestWorkflowEngine.ts"
