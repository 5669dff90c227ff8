/**
 * The two lines of a worker's life: one when it starts, one when it has closed.
 */
import * as Effect from "effect/Effect"
import type * as LogLevel from "effect/LogLevel"
import type * as Scope from "effect/Scope"
import { report } from "./isolated.ts"

/**
 * Logs that a worker has started, with these details, and at the end of the scope that it has closed. Call it before the
 * worker acquires anything, so that its finalizer runs last. Default level: `Info`.
 */
export const announce = (
  name: string,
  details: Readonly<Record<string, unknown>>,
  level: LogLevel.Severity = "Info"
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.acquireRelease(
    report(Effect.annotateLogs(Effect.logWithLevel(level)(`${name} has started.`), details)),
    () => report(Effect.logWithLevel(level)(`${name} has closed.`))
  )
