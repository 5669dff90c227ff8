/**
 * A call of Inngest's as a run of a job: one attempt, or what follows the last.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type * as Schema from "effect/Schema"
import type { Runner } from "../../Attempt.ts"
import type { JobMessage } from "../../Dispatcher.ts"
import type * as Job from "../../Job.ts"
import { WorkerLost } from "../../Outcome.ts"
import * as InngestAnswer from "./Answer.ts"
import * as InngestEvent from "./Event.ts"
import type { Keyring } from "./Mailbox.ts"
import { type InngestRequest, requestOf } from "./Request.ts"
import * as InngestSteps from "./Steps.ts"

/** What all functions of a worker have in common. */
export interface Worker {
  readonly runner: Runner
  readonly eventPrefix: string
  readonly keyring: Keyring
  readonly isWorkflow: (job: Job.Any) => boolean
  /** Keeps the result of a workflow's execution for who waits for it; of a job's run nothing. */
  readonly keepResult: (
    job: Job.Any,
    id: string,
    exit: Exit.Exit<Schema.Json, Schema.Json>
  ) => Effect.Effect<unknown>
  readonly fork: <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>
}

/** What the SDK gives to a function, as far as it is used here. */
export interface RunContext {
  readonly event: InngestEvent.IncomingEvent
  /** From 0; the server counts anew after each step that it has recorded. */
  readonly attempt: number
  readonly step: InngestSteps.StepTools
}

/** One attempt, or the part of one between two of its steps. */
export const attempt = (self: Worker, job: Job.Any, context: RunContext): Promise<unknown> => {
  const request = requestOf(context)
  const answered = Effect.gen(function* () {
    const message = InngestEvent.toMessage(job, context.event, yield* Clock.currentTimeMillis)
    const attempt = self.isWorkflow(job)
      ? // its activities count how often it was resumed
        context.attempt + 1
      : InngestSteps.attemptOf(request.memoized, context.attempt)
    const answer =
      InngestSteps.decidedIn(request.memoized, attempt) ??
      (yield* answerOf(self, job, { request, message, attempt, context }))
    if ("success" in answer) {
      yield* self.keepResult(job, message.id, Exit.succeed(answer.success))
    }
    request.decide({ _tag: "Answered", answer })
    return yield* InngestAnswer.settle(answer)
  })
  return request.promise(self.fork, answered)
}

const answerOf = (
  self: Worker,
  job: Job.Any,
  called: {
    readonly request: InngestRequest
    readonly message: JobMessage
    readonly attempt: number
    readonly context: RunContext
  }
): Effect.Effect<InngestAnswer.Answer> => {
  const { attempt, context, message, request } = called
  const { eventPrefix, keyring, runner } = self
  const about = { runner, message, attempt }
  if (attempt > job.retry.attempts) {
    // the last one gave no answer: there is none left
    const lost = new WorkerLost({ job: job.jobName, id: message.id, attempt: attempt - 1 })
    return InngestAnswer.failure(
      { ...about, attempt: attempt - 1 },
      Cause.die(lost),
      "AttemptsExhausted",
      "never"
    )
  }
  const steps = InngestSteps.make({
    request,
    tools: context.step,
    message,
    attempt,
    retried: context.attempt > 0 && !self.isWorkflow(job),
    eventPrefix,
    keyring
  })
  return Effect.flatMap(runner.attempt(message, { attempt, steps }), (outcome) =>
    InngestAnswer.ofOutcome(about, outcome)
  )
}

/** Inngest's failure function: runs when no attempt is left, also when the worker died in the last one. */
export const failed = (self: Worker, job: Job.Any, context: RunContext): Promise<unknown> =>
  requestOf(context).promise(
    self.fork,
    Effect.gen(function* () {
      const { error, event } = yield* Effect.orDie(InngestAnswer.decodeFailed(context.event.data))
      const message = InngestEvent.toMessage(job, event, yield* Clock.currentTimeMillis)
      const recorded = Option.getOrUndefined(InngestAnswer.decodeRecorded(error.cause))
      const attempt = recorded?.attempt ?? job.retry.attempts
      const reason = recorded?.reason ?? "AttemptsExhausted"
      const cause =
        recorded === undefined || recorded.lost === true
          ? Cause.die(unrecorded(message, attempt, error))
          : yield* self.runner.decodeFailure(message.name, { json: recorded.failure, typed: recorded.typed })
      yield* self.runner.failed(message, { _tag: "Failed", reason, cause }, { attempt })
      yield* self.keepResult(
        job,
        message.id,
        recorded?.typed === true && Option.isSome(Cause.findErrorOption(cause))
          ? Exit.fail(recorded.failure)
          : Exit.die(Cause.squash(cause))
      )
    })
  )

/** A failure that no attempt has answered with. */
const unrecorded = (
  { id, name: job }: JobMessage,
  attempt: number,
  error: { readonly name?: string; readonly message: string }
): WorkerLost | InngestAnswer.ServerFailed =>
  InngestAnswer.isLost(error)
    ? new WorkerLost({ job, id, attempt, detail: error.message })
    : new InngestAnswer.ServerFailed({ job, id, detail: error.message })
