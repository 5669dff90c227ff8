// A worker's HTTP side, by raw requests: no server is needed.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Logger, Redacted, Schema } from "effect"
import { Dispatcher, Job, type JobMessage } from "effect-jobs"
import { InngestClient, InngestDispatcher, InngestWorker } from "effect-jobs/inngest"
import { inspect } from "node:util"

class Own extends Job.make("transport.own", { payload: { n: Schema.Int } }) {}

const key = "0123456789abcdef0123456789abcdef"
const keyed = InngestClient.layer({
  id: "transport",
  isDev: false,
  baseUrl: "http://127.0.0.1:9",
  eventKey: Redacted.make("an-event-key"),
  signingKey: Redacted.make(`signkey-test-${key}`)
})
const dev = InngestClient.layer({ id: "transport", isDev: true, baseUrl: "http://127.0.0.1:9" })

const noDispatcher = Layer.succeed(Dispatcher, { send: () => Effect.void })
const surroundings = (
  client: Layer.Layer<InngestClient>,
  run: () => Effect.Effect<void> = () => Effect.void
) =>
  Layer.mergeAll(Own.toLayer(run), noDispatcher).pipe(
    Layer.provideMerge(client),
    Layer.provideMerge(Logger.layer([]))
  )

const serving = (
  options: InngestWorker.HttpOptions,
  client: Layer.Layer<InngestClient> = keyed,
  run?: () => Effect.Effect<void>
) =>
  Effect.acquireRelease(
    Effect.sync(() => InngestWorker.toWebHandler([Own], surroundings(client, run), options)),
    ({ dispose }) => Effect.promise(dispose)
  )

const ask = (handler: (request: Request) => Promise<Response>, request: Request) =>
  Effect.promise(() =>
    handler(request).then(
      async (response) => ({ status: response.status, text: await response.text() }),
      (error: unknown) => ({ status: 0, text: String(error) })
    )
  )

const call = (body: string | ReadableStream<Uint8Array>, init: RequestInit = {}) =>
  new Request(`https://shop.example/api/inngest?fnId=transport-${Own.jobName}&stepId=step`, {
    method: "POST",
    body,
    ...init
  })

const event = JSON.stringify({
  version: 2,
  event: { id: "1", name: Own.jobName, data: { n: 1 } },
  events: [],
  steps: {},
  ctx: { run_id: "01", attempt: 0, stack: { stack: [], current: 0 } }
})

describe("InngestWorker over HTTP", () => {
  it.live("outside of dev mode it is told where it is reached, or that it need not be", () =>
    Effect.gen(function* () {
      const built = (options: InngestWorker.HttpOptions) =>
        Effect.scoped(
          Effect.gen(function* () {
            const { handler } = yield* serving(options)
            const { status, text } = yield* ask(handler, call(event))
            return status === 0 ? text : String(status)
          })
        )
      assert.match(
        yield* built({}),
        /"transport" needs to know where Inngest reaches it.*set its origin or INNGEST_SERVE_ORIGIN/
      )
      assert.match(yield* built({ origin: "shop.example" }), /must be one such as "https:\/\/shop.example"/)
      assert.match(yield* built({ origin: "https://shop.example/api" }), /without a path/)
      assert.match(yield* built({ origin: "https://shop.example", maxBodySize: 0 }), /maxBodySize/)
      assert.strictEqual(yield* built({ trustHostHeader: true }), "401")
      assert.strictEqual(yield* built({ origin: "https://shop.example" }), "401")
    })
  )

  it.live("registers the app at its origin, whatever a request says", () =>
    Effect.gen(function* () {
      const urls: Array<string> = []
      const client = InngestClient.layer({
        id: "transport",
        isDev: false,
        baseUrl: "http://127.0.0.1:9",
        signingKey: Redacted.make(`signkey-test-${key}`),
        fetch: async (_, init) => {
          const body: unknown = await new Response(init?.body ?? null).json()
          // sound: what the SDK registers
          const { functions, url } = body as {
            readonly url: string
            readonly functions: ReadonlyArray<{
              readonly steps: { readonly step: { readonly runtime: { readonly url: string } } }
            }>
          }
          urls.push(url, ...functions.map(({ steps }) => steps.step.runtime.url.split("?")[0] ?? ""))
          assert.isTrue(functions.every(({ steps }) => !steps.step.runtime.url.includes("probe")))
          return Response.json({ ok: true, modified: true })
        }
      })
      const { handler } = yield* serving({ origin: "https://shop.example" }, client)
      for (const url of [
        "https://evil.example/api/inngest",
        "https://evil.example//evil.example/api/inngest",
        "https://evil.example/\\\\evil.example/api/inngest",
        "https://evil.example/api/inngest?probe=trust&fnId=a"
      ]) {
        const put = new Request(url, {
          method: "PUT",
          headers: { host: "evil.example", "x-forwarded-host": "evil.example" }
        })
        assert.strictEqual((yield* ask(handler, put)).status, 200)
      }
      assert.isAtLeast(urls.length, 12)
      for (const url of urls) assert.strictEqual(new URL(url).origin, "https://shop.example")
    })
  )

  it.live("reads no more of a body than maxBodySize, whatever its header says", () =>
    Effect.gen(function* () {
      const { handler } = yield* serving({ origin: "https://shop.example", maxBodySize: "64 KiB" })
      let read = 0
      const endless = new ReadableStream<Uint8Array>({
        pull: (controller) => {
          read++
          controller.enqueue(new Uint8Array(16 * 1024))
        }
      })
      // sound: Node's own option for a body that is a stream
      const init = { duplex: "half", headers: { "content-length": "10" } } as RequestInit
      assert.strictEqual((yield* ask(handler, call(endless, init))).status, 413)
      assert.isBelow(read, 8)
      const said = { headers: { "content-length": "1000000" } }
      assert.strictEqual((yield* ask(handler, call("{}", said))).status, 413)
      const put = new Request("https://shop.example/", { method: "PUT", body: "x".repeat(70_000) })
      assert.strictEqual((yield* ask(handler, put)).status, 413)
      assert.strictEqual((yield* ask(handler, call("x".repeat(60_000)))).status, 400)
    })
  )

  it.live("answers a request that has no Host header", () =>
    Effect.gen(function* () {
      let runs = 0
      const { handler } = yield* serving({}, dev, () => Effect.sync(() => void runs++))
      assert.strictEqual((yield* ask(handler, call(event))).status, 200)
      assert.strictEqual(runs, 1)
    })
  )

  it.live("streams its answer, so that a proxy sees that something comes", () =>
    Effect.gen(function* () {
      const { handler } = yield* serving({ streaming: true }, dev)
      const answer = yield* ask(handler, call(event))
      assert.strictEqual(answer.status, 201)
      const { body, status }: { readonly status?: number; readonly body?: string } = JSON.parse(answer.text)
      assert.deepStrictEqual([status, body], [200, "null"])
    })
  )

  it.live("toWebHandler builds its layer again after it has failed", () =>
    Effect.gen(function* () {
      let up = false
      const database = Layer.effectDiscard(
        Effect.suspend(() => (up ? Effect.void : Effect.fail(new Error("the database is down"))))
      )
      const { dispose, handler } = InngestWorker.toWebHandler(
        [Own],
        Layer.provideMerge(surroundings(dev), database)
      )
      assert.match((yield* ask(handler, call(event))).text, /the database is down/)
      up = true
      assert.strictEqual((yield* ask(handler, call(event))).status, 200)
      yield* Effect.promise(dispose)
    })
  )
})

describe("InngestClient", () => {
  it.effect("prints no key", () =>
    Effect.gen(function* () {
      const service = yield* Effect.provide(InngestClient, keyed)
      for (const text of [
        inspect(service, { depth: 20, showHidden: true }),
        inspect(service.client, { depth: 20 }),
        JSON.stringify(service),
        JSON.stringify(service.client)
      ]) {
        assert.notInclude(text, key)
        assert.notInclude(text, "an-event-key")
      }
    })
  )
})

describe("InngestDispatcher", () => {
  const dispatcher = InngestDispatcher.layer.pipe(Layer.provide(dev))
  const refusal = (name: string, payload: JobMessage["payload"]) =>
    Effect.flatMap(Dispatcher, ({ send }) =>
      send([{ kind: "job", notBefore: undefined, message: { id: "1", name, payload, dispatchedAt: 0 } }])
    ).pipe(Effect.provide(dispatcher), Effect.flip)

  it.live("refuses what wouldn't arrive", () =>
    Effect.gen(function* () {
      assert.match((yield* refusal("a.job", { _inngest: 1 })).message, /field "_inngest"/)
      assert.match((yield* refusal("inngest/job", {})).message, /begin with "inngest\/"/)
      const limit = 3 * 1024 * 1024
      // as the server sees it: with the time that the SDK adds
      const empty = JSON.stringify({
        name: "a.job",
        id: "1",
        data: { text: "", _effectJobs: { dispatchedAt: 0 } },
        ts: 1_767_225_600_000
      }).length
      const sized = (size: number) => refusal("a.job", { text: "x".repeat(size - empty) })
      const { reason } = yield* sized(limit + 1)
      assert(reason._tag === "PayloadTooLarge")
      assert.strictEqual(reason.size, limit + 1)
      assert.strictEqual((yield* sized(limit)).reason._tag, "Unavailable")
    })
  )

  it.effect("completes deferreds only with the signing key, where there is one", () =>
    Effect.gen(function* () {
      const keyless = InngestDispatcher.layer.pipe(
        Layer.provide(
          InngestClient.layer({ id: "keyless", isDev: false, eventKey: Redacted.make("an-event-key") })
        )
      )
      const error = yield* Effect.flatMap(Dispatcher, ({ send }) =>
        send([
          {
            kind: "completion",
            notBefore: undefined,
            message: { id: "1", name: "a.job", payload: { deferred: "d", exit: null }, dispatchedAt: 0 }
          }
        ])
      ).pipe(Effect.provide(keyless), Effect.flip)
      assert.match(error.message, /only who has the signing key completes a deferred/)
    })
  )
})
