// A worker as docs/inngest.md has it, in a process of its own that a test ends with SIGTERM.
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Effect, Layer, Logger, Schema } from "effect"
import { HttpRouter } from "effect/http"
import { createServer } from "node:http"
import { pathToFileURL } from "node:url"
import { Job } from "../../src/index.ts"
import { InngestDispatcher, InngestWorker } from "../../src/inngest.ts"
import * as Inngest from "./Inngest.ts"

export interface Told {
  readonly transport: "http" | "connect"
  readonly server: string
  /** Of the HTTP worker. */
  readonly port: number
  readonly shutdownTimeout: number
  /** Of the HTTP server. */
  readonly gracefulShutdownTimeout: number
  readonly gatewayUrl?: string
  readonly connectTimeout?: number
}

/** Says when it begins and when it has ended. */
export class Long extends Job.make("closing.long", {
  payload: { ms: Schema.Int },
  retry: { attempts: 2 }
}) {}

const say = (what: string) => Effect.sync(() => process.stdout.write(`${what}\n`))

const LongLive = Long.toLayer(({ ms }) =>
  Effect.gen(function* () {
    const { attempt } = yield* Job.CurrentRun
    yield* say(`began ${attempt}`)
    yield* Effect.sleep(ms)
    yield* say(`ended ${attempt}`)
  })
)

const worker = (told: Told): Layer.Layer<never, unknown, InngestWorker.Needs<readonly [typeof Long]>> => {
  const { shutdownTimeout } = told
  if (told.transport === "connect") {
    const { connectTimeout, gatewayUrl } = told
    return InngestWorker.layerConnect([Long], {
      shutdownTimeout,
      ...(gatewayUrl === undefined ? undefined : { gatewayUrl }),
      ...(connectTimeout === undefined ? undefined : { connectTimeout })
    })
  }
  const { gracefulShutdownTimeout, port } = told
  const routes = InngestWorker.layer([Long], { path: Inngest.path, shutdownTimeout })
  return HttpRouter.serve(routes, { disableLogger: true, disableListenLog: true }).pipe(
    Layer.provide(NodeHttpServer.layer(createServer, { port, host: "127.0.0.1", gracefulShutdownTimeout }))
  )
}

const [, program, argument] = process.argv
if (argument !== undefined && program !== undefined && import.meta.url === pathToFileURL(program).href) {
  // sound: it is what the test wrote
  const told = JSON.parse(argument) as Told
  const main = Layer.effectDiscard(say("ready")).pipe(
    Layer.provide(worker(told)),
    Layer.provide(LongLive),
    Layer.provide(InngestDispatcher.layer),
    Layer.provide(Inngest.client({ url: told.server }, { id: "closing" })),
    Layer.provide(Logger.layer([]))
  )
  process.stdout.write("starting\n")
  NodeRuntime.runMain(Layer.launch(main).pipe(Effect.tapCause((cause) => say(`failed ${String(cause)}`))), {
    disableErrorReporting: true
  })
}
