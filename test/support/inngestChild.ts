// A worker of its own that a fault test kills, as told in its argument: over HTTP or over connect. It writes
// what its handlers do into a file, a line each, and says when it is ready.
import { appendFileSync } from "node:fs"
import { Effect, Layer, Schema } from "effect"
import { Job, RetryPolicy } from "../../src/index.ts"
import { InngestDispatcher, InngestWorker } from "../../src/inngest.ts"
import { pathToFileURL } from "node:url"
import { endWithParent } from "./orphan.ts"
import * as Inngest from "./Inngest.ts"
import { fileJournal, Stepwise, stepwise } from "./stepwise.ts"

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
    stepwise(fileJournal(journal), stops),
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
  endWithParent()
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
