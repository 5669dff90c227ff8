// The keeper of completions and the keys of deferreds, without a server.
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { Inngest } from "inngest"
import * as Api from "../../../src/layers/inngest/Api.ts"
import * as Mailbox from "../../../src/layers/inngest/Mailbox.ts"

const of = { name: "a.job", id: "1" }
const keyringOf = (signingKey: string | undefined, signingKeyFallback?: string) => {
  const keyring = Mailbox.keyring(
    new Inngest({
      id: "mailbox",
      isDev: false,
      ...(signingKey === undefined ? {} : { signingKey }),
      ...(signingKeyFallback === undefined ? {} : { signingKeyFallback })
    })
  )
  assert.isDefined(keyring)
  return keyring
}

/** A server that says that `heard` comes as often as `answers` has one, and then no more. */
const called = (keyring: Mailbox.Keyring, data: unknown, answers: ReadonlyArray<boolean>) => {
  const waits: Array<string> = []
  const sent: Array<{ readonly name: string; readonly id?: string; readonly data: Record<string, unknown> }> =
    []
  const call: Mailbox.Called = {
    data,
    eventPrefix: "",
    keyring,
    runs: (job) => job === of.name,
    tools: {
      sendEvent: async (_, events) => sent.push(...events),
      waitForEvent: async (_, { if: expression }) => {
        const received = answers[waits.length]
        waits.push(expression)
        return received === undefined ? null : { data: { received } }
      }
    }
  }
  return { call, waits, sent }
}

const completed = (keyring: Mailbox.Keyring, kept?: true) =>
  Effect.promise(() =>
    Mailbox.completed(
      { run: of, deferred: "d", exit: "the exit", ...(kept === undefined ? undefined : { kept }) },
      { eventPrefix: "", keyring }
    )
  )

describe("Mailbox", () => {
  it.live("a key is the signing key's, with and without its prefix, and in dev mode a hash", () =>
    Effect.gen(function* () {
      const keys = (keyring: Mailbox.Keyring, deferred = "d") =>
        Effect.promise(() => keyring.of(of, deferred))
      const [key] = yield* keys(keyringOf("signkey-prod-0123456789abcdef"))
      assert.deepStrictEqual(yield* keys(keyringOf("0123456789abcdef")), [key])
      assert.notInclude(yield* keys(keyringOf("signkey-prod-fedcba9876543210")), key)
      assert.notInclude(yield* keys(keyringOf("signkey-prod-0123456789abcdef"), "e"), key)
      assert.include(yield* keys(keyringOf("another", "signkey-prod-0123456789abcdef")), key)
      const dev = Mailbox.keyring(new Inngest({ id: "mailbox", isDev: true, signingKey: "0123456789abcdef" }))
      assert.isDefined(dev)
      assert.notInclude(yield* keys(dev), key)
    })
  )

  it.live("a keeper delivers until the run has it, and keeps nothing that was forged", () =>
    Effect.gen(function* () {
      const keyring = keyringOf("signkey-prod-0123456789abcdef")
      const { data } = yield* completed(keyring)
      const honest = called(keyring, data, [false, false, true])
      yield* Effect.promise(() => Mailbox.deliver(honest.call))
      assert.deepStrictEqual(
        honest.sent.map(({ data, name }) => [name, data["exit"]]),
        Array.from({ length: 3 }, () => ["effect-jobs/deferred.delivered", "the exit"])
      )
      for (const forged of [
        { ...data, key: "0".repeat(64) },
        { ...data, id: "2" },
        { ...data, deferred: "another" },
        { ...data, job: "another.job" },
        { ...data, exit: undefined },
        null
      ]) {
        const { call, sent, waits } = called(keyring, forged, [false])
        yield* Effect.promise(() => Mailbox.deliver(call))
        assert.isEmpty(sent)
        assert.isEmpty(waits)
      }
    })
  )

  it.live("while keys are rotated, who has either hears of the other's completions", () =>
    Effect.gen(function* () {
      const [before, after] = [keyringOf("aaaa"), keyringOf("bbbb", "aaaa")]
      const { data } = yield* completed(before)
      const { call, sent, waits } = called(after, data, [true])
      yield* Effect.promise(() => Mailbox.deliver(call))
      const [old] = yield* Effect.promise(() => before.of(of, "d"))
      assert.include(
        sent.map(({ data }) => data["key"]),
        old
      )
      assert.include(waits[0], old)
    })
  )

  it.live("a result that is asked for often goes from keeper to keeper, within a run's 1,000 steps", () =>
    Effect.gen(function* () {
      const keyring = keyringOf("signkey-prod-0123456789abcdef")
      let event: Mailbox.Sent = yield* completed(keyring, true)
      const ids = new Set([event.id])
      for (let keeper = 1; keeper <= 3; keeper++) {
        const { call, sent, waits } = called(
          keyring,
          event.data,
          Array.from({ length: 2_000 }, () => false)
        )
        yield* Effect.promise(() => Mailbox.deliver(call))
        assert.isBelow(2 * waits.length + 1, 1_000)
        const next = sent.at(-1)
        assert(next !== undefined)
        assert.strictEqual(next.name, "effect-jobs/deferred.completed")
        assert.isFalse(ids.has(next.id))
        ids.add(next.id)
        event = next
      }
    })
  )
})

describe("Inngest's API", () => {
  const client = (answer: (headers: Headers) => Response) =>
    new Inngest({
      id: "api",
      isDev: false,
      baseUrl: "http://127.0.0.1:9",
      env: "branch",
      signingKey: "signkey-prod-aa",
      signingKeyFallback: "signkey-prod-bb",
      fetch: async (_, init) => answer(new Headers(init?.headers))
    })

  it.live(
    "is asked by the client's fetch and environment, and by the fallback key where the first is refused",
    () =>
      Effect.gen(function* () {
        const seen: Array<string> = []
        const api = client((headers) => {
          seen.push(`${headers.get("authorization")} ${headers.get("x-inngest-env")}`)
          return seen.length === 1 ? new Response("", { status: 401 }) : Response.json({ data: [] })
        })
        assert.deepStrictEqual(yield* Api.get(api, "/v1/events"), { data: [] })
        assert.deepStrictEqual(seen, ["Bearer signkey-prod-aa branch", "Bearer signkey-prod-bb branch"])
      })
  )

  it.live("is asked again while its server restarts, and not where it refuses", () =>
    Effect.gen(function* () {
      let asked = 0
      const restarts = client(() => {
        if (asked++ === 0) throw new TypeError("fetch failed")
        return asked === 2 ? new Response("", { status: 503 }) : Response.json(1)
      })
      assert.strictEqual(yield* Api.get(restarts, "/v1/runs"), 1)
      const error = yield* Effect.flip(
        Api.get(
          client(() => new Response("", { status: 403 })),
          "/v1/runs"
        )
      )
      assert.strictEqual(error.message, "Inngest's API answers /v1/runs with status 403.")
    })
  )
})
