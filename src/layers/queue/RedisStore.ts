/**
 * Effect's store on Redis, with what it needs to keep its promises: its recovery goes on after an error, and a server
 * that can't keep messages is said when the store is built.
 */
import * as Effect from "effect/Effect"
import type { Redis, RedisError } from "effect/persistence/Redis"

/** Only the script that recovers the messages of dead workers writes this. */
export const recovery = "Lock expired after final attempt"

const outageLogMillis = 60_000

/**
 * The recovery's loop ends at its first error, for good and in silence: so its script never fails. The loop comes again
 * after a third of `lockExpiration`.
 */
export const recovering = (redis: Redis["Service"], now: () => number): Redis["Service"] => {
  let loggedAt = Number.NEGATIVE_INFINITY
  const again = (error: RedisError) =>
    Effect.suspend(() => {
      if (now() < loggedAt + outageLogMillis) return Effect.void
      loggedAt = now()
      return Effect.logWarning(
        "The queue's store on Redis can't recover messages of dead workers now: it tries again.",
        error
      )
    })
  return {
    ...redis,
    eval: (script) => {
      const run = redis.eval(script)
      return script.lua.includes(recovery) ? (...params) => Effect.catch(run(...params), again) : run
    }
  }
}

/** What a server says of itself; a role that may not ask, or a server that is away, says nothing. */
export const serverOf = (redis: Redis["Service"]): Effect.Effect<ReadonlyMap<string, string>> =>
  redis.send<unknown>("INFO").pipe(
    Effect.map((info) => {
      const lines = String(info).split("\r\n")
      return new Map(
        lines.flatMap((line) => {
          const colon = line.indexOf(":")
          return colon < 1 ? [] : [[line.slice(0, colon), line.slice(colon + 1)] as const]
        })
      )
    }),
    Effect.catchCause(() => Effect.succeed(new Map<string, string>()))
  )

/** In one sentence each; none for a server that keeps what it takes. */
export const warnings = (server: ReadonlyMap<string, string>): ReadonlyArray<string> => {
  const policy = server.get("maxmemory_policy")
  return [
    ...(policy === undefined || policy === "noeviction"
      ? []
      : [
          `The queue's Redis has the maxmemory-policy "${policy}", and drops messages or locks when its memory is full: set it to noeviction.`
        ]),
    ...(server.get("aof_enabled") === "0"
      ? [
          "The queue's Redis has no append-only file, and a restart loses what is queued: set appendonly to yes."
        ]
      : [])
  ]
}
