import { assert, layer } from "@effect/vitest"
import { Clock, Context, Effect, Layer, Schema } from "effect"
import {
  Dispatcher,
  DispatchError,
  DomainEvent,
  Job,
  PayloadTooLarge,
  Rejected,
  type DispatchRequest,
  Unavailable
} from "effect-jobs"
import { OutboxDispatcher, OutboxRelay, OutboxStore } from "effect-jobs/queue"
import { SqlClient } from "effect/sql"
import { eventually } from "../../support/eventually.ts"
import { SqliteClient } from "effect-jobs/sqlite"
import * as Stores from "../../support/Stores.ts"

class Mail extends Job.make("outbox.mail", { payload: { to: Schema.String } }) {}
class Long extends Job.make(`outbox.${"long-".repeat(30)}name`, { payload: { to: Schema.String } }) {}
class SignedUp extends DomainEvent.make("outbox.signed-up", { payload: { to: Schema.String } }) {}

/** What the relay hands over, send by send, and how the target answers each. */
class Target extends Context.Service<
  Target,
  {
    readonly sends: Array<ReadonlyArray<DispatchRequest>>
    answer: (requests: ReadonlyArray<DispatchRequest>) => Effect.Effect<void, DispatchError>
  }
>()("Target") {
  static readonly layer = Layer.sync(Target, () => ({ sends: [], answer: () => Effect.void }))
}

const relay = (options?: OutboxRelay.Options) =>
  OutboxRelay.layerOnStore(options).pipe(
    Layer.provide(
      Layer.effect(
        Dispatcher,
        Effect.map(Target, (target) => ({
          send: (requests) =>
            Effect.suspend(() => {
              target.sends.push(requests)
              return target.answer(requests)
            })
        }))
      )
    )
  )

const sent = Effect.map(Target, ({ sends }) => sends.flat().map(({ message }) => message.id))
const idOf = ({ to }: { readonly to: string }) => to

const rejected = (job: string) =>
  Effect.fail(DispatchError.of(new Rejected({ job, engine: "the test", detail: "no" })))

for (const [name, client] of Stores.sql) {
  const live = OutboxDispatcher.layerOnStore.pipe(
    Layer.provideMerge(Target.layer),
    // no test waits for a claim to be over
    Layer.provideMerge(OutboxStore.layer({ lockExpiration: "1 hour" })),
    Layer.provideMerge(client)
  )
  layer(live, { excludeTestServices: true, timeout: "3 minutes" })(`OutboxDispatcher on ${name}`, (it) => {
    it.effect(
      "what is rolled back was never dispatched, savepoints too; what is committed is handed over",
      () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          const { sends } = yield* Target
          sends.length = 0
          yield* Effect.flip(
            sql.withTransaction(
              Effect.andThen(Mail.dispatch({ to: "a" }, { id: "rolled back" }), Effect.fail("no"))
            )
          )
          yield* sql.withTransaction(
            Effect.gen(function* () {
              yield* Mail.dispatch({ to: "b" }, { id: "committed" })
              yield* sql
                .withTransaction(
                  Effect.andThen(Mail.dispatch({ to: "c" }, { id: "savepoint" }), Effect.fail("no"))
                )
                .pipe(Effect.flip)
              yield* SignedUp.publish({ to: "d" }, { id: "event" })
              yield* Effect.sleep(300)
              assert.isEmpty(sends)
            })
          )
          yield* eventually(sent, (ids) => ids.length === 2)
          yield* Effect.sleep(200)
          assert.sameMembers(yield* sent, ["committed", "event"])
        }).pipe(Effect.provide(relay()))
    )

    it.effect("a message arrives as it was dispatched: kind, id, times and trace", () =>
      Effect.gen(function* () {
        const { sends } = yield* Target
        sends.length = 0
        const before = yield* Clock.currentTimeMillis
        const span = yield* Effect.useSpan("caller", (span) =>
          Effect.as(
            Effect.withParentSpan(Mail.dispatch({ to: "x" }, { id: "whole", delay: "1 hour" }), span),
            span
          )
        )
        const after = yield* Clock.currentTimeMillis
        yield* SignedUp.publish({ to: "y" }, { id: "whole" })
        // long before its time: the target is told of it
        yield* Effect.gen(function* () {
          yield* eventually(sent, (ids) => ids.length === 2)
        }).pipe(Effect.provide(relay()))
        const requests = sends.flat()
        const job = requests.find(({ kind }) => kind === "job")
        const event = requests.find(({ kind }) => kind === "event")
        assert(job !== undefined && event !== undefined)
        assert.deepInclude(job.message, { id: "whole", name: "outbox.mail", payload: { to: "x" } })
        assert.isAtLeast(job.message.dispatchedAt, before)
        assert.isAtMost(job.message.dispatchedAt, after)
        assert.strictEqual(job.notBefore, job.message.dispatchedAt + 3_600_000)
        assert.strictEqual(job.message.trace?.split("-")[1], span.traceId)
        assert.deepInclude(event.message, { id: "whole", name: "outbox.signed-up" })
        assert.isUndefined(event.notBefore)
        // relayed again, it must be recognized: also what was dispatched without an id
        sends.length = 0
        yield* Mail.dispatch({ to: "z" })
        yield* eventually(sent, (ids) => ids.length === 1).pipe(Effect.provide(relay()))
        assert.deepStrictEqual(
          sends.flat().map(({ generatedId }) => generatedId),
          [undefined]
        )
      })
    )

    it.effect("one message an id and contract, however long both are", () =>
      Effect.gen(function* () {
        const { sends } = yield* Target
        sends.length = 0
        const ids = ["i".repeat(255), `${"i".repeat(254)}j`]
        for (const id of [...ids, ...ids]) {
          yield* Long.dispatch({ to: "x" }, { id })
          yield* Mail.dispatch({ to: "x" }, { id })
        }
        yield* Effect.gen(function* () {
          yield* eventually(sent, (sent) => sent.length === 4)
          yield* Effect.sleep(200)
        }).pipe(Effect.provide(relay()))
        assert.sameMembers(yield* sent, [...ids, ...ids])
      })
    )

    it.effect("what was dispatched together is handed over in batches", () =>
      Effect.gen(function* () {
        const { sends } = yield* Target
        sends.length = 0
        const to = Array.from({ length: 100 }, (_, n) => ({ to: `all ${n}` }))
        yield* Mail.dispatchAll(to, { id: idOf })
        yield* eventually(sent, (ids) => ids.length === 100).pipe(Effect.provide(relay({ batchSize: 20 })))
        assert.sameMembers(yield* sent, to.map(idOf))
        assert.isAtMost(Math.max(...sends.map(({ length }) => length)), 20)
        assert.isBelow(sends.length, 50)
      })
    )

    it.effect("one that is refused takes none of its batch with it", () =>
      Effect.gen(function* () {
        const target = yield* Target
        target.sends.length = 0
        const accepted: Array<string> = []
        target.answer = (requests) =>
          requests.some(({ message }) => message.id === "bad 3")
            ? rejected("outbox.mail")
            : requests.some(({ message }) => message.id === "bad 5")
              ? Effect.fail(
                  DispatchError.of(
                    new PayloadTooLarge({ job: "outbox.mail", engine: "the test", size: 2, limit: 1 })
                  )
                )
              : Effect.sync(() => void accepted.push(...requests.map(({ message }) => message.id)))
        const to = Array.from({ length: 10 }, (_, n) => ({ to: `bad ${n}` }))
        yield* Mail.dispatchAll(to, { id: idOf })
        yield* Effect.gen(function* () {
          yield* eventually(
            Effect.sync(() => accepted.length),
            (length) => length === 8
          )
          yield* Effect.sleep(200)
        }).pipe(Effect.provide(relay()))
        assert.sameMembers(
          accepted,
          to.map(idOf).filter((id) => id !== "bad 3" && id !== "bad 5")
        )
        const sql = yield* SqlClient.SqlClient
        const rows = yield* sql<{
          readonly id: string
          readonly last_failure: string
        }>`SELECT id, last_failure FROM effect_queue WHERE state = 'failed' ORDER BY id`
        assert.deepStrictEqual(
          rows.map(({ id, last_failure }) => `${id}: ${last_failure.split(":")[0]}`),
          ["job outbox.mail bad 3: Rejected", "job outbox.mail bad 5: PayloadTooLarge"]
        )
        target.answer = () => Effect.void
      })
    )

    it.effect("a relay that closes while its target is away gives everything back, at once", () =>
      Effect.gen(function* () {
        const target = yield* Target
        target.sends.length = 0
        target.answer = () =>
          Effect.fail(
            DispatchError.of(new Unavailable({ job: "outbox.mail", engine: "the test", detail: "away" }))
          )
        yield* Mail.dispatch({ to: "patient" }, { id: "patient" })
        yield* eventually(
          Effect.sync(() => target.sends.length),
          (length) => length === 2
        ).pipe(Effect.provide(relay()))
        target.answer = () => Effect.void
        target.sends.length = 0
        // what isn't given back stays claimed for an hour
        yield* eventually(sent, (ids) => ids.length === 1).pipe(Effect.provide(relay()))
      })
    )

    it.effect("in a transaction of another client it is Rejected, in words that say what to do", () =>
      Effect.gen(function* () {
        const other = Context.get(
          yield* Layer.build(SqliteClient.layer({ filename: ":memory:" })),
          SqlClient.SqlClient
        )
        const error = yield* Effect.flip(
          Effect.provideService(other.withTransaction(Mail.dispatch({ to: "x" })), SqlClient.SqlClient, other)
        )
        assert(error._tag === "DispatchError")
        assert.strictEqual(error.reason._tag, "Rejected")
        assert.include(error.message, "a transaction of another SqlClient")
        // with no transaction open there is nothing to join
        yield* Effect.provideService(Mail.dispatch({ to: "x" }), SqlClient.SqlClient, other)
        yield* eventually(sent, (ids) => ids.length > 0).pipe(Effect.provide(relay()))
      }).pipe(Effect.scoped)
    )
  })
}
