// What needs no server: definitions, configuration, and requests as the server makes them.
import { assert, describe, it } from "@effect/vitest"
import { Cause, ConfigProvider, Deferred, Effect, Exit, Layer, Logger, Redacted, Schema, Scope } from "effect"
import {
  CronJob,
  Outcome,
  DefinitionError,
  Dispatcher,
  DomainEvent,
  Job,
  type JobMessage,
  Listener,
  RetryPolicy
} from "effect-jobs"
import { InngestClient, InngestDispatcher, InngestWorker } from "effect-jobs/inngest"
import { Inngest } from "inngest"
import { vi } from "vitest"
import { call, client, noDispatcher, serving, suspended } from "../../support/inngestRequests.ts"

class Refused extends Schema.TaggedError<Refused>()("Refused", { code: Schema.Int, at: Schema.Date }) {}

class Plain extends Job.make("web.plain", {
  payload: { n: Schema.Int },
  success: Schema.Struct({ at: Schema.Date }),
  error: Refused,
  retry: RetryPolicy.fixed<Refused>({ attempts: 3, delay: "90 seconds", while: ({ code }) => code !== 404 })
}) {}
class Own extends Job.make("web.own", { payload: { n: Schema.Int }, retry: { attempts: 2 } }) {}
const refusal = <const Jobs extends ReadonlyArray<Job.Any>>(
  jobs: Jobs,
  handlers: Layer.Layer<Job.HandlerOf<Jobs[number]>>
) =>
  Effect.scoped(InngestWorker.functions(jobs)).pipe(
    Effect.provide(Layer.mergeAll(handlers, noDispatcher, client)),
    Effect.exit,
    Effect.map((exit) => {
      const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
      assert.instanceOf(error, DefinitionError)
      return error.message
    })
  )

describe("InngestWorker", () => {
  it.effect("refuses what Inngest would quietly change", () =>
    Effect.gen(function* () {
      class Many extends Job.make("web.many", { payload: {}, retry: { attempts: 22 } }) {}
      class Slow extends Job.make("web.slow", {
        payload: {},
        retry: RetryPolicy.exponential({ attempts: 10, initialDelay: "10 minutes", maxDelay: "3 days" })
      }) {}
      const nothing = () => Effect.void
      assert.strictEqual(
        yield* refusal([Many], Many.toLayer(nothing)),
        `"web.many" can't have 22 attempts on Inngest: it has at most 21 (20 retries).`
      )
      assert.strictEqual(
        yield* refusal([Slow], Slow.toLayer(nothing)),
        `"web.slow" can't wait for 1d 18h 40m after attempt 9 on Inngest: a retry comes after 1d at most.`
      )
      assert.include(yield* refusal([Many, Many], Many.toLayer(nothing)), `"web.many" is in the list twice`)
      class Mail extends Job.make("web.mail", { payload: {} }) {}
      class Failure extends Job.make("web.mail-failure", { payload: {} }) {}
      class Ours extends Job.make("effect-jobs.deferreds", { payload: {} }) {}
      class Theirs extends Job.make("inngest/mail", { payload: {} }) {}
      class Mailed extends DomainEvent.make("web.mail", { payload: {} }) {}
      class OnMailed extends Listener.make("web.on-mailed", { event: Mailed }) {}
      assert.include(
        yield* refusal([Mail, Failure], Layer.merge(Mail.toLayer(nothing), Failure.toLayer(nothing))),
        `"web.mail" and "web.mail-failure" can't both be jobs`
      )
      assert.include(yield* refusal([Ours], Ours.toLayer(nothing)), "the worker's own")
      assert.include(yield* refusal([Theirs], Theirs.toLayer(nothing)), `begin with "inngest/"`)
      assert.include(
        yield* refusal([Mail, OnMailed], Layer.merge(Mail.toLayer(nothing), OnMailed.toLayer(nothing))),
        `"web.mail" is a job, and an event that "web.on-mailed" listens to`
      )
    })
  )

  it.effect("gives a cron job's schedule as it is on every engine, and overlap: skip as a singleton", () =>
    Effect.gen(function* () {
      class Sync extends CronJob.make("web.sync", {
        cron: "@daily",
        timeZone: "europe/london",
        overlap: "skip"
      }) {}
      class Other extends CronJob.make("web.other", { cron: "0 0 * * SUN" }) {}
      const functions = yield* Effect.scoped(InngestWorker.functions([Sync, Other])).pipe(
        Effect.provide(
          Layer.mergeAll(
            Sync.toLayer(() => Effect.void),
            Other.toLayer(() => Effect.void),
            noDispatcher,
            client
          )
        )
      )
      assert.deepStrictEqual(
        functions.slice(0, 2).map(({ opts }) => [opts.triggers, opts.singleton]),
        [
          [[{ cron: "TZ=Europe/London 0 0 * * *" }], { mode: "skip" }],
          [[{ cron: "TZ=UTC 0 0 * * 0" }], undefined]
        ]
      )
    })
  )

  it.live("answers with the encoded success, or with what the server has to know of a failure", () =>
    Effect.gen(function* () {
      const { handler } = yield* serving(
        [Plain, Own],
        Layer.merge(
          Plain.toLayer(({ n }) =>
            n === 200
              ? Effect.succeed({ at: new Date(0) })
              : Effect.fail(new Refused({ code: n, at: new Date(0) }))
          ),
          Own.toLayer(() => Effect.die(new RangeError("a defect")))
        )
      )
      const answer = (...args: [string, unknown, { readonly attempt?: number }?]) =>
        Effect.promise(() => call(handler, ...args))
      const good = yield* answer(Plain.jobName, { n: 200 })
      assert.strictEqual(good.status, 200)
      assert.deepStrictEqual(good.body, { at: "1970-01-01T00:00:00.000Z" })

      const before = Date.now()
      const again = yield* answer(Plain.jobName, { n: 500 })
      const retryAfter = Date.parse(again.headers.get("retry-after") ?? "")
      assert.isAtLeast(retryAfter, before + 90_000)
      assert.isAtMost(retryAfter, Date.now() + 90_000)
      assert.strictEqual(again.headers.get("x-inngest-no-retry"), "false")

      for (const [data, attempt, reason] of [
        [{ n: 404 }, 0, "NotRetryable"],
        [{ n: 500 }, 2, "AttemptsExhausted"],
        [{ n: "one" }, 0, "InvalidPayload"],
        ["text", 0, undefined]
      ] as const) {
        if (reason === undefined) continue
        const failed = yield* answer(Plain.jobName, data, { attempt })
        assert.strictEqual(failed.headers.get("x-inngest-no-retry"), "true")
        const body = Schema.decodeUnknownSync(
          Schema.Struct({
            message: Schema.String,
            cause: Schema.Struct({ reason: Schema.String, failure: Schema.Json, typed: Schema.Boolean })
          })
        )(failed.body)
        assert.strictEqual(body.cause.reason, reason)
        if (reason === "InvalidPayload") {
          assert.match(
            body.message,
            /^The message "an-id" for "web.plain" has an invalid payload: .* at "n"\.$/
          )
        } else {
          assert.deepStrictEqual(body.cause.failure, {
            _tag: "Refused",
            code: data.n,
            at: "1970-01-01T00:00:00.000Z"
          })
        }
      }

      // without a stated backoff the server has its own
      const own = yield* answer(Own.jobName, { n: 1 })
      assert.isNull(own.headers.get("retry-after"))
      assert.strictEqual(own.headers.get("x-inngest-no-retry"), "false")
    })
  )

  it.live("decodes what onFailure gets, also when the worker gave no answer", () =>
    Effect.gen(function* () {
      const seen: Array<readonly [number, Cause.Cause<unknown>]> = []
      const errors: Array<string> = []
      const { handler } = yield* serving(
        [Plain],
        Plain.toLayer(() => Effect.never, {
          onFailure: ({ n }, cause) => Effect.sync(() => void seen.push([n, cause]))
        }),
        { onError: (error) => Effect.sync(() => void errors.push(error.message)) }
      )
      const failure = (error: object) =>
        Effect.promise(() =>
          call(
            handler,
            `${Plain.jobName}-failure`,
            {
              error,
              event: { name: Plain.jobName, id: "the-id", data: { n: 7 } },
              function_id: "f",
              run_id: "1"
            },
            { event: { name: "inngest/function.failed" } }
          )
        )
      const cause = {
        attempt: 3,
        reason: "AttemptsExhausted",
        typed: true,
        failure: { _tag: "Refused", code: 500, at: "1970-01-01T00:00:00.000Z" }
      }
      yield* failure({ name: "Error", message: "refused", stack: "", cause })
      yield* failure({ name: "Error", message: "EOF", stack: "" })
      yield* failure({
        name: "InngestErrFunctionOverflowed",
        message: "The function run exceeded the step limit of 1000 steps.",
        stack: ""
      })
      assert.deepStrictEqual(
        seen.map(([n]) => n),
        [7, 7, 7]
      )
      assert.deepStrictEqual(seen[0]?.[1], Cause.fail(new Refused({ code: 500, at: new Date(0) })))
      const [, lost, refused] = seen
      const server = refused === undefined ? undefined : Cause.squash(refused[1])
      assert.instanceOf(server, InngestWorker.ServerFailed)
      assert.match(server.message, /^Inngest's server failed "web.plain" \(id the-id\): .*step limit/)
      assert.instanceOf(lost === undefined ? undefined : Cause.squash(lost[1]), Outcome.WorkerLost)
      assert.match(errors[0] ?? "", /^"web.plain" \(id the-id\) failed in all of its 3 attempts/)
      assert.include(errors[1] ?? "", "EOF")
    })
  )

  it.live("counts attempts on top of those that its steps were recorded in, and none after the last", () =>
    Effect.gen(function* () {
      const seen: Array<number> = []
      const { handler } = yield* serving(
        [Plain],
        Plain.toLayer(() =>
          Effect.gen(function* () {
            seen.push((yield* Job.CurrentRun).attempt)
            return yield* Effect.fail(new Refused({ code: 500, at: new Date(0) }))
          })
        )
      )
      const recorded = (attempt: number) => ({
        a: { type: "data", data: { attempt: 1, exit: null } },
        b: { type: "data", data: { attempt, exit: null } },
        // of others: what a step of the SDK's own gave
        c: { type: "data", data: { attempt: 99 } },
        d: { type: "data", data: { interrupted: "99" } },
        e: { type: "error", error: { name: "Error", message: "no" } }
      })
      const answer = (attempt: number, steps: object) =>
        Effect.promise(() => call(handler, Plain.jobName, { n: 1 }, { attempt, steps }))
      assert.strictEqual((yield* answer(1, {})).headers.get("x-inngest-no-retry"), "false")
      assert.strictEqual((yield* answer(0, recorded(2))).headers.get("x-inngest-no-retry"), "false")
      assert.strictEqual((yield* answer(1, recorded(2))).headers.get("x-inngest-no-retry"), "true")
      assert.deepStrictEqual(seen, [2, 2, 3])
      // the worker died in the last attempt, and the server asks for one more
      const lost = yield* answer(1, recorded(3))
      assert.strictEqual(lost.headers.get("x-inngest-no-retry"), "true")
      assert.match(JSON.stringify(lost.body), /was lost in attempt 3, the last one/)
      assert.lengthOf(seen, 3)
    })
  )

  it.live("refuses an unsigned request where the client isn't in dev mode", () =>
    Effect.gen(function* () {
      let runs = 0
      const { handler } = yield* serving(
        [Own],
        Own.toLayer(() => Effect.sync(() => void runs++)),
        {
          client: InngestClient.layer({
            id: "web",
            isDev: false,
            signingKey: Redacted.make("signkey-test-0123456789abcdef0123456789abcdef")
          }).pipe(Layer.provide(Logger.layer([]))),
          origin: "http://127.0.0.1:9"
        }
      )
      const answer = yield* Effect.promise(() => call(handler, Own.jobName, { n: 1 }))
      assert.strictEqual(answer.status, 401)
      assert.strictEqual(runs, 0)
    })
  )

  it.live("runs that are suspended at a step release what they acquired", () =>
    Effect.gen(function* () {
      const { counts, run } = yield* suspended
      for (let n = 1; n <= 20; n++) yield* run(n)
      assert.deepStrictEqual(counts, { acquired: 40, released: 40, bodies: 20 })
    })
  )

  it.live("waits for what runs when it is disposed", () =>
    Effect.gen(function* () {
      const started = yield* Deferred.make<void>()
      let ended = false
      const scope = yield* Scope.make()
      const { handler, dispose } = yield* Scope.provide(
        serving(
          [Own],
          Own.toLayer(() =>
            Deferred.succeed(started, undefined).pipe(
              Effect.andThen(Effect.sleep("300 millis")),
              Effect.andThen(Effect.sync(() => (ended = true)))
            )
          )
        ),
        scope
      )
      const answer = call(handler, Own.jobName, { n: 1 })
      yield* Deferred.await(started)
      yield* Effect.yieldNow
      yield* Effect.promise(dispose)
      assert.isTrue(ended)
      assert.strictEqual((yield* Effect.promise(() => answer)).status, 200)
    })
  )
})

describe("InngestClient", () => {
  it.effect("reads the SDK's own names from Config, and keeps keys to itself", () =>
    Effect.gen(function* () {
      const { client } = yield* Effect.provide(
        InngestClient,
        InngestClient.layerConfig({ id: "configured" }).pipe(
          Layer.provide(
            ConfigProvider.layer(
              ConfigProvider.fromUnknown({
                INNGEST_EVENT_KEY: "the-event-key",
                INNGEST_SIGNING_KEY: "signkey-test-00",
                INNGEST_DEV: "http://127.0.0.1:1234"
              })
            )
          )
        )
      )
      assert.strictEqual(client.eventKey, "the-event-key")
      assert.strictEqual(client.signingKey, "signkey-test-00")
      assert.strictEqual(client.mode, "dev")
      assert.strictEqual(new URL(client.eventBaseUrl).origin, "http://127.0.0.1:1234")
    })
  )

  it.effect("makes its headers once, and again when the SDK is given other variables", () =>
    Effect.gen(function* () {
      const own = yield* Effect.provide(InngestClient, InngestClient.layer({ id: "headers", isDev: true }))
      const headers = () => own.client.headers
      assert.deepStrictEqual(headers(), new Inngest({ id: "headers", isDev: true }).headers)
      assert.strictEqual(headers(), headers())
      own.client.setEnvVars({ INNGEST_ENV: "staging" })
      assert.strictEqual(headers()["x-inngest-env"], "staging")
    })
  )

  it.live("what the SDK logs goes to Effect's logger, and nothing to the console", () =>
    Effect.gen(function* () {
      const spies = (["log", "info", "warn", "error", "debug"] as const).map((name) =>
        vi.spyOn(console, name)
      )
      const logged: Array<string> = []
      const capture = Logger.layer([
        Logger.make(({ logLevel, message }) => {
          logged.push(`${logLevel} ${String(message)}`)
        })
      ])
      const { handler } = yield* serving(
        [Own],
        Own.toLayer(() => Effect.fail("no")),
        { client: client.pipe(Layer.provideMerge(capture)) }
      )
      yield* Effect.promise(() => call(handler, Own.jobName, { n: 1 }))
      // the runner says what has failed, and the SDK doesn't say it again
      assert.isEmpty(logged.filter((line) => line.includes("Inngest function error")))
      for (const spy of spies) {
        assert.strictEqual(spy.mock.calls.length, 0)
        spy.mockRestore()
      }
    })
  )
})

describe("InngestDispatcher", () => {
  it.effect("sends plain data, with one reserved key, and refuses a payload that has it", () =>
    Effect.gen(function* () {
      const bodies: Array<unknown> = []
      const dispatcher = InngestDispatcher.layer.pipe(
        Layer.provide(
          InngestClient.layer({
            id: "web",
            isDev: true,
            baseUrl: "http://127.0.0.1:9",
            eventPrefix: "shop/",
            fetch: async (_, init) => {
              bodies.push(await new Response(init?.body ?? null).json())
              return Response.json({ ids: ["1"], status: 200 })
            }
          })
        )
      )
      yield* Own.dispatch({ n: 1 }, { id: "mine", at: 9_999_999_999_999 }).pipe(Effect.provide(dispatcher))
      const [[event]] = Schema.decodeUnknownSync(
        Schema.NonEmptyArray(
          Schema.NonEmptyArray(
            Schema.Struct({ id: Schema.String, name: Schema.String, ts: Schema.Int, data: Schema.Json })
          )
        )
      )(bodies)
      assert.strictEqual(event.name, "shop/web.own")
      assert.strictEqual(event.id, "mine")
      assert.strictEqual(event.ts, 9_999_999_999_999)
      const data = Schema.decodeUnknownSync(
        Schema.Struct({ n: Schema.Int, _effectJobs: Schema.Struct({ dispatchedAt: Schema.Int }) })
      )(event.data)
      assert.strictEqual(data.n, 1)

      const message: JobMessage = { id: "1", name: "web.own", payload: { _effectJobs: 1 }, dispatchedAt: 0 }
      const error = yield* Effect.flip(
        Effect.flatMap(Dispatcher, ({ send }) => send([{ kind: "job", notBefore: undefined, message }])).pipe(
          Effect.provide(dispatcher)
        )
      )
      assert.strictEqual(
        error.message,
        `"web.own" was rejected by InngestDispatcher.layer: its payload has a field "_effectJobs", a name that is reserved there.`
      )
      assert.strictEqual(bodies.length, 1)
    })
  )

  it.live("a server that doesn't answer is Unavailable after the sendTimeout", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(
        Own.dispatch({ n: 1 }).pipe(
          Effect.provide(InngestDispatcher.layer),
          Effect.provide(
            InngestClient.layer({
              id: "web",
              isDev: true,
              sendTimeout: "50 millis",
              fetch: () => new Promise(() => {})
            })
          )
        )
      )
      assert.strictEqual(
        error.message,
        `"web.own" couldn't be dispatched now, Inngest is unavailable: it gave no answer within 50ms.`
      )
    })
  )
})
