import { PgClient } from "@effect/sql-pg"
import { Layer } from "effect"
import { conformance } from "effect-jobs/conformance"
import { QueueDispatcher, QueueStore, QueueWorker } from "effect-jobs/queue"
import type { Job } from "effect-jobs"
import type { PersistedQueueStore } from "effect/persistence/PersistedQueue"
import { onRedis } from "../support/needs.ts"
import * as Stores from "../support/Stores.ts"

const on = (name: string, store: Layer.Layer<PersistedQueueStore, unknown>) =>
  conformance({
    name,
    clock: "live",
    patience: "2 minutes",
    layer: <const Jobs extends ReadonlyArray<Job.Any>>(jobs: Jobs) =>
      QueueWorker.layer(jobs).pipe(Layer.provideMerge(QueueDispatcher.layer), Layer.provide(store))
  })

on("QueueDispatcher in memory", QueueStore.layerMemory)
on("QueueDispatcher on SQLite", Layer.provide(QueueStore.layerSql(), Stores.sqlite))
on("QueueDispatcher on Postgres", Layer.provide(QueueStore.layerPostgres(PgClient), Stores.postgres))
on("QueueDispatcher on Postgres with Effect's store", Layer.provide(QueueStore.layerSql(), Stores.postgres))
onRedis("QueueDispatcher on Redis", () =>
  on("QueueDispatcher on Redis", Layer.provide(QueueStore.layerRedis(), Stores.redis))
)
