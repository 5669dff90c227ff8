// What the worker relies on inside of Inngest's SDK, each by its name: a version that breaks one says which. The peer
// range in package.json is as wide as this has been run.
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { Inngest, InngestCommHandler, Middleware, NonRetriableError, RetryAfterError } from "inngest"
import { createHash } from "node:crypto"

type Handler = Parameters<Inngest.Any["createFunction"]>[1]

interface Answer {
  readonly status: number
  readonly headers: Record<string, string>
  readonly body: string
}

/** The SDK's handler behind requests of our own, as `Transport.ts` has it. */
const sdk = (
  handler: Handler,
  options: { readonly middleware?: ReadonlyArray<Middleware.Class>; readonly onFailure?: Handler } = {}
) => {
  const client = new Inngest({
    id: "contract",
    isDev: true,
    baseUrl: "http://127.0.0.1:9",
    checkpointing: false
  })
  const { middleware = [], onFailure } = options
  const fn = client.createFunction(
    {
      id: "job",
      retries: 2,
      triggers: [{ event: "job" }],
      middleware: [...middleware],
      ...(onFailure === undefined ? undefined : { onFailure })
    },
    handler
  )
  const handle: (request: unknown) => Promise<Answer> = new InngestCommHandler({
    frameworkName: "contract",
    client,
    functions: [fn],
    handler: (request: unknown) => ({
      body: () => request,
      headers: () => null,
      method: () => "POST",
      url: () => new URL("http://127.0.0.1/?fnId=contract-job&stepId=step"),
      transformResponse: ({ body, headers, status }): Answer => ({ status, headers, body })
    })
  }).createHandler()
  return ({ attempt = 0, steps = {} }: { readonly attempt?: number; readonly steps?: object } = {}) =>
    Effect.promise(() =>
      handle({
        version: 2,
        event: { id: "an-id", name: "job", data: {}, ts: 1 },
        events: [],
        steps,
        ctx: {
          run_id: "01",
          fn_id: "f",
          attempt,
          stack: { stack: Object.keys(steps), current: Object.keys(steps).length }
        }
      })
    )
}

const sha1 = (text: string) => createHash("sha1").update(text).digest("hex")

/** The one step of an answer. */
const stepOf = ({ body, status }: Answer) => {
  assert.strictEqual(status, 206)
  // sound: what the SDK answers at a step
  const [step] = JSON.parse(body) as ReadonlyArray<{
    readonly id: string
    readonly data: unknown
    readonly op: string
  }>
  assert(step !== undefined)
  return step
}

describe("Inngest's SDK", () => {
  it.live("a step's id is the SHA-1 of its name, and a memoized one isn't run again", () =>
    Effect.gen(function* () {
      let runs = 0
      const call = sdk(({ step }) => step.run("a/b (2)", () => ++runs))
      const step = stepOf(yield* call())
      assert.strictEqual(step.id, sha1("a/b (2)"))
      const { body } = yield* call({ steps: { [step.id]: { type: "data", data: step.data } } })
      assert.strictEqual(body, "1")
      assert.strictEqual(runs, 1)
    })
  )

  it.live("a middleware is made for each request; it sees the memoized steps, the context and the end", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      class Seeing extends Middleware.BaseMiddleware {
        readonly id = "seeing"
        readonly number = seen.push("made")
        override transformFunctionInput(arg: Middleware.TransformFunctionInputArgs) {
          seen.push(`input ${JSON.stringify(arg.steps)}`)
          Object.assign(arg.ctx, { mine: "mine" })
          return arg
        }
        override async wrapRequest({ next }: Middleware.WrapRequestArgs) {
          const response = await next()
          seen.push("answered")
          return response
        }
      }
      const call = sdk(
        async (context) => {
          seen.push(`handler ${String(Reflect.get(context, "mine"))}`)
          await context.step.run("s", () => 1)
          seen.push("after")
        },
        { middleware: [Seeing] }
      )
      yield* call()
      yield* call({ steps: { [sha1("s")]: { type: "data", data: 1 } } })
      const memo = JSON.stringify({ [sha1("s")]: { type: "data", data: 1 } })
      assert.deepStrictEqual(seen, [
        "made",
        "input {}",
        "handler mine",
        "answered",
        "made",
        `input ${memo}`,
        "handler mine",
        "after",
        "answered"
      ])
    })
  )

  it.live("a step that runs is answered before its handler, whatever the handler has come to meanwhile", () =>
    Effect.gen(function* () {
      const call = sdk(({ step }) => {
        void step.run("slow", () => new Promise((resolve) => setTimeout(() => resolve("recorded"), 50)))
        return new Promise((_, reject) => setTimeout(() => reject(new Error("the handler's end")), 10))
      })
      const step = stepOf(yield* call())
      assert.deepStrictEqual([step.id, step.data], [sha1("slow"), "recorded"])
    })
  )

  it.live(
    "errors: their name, message, stack and cause are kept, and say whether and when there is another attempt",
    () =>
      Effect.gen(function* () {
        const at = new Date(Date.UTC(2100, 0, 1))
        const ends = [
          new Error("plain", { cause: { failure: 1 } }),
          new NonRetriableError("final", { cause: { failure: 2 } }),
          new RetryAfterError("later", at, { cause: { failure: 3 } })
        ]
        const answers: Array<Answer> = []
        for (const error of ends) {
          Object.assign(error, { stack: "a stack of ours" })
          const call = sdk(() => Promise.reject(error))
          answers.push(yield* call())
        }
        for (const [index, { body }] of answers.entries()) {
          const error: unknown = JSON.parse(body)
          assert.deepInclude(error, { message: ends[index]?.message, cause: { failure: index + 1 } })
          assert.deepInclude(error, { stack: "a stack of ours" })
        }
        assert.deepStrictEqual(
          answers.map(({ headers, status }) => [
            status,
            headers["x-inngest-no-retry"],
            headers["retry-after"]
          ]),
          [
            [500, "false", undefined],
            [400, "true", undefined],
            [500, "false", at.toISOString()]
          ]
        )
      })
  )

  it.live(
    "the failure function's id is the function's with -failure, and connect closes by any signal's name",
    () =>
      Effect.gen(function* () {
        const client = new Inngest({ id: "contract", isDev: true, baseUrl: "http://127.0.0.1:9" })
        const fn = client.createFunction(
          { id: "job", triggers: [{ event: "job" }], onFailure: () => {} },
          () => {}
        )
        // sound: what the server is told of a function; its method is the SDK's own
        const configs = fn["getConfig"]({
          baseUrl: new URL("http://127.0.0.1"),
          appPrefix: "contract"
        }) as ReadonlyArray<{ readonly id: string }>
        const ids = configs.map(({ id }) => id)
        assert.deepStrictEqual(ids, ["contract-job", "contract-job-failure"])
        const { connect } = yield* Effect.promise(() => import("inngest/connect"))
        const signal = "a signal of nobody's"
        const connection = connect({
          apps: [{ client, functions: [fn] }],
          handleShutdownSignals: [signal],
          isolateExecution: false
        })
        connection.catch(() => undefined)
        yield* Effect.sleep("100 millis")
        assert.strictEqual(process.listenerCount(signal), 1)
        // sound: an emitter of any events
        ;(process as NodeJS.EventEmitter).emit(signal)
        yield* Effect.sleep("100 millis")
        assert.strictEqual(process.listenerCount(signal), 0)
      })
  )

  it.live("what a server refuses is an error that has its status", () =>
    Effect.gen(function* () {
      const client = new Inngest({
        id: "contract",
        isDev: true,
        fetch: async () => Response.json({ error: "no such key", status: 401 }, { status: 401 })
      })
      const error = yield* Effect.flip(Effect.tryPromise(() => client.send({ name: "a", data: {} })))
      assert.match(String(error.cause), /Inngest API Error: 401 /)
    })
  )

  it.effect(
    "a client has its mode, keys, addresses and fetch, and reads its headers from its variables",
    () =>
      Effect.sync(() => {
        const client = new Inngest({
          id: "c",
          isDev: false,
          signingKey: "a",
          signingKeyFallback: "b",
          env: "branch"
        })
        assert.deepStrictEqual(
          [client.mode, client.signingKey, client.signingKeyFallback, client.env],
          ["cloud", "a", "b", "branch"]
        )
        assert.strictEqual(typeof client.fetch, "function")
        assert.strictEqual(URL.canParse(client.apiBaseUrl), true)
        assert.strictEqual(client.headers["x-inngest-env"], "branch")
      })
  )
})
