/**
 * The durable steps of a run on Inngest: each is one of the SDK's, which the server memoizes.
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { JobMessage } from "../Dispatcher.ts"
import * as Steps from "../Steps.ts"
import * as InngestEvent from "./InngestEvent.ts"
import type { InngestRequest } from "./InngestRequest.ts"

/** The SDK's step tools that are used here. */
export interface StepTools {
  readonly run: (id: string, body: () => Promise<unknown>) => Promise<unknown>
  readonly sleep: (id: string, millis: number) => Promise<void>
  readonly sendEvent: (
    id: string,
    event: { readonly name: string; readonly data: Record<string, unknown> }
  ) => Promise<unknown>
  readonly waitForEvent: (
    id: string,
    options: { readonly event: string; readonly timeout: string; readonly if: string }
  ) => Promise<unknown>
}

/** As long as Inngest lets a run wait (366 days); then the run waits once more. */
const waitTimeout = "365d"

/** How long a completion is kept for a run that doesn't wait for it yet. */
const keepTimeout = "30d"

const decodeDelivered = Schema.decodeUnknownOption(
  Schema.Struct({ data: Schema.Struct({ exit: Schema.Json }) })
)
const decodeHeard = Schema.decodeUnknownOption(
  Schema.Struct({ data: Schema.Struct({ received: Schema.Boolean }) })
)
const decodeCompleted = Schema.decodeUnknownOption(
  Schema.Struct({ key: Schema.String, job: Schema.String, exit: Schema.Json })
)

/**
 * Keeps a completion until the run that waits for it has it: the body of a function that the event of a
 * completion starts. The first completion counts, for that event's id is the deferred's.
 */
export const deliver = async (options: {
  readonly data: unknown
  readonly tools: StepTools
  readonly eventPrefix: string
  /** Whether this worker runs the job of this name. */
  readonly runs: (job: string) => boolean
}): Promise<void> => {
  const { data, eventPrefix, runs, tools } = options
  const completed = Option.getOrUndefined(decodeCompleted(data))
  if (completed === undefined || !runs(completed.job)) return
  const { exit, key } = completed
  for (let time = 1; ; time++) {
    const [heard] = await Promise.all([
      tools.waitForEvent(`heard ${time}`, {
        event: eventPrefix + InngestEvent.deferredEvents.heard,
        timeout: keepTimeout,
        if: InngestEvent.aboutDeferred(key)
      }),
      tools.sendEvent(`deliver ${time}`, {
        name: eventPrefix + InngestEvent.deferredEvents.delivered,
        data: { key, exit }
      })
    ])
    const answer = Option.getOrUndefined(decodeHeard(heard))
    if (answer === undefined || answer.data.received) return
  }
}

export const make = (options: {
  readonly request: InngestRequest
  readonly tools: StepTools
  readonly message: JobMessage
  readonly eventPrefix: string
}): Steps.RunSteps => {
  const { eventPrefix, message, request, tools } = options
  // what was recorded in this request isn't in its memo yet
  const here = new Map<string, Schema.Json>()
  const completions = new Map<string, Deferred.Deferred<Schema.Json>>()

  const run: Steps.RunSteps["run"] = (id, execute) =>
    Effect.contextWith((context) =>
      Effect.callback<Schema.Json>((resume) => {
        let fiber: Fiber.Fiber<Schema.Json> | undefined
        const fork = (effect: Effect.Effect<Schema.Json>) => (fiber = Effect.runForkWith(context)(effect))
        tools
          .run(id, () => request.promise(fork, execute))
          .then(
            (value) => {
              // sound: `execute` gave JSON, and the server gives it back
              const json = value as Schema.Json
              here.set(id, json)
              resume(Effect.succeed(json))
            },
            (error: unknown) => resume(Effect.die(error))
          )
        return Effect.suspend(() => (fiber === undefined ? Effect.void : Fiber.interrupt(fiber)))
      })
    )

  const peek: Steps.RunSteps["peek"] = (id) =>
    Effect.suspend(() => {
      const json = here.get(id)
      if (json !== undefined) return Effect.succeed(Option.some(json))
      return Effect.map(
        Effect.promise(() => InngestEvent.stepKey(id)),
        (key) => {
          const step = request.memoized[key]
          // sound: it was recorded by `run`
          return step?.type === "data" ? Option.some(step.data as Schema.Json) : Option.none()
        }
      )
    })

  const waitFrom = (deferred: string, key: string, time: number): Effect.Effect<Schema.Json> => {
    const step = time === 1 ? `deferred ${deferred}` : `deferred ${deferred} (${time})`
    const say = (received: boolean) => ({
      name: eventPrefix + InngestEvent.deferredEvents.heard,
      data: { key, received }
    })
    return Effect.flatMap(
      Effect.promise(async () => {
        const [event] = await Promise.all([
          tools.waitForEvent(step, {
            event: eventPrefix + InngestEvent.deferredEvents.delivered,
            timeout: waitTimeout,
            if: InngestEvent.aboutDeferred(key)
          }),
          tools.sendEvent(`${step}: waits`, say(false))
        ])
        const delivered = decodeDelivered(event)
        if (Option.isSome(delivered)) await tools.sendEvent(`${step}: received`, say(true))
        return delivered
      }),
      Option.match({
        onNone: () => waitFrom(deferred, key, time + 1),
        onSome: ({ data }) => Effect.succeed(data.exit)
      })
    )
  }

  const completion = (deferred: string) => {
    let found = completions.get(deferred)
    if (found === undefined) completions.set(deferred, (found = Deferred.makeUnsafe()))
    return found
  }
  const waiting = new Set<string>()

  return {
    run,
    peek,
    sleep: (id, duration) =>
      Duration.isZero(duration)
        ? Effect.void
        : // a sleep there has whole seconds
          Effect.promise(() => tools.sleep(id, Math.ceil(Duration.toSeconds(duration)) * 1_000)),
    wait: (deferred) =>
      Effect.suspend(() => {
        const done = completion(deferred)
        if (waiting.has(deferred)) return Deferred.await(done)
        waiting.add(deferred)
        return Effect.flatMap(peek(Steps.completionId(deferred)), (recorded) =>
          Option.isSome(recorded)
            ? Effect.succeed(recorded.value)
            : Effect.flatMap(
                Effect.promise(() => InngestEvent.deferredKey(message, deferred)),
                (key) => Effect.raceFirst(Deferred.await(done), waitFrom(deferred, key, 1))
              )
        ).pipe(Effect.tap((exit) => Deferred.succeed(done, exit)))
      }),
    complete: (deferred, exit) =>
      Effect.flatMap(run(Steps.completionId(deferred), Effect.succeed(exit)), (first) =>
        Deferred.succeed(completion(deferred), first)
      )
  }
}
