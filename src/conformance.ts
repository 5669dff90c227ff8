/**
 * The suite that every dispatcher passes: what a job may rely on, whatever engine runs it. For whoever writes a
 * dispatcher of their own; it needs vitest and `@effect/vitest`.
 */
import { layer } from "@effect/vitest"
import * as Layer from "effect/Layer"
import * as cron from "./conformance/cron.ts"
import * as dispatching from "./conformance/dispatching.ts"
import type { Engine } from "./conformance/Engine.ts"
import * as events from "./conformance/events.ts"
import * as limits from "./conformance/limits.ts"
import * as retries from "./conformance/retries.ts"
import * as steps from "./conformance/steps.ts"
import { makeNote, makeSuite, type Note, type Row, type Sighting } from "./conformance/Suite.ts"

export type { Engine } from "./conformance/Engine.ts"

const jobs = [
  ...dispatching.jobs,
  ...retries.jobs,
  ...limits.jobs,
  ...steps.jobs,
  ...events.jobs,
  ...cron.jobs
] as const

const handlers = (note: Note) =>
  Layer.mergeAll(
    dispatching.handlers(note),
    retries.handlers(note),
    limits.handlers(note),
    steps.handlers(note),
    events.handlers(note),
    cron.handlers(note)
  )

/** Declares the suite's tests for one dispatcher. */
export const conformance = (engine: Engine): void => {
  const seen: Array<Sighting> = []
  const suite = makeSuite(engine, seen)
  const live = engine.clock === "live"

  layer(Layer.provide(engine.layer(jobs), handlers(makeNote(seen))), {
    timeout: "3 minutes",
    concurrent: live,
    excludeTestServices: live
  })(engine.name, (it) => {
    const declare = (rows: ReadonlyArray<Row>, timeout: number) => {
      for (const { name, test } of rows) it.effect(name, () => test(suite), timeout)
    }
    for (const { rows } of [dispatching, retries, limits, steps, events]) declare(rows, suite.timeout)
    if (engine.cron ?? !live) declare(cron.rows, Math.max(suite.timeout, 200_000))
  })
}
