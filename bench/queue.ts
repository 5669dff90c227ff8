/**
 * The queue against bare PersistedQueue on each store, and against other queues on the same servers. Jobs do
 * nothing, ten at once; each contender has a process of its own that enqueues and one that processes
 * (`QueueContender.ts`), as a web server and its worker are, and each ratio is of two measurements that follow each
 * other in one repetition.
 */
import { fork } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, type Scope } from "effect"
import * as Postgres from "../test/support/Postgres.ts"
import * as Redis from "../test/support/Redis.ts"
import type { Contender, Order, Phase, Store, Told, Took } from "./QueueContender.ts"
import { median, type Row } from "./Row.ts"

const repetitions = 5

/**
 * A young generation of one size. By itself it grows as chance has it, and what doesn't fit in it makes the same
 * program a third slower, on Redis, in one process than in the next.
 */
const execArgv = ["--min-semi-space-size=64", "--max-semi-space-size=64"]

/** A contender's process, until the scope closes: it does what it is ordered, and says how long it took. */
const start = (told: Told): Effect.Effect<(order: Order) => Effect.Effect<number>, never, Scope.Scope> =>
  Effect.gen(function* () {
    const child = yield* Effect.acquireRelease(
      Effect.sync(() =>
        fork(join(import.meta.dirname, "QueueContender.ts"), [JSON.stringify(told)], { execArgv })
      ),
      (child) => Effect.sync(() => child.kill("SIGKILL"))
    )
    const answer = () =>
      new Promise<number>((resolve, reject) => {
        const ended = () => reject(new Error(`${told.contender} on ${told.store._tag} has ended`))
        child.once("exit", ended)
        child.once("message", (took: number) => {
          child.off("exit", ended)
          resolve(took)
        })
      })
    // that it is ready
    yield* Effect.promise(answer)
    return (order) =>
      Effect.promise(() => {
        child.send(order)
        return answer()
      })
  })

/** A contender that runs a round, of a name that it hasn't had before. */
const startContender = (told: Told) =>
  Effect.gen(function* () {
    const enqueuer = yield* start(told)
    // what is in memory is in one process
    const worker = told.store._tag === "memory" ? enqueuer : yield* start(told)
    return (round: string): Effect.Effect<Took> =>
      Effect.all({
        enqueue: enqueuer({ phase: "enqueue", round }),
        process: worker({ phase: "process", round })
      })
  })

/** The repetitions of a store, by the contender. */
type Rounds<Names extends Contender> = Record<Names, ReadonlyArray<Took>>

/** How much is measured in a repetition. */
interface Size {
  /** Rounds of a contender that aren't counted, for the compiler and the caches. */
  readonly warmUps: number
  /** Rounds that are: the contenders take turns, so that a busy moment of the machine is everyone's. */
  readonly turns: number
  /** Jobs a round. */
  readonly count: number
}

/**
 * Long rounds, for a short one is slower in a process that has just been idle, and as many before them as it takes
 * until the compiler is done: the second and the third of a process are still faster than the one before.
 */
const fast: Size = { warmUps: 3, turns: 2, count: 20_000 }
/** Others on Postgres get slower with what they have completed. */
const slow: Size = { warmUps: 1, turns: 1, count: 2_000 }

const sum = (rounds: ReadonlyArray<Took>): Took => ({
  enqueue: rounds.reduce((total, { enqueue }) => total + enqueue, 0),
  process: rounds.reduce((total, { process }) => total + process, 0)
})

const measure = <Names extends Contender>(
  store: (contender: Names) => Store,
  { count, turns, warmUps }: Size,
  contenders: ReadonlyArray<Names>
): Effect.Effect<Rounds<Names>> =>
  Effect.gen(function* () {
    const measured = contenders.map((contender) => ({ contender, repetitions: [] as Array<Took> }))
    for (let n = 0; n < repetitions; n++) {
      // new processes for each: how the compiler has taken to one is a matter of luck, too
      const repetition = Effect.gen(function* () {
        const started = yield* Effect.forEach(measured, ({ contender, repetitions }) =>
          Effect.map(startContender({ store: store(contender), contender, count }), (run) => ({
            name: `${contender}-${n}`,
            repetitions,
            run,
            took: [] as Array<Took>
          }))
        )
        for (let turn = 0; turn < warmUps + turns; turn++) {
          for (const { name, run, took } of started) took.push(yield* run(`${name}-${turn}`))
        }
        for (const { repetitions, took } of started) repetitions.push(sum(took.slice(warmUps)))
      })
      yield* Effect.scoped(repetition)
    }
    const rounds = measured.map(({ contender, repetitions }) => [contender, repetitions])
    // sound: there is one of each name
    return Object.fromEntries(rounds) as Rounds<Names>
  })

/** What is measured on every store. */
const against = ["bare", "bareMessage", "ours", "many", "bareGiven", "oursGiven"] as const

/** On Postgres, bare PersistedQueue on our store and with more at once. */
const stores = ["store", "bareFifty", "storeFifty"] as const

const perSecond = ({ count, turns }: Size, rounds: ReadonlyArray<Took>, what: Phase) =>
  Math.round(((count * turns) / median(rounds.map((round) => round[what]))) * 1000).toLocaleString("en")

const row = (
  name: string,
  size: Size,
  what: Phase,
  ours: ReadonlyArray<Took>,
  theirs: ReadonlyArray<Took>
): Row => ({
  name,
  ratios: ours.map((took, n) => took[what] / (theirs[n]?.[what] ?? Number.NaN)),
  note: `${perSecond(size, ours, what)}/s against ${perSecond(size, theirs, what)}/s`
})

const againstBare = (
  store: string,
  size: Size,
  { bare, bareGiven, bareMessage, many, ours, oursGiven }: Rounds<(typeof against)[number]>
): ReadonlyArray<Row> => [
  row(`${store}, enqueue / PersistedQueue with the payload alone`, size, "enqueue", ours, bare),
  row(`${store}, enqueue / PersistedQueue with the same message`, size, "enqueue", ours, bareMessage),
  row(
    `${store}, enqueue under given ids / PersistedQueue with the payload alone`,
    size,
    "enqueue",
    oursGiven,
    bareGiven
  ),
  row(`${store}, process / PersistedQueue with the payload alone`, size, "process", ours, bare),
  row(`${store}, process / PersistedQueue with the same message`, size, "process", ours, bareMessage),
  row(
    `${store}, process in a worker of 20 jobs / PersistedQueue with the same message`,
    size,
    "process",
    many,
    bareMessage
  )
]

const memory = Effect.gen(function* () {
  return againstBare("memory", fast, yield* measure(() => ({ _tag: "memory" }), fast, against))
})

const sqlite = Effect.gen(function* () {
  const folder = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "effect-jobs-bench-"))),
    (folder) => Effect.sync(() => rmSync(folder, { recursive: true }))
  )
  const file = (contender: Contender): Store => ({ _tag: "SQLite", file: join(folder, `${contender}.db`) })
  return againstBare("SQLite", fast, yield* measure(file, fast, against))
})

const postgres = Effect.gen(function* () {
  // ten connections a process, and up to four of our store's own
  const { createDatabase, url } = yield* Postgres.make(["-c", "max_connections=500"])
  yield* Effect.promise(() => createDatabase("others"))
  const others = url.replace(/postgres$/, "others")
  const rounds = yield* measure(
    (contender): Store => ({
      _tag: "Postgres",
      url: [...against, ...stores].some((name) => name === contender) ? url : others
    }),
    slow,
    [...against, ...stores, "pgBoss", "pgBossBatches", "graphile", "graphileBatches"]
  )
  return [
    ...againstBare("Postgres", slow, rounds),
    row("Postgres, process, our store / Effect's", slow, "process", rounds.store, rounds.bare),
    row(
      "Postgres, process, our store / Effect's, 50 at once",
      slow,
      "process",
      rounds.storeFifty,
      rounds.bareFifty
    ),
    row("Postgres, enqueue, our store / Effect's", slow, "enqueue", rounds.store, rounds.bare),
    row("Postgres, enqueue / pg-boss", slow, "enqueue", rounds.ours, rounds.pgBoss),
    row("Postgres, process / pg-boss, one by one", slow, "process", rounds.ours, rounds.pgBoss),
    row("Postgres, process / pg-boss, batches of 10", slow, "process", rounds.ours, rounds.pgBossBatches),
    row("Postgres, enqueue / graphile-worker", slow, "enqueue", rounds.ours, rounds.graphile),
    row("Postgres, process / graphile-worker", slow, "process", rounds.ours, rounds.graphile),
    row(
      "Postgres, process / graphile-worker, local queue and batches",
      slow,
      "process",
      rounds.ours,
      rounds.graphileBatches
    )
  ]
})

const redis = Effect.gen(function* () {
  const { port } = yield* Redis.make
  const rounds = yield* measure(() => ({ _tag: "Redis", port }), fast, [...against, "bullmq"])
  return [
    ...againstBare("Redis", fast, rounds),
    row("Redis, enqueue / bullmq", fast, "enqueue", rounds.ours, rounds.bullmq),
    row("Redis, process / bullmq", fast, "process", rounds.ours, rounds.bullmq)
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
