/**
 * A job, event, listener, cron job, policy, option or list of jobs is invalid. Thrown where it is made, so that a program
 * with one doesn't start. The message is one sentence that names what is wrong.
 */
import * as Data from "effect/Data"

export class DefinitionError extends Data.TaggedError("DefinitionError")<{ readonly message: string }> {}
