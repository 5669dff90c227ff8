import { assert, describe, it } from "@effect/vitest"
import { CronJob, DefinitionError, type JobMessage } from "effect-jobs"
import { Cause, Clock, Deferred, Duration, Effect, Exit, Fiber, Logger } from "effect"
import { TestClock } from "effect/testing"
import {
  recordsInMemory,
  runTicks,
  tickEnded,
  tickMessage,
  type TickRecords
} from "../../src/internal/ticks.ts"

const millis = (duration: Duration.Input) => Duration.toMillis(Duration.fromInputUnsafe(duration))

/** The TestClock of a machine that can be suspended, and whose wall clock can be set: timers go on as they were. */
const machine = Effect.gen(function* () {
  const clock = yield* Clock.Clock
  let ahead = 0
  const nanos = () => BigInt(Math.round(ahead * 1_000_000))
  const shifted: Clock.Clock = {
    currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe() + ahead,
    currentTimeMillis: Effect.sync(() => clock.currentTimeMillisUnsafe() + ahead),
    currentTimeNanosUnsafe: () => clock.currentTimeNanosUnsafe() + nanos(),
    currentTimeNanos: Effect.sync(() => clock.currentTimeNanosUnsafe() + nanos()),
    monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe(),
    monotonicTimeNanos: clock.monotonicTimeNanos,
    sleep: (duration) => clock.sleep(duration)
  }
  return {
    clock: shifted,
    now: () => new Date(shifted.currentTimeMillisUnsafe()).toISOString(),
    set: (time: string) => {
      ahead = Date.parse(time) - clock.currentTimeMillisUnsafe()
    }
  }
})
type Machine = Effect.Success<typeof machine>

/** What a job offers, and when: `09:00` where both are the same time of the day, else `09:00 at 09:03`. */
const ticking = (
  self: Machine,
  options: { readonly cron: string; readonly catchUp?: "once"; readonly overlap?: "skip" },
  records: TickRecords = recordsInMemory()
) =>
  Effect.gen(function* () {
    class Job extends CronJob.make("job", options) {}
    const offered: Array<string> = []
    const messages: Array<JobMessage> = []
    const fiber = yield* runTicks(
      Job,
      (message) =>
        Effect.sync(() => {
          const due = message.id.slice("job@".length)
          const now = self.now()
          messages.push(message)
          offered.push(
            due.slice(0, 16) === now.slice(0, 16)
              ? due.slice(11, 16)
              : `${due.slice(11, 16)} at ${now.slice(11, 16)}`
          )
        }),
      records
    ).pipe(Effect.provideService(Clock.Clock, self.clock), Effect.forkChild)
    yield* TestClock.adjust(0)
    return {
      job: Job,
      offered,
      messages,
      stop: Fiber.interrupt(fiber),
      /** The run of the last message has ended. */
      end: Effect.suspend(() => {
        const message = messages.at(-1)
        return message === undefined ? Effect.void : tickEnded(records, Job, message)
      })
    }
  })

const started = (time: string) => Effect.andThen(TestClock.setTime(Date.parse(time)), machine)

describe("a machine that was suspended", () => {
  it.effect("ticks at its time when it is awake again", () =>
    Effect.gen(function* () {
      const self = yield* started("2026-01-01T16:00:00Z")
      const { offered } = yield* ticking(self, { cron: "5 17 * * *" })
      yield* TestClock.adjust("30 seconds")
      self.set("2026-01-01T16:55:00Z")
      yield* TestClock.adjust("10 minutes")
      assert.deepStrictEqual(offered, ["17:05"])
    })
  )

  it.effect("looks again within a minute, and within five where the tick was more than an hour away", () =>
    Effect.gen(function* () {
      const self = yield* started("2026-01-01T16:30:00Z")
      const { offered } = yield* ticking(self, { cron: "5 17 * * *" })
      self.set("2026-01-01T17:04:58Z")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(offered, ["17:05"])
      self.set("2026-01-02T17:04:58Z")
      yield* TestClock.adjust("5 minutes")
      assert.deepStrictEqual(offered, ["17:05", "17:05 at 17:09"])
    })
  )

  it.effect("runs what is a little late, and skips what is more than five minutes late", () =>
    Effect.gen(function* () {
      const self = yield* started("2026-01-01T08:00:00Z")
      const { offered } = yield* ticking(self, { cron: "0 9 * * *" })
      self.set("2026-01-01T09:03:00Z")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(offered, ["09:00 at 09:04"])
      self.set("2026-01-02T17:25:00Z")
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(offered, ["09:00 at 09:04"])
      self.set("2026-01-03T08:54:00Z")
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(offered, ["09:00 at 09:04", "09:00"])
    })
  )

  it.effect("makes one run of many missed ticks, the latest, where that isn't late", () =>
    Effect.gen(function* () {
      const self = yield* started("2026-01-01T08:00:00Z")
      const { offered } = yield* ticking(self, { cron: "* * * * *" })
      yield* TestClock.adjust("90 seconds")
      self.set("2026-01-04T12:30:30Z")
      yield* TestClock.adjust("90 seconds")
      assert.deepStrictEqual(offered, ["08:01", "12:31", "12:32"])
    })
  )
})

describe("catchUp: once", () => {
  it.effect("makes one run of the ticks that were missed, that of the latest", () =>
    Effect.gen(function* () {
      const self = yield* started("2026-01-01T08:00:00Z")
      const { offered } = yield* ticking(self, { cron: "0 * * * *", catchUp: "once" })
      yield* TestClock.adjust("1 hour")
      self.set("2026-03-05T17:25:00Z")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(offered, ["09:00", "17:00 at 17:26"])
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(offered, ["09:00", "17:00 at 17:26", "18:00"])
    })
  )

  it.effect("finds a tick that was missed long ago", () =>
    Effect.gen(function* () {
      const self = yield* started("2026-01-01T08:00:00Z")
      const { messages } = yield* ticking(self, { cron: "0 0 1 2 *", catchUp: "once" })
      self.set("2029-12-05T17:25:00Z")
      yield* TestClock.adjust("5 minutes")
      assert.deepStrictEqual(
        messages.map(({ id }) => id),
        ["job@2029-02-01T00:00:00.000Z"]
      )
    })
  )

  it.effect("counts from the last run of another process, or from the first start", () =>
    Effect.gen(function* () {
      const records = recordsInMemory()
      const self = yield* started("2026-01-01T08:00:00Z")
      const options = { cron: "0 9 * * *", catchUp: "once" } as const
      const first = yield* ticking(self, options, records)
      yield* first.stop
      yield* TestClock.adjust("3 days")
      const second = yield* ticking(self, options, records)
      assert.deepStrictEqual(second.offered, ["09:00 at 08:00"])
      assert.strictEqual(second.messages[0]?.id, "job@2026-01-03T09:00:00.000Z")
      yield* second.stop
      const third = yield* ticking(self, options, records)
      assert.deepStrictEqual(third.offered, [])
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(third.offered, ["09:00"])
    })
  )
})

describe("a clock that is set", () => {
  it.effect("back by hours repeats no tick, and goes on with the next", () =>
    Effect.gen(function* () {
      const self = yield* started("2026-01-01T08:00:00Z")
      const { offered } = yield* ticking(self, { cron: "0 * * * *" })
      yield* TestClock.adjust("3 hours")
      self.set("2026-01-01T07:30:00Z")
      yield* TestClock.adjust("5 hours")
      assert.deepStrictEqual(offered, ["09:00", "10:00", "11:00", "08:00", "12:00"])
    })
  )

  it.effect("forward by a year and back again goes on as if nothing had been, and no tick comes twice", () =>
    Effect.gen(function* () {
      for (const options of [{}, { catchUp: "once" }, { overlap: "skip" }] as const) {
        const self = yield* started("2026-01-01T08:00:00Z")
        const { end, messages } = yield* ticking(self, { cron: "*/30 * * * *", ...options })
        yield* TestClock.adjust("30 minutes")
        yield* end
        self.set("2027-01-01T08:29:30Z")
        yield* TestClock.adjust("1 minute")
        yield* end
        self.set("2026-01-01T08:31:30Z")
        yield* TestClock.adjust("30 minutes")
        yield* Effect.provideService(end, Clock.Clock, self.clock)
        yield* TestClock.adjust("30 minutes")
        assert.deepStrictEqual(
          messages.map(({ id }) => id),
          [
            "job@2026-01-01T08:30:00.000Z",
            "job@2027-01-01T08:30:00.000Z",
            "job@2026-01-01T09:00:00.000Z",
            "job@2026-01-01T09:30:00.000Z"
          ],
          JSON.stringify(options)
        )
        yield* TestClock.setTime(0)
      }
    })
  )

  it.effect("to and fro at random never brings a tick twice", () =>
    Effect.gen(function* () {
      const self = yield* started("2026-01-01T00:00:00Z")
      const { messages } = yield* ticking(self, { cron: "*/7 * * * *" })
      for (let jump = 0; jump < 60; jump++) {
        const hour = (jump * 7919) % 24
        const minute = (jump * 104_729) % 60
        self.set(`2026-01-01T${String(hour).padStart(2, "0")}:${String(minute).padStart(2, "0")}:00Z`)
        yield* TestClock.adjust("40 minutes")
      }
      const ids = messages.map(({ id }) => id)
      assert.strictEqual(new Set(ids).size, ids.length)
      assert.isAbove(ids.length, 100)
    })
  )
})

describe("a run that takes longer than the interval", () => {
  it.effect("goes on beside the next one", () =>
    Effect.gen(function* () {
      const self = yield* started("2026-01-01T08:00:00Z")
      const { offered } = yield* ticking(self, { cron: "* * * * *" })
      yield* TestClock.adjust("3 minutes")
      assert.deepStrictEqual(offered, ["08:01", "08:02", "08:03"])
    })
  )

  it.effect("with overlap: skip, no tick begins another until it has ended", () =>
    Effect.gen(function* () {
      const self = yield* started("2026-01-01T08:00:00Z")
      const { end, messages } = yield* ticking(self, { cron: "* * * * *", overlap: "skip" })
      const ids = () => [...new Set(messages.map(({ id }) => id.slice(15, 20)))]
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(ids(), ["08:01"])
      yield* TestClock.adjust("3 minutes")
      assert.deepStrictEqual(ids(), ["08:01"])
      yield* end
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(ids(), ["08:01", "08:05"])
      yield* end
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(ids(), ["08:01", "08:05", "08:06"])
    })
  )

  it.effect("with overlap: skip, holds up nothing after a day", () =>
    Effect.gen(function* () {
      const self = yield* started("2026-01-01T08:30:00Z")
      const { messages } = yield* ticking(self, { cron: "0 * * * *", overlap: "skip" })
      yield* TestClock.adjust("25 hours")
      assert.deepStrictEqual(
        [...new Set(messages.map(({ id }) => id))],
        ["job@2026-01-01T09:00:00.000Z", "job@2026-01-02T09:00:00.000Z"]
      )
    })
  )

  it.effect("with overlap: skip, several processes with the same records make one run", () =>
    Effect.gen(function* () {
      const records = recordsInMemory()
      const self = yield* started("2026-01-01T08:00:00Z")
      const options = { cron: "* * * * *", overlap: "skip" } as const
      const one = yield* ticking(self, options, records)
      const two = yield* ticking(self, options, records)
      yield* TestClock.adjust("1 minute")
      // as a run that is over before the second process has looked
      yield* one.end
      yield* two.end
      yield* TestClock.adjust("3 minutes")
      const ids = new Set([...one.messages, ...two.messages].map(({ id }) => id.slice(15, 20)))
      assert.deepStrictEqual([...ids], ["08:01", "08:02"])
      yield* two.end
      yield* TestClock.adjust("1 minute")
      assert.isTrue(two.messages.at(-1)?.id.includes("08:05"))
    })
  )

  it.effect("with overlap: skip, a process that lags behind offers nothing before the last one", () =>
    Effect.gen(function* () {
      const records = recordsInMemory()
      const self = yield* started("2026-01-01T08:00:30Z")
      const options = { cron: "* * * * *", overlap: "skip" } as const
      const { offered } = yield* ticking(self, options, records)
      yield* records.set("job", "offered", Date.parse("2026-01-01T08:02:00Z"))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(offered, [])
      assert.strictEqual(yield* records.get("job", "offered"), Date.parse("2026-01-01T08:02:00Z"))
    })
  )

  it.effect("with overlap: skip, a tick that was recorded and never offered is offered by the next", () =>
    Effect.gen(function* () {
      const records = recordsInMemory()
      const self = yield* started("2026-01-01T08:00:30Z")
      yield* records.set("job", "ended", Date.parse("2026-01-01T07:59:00Z"))
      yield* records.set("job", "offered", Date.parse("2026-01-01T08:00:00Z"))
      const { end, offered } = yield* ticking(self, { cron: "* * * * *", overlap: "skip" }, records)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(offered, ["08:00 at 08:01"])
      yield* end
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(offered, ["08:00 at 08:01", "08:02"])
    })
  )

  it.effect("with overlap: skip, is refused where the engine doesn't know of its end", () =>
    Effect.gen(function* () {
      class Job extends CronJob.make("job", { cron: "* * * * *", overlap: "skip" }) {}
      const exit = yield* Effect.exit(runTicks(Job, () => Effect.void))
      assert(Exit.isFailure(exit))
      assert.instanceOf(Cause.squash(exit.cause), DefinitionError)
    })
  )
})

describe("an offer", () => {
  class Job extends CronJob.make("job", { cron: "* * * * *" }) {}
  it.effect("that fails, dies or throws doesn't stop the clock", () =>
    Effect.gen(function* () {
      let offers = 0
      const fiber = yield* runTicks(Job, () => {
        offers++
        if (offers === 1) return Effect.fail("no store")
        if (offers === 2) return Effect.die("no store")
        throw new Error("no store")
      }).pipe(Effect.provideService(Logger.CurrentLoggers, new Set()), Effect.forkChild)
      yield* TestClock.adjust("4 minutes")
      assert.strictEqual(offers, 4)
      yield* Fiber.interrupt(fiber)
    })
  )

  it.effect("that takes its time is followed by the latest tick since, if that isn't late", () =>
    Effect.gen(function* () {
      const offered: Array<string> = []
      const store = yield* Deferred.make<void>()
      yield* runTicks(Job, ({ id }) => {
        offered.push(id.slice(15, 20))
        return Deferred.await(store)
      }).pipe(Effect.forkChild)
      yield* TestClock.adjust("30 minutes")
      assert.deepStrictEqual(offered, ["00:01"])
      yield* Deferred.succeed(store, undefined)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(offered, ["00:01", "00:30", "00:31"])
    })
  )

  it("has the time of its tick in its id and payload", () => {
    assert.deepStrictEqual(tickMessage(Job, 60_000), {
      id: "job@1970-01-01T00:01:00.000Z",
      name: "job",
      payload: { scheduledAt: "1970-01-01T00:01:00.000Z" },
      dispatchedAt: 60_000
    })
  })
})

it.effect("looks are few: a month costs the TestClock some 330 a day", () =>
  Effect.gen(function* () {
    const self = yield* started("2026-01-01T08:00:00Z")
    let sleeps = 0
    const clock: Clock.Clock = {
      ...self.clock,
      sleep: (duration) => {
        sleeps++
        assert.isAtMost(Duration.toMillis(duration), millis("5 minutes"))
        return self.clock.sleep(duration)
      }
    }
    const { offered } = yield* ticking({ ...self, clock }, { cron: "0 9 * * *" })
    yield* TestClock.adjust("30 days")
    assert.strictEqual(offered.length, 30)
    assert.isAtMost(sleeps, 30 * (23 * 12 + 60 + 2))
  })
)
