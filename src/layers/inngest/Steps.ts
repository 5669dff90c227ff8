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
    if (step.type !== "data" || interruptedIn(step.data) !== attempt) continue
    const { answer } = Option.getOrElse(decodeInterrupted(step.data), () => ({ answer: undefined }))
    if (answer !== undefined) return answer
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

/** The records of a run: what the server has memoized, and what was recorded since in this request. */
class Records {
  // the SDK takes a step that is asked for again in one request for another one
  readonly here = new Map<string, Schema.Json>()
  private kept: Promise<unknown> | undefined
  readonly options: Options

  constructor(options: Options) {
    this.options = options
  }

  async memo(id: string): Promise<Memoized[string] | undefined> {
    return this.options.request.memoized[await InngestEvent.stepKey(id)]
  }

  readonly peek: RunState.RunSteps["peek"] = (id) =>
    Effect.suspend(() => {
      const json = this.here.get(id)
      if (json !== undefined) return Effect.succeed(Option.some(json))
      return Effect.map(
        Effect.promise(() => this.memo(id)),
        (step) =>
          // sound: it was recorded by `run`
          step?.type === "data" ? Option.some(step.data as Schema.Json) : Option.none()
      )
    })

  /**
   * Before a step. With the first new one that it records, the server forgets the attempts that it has counted: they
   * are recorded before it.
   */
  afterAttempt<A>(id: string, step: () => Promise<A>): Promise<A> {
    const { attempt, request, retried, tools } = this.options
    request.decide(goesOn)
    if (!retried) return step()
    const record = () =>
      (this.kept ??= tools.run(`attempt ${attempt}`, () => Promise.resolve({ attempt, exit: null })))
    return this.memo(id)
      .then((found) => (found === undefined ? record() : undefined))
      .then(step)
  }

  /**
   * Waits for a step of the SDK's. A new one never ends in its request, so it is given up when that was answered,
   * also in a finalizer, which else can't be interrupted.
   */
  waiting<A>(id: string, step: () => Promise<A>): Effect.Effect<A> {
    return Effect.interruptible(Effect.promise(() => this.afterAttempt(id, step)))
  }
}

/** The deferreds that a run waits for, or completes itself. However often one is asked for, it is waited for once. */
class Waits {
  private readonly completions = new Map<string, Deferred.Deferred<Schema.Json>>()
  private readonly waited = new Set<string>()
  private readonly records: Records

  constructor(records: Records) {
    this.records = records
  }

  completion(step: string): Deferred.Deferred<Schema.Json> {
    let found = this.completions.get(step)
    if (found === undefined) this.completions.set(step, (found = Deferred.makeUnsafe()))
    return found
  }

  once(step: string, of: Mailbox.Run, deferred: string): Effect.Effect<Schema.Json> {
    return Effect.suspend(() => {
      const done = this.completion(step)
      if (this.waited.has(step)) return Deferred.await(done)
      this.waited.add(step)
      return Effect.flatMap(
        Effect.promise(() => this.records.options.keyring.of(of, deferred)),
        (keys) => Effect.raceFirst(Deferred.await(done), this.from(step, keys, 1))
      ).pipe(Effect.tap((exit) => Deferred.succeed(done, exit)))
    })
  }

  private from(step: string, keys: Mailbox.Keys, time: number): Effect.Effect<Schema.Json> {
    const id = time === 1 ? step : `${step} (${time})`
    return Effect.flatMap(
      this.records.waiting(id, () => Mailbox.hear(this.records.options, id, keys, waitTimeout)),
      (exit) => (exit === undefined ? this.from(step, keys, time + 1) : Effect.succeed(exit))
    )
  }
}

/** How `InngestSteps.tool` gets at the SDK's step tools. */
export const tooling: unique symbol = Symbol.for("effect-jobs/InngestSteps/tooling")

export interface InngestRunSteps extends RunState.RunSteps {
  readonly [tooling]: <A>(id: string, use: (tools: StepTools) => Promise<A>) => Effect.Effect<A>
}

export const make = (options: Options): InngestRunSteps => {
  const { eventPrefix, keyring, message, tools } = options
  const records = new Records(options)
  const waits = new Waits(records)
  const run = runWith(records)
  return {
    run,
    peek: records.peek,
    sleep: (id, duration) =>
      Duration.isZero(duration) || records.here.has(id)
        ? Effect.void
        : // a sleep there has whole seconds
          Effect.map(
            records.waiting(id, () => tools.sleep(id, Math.ceil(Duration.toSeconds(duration)) * 1_000)),
            () => void records.here.set(id, null)
          ),
    wait: (deferred) =>
      Effect.flatMap(records.peek(RunState.completionId(deferred)), (recorded) =>
        Option.isSome(recorded)
          ? Effect.succeed(recorded.value)
          : waits.once(`deferred ${deferred}`, message, deferred)
      ),
    complete: (deferred, exit) =>
      Effect.flatMap(run(RunState.completionId(deferred), Effect.succeed(exit)), (first) =>
        Deferred.succeed(waits.completion(`deferred ${deferred}`), first)
      ),
    workflows: {
      result: (name, id) => waits.once(`result of ${name} ${id}`, { name, id }, Mailbox.resultDeferred),
      resumed: (time) =>
        Effect.flatMap(
          Effect.promise(() => keyring.of(message, Mailbox.resumedDeferred)),
          (keys) =>
            records.waiting(`resumed ${time}`, () =>
              tools.waitForEvent(`resumed ${time}`, {
                event: eventPrefix + Mailbox.events.resumed,
                timeout: waitTimeout,
                if: Mailbox.about(keys)
              })
            )
        )
    },
    [tooling]: (id, use) => records.waiting(id, () => use(tools))
  }
}

const nthOf = (id: string, time: number): string => (time === 1 ? id : `${id} again ${time}`)

/** `RunState.RunSteps.run`: a step of the SDK's, whose body runs in a fiber of its own. */
const runWith = (records: Records): RunState.RunSteps["run"] => {
  const { attempt, message, request, tools } = records.options
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
          records
            .afterAttempt(id, () => tools.run(id, body))
            .then(
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
    Effect.flatMap(step(nthOf(id, time), execute), (value) => {
      const interrupted = interruptedIn(value)
      if (interrupted === undefined) return Effect.succeed(value)
      if (interrupted < attempt) return from(id, execute, time + 1)
      // the attempts of a workflow are the server's count, which isn't the last one's after a step
      return Effect.flatMap(records.peek(nthOf(id, time + 1)), (next) =>
        Option.isSome(next) ? from(id, execute, time + 1) : Effect.never
      )
    })

  return (id, execute) =>
    Effect.suspend(() => {
      const recorded = records.here.get(id)
      if (recorded !== undefined) return Effect.succeed(recorded)
      const kept = Effect.flatMap(execute, (json) => withinLimit(message, id, attempt, json))
      return Effect.tap(from(id, kept, 1), (json) => Effect.sync(() => records.here.set(id, json)))
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
