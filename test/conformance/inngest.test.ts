import { Effect, Layer } from "effect"
import type { Dispatcher, Job } from "effect-jobs"
import { conformance } from "effect-jobs/conformance"
import { type InngestClient, InngestDispatcher, InngestWorker } from "effect-jobs/inngest"
import * as Inngest from "../support/Inngest.ts"
import { onInngest } from "../support/needs.ts"

const on = (
  name: string,
  worker: <const Jobs extends ReadonlyArray<Job.Any>>(
    jobs: Jobs
  ) => Layer.Layer<never, unknown, InngestWorker.Needs<Jobs>>
) =>
  conformance({
    name,
    clock: "live",
    patience: "2 minutes",
    cron: true,
    layer: <const Jobs extends ReadonlyArray<Job.Any>>(jobs: Jobs) =>
      Layer.unwrap(
        Effect.map(Inngest.make(["dev"]), (server) =>
          Layer.effectDiscard(Effect.forEach(jobs, (job) => Inngest.knows(server, job))).pipe(
            Layer.provide(
              // sound: what the compiler can't compute for a list of jobs that is a type parameter
              worker(jobs) as Layer.Layer<
                never,
                unknown,
                Job.HandlerOf<Jobs[number]> | Dispatcher | InngestClient
              >
            ),
            Layer.provideMerge(InngestDispatcher.layer),
            Layer.provide(Inngest.client(server))
          )
        )
      )
  })

onInngest("Inngest", () => {
  on("Inngest over HTTP", (jobs) => Inngest.overHttp(jobs, { onError: () => Effect.void }))
  on("Inngest over connect", (jobs) => InngestWorker.layerConnect(jobs, { onError: () => Effect.void }))
})
