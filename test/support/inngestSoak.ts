// A worker of the soak test, in a process of its own: an app of its own on a server with keys.
import { appendFileSync } from "node:fs"
import { pathToFileURL } from "node:url"
import { Effect, Layer, Logger, Schema } from "effect"
import { Job, RetryPolicy } from "../../src/index.ts"
import { InngestDispatcher, InngestWorker } from "../../src/inngest.ts"
import * as Inngest from "./Inngest.ts"
import { keyed } from "./inngestApp.ts"
import { Activity } from "effect/workflow"

export interface Told {
  readonly transport: "http" | "connect"
  readonly server: string
  readonly app: string
  readonly port: number
  readonly journal: string
}

/** Two activities with a pause between them; each is written down. */
export class Soak extends Job.make("soak.work", {
  payload: { app: Schema.String, n: Schema.Int },
  retry: RetryPolicy.fixed({ attempts: 15, delay: "2 seconds" })
}) {}

const handlers = (journal: string) => {
  const note = (what: string) => Effect.sync(() => appendFileSync(journal, `${what}\n`))
  return Soak.toLayer(
    ({ app, n }) =>
      Effect.gen(function* () {
        yield* Activity.make({ name: "first", execute: note(`first ${app} ${n}`) })
        yield* Effect.sleep("100 millis")
        yield* Activity.make({ name: "second", execute: note(`second ${app} ${n}`) })
        yield* note(`ended ${app} ${n}`)
      }),
    { onFailure: ({ app, n }, cause) => note(`failed ${app} ${n} ${String(cause)}`) }
  )
}

/** Each app has a prefix of its own, so that its events are its own. */
export const client = (server: string, app: string) => keyed({ url: server }, app, `${app}/`)

const [, program, argument] = process.argv
if (argument !== undefined && program !== undefined && import.meta.url === pathToFileURL(program).href) {
  // sound: it is what the test wrote
  const { app, journal, port, server, transport } = JSON.parse(argument) as Told
  const options = { onError: () => Effect.void }
  const worker: Layer.Layer<never, unknown, InngestWorker.Needs<readonly [typeof Soak]>> = transport ===
  "http"
    ? Inngest.overHttp([Soak], options, port)
    : InngestWorker.layerConnect([Soak], options)
  const main = worker.pipe(
    Layer.provide(handlers(journal)),
    Layer.provide(InngestDispatcher.layer),
    Layer.provide(client(server, app)),
    Layer.provide(Logger.layer([]))
  )
  const ready = Effect.sync(() => process.stdout.write("ready\n"))
  Effect.runFork(Effect.scoped(Effect.andThen(Layer.build(main), Effect.andThen(ready, Effect.never))))
}
