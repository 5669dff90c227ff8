// A program of its own that a fault test kills: an app with transactions, a relay, or a worker, as told in its
// argument. It writes one line when it is ready.
import { PgClient } from "@effect/sql-pg"
import { type Duration, Effect, Layer, Schema } from "effect"
import { Redis as RedisClient } from "effect/persistence"
import { SqlClient } from "effect/sql"
import { Dispatcher, Job, RetryPolicy } from "../../src/index.ts"
import {
  OutboxDispatcher,
  OutboxRelay,
  OutboxStore,
  QueueDispatcher,
  QueueStore,
  QueueWorker
} from "../../src/queue.ts"
import * as Postgres from "./Postgres.ts"
import { pathToFileURL } from "node:url"
import { endWithParent } from "./orphan.ts"
import * as Redis from "./Redis.ts"

export interface Told {
  /** A `relay` dies when its target has answered and it hasn't yet acknowledged. */
  readonly role: "worker" | "relay" | "transactions"
  readonly name: string
  readonly server: { readonly postgres: string } | { readonly redis: number }
  /** Default: the store's own. */
  readonly lockExpiration?: Duration.Input
  /** `transactions`: the numbers of the first one, and of the one after the last. */
  readonly from?: number
  readonly to?: number
}

/** Runs for `ms`, and writes down that it began and that it ended. */
export class Work extends Job.make("fault.work", {
  payload: { n: Schema.Int, ms: Schema.Int },
  retry: RetryPolicy.fixed({ attempts: 3, delay: 0 })
}) {}

/** As `Work`, with one attempt. */
export class Once extends Job.make("fault.once", { payload: { n: Schema.Int, ms: Schema.Int } }) {}

/** Where the handlers write: `began`, `ended` or `failed`. */
export interface Journal {
  readonly write: (line: string) => Effect.Effect<void, unknown>
}

export const handlers = (journal: Journal, worker: string) => {
  const run = ({ ms, n }: { readonly n: number; readonly ms: number }) =>
    Effect.gen(function* () {
      const { attempt, job } = yield* Job.CurrentRun
      const note = (what: string) => journal.write(`${what} ${job} ${n} ${attempt} ${worker}`)
      if (ms > 0) {
        yield* note("began")
        yield* Effect.sleep(ms)
      }
      yield* note("ended")
    })
  return Layer.merge(
    Work.toLayer(run),
    Once.toLayer(run, { onFailure: ({ n }) => journal.write(`failed fault.once ${n} 1 ${worker}`) })
  )
}

/** A journal in a table, in the order of its lines. */
export const sqlJournal = Effect.map(SqlClient.SqlClient, (sql): Journal => ({
  write: (line) => Effect.asVoid(sql`INSERT INTO journal (line) VALUES (${line})`)
}))

export const redisJournal = Effect.map(RedisClient.Redis, (redis): Journal => ({
  write: (line) => Effect.asVoid(redis.send("RPUSH", "journal", line))
}))

const say = (line: string) => Effect.sync(() => process.stdout.write(`${line}\n`))

/** Odd ones roll back, after their dispatch. */
export const transaction = (n: number) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    yield* sql
      .withTransaction(
        Effect.gen(function* () {
          yield* sql`INSERT INTO accounts (n) VALUES (${n})`
          yield* Work.dispatch({ n, ms: 0 }, { id: `account ${n}` })
          if (n % 2 === 1) return yield* Effect.fail("rolled back")
        })
      )
      .pipe(
        Effect.catchIf(
          (error) => error === "rolled back",
          () => Effect.void
        )
      )
  })

const main = Effect.fnUntraced(function* (told: Told) {
  const options = told.lockExpiration === undefined ? {} : { lockExpiration: told.lockExpiration }
  if ("redis" in told.server) {
    const journal = yield* Layer.build(Redis.client(told.server.redis)).pipe(
      Effect.flatMap((context) => Effect.provideContext(redisJournal, context))
    )
    const store = Layer.provide(QueueStore.layerRedis(options), Redis.client(told.server.redis))
    yield* Layer.build(queue(journal, told.name).pipe(Layer.provide(store)))
    yield* say("ready")
    return yield* Effect.never
  }
  const client = yield* Layer.build(Postgres.client(told.server.postgres))
  const journal = yield* Effect.provideContext(sqlJournal, client)
  const store = Layer.provide(QueueStore.layerPostgres(PgClient, options), Layer.succeedContext(client))
  const outboxStore = Layer.provide(OutboxStore.layer(options), Layer.succeedContext(client))
  switch (told.role) {
    case "worker": {
      yield* Layer.build(queue(journal, told.name).pipe(Layer.provide(store)))
      yield* say("ready")
      return yield* Effect.never
    }
    case "relay": {
      const target = Layer.effect(
        Dispatcher,
        Effect.map(Dispatcher, ({ send }) => ({
          send: (requests) =>
            Effect.tap(send(requests), () =>
              Effect.sync(() => {
                process.kill(process.pid, "SIGKILL")
              })
            )
        }))
      )
      yield* Layer.build(
        OutboxRelay.layerOnStore().pipe(
          Layer.provide(target),
          Layer.provide(QueueDispatcher.layer),
          Layer.provide([store, outboxStore])
        )
      )
      yield* say("ready")
      return yield* Effect.never
    }
    case "transactions": {
      const app = yield* Layer.build(
        Layer.fresh(OutboxDispatcher.layerOnStore).pipe(
          Layer.merge(Layer.provide(OutboxRelay.layerOnStore(), queue(journal, told.name))),
          Layer.provide([store, outboxStore, Layer.succeedContext(client)])
        )
      )
      yield* say("ready")
      const { from = 0, to = 0 } = told
      yield* Effect.forEach(
        Array.from({ length: to - from }, (_, n) => from + n),
        (n) => Effect.andThen(transaction(n), say(`transaction ${n}`)),
        { concurrency: 4, discard: true }
      ).pipe(Effect.provideContext(client), Effect.provideContext(app))
      yield* say("done")
      return yield* Effect.never
    }
  }
})

const queue = (journal: Journal, name: string) =>
  QueueWorker.layer([Work, Once], { onError: () => Effect.void }).pipe(
    Layer.provide(handlers(journal, name)),
    Layer.provideMerge(QueueDispatcher.layer)
  )

const [, program, argument] = process.argv
if (argument !== undefined && program !== undefined && import.meta.url === pathToFileURL(program).href) {
  endWithParent()
  // sound: it is what spawn wrote
  Effect.runFork(Effect.scoped(main(JSON.parse(argument) as Told)))
}
