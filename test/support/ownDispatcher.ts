// The program of docs/own-dispatcher.md: a test compares them.
import { Effect, FiberSet, Layer } from "effect"
import { Attempt, CronJob, Dispatcher, type Job, type JobMessage, Steps } from "effect-jobs"
import * as Clock from "effect/Clock"

export const layer = <const Jobs extends ReadonlyArray<Job.Any>>(
  jobs: Jobs
): Layer.Layer<Dispatcher, never, Job.HandlerOf<Jobs[number]>> =>
  Layer.effect(
    Dispatcher,
    Effect.gen(function* () {
      const runner = yield* Attempt.makeRunner(jobs)
      const fork = yield* FiberSet.makeRuntime()
      const taken = new Map<string, () => Steps.RunSteps>()

      const run = (message: JobMessage, steps: () => Steps.RunSteps, attempt: number): Effect.Effect<void> =>
        Effect.flatMap(runner.run(message, { attempt, dispatcher, steps }), (outcome) => {
          switch (outcome._tag) {
            case "Succeeded":
              return Effect.void
            case "Retry":
              return Effect.andThen(
                Effect.sleep(outcome.delay),
                Effect.suspend(() => run(message, steps, attempt + 1))
              )
            case "Failed":
              return runner.giveUp(message, { attempt, dispatcher, cause: outcome.cause })
          }
        })

      const dispatcher: Dispatcher["Service"] = {
        send: Effect.fnUntraced(function* (requests) {
          const now = yield* Clock.currentTimeMillis
          for (const { kind, message, notBefore } of requests) {
            if (kind === "completion") {
              const steps = taken.get(`${message.name} ${message.id}`)
              if (steps !== undefined) yield* Steps.complete(steps(), message)
              continue
            }
            // an event's message goes to each of its listeners, under the event's id
            const messages =
              kind === "job"
                ? [message]
                : runner.listeners(message.name).map(({ jobName }) => ({ ...message, name: jobName }))
            for (const message of messages) {
              const key = `${message.name} ${message.id}`
              if (taken.has(key)) continue
              const steps = Steps.once(Steps.inMemory)
              taken.set(key, steps)
              fork(Effect.delay(run(message, steps, 1), Math.max(0, (notBefore ?? now) - now)))
            }
          }
        })
      }
      for (const job of jobs) {
        yield* Effect.forkScoped(
          CronJob.runTicks(job, (message) =>
            Effect.orDie(dispatcher.send([{ kind: "job", message, notBefore: undefined }]))
          )
        )
      }
      return dispatcher
    })
  )
