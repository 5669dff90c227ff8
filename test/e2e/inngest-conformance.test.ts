import { Effect, Layer } from "effect"
import type { Job } from "effect-jobs"
import { conformance } from "effect-jobs/conformance"
import { InngestDispatcher, InngestWorker } from "effect-jobs/inngest"
import { describe, it } from "vitest"
import * as Inngest from "../support/Inngest.ts"

const on = (
  name: string,
  worker: <const Jobs extends ReadonlyArray<Job.Any>>(jobs: Jobs) => ReturnType<typeof Inngest.overHttp<Jobs>>
) =>
  conformance({
    name,
    clock: "live",
    cron: true,
    layer: <const Jobs extends ReadonlyArray<Job.Any>>(jobs: Jobs) =>
      Layer.unwrap(
        Effect.map(Inngest.make(["dev"]), (server) =>
          Layer.effectDiscard(Effect.forEach(jobs, (job) => Inngest.knows(server, job))).pipe(
            Layer.provide(worker(jobs)),
            Layer.provideMerge(InngestDispatcher.layer),
            Layer.provide(Inngest.client(server))
          )
        )
      )
  })

if (Inngest.bin === undefined) {
  describe("Inngest", () => {
    it.skip(Inngest.skipped, () => {})
  })
} else {
  on("Inngest over HTTP", (jobs) => Inngest.overHttp(jobs, { onError: () => Effect.void }))
  on("Inngest over connect", (jobs) => InngestWorker.layerConnect(jobs, { onError: () => Effect.void }))
}
