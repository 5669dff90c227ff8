/**
 * The queue against bare PersistedQueue on each store, and against other queues on the same servers. Jobs do
 * nothing, ten at once; each contender has a process of its own (`QueueContender.ts`), and each ratio is of two
 * measurements that follow each other in one repetition.
 */
import { fork } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, type Scope } from "effect"
import * as Postgres from "../test/support/Postgres.ts"
import * as Redis from "../test/support/Redis.ts"
import type { Contender, Store, Told, Took } from "./QueueContender.ts"
import { median, type Row } from "./Row.ts"

const repetitions = 5

/**
 * A young generation of one size. By itself it grows as chance has it, and what doesn't fit in it makes the same
 * program a third slower, on Redis, in one process than in the next.
 */
const execArgv = ["--min-semi-space-size=64", "--max-semi-space-size=64"]

/** A contender's process, until the scope closes: an Effect that runs a round there. */
const start = (told: Told): Effect.Effect<Effect.Effect<Took>, never, Scope.Scope> =>
  Effect.gen(function* () {
    const child = yield* Effect.acquireRelease(
      Effect.sync(() =>
        fork(join(import.meta.dirname, "QueueContender.ts"), [JSON.stringify(told)], { execArgv })
      ),
      (child) => Effect.sync(() => child.kill("SIGKILL"))
    )
    const answer = () =>
      new Promise<Took>((resolve, reject) => {
        const ended = () => reject(new Error(`${told.contender} on ${told.store._tag} has ended`))
        child.once("exit", ended)
        child.once("message", (took: Took) => {
          child.off("exit", ended)
          resolve(took)
        })
      })
    // that it is ready
    yield* Effect.promise(answer)
    return Effect.promise(() => {
      child.send("round")
      return answer()
    })
  })

/** The repetitions of a store, by the contender. */
type Rounds<Names extends Contender> = Record<Names, ReadonlyArray<Took>>

/** Rounds of a contender in one repetition: they take turns, so that a busy moment of the machine is everyone's. */
const turns = 5

const sum = (rounds: ReadonlyArray<Took>): Took => ({
  enqueue: rounds.reduce((total, { enqueue }) => total + enqueue, 0),
  process: rounds.reduce((total, { process }) => total + process, 0)
})

const measure = <Names extends Contender>(
  store: (contender: Names) => Store,
  count: number,
  contenders: ReadonlyArray<Names>
): Effect.Effect<Rounds<Names>> =>
  Effect.scoped(
    Effect.gen(function* () {
      const started = yield* Effect.forEach(contenders, (contender) =>
        Effect.map(start({ store: store(contender), contender, count }), (round) => ({
          contender,
          round,
          took: [] as Array<Took>
        }))
      )
      for (let turn = 0; turn < (1 + repetitions) * turns; turn++) {
        for (const { round, took } of started) took.push(yield* round)
      }
      const measured = started.map(({ contender, took }) => [
        contender,
        // the first repetition is for the compiler and the caches
        Array.from({ length: repetitions }, (_, n) => sum(took.slice((n + 1) * turns, (n + 2) * turns)))
      ])
      // sound: there is one of each name
      return Object.fromEntries(measured) as Rounds<Names>
    })
  )

/** What is measured on every store. */
const against = ["bare", "bareMessage", "ours", "many"] as const

const perSecond = (count: number, rounds: ReadonlyArray<Took>, what: keyof Took) =>
  Math.round(((count * turns) / median(rounds.map((round) => round[what]))) * 1000).toLocaleString("en")

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
  { bare, bareMessage, many, ours }: Rounds<(typeof against)[number]>
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

const memory = Effect.gen(function* () {
  const count = 4_000
  return againstBare("memory", count, yield* measure(() => ({ _tag: "memory" }), count, against))
})

const sqlite = Effect.gen(function* () {
  const count = 4_000
  const folder = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "effect-jobs-bench-"))),
    (folder) => Effect.sync(() => rmSync(folder, { recursive: true }))
  )
  const file = (contender: Contender): Store => ({ _tag: "SQLite", file: join(folder, `${contender}.db`) })
  return againstBare("SQLite", count, yield* measure(file, count, against))
})

const postgres = Effect.gen(function* () {
  const count = 2_000
  const { createDatabase, url } = yield* Postgres.make()
  yield* Effect.promise(() => createDatabase("others"))
  const others = url.replace(/postgres$/, "others")
  const rounds = yield* measure(
    (contender): Store => ({
      _tag: "Postgres",
      url: against.some((name) => name === contender) ? url : others
    }),
    count,
    [...against, "pgBoss", "pgBossBatches", "graphile", "graphileBatches"]
  )
  return [
    ...againstBare("Postgres", count, rounds),
    row("Postgres, enqueue / pg-boss", count, "enqueue", rounds.ours, rounds.pgBoss),
    row("Postgres, process / pg-boss, one by one", count, "process", rounds.ours, rounds.pgBoss),
    row("Postgres, process / pg-boss, batches of 10", count, "process", rounds.ours, rounds.pgBossBatches),
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

const redis = Effect.gen(function* () {
  const count = 4_000
  const { port } = yield* Redis.make
  const rounds = yield* measure(() => ({ _tag: "Redis", port }), count, [...against, "bullmq"])
  return [
    ...againstBare("Redis", count, rounds),
    row("Redis, enqueue / bullmq", count, "enqueue", rounds.ours, rounds.bullmq),
    row("Redis, process / bullmq", count, "process", rounds.ours, rounds.bullmq)
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
