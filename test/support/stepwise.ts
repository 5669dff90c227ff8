// One handler with every kind of durable step, for the engines that keep them: in a test, in another process.
import { Clock, Effect, Schema } from "effect"
import { Activity, DurableClock, DurableDeferred } from "effect/workflow"
import { appendFileSync } from "node:fs"
import { Job, RetryPolicy, Steps } from "../../src/index.ts"

/** Where the handler writes what happened, a line each: outside of the process, or in a test's array. */
export type Journal = (line: string) => void

export const fileJournal =
  (file: string): Journal =>
  (line) =>
    appendFileSync(file, `${line}\n`)

export interface Entry {
  readonly what: string
  readonly detail: string
  readonly time: number
  readonly pid: string
}

export const parse = (line: string): Entry => {
  const [what = "", detail = "", time = "", pid = ""] = line.split(" ")
  return { what, detail, time: Number(time), pid }
}

/** Every kind of durable step. */
export class Stepwise extends Job.make("fault.stepwise", {
  payload: { n: Schema.Int },
  success: Schema.Int,
  retry: RetryPolicy.fixed({ attempts: 4, delay: "1 second" })
}) {}

export const Approval = DurableDeferred.make("approval", { success: Schema.Int })

/** What happened, when, in which process. */
export const stepwise = (journal: Journal, stops: boolean) =>
  Stepwise.toLayer(({ n }) => {
    const note = (what: string) =>
      Effect.map(Clock.currentTimeMillis, (now) => journal(`${what} ${now} ${process.pid}`))
    const add = (name: string, value: number) =>
      Activity.make({ name, success: Schema.Int, execute: Effect.as(note(`effect ${name}`), value) })
    return Effect.gen(function* () {
      yield* Effect.acquireRelease(note("acquired -"), () => note("released -"))
      yield* note(`token ${yield* DurableDeferred.token(Approval)}`)
      const a = yield* add("a", n)
      const b = yield* add("b", a * 2)
      yield* note("between -")
      if (stops) yield* Effect.never
      const c = yield* add("c", b + 1)
      const three = yield* Effect.all([add("d", 1), add("e", 2), add("f", 3)], { concurrency: "unbounded" })
      const flaky = Activity.make({
        name: "flaky",
        success: Schema.Int,
        error: Schema.String,
        execute: Effect.flatMap(Activity.CurrentAttempt, (attempt) =>
          Effect.andThen(
            note(`effect flaky/${attempt}`),
            attempt < 3 ? Effect.fail("not yet") : Effect.succeed(attempt)
          )
        )
      })
      const tries = yield* Steps.retry(flaky, RetryPolicy.fixed({ attempts: 3, delay: "1 second" }))
      yield* note("asleep -")
      yield* DurableClock.sleep({ name: "pause", duration: "2 seconds", inMemoryThreshold: 0 })
      yield* note("awake -")
      const approved = yield* DurableDeferred.await(Approval)
      const sum = three.reduce((sum, value) => sum + value, c + tries + approved)
      yield* note(`result ${sum}`)
      return sum
    })
  })
