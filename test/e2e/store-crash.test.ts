// The store on Postgres in processes that are killed at random while they work.
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { QueueStore } from "effect-jobs/queue"
import { PersistedQueue } from "effect/persistence"
import { SqlClient } from "effect/sql"
import { spawn } from "node:child_process"
import { fileURLToPath } from "node:url"
import { eventually } from "../support/eventually.ts"
import * as Postgres from "../support/Postgres.ts"

const program = fileURLToPath(new URL("../support/storeChild.ts", import.meta.url))
const kills = 8

/** A child, and each of its whole lines as it comes. */
const start = (url: string, onLine: (line: string) => void) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const child = spawn(process.execPath, [program, url], {
        stdio: ["ignore", "pipe", "ignore"],
        env: { ...process.env, NODE_NO_WARNINGS: "1" }
      })
      let rest = ""
      child.stdout.on("data", (data: Buffer) => {
        const lines = (rest + String(data)).split("\n")
        rest = lines.pop() ?? ""
        for (const line of lines) onLine(line)
      })
      const ended = new Promise<void>((resolve) => child.once("close", () => resolve()))
      return async () => {
        child.kill("SIGKILL")
        await ended
      }
    }),
    (kill) => Effect.promise(kill)
  )

describe("the store on Postgres under SIGKILL", () => {
  it.live(
    "what is acknowledged is never repeated, and nothing that was accepted is lost",
    () =>
      Effect.gen(function* () {
        const { url } = yield* Postgres.make()
        const context = yield* Layer.build(
          Layer.provideMerge(QueueStore.layerPostgres(PgClient), Postgres.client(url))
        )
        yield* Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          const { offer } = yield* PersistedQueue.PersistedQueueStore
          let accepted = 0
          yield* Effect.forkScoped(
            Effect.forever(
              Effect.gen(function* () {
                yield* offer({ name: "soak", id: String(accepted), element: accepted, isCustomId: true })
                accepted++
                yield* Effect.sleep(1)
              })
            )
          ).pipe(
            Effect.flatMap((offering) =>
              Effect.gen(function* () {
                const began = new Map<string, number>()
                const acknowledged = new Set<string>()
                const repeated: Array<string> = []
                const onLine = (line: string) => {
                  const [what, id = ""] = line.split(" ")
                  if (what === "acknowledged") acknowledged.add(id)
                  if (what !== "began") return
                  if (acknowledged.has(id)) repeated.push(id)
                  began.set(id, (began.get(id) ?? 0) + 1)
                }
                for (let n = 0; n < kills; n++) {
                  yield* Effect.scoped(
                    Effect.gen(function* () {
                      const before = acknowledged.size
                      yield* start(url, onLine)
                      yield* eventually(
                        Effect.sync(() => acknowledged.size),
                        (size) => size > before + 100
                      )
                      yield* Effect.sleep(Math.random() * 300)
                    })
                  )
                }
                yield* Effect.sync(() => offering.interruptUnsafe())
                yield* start(url, onLine)
                const left = Effect.map(
                  sql<{ readonly left: number }>`
                    SELECT COUNT(*)::int AS left FROM effect_queue WHERE state <> 'completed'`,
                  ([row]) => row?.left
                )
                yield* eventually(left, (left) => left === 0, 40_000, 200)
                const cut = [...began.values()].filter((times) => times > 1).length
                assert.isEmpty(repeated)
                assert.isAtLeast(began.size, accepted)
                // a kill repeats what was under way, and no more than that
                assert.isAtMost(cut, kills * 20)
              })
            )
          )
        }).pipe(Effect.provideContext(context))
      }).pipe(Effect.scoped),
    120_000
  )
})
