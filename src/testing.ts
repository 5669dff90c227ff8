export * as TestDispatcher from "./layers/TestDispatcher.ts"
