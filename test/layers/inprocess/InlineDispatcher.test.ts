import { assert, describe, it } from "@effect/vitest"
import { type Outcome, type Dispatcher, InlineDispatcher, Job, RetryPolicy } from "effect-jobs"
import { Deferred, Effect, Exit, Fiber, Layer, Logger, Schema, Scope } from "effect"
import { TestClock } from "effect/testing"
import { Ping, PingLive } from "../../support/mutual/Ping.ts"
import { Pong, PongLive } from "../../support/mutual/Pong.ts"

/** A job whose handler the test gives. */
class Task extends Job.make("inline.task", {
  payload: { n: Schema.Int },
  retry: RetryPolicy.fixed({ attempts: 3, delay: "1 second" })
}) {}
const task = (
  handler: (n: number) => Effect.Effect<void, unknown>,
  options?: InlineDispatcher.Options
): Layer.Layer<Dispatcher> =>
  InlineDispatcher.layer([Task], options).pipe(Layer.provide(Task.toLayer(({ n }) => handler(n))))

/** What is logged at the levels that matter here. */
const captureLogs = () => {
  const logs: Array<string> = []
  const layer = Logger.layer([
    Logger.make(({ logLevel, message }) => {
      logs.push(`${logLevel}: ${String(message)}`)
    })
  ])
  return { logs, layer }
}

/** The dispatcher's Layer, closed by hand. */
const open = (layer: Layer.Layer<Dispatcher>) =>
  Effect.gen(function* () {
    const scope = yield* Scope.make()
    const context = yield* Layer.buildWithScope(layer, scope)
    return {
      dispatch: (n: number, options?: Parameters<typeof Task.dispatch>[1]) =>
        Effect.provideContext(Task.dispatch({ n }, options), context),
      close: Scope.close(scope, Exit.void)
    }
  })

describe("awaited", () => {
  it.effect("dispatch returns after the job has run, retries included", () => {
    let runs = 0
    return Effect.gen(function* () {
      const fiber = yield* Effect.forkChild(Task.dispatch({ n: 1 }))
      yield* TestClock.adjust("1999 millis")
      assert.strictEqual(runs, 2)
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      assert.strictEqual((yield* Fiber.join(fiber)).name, "inline.task")
      assert.strictEqual(runs, 3)
    }).pipe(
      Effect.provide(task(() => Effect.suspend(() => (++runs < 3 ? Effect.fail("again") : Effect.void))))
    )
  })

  it.effect("a failed job doesn't fail the dispatch: it goes to onError, with the job", () => {
    const errors: Array<readonly [Outcome.JobFailed, Job.Any | undefined]> = []
    return Effect.gen(function* () {
      const fiber = yield* Effect.forkChild(Task.dispatch({ n: 1 }, { id: "one" }))
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual((yield* Fiber.join(fiber)).id, "one")
      const [[error, job] = []] = errors
      assert.strictEqual(errors.length, 1)
      assert.strictEqual(job, Task)
      assert.strictEqual(
        error?.message,
        `"inline.task" (id one) failed in all of its 3 attempts, the last time with: no mail server.`
      )
    }).pipe(
      Effect.provide(
        task(() => Effect.fail(new Error("no mail server")), {
          onError: (error, job) => Effect.sync(() => errors.push([error, job]))
        })
      )
    )
  })

  it.effect("onError logs at error level by default, and its own failure goes no further", () =>
    Effect.gen(function* () {
      const { layer, logs } = captureLogs()
      for (const options of [{}, { onError: () => Effect.die("onError is broken") }]) {
        const fiber = yield* Effect.forkChild(
          Task.dispatch({ n: 1 }, { id: "one" }).pipe(
            Effect.provide(task(() => Effect.fail("no"), options).pipe(Layer.provideMerge(layer)))
          )
        )
        yield* TestClock.adjust("2 seconds")
        yield* Fiber.join(fiber)
      }
      assert.deepStrictEqual(
        logs.filter((log) => !log.startsWith("Warn")).map((log) => log.slice(0, 76)),
        [
          `Error: "inline.task" (id one) failed in all of its 3 attempts, the last time`,
          `Error: The onError of InlineDispatcher.layer failed itself for "inline.task"`
        ]
      )
    })
  )

  it.effect("an unlisted job says so by name, and never waits", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Ping.dispatch({ left: 1 }))
      assert.strictEqual(error.reason._tag, "UnknownJob")
      assert.strictEqual(
        error.message,
        `"mutual.ping" is not in the list of jobs given to InlineDispatcher.layer: add it there, with its handler.`
      )
    }).pipe(Effect.provide(task(() => Effect.void)))
  )

  it.effect(
    "interrupting the caller interrupts the job and runs its finalizers; the id is free again",
    () => {
      const seen: Array<string> = []
      return Effect.gen(function* () {
        const fiber = yield* Effect.forkChild(Task.dispatch({ n: 1 }, { id: "same" }), {
          startImmediately: true
        })
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(seen, ["start", "end"])
        const again = yield* Effect.forkChild(Task.dispatch({ n: 1 }, { id: "same" }), {
          startImmediately: true
        })
        yield* Fiber.interrupt(again)
        assert.deepStrictEqual(seen, ["start", "end", "start", "end"])
      }).pipe(
        Effect.provide(
          task(() =>
            Effect.acquireUseRelease(
              Effect.sync(() => seen.push("start")),
              () => Effect.never,
              () => Effect.sync(() => seen.push("end"))
            )
          )
        )
      )
    }
  )

  it.effect("dispatchAll runs up to `concurrency` at once", () => {
    let running = 0
    let most = 0
    return Effect.gen(function* () {
      const fiber = yield* Effect.forkChild(Task.dispatchAll(Array.from({ length: 10 }, (_, n) => ({ n }))))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* Fiber.join(fiber)).length, 10)
      assert.strictEqual(most, 4)
    }).pipe(
      Effect.provide(
        task(
          () =>
            Effect.gen(function* () {
              most = Math.max(most, ++running)
              yield* Effect.sleep("1 second")
              running--
            }),
          { concurrency: 4 }
        )
      )
    )
  })

  it.effect("two jobs of different files may dispatch each other", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const dispatch = Effect.provide(
        Ping.dispatch({ left: 3 }),
        InlineDispatcher.layer([Ping, Pong]).pipe(Layer.provide([PingLive(seen), PongLive(seen)]))
      )
      yield* dispatch
      assert.deepStrictEqual(seen, ["ping 3", "pong 2", "ping 1", "pong 0"])
    })
  )
})

describe("in the background", () => {
  it.effect("dispatch returns before the run, and `concurrency` bounds the runs", () => {
    let running = 0
    let most = 0
    let done = 0
    return Effect.gen(function* () {
      yield* Task.dispatchAll(Array.from({ length: 25 }, (_, n) => ({ n })))
      assert.strictEqual(done, 0)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(done, 3)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(done, 25)
      assert.strictEqual(most, 3)
    }).pipe(
      Effect.provide(
        task(
          () =>
            Effect.gen(function* () {
              most = Math.max(most, ++running)
              yield* Effect.sleep("1 second")
              running--
              done++
            }),
          { background: true, concurrency: 3 }
        )
      )
    )
  })

  it.effect("a delayed dispatch is there even when others are awaited", () => {
    const seen: Array<number> = []
    return Effect.gen(function* () {
      yield* Task.dispatch({ n: 1 }, { delay: "1 minute" })
      yield* Task.dispatch({ n: 2 })
      assert.deepStrictEqual(seen, [2])
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(seen, [2, 1])
    }).pipe(Effect.provide(task((n) => Effect.sync(() => seen.push(n)))))
  })

  it.effect("closing waits for what runs and what is due", () =>
    Effect.gen(function* () {
      let done = 0
      const { close, dispatch } = yield* open(
        task(
          () =>
            Effect.andThen(
              Effect.sleep("5 seconds"),
              Effect.sync(() => done++)
            ),
          {
            background: true,
            concurrency: 1
          }
        )
      )
      yield* dispatch(1)
      yield* dispatch(2)
      const closing = yield* Effect.forkChild(close, { startImmediately: true })
      yield* TestClock.adjust("9 seconds")
      assert.isUndefined(closing.pollUnsafe())
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(closing)
      assert.strictEqual(done, 2)
      const error = yield* Effect.flip(dispatch(3))
      assert.strictEqual(
        error.message,
        `"inline.task" couldn't be dispatched now, InlineDispatcher.layer is unavailable: its scope is closed.`
      )
      assert.isTrue(error.isRetryable)
    })
  )

  it.effect("closing interrupts after shutdownTimeout, and says how many", () =>
    Effect.gen(function* () {
      let interrupted = 0
      const { layer, logs } = captureLogs()
      const { close, dispatch } = yield* open(
        task(() => Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted++)), {
          background: true,
          shutdownTimeout: "100 millis"
        }).pipe(Layer.provideMerge(layer))
      )
      yield* dispatch(1)
      // in live time: nobody moves the TestClock while a scope closes
      yield* Effect.provide(close, layer)
      assert.strictEqual(interrupted, 1)
      assert.deepStrictEqual(logs, [
        "Warn: InlineDispatcher.layer closed while 1 run went on after its shutdownTimeout of 100ms: it is interrupted."
      ])
    })
  )

  it.effect("closing doesn't wait for delays and retries: they are lost, and counted", () =>
    Effect.gen(function* () {
      const { layer, logs } = captureLogs()
      let runs = 0
      const { close, dispatch } = yield* open(
        task(
          () =>
            Effect.andThen(
              Effect.sync(() => runs++),
              Effect.fail("again")
            ),
          { background: true }
        ).pipe(Layer.provideMerge(layer))
      )
      yield* dispatch(1)
      yield* dispatch(2, { delay: "1 hour" })
      yield* Effect.yieldNow
      yield* Effect.provide(close, layer)
      assert.strictEqual(runs, 1)
      assert.deepStrictEqual(logs.slice(1), [
        "Warn: InlineDispatcher.layer closed with 2 runs still waiting for their time or their retry: they are lost."
      ])
    })
  )

  it.effect("a job that runs while the scope closes may still dispatch", () =>
    Effect.gen(function* () {
      const seen: Array<number> = []
      const release = yield* Deferred.make<void>()
      const { close, dispatch } = yield* open(
        InlineDispatcher.layer([Task], { background: true }).pipe(
          Layer.provide(
            Task.toLayer(({ n }) =>
              Effect.gen(function* () {
                yield* Deferred.await(release)
                seen.push(n)
                if (n > 0) yield* Task.dispatch({ n: n - 1 })
              })
            )
          )
        )
      )
      yield* dispatch(2)
      const closing = yield* Effect.forkChild(close, { startImmediately: true })
      yield* Deferred.succeed(release, undefined)
      yield* Fiber.join(closing)
      assert.deepStrictEqual(seen, [2, 1, 0])
    })
  )
})

describe("ids", () => {
  const counted = (deduplication: NonNullable<InlineDispatcher.Options["deduplication"]>) => {
    const seen: Array<number> = []
    return { seen, layer: task((n) => Effect.sync(() => seen.push(n)), { deduplication }) }
  }

  it.effect("are remembered up to a number", () => {
    const { layer, seen } = counted({ capacity: 2 })
    return Effect.gen(function* () {
      const ids = ["a", "b", "a", "b", "c", "d", "e", "a"]
      for (const [n, id] of ids.entries()) yield* Task.dispatch({ n }, { id })
      // the last two and up to two more are remembered: with e there is no a any more
      assert.deepStrictEqual(seen, [0, 1, 4, 5, 6, 7])
    }).pipe(Effect.provide(layer))
  })

  it.effect("are remembered up to a time", () => {
    const { layer, seen } = counted({ timeToLive: "1 hour" })
    return Effect.gen(function* () {
      yield* Task.dispatch({ n: 1 }, { id: "a" })
      yield* TestClock.adjust("59 minutes")
      yield* Task.dispatch({ n: 2 }, { id: "a" })
      yield* TestClock.adjust("1 minute")
      yield* Task.dispatch({ n: 3 }, { id: "a" })
      assert.deepStrictEqual(seen, [1, 3])
    }).pipe(Effect.provide(layer))
  })
})

describe("options that can't be", () => {
  const refused: ReadonlyArray<readonly [InlineDispatcher.Options, string]> = [
    [
      { concurrency: 0 },
      "The concurrency of InlineDispatcher.layer must be an integer of at least 1, not 0."
    ],
    [
      { shutdownTimeout: -1 },
      "The shutdownTimeout of InlineDispatcher.layer must be a duration of 0 to 36525 days, not -1."
    ],
    [
      { deduplication: { capacity: 0.5 } },
      "The deduplication.capacity of InlineDispatcher.layer must be an integer of at least 1, not 0.5."
    ]
  ]
  for (const [options, sentence] of refused) {
    it.effect(JSON.stringify(options), () =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(Effect.scoped(Layer.build(task(() => Effect.void, options))))
        assert.include(String(exit), sentence)
      })
    )
  }
})
