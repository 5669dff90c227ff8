// A process that takes from a store on Postgres until it is killed: it writes down what began, and what was
// acknowledged. Its argument is the database's address.
import { PgClient } from "@effect/sql-pg"
import { Duration, Effect, Layer, Redacted, Scope } from "effect"
import { PersistedQueue } from "effect/persistence"
import { QueueStore } from "../../src/queue.ts"

const store = Layer.provide(
  QueueStore.layerPostgres(PgClient, { lockExpiration: "2 seconds", pollInterval: "200 millis" }),
  PgClient.layer({ url: Redacted.make(process.argv[2] ?? ""), startupParameters: { timezone: "UTC" } })
)

const options = { name: "soak", maxAttempts: 100, retryDelay: () => Effect.succeed(Duration.zero) }

const taker = Effect.gen(function* () {
  const { take } = yield* PersistedQueue.PersistedQueueStore
  while (true) {
    const id = yield* Effect.scopedWith((scope) =>
      Effect.gen(function* () {
        const { id } = yield* Scope.provide(take(options), scope)
        console.log(`began ${id}`)
        // some take a moment, so that kills meet runs
        if (Math.random() < 0.1) yield* Effect.sleep(Math.random() * 30)
        return id
      })
    )
    console.log(`acknowledged ${id}`)
  }
})

await Effect.runPromise(
  Effect.provide(
    Effect.forEach(Array.from({ length: 20 }), () => taker, { concurrency: "unbounded", discard: true }),
    store
  )
)
