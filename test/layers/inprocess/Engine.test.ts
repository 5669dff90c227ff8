// The engine in this process, as InlineDispatcher shows it: whose context, which ids, whose time.
import { assert, describe, it } from "@effect/vitest"
import { Clock, Context, Deferred, Effect, Fiber, Layer, Metric, References, Schema, Scheduler } from "effect"
import { type Dispatcher, InlineDispatcher, Job, RetryPolicy } from "effect-jobs"
import { TestClock } from "effect/testing"
import { Activity, DurableClock, DurableDeferred } from "effect/workflow"
import { Steps } from "effect-jobs"

class Task extends Job.make("engine.task", { payload: { n: Schema.Int } }) {}

type Handler = (payload: { readonly n: number }) => Effect.Effect<void, unknown, Job.Provided>

const inline = (handler: Handler, options: InlineDispatcher.Options = {}): Layer.Layer<Dispatcher> =>
  Layer.provide(
    InlineDispatcher.layer([Task], { onError: () => Effect.void, ...options }),
    Task.toLayer(handler)
  )

describe("the context of a run", () => {
  class Tenant extends Context.Service<Tenant, string>()("test/Tenant") {}

  for (const options of [{}, { background: true }]) {
    it.effect(`has nothing of who dispatches but the trace (${JSON.stringify(options)})`, () =>
      Effect.gen(function* () {
        const seen: Array<unknown> = []
        const handler = () =>
          Effect.gen(function* () {
            seen.push(yield* Effect.serviceOption(Tenant))
            seen.push(yield* References.CurrentLogAnnotations)
            seen.push(yield* References.MinimumLogLevel)
            seen.push(yield* Activity.CurrentAttempt)
            seen.push((yield* Effect.currentSpan).traceId)
          })
        const traceId = yield* Effect.gen(function* () {
          const span = yield* Effect.currentSpan
          yield* Task.dispatch({ n: 1 }, { id: "1" })
          yield* Effect.yieldNow
          return span.traceId
        }).pipe(
          Effect.withSpan("caller"),
          Effect.provideService(Tenant, "of the caller"),
          Effect.annotateLogs({ secret: "of the caller" }),
          Effect.provideService(References.MinimumLogLevel, "Fatal"),
          Effect.provideService(Activity.CurrentAttempt, 7),
          Effect.provide(inline(handler, options))
        )
        assert.deepStrictEqual(
          seen,
          [
            { _tag: "None", _id: "Option" } as unknown,
            { job: "engine.task", id: "1", attempt: 1 },
            yield* References.MinimumLogLevel,
            1,
            traceId
          ].map((value, index) => (index === 0 ? seen[0] : value))
        )
        assert.deepInclude(seen[0], { _tag: "None" })
      })
    )
  }

  it.effect("a transaction of the caller's is not the handler's", () =>
    Effect.gen(function* () {
      // a transaction is a service of the surroundings, as `effect/sql` has it
      class Transaction extends Context.Service<Transaction, { writes: number }>()("test/Transaction") {}
      const transaction = { writes: 0 }
      const handler = () =>
        Effect.flatMap(Effect.serviceOption(Transaction), (found) =>
          Effect.sync(() => {
            if (found._tag === "Some") found.value.writes++
          })
        )
      yield* Task.dispatch({ n: 1 }).pipe(
        Effect.provideService(Transaction, transaction),
        Effect.provide(inline(handler))
      )
      assert.strictEqual(transaction.writes, 0)
    })
  )

  it.effect("onFailure and onError continue the trace of the dispatch", () =>
    Effect.gen(function* () {
      const traces: Array<string> = []
      const note = Effect.flatMap(Effect.currentParentSpan, (span) =>
        Effect.sync(() => void traces.push(span.traceId))
      )
      const jobs = Layer.provide(
        InlineDispatcher.layer([Task], { onError: () => note }),
        Task.toLayer(() => Effect.fail("no"), { onFailure: () => note })
      )
      const traceId = yield* Effect.gen(function* () {
        yield* Task.dispatch({ n: 1 })
        return (yield* Effect.currentSpan).traceId
      }).pipe(Effect.withSpan("caller"), Effect.provide(jobs))
      assert.deepStrictEqual(traces, [traceId, traceId])
    })
  )

  it.effect("a caller that can't be interrupted doesn't keep a handler from its time limit", () =>
    Effect.gen(function* () {
      class Limited extends Job.make("engine.limited", { payload: {}, timeout: "1 second" }) {}
      const jobs = Layer.provide(
        InlineDispatcher.layer([Limited], { onError: () => Effect.void }),
        Limited.toLayer(() => Effect.never)
      )
      const fiber = yield* Effect.forkChild(
        Effect.uninterruptible(Limited.dispatch()).pipe(Effect.provide(jobs))
      )
      yield* TestClock.adjust("2 seconds")
      assert.isDefined(fiber.pollUnsafe())
    })
  )
})

describe("JSON", () => {
  class Lists extends Job.make("engine.lists", {
    payload: { data: Schema.Json },
    retry: RetryPolicy.fixed({ attempts: 2, delay: 0 })
  }) {}
  for (const options of [{}, { background: true }]) {
    it.effect(`neither the caller's object nor an attempt's is another's (${JSON.stringify(options)})`, () =>
      Effect.gen(function* () {
        const seen: Array<string> = []
        const data = { list: [1] }
        const jobs = Layer.provide(
          InlineDispatcher.layer([Lists], { onError: () => Effect.void, ...options }),
          Lists.toLayer(
            ({ data }) => {
              seen.push(JSON.stringify(data))
              // sound: it is what the test dispatches
              ;(data as { list: Array<number> }).list.push(2)
              return Effect.fail("again")
            },
            { onFailure: ({ data }) => Effect.sync(() => void seen.push(JSON.stringify(data))) }
          )
        )
        yield* Effect.andThen(Lists.dispatch({ data }), TestClock.adjust("1 second")).pipe(
          Effect.provide(jobs)
        )
        assert.deepStrictEqual(data, { list: [1] })
        assert.deepStrictEqual(seen, ['{"list":[1]}', '{"list":[1]}', '{"list":[1]}'])
      })
    )
  }
})

describe("an id", () => {
  it.effect("a second awaited dispatch of it returns when the run of the first has ended", () =>
    Effect.gen(function* () {
      const release = yield* Deferred.make<void>()
      yield* Effect.gen(function* () {
        const first = yield* Effect.forkChild(Task.dispatch({ n: 1 }, { id: "same" }), {
          startImmediately: true
        })
        const second = yield* Effect.forkChild(Task.dispatch({ n: 1 }, { id: "same" }), {
          startImmediately: true
        })
        yield* TestClock.adjust("1 second")
        assert.isUndefined(second.pollUnsafe())
        yield* Deferred.succeed(release, undefined)
        yield* Fiber.join(second)
        yield* Fiber.join(first)
      }).pipe(Effect.provide(inline(() => Deferred.await(release))))
    })
  )

  it.effect("within its own run it doesn't wait for itself, and twice in one dispatchAll is one run", () =>
    Effect.gen(function* () {
      let runs = 0
      yield* Task.dispatchAll([{ n: 1 }, { n: 2 }], { id: () => "same" }).pipe(
        Effect.provide(
          inline(() =>
            Effect.suspend(() => {
              runs++
              return Effect.orDie(Task.dispatch({ n: 3 }, { id: "same" }))
            })
          )
        )
      )
      assert.strictEqual(runs, 1)
    })
  )

  it.effect("isn't forgotten while its run is delayed for longer than timeToLive", () =>
    Effect.gen(function* () {
      let runs = 0
      yield* Effect.gen(function* () {
        yield* Task.dispatch({ n: 1 }, { id: "same", delay: "2 hours" })
        yield* TestClock.adjust("90 minutes")
        yield* Task.dispatch({ n: 1 }, { id: "same" })
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(runs, 1)
        // an hour after its end it is
        yield* TestClock.adjust("1 hour")
        yield* Task.dispatch({ n: 1 }, { id: "same" })
        assert.strictEqual(runs, 2)
      }).pipe(
        Effect.provide(
          inline(() => Effect.sync(() => void runs++), { deduplication: { timeToLive: "1 hour" } })
        )
      )
    })
  )

  it.effect("isn't forgotten while it runs and many others come, and generated ones need no room", () =>
    Effect.gen(function* () {
      const seen: Array<number> = []
      const release = yield* Deferred.make<void>()
      yield* Effect.gen(function* () {
        yield* Task.dispatch({ n: 0 }, { id: "long" })
        yield* Task.dispatch({ n: 1 }, { id: "short" })
        for (let n = 0; n < 20; n++) yield* Task.dispatch({ n: 100 + n })
        yield* Effect.yieldNow
        yield* Task.dispatch({ n: 1 }, { id: "short" })
        for (let n = 0; n < 20; n++) yield* Task.dispatch({ n: 200 + n }, { id: `${n}` })
        yield* Effect.yieldNow
        yield* Task.dispatch({ n: 0 }, { id: "long" })
        yield* Deferred.succeed(release, undefined)
        yield* TestClock.adjust("1 second")
        assert.strictEqual(seen.filter((n) => n === 0).length, 1)
        assert.strictEqual(seen.filter((n) => n === 1).length, 1)
      }).pipe(
        Effect.provide(
          inline(
            ({ n }) =>
              Effect.andThen(
                Effect.sync(() => void seen.push(n)),
                n === 0 ? Deferred.await(release) : Effect.void
              ),
            { background: true, concurrency: 100, deduplication: { capacity: 5 } }
          )
        )
      )
    })
  )

  it.effect("is free again in whatever operation its dispatch is interrupted, and the gauge is down", () =>
    Effect.gen(function* () {
      const base = yield* Scheduler.Scheduler
      let target: Fiber.Fiber<unknown, unknown> | undefined
      let left = 0
      // of the dispatch and of the worker: it interrupts the dispatch's fiber in one of its operations
      const scheduler: Scheduler.Scheduler = {
        executionMode: base.executionMode,
        makeDispatcher: () => base.makeDispatcher(),
        shouldYield: (fiber) => {
          if (fiber === target && left-- === 0) target.interruptUnsafe()
          return false
        }
      }
      const runs: Array<number> = []
      const dispatch = Effect.withFiber((fiber) => {
        target = fiber
        return Task.dispatch({ n: 1 }, { id: "same" })
      })
      const exits = yield* Effect.gen(function* () {
        const exits: Array<string> = []
        for (let at = 0; at < 300 && exits.at(-1) !== "Success"; at++) {
          left = at
          const fiber = yield* Effect.forkChild(dispatch)
          exits.push((yield* Fiber.await(fiber))._tag)
          target = undefined
        }
        return exits
      }).pipe(
        Effect.provide(inline(({ n }) => Effect.sync(() => void runs.push(n)))),
        Effect.provideService(Scheduler.Scheduler, scheduler)
      )
      // every interrupted one left the id free, so that the last one could run
      assert.isAbove(exits.length, 20)
      assert.strictEqual(exits.at(-1), "Success")
      const inFlight = (yield* Metric.snapshot).filter(({ id }) => id === "effect_jobs_in_flight")
      assert.deepStrictEqual(
        inFlight.map(({ state }) => state),
        [{ value: 0 }]
      )
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map()))
  )
})

describe("dispatches from within a run", () => {
  class Parent extends Job.make("engine.parent", {
    payload: { depth: Schema.Int },
    timeout: "1 second"
  }) {}
  class Child extends Job.make("engine.child", { payload: {} }) {}

  it.effect("aren't counted in the time limit of the run, and the outermost dispatch waits for them", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const jobs = InlineDispatcher.layer([Parent, Child], {
        onError: (error) => Effect.sync(() => void seen.push(error.message))
      }).pipe(
        Layer.provide([
          Parent.toLayer(() =>
            Effect.andThen(
              Effect.orDie(Child.dispatch()),
              Effect.sync(() => void seen.push("parent"))
            )
          ),
          Child.toLayer(() =>
            Effect.andThen(
              Effect.sleep("1 minute"),
              Effect.sync(() => void seen.push("child"))
            )
          )
        ])
      )
      const fiber = yield* Effect.forkChild(Parent.dispatch({ depth: 0 }).pipe(Effect.provide(jobs)))
      yield* TestClock.adjust("30 seconds")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("31 seconds")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(seen, ["parent", "child"])
    })
  )

  it.effect("may go on for ten thousand runs, each with a time limit", () =>
    Effect.gen(function* () {
      let runs = 0
      const jobs = Layer.provide(
        InlineDispatcher.layer([Parent]),
        Parent.toLayer(({ depth }) =>
          Effect.suspend(() => {
            runs++
            return depth === 0
              ? Effect.void
              : Effect.asVoid(Effect.orDie(Parent.dispatch({ depth: depth - 1 })))
          })
        )
      )
      yield* Parent.dispatch({ depth: 10_000 }).pipe(Effect.provide(jobs))
      assert.strictEqual(runs, 10_001)
    })
  )

  it.effect("are interrupted with the outermost dispatch", () =>
    Effect.gen(function* () {
      let released = 0
      const jobs = Layer.provide(InlineDispatcher.layer([Parent, Child]), [
        Parent.toLayer(() => Effect.asVoid(Effect.orDie(Child.dispatch()))),
        Child.toLayer(() => Effect.onInterrupt(Effect.never, () => Effect.sync(() => void released++)))
      ])
      const fiber = yield* Effect.forkChild(Parent.dispatch({ depth: 0 }).pipe(Effect.provide(jobs)))
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(released, 1)
    })
  )
})

describe("a run that waits", () => {
  const Approval = DurableDeferred.make("approval", { success: Schema.String })
  class Approved extends Job.make("engine.approved", { payload: {} }) {}

  it.effect("gives its place to others: ten approvals stop nothing", () =>
    Effect.gen(function* () {
      const tokens: Array<DurableDeferred.Token> = []
      const seen: Array<string> = []
      let atOnce = 0
      let most = 0
      const jobs = InlineDispatcher.layer([Approved, Task], { background: true, concurrency: 2 }).pipe(
        Layer.provide([
          Approved.toLayer(() =>
            Effect.gen(function* () {
              tokens.push(yield* DurableDeferred.token(Approval))
              const answers = yield* Effect.all(
                [
                  DurableDeferred.await(Approval),
                  Effect.as(DurableClock.sleep({ name: "a day", duration: "1 day" }), "slept"),
                  Effect.as(DurableClock.sleep({ name: "a minute", duration: "1 minute" }), "slept")
                ],
                { concurrency: "unbounded" }
              )
              most = Math.max(most, ++atOnce)
              yield* Effect.sleep("1 second")
              atOnce--
              seen.push(answers.join(" "))
            })
          ),
          Task.toLayer(() => Effect.sync(() => void seen.push("task")))
        ])
      )
      yield* Effect.gen(function* () {
        for (let n = 0; n < 10; n++) yield* Approved.dispatch()
        yield* TestClock.adjust("1 second")
        yield* Task.dispatch({ n: 1 })
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(seen, ["task"])
        yield* TestClock.adjust("1 day")
        for (const token of tokens) {
          yield* DurableDeferred.succeed(Approval, { token, value: "yes" }).pipe(Effect.provide(Steps.layer))
        }
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(tokens.length, 10)
        assert.strictEqual(seen.filter((line) => line === "yes slept slept").length, 10)
        // they go on within the concurrency
        assert.strictEqual(most, 2)
      }).pipe(Effect.provide(jobs))
    })
  )
})

describe("an awaited run that waits", () => {
  it.effect("takes no place from those in the background", () =>
    Effect.gen(function* () {
      let done = 0
      class Sleeps extends Job.make("engine.sleeps", { payload: {} }) {}
      const jobs = InlineDispatcher.layer([Sleeps], { concurrency: 2 }).pipe(
        Layer.provide(
          Sleeps.toLayer(() =>
            Effect.andThen(
              DurableClock.sleep({ name: "an hour", duration: "1 hour" }),
              Effect.sync(() => void done++)
            )
          )
        )
      )
      yield* Effect.gen(function* () {
        for (let n = 1; n <= 4; n++) {
          const fiber = yield* Effect.forkChild(Sleeps.dispatch())
          yield* TestClock.adjust("61 minutes")
          yield* Fiber.join(fiber)
          assert.strictEqual(done, n)
        }
      }).pipe(Effect.provide(jobs))
    })
  )
})

describe("closing", () => {
  it.live("isn't held by a run that ignores its interruption, and says so", () =>
    Effect.gen(function* () {
      const scope = yield* Effect.scope
      const context = yield* Layer.buildWithScope(
        inline(() => Effect.uninterruptible(Effect.never), {
          background: true,
          shutdownTimeout: "50 millis"
        }),
        scope
      )
      yield* Effect.provide(Task.dispatch({ n: 1 }), context)
    }).pipe(Effect.scoped)
  )

  it.effect("in a test with a run that sleeps ends by itself", () =>
    Effect.gen(function* () {
      yield* Task.dispatch({ n: 1 })
      yield* Effect.yieldNow
    }).pipe(Effect.provide(inline(() => Effect.sleep("1 hour"), { background: true })))
  )
})

describe("a time limit", () => {
  class Slow extends Job.make("engine.slow", { payload: {}, timeout: "1 second", retry: { attempts: 3 } }) {}
  const slow = (handler: () => Effect.Effect<void, unknown, Job.Provided>, failures: Array<string>) =>
    Layer.provide(
      InlineDispatcher.layer([Slow], {
        onError: (error) => Effect.sync(() => void failures.push(error.message))
      }),
      Slow.toLayer(handler)
    )

  const shapes: Readonly<
    Record<string, (note: (what: string) => Effect.Effect<void>) => Effect.Effect<void, never, any>>
  > = {
    "a finalizer of its Scope": (note) =>
      Effect.andThen(
        Effect.addFinalizer(() => Effect.sleep("5 seconds")),
        note("done")
      ),
    "a finalizer of its own": (note) => Effect.ensuring(note("done"), Effect.sleep("5 seconds")),
    "a release": (note) =>
      Effect.acquireUseRelease(
        Effect.void,
        () => note("done"),
        () => Effect.sleep("5 seconds")
      ),
    "what is uninterruptible": (note) =>
      Effect.uninterruptible(Effect.andThen(Effect.sleep("5 seconds"), note("done")))
  }
  for (const [what, handler] of Object.entries(shapes)) {
    it.effect(`doesn't count ${what}: it has succeeded, once`, () =>
      Effect.gen(function* () {
        const done: Array<string> = []
        const failures: Array<string> = []
        const note = (what: string) => Effect.sync(() => void done.push(what))
        const fiber = yield* Effect.forkChild(
          Slow.dispatch().pipe(Effect.provide(slow(() => handler(note), failures)))
        )
        yield* TestClock.adjust("1 minute")
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(done, ["done"])
        assert.deepStrictEqual(failures, [])
      })
    )
  }

  it.effect("interrupts what goes on after an uninterruptible part", () =>
    Effect.gen(function* () {
      const failures: Array<string> = []
      let attempts = 0
      const handler = () =>
        Effect.andThen(
          Effect.uninterruptible(
            Effect.andThen(
              Effect.sync(() => void attempts++),
              Effect.sleep("2 seconds")
            )
          ),
          Effect.never
        )
      const fiber = yield* Effect.forkChild(Slow.dispatch().pipe(Effect.provide(slow(handler, failures))))
      yield* TestClock.adjust("1 hour")
      yield* Fiber.join(fiber)
      assert.strictEqual(attempts, 3)
      assert.include(failures[0], "it took longer than its timeout of 1s")
    })
  )

  it.effect("is measured by the clock of the worker", () =>
    Effect.gen(function* () {
      const failures: Array<string> = []
      const started = yield* Clock.currentTimeMillis
      const fiber = yield* Effect.forkChild(
        Slow.dispatch().pipe(Effect.provide(slow(() => Effect.never, failures)))
      )
      yield* TestClock.adjust("10 minutes")
      yield* Fiber.join(fiber)
      assert.isAtLeast(yield* Clock.currentTimeMillis, started)
      assert.strictEqual(failures.length, 1)
    })
  )
})
