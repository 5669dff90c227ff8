export * as SqliteClient from "./layers/sqlite/SqliteClient.ts"
