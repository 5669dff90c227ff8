import { Layer } from "effect"
import type { Job } from "effect-jobs"
import { conformance } from "effect-jobs/conformance"
import { OutboxDispatcher, OutboxRelay, QueueDispatcher, QueueStore, QueueWorker } from "effect-jobs/queue"
import * as Stores from "../support/Stores.ts"

conformance({
  name: "OutboxDispatcher, relayed to a queue, on SQLite",
  clock: "live",
  patience: "2 minutes",
  layer: <const Jobs extends ReadonlyArray<Job.Any>>(jobs: Jobs) =>
    OutboxDispatcher.layer.pipe(
      Layer.merge(
        OutboxRelay.layer().pipe(
          Layer.merge(QueueWorker.layer(jobs)),
          Layer.provide(QueueDispatcher.layer),
          Layer.provide(QueueStore.layerSql())
        )
      ),
      Layer.provide(Stores.sqlite)
    )
})
