// Inngest's own: what the conformance suite doesn't ask, on a real server.
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Layer, Redacted, Schema } from "effect"
import { DispatchError, Job, RetryPolicy } from "effect-jobs"
import { InngestClient, InngestDispatcher, InngestWorker } from "effect-jobs/inngest"
import * as Inngest from "../support/Inngest.ts"
import { eventually } from "../support/eventually.ts"
import { holds, journalOf, startChild, toldOf } from "../support/inngestFaults.ts"
import * as Child from "../support/inngestChild.ts"
import { freePort } from "../support/freePort.ts"
import { onInngest } from "../support/needs.ts"
import * as Redis from "../support/Redis.ts"

class Refused extends Schema.TaggedError<Refused>()("Refused", { code: Schema.Int, at: Schema.Date }) {}

class Delays extends Job.make("inngest.delays", {
  payload: { n: Schema.Int },
  retry: RetryPolicy.exponential({ attempts: 4, initialDelay: "1 second" })
}) {}
class Strict extends Job.make("inngest.strict", {
  payload: { email: Schema.String, tags: Schema.Array(Schema.Int) },
  success: Schema.Struct({ at: Schema.Date }),
  error: Refused,
  retry: RetryPolicy.fixed<Refused>({ attempts: 5, delay: "1 second", while: () => false })
  // with checkpointing on, this server's REST API shows a completed run without its output
}).annotate(InngestWorker.FunctionOptions, { checkpointing: false }) {}
class Big extends Job.make("inngest.big", { payload: { text: Schema.String } }) {}

const handlers = (seen: Array<readonly [string, unknown, number]>) => {
  const note = (what: string, payload: unknown) =>
    Effect.map(Clock.currentTimeMillis, (now) => void seen.push([what, payload, now]))
  return Layer.mergeAll(
    Delays.toLayer((payload) => Effect.andThen(note("delays", payload), Effect.fail("always"))),
    Strict.toLayer((payload) =>
      Effect.andThen(
        note("strict", payload),
        payload.email === "refused"
          ? Effect.fail(new Refused({ code: 42, at: new Date(0) }))
          : Effect.succeed({ at: new Date(0) })
      )
    ),
    Big.toLayer((payload) => note("big", payload.text.length))
  )
}

const jobs = [Delays, Strict, Big] as const

/** An app of its own on this server, and what its handlers saw. */
const app = (server: Inngest.Server, client: Layer.Layer<InngestClient> = Inngest.client(server)) =>
  Effect.gen(function* () {
    const seen: Array<readonly [string, unknown, number]> = []
    const context = yield* Layer.build(
      Inngest.overHttp(jobs, { onError: () => Effect.void }).pipe(
        Layer.provide(handlers(seen)),
        Layer.provideMerge(InngestDispatcher.layer),
        Layer.provideMerge(client)
      )
    )
    return { seen, context }
  })

onInngest("Inngest", () => {
  describe("Inngest", { concurrent: true }, () => {
    it.live("a policy's delays of 1, 2, 4 s are the server's", () =>
      Effect.gen(function* () {
        const server = yield* Inngest.make(["dev"])
        const { context, seen } = yield* app(server)
        const ns = [1, 2, 3, 4, 5]
        yield* Effect.forEach(ns, (n) => Effect.andThen(Delays.dispatch({ n }), Effect.sleep(210)), {
          discard: true
        }).pipe(Effect.provideContext(context))
        yield* holds(() => assert.strictEqual(seen.length, 4 * ns.length))
        const apart = ns.map((n) => {
          // sound: the handler notes its payload
          const times = seen.flatMap(([, payload, time]) =>
            (payload as typeof Delays.payloadSchema.Type).n === n ? [time] : []
          )
          return times.slice(1).map((time, index) => time - (times[index] ?? 0))
        })
        for (const [index, delay] of [1000, 2000, 4000].entries()) {
          for (const delays of apart) assert.isAtLeast(delays[index] ?? Number.NaN, delay)
        }
      })
    )

    it.live(
      "a hand-made event that doesn't decode never reaches the handler, isn't retried, and its run says why",
      () =>
        Effect.gen(function* () {
          const server = yield* Inngest.make(["dev"])
          const { seen } = yield* app(server)
          const send = (data: unknown) =>
            Effect.promise(async () => {
              const response = await fetch(`${server.url}/e/key`, {
                method: "POST",
                headers: { "content-type": "application/json" },
                body: JSON.stringify({ name: Strict.jobName, data })
              })
              // sound: the answer of this endpoint
              const { ids = [] } = (await response.json()) as { readonly ids?: ReadonlyArray<string> }
              return { status: response.status, id: ids[0] ?? "" }
            })
          const endOf = (data: unknown, status: string) =>
            Effect.gen(function* () {
              const { id } = yield* send(data)
              return yield* holds(async () => {
                const [run] = await Inngest.runsOf(server, id)
                assert.strictEqual(run?.status, status)
                assert.isNotEmpty(run?.output)
                return JSON.stringify(run?.output)
              })
            })
          // data that isn't an object: the server itself refuses it, but for null
          for (const data of ["text", [1, 2], 7]) {
            assert.strictEqual((yield* send(data)).status, 400)
          }
          const [good, ...outputs] = yield* Effect.all(
            [
              endOf({ email: "a", tags: [1] }, "Completed"),
              ...[{ email: 7, tags: [] }, { email: "a", tags: [1, "2"] }, { tags: [] }, null].map((data) =>
                endOf(data, "Failed")
              )
            ],
            { concurrency: "unbounded" }
          )
          assert.match(outputs[0] ?? "", /invalid payload.*at \\"email\\"/)
          assert.match(outputs[1] ?? "", /at \\"tags\[1\]\\"/)
          assert.match(outputs[2] ?? "", /at \\"email\\"/)
          for (const output of outputs) assert.match(output, /invalid payload/)
          assert.strictEqual(good, JSON.stringify({ at: "1970-01-01T00:00:00.000Z" }))
          assert.deepStrictEqual(
            seen.map(([, payload]) => payload),
            [{ email: "a", tags: [1] }]
          )
        })
    )

    it.live("a typed error keeps its fields on the server", () =>
      Effect.gen(function* () {
        const server = yield* Inngest.make(["dev"])
        const { context, seen } = yield* app(server)
        const { client } = yield* Effect.provideContext(InngestClient, context)
        const { ids } = yield* Effect.promise(() =>
          client.send({ name: Strict.jobName, data: { email: "refused", tags: [] } })
        )
        // the server says that a run has failed a moment before it shows with what
        const { cause } = yield* holds(async () => {
          const [run] = await Inngest.runsOf(server, ids[0] ?? "")
          assert.strictEqual(run?.status, "Failed")
          return Schema.decodeUnknownSync(
            Schema.Struct({ cause: Schema.Struct({ failure: Schema.Json, reason: Schema.String }) })
          )(run?.output)
        })
        assert.strictEqual(cause.reason, "NotRetryable")
        assert.deepStrictEqual(cause.failure, {
          _tag: "Refused",
          code: 42,
          at: "1970-01-01T00:00:00.000Z"
        })
        assert.strictEqual(seen.length, 1)
      })
    )

    it.live("keys: an unsigned request is refused and runs nothing, a wrong event key is Rejected", () =>
      Effect.gen(function* () {
        const server = yield* Inngest.make(["start", ...Inngest.keys])
        const signed = Inngest.client(server, {
          isDev: false,
          eventKey: Inngest.eventKey,
          signingKey: Inngest.signingKey
        })
        const { context, seen } = yield* app(server, signed)
        yield* Effect.provideContext(Strict.dispatch({ email: "a", tags: [] }), context)
        yield* holds(() => assert.strictEqual(seen.length, 1))

        const { handler, dispose } = InngestWorker.toWebHandler(
          jobs,
          Layer.mergeAll(handlers(seen), InngestDispatcher.layer).pipe(Layer.provideMerge(signed)),
          { origin: "http://127.0.0.1:9" }
        )
        const response = yield* Effect.promise(() =>
          handler(
            new Request(`http://127.0.0.1/api/inngest?fnId=x-${Strict.jobName}&stepId=step`, {
              method: "POST",
              headers: { host: "127.0.0.1", "content-type": "application/json" },
              body: JSON.stringify({ event: { name: Strict.jobName, data: { email: "b", tags: [] } } })
            })
          )
        )
        assert.strictEqual(response.status, 401)
        yield* Effect.promise(dispose)
        assert.strictEqual(seen.length, 1)

        const wrong = InngestDispatcher.layer.pipe(
          Layer.provide(
            Inngest.client(server, {
              isDev: false,
              eventKey: Redacted.make("not-the-key"),
              signingKey: Inngest.signingKey
            })
          )
        )
        const error = yield* Effect.flip(
          Strict.dispatch({ email: "a", tags: [] }).pipe(Effect.provide(wrong))
        )
        assert.instanceOf(error, DispatchError)
        assert(error.reason._tag === "Rejected")
        assert.strictEqual(error.reason.status, 401)
        assert.notInclude(error.message, "not-the-key")
      })
    )

    it.live("the server is down: Unavailable", () =>
      Effect.gen(function* () {
        const port = yield* freePort
        const error = yield* Effect.flip(
          Strict.dispatch({ email: "a", tags: [] }).pipe(
            Effect.provide(InngestDispatcher.layer),
            Effect.provide(Inngest.client({ url: `http://127.0.0.1:${port}` }))
          )
        )
        assert.strictEqual(error.reason._tag, "Unavailable")
        assert.isTrue(error.isRetryable)
      })
    )

    it.live(
      "limits: a payload over 3 MiB is refused before it is sent, and a batch is as few requests as they allow",
      () =>
        Effect.gen(function* () {
          const server = yield* Inngest.make(["dev"])
          let requests = 0
          const { context, seen } = yield* app(
            server,
            Inngest.client(server, {
              fetch: (...args) => {
                const [url] = args
                if (typeof url === "string" && url.includes("/e/")) requests++
                return fetch(...args)
              }
            })
          )
          const run = Effect.provideContext(
            Effect.gen(function* () {
              const error = yield* Effect.flip(Big.dispatch({ text: "x".repeat(3 * 1024 * 1024) }))
              assert(error.reason._tag === "PayloadTooLarge")
              assert.strictEqual(error.reason.limit, 3 * 1024 * 1024)
              assert.isAbove(error.reason.size, 3 * 1024 * 1024)
              assert.strictEqual(requests, 0)
              // the largest that is let through is taken
              yield* Big.dispatch({ text: "x".repeat(3 * 1024 * 1024 - 400) })
              assert.strictEqual(requests, 1)
              yield* Big.dispatchAll(Array.from({ length: 1_000 }, () => ({ text: "x" })))
              assert.strictEqual(requests, 2)
              // together more than 3 MiB
              yield* Big.dispatchAll(
                Array.from({ length: 7 }, () => ({ text: "x".repeat(1024 * 1024 - 400) }))
              )
              assert.strictEqual(requests, 5)
            }),
            context
          )
          yield* run
          yield* holds(() => assert.strictEqual(seen.length, 1_008))
        })
    )

    for (const transport of ["http", "connect"] as const) {
      it.live(`${transport}: the worker is killed in a run, and in its only attempt`, () =>
        Effect.gen(function* () {
          const server = yield* Inngest.make(["dev"])
          const told = yield* toldOf(server, { transport })
          const { journal } = told
          const first = yield* startChild(told)
          yield* Inngest.knows(server, Child.Work)
          const start = yield* Clock.currentTimeMillis
          yield* Effect.all([
            Child.Work.dispatch({ n: 1, ms: 60_000 }),
            Child.Only.dispatch({ n: 2, ms: 60_000 })
          ]).pipe(
            Effect.provide(InngestDispatcher.layer),
            Effect.provide(Inngest.client(server, { id: "faults" }))
          )
          yield* holds(() => assert.strictEqual(journalOf(journal).length, 2))
          yield* Effect.promise(first.kill)
          yield* startChild(told)
          yield* holds(() => assert.include(journalOf(journal).join("\n"), "ended fault.work 1"))
          const again = (yield* Clock.currentTimeMillis) - start
          yield* holds(() => assert.include(journalOf(journal).join("\n"), "failed fault.only 2"))
          const lines = journalOf(journal)
          console.log(`${transport}: ran again after ${again} ms: ${lines.join(", ")}`)
          const attempts = lines
            .filter((line) => line.startsWith("began fault.work"))
            .map((line) => Number(line.split(" ")[3]))
          // once each, from 1
          assert.deepStrictEqual(
            attempts,
            attempts.map((_, index) => index + 1)
          )
          assert.strictEqual(attempts.length, 2)
          assert.strictEqual(lines.filter((line) => line.startsWith("began fault.only")).length, 1)
          assert.strictEqual(lines.filter((line) => line.startsWith("failed fault.only")).length, 1)
        })
      )
    }

    it.live.skipIf(!Redis.hasRedis)(
      Redis.hasRedis
        ? "the server is killed and started again: no accepted job is lost, also not a delayed one"
        : Redis.missing,
      () =>
        Effect.gen(function* () {
          const redis = yield* Redis.make
          const server = yield* Inngest.make([
            "start",
            ...Inngest.keys,
            "--redis-uri",
            `redis://127.0.0.1:${redis.port}`
          ])
          const { context, seen } = yield* app(
            server,
            Inngest.client(server, {
              isDev: false,
              eventKey: Inngest.eventKey,
              signingKey: Inngest.signingKey
            })
          )
          yield* Effect.provideContext(
            Effect.gen(function* () {
              // told apart by their lengths, 1 to 70
              const texts = Array.from({ length: 70 }, (_, index) => ({ text: "a".repeat(index + 1) }))
              yield* Big.dispatchAll(texts.slice(0, 50))
              yield* Big.dispatchAll(texts.slice(50), { delay: "20 seconds" })
            }),
            context
          )
          // the server answers before it has written an event down (docs/inngest.md), how long before is the machine's doing
          yield* eventually(
            Effect.promise(() => Inngest.written(server, Big.jobName, true)),
            (written) => written === 70
          )
          yield* Effect.promise(server.kill)
          const before = seen.length
          yield* Effect.sleep("2 seconds")
          yield* Effect.promise(server.start)
          yield* holds(() => assert.strictEqual(new Set(seen.map(([, length]) => length)).size, 70))
          yield* Effect.sleep("3 seconds")
          console.log(
            `${before} had run when the server was killed, ${seen.length} runs of 70 jobs in the end`
          )
          // none of the delayed was in flight when the server was killed
          assert.strictEqual(seen.filter(([, length]) => Number(length) > 50).length, 20)
        })
    )
  })
})
