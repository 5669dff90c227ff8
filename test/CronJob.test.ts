import { assert, describe, it } from "@effect/vitest"
import { CronJob } from "effect-jobs"
import { TestDispatcher } from "effect-jobs/testing"
import { Cron } from "croner"
import { DateTime, Effect, Layer } from "effect"
import { TestClock } from "effect/testing"

/** When a schedule fires between two times, by the runs of the job. */
const firings = (cron: string, timeZone: string, from: string, to: string) => {
  class Tick extends CronJob.make("cron.tick", { cron, timeZone }) {}
  const ticks: Array<string> = []
  const start = Date.parse(from)
  return Effect.gen(function* () {
    yield* TestClock.setTime(start)
    yield* Effect.provide(
      TestClock.adjust(Date.parse(to) - start),
      TestDispatcher.layerRunning([Tick]).pipe(
        Layer.provide(
          Tick.toLayer(({ scheduledAt }) =>
            Effect.map(DateTime.now, (now) => {
              assert.deepStrictEqual(scheduledAt, now)
              ticks.push(DateTime.formatIso(scheduledAt))
            })
          )
        )
      )
    )
    return ticks
  })
}

/** The same, by a library that has nothing to do with ours. */
const expected = (cron: string, timeZone: string, from: string, to: string) => {
  const schedule = new Cron(cron, { timezone: timeZone })
  const dates: Array<string> = []
  for (
    let next = schedule.nextRun(new Date(from));
    next !== null && next <= new Date(to);
    next = schedule.nextRun(next)
  ) {
    dates.push(next.toISOString())
  }
  return dates
}

describe("a year on the test's clock", () => {
  it.effect("0 9 * * 1-5 in Europe/London fires on each working day at 09:00 local time", () =>
    Effect.gen(function* () {
      const year = ["0 9 * * 1-5", "Europe/London", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"] as const
      const ticks = yield* firings(...year)
      assert.deepStrictEqual(ticks, expected(...year))
      assert.strictEqual(ticks.length, 261)
      const london = new Intl.DateTimeFormat("en-GB", { timeZone: "Europe/London", timeStyle: "short" })
      assert.deepStrictEqual([...new Set(ticks.map((tick) => london.format(new Date(tick))))], ["09:00"])
      assert.deepStrictEqual([...new Set(ticks.map((tick) => new Date(tick).getUTCHours()))], [9, 8])
    })
  )

  for (const [cron, zone, to] of [
    ["*/15 * * * *", "UTC", "2028-01-14T00:00:00Z"],
    ["0 0 29 2 *", "UTC", "2028-03-10T00:00:00Z"],
    ["30 6 1,15 * *", "America/New_York", "2028-03-10T00:00:00Z"],
    ["0 12 * * 7", "Asia/Kolkata", "2028-03-10T00:00:00Z"],
    ["0 12 1,15 * MON-FRI", "asia/kolkata", "2028-03-10T00:00:00Z"],
    ["5 4 * * 0", "Pacific/Auckland", "2028-03-10T00:00:00Z"]
  ] as const) {
    it.effect(`${cron} in ${zone}, as another library has it`, () =>
      Effect.gen(function* () {
        const span = [cron, zone, "2028-01-10T00:00:00Z", to] as const
        assert.deepStrictEqual(yield* firings(...span), expected(...span))
      })
    )
  }
})

describe("a run that takes longer than its interval", () => {
  /** When runs of two and a half minutes began and ended. */
  const runs = (overlap?: "skip") => {
    class Sync extends CronJob.make("crm.sync", { cron: "* * * * *", overlap }) {}
    const seen: Array<string> = []
    const note = (what: string) =>
      Effect.map(DateTime.now, (now) => seen.push(`${what} ${now.epochMilliseconds / 60_000}`))
    return Effect.andThen(
      Effect.provide(
        TestClock.adjust("5 minutes"),
        TestDispatcher.layerRunning([Sync]).pipe(
          Layer.provide(
            Sync.toLayer(() =>
              note("begins").pipe(Effect.andThen(Effect.sleep("150 seconds")), Effect.andThen(note("ends")))
            )
          )
        )
      ),
      Effect.sync(() => seen)
    )
  }
  it.effect("goes on beside the next one", () =>
    Effect.gen(function* () {
      const seen = yield* runs()
      assert.deepStrictEqual(seen.slice(0, 6), [
        "begins 1",
        "begins 2",
        "begins 3",
        "ends 3.5",
        "begins 4",
        "ends 4.5"
      ])
    })
  )
  it.effect("with overlap: skip, is alone", () =>
    Effect.gen(function* () {
      const seen = yield* runs("skip")
      assert.deepStrictEqual(seen.slice(0, 4), ["begins 1", "ends 3.5", "begins 4"])
    })
  )
})

describe("daylight saving", () => {
  it.effect("a tick in the hour that doesn't exist comes once, when the gap is over", () =>
    Effect.gen(function* () {
      // 2026-03-29: 01:00 UTC is 02:00 in Berlin, which becomes 03:00
      const ticks = yield* firings(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-03-28T12:00:00Z",
        "2026-03-30T12:00:00Z"
      )
      assert.deepStrictEqual(ticks, ["2026-03-29T01:30:00.000Z", "2026-03-30T00:30:00.000Z"])
    })
  )

  it.effect("a tick in the hour that comes twice comes once, in the first", () =>
    Effect.gen(function* () {
      // 2026-10-25: 02:00 to 03:00 in Berlin is 00:00 to 01:00 UTC, and again 01:00 to 02:00
      const ticks = yield* firings(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-10-24T12:00:00Z",
        "2026-10-26T12:00:00Z"
      )
      assert.deepStrictEqual(ticks, ["2026-10-25T00:30:00.000Z", "2026-10-26T01:30:00.000Z"])
    })
  )

  it.effect("a schedule of every hour just goes on: every 20 minutes stays every 20 minutes", () =>
    Effect.gen(function* () {
      for (const [from, to] of [
        ["2026-03-28T22:00:00Z", "2026-03-29T06:00:00Z"],
        ["2026-10-24T22:00:00Z", "2026-10-25T06:00:00Z"]
      ] as const) {
        const ticks = yield* firings("*/20 * * * *", "Europe/Berlin", from, to)
        assert.deepStrictEqual(
          ticks.map((tick) => Date.parse(tick) - Date.parse(from)),
          Array.from({ length: 24 }, (_, index) => (index + 1) * 20 * 60_000)
        )
      }
    })
  )
})
