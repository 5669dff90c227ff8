export * as TestDispatcher from "./layers/inprocess/TestDispatcher.ts"
