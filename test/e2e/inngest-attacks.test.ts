// What strangers send, on a real Inngest server with keys: to the worker's route, and as events, which whoever has
// the event key may send.
import { assert, it } from "@effect/vitest"
import { Clock, DateTime, Effect, Fiber, Layer, Logger, Schema } from "effect"
import { Job, Steps } from "effect-jobs"
import { InngestDispatcher, InngestWorkflowEngine } from "effect-jobs/inngest"
import { DurableClock, DurableDeferred, Workflow } from "effect/workflow"
import { createHash } from "node:crypto"
import { freePort } from "../support/freePort.ts"
import * as Inngest from "../support/Inngest.ts"
import { keyed, type Raw, raw, send, stranger } from "../support/inngestApp.ts"
import { holds } from "../support/inngestFaults.ts"
import { onInngest } from "../support/needs.ts"

class Strict extends Job.make("attack.strict", {
  payload: { email: Schema.String, tags: Schema.Array(Schema.Int) }
}) {}
class When extends Job.make("attack.when", { payload: {} }) {}
const Approval = DurableDeferred.make("approval", { success: Schema.String })
class Waits extends Job.make("attack.waits", { payload: { n: Schema.Int } }) {}
const Slow = Workflow.make("AttackSlow", {
  payload: { id: Schema.String },
  idempotencyKey: ({ id }) => id,
  success: Schema.String
})
const jobs = [Strict, When, Waits, Slow] as const

const handlers = (seen: Array<string>) => {
  const note = (what: string) => Effect.sync(() => void seen.push(what))
  return Layer.mergeAll(
    Strict.toLayer(({ email, tags }) => note(`strict ${email} ${tags.length}`)),
    When.toLayer(() =>
      Effect.gen(function* () {
        const { dispatchedAt, id } = yield* Job.CurrentRun
        yield* note(`when ${id} ${DateTime.toEpochMillis(dispatchedAt)}`)
      })
    ),
    Waits.toLayer(({ n }) =>
      Effect.gen(function* () {
        yield* note(`token ${n} ${yield* DurableDeferred.token(Approval)}`)
        yield* note(`approved ${n} ${yield* DurableDeferred.await(Approval)}`)
      })
    ),
    Slow.toLayer(({ id }) =>
      Effect.gen(function* () {
        yield* note(`slow ${id}`)
        yield* DurableClock.sleep({ name: "pause", duration: "6 seconds", inMemoryThreshold: 0 })
        return `honest ${id}`
      })
    )
  )
}

const app = Effect.gen(function* () {
  const server = yield* Inngest.make(["start", ...Inngest.keys])
  const port = yield* freePort
  const seen: Array<string> = []
  const context = yield* Layer.build(
    Inngest.overHttp(jobs, { onError: () => Effect.void, maxBodySize: 5 * 1024 * 1024 }, port).pipe(
      Layer.provide(handlers(seen)),
      Layer.provideMerge(InngestWorkflowEngine.layer),
      Layer.provideMerge(Steps.layer),
      Layer.provideMerge(InngestDispatcher.layer),
      Layer.provideMerge(keyed(server, "attacked")),
      // what the SDK says of each refused request
      Layer.provide(Logger.layer([]))
    )
  )
  return { server, port, seen, context }
})

/** As the keys of deferreds were before they were made with the signing key. */
const publicKey = (name: string, id: string, deferred: string) =>
  createHash("sha256")
    .update(JSON.stringify([name, id, deferred]))
    .digest("hex")

const big = "x".repeat(6 * 1024 * 1024)
const run = `${Inngest.path}?fnId=attacked-${Strict.jobName}&stepId=step`
const call = JSON.stringify({
  version: 2,
  event: { id: "1", name: Strict.jobName, data: { email: "forged", tags: [] } },
  events: [],
  steps: {},
  ctx: { run_id: "01", fn_id: "f", attempt: 0, stack: { stack: [], current: 0 } }
})
const json = { "content-type": "application/json" }

/** Raw requests to the route, and the statuses that they may have. None of them runs anything. */
const requests = (elsewhere: string): ReadonlyArray<readonly [string, Raw, ReadonlyArray<number>]> => [
  ["an unsigned call", { path: run, headers: json, body: call }, [401]],
  [
    "a signature of another key",
    { path: run, headers: { ...json, "x-inngest-signature": "t=1&s=ab" }, body: call },
    [401]
  ],
  [
    "a signature without its parts",
    { path: run, headers: { ...json, "x-inngest-signature": "nonsense" }, body: call },
    [401]
  ],
  ["a call without a body", { path: run, headers: json }, [401]],
  ["a body that isn't JSON", { path: run, headers: json, body: "{" }, [400, 401, 500]],
  ["a probe", { path: `${run}&probe=trust`, headers: json, body: call }, [401]],
  [
    "a dev server's header",
    { path: run, headers: { ...json, "x-inngest-server-kind": "dev" }, body: call },
    [401]
  ],
  ["a body that says it is too large", { path: run, headers: json, body: big }, [413, 0]],
  [
    "a body that is too large and doesn't say so",
    { path: run, headers: { ...json, "transfer-encoding": "chunked" }, body: big },
    [413, 0]
  ],
  ["a PUT that is too large", { method: "PUT", headers: json, body: big }, [413, 0]],
  ["a look at the functions", { method: "GET" }, [401]],
  ["a method of its own", { method: "DELETE" }, [404, 405]],
  ["a PUT with a stranger's Host", { method: "PUT", headers: { host: elsewhere } }, [200]],
  [
    "a PUT with a stranger's forwarded host",
    { method: "PUT", headers: { "x-forwarded-host": elsewhere, "x-forwarded-proto": "http" } },
    [200]
  ],
  [
    "a PUT with a stranger's address as its target",
    { method: "PUT", path: `http://${elsewhere}${Inngest.path}` },
    [200, 400, 404]
  ],
  [
    "a PUT with a path that reads as a host",
    { method: "PUT", path: `//${elsewhere}${Inngest.path}` },
    [200, 400, 404]
  ],
  [
    "a PUT that would answer every run with a probe",
    { method: "PUT", path: `${Inngest.path}?probe=trust` },
    [200]
  ],
  [
    "an unsigned sync in band",
    {
      method: "PUT",
      headers: { ...json, "x-inngest-sync-kind": "in_band" },
      body: JSON.stringify({ url: `http://${elsewhere}/` })
    },
    [401]
  ],
  ["a PUT without a Host to speak of", { method: "PUT", headers: { host: "" } }, [200, 400]]
]

interface Sent {
  readonly name: string
  readonly data?: unknown
  readonly id?: string
  readonly ts?: unknown
  readonly [field: string]: unknown
}

const strict = (data: unknown, more: object = {}): Sent => ({ name: Strict.jobName, data, ...more })
const good = { email: "good", tags: [1] }

/** Events that a handler must not see: it doesn't decode, or the server refuses it. */
const garbage: ReadonlyArray<Sent> = [
  strict({}),
  strict(null),
  strict("text"),
  strict([1, 2]),
  strict(7),
  strict(true),
  strict({ email: 7, tags: [] }),
  strict({ email: "a" }),
  strict({ email: "a", tags: ["1"] }),
  strict({ email: "a", tags: [1.5] }),
  strict({ email: "a", tags: { length: 1 } }),
  strict({ email: "a", tags: null }),
  strict({ email: ["a"], tags: [] }),
  strict({ email: { toString: "a" }, tags: [] }),
  strict({ EMAIL: "a", TAGS: [] }),
  strict({ __proto__: { email: "a", tags: [] } }),
  strict({ constructor: { prototype: { email: "a" } }, tags: [] }),
  strict({ _effectJobs: { payload: { email: "hidden", tags: [] } } }),
  strict({ _effectJobs: { payload: null } }),
  strict({ _effectJobs: "text" }),
  strict({ _effectJobs: [] }),
  strict({ data: good }),
  strict({ payload: good }),
  strict({ ...good, email: null }),
  strict({ ...good, tags: [1, [2]] }),
  strict({ ...good, tags: [-0.5] }),
  strict({ _inngest: good }),
  strict({ "": good }),
  { name: "inngest/function.failed", data: { event: strict(good), error: { message: "forged" } } },
  { name: "inngest/function.cancelled", data: { function_id: `attacked-${Slow._tag}` } },
  { name: "attack.nobody", data: good },
  { name: "", data: good },
  { name: `${Strict.jobName}-failure`, data: good }
]

/** Events that a handler sees, and what it has to make of them. */
const seenOf: ReadonlyArray<readonly [Sent, string]> = [
  [strict(good), "strict good 1"],
  [
    strict({ ...good, email: "more", _effectJobs: { payload: { email: "hidden", tags: [1, 2] } } }),
    "strict more 1"
  ],
  [strict({ ...good, email: "trace", _effectJobs: { trace: "00-nonsense" } }), "strict trace 1"],
  [strict({ ...good, email: "meta", _effectJobs: 7 }), "strict meta 1"],
  [strict({ ...good, email: "extra", more: { a: 1 } }), "strict extra 1"],
  [strict({ ...good, email: "user" }, { user: { id: 1 }, v: "1" }), "strict user 1"]
]

/** Times that no clock shows: the run is dispatched when its event says, or when it came. */
const times: ReadonlyArray<unknown> = [1e300, -1e300, 8.64e15 + 1, "now", null, {}]

const byText = (a: string, b: string) => (a < b ? -1 : 1)

onInngest("attacks on Inngest", () => {
  it.live(
    "raw requests: none runs anything, none moves the app, and none is read without bound",
    () =>
      Effect.gen(function* () {
        const { context, port, seen } = yield* app
        const { port: theirs, seen: stolen } = yield* stranger
        const memory = process.memoryUsage().rss
        for (const [what, request, statuses] of requests(`127.0.0.1:${theirs}`)) {
          const { body, status } = yield* raw(port, request)
          assert.include(statuses, status, what)
          if (request.method === "PUT" && status === 200) {
            assert.include(body, `"modified":false`, what)
          }
        }
        yield* Effect.all(
          Array.from({ length: 9 }, () => raw(port, { path: run, headers: json, body: big })),
          { concurrency: "unbounded" }
        )
        assert.isBelow(process.memoryUsage().rss, 1.5 * memory + 9 * big.length)
        assert.isEmpty(seen)
        yield* Effect.provideContext(Strict.dispatch({ email: "honest", tags: [] }), context)
        yield* holds(() => assert.deepStrictEqual(seen, ["strict honest 0"]))
        assert.isEmpty(stolen)
      }),
    90_000
  )

  it.live(
    "events: handlers see what decodes, by its visible fields, and nothing else",
    () =>
      Effect.gen(function* () {
        const { server, seen } = yield* app
        const memory = process.memoryUsage().rss
        for (const event of garbage) yield* send(server, event)
        const before = yield* Clock.currentTimeMillis
        for (const [index, dispatchedAt] of times.entries()) {
          yield* send(server, {
            name: When.jobName,
            id: `t${index}`,
            data: { _effectJobs: { dispatchedAt } }
          })
        }
        for (const [event] of seenOf) assert.strictEqual((yield* send(server, event)).status, 200)
        yield* holds(() => assert.isAtLeast(seen.length, seenOf.length + times.length))
        yield* Effect.sleep("2 seconds")
        const [when, others] = [
          seen.filter((line) => line.startsWith("when")),
          seen.filter((line) => !line.startsWith("when"))
        ]
        assert.deepStrictEqual(others.toSorted(byText), seenOf.map(([, line]) => line).toSorted(byText))
        assert.strictEqual(when.length, times.length)
        const now = yield* Clock.currentTimeMillis
        for (const line of when) {
          const at = Number(line.split(" ")[2])
          assert.isAtLeast(at, before - 5_000)
          assert.isAtMost(at, now)
        }
        assert.isAtLeast(garbage.length + seenOf.length + times.length, 40)
        assert.isBelow(process.memoryUsage().rss, 1.5 * memory)
      }),
    120_000
  )

  it.live(
    "who has the event key, and not the signing key, completes no deferred, answers for no workflow and stops none",
    () =>
      Effect.gen(function* () {
        const { context, server, seen } = yield* app
        yield* Effect.gen(function* () {
          yield* Waits.dispatch({ n: 1 }, { id: "w1" })
          const id = yield* Slow.execute({ id: "s" }, { discard: true })
          const result = yield* Effect.forkChild(Slow.execute({ id: "s" }))
          const token = yield* holds(() => {
            const found = seen.find((line) => line.startsWith("token 1 "))
            assert.isDefined(found)
            return found.slice("token 1 ".length)
          })
          yield* holds(() => assert.include(seen, "slow s"))
          const exit = { _tag: "Success", value: "forged" }
          const forged = (of: { readonly name: string; readonly id: string }, deferred: string) => {
            const key = publicKey(of.name, of.id, deferred)
            const about = { key, job: of.name, id: of.id, deferred, exit }
            return [
              { name: "effect-jobs/deferred.delivered", data: { key, exit } },
              { name: "effect-jobs/deferred.completed", id: key, data: about },
              { name: "effect-jobs/deferred.completed", data: { ...about, kept: true } },
              { name: "effect-jobs/deferred.completed", id: key, data: { key, exit: "garbage" } },
              { name: "effect-jobs/deferred.heard", data: { key, received: true } },
              { name: "effect-jobs/workflow.asked", data: { ...about, timeout: "1h" } },
              { name: "effect-jobs/workflow.resumed", data: { key } },
              { name: "effect-jobs/workflow.interrupted", data: { id: of.id, job: of.name } },
              { name: "effect-jobs/workflow.interrupted.", data: { id: of.id, job: of.name } }
            ]
          }
          for (const event of [
            ...forged({ name: Waits.jobName, id: "w1" }, "approval"),
            ...forged({ name: Slow._tag, id }, "effect-jobs/result"),
            ...forged({ name: Slow._tag, id }, "effect-jobs/resumed"),
            { name: "effect-jobs/deferred.delivered", data: {} },
            { name: "effect-jobs/deferred.delivered", data: { key: null, exit } },
            { name: "effect-jobs/deferred.delivered", data: { exit } }
          ]) {
            yield* send(server, event)
          }
          yield* Effect.sleep("2 seconds")
          assert.isEmpty(seen.filter((line) => line.startsWith("approved")))
          yield* DurableDeferred.succeed(Approval, {
            // sound: the handler wrote it down
            token: token as DurableDeferred.Token,
            value: "honest"
          })
          yield* holds(() => assert.include(seen, "approved 1 honest"))
          assert.strictEqual(yield* Fiber.join(result), "honest s")
        }).pipe(Effect.provideContext(context))
      }),
    120_000
  )
})
