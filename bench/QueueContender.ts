/**
 * One contender of the queue's benchmark in a process of its own, so that none is measured with what the compiler
 * has learned from another's code: `node QueueContender.ts '<Told as JSON>'`. It says `ready`, and does what each
 * `Order` says that it gets, answering with the milliseconds that it took.
 */
import { PgClient } from "@effect/sql-pg"
import { Queue as BullQueue, Worker as BullWorker } from "bullmq"
import { Deferred, Effect, Layer, ManagedRuntime, Schema } from "effect"
import { Job, JobMessage } from "effect-jobs"
import { QueueDispatcher, QueueStore, QueueWorker } from "effect-jobs/queue"
import { SqliteClient } from "effect-jobs/sqlite"
import { PersistedQueue, type Persistence } from "effect/persistence"
import type { RedisError } from "effect/persistence/Redis"
import type { SqlError } from "effect/sql/SqlError"
import { Logger, makeWorkerUtils, run as runGraphile } from "graphile-worker"
import { PgBoss } from "pg-boss"
import { createClient } from "redis"
import * as Postgres from "../test/support/Postgres.ts"
import * as Redis from "../test/support/Redis.ts"

/** Where the queue is. */
export type Store =
  | { readonly _tag: "memory" }
  | { readonly _tag: "SQLite"; readonly file: string }
  | { readonly _tag: "Postgres"; readonly url: string }
  | { readonly _tag: "Redis"; readonly port: number }

export type Contender =
  /** PersistedQueue without us, with the payload as its element. */
  | "bare"
  /** PersistedQueue without us, with the very message that we send: what is left is what we do. */
  | "bareMessage"
  | "ours"
  /** Ours, with a worker of 20 jobs. */
  | "many"
  /** The first and ours under ids that are given: by default, neither is given any. */
  | "bareGiven"
  | "oursGiven"
  /** On Postgres: the first on our store, and both with fifty at once. */
  | "store"
  | "bareFifty"
  | "storeFifty"
  | "pgBoss"
  | "pgBossBatches"
  | "graphile"
  | "graphileBatches"
  | "bullmq"

export interface Told {
  readonly store: Store
  readonly contender: Contender
  /** Jobs a round. */
  readonly count: number
}

/** What is measured. */
export type Phase = "enqueue" | "process"

/** All jobs of one round, whose name no other round has. */
export interface Order {
  readonly phase: Phase
  readonly round: string
}

/** Milliseconds for all jobs of a round. */
export type Took = Record<Phase, number>

/** How each phase is done, in milliseconds. */
type Phases<out R = never> = Record<Phase, (round: string) => Effect.Effect<number, never, R>>

const atOnce = 10

const payload = Schema.Struct({ to: Schema.String, n: Schema.Int })
const idle = Array.from({ length: 19 }, (_, n) =>
  Job.make(`bench.idle-${n}`, { payload: { to: Schema.String } })
)

/** A contender of Effect's or ours has one queue for all of its rounds. */
const queueOf = (contender: Contender) => `bench.${contender.toLowerCase()}`

/**
 * Counts the jobs of a round. What they took is from when this is made until the last one runs: with the start of
 * the worker, without its end.
 */
const countdown = (count: number) => {
  const done = Deferred.makeUnsafe<number>()
  const start = performance.now()
  let left = count
  return {
    took: Deferred.await(done),
    one: () => {
      left--
      if (left === 0) Deferred.doneUnsafe(done, Effect.succeed(performance.now() - start))
    }
  }
}

const numbers = (count: number) => Array.from({ length: count }, (_, n) => n)

/** The same for every contender that is Effect's or ours. */
const enqueueAll = <E, R>(count: number, one: (n: number) => Effect.Effect<unknown, E, R>) =>
  Effect.forEach(numbers(count), one, { concurrency: atOnce, discard: true })

const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const start = performance.now()
    yield* effect
    return performance.now() - start
  })

const persistedQueue = <S extends Schema.Codec<unknown, unknown>>(
  contender: Contender,
  count: number,
  schema: S,
  element: (n: number, id: string) => S["Type"],
  { givesId = false, takers = atOnce } = {}
): Phases<PersistedQueue.PersistedQueueStore> => {
  const queue = PersistedQueue.make({ name: queueOf(contender), schema })
  return {
    enqueue: (round) =>
      Effect.flatMap(queue, (queue) =>
        timed(
          enqueueAll(count, (n) => {
            const id = `${round}-${n}`
            return queue.offer(element(n, id), givesId ? { id } : undefined)
          })
        )
      ).pipe(Effect.orDie, Effect.provide(PersistedQueue.layer)),
    process: () =>
      Effect.flatMap(queue, (queue) => {
        const all = countdown(count)
        const taking = Effect.forEach(
          numbers(takers),
          () => Effect.forever(queue.take(() => Effect.sync(all.one))),
          { concurrency: "unbounded", discard: true }
        )
        return Effect.raceFirst(all.took, Effect.andThen(taking, Effect.never))
      }).pipe(Effect.orDie, Effect.provide(PersistedQueue.layer))
  }
}

const bare = (
  contender: Contender,
  count: number,
  options?: { readonly givesId?: boolean; readonly takers?: number }
) => persistedQueue(contender, count, payload, (n) => ({ to: "someone@example.com", n }), options)

const bareMessage = (count: number) =>
  persistedQueue("bareMessage", count, JobMessage, (n, id) => ({
    id,
    name: queueOf("bareMessage"),
    payload: { to: "someone@example.com", n },
    dispatchedAt: 1_767_225_600_000,
    trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
  }))

const ours = (
  contender: Contender,
  count: number,
  {
    among = [],
    givesId = false
  }: { readonly among?: ReadonlyArray<(typeof idle)[number]>; readonly givesId?: boolean } = {}
): Phases<PersistedQueue.PersistedQueueStore | Persistence.BackingPersistence> => {
  class Noop extends Job.make(queueOf(contender), { payload }) {}
  return {
    enqueue: (round) =>
      timed(
        enqueueAll(count, (n) =>
          Noop.dispatch({ to: "someone@example.com", n }, givesId ? { id: `${round}-${n}` } : undefined)
        )
      ).pipe(Effect.orDie, Effect.provide(QueueDispatcher.layer)),
    process: () =>
      Effect.suspend(() => {
        const all = countdown(count)
        const handlers = Layer.mergeAll(
          Noop.toLayer(() => Effect.sync(all.one)),
          ...idle.map((job) => job.toLayer(() => Effect.void))
        )
        return Effect.provide(
          all.took,
          QueueWorker.layer([Noop, ...among], { concurrency: atOnce }).pipe(Layer.provide(handlers))
        )
      }).pipe(Effect.orDie, Effect.provide(QueueDispatcher.layer))
  }
}

const clock = async (work: () => Promise<unknown>) => {
  const start = performance.now()
  await work()
  return performance.now() - start
}

/** Ten promises at a time. */
const inTurns = (count: number, one: (n: number) => Promise<unknown>) => {
  let next = 0
  return Promise.all(
    numbers(atOnce).map(async () => {
      while (next < count) await one(next++)
    })
  )
}

const promised = (phases: Record<Phase, (round: string) => Promise<number>>): Phases => ({
  enqueue: (round) => Effect.promise(() => phases.enqueue(round)),
  process: (round) => Effect.promise(() => phases.process(round))
})

const pgBoss = (url: string, count: number, batchSize: number): Phases => {
  const withBoss = async (use: (boss: PgBoss) => Promise<number>) => {
    const boss = new PgBoss({ connectionString: url, schedule: false })
    await boss.start()
    const took = await use(boss)
    await boss.stop({ graceful: false })
    return took
  }
  return promised({
    enqueue: (queue) =>
      withBoss(async (boss) => {
        await boss.createQueue(queue)
        return clock(() => inTurns(count, (n) => boss.send(queue, { to: "someone@example.com", n })))
      }),
    process: (queue) =>
      withBoss((boss) => {
        let left = count
        return clock(() =>
          Promise.all(
            numbers(atOnce).map(async () => {
              while (left > 0) {
                const jobs = await boss.fetch(queue, { batchSize })
                if (jobs.length === 0) break
                left -= jobs.length
                await boss.complete(
                  queue,
                  jobs.map(({ id }) => id)
                )
              }
            })
          )
        )
      })
  })
}

const silent = new Logger(() => () => {})

const graphile = (url: string, count: number, batched: boolean): Phases =>
  promised({
    enqueue: async () => {
      const utils = await makeWorkerUtils({ connectionString: url, logger: silent })
      await utils.migrate()
      const took = await clock(() =>
        inTurns(count, (n) => utils.addJob("noop", { to: "someone@example.com", n }))
      )
      await utils.release()
      return took
    },
    process: async () => {
      const all = countdown(count)
      const runner = await runGraphile({
        connectionString: url,
        logger: silent,
        concurrency: atOnce,
        noHandleSignals: true,
        taskList: { noop: async () => all.one() },
        ...(batched
          ? {
              preset: {
                worker: { localQueue: { size: 100 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 }
              }
            }
          : {})
      })
      const took = await Effect.runPromise(all.took)
      await runner.stop()
      return took
    }
  })

const redis = (port: number) => createClient({ socket: { host: "127.0.0.1", port } })

const bullmq = (port: number, count: number): Phases => {
  const withConnection = async (use: (connection: ReturnType<typeof redis>) => Promise<number>) => {
    const connection = redis(port)
    await connection.connect()
    const took = await use(connection)
    await connection.close()
    return took
  }
  return promised({
    enqueue: (name) =>
      withConnection(async (connection) => {
        const queue = new BullQueue(name, { connection })
        await queue.waitUntilReady()
        const took = await clock(() =>
          inTurns(count, (n) => queue.add("noop", { to: "someone@example.com", n }))
        )
        await queue.close()
        return took
      }),
    process: (name) =>
      withConnection(async (connection) => {
        const all = countdown(count)
        const worker = new BullWorker(name, async () => all.one(), {
          connection,
          concurrency: atOnce,
          autorun: false
        })
        await worker.waitUntilReady()
        void worker.run()
        const took = await Effect.runPromise(all.took)
        await worker.close()
        return took
      })
  })
}

/** Those that stand for PersistedQueue without us have Effect's store on Postgres as well. */
const effects: ReadonlySet<Contender> = new Set(["bare", "bareMessage", "bareGiven", "bareFifty"])

const storeLayer = ({
  contender,
  store
}: Told): Layer.Layer<
  PersistedQueue.PersistedQueueStore | Persistence.BackingPersistence,
  RedisError | SqlError | QueueStore.QueueStoreError
> => {
  switch (store._tag) {
    case "memory":
      return QueueStore.layerMemory
    case "SQLite":
      return Layer.provide(
        QueueStore.layerSql(),
        SqliteClient.layer({ filename: store.file, synchronous: "normal" })
      )
    case "Postgres":
      return Layer.provide(
        effects.has(contender) ? QueueStore.layerSql() : QueueStore.layerPostgres(PgClient),
        Postgres.client(store.url)
      )
    case "Redis":
      return Layer.provide(QueueStore.layerRedis(), Redis.client(store.port))
  }
}

const contenderOf = ({
  contender,
  count,
  store
}: Told): Phases<PersistedQueue.PersistedQueueStore | Persistence.BackingPersistence> => {
  if (store._tag === "Postgres") {
    if (contender === "pgBoss") return pgBoss(store.url, count, 1)
    if (contender === "pgBossBatches") return pgBoss(store.url, count, 10)
    if (contender === "graphile") return graphile(store.url, count, false)
    if (contender === "graphileBatches") return graphile(store.url, count, true)
  }
  if (store._tag === "Redis" && contender === "bullmq") return bullmq(store.port, count)
  switch (contender) {
    case "bare":
      return bare(contender, count)
    case "store":
      return bare(contender, count)
    case "bareFifty":
    case "storeFifty":
      return bare(contender, count, { takers: 50 })
    case "bareGiven":
      return bare(contender, count, { givesId: true })
    case "bareMessage":
      return bareMessage(count)
    case "ours":
      return ours(contender, count)
    case "oursGiven":
      return ours(contender, count, { givesId: true })
    case "many":
      return ours(contender, count, { among: idle })
    default:
      throw new Error(`${contender} isn't one for ${store._tag}`)
  }
}

if (process.send !== undefined) {
  // sound: the parent makes it
  const told = JSON.parse(process.argv[2] ?? "") as Told
  const runtime = ManagedRuntime.make(storeLayer(told))
  const phases = contenderOf(told)
  process.on("message", ({ phase, round }: Order) => {
    void runtime.runPromise(phases[phase](round)).then((took) => process.send?.(took))
  })
  process.on("disconnect", () => process.exit())
  void runtime.context().then(() => process.send?.("ready"))
}
