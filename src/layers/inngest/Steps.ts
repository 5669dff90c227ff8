/**
 * The durable steps of a run on Inngest: each is one of the SDK's, which the server memoizes.
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { JobMessage } from "../../Dispatcher.ts"
import * as RunState from "../../internal/RunState.ts"
import { encodeExit } from "../../internal/StepEngine.ts"
import { Answer, maxResultSize, ResultTooLarge, sizeOf } from "./Answer.ts"
import * as InngestEvent from "./Event.ts"
import * as Mailbox from "./Mailbox.ts"
import { goesOn, type InngestRequest, type Memoized } from "./Request.ts"

/** The SDK's step tools that are used here. */
export interface StepTools extends Mailbox.Tools {
  readonly run: (id: string, body: () => Promise<unknown>) => Promise<unknown>
  readonly sleep: (id: string, millis: number) => Promise<void>
}

/** As long as Inngest lets a run wait (366 days); then the run waits once more. */
const waitTimeout = "365d"

/** An activity that its handler interrupted, and the answer that followed, if one did. */
const Interrupted = Schema.Struct({ interrupted: Schema.Int, answer: Schema.optionalKey(Answer) })
const decodeInterrupted = Schema.decodeUnknownOption(Interrupted)

/** The attempt of the job in which a record was made, by the name of its field; of other records none. */
const numberOf = (record: unknown, field: "attempt" | "interrupted"): number | undefined => {
  if (typeof record !== "object" || record === null || !Object.hasOwn(record, field)) return undefined
  // sound: it has the field
  const number = (record as Record<typeof field, unknown>)[field]
  return typeof number === "number" && Number.isSafeInteger(number) ? number : undefined
}

/** Activities, and the attempt that a run has come to, are recorded as `{ attempt, exit }`. */
const recordedIn = (record: unknown): number | undefined =>
  typeof record === "object" && record !== null && "exit" in record ? numberOf(record, "attempt") : undefined

const interruptedIn = (record: unknown): number | undefined => numberOf(record, "interrupted")

/**
 * What the memoized steps of a request say of the attempt of its job. The server counts attempts anew after each
 * recorded step, so each record has the attempt that made it, and the run's is the server's count on top of the
 * largest: it only grows.
 */
export const attemptOf = (memoized: Memoized, server: number): number => {
  let largest = 1
  for (const step of Object.values(memoized)) {
    if (step.type !== "data") continue
    largest = Math.max(largest, recordedIn(step.data) ?? interruptedIn(step.data) ?? 1)
  }
  return largest + server
}

/** The answer that this attempt came to in another request, when one of its activities was interrupted. */
export const decidedIn = (memoized: Memoized, attempt: number): Answer | undefined => {
  for (const step of Object.values(memoized)) {
    const cut = step.type === "data" ? Option.getOrUndefined(decodeInterrupted(step.data)) : undefined
    if (cut?.interrupted === attempt && cut.answer !== undefined) return cut.answer
  }
  return undefined
}

/** What the steps of a run need to know of its request. */
export interface Options extends Mailbox.Talk {
  readonly request: InngestRequest
  readonly tools: StepTools
  readonly message: JobMessage
  readonly attempt: number
  /** Whether the server has counted attempts since the last step that it recorded. */
  readonly retried: boolean
}

export const make = (options: Options): RunState.RunSteps => {
  const { attempt, eventPrefix, keyring, message, request, tools } = options
  // what was recorded in this request isn't in its memo yet, and the SDK takes a step that is asked for again for
  // another one
  const here = new Map<string, Schema.Json>()

  const memo = async (id: string): Promise<Memoized[string] | undefined> =>
    request.memoized[await InngestEvent.stepKey(id)]

  let kept: Promise<unknown> | undefined
  /** Before the first new step of an attempt that the server counts: with that step it forgets the count. */
  const afterAttempt = <A>(id: string, step: () => Promise<A>): Promise<A> => {
    request.decide(goesOn)
    if (!options.retried) return step()
    return memo(id)
      .then((found) =>
        found !== undefined
          ? undefined
          : (kept ??= tools.run(`attempt ${attempt}`, () => Promise.resolve({ attempt, exit: null })))
      )
      .then(step)
  }

  const run = runWith(options, here, afterAttempt)

  const peek: RunState.RunSteps["peek"] = (id) =>
    Effect.suspend(() => {
      const json = here.get(id)
      if (json !== undefined) return Effect.succeed(Option.some(json))
      return Effect.map(
        Effect.promise(() => memo(id)),
        (step) =>
          // sound: it was recorded by `run`
          step?.type === "data" ? Option.some(step.data as Schema.Json) : Option.none()
      )
    })

  /**
   * Waits for a step of the SDK's. A new one never ends in its request, so it is given up when that was answered,
   * also in a finalizer, which else can't be interrupted.
   */
  const waiting = <A>(id: string, step: () => Promise<A>): Effect.Effect<A> =>
    Effect.interruptible(Effect.promise(() => afterAttempt(id, step)))

  const waitFrom = (step: string, keys: Mailbox.Keys, time: number): Effect.Effect<Schema.Json> => {
    const id = time === 1 ? step : `${step} (${time})`
    return Effect.flatMap(
      waiting(id, () => Mailbox.hear(options, id, keys, waitTimeout)),
      (exit) => (exit === undefined ? waitFrom(step, keys, time + 1) : Effect.succeed(exit))
    )
  }

  const completions = new Map<string, Deferred.Deferred<Schema.Json>>()
  const completion = (deferred: string) => {
    let found = completions.get(deferred)
    if (found === undefined) completions.set(deferred, (found = Deferred.makeUnsafe()))
    return found
  }
  const waited = new Set<string>()
  /** However often it is asked for, it is waited for once. */
  const waitOnce = (step: string, of: Mailbox.Run, deferred: string): Effect.Effect<Schema.Json> =>
    Effect.suspend(() => {
      const done = completion(step)
      if (waited.has(step)) return Deferred.await(done)
      waited.add(step)
      return Effect.flatMap(
        Effect.promise(() => keyring.of(of, deferred)),
        (keys) => Effect.raceFirst(Deferred.await(done), waitFrom(step, keys, 1))
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
            waiting(id, () => tools.sleep(id, Math.ceil(Duration.toSeconds(duration)) * 1_000)),
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
      result: (name, id) => waitOnce(`result of ${name} ${id}`, { name, id }, Mailbox.resultDeferred),
      resumed: (time) =>
        Effect.flatMap(
          Effect.promise(() => keyring.of(message, Mailbox.resumedDeferred)),
          (keys) =>
            waiting(`resumed ${time}`, () =>
              tools.waitForEvent(`resumed ${time}`, {
                event: eventPrefix + Mailbox.events.resumed,
                timeout: waitTimeout,
                if: Mailbox.about(keys)
              })
            )
        )
    }
  }
}

/** `RunState.RunSteps.run`: a step of the SDK's, whose body runs in a fiber of its own. */
const runWith = (
  { attempt, message, request, tools }: Options,
  here: Map<string, Schema.Json>,
  afterAttempt: <A>(id: string, step: () => Promise<A>) => Promise<A>
): RunState.RunSteps["run"] => {
  const cut = (answer: Answer | undefined): Schema.Json =>
    // sound: an answer is JSON
    ({ interrupted: attempt, ...(answer === undefined ? undefined : { answer }) })

  const step = (id: string, execute: Effect.Effect<Schema.Json>): Effect.Effect<Schema.Json> =>
    Effect.contextWith((context) =>
      Effect.interruptible(
        Effect.callback<Schema.Json>((resume) => {
          let interrupt: Effect.Effect<void> = Effect.void
          let unwanted = false
          const body = () => {
            const fork = Effect.runForkWith(context)
            const started = request.step(fork, unwanted ? Effect.never : execute, (fate) =>
              cut(fate._tag === "Answered" ? fate.answer : undefined)
            )
            interrupt = started.interrupt
            if (unwanted) fork(interrupt)
            return started.result
          }
          afterAttempt(id, () => tools.run(id, body)).then(
            // sound: `execute` gave JSON, and the server gives it back
            (value) => resume(Effect.succeed(value as Schema.Json)),
            (error: unknown) => resume(Effect.die(error))
          )
          return Effect.suspend(() => {
            unwanted = true
            return interrupt
          })
        })
      )
    )

  /** One that was interrupted runs again in the next attempt, and in the same one it isn't waited for in vain. */
  const from = (id: string, execute: Effect.Effect<Schema.Json>, time: number): Effect.Effect<Schema.Json> =>
    Effect.flatMap(step(time === 1 ? id : `${id} again ${time}`, execute), (value) => {
      const interrupted = interruptedIn(value)
      if (interrupted === undefined) return Effect.succeed(value)
      return interrupted < attempt ? from(id, execute, time + 1) : Effect.never
    })

  return (id, execute) =>
    Effect.suspend(() => {
      const recorded = here.get(id)
      if (recorded !== undefined) return Effect.succeed(recorded)
      const kept = Effect.flatMap(execute, (json) => withinLimit(message, id, attempt, json))
      return Effect.tap(from(id, kept, 1), (json) => Effect.sync(() => here.set(id, json)))
    })
}

/** What the server wouldn't keep is a failure of the step: the server's own would have it run again. */
const withinLimit = (
  { id, name }: JobMessage,
  step: string,
  attempt: number,
  json: Schema.Json
): Effect.Effect<Schema.Json> => {
  const size = sizeOf(json)
  if (size <= maxResultSize) return Effect.succeed(json)
  const error = new ResultTooLarge({ job: name, id, step, size, limit: maxResultSize })
  return Effect.map(encodeExit(Exit.die(error)), (exit) =>
    recordedIn(json) === undefined ? exit : { attempt, exit }
  )
}
