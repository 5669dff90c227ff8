/**
 * The queue against bare PersistedQueue on each store, and against other queues on the same servers. Jobs do
 * nothing, ten at once; each ratio is of two measurements that follow each other in one repetition.
 */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Queue as BullQueue, Worker as BullWorker } from "bullmq"
import { Deferred, Effect, Layer, Schema } from "effect"
import { Job, JobMessage } from "effect-jobs"
import { QueueDispatcher, QueueStore, QueueWorker } from "effect-jobs/queue"
import { PersistedQueue } from "effect/persistence"
import { Logger, makeWorkerUtils, run as runGraphile } from "graphile-worker"
import { PgBoss } from "pg-boss"
import { createClient } from "redis"
import * as Postgres from "../test/support/Postgres.ts"
import * as Redis from "../test/support/Redis.ts"
import * as Sqlite from "../test/support/Sqlite.ts"
import type { Row } from "./Row.ts"

const repetitions = 5
const atOnce = 10

class Noop extends Job.make("bench.noop", { payload: { to: Schema.String, n: Schema.Int } }) {}
const idle = Array.from({ length: 19 }, (_, n) =>
  Job.make(`bench.idle-${n}`, { payload: { to: Schema.String } })
)

/** Milliseconds for all jobs. */
interface Took {
  readonly enqueue: number
  readonly process: number
}

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

let round = 0

/** PersistedQueue without us, with whatever element it is given. */
const persistedQueue = <S extends Schema.Codec<unknown, unknown>>(
  count: number,
  schema: S,
  element: (n: number) => S["Type"]
) =>
  Effect.gen(function* () {
    const queue = yield* PersistedQueue.make({ name: `bare ${++round}`, schema })
    const enqueue = yield* timed(enqueueAll(count, (n) => queue.offer(element(n), { id: `${round}-${n}` })))
    const all = countdown(count)
    const takers = Effect.forEach(
      numbers(atOnce),
      () => Effect.forever(queue.take(() => Effect.sync(all.one))),
      { concurrency: "unbounded", discard: true }
    )
    return { enqueue, process: yield* Effect.raceFirst(all.took, Effect.andThen(takers, Effect.never)) }
  }).pipe(Effect.orDie, Effect.provide(PersistedQueue.layer))

const bare = (count: number) =>
  persistedQueue(count, Noop.payloadSchema, (n) => ({ to: "someone@example.com", n }))

/** As `bare`, with the very message that we send: what is left is what we do, not what we carry. */
const bareMessage = (count: number) =>
  persistedQueue(count, JobMessage, (n) => ({
    id: `${round}-${n}`,
    name: "bench.noop",
    payload: { to: "someone@example.com", n },
    dispatchedAt: 1_767_225_600_000,
    trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
  }))

const ours = (count: number, among: ReadonlyArray<(typeof idle)[number]> = []) =>
  Effect.gen(function* () {
    const id = ++round
    const enqueue = yield* timed(
      enqueueAll(count, (n) => Noop.dispatch({ to: "someone@example.com", n }, { id: `${id}-${n}` }))
    )
    const all = countdown(count)
    const handlers = Layer.mergeAll(
      Noop.toLayer(() => Effect.sync(all.one)),
      ...idle.map((job) => job.toLayer(() => Effect.void))
    )
    const worker = QueueWorker.layer([Noop, ...among], { concurrency: atOnce }).pipe(Layer.provide(handlers))
    return { enqueue, process: yield* Effect.provide(all.took, worker) }
  }).pipe(Effect.orDie, Effect.provide(QueueDispatcher.layer))

/** What a store shows, by the name of the contender. */
type Rounds<Name extends string> = Record<Name, ReadonlyArray<Took>>

const repeat = <Name extends string, R>(
  contenders: Record<Name, Effect.Effect<Took, never, R>>
): Effect.Effect<Rounds<Name>, never, R> =>
  Effect.gen(function* () {
    // sound: these are the record's own keys
    const names = Object.keys(contenders) as Array<Name>
    const rounds = Object.fromEntries(names.map((name) => [name, [] as Array<Took>])) as unknown as Record<
      Name,
      Array<Took>
    >
    for (let n = 0; n <= repetitions; n++) {
      for (const name of names) {
        const took = yield* contenders[name]
        // the first is for the compiler and the caches
        if (n > 0) rounds[name].push(took)
      }
    }
    return rounds
  })

const perSecond = (count: number, rounds: ReadonlyArray<Took>, what: keyof Took) => {
  const took = rounds.map((round) => round[what]).toSorted((a, b) => a - b)[Math.floor(rounds.length / 2)]
  return Math.round((count / (took ?? Number.NaN)) * 1000).toLocaleString("en")
}

const row = (
  name: string,
  count: number,
  what: keyof Took,
  ours: ReadonlyArray<Took>,
  theirs: ReadonlyArray<Took>
): Row => ({
  name,
  ratios: ours.map((took, n) => took[what] / (theirs[n]?.[what] ?? Number.NaN)),
  note: `${perSecond(count, ours, what)}/s against ${perSecond(count, theirs, what)}/s`
})

const againstBare = (
  store: string,
  count: number,
  { bare, bareMessage, many, ours }: Rounds<"bare" | "bareMessage" | "ours" | "many">
): ReadonlyArray<Row> => [
  row(`${store}, enqueue / PersistedQueue with the payload alone`, count, "enqueue", ours, bare),
  row(`${store}, enqueue / PersistedQueue with the same message`, count, "enqueue", ours, bareMessage),
  row(`${store}, process / PersistedQueue with the payload alone`, count, "process", ours, bare),
  row(`${store}, process / PersistedQueue with the same message`, count, "process", ours, bareMessage),
  row(
    `${store}, process in a worker of 20 jobs / PersistedQueue with the same message`,
    count,
    "process",
    many,
    bareMessage
  )
]

const effects = (count: number) => ({
  bare: bare(count),
  bareMessage: bareMessage(count),
  ours: ours(count),
  many: ours(count, idle)
})

const memory = Effect.gen(function* () {
  const count = 10_000
  return againstBare("memory", count, yield* repeat(effects(count)))
}).pipe(Effect.provide(QueueStore.layerMemory))

const sqlite = Effect.gen(function* () {
  const count = 10_000
  return againstBare("SQLite", count, yield* repeat(effects(count)))
}).pipe(
  Effect.provide(
    Layer.provide(
      QueueStore.layerSql(),
      Layer.unwrap(
        Effect.map(
          Effect.acquireRelease(
            Effect.sync(() => mkdtempSync(join(tmpdir(), "effect-jobs-bench-"))),
            (folder) => Effect.sync(() => rmSync(folder, { recursive: true }))
          ),
          (folder) => Sqlite.client(join(folder, "queue.db"))
        )
      )
    )
  )
)

const boss = (url: string, count: number, batchSize: number) =>
  Effect.promise(async () => {
    const boss = new PgBoss({ connectionString: url, schedule: false })
    await boss.start()
    const queue = `round-${++round}`
    await boss.createQueue(queue)
    const enqueue = await clock(() =>
      inTurns(count, (n) => boss.send(queue, { to: "someone@example.com", n }))
    )
    let left = count
    const process = await clock(() =>
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
    await boss.stop({ graceful: false })
    return { enqueue, process }
  })

const silent = new Logger(() => () => {})

const graphile = (url: string, count: number, batched: boolean) =>
  Effect.promise(async () => {
    const utils = await makeWorkerUtils({ connectionString: url, logger: silent })
    await utils.migrate()
    const enqueue = await clock(() =>
      inTurns(count, (n) => utils.addJob("noop", { to: "someone@example.com", n }))
    )
    await utils.release()
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
    const process = await Effect.runPromise(all.took)
    await runner.stop()
    return { enqueue, process }
  })

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

const postgres = Effect.gen(function* () {
  const count = 2_000
  const { createDatabase, url } = yield* Postgres.make()
  yield* Effect.promise(() => createDatabase("others"))
  const others = url.replace(/postgres$/, "others")
  const rounds = yield* repeat({
    ...effects(count),
    boss: boss(others, count, 1),
    bossBatches: boss(others, count, 10),
    graphile: graphile(others, count, false),
    graphileBatches: graphile(others, count, true)
  }).pipe(Effect.provide(Layer.provide(QueueStore.layerSql(), Postgres.client(url))))
  return [
    ...againstBare("Postgres", count, rounds),
    row("Postgres, enqueue / pg-boss", count, "enqueue", rounds.ours, rounds.boss),
    row("Postgres, process / pg-boss, one by one", count, "process", rounds.ours, rounds.boss),
    row("Postgres, process / pg-boss, batches of 10", count, "process", rounds.ours, rounds.bossBatches),
    row("Postgres, enqueue / graphile-worker", count, "enqueue", rounds.ours, rounds.graphile),
    row("Postgres, process / graphile-worker", count, "process", rounds.ours, rounds.graphile),
    row(
      "Postgres, process / graphile-worker, local queue and batches",
      count,
      "process",
      rounds.ours,
      rounds.graphileBatches
    )
  ]
})

const bull = (port: number, count: number) =>
  Effect.promise(async () => {
    const client = createClient({ socket: { host: "127.0.0.1", port } })
    await client.connect()
    const connection = client
    const name = `round-${++round}`
    const queue = new BullQueue(name, { connection })
    await queue.waitUntilReady()
    const enqueue = await clock(() =>
      inTurns(count, (n) => queue.add("noop", { to: "someone@example.com", n }))
    )
    const all = countdown(count)
    const worker = new BullWorker(name, async () => all.one(), {
      connection,
      concurrency: atOnce,
      autorun: false
    })
    await worker.waitUntilReady()
    void worker.run()
    const process = await Effect.runPromise(all.took)
    await worker.close()
    await queue.close()
    await client.close()
    return { enqueue, process }
  })

const redis = Effect.gen(function* () {
  const count = 10_000
  const { port } = yield* Redis.make
  const rounds = yield* repeat({ ...effects(count), bull: bull(port, count) }).pipe(
    Effect.provide(Layer.provide(QueueStore.layerRedis(), Redis.client(port)))
  )
  return [
    ...againstBare("Redis", count, rounds),
    row("Redis, enqueue / bullmq", count, "enqueue", rounds.ours, rounds.bull),
    row("Redis, process / bullmq", count, "process", rounds.ours, rounds.bull)
  ]
})

/** All stores that this machine has, one after the other. */
export const run = (): Promise<ReadonlyArray<Row>> =>
  Effect.runPromise(
    Effect.scoped(
      Effect.gen(function* () {
        return [
          ...(yield* memory),
          ...(yield* sqlite),
          ...(yield* postgres),
          ...(Redis.hasRedis ? yield* redis : [])
        ]
      })
    )
  )
