// The program of docs/own-dispatcher.md: a test compares them.
import { Effect, FiberSet, Layer } from "effect"
import { Dispatcher, type Job, type JobMessage } from "effect-jobs"
import { completeDeferred, makeRunner, type RunSteps, runTicks, stepsInMemory } from "effect-jobs/engine"
import * as Clock from "effect/Clock"

export const layer = <const Jobs extends ReadonlyArray<Job.Any>>(
  jobs: Jobs
): Layer.Layer<Dispatcher, never, Job.HandlerOf<Jobs[number]>> =>
  Layer.effect(
    Dispatcher,
    Effect.gen(function* () {
      const fork = yield* FiberSet.makeRuntime()
      const taken = new Map<string, RunSteps>()

      const dispatcher: Dispatcher["Service"] = {
        send: Effect.fnUntraced(function* (requests) {
          const now = yield* Clock.currentTimeMillis
          for (const { kind, message, notBefore } of requests) {
            if (kind === "completion") {
              const steps = taken.get(`${message.name} ${message.id}`)
              if (steps !== undefined) yield* completeDeferred(steps, message)
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
              const steps = stepsInMemory()
              taken.set(key, steps)
              fork(Effect.delay(run(message, steps, 1), Math.max(0, (notBefore ?? now) - now)))
            }
          }
        })
      }
      const runner = yield* makeRunner(jobs, { name: "the dispatcher of the docs", dispatcher })

      const run = (message: JobMessage, steps: RunSteps, attempt: number): Effect.Effect<unknown> =>
        // a payload of its own for each attempt, as a queue would give it
        Effect.flatMap(runner.attempt(structuredClone(message), { attempt, steps }), (outcome) => {
          switch (outcome._tag) {
            case "Succeeded":
              return Effect.void
            case "Retry":
              return Effect.andThen(
                Effect.sleep(outcome.delay),
                Effect.suspend(() => run(message, steps, attempt + 1))
              )
            case "Failed":
              return runner.failed(message, outcome, { attempt, steps })
          }
        })

      for (const job of jobs) {
        yield* Effect.forkScoped(
          runTicks(job, (message) =>
            Effect.orDie(dispatcher.send([{ kind: "job", message, notBefore: undefined }]))
          )
        )
      }
      return dispatcher
    })
  )
