// What runs the jobs. One line for each engine; no other file knows which one it is.
import { type Dispatcher, InlineDispatcher, type Job } from "effect-jobs"
import { InngestClient, InngestDispatcher, InngestWorker } from "effect-jobs/inngest"
import { QueueDispatcher, QueueStore, QueueWorker } from "effect-jobs/queue"
import { Effect, Layer } from "effect"
import { Database } from "./Database.ts"
import { jobs } from "./jobs.ts"

export type Engine = Layer.Layer<Dispatcher, unknown, Job.HandlerOf<(typeof jobs)[number]>>

/** Where an engine is, for those that are somewhere. */
export interface Where {
  /** The folder of the queue's database. */
  readonly data: string
  /** The address of the Inngest server. */
  readonly server: string
}

/** The summary says what has failed. */
const onError = () => Effect.void

const inngest = (server: string) => InngestClient.layer({ id: "newsletter", isDev: true, baseUrl: server })

export const dispatchers = {
  inline: () => InlineDispatcher.layer(jobs, { concurrency: 20, onError }),
  queue: ({ data }) =>
    QueueWorker.layer(jobs, { concurrency: 20, onError }).pipe(Layer.provideMerge(queue(data))),
  inngest: ({ server }) =>
    InngestWorker.layerConnect(jobs, { onError }).pipe(
      Layer.provideMerge(InngestDispatcher.layer),
      Layer.provide(inngest(server))
    )
} satisfies Record<string, (where: Where) => Engine>

/** The queue without a worker, and the database that it is in: a dispatch may be part of a transaction there. */
export const queue = (data: string) =>
  QueueDispatcher.layer.pipe(
    // what a killed program had in hand comes again after this long: the command waits for it
    Layer.provideMerge(QueueStore.layerSql({ lockExpiration: "5 seconds" })),
    Layer.provideMerge(Database.layer(data))
  )
