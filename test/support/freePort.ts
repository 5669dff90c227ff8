// A port for a server of a test.
import { Effect } from "effect"
import { createServer } from "node:net"

/**
 * Below the ports that systems give to outgoing connections (from 32768 on Linux, from 49152 elsewhere): one of those
 * could be taken by any request of another test before the server listens.
 */
const first = 15_000
const last = 32_000

const random = () => first + Math.floor(Math.random() * (last - first))

const isFree = (port: number) =>
  Effect.callback<boolean>((resume) => {
    const server = createServer()
    server.once("error", () => resume(Effect.succeed(false)))
    server.listen(port, "127.0.0.1", () => server.close(() => resume(Effect.succeed(true))))
  })

/** A port that was free a moment ago. */
export const freePort: Effect.Effect<number> = Effect.suspend(() => {
  const port = random()
  return Effect.flatMap(isFree(port), (free) => (free ? Effect.succeed(port) : freePort))
})
