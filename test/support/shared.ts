// Around a whole run of tests: a word on what is missing, and one Postgres for all files, started by the first that asks.
import { Effect, Exit, Scope } from "effect"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import type { TestProject } from "vitest/node"
import * as Inngest from "./Inngest.ts"
import * as Postgres from "./Postgres.ts"
import * as Redis from "./Redis.ts"

declare module "vitest" {
  interface ProvidedContext {
    /** A POST makes a new database, and answers with its address. */
    readonly databases: string
  }
}

const sayWhatIsMissing = (): void => {
  if (!Redis.hasRedis) console.warn(`The tests on Redis are skipped: ${Redis.missing}.`)
  if (Inngest.bin === undefined) console.warn(`The tests on Inngest are skipped: ${Inngest.missing}.`)
}

export default async ({ provide }: TestProject): Promise<() => Promise<void>> => {
  sayWhatIsMissing()
  const scope = Effect.runSync(Scope.make())
  let databases = 0
  let postgres: Promise<Postgres.Postgres> | undefined
  const server = createServer((_, response) => {
    postgres ??= Effect.runPromise(Scope.provide(Postgres.make(Postgres.shared), scope))
    const name = `test_${++databases}`
    postgres
      .then((server) => server.createDatabase(name).then(() => server.urlOf(name)))
      .then(
        (url) => response.end(url),
        (error: unknown) => response.writeHead(500).end(String(error))
      )
  })
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  // sound: it listens on a port
  const { port } = server.address() as AddressInfo
  provide("databases", `http://127.0.0.1:${port}`)
  return async () => {
    server.close()
    await Effect.runPromise(Scope.close(scope, Exit.void))
  }
}
