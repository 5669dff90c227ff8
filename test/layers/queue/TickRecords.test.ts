import { assert, describe, it } from "@effect/vitest"
import { CronJob, type JobMessage } from "effect-jobs"
import { QueueDispatcher, QueueStore, QueueWorker } from "effect-jobs/queue"
import { Effect, Fiber, Layer } from "effect"
import { Persistence } from "effect/persistence"
import { TestClock } from "effect/testing"
import { runTicks, tickEnded } from "../../../src/internal/ticks.ts"
import * as TickRecords from "../../../src/layers/queue/TickRecords.ts"

class Sync extends CronJob.make("crm.sync", { cron: "* * * * *", overlap: "skip", catchUp: "once" }) {}

/** A worker's clock; `offered` is what all of them have put into the queue, each id once. */
const worker = (offered: Map<string, JobMessage>) =>
  Effect.gen(function* () {
    const records = yield* TickRecords.make
    const fiber = yield* Effect.forkScoped(
      runTicks(
        Sync,
        (message) => Effect.sync(() => offered.has(message.id) || offered.set(message.id, message)),
        records
      )
    )
    yield* TestClock.adjust(0)
    return {
      stop: Fiber.interrupt(fiber),
      end: (message: JobMessage) => tickEnded(records, Sync, message)
    }
  })
const last = (offered: Map<string, JobMessage>) => {
  const message = [...offered.values()].at(-1)
  assert(message !== undefined)
  return message
}
const minutes = (offered: Map<string, JobMessage>) => [...offered.keys()].map((id) => id.slice(20, 25))

describe("workers of one store", () => {
  it.effect("agree on which run goes on, and on what was missed while none of them ran", () =>
    Effect.gen(function* () {
      const offered = new Map<string, JobMessage>()
      const one = yield* worker(offered)
      const two = yield* worker(offered)
      yield* TestClock.adjust("3 minutes")
      assert.deepStrictEqual(minutes(offered), ["00:01"])
      yield* two.end(last(offered))
      yield* TestClock.adjust("3 minutes")
      assert.deepStrictEqual(minutes(offered), ["00:01", "00:04"])
      yield* one.end(last(offered))
      yield* one.stop
      yield* two.stop
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(minutes(offered), ["00:01", "00:04"])
      yield* worker(offered)
      assert.deepStrictEqual(minutes(offered), ["00:01", "00:04", "01:06"])
    }).pipe(Effect.provide(Persistence.layerBackingMemory))
  )

  it.effect("wait for a persistence that doesn't answer, and go on when it does", () =>
    Effect.gen(function* () {
      let broken = false
      const memory = yield* Persistence.BackingPersistence
      const failing = Persistence.BackingPersistence.of({
        make: (id) =>
          Effect.map(memory.make(id), (store) => ({
            ...store,
            get: (key) =>
              Effect.suspend(() =>
                broken ? Effect.fail(new Persistence.PersistenceError({ message: "gone" })) : store.get(key)
              )
          }))
      })
      const offered = new Map<string, JobMessage>()
      const { end } = yield* Effect.provideService(worker(offered), Persistence.BackingPersistence, failing)
      yield* TestClock.adjust("1 minute")
      yield* end(last(offered))
      broken = true
      yield* TestClock.adjust("2 minutes")
      assert.deepStrictEqual(minutes(offered), ["00:01"])
      broken = false
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(minutes(offered), ["00:01", "00:02"])
    }).pipe(Effect.provide(Persistence.layerBackingMemory))
  )

  it.effect("begin no run of a job with overlap: skip while another one's goes on", () =>
    Effect.gen(function* () {
      class Slow extends CronJob.make("crm.slow", { cron: "* * * * *", overlap: "skip" }) {}
      const begun: Array<number> = []
      const handlers = Slow.toLayer(({ scheduledAt }) =>
        Effect.andThen(
          Effect.sync(() => begun.push(scheduledAt.epochMilliseconds / 60_000)),
          Effect.sleep("150 seconds")
        )
      )
      const start = Layer.build(
        QueueWorker.layer([Slow], { shutdownTimeout: 0 }).pipe(Layer.provide(handlers))
      )
      yield* start
      yield* start
      for (let n = 0; n < 8 * 30; n++) yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(begun, [1, 4, 7])
    }).pipe(
      Effect.scoped,
      Effect.provide(QueueDispatcher.layer.pipe(Layer.provideMerge(QueueStore.layerMemory))),
      Effect.provide(Persistence.layerBackingMemory)
    )
  )

  it.effect("without a persistence each has its own records", () =>
    Effect.gen(function* () {
      const records = yield* TickRecords.make
      assert.isUndefined(yield* records.get("a", "ended"))
      yield* records.set("a", "ended", 5)
      assert.strictEqual(yield* records.get("a", "ended"), 5)
      assert.isUndefined(yield* records.get("a", "offered"))
    })
  )
})
