import { Effect, Layer } from "effect"
import { conformance } from "effect-jobs/conformance"
import { QueueDispatcher, QueueStore, QueueWorker } from "effect-jobs/queue"
import type { Job } from "effect-jobs"
import type { PersistedQueueStore } from "effect/persistence/PersistedQueue"
import { describe, it } from "vitest"
import * as Postgres from "../support/Postgres.ts"
import * as Redis from "../support/Redis.ts"
import * as Sqlite from "../support/Sqlite.ts"

const on = (name: string, store: Layer.Layer<PersistedQueueStore, unknown>) =>
  conformance({
    name,
    clock: "live",
    layer: <const Jobs extends ReadonlyArray<Job.Any>>(jobs: Jobs) =>
      QueueWorker.layer(jobs).pipe(Layer.provideMerge(QueueDispatcher.layer), Layer.provide(store))
  })

on("QueueDispatcher in memory", QueueStore.layerMemory)
on("QueueDispatcher on SQLite", Layer.provide(QueueStore.layerSql(), Sqlite.client(":memory:")))
on(
  "QueueDispatcher on Postgres",
  Layer.unwrap(
    Effect.map(Postgres.make(), ({ url }) => Layer.provide(QueueStore.layerSql(), Postgres.client(url)))
  )
)
if (Redis.hasRedis) {
  on(
    "QueueDispatcher on Redis",
    Layer.unwrap(
      Effect.map(Redis.make, ({ port }) => Layer.provide(QueueStore.layerRedis(), Redis.client(port)))
    )
  )
} else {
  describe("QueueDispatcher on Redis", () => {
    it.skip("redis-server is not on PATH", () => {})
  })
}
