import { assert, describe, it } from "@effect/vitest"
import { type Dispatcher, DomainEvent, InlineDispatcher, Job, Listener } from "effect-jobs"
import { AfterCommitDispatcher } from "effect-jobs/queue"
import { TestDispatcher } from "effect-jobs/testing"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Logger, Schema } from "effect"
import { SqlClient } from "effect/sql"
import { SqliteClient } from "effect-jobs/sqlite"

class Mail extends Job.make("after.mail", { payload: { to: Schema.String } }) {}
class Posted extends DomainEvent.make("after.posted", { payload: {} }) {}
class OnPosted extends Listener.make("after.on-posted", { event: Posted }) {}

const Database = SqliteClient.layer({ filename: ":memory:" })

const on = <R, E, S>(below: Layer.Layer<Dispatcher | S, E, R>) =>
  Layer.provideMerge(AfterCommitDispatcher.layer, below).pipe(Layer.provideMerge(Database))

const ids = Effect.map(TestDispatcher.dispatched, (messages) => messages.map(({ id }) => id))
const dispatch = (to: string) => Mail.dispatch({ to }, { id: to })
const rolledBack = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    return yield* Effect.exit(sql.withTransaction(Effect.andThen(effect, Effect.fail("rolled back"))))
  })
const committed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.flatMap(SqlClient.SqlClient, (sql) => sql.withTransaction(effect))

describe("on TestDispatcher.layer", () => {
  const test = (
    name: string,
    effect: Effect.Effect<void, unknown, Dispatcher | TestDispatcher.Records | SqlClient.SqlClient>
  ) => it.effect(name, () => Effect.provide(effect, on(TestDispatcher.layer)))

  test(
    "a dispatch is recorded after the commit, in order, and outside of a transaction at once",
    Effect.gen(function* () {
      yield* dispatch("outside")
      yield* committed(
        Effect.gen(function* () {
          yield* dispatch("b")
          yield* Mail.dispatchAll([{ to: "a" }, { to: "c" }], { id: ({ to }) => to })
          yield* Posted.publish({})
          assert.deepStrictEqual(yield* ids, ["outside"])
          assert.deepStrictEqual(yield* TestDispatcher.published, [])
        })
      )
      assert.deepStrictEqual(yield* ids, ["outside", "b", "a", "c"])
      assert.strictEqual((yield* TestDispatcher.published).length, 1)
    })
  )

  test(
    "never after a rollback, whatever it comes from",
    Effect.gen(function* () {
      yield* rolledBack(dispatch("failed"))
      yield* Effect.exit(committed(Effect.andThen(dispatch("died"), Effect.die("bug"))))
      const dispatched = yield* Deferred.make<void>()
      const fiber = yield* Effect.forkChild(
        committed(
          dispatch("interrupted").pipe(
            Effect.andThen(Deferred.succeed(dispatched, undefined)),
            Effect.andThen(Effect.never)
          )
        )
      )
      yield* Deferred.await(dispatched)
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(yield* ids, [])
    })
  )

  test(
    "nested: what is in a savepoint goes with it, and with the outermost transaction",
    Effect.gen(function* () {
      yield* committed(
        Effect.gen(function* () {
          yield* dispatch("outer")
          yield* rolledBack(dispatch("savepoint rolled back"))
          yield* committed(dispatch("inner"))
          yield* rolledBack(committed(dispatch("innermost")))
          assert.deepStrictEqual(yield* ids, [])
        })
      )
      yield* rolledBack(committed(dispatch("lost with its outer")))
      assert.deepStrictEqual(yield* ids, ["outer", "inner"])
    })
  )

  test(
    "a payload that is invalid fails at once",
    Effect.gen(function* () {
      // sound: it isn't what the schema wants, which is the point
      const error = yield* Effect.flip(committed(Mail.dispatch({ to: 1 as unknown as string })))
      assert(error._tag === "DispatchError" && error.reason._tag === "InvalidPayload")
    })
  )

  test(
    "so does a dispatch in a transaction that has ended",
    Effect.gen(function* () {
      const context = yield* committed(Effect.context<Dispatcher>())
      const error = yield* Effect.flip(Effect.provideContext(dispatch("late"), context))
      assert.include(error.message, `"after.mail" was rejected by AfterCommitDispatcher.layer`)
      assert.include(error.message, "has already ended")
      assert.deepStrictEqual(yield* ids, [])
    })
  )

  test(
    "a transaction of another client that is in the surroundings counts as well",
    Effect.gen(function* () {
      const other = Context.get(
        yield* Layer.build(SqliteClient.layer({ filename: ":memory:" })),
        SqlClient.SqlClient
      )
      const inOther = Effect.provideService(SqlClient.SqlClient, other)
      yield* inOther(rolledBack(dispatch("rolled back")))
      yield* inOther(committed(dispatch("committed")))
      assert.deepStrictEqual(yield* ids, ["committed"])
    }).pipe(Effect.scoped)
  )

  it.effect("drain runs what was committed, also of what handlers dispatch in transactions", () => {
    class Sign extends Job.make("after.sign", { payload: {} }) {}
    const handlers = Layer.mergeAll(
      Mail.toLayer(() => Effect.void),
      OnPosted.toLayer(() => Effect.void),
      Sign.toLayer(() =>
        Effect.orDie(Effect.andThen(rolledBack(dispatch("never")), committed(dispatch("sent"))))
      )
    )
    return Effect.gen(function* () {
      yield* committed(Effect.andThen(Sign.dispatch({}), Posted.publish({})))
      const ran = yield* TestDispatcher.drain([Sign, Mail, OnPosted])
      assert.deepStrictEqual(
        ran.map(({ name }) => name),
        ["after.sign", "after.on-posted", "after.mail"]
      )
      assert.deepStrictEqual(ran[2]?.id, "sent")
    }).pipe(Effect.provide(Layer.provideMerge(handlers, on(TestDispatcher.layer))))
  })
})

describe("on InlineDispatcher.layer", () => {
  const seen: Array<string> = []
  class Sign extends Job.make("after.inline-sign", { payload: {} }) {}
  const handlers = Layer.merge(
    Mail.toLayer(
      Effect.fnUntraced(function* ({ to }) {
        const sql = yield* SqlClient.SqlClient
        const rows = yield* Effect.orDie(sql`SELECT name FROM people WHERE name = ${to}`)
        seen.push(`${to}: ${rows.length}`)
      })
    ),
    Sign.toLayer(() =>
      Effect.gen(function* () {
        yield* rolledBack(dispatch("never"))
        yield* Effect.orDie(
          committed(
            Effect.gen(function* () {
              const sql = yield* SqlClient.SqlClient
              yield* dispatch("grace")
              yield* sql`INSERT INTO people (name) VALUES ('grace')`
            })
          )
        )
      })
    )
  )
  const inline = on(InlineDispatcher.layer([Mail, Sign]).pipe(Layer.provide(handlers)))
  const table = Effect.flatMap(SqlClient.SqlClient, (sql) => sql`CREATE TABLE people (name TEXT)`)

  it.effect("a job runs after the commit, and before withTransaction returns", () =>
    Effect.gen(function* () {
      seen.length = 0
      yield* table
      const sql = yield* SqlClient.SqlClient
      yield* rolledBack(dispatch("nobody"))
      yield* committed(
        Effect.gen(function* () {
          yield* dispatch("ada")
          yield* sql`INSERT INTO people (name) VALUES ('ada')`
          assert.deepStrictEqual(seen, [])
        })
      )
      assert.deepStrictEqual(seen, ["ada: 1"])
    }).pipe(Effect.provide(inline))
  )

  it.effect("a handler's own transactions are no exception", () =>
    Effect.gen(function* () {
      seen.length = 0
      yield* table
      yield* Sign.dispatch({})
      assert.deepStrictEqual(seen, ["grace: 1"])
    }).pipe(Effect.provide(inline))
  )

  it.effect("what the Dispatcher refuses after the commit is logged, and the transaction stays", () => {
    const lines: Array<string> = []
    const logger = Logger.layer([Logger.make(({ message }) => void lines.push(String(message)))])
    return Effect.gen(function* () {
      yield* table
      const exit = yield* Effect.exit(
        committed(
          Effect.gen(function* () {
            const sql = yield* SqlClient.SqlClient
            yield* sql`INSERT INTO people (name) VALUES ('eve')`
            yield* dispatch("eve")
          })
        )
      )
      assert.isTrue(Exit.isSuccess(exit))
      const sql = yield* SqlClient.SqlClient
      assert.strictEqual((yield* sql`SELECT name FROM people`).length, 1)
      assert.strictEqual(lines.length, 1)
      assert.include(
        lines[0],
        `"after.mail" (id eve) couldn't be dispatched after the commit of the transaction`
      )
    }).pipe(Effect.provide([on(InlineDispatcher.layer([])), logger]))
  })
})
