/**
 * The durable steps of a run on Inngest: each is one of the SDK's, which the server memoizes.
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { JobMessage } from "../../Dispatcher.ts"
import * as RunState from "../../internal/RunState.ts"
import * as InngestEvent from "./Event.ts"
import type { InngestRequest } from "./Request.ts"

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

/** What the bodies of our own functions are given. */
export interface Called extends Talk {
  /** Of the event that has started the function. */
  readonly data: unknown
  /** Whether this worker runs the job of this name. */
  readonly runs: (job: string) => boolean
}

/** How a function speaks and hears of deferreds. */
interface Talk {
  readonly tools: StepTools
  readonly eventPrefix: string
}

type About = keyof typeof InngestEvent.deferredEvents

/** Waits for an event about the deferred of this key, and sends one meanwhile; `null` if none came in time. */
const waitSaying = async (
  { eventPrefix, tools }: Talk,
  key: string,
  wait: { readonly step: string; readonly event: About; readonly timeout: string },
  say: { readonly step: string; readonly event: About; readonly data: Record<string, unknown> }
): Promise<unknown> => {
  const [event] = await Promise.all([
    tools.waitForEvent(wait.step, {
      event: eventPrefix + InngestEvent.deferredEvents[wait.event],
      timeout: wait.timeout,
      if: InngestEvent.aboutDeferred(key)
    }),
    tools.sendEvent(say.step, {
      name: eventPrefix + InngestEvent.deferredEvents[say.event],
      data: { key, ...say.data }
    })
  ])
  return event
}

/**
 * Keeps a completion until the run that waits for it has it: the body of a function that the event of a
 * completion starts. The first completion counts, for that event's id is the deferred's.
 */
export const deliver = async (called: Called): Promise<void> => {
  const completed = Option.getOrUndefined(decodeCompleted(called.data))
  if (completed === undefined || !called.runs(completed.job)) return
  const { exit, kept = false, key } = completed
  for (let time = 1; ; time++) {
    const heard = await waitSaying(
      called,
      key,
      { step: `heard ${time}`, event: "heard", timeout: kept ? resultTimeout : keepTimeout },
      { step: `deliver ${time}`, event: "delivered", data: { exit } }
    )
    const answer = Option.getOrUndefined(decodeHeard(heard))
    if (answer === undefined || (answer.data.received && !kept)) return
  }
}

/** Waits for what is delivered under this key: `undefined` if nothing came in time. */
const hear = async (
  talk: Talk,
  step: string,
  key: string,
  timeout: string
): Promise<Schema.Json | undefined> => {
  const event = await waitSaying(
    talk,
    key,
    { step, event: "delivered", timeout },
    { step: `${step}: waits`, event: "heard", data: { received: false } }
  )
  const delivered = Option.getOrUndefined(decodeDelivered(event))
  if (delivered === undefined) return undefined
  await talk.tools.sendEvent(`${step}: received`, {
    name: talk.eventPrefix + InngestEvent.deferredEvents.heard,
    data: { key, received: true }
  })
  return delivered.data.exit
}

/** What `answer` gives, as the server's API shows it. */
export const decodeAnswer = Schema.decodeUnknownOption(
  Schema.Struct({ answers: Schema.Boolean, exit: Schema.optionalKey(Schema.Json) })
)

/** The body of a function that waits for a result, for those who aren't a run and read the function's output. */
export const answer = async (called: Called): Promise<unknown> => {
  const asked = Option.getOrUndefined(decodeAsked(called.data))
  if (asked === undefined || !called.runs(asked.job)) return { answers: false }
  const exit = await hear(called, "result", asked.key, asked.timeout)
  return exit === undefined ? { answers: true } : { answers: true, exit }
}

export const make = (options: {
  readonly request: InngestRequest
  readonly tools: StepTools
  readonly message: JobMessage
  readonly eventPrefix: string
}): RunState.RunSteps => {
  const { eventPrefix, message, request, tools } = options
  // what was recorded in this request isn't in its memo yet, and the SDK takes a step that is asked for again for
  // another one
  const here = new Map<string, Schema.Json>()
  const completions = new Map<string, Deferred.Deferred<Schema.Json>>()

  const run: RunState.RunSteps["run"] = (id, execute) =>
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

  const peek: RunState.RunSteps["peek"] = (id) =>
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
      waiting(() => hear(options, time === 1 ? step : `${step} (${time})`, key, waitTimeout)),
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
      Effect.flatMap(peek(RunState.completionId(deferred)), (recorded) =>
        Option.isSome(recorded)
          ? Effect.succeed(recorded.value)
          : waitOnce(`deferred ${deferred}`, message, deferred)
      ),
    complete: (deferred, exit) =>
      Effect.flatMap(run(RunState.completionId(deferred), Effect.succeed(exit)), (first) =>
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
