/**
 * A failure as JSON, for engines that keep it, and back. Whatever was thrown, it becomes JSON.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import type * as SchemaIssue from "effect/SchemaIssue"
import * as SchemaParser from "effect/SchemaParser"
import { issuesOf, issuesSentence } from "../DispatchError.ts"
import { InvalidError } from "../Outcome.ts"
import type { Compiled } from "./compiled.ts"
import { kindOfThrown, summary } from "./describe.ts"
import { isolated } from "./isolated.ts"

/** A failure as it is kept. `typed` says that it is of the job's error schema, and else a defect. */
export interface FailureJson {
  readonly json: Schema.Json
  readonly typed: boolean
}

const defectCodec = Schema.toCodecJson(Schema.Defect())
const encodeDefectValue = SchemaParser.encodeUnknownEffect(defectCodec)
const decodeDefectValue = SchemaParser.decodeUnknownEffect(defectCodec)

/** An error that throws when it is read, or whose causes are too many, is kept as its summary. */
const encodeDefect = (cause: Cause.Cause<unknown>): Effect.Effect<FailureJson> =>
  Effect.map(isolated(Effect.suspend(() => encodeDefectValue(Cause.squash(cause)))), (exit) => ({
    json:
      Exit.isSuccess(exit) && isText(exit.value) ? exit.value : { name: "Error", message: summary(cause) },
    typed: false
  }))

const isText = (json: Schema.Json): boolean => {
  try {
    return JSON.stringify(json) !== undefined
  } catch {
    return false
  }
}

/** A typed error as its job's schema encodes it. Any other failure, and one that doesn't encode, becomes a defect. */
export const encode = (
  job: Compiled | undefined,
  cause: Cause.Cause<unknown>
): Effect.Effect<FailureJson> => {
  const error = Cause.findErrorOption(cause)
  if (job === undefined || error._tag === "None") return encodeDefect(cause)
  const encoded = Effect.suspend(() => job.encodeError(error.value))
  return Effect.flatMap(isolated(inContextOf(job, encoded)), (exit) => {
    if (Exit.isSuccess(exit) && isText(exit.value)) return Effect.succeed({ json: exit.value, typed: true })
    const issue = Exit.isSuccess(exit) ? "it isn't JSON" : mismatch(exit.cause)
    const invalid = new InvalidError({ job: job.job.jobName, issue, error: summary(cause) })
    return encodeDefect(Cause.die(invalid))
  })
}

/** {@link encode} backwards; a typed error that doesn't decode becomes a defect. */
export const decode = (
  job: Compiled | undefined,
  failure: Schema.Json
): Effect.Effect<Cause.Cause<unknown>> => {
  const defect = Effect.map(isolated(Effect.suspend(() => decodeDefectValue(failure))), (exit) =>
    Cause.die(Exit.isSuccess(exit) ? exit.value : failure)
  )
  if (job === undefined) return defect
  const decoded = Effect.suspend(() => job.decodeError(failure))
  return Effect.flatMap(isolated(inContextOf(job, decoded)), (exit) =>
    Exit.isSuccess(exit) ? Effect.succeed(Cause.fail(exit.value)) : defect
  )
}

/** Why a schema didn't take a value, in words and without the value. */
export const mismatch = (cause: Cause.Cause<SchemaIssue.Issue>): string => {
  const issue = Cause.findErrorOption(cause)
  if (issue._tag === "Some") return issuesSentence(issuesOf(issue.value))
  return `its schema threw ${kindOfThrown(Cause.squash(cause))}`
}

/** Runs a codec of a job with the services that its schemas need. */
export const inContextOf = <A, E>(job: Compiled, effect: Effect.Effect<A, E, unknown>): Effect.Effect<A, E> =>
  // sound: the services that a job's schemas need are among those that `toLayer` requires, and so in its context
  Effect.updateContext(effect as Effect.Effect<A, E>, () => job.context)
