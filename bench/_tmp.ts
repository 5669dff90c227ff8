import { Effect, Layer, Redacted } from "effect"
import { PgClient } from "@effect/sql-pg"
import { PersistedQueue } from "effect/persistence"
import { QueueStore } from "../src/queue.ts"
import { Schema, Deferred } from "effect"
const [which, url, conc, count, rounds] = process.argv.slice(2) as [string, string, string, string, string]
const db = PgClient.layer({
  url: Redacted.make(url),
  maxConnections: 10,
  startupParameters: { timezone: "UTC" }
})
const store = Layer.provide(which === "ours" ? QueueStore.layerPostgres(PgClient) : QueueStore.layerSql(), db)
const payload = Schema.Struct({ to: Schema.String, n: Schema.Int })
const N = Number(count)
import { readdirSync, readFileSync } from "node:fs"
const pgcpu = () => {
  let t = 0
  for (const p of readdirSync("/proc")) {
    if (!/^\d+$/.test(p)) continue
    try {
      const s = readFileSync(`/proc/${p}/stat`, "utf8")
      if (!s.includes("(postgres)")) continue
      const f = s.slice(s.lastIndexOf(")") + 2).split(" ")
      t += Number(f[11]) + Number(f[12])
    } catch {}
  }
  return t * 10
}
await Effect.runPromise(
  Effect.gen(function* () {
    const queue = yield* PersistedQueue.make({ name: "bench." + which, schema: payload })
    const out: string[] = []
    for (let r = 0; r < Number(rounds); r++) {
      let t = performance.now()
      yield* Effect.forEach(
        Array.from({ length: N }, (_, n) => n),
        (n) => queue.offer({ to: "someone@example.com", n }),
        { concurrency: 10, discard: true }
      )
      const enq = (N / (performance.now() - t)) * 1000
      const done = Deferred.makeUnsafe<void>()
      let left = N
      t = performance.now()
      const cpu = process.cpuUsage()
      const pg = pgcpu()
      yield* Effect.raceFirst(
        Deferred.await(done),
        Effect.forEach(
          Array.from({ length: Number(conc) }),
          () =>
            Effect.forever(
              queue.take(() =>
                Effect.sync(() => {
                  if (--left === 0) Deferred.doneUnsafe(done, Effect.void)
                })
              )
            ),
          { concurrency: "unbounded", discard: true }
        )
      )
      const ms = performance.now() - t
      const c = process.cpuUsage(cpu)
      out.push(
        `enq ${enq.toFixed(0)} proc ${((N / ms) * 1000).toFixed(0)}/s node ${((c.user + c.system) / N).toFixed(0)}us pg ${(((pgcpu() - pg) * 1000) / N).toFixed(0)}us`
      )
    }
    console.log(which, conc, out.join(" | "))
  }).pipe(Effect.provide(Layer.provideMerge(PersistedQueue.layer, store)), Effect.scoped)
)
const st = (globalThis as any).STAT ?? []
console.log(st.length, JSON.stringify(st.slice(100, 130)))
process.exit(0)
