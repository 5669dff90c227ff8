export { InngestClient, type InngestClientOptions } from "./layers/InngestClient.ts"
export * as InngestDispatcher from "./layers/InngestDispatcher.ts"
export * as InngestWorker from "./layers/InngestWorker.ts"
export * as InngestWorkflowEngine from "./layers/InngestWorkflowEngine.ts"
