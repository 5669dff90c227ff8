// What runs the jobs. One line for each engine; no other file knows which one it is.
import { type Dispatcher, InlineDispatcher, type Job } from "effect-jobs"
import { Effect, type Layer } from "effect"
import { jobs } from "./jobs.ts"

type Engine = Layer.Layer<Dispatcher, Error, Job.HandlerOf<(typeof jobs)[number]>>

export const dispatchers = {
  inline: InlineDispatcher.layer(jobs, { concurrency: 20, onError: () => Effect.void })
} satisfies Record<string, Engine>
