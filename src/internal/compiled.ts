/**
 * A worker's jobs, each with the parts that are the same for all of its runs.
 */
import type * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as Schema from "effect/Schema"
import type * as SchemaIssue from "effect/SchemaIssue"
import * as SchemaParser from "effect/SchemaParser"
import type { WorkflowEngine } from "effect/workflow/WorkflowEngine"
import { DefinitionError } from "../DefinitionError.ts"
import type { Dispatcher } from "../Dispatcher.ts"
import type * as Job from "../Job.ts"
import type { Outcome, Suspended } from "../Outcome.ts"
import { workerContext } from "./RunContext.ts"

export interface Compiled {
  readonly job: Job.Any
  readonly handler: Job.HandlerService
  /** The context of the worker and the handler's Layer. The run's own services come on top. */
  readonly context: Context.Context<never>
  /** `undefined` for a job that succeeds with nothing, so that there is nothing to encode. */
  readonly encodeSuccess:
    | ((value: unknown) => Effect.Effect<Schema.Json, SchemaIssue.Issue, unknown>)
    | undefined
  readonly encodeError: (error: unknown) => Effect.Effect<Schema.Json, SchemaIssue.Issue, unknown>
  readonly decodeError: (failure: Schema.Json) => Effect.Effect<unknown, SchemaIssue.Issue, unknown>
  readonly spanName: string
  readonly spanAttributes: Readonly<Record<string, string>>
  readonly attempts: Record<(Outcome | Suspended)["_tag"] | "Interrupted", Metric.Counter<number>>
  readonly inFlight: Metric.Gauge<number>
  readonly duration: Metric.Histogram<number>
}

/** A list in which two jobs have one name is refused: their messages couldn't be told apart. */
export const checkedJobs = <Jobs extends ReadonlyArray<Job.Any>>(jobs: Jobs): Jobs => {
  const seen = new Map<string, Job.Any>()
  for (const job of jobs) {
    const other = seen.get(job.jobName)
    if (other !== undefined) {
      throw new DefinitionError({
        message:
          other.target === job.target
            ? `The job "${job.jobName}" is in the list twice: leave one out.`
            : `Two jobs in the list have the name "${job.jobName}": give each a name of its own.`
      })
    }
    seen.set(job.jobName, job)
  }
  return jobs
}

/** The handler of a job, which another contract of its name may have put there. */
const handlerOf = (job: Job.Any, context: Context.Context<never>): Job.HandlerService => {
  const handler = Context.getUnsafe(context, job.handler)
  if (handler.target !== job.target) {
    throw new DefinitionError({
      message: `The handler of "${job.jobName}" was made by another contract of that name: use one contract, or give each a name of its own.`
    })
  }
  return handler
}

/** The jobs of a list by name, with their handlers in the environment. */
export const compileAll = (
  jobs: ReadonlyArray<Job.Any>,
  surroundings: Context.Context<never>,
  worker: {
    readonly dispatcher: Dispatcher["Service"]
    readonly engine?: WorkflowEngine["Service"] | undefined
    readonly clock?: Clock.Clock | undefined
  }
): ReadonlyMap<string, Compiled> =>
  new Map(
    checkedJobs(jobs).map((job) => {
      const handler = handlerOf(job, surroundings)
      const context = workerContext(surroundings, handler, worker.dispatcher, worker.engine, worker.clock)
      return [job.jobName, compile(job, handler, context)]
    })
  )

const compile = (job: Job.Any, handler: Job.HandlerService, context: Context.Context<never>): Compiled => {
  const success: Schema.Top = job.successSchema
  const errorCodec = Schema.toCodecJson(job.errorSchema)
  return {
    job,
    handler,
    context,
    encodeSuccess:
      success.ast === Schema.Void.ast
        ? undefined
        : SchemaParser.encodeUnknownEffect(Schema.toCodecJson(success)),
    encodeError: SchemaParser.encodeUnknownEffect(errorCodec),
    decodeError: SchemaParser.decodeUnknownEffect(errorCodec),
    spanName: `process ${job.jobName}`,
    spanAttributes: {
      "messaging.system": "effect-jobs",
      "messaging.operation.type": "process",
      "messaging.operation.name": "process",
      "messaging.destination.name": job.jobName
    },
    attempts: {
      Succeeded: attemptsTotal(job, "succeeded"),
      Retry: attemptsTotal(job, "retry"),
      Failed: attemptsTotal(job, "failed"),
      Suspended: attemptsTotal(job, "suspended"),
      Interrupted: attemptsTotal(job, "interrupted")
    },
    inFlight: Metric.gauge("effect_jobs_in_flight", {
      description: "Attempts that run now, by job",
      attributes: { job: job.jobName }
    }),
    duration: Metric.histogram("effect_jobs_attempt_duration", {
      description: "How long attempts took, in seconds, by job",
      attributes: { job: job.jobName },
      boundaries: durationBoundaries
    })
  }
}

const attemptsTotal = (job: Job.Any, outcome: string) =>
  Metric.counter("effect_jobs_attempts", {
    description: "Attempts that ended, by job and outcome",
    attributes: { job: job.jobName, outcome },
    incremental: true
  })

/** OpenTelemetry's advice for messaging.process.duration up to 10 s; jobs run longer. */
const durationBoundaries = [
  0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 300, 900, 3600
]
