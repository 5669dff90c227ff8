// A real Redis of its own for a test file, where redis-server is on PATH.
import { NodeRedis } from "@effect/platform-node"
import { Effect } from "effect"
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { connect } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { freePort } from "./freePort.ts"

/** Whether there is a Redis to test with. */
export const hasRedis = spawnSync("redis-server", ["--version"]).status === 0
export const missing = "redis-server is not on PATH"

export interface Redis {
  readonly port: number
  /** Stops the server, which has written everything to its append-only file, and starts it again. */
  readonly restart: (pause?: number) => Promise<void>
}

const answers = (port: number) =>
  new Promise<boolean>((resolve) => {
    const socket = connect(port, "127.0.0.1")
    socket.once("data", (data) => {
      socket.destroy()
      // while it reads its file it answers LOADING
      resolve(String(data).startsWith("+PONG"))
    })
    socket.once("error", () => resolve(false))
    socket.write("PING\r\n")
  })

const start = async (port: number, dir: string): Promise<ChildProcess> => {
  const server = spawn(
    "redis-server",
    ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--dir", dir],
    { stdio: "ignore" }
  )
  while (!(await answers(port))) {
    await new Promise((resolve) => setTimeout(resolve, 20))
    if (server.exitCode !== null) throw new Error(`Redis didn't start on port ${port}`)
  }
  return server
}

const stop = (server: ChildProcess) =>
  new Promise<void>((resolve) => {
    server.once("exit", () => resolve())
    server.kill("SIGTERM")
  })

/** Started when it is built, with an append-only file; stopped and its files removed when the scope closes. */
export const make = Effect.gen(function* () {
  const dir = mkdtempSync(join(tmpdir(), "effect-jobs-redis-"))
  const first = Effect.flatMap(freePort, (port) =>
    Effect.map(
      Effect.tryPromise(() => start(port, dir)),
      (server) => ({ port, server })
    )
  )
  const running = yield* Effect.acquireRelease(
    // a port may be another server's by now
    Effect.orDie(Effect.retry(first, { times: 3 })),
    (running) =>
      Effect.promise(async () => {
        await stop(running.server)
        rmSync(dir, { recursive: true })
      })
  )
  return {
    port: running.port,
    restart: async (pause = 0) => {
      await stop(running.server)
      await new Promise((resolve) => setTimeout(resolve, pause))
      running.server = await start(running.port, dir)
    }
  } satisfies Redis
})

export const client = (port: number) => NodeRedis.layer({ socket: { host: "127.0.0.1", port } })
