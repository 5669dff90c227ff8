import { assert, describe, it } from "@effect/vitest"
import { DomainEvent, InlineDispatcher, Job, Listener, RetryPolicy } from "effect-jobs"
import { TestDispatcher } from "effect-jobs/testing"
import { Effect, Fiber, Layer, Schema } from "effect"
import { TestClock } from "effect/testing"

class Posted extends DomainEvent.make("event.posted", {
  payload: { postId: Schema.String },
  idempotencyKey: ({ postId }) => `posted ${postId}`
}) {}

describe("100 listeners, three of them failing in different ways", () => {
  const names = Array.from({ length: 100 }, (_, index) => `event.listener-${index}`)
  const listeners = names.map((name) =>
    Listener.make(name, {
      event: Posted,
      retry: RetryPolicy.fixed({ attempts: 3, delay: "1 second" }),
      timeout: "10 seconds"
    })
  )
  const handlers = (seen: Map<string, number>) =>
    Layer.mergeAll(
      Layer.empty,
      ...listeners.map((listener, index) =>
        listener.toLayer(() =>
          Effect.gen(function* () {
            const { job } = yield* Job.CurrentRun
            seen.set(job, (seen.get(job) ?? 0) + 1)
            if (index === 10) return yield* Effect.fail("typed")
            if (index === 50) return yield* Effect.die(new Error("defect"))
            if (index === 90) return yield* Effect.never
          })
        )
      )
    )
  const assertSeen = (seen: Map<string, number>) => {
    const expected = names.map((name, index) => [name, index === 10 || index === 50 || index === 90 ? 3 : 1])
    assert.deepStrictEqual(
      [...seen].toSorted(([a], [b]) => names.indexOf(a) - names.indexOf(b)),
      expected
    )
  }
  const failed: Array<string> = []
  const onError: InlineDispatcher.Options["onError"] = (error) => Effect.sync(() => failed.push(error.job))

  for (const background of [false, true]) {
    it.effect(`inline${background ? ", in the background" : ""}: the other 97 run once each`, () => {
      const seen = new Map<string, number>()
      failed.length = 0
      return Effect.gen(function* () {
        const fiber = yield* Effect.forkChild(Posted.publish({ postId: "1" }))
        yield* TestClock.adjust("10 minutes")
        yield* Fiber.join(fiber)
        assertSeen(seen)
        assert.deepStrictEqual(failed.toSorted(), [names[10], names[50], names[90]])
      }).pipe(
        Effect.provide(
          InlineDispatcher.layer(listeners, { background, onError }).pipe(Layer.provide(handlers(seen)))
        )
      )
    })
  }

  it.effect("TestDispatcher: the other 97 run once each", () => {
    const seen = new Map<string, number>()
    return Effect.gen(function* () {
      yield* Posted.publish({ postId: "1" })
      yield* TestClock.adjust("10 minutes")
      assertSeen(seen)
    }).pipe(
      Effect.provide(TestDispatcher.layerRunning(listeners, { onError }).pipe(Layer.provide(handlers(seen))))
    )
  })
})

describe("the whole chain: an event published once, a listener that dispatches, a mail that goes out once", () => {
  const mails: Array<string> = []
  class Mail extends Job.make("event.mail", {
    payload: { to: Schema.String, postId: Schema.String },
    idempotencyKey: ({ postId, to }) => `${postId} ${to}`
  }) {}
  class Enqueue extends Listener.make("event.enqueue", { event: Posted }) {}
  const Live = Layer.merge(
    Mail.toLayer(({ postId, to }) => Effect.sync(() => mails.push(`${postId} to ${to}`))),
    Enqueue.toLayer(({ postId }) =>
      Mail.dispatchAll([
        { to: "a", postId },
        { to: "b", postId }
      ])
    )
  )
  const publish = Effect.gen(function* () {
    mails.length = 0
    yield* Posted.publish({ postId: "p" })
    yield* Posted.publish({ postId: "p" })
    yield* TestClock.adjust("1 second")
    assert.deepStrictEqual(mails, ["p to a", "p to b"])
  })

  it.effect("inline", () =>
    Effect.provide(publish, InlineDispatcher.layer([Mail, Enqueue]).pipe(Layer.provide(Live)))
  )
  it.effect("in the background", () =>
    Effect.provide(
      publish,
      InlineDispatcher.layer([Mail, Enqueue], { background: true }).pipe(Layer.provide(Live))
    )
  )
  it.effect("test", () =>
    Effect.provide(publish, TestDispatcher.layerRunning([Mail, Enqueue]).pipe(Layer.provide(Live)))
  )
})
