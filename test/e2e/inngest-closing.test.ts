// The end of a worker's life on Inngest: SIGTERM, with whatever else is down.
import { assert, it } from "@effect/vitest"
import { Clock, Effect } from "effect"
import { InngestDispatcher } from "effect-jobs/inngest"
import { spawn } from "node:child_process"
import { fileURLToPath } from "node:url"
import { freePort } from "../support/freePort.ts"
import * as Inngest from "../support/Inngest.ts"
import * as Closing from "../support/inngestClosing.ts"
import { holds } from "../support/inngestFaults.ts"
import { onInngest } from "../support/needs.ts"

/** A machine that has other things to do. */
const slack = 1_500

const start = (told: Partial<Closing.Told> & Pick<Closing.Told, "transport" | "server">) =>
  Effect.gen(function* () {
    const whole: Closing.Told = {
      shutdownTimeout: 2_000,
      gracefulShutdownTimeout: 500,
      port: yield* freePort,
      ...told
    }
    const lines: Array<string> = []
    const child = yield* Effect.acquireRelease(
      Effect.sync(() =>
        spawn(
          process.execPath,
          [fileURLToPath(new URL("../support/inngestClosing.ts", import.meta.url)), JSON.stringify(whole)],
          { stdio: ["ignore", "pipe", "inherit"], env: { ...process.env, NODE_NO_WARNINGS: "1" } }
        )
      ),
      (child) => Effect.sync(() => child.kill("SIGKILL"))
    )
    child.stdout.on("data", (chunk: Buffer) => lines.push(...String(chunk).trim().split("\n")))
    const exited = new Promise<number | null>((resolve) => child.once("exit", (code) => resolve(code)))
    const says = (what: string) =>
      holds(() =>
        assert.isTrue(
          lines.some((line) => line.startsWith(what)),
          lines.join(", ")
        )
      )
    /** How long the process lived after SIGTERM. */
    const terminated = Effect.gen(function* () {
      const before = yield* Clock.currentTimeMillis
      child.kill("SIGTERM")
      yield* Effect.promise(() => exited).pipe(Effect.timeout("30 seconds"))
      return (yield* Clock.currentTimeMillis) - before
    })
    return { lines, says, terminated, port: whole.port, exited: Effect.promise(() => exited) }
  })

const dispatch = (server: Pick<Inngest.Server, "url">, ms: number) =>
  Closing.Long.dispatch({ ms }).pipe(
    Effect.provide(InngestDispatcher.layer),
    Effect.provide(Inngest.client(server, { id: "closing" }))
  )

const unreachable = Effect.map(freePort, (port) => `127.0.0.1:${port}`)

onInngest("the end of a worker on Inngest", () => {
  it.live(
    "connect: a worker that never had a connection ends at once, and says why it had none",
    () =>
      Effect.gen(function* () {
        const server = yield* Inngest.make(["dev"])
        const nowhere = yield* unreachable
        const noServer = yield* start({ transport: "connect", server: `http://${nowhere}` })
        const noGateway = yield* start({
          transport: "connect",
          server: server.url,
          gatewayUrl: `ws://${nowhere}`
        })
        const impatient = yield* start({
          transport: "connect",
          server: `http://${nowhere}`,
          connectTimeout: 1_000
        })
        const elsewhere = yield* start({
          transport: "connect",
          server: server.url,
          gatewayUrl: `ws://${nowhere}`,
          connectTimeout: 1_000
        })
        yield* impatient.says("failed")
        assert.match(
          impatient.lines.join("\n"),
          /ConnectError.*no connection within 1s.*can't be reached.*ECONNREFUSED/
        )
        yield* impatient.exited
        yield* elsewhere.says("failed")
        assert.match(elsewhere.lines.join("\n"), /ConnectError.*no connection within 1s.*its gateway doesn't/)
        yield* elsewhere.exited
        for (const worker of [noServer, noGateway]) {
          assert.isBelow(yield* worker.terminated, 1_000 + slack)
          assert.notInclude(worker.lines, "ready")
        }
      }),
    60_000
  )

  it.live(
    "connect: a worker whose server is gone ends within its shutdownTimeout and a second, with a run in flight and without",
    () =>
      Effect.gen(function* () {
        const server = yield* Inngest.make(["dev"])
        const busy = yield* start({ transport: "connect", server: server.url })
        yield* busy.says("ready")
        yield* Inngest.knows(server, Closing.Long)
        yield* dispatch(server, 60_000)
        yield* busy.says("began 1")
        const idle = yield* start({ transport: "connect", server: server.url })
        yield* idle.says("ready")
        yield* Effect.promise(server.kill)
        yield* Effect.sleep("500 millis")
        assert.isBelow(yield* idle.terminated, 1_000 + slack)
        assert.isBelow(yield* busy.terminated, 3_000 + slack)
      }),
    60_000
  )

  it.live(
    "http: a run that outlives the HTTP server's own limit is answered, if it ends within the shutdownTimeout",
    () =>
      Effect.gen(function* () {
        const server = yield* Inngest.make(["dev"])
        const worker = yield* start({ transport: "http", server: server.url, shutdownTimeout: 10_000 })
        yield* worker.says("ready")
        yield* Inngest.register(`http://127.0.0.1:${worker.port}`)
        yield* dispatch(server, 3_000)
        yield* worker.says("began 1")
        const took = yield* worker.terminated
        assert.isBelow(took, 3_000 + 1_000 + slack)
        assert.include(worker.lines, "ended 1")
        // the server has its success, and doesn't ask the next worker for it
        const next = yield* start({ transport: "http", server: server.url, port: worker.port })
        yield* next.says("ready")
        yield* Effect.sleep("8 seconds")
        assert.notInclude(next.lines.join(), "began")
      }),
    90_000
  )

  it.live(
    "http: a run that doesn't end is interrupted at the shutdownTimeout, also where the server is gone",
    () =>
      Effect.gen(function* () {
        const server = yield* Inngest.make(["dev"])
        const up = yield* start({ transport: "http", server: server.url })
        yield* up.says("ready")
        yield* Inngest.register(`http://127.0.0.1:${up.port}`)
        yield* dispatch(server, 60_000)
        yield* up.says("began 1")
        assert.isBelow(yield* up.terminated, 500 + 2_000 + 1_000 + slack)
        const down = yield* start({ transport: "http", server: server.url, port: up.port })
        yield* down.says("ready")
        // its next attempt, or another run
        yield* dispatch(server, 60_000)
        yield* down.says("began")
        yield* Effect.promise(server.kill)
        assert.isBelow(yield* down.terminated, 500 + 2_000 + 1_000 + slack)
      }),
    90_000
  )
})
