// A worker of its own that a fault test kills, as told in its argument: over HTTP or over connect. It writes
// what its handlers do into a file, a line each, and says when it is ready.
import { appendFileSync } from "node:fs"
import { Clock, Effect, Layer, Schema } from "effect"
import { Activity, DurableClock, DurableDeferred } from "effect/workflow"
import { Job, RetryPolicy, Steps } from "../../src/index.ts"
import { InngestDispatcher, InngestWorker } from "../../src/inngest.ts"
import { pathToFileURL } from "node:url"
import * as Inngest from "./Inngest.ts"

export interface Told {
  readonly transport: "http" | "connect"
  readonly server: string
  /** Of the HTTP worker, so that the next one has the same address. */
  readonly port: number
  readonly journal: string
  /** Of the client; default as the SDK has it. */
  readonly checkpointing?: boolean
  /** `Stepwise` stops between two activities, to be killed there. */
  readonly stops?: boolean
}

/** Runs for `ms` and writes down that it began and that it ended. */
export class Work extends Job.make("fault.work", {
  payload: { n: Schema.Int, ms: Schema.Int },
  retry: RetryPolicy.fixed({ attempts: 4, delay: "1 second" })
}) {}

/** As `Work`, with one attempt. */
export class Only extends Job.make("fault.only", { payload: { n: Schema.Int, ms: Schema.Int } }) {}

/** Every kind of durable step. */
export class Stepwise extends Job.make("fault.stepwise", {
  payload: { n: Schema.Int },
  success: Schema.Int,
  retry: RetryPolicy.fixed({ attempts: 4, delay: "1 second" })
}) {}

export const Approval = DurableDeferred.make("approval", { success: Schema.Int })

/** What happened, when, in which process. */
const stepwise = (journal: string, stops: boolean) =>
  Stepwise.toLayer(({ n }) => {
    const note = (what: string) =>
      Effect.map(Clock.currentTimeMillis, (now) => appendFileSync(journal, `${what} ${now} ${process.pid}\n`))
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

export const handlers = (journal: string, stops: boolean) => {
  const run = ({ ms, n }: { readonly n: number; readonly ms: number }) =>
    Effect.gen(function* () {
      const { attempt, job } = yield* Job.CurrentRun
      const note = (what: string) =>
        Effect.sync(() => appendFileSync(journal, `${what} ${job} ${n} ${attempt}\n`))
      yield* note("began")
      // only the first attempt takes its time, so that the second one isn't killed too
      if (attempt === 1 && ms > 0) yield* Effect.sleep(ms)
      yield* note("ended")
    })
  return Layer.mergeAll(
    stepwise(journal, stops),
    Work.toLayer(run),
    Only.toLayer(run, {
      onFailure: ({ n }) => Effect.sync(() => appendFileSync(journal, `failed fault.only ${n} 1\n`))
    })
  )
}

export const worker = ({ checkpointing, journal, port, server, stops, transport }: Told) => {
  const jobs = [Work, Only, Stepwise] as const
  return (
    transport === "http"
      ? Inngest.overHttp(jobs, { onError: () => Effect.void }, port)
      : InngestWorker.layerConnect(jobs, { onError: () => Effect.void })
  ).pipe(
    Layer.provide(handlers(journal, stops ?? false)),
    Layer.provideMerge(InngestDispatcher.layer),
    Layer.provide(
      Inngest.client(
        { url: server },
        { id: "faults", ...(checkpointing === undefined ? {} : { checkpointing }) }
      )
    )
  )
}

const [, program, argument] = process.argv
if (argument !== undefined && program !== undefined && import.meta.url === pathToFileURL(program).href) {
  // sound: it is what the test wrote
  const told = JSON.parse(argument) as Told
  Effect.runFork(
    Effect.scoped(
      Effect.andThen(
        Layer.build(worker(told)),
        Effect.andThen(
          Effect.sync(() => process.stdout.write("ready\n")),
          Effect.never
        )
      )
    )
  )
}
