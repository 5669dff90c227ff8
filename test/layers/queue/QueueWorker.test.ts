import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Fiber, Layer, Schema } from "effect"
import { Job, Listener, RetryPolicy } from "effect-jobs"
import { QueueDispatcher, QueueStore, QueueWorker } from "effect-jobs/queue"
import { PersistedQueue } from "effect/persistence"
import { TestClock } from "effect/testing"
import { Else, Happened, type Handle, Keyed, start, Work } from "../../support/queueWorker.ts"

const memory = QueueDispatcher.layer.pipe(Layer.provideMerge(QueueStore.layerMemory))

/** Lets the fibers do what they can without time. */
const settle = Effect.forEach(Array.from({ length: 20 }), () => TestClock.adjust(0), { discard: true })

describe("QueueWorker", () => {
  it.effect("concurrency bounds what runs at once, over all jobs", () =>
    Effect.gen(function* () {
      let running = 0
      let most = 0
      let done = 0
      yield* start(
        () =>
          Effect.gen(function* () {
            most = Math.max(most, ++running)
            yield* Effect.sleep("1 second")
            running--
            done++
          }),
        { concurrency: 3 }
      )
      yield* Work.dispatchAll(Array.from({ length: 10 }, (_, n) => ({ key: `${n}` })))
      yield* Else.dispatchAll(Array.from({ length: 10 }, (_, n) => ({ key: `${n}` })))
      for (let n = 0; n < 100; n++) yield* TestClock.adjust("250 millis")
      assert.strictEqual(most, 3)
      assert.strictEqual(done, 20)
    }).pipe(Effect.scoped, Effect.provide(memory))
  )

  it.effect("a busy worker claims nothing that another one could run", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const handle =
        (worker: string): Handle =>
        (run, key) => {
          seen.push(`${key} in ${worker}, attempt ${run.attempt}`)
          return worker === "busy" ? Effect.never : Effect.void
        }
      yield* start(handle("busy"), { concurrency: 1, shutdownTimeout: 0 })
      yield* settle
      yield* Work.dispatch({ key: "first" })
      yield* settle
      yield* Else.dispatch({ key: "second" })
      yield* settle
      assert.deepStrictEqual(seen, ["first in busy, attempt 1"])
      yield* start(handle("free"))
      yield* settle
      assert.deepStrictEqual(seen, ["first in busy, attempt 1", "second in free, attempt 1"])
    }).pipe(Effect.scoped, Effect.provide(memory))
  )

  describe("queues", () => {
    class Clip extends Job.make("lanes.clip", { payload: { key: Schema.String }, queue: "media" }) {}
    class Mail extends Job.make("lanes.mail", { payload: { key: Schema.String } }) {}

    it.effect("have a concurrency each, and none waits for another", () =>
      Effect.gen(function* () {
        const running = new Map<string, number>()
        const most = new Map<string, number>()
        const handler = (job: string) => () =>
          Effect.gen(function* () {
            running.set(job, (running.get(job) ?? 0) + 1)
            most.set(job, Math.max(most.get(job) ?? 0, running.get(job) ?? 0))
            yield* Effect.sleep(job === "clip" ? "1 hour" : "1 second")
            running.set(job, (running.get(job) ?? 0) - 1)
          })
        const worker = QueueWorker.layer([Clip, Mail], {
          concurrency: 3,
          queues: { media: 2 },
          shutdownTimeout: 0
        })
        yield* Layer.build(
          Layer.provide(worker, [Clip.toLayer(handler("clip")), Mail.toLayer(handler("mail"))])
        )
        yield* Clip.dispatchAll(Array.from({ length: 10 }, (_, n) => ({ key: `${n}` })))
        yield* Mail.dispatchAll(Array.from({ length: 10 }, (_, n) => ({ key: `${n}` })))
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual(Object.fromEntries(most), { clip: 2, mail: 3 })
        assert.strictEqual(running.get("mail"), 0)
      }).pipe(Effect.scoped, Effect.provide(memory))
    )

    it.effect("that no job has are taken from where they are named: a job can move to another", () =>
      Effect.gen(function* () {
        const seen: Array<string> = []
        class Moved extends Job.make("lanes.clip", { payload: { key: Schema.String } }) {}
        yield* Clip.dispatch({ key: "before" })
        yield* Moved.dispatch({ key: "after" })
        const worker = QueueWorker.layer([Moved], { queues: { media: 1 } })
        yield* Layer.build(
          Layer.provide(
            worker,
            Moved.toLayer(({ key }) => Effect.sync(() => void seen.push(key)))
          )
        )
        yield* settle
        assert.sameMembers(seen, ["before", "after"])
      }).pipe(Effect.scoped, Effect.provide(memory))
    )

    it.effect(
      "a message of a job that a worker doesn't know waits for one that does, and uses no attempt",
      () =>
        Effect.gen(function* () {
          const seen: Array<string> = []
          const failed: Array<string> = []
          yield* Layer.build(
            Layer.provide(
              QueueWorker.layer([Mail], {
                onError: ({ message }) => Effect.sync(() => void failed.push(message))
              }),
              Mail.toLayer(({ key }) => Effect.sync(() => void seen.push(key)))
            )
          )
          class Young extends Job.make("lanes.young", { payload: { key: Schema.String } }) {}
          yield* Young.dispatch({ key: "young" })
          yield* Mail.dispatch({ key: "mail" })
          yield* TestClock.adjust("10 minutes")
          assert.deepStrictEqual(seen, ["mail"])
          yield* Layer.build(
            Layer.provide(
              QueueWorker.layer([Young], {
                onError: ({ message }) => Effect.sync(() => void failed.push(message))
              }),
              Young.toLayer(({ key }) =>
                Effect.flatMap(Job.CurrentRun, ({ attempt }) =>
                  Effect.sync(() => void seen.push(`${key} ${attempt}`))
                )
              )
            )
          )
          // the two of them take it in turn
          yield* TestClock.adjust("1 hour")
          assert.deepStrictEqual(seen, ["mail", "young 1"])
          assert.deepStrictEqual(failed, [])
        }).pipe(Effect.scoped, Effect.provide(memory))
    )

    it.effect("an event reaches the listeners of all workers, whichever takes it", () =>
      Effect.gen(function* () {
        const seen: Array<string> = []
        class First extends Listener.make("lanes.first", { event: Happened, queue: "media" }) {}
        class Second extends Listener.make("lanes.second", { event: Happened }) {}
        const handler = (name: string) => () => Effect.sync(() => void seen.push(name))
        yield* Layer.build(Layer.provide(QueueWorker.layer([First]), First.toLayer(handler("first"))))
        yield* Layer.build(Layer.provide(QueueWorker.layer([Second]), Second.toLayer(handler("second"))))
        yield* Layer.build(Layer.provide(QueueWorker.layer([Mail]), Mail.toLayer(handler("mail"))))
        yield* TestClock.adjust("2 seconds")
        for (let n = 0; n < 30; n++) yield* Happened.publish({ key: `${n}` })
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(seen.filter((name) => name === "first").length, 30)
        assert.strictEqual(seen.filter((name) => name === "second").length, 30)
      }).pipe(Effect.scoped, Effect.provide(memory))
    )

    it.effect("attempts that were lowered in a deploy are exhausted: no worker was lost", () =>
      Effect.gen(function* () {
        const failed: Array<string> = []
        class Long extends Job.make("lanes.lowered", {
          payload: {},
          retry: RetryPolicy.fixed({ attempts: 9, delay: "1 minute" })
        }) {}
        class Short extends Job.make("lanes.lowered", { payload: {}, retry: { attempts: 2 } }) {}
        const build = (job: typeof Long) =>
          Effect.scoped(
            Effect.andThen(
              Layer.build(
                Layer.provide(
                  QueueWorker.layer([job], {
                    onError: ({ message }) => Effect.sync(() => void failed.push(message))
                  }),
                  job.toLayer(() => Effect.fail("no"))
                )
              ),
              TestClock.adjust("90 seconds")
            )
          )
        yield* Long.dispatch()
        yield* build(Long)
        // sound: of another policy, and else the same
        yield* build(Short)
        assert.strictEqual(failed.length, 1)
        assert.include(failed[0], "its policy allows 2 attempts now, and 2 have failed")
      }).pipe(Effect.provide(memory))
    )
  })

  it.effect("a closed scope takes nothing more and waits for what runs", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const stop = yield* start((_, key) =>
        Effect.sleep("10 seconds").pipe(
          Effect.andThen(Effect.sync(() => seen.push(`${key} ended`))),
          Effect.onInterrupt(() => Effect.sync(() => seen.push(`${key} interrupted`)))
        )
      )
      yield* Work.dispatch({ key: "running" })
      yield* settle
      const stopping = yield* Effect.forkChild(stop)
      yield* settle
      yield* Work.dispatch({ key: "late" })
      yield* TestClock.adjust("9 seconds")
      assert.isUndefined(stopping.pollUnsafe())
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(stopping)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(seen, ["running ended"])
    }).pipe(Effect.scoped, Effect.provide(memory))
  )

  it.effect("what runs longer than shutdownTimeout is interrupted, given back, and has used no attempt", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const stop = yield* start(
        (run) =>
          Effect.onInterrupt(Effect.never, () =>
            Effect.sync(() => seen.push(`interrupted in ${run.attempt}`))
          ),
        { shutdownTimeout: "5 seconds" }
      )
      yield* Else.dispatch({ key: "long" })
      yield* settle
      const stopping = yield* Effect.forkChild(stop)
      yield* TestClock.adjust("4 seconds")
      assert.isEmpty(seen)
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(stopping)
      assert.deepStrictEqual(seen, ["interrupted in 1"])
      yield* start((run) => Effect.sync(() => void seen.push(`ended in ${run.attempt}`)))
      yield* settle
      assert.deepStrictEqual(seen, ["interrupted in 1", "ended in 1"])
    }).pipe(Effect.scoped, Effect.provide(memory))
  )

  it.effect("an error's own delay and its stop hold for its message alone", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const failed: Array<string> = []
      yield* start(
        (run, key) =>
          Effect.gen(function* () {
            const now = yield* Clock.currentTimeMillis
            if (run.job === "queue.hourly") return
            seen.push(`${key} ${run.attempt} at ${now}`)
            if (key === "stops") return yield* Effect.fail(run.attempt === 1 ? "soon" : "never again")
            if (run.attempt === 1) return yield* Effect.fail("slow")
          }),
        { onFailure: (key) => failed.push(key) }
      )
      yield* Work.dispatch({ key: "waits" })
      yield* Work.dispatch({ key: "stops" })
      yield* TestClock.adjust("1 second")
      yield* TestClock.adjust("2 hours")
      assert.deepStrictEqual(seen, ["waits 1 at 0", "stops 1 at 0", "stops 2 at 2000", "waits 2 at 3600000"])
      assert.deepStrictEqual(failed, ["stops"])
    }).pipe(Effect.scoped, Effect.provide(memory))
  )

  it.effect("a tick of a cron job runs in one of many workers", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      for (let worker = 1; worker <= 3; worker++) {
        yield* start((run, key) => Effect.sync(() => void seen.push(`${key} ${run.job}`)))
      }
      yield* TestClock.adjust("3 hours")
      yield* settle
      assert.deepStrictEqual(seen, [
        "1970-01-01T01:00:00.000Z queue.hourly",
        "1970-01-01T02:00:00.000Z queue.hourly",
        "1970-01-01T03:00:00.000Z queue.hourly"
      ])
    }).pipe(Effect.scoped, Effect.provide(memory))
  )

  it.effect(
    "an event's messages wait for a worker with listeners; fanned out again, nothing runs twice",
    () =>
      Effect.gen(function* () {
        const store = yield* PersistedQueue.PersistedQueueStore
        const { id } = yield* Happened.publish({ key: "event" })
        const seen: Array<string> = []
        yield* start((run, key) => Effect.sync(() => void seen.push(`${run.job} ${key} ${run.id === id}`)))
        yield* settle
        const expected = ["queue.hears event true", "queue.hears-too event true"]
        assert.sameMembers(seen, expected)
        // as if the worker had died between the fan-out and its acknowledgement
        yield* store.offer({
          name: "@events",
          id: "once more",
          element: { id, name: "queue.happened", payload: { key: "event" }, dispatchedAt: 0 },
          isCustomId: true
        })
        yield* settle
        assert.sameMembers(seen, expected)
      }).pipe(Effect.scoped, Effect.provide(memory))
  )

  it.effect("the store is told which ids have to be remembered: those that may come again", () =>
    Effect.gen(function* () {
      const store = yield* PersistedQueue.PersistedQueueStore
      const offered: Array<string> = []
      const noting = Layer.succeed(PersistedQueue.PersistedQueueStore, {
        ...store,
        offer: (options) => {
          offered.push(`${options.name} ${options.isCustomId ? "remembered" : "new"}`)
          return store.offer(options)
        }
      })
      yield* Effect.gen(function* () {
        yield* Work.dispatch({ key: "a" })
        yield* Work.dispatch({ key: "b" }, { delay: "1 hour" })
        yield* Work.dispatch({ key: "c" }, { id: "given" })
        yield* Else.dispatchAll([{ key: "d" }])
        yield* Else.dispatchAll([{ key: "e" }], { id: ({ key }) => key })
        yield* Keyed.dispatch({ key: "f" })
        assert.deepStrictEqual(offered.splice(0), [
          "default new",
          "default new",
          "default remembered",
          "default new",
          "default remembered",
          "default remembered"
        ])
        yield* Happened.publish({ key: "g" })
        yield* start(() => Effect.void)
        yield* settle
        // a fan-out may be done twice
        assert.deepStrictEqual(offered, ["@events new", "default remembered", "default remembered"])
      }).pipe(Effect.provide(Layer.provideMerge(QueueDispatcher.layer, noting)))
    }).pipe(Effect.scoped, Effect.provide(QueueStore.layerMemory))
  )

  it.effect("a store that fails makes the dispatch Unavailable, and the worker go on", () =>
    Effect.gen(function* () {
      const store = yield* PersistedQueue.PersistedQueueStore
      let down = true
      const error = new PersistedQueue.PersistedQueueError({ message: "down" })
      const flaky = Layer.succeed(PersistedQueue.PersistedQueueStore, {
        ...store,
        offer: (options) => (down ? Effect.fail(error) : store.offer(options)),
        take: (options) => (down ? Effect.fail(error) : store.take(options))
      })
      const seen: Array<string> = []
      yield* Effect.gen(function* () {
        const failure = yield* Effect.flip(Work.dispatch({ key: "a" }))
        assert.strictEqual(failure.reason._tag, "Unavailable")
        assert.strictEqual(
          failure.message,
          `"queue.work" couldn't be dispatched now, the queue's store is unavailable: it didn't take the message.`
        )
        yield* start((_, key) => Effect.sync(() => void seen.push(key)))
        yield* TestClock.adjust("3 seconds")
        down = false
        yield* Work.dispatch({ key: "b" })
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(seen, ["b"])
      }).pipe(Effect.provide(Layer.provideMerge(QueueDispatcher.layer, flaky)))
    }).pipe(Effect.scoped, Effect.provide(QueueStore.layerMemory))
  )

  it.effect("options that can't be are refused when the worker is built", () =>
    Effect.gen(function* () {
      const build = (options: QueueWorker.Options) => Effect.exit(start(() => Effect.void, options))
      assert.include(String(yield* build({ concurrency: 0 })), "must be an integer of at least 1, not 0")
      assert.include(String(yield* build({ shutdownTimeout: "-1 second" })), "shutdownTimeout")
    }).pipe(Effect.scoped, Effect.provide(memory))
  )
})
