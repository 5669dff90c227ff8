// Jobs that a clock starts.
import { assert } from "@effect/vitest"
import * as DateTime from "effect/DateTime"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as CronJob from "../CronJob.ts"
import { type Note, type Row, started } from "./Suite.ts"

class EveryMinute extends CronJob.make("conformance.every-minute", { cron: "* * * * *" }) {}

export const jobs = [EveryMinute] as const

export const handlers = (note: Note) =>
  EveryMinute.toLayer(({ scheduledAt }) => note("tick", "", DateTime.toEpochMillis(scheduledAt)))

export const rows: ReadonlyArray<Row> = [
  {
    name: "cron jobs: each tick runs once, when it is due",
    test: ({ early, pass, seen }) =>
      Effect.gen(function* () {
        const ticks = () => seen.filter(({ job }) => job === EveryMinute.jobName)
        const before = ticks().length
        const start = yield* Clock.currentTimeMillis
        while (ticks().length < before + 2) {
          assert.isBelow((yield* Clock.currentTimeMillis) - start, 180_000, "no tick came")
          yield* pass("1 second")
        }
        const due = ticks().map(({ detail }) => Number(detail))
        assert.strictEqual(new Set(due).size, due.length)
        for (const [index, time] of due.entries()) {
          assert.strictEqual(time % 60_000, 0)
          assert.isAtLeast(started(ticks()[index]), time - early)
        }
        assert.strictEqual((due.at(-1) ?? 0) - (due.at(-2) ?? 0), 60_000)
      })
  }
]
