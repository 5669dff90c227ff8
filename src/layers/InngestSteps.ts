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

/** How long the result of a workflow is kept: as long as the server remembers the id of its execution. */
const resultTimeout = "24h"

/** The name that the result of a workflow has among the deferreds of its run. */
export const resultDeferred = "effect-jobs/result"

/** And what is waited for when it is to be resumed. */
export const resumedDeferred = "effect-jobs/resumed"

const decodeDelivered = Schema.decodeUnknownOption(
  Schema.Struct({ data: Schema.Struct({ exit: Schema.Json }) })
)
const decodeHeard = Schema.decodeUnknownOption(
  Schema.Struct({ data: Schema.Struct({ received: Schema.Boolean }) })
)
const decodeCompleted = Schema.decodeUnknownOption(
  Schema.Struct({
    key: Schema.String,
    job: Schema.String,
    exit: Schema.Json,
    kept: Schema.optionalKey(Schema.Boolean)
  })
)
const decodeAsked = Schema.decodeUnknownOption(
  Schema.Struct({ key: Schema.String, job: Schema.String, timeout: Schema.String })
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
  const { exit, kept = false, key } = completed
  for (let time = 1; ; time++) {
    const [heard] = await Promise.all([
      tools.waitForEvent(`heard ${time}`, {
        event: eventPrefix + InngestEvent.deferredEvents.heard,
        timeout: kept ? resultTimeout : keepTimeout,
        if: InngestEvent.aboutDeferred(key)
      }),
      tools.sendEvent(`deliver ${time}`, {
        name: eventPrefix + InngestEvent.deferredEvents.delivered,
        data: { key, exit }
      })
    ])
    const answer = Option.getOrUndefined(decodeHeard(heard))
    if (answer === undefined || (answer.data.received && !kept)) return
  }
}

/** Waits for what is delivered under this key: `undefined` if nothing came in time. */
const hear = async (options: {
  readonly step: string
  readonly key: string
  readonly timeout: string
  readonly tools: StepTools
  readonly eventPrefix: string
}): Promise<Schema.Json | undefined> => {
  const { eventPrefix, key, step, timeout, tools } = options
  const say = (received: boolean) => ({
    name: eventPrefix + InngestEvent.deferredEvents.heard,
    data: { key, received }
  })
  const [event] = await Promise.all([
    tools.waitForEvent(step, {
      event: eventPrefix + InngestEvent.deferredEvents.delivered,
      timeout,
      if: InngestEvent.aboutDeferred(key)
    }),
    tools.sendEvent(`${step}: waits`, say(false))
  ])
  const delivered = Option.getOrUndefined(decodeDelivered(event))
  if (delivered === undefined) return undefined
  await tools.sendEvent(`${step}: received`, say(true))
  return delivered.data.exit
}

/** What `answer` gives, as the server's API shows it. */
export const decodeAnswer = Schema.decodeUnknownOption(
  Schema.Struct({ answers: Schema.Boolean, exit: Schema.optionalKey(Schema.Json) })
)

/** The body of a function that waits for a result, for those who aren't a run and read the function's output. */
export const answer = async (options: {
  readonly data: unknown
  readonly tools: StepTools
  readonly eventPrefix: string
  readonly runs: (job: string) => boolean
}): Promise<unknown> => {
  const { data, eventPrefix, runs, tools } = options
  const asked = Option.getOrUndefined(decodeAsked(data))
  if (asked === undefined || !runs(asked.job)) return { answers: false }
  const { key, timeout } = asked
  const exit = await hear({ step: "result", key, timeout, tools, eventPrefix })
  return exit === undefined ? { answers: true } : { answers: true, exit }
}

export const make = (options: {
  readonly request: InngestRequest
  readonly tools: StepTools
  readonly message: JobMessage
  readonly eventPrefix: string
}): Steps.RunSteps => {
  const { eventPrefix, message, request, tools } = options
  // what was recorded in this request isn't in its memo yet, and the SDK takes a step that is asked for again for
  // another one
  const here = new Map<string, Schema.Json>()
  const completions = new Map<string, Deferred.Deferred<Schema.Json>>()

  const run: Steps.RunSteps["run"] = (id, execute) =>
    Effect.contextWith((context) => {
      const recorded = here.get(id)
      if (recorded !== undefined) return Effect.succeed(recorded)
      return Effect.callback<Schema.Json>((resume) => {
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
      }).pipe(Effect.interruptible)
    })

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

  const waitFrom = (step: string, key: string, time: number): Effect.Effect<Schema.Json> =>
    Effect.flatMap(
      waiting(() =>
        hear({
          step: time === 1 ? step : `${step} (${time})`,
          key,
          timeout: waitTimeout,
          tools,
          eventPrefix
        })
      ),
      (exit) => (exit === undefined ? waitFrom(step, key, time + 1) : Effect.succeed(exit))
    )

  const completion = (deferred: string) => {
    let found = completions.get(deferred)
    if (found === undefined) completions.set(deferred, (found = Deferred.makeUnsafe()))
    return found
  }
  const waited = new Set<string>()
  /** However often it is asked for, it is waited for once. */
  const waitOnce = (
    step: string,
    of: { readonly name: string; readonly id: string },
    deferred: string
  ): Effect.Effect<Schema.Json> =>
    Effect.suspend(() => {
      const done = completion(step)
      if (waited.has(step)) return Deferred.await(done)
      waited.add(step)
      return Effect.flatMap(
        Effect.promise(() => InngestEvent.deferredKey(of, deferred)),
        (key) => Effect.raceFirst(Deferred.await(done), waitFrom(step, key, 1))
      ).pipe(Effect.tap((exit) => Deferred.succeed(done, exit)))
    })

  return {
    run,
    peek,
    sleep: (id, duration) =>
      Duration.isZero(duration) || here.has(id)
        ? Effect.void
        : // a sleep there has whole seconds
          Effect.map(
            waiting(() => tools.sleep(id, Math.ceil(Duration.toSeconds(duration)) * 1_000)),
            () => void here.set(id, null)
          ),
    wait: (deferred) =>
      Effect.flatMap(peek(Steps.completionId(deferred)), (recorded) =>
        Option.isSome(recorded)
          ? Effect.succeed(recorded.value)
          : waitOnce(`deferred ${deferred}`, message, deferred)
      ),
    complete: (deferred, exit) =>
      Effect.flatMap(run(Steps.completionId(deferred), Effect.succeed(exit)), (first) =>
        Deferred.succeed(completion(`deferred ${deferred}`), first)
      ),
    workflows: {
      result: (name, id) => waitOnce(`result of ${name} ${id}`, { name, id }, resultDeferred),
      resumed: (time) =>
        Effect.flatMap(
          Effect.promise(() => InngestEvent.deferredKey(message, resumedDeferred)),
          (key) =>
            waiting(() =>
              tools.waitForEvent(`resumed ${time}`, {
                event: eventPrefix + InngestEvent.workflowEvents.resumed,
                timeout: waitTimeout,
                if: InngestEvent.aboutDeferred(key)
              })
            )
        )
    }
  }
}

/**
 * Waits for a step of the SDK's. A new one never ends in its request, so it is given up when that was answered,
 * also in a finalizer, which else can't be interrupted.
 */
const waiting = <A>(step: () => Promise<A>): Effect.Effect<A> => Effect.interruptible(Effect.promise(step))
