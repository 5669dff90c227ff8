import pg from "pg"
import { nameOf, statements } from "../src/layers/queue/PostgresTable.ts"
const st = statements(nameOf("effect_queue"))
const c = new pg.Client({ connectionString: process.argv[2] })
await c.connect()
await c.query("TRUNCATE effect_queue")
const mode = process.argv[3] ?? "auto",
  conc = Number(process.argv[4] ?? 10),
  drop = process.argv[5]
await c.query("SET plan_cache_mode = " + mode)
await c.query("SET timezone='UTC'")
if (drop === "drop")
  await c.query("DROP INDEX IF EXISTS idx_effect_queue_update; DROP INDEX IF EXISTS idx_effect_queue_take")
if (drop === "fill")
  await c.query(
    "DROP INDEX IF EXISTS idx_effect_queue_update; DROP INDEX IF EXISTS idx_effect_queue_take; ALTER TABLE effect_queue SET (fillfactor=60)"
  )
await c.query(
  `INSERT INTO effect_queue (id, queue_name, element, state, attempts, visible_at, created_at, updated_at) SELECT n::text, 'q', '{"to":"someone@example.com","n":1}', 'pending', 0, NOW(), NOW(), NOW() FROM generate_series(1, 20000) n`
)
const { readFileSync } = await import("node:fs")
const pid = (await c.query("SELECT pg_backend_pid() p")).rows[0].p
const cpu = () => {
  const s = readFileSync(`/proc/${pid}/stat`, "utf8")
  const f = s.slice(s.lastIndexOf(")") + 2).split(" ")
  return (Number(f[11]) + Number(f[12])) * 10
}
let ends: any[] = []
const lim = 16e6
let n = 0
const t = performance.now()
const c0 = cpu()
for (let i = 0; i < Math.min(300, 20000 / conc); i++) {
  const lock = crypto.randomUUID()
  const claim = [JSON.stringify([{ name: "q", most: conc }]), 30000, lock, lim]
  const r =
    ends.length === 0
      ? await c.query({ name: "claim", text: st.claim, values: claim })
      : await c.query({
          name: "both",
          text: st.settleAndClaim,
          values: [
            ...claim,
            ends.map((e) => e.sequence),
            ends.map((e) => e.lock),
            ends.map(() => "complete"),
            ends.map(() => "0"),
            ends.map(() => null)
          ]
        })
  ends = r.rows
    .filter((x: any) => x.id !== null)
    .map((x: any) => ({ sequence: x.sequence, lock, kind: "complete" }))
  n++
}
const ms = performance.now() - t
console.log(
  mode,
  conc,
  drop ?? "",
  `${(ms / n).toFixed(2)} ms a statement, backend cpu ${((cpu() - c0) / n).toFixed(2)} ms`
)
console.log((await c.query("SELECT name, generic_plans, custom_plans FROM pg_prepared_statements")).rows)
if (process.argv[6]) {
  await c.query("SET plan_cache_mode = force_generic_plan")
  const v = (a: any) => (Array.isArray(a) ? `'{${a.map((x) => (x === null ? "NULL" : x))}}'` : `'${a}'`)
  await c.query("PREPARE x AS " + st.settleAndClaim)
  const e = [
    JSON.stringify([{ name: "q", most: conc }]),
    30000,
    crypto.randomUUID(),
    lim,
    ends.map((e) => e.sequence),
    ends.map((e) => e.lock),
    ends.map(() => "complete"),
    ends.map(() => "0"),
    ends.map(() => null)
  ]
  const r = await c.query(`EXPLAIN (ANALYZE, BUFFERS) EXECUTE x(${e.map(v).join(",")})`)
  console.log(r.rows.map((x: any) => x["QUERY PLAN"]).join("\n"))
}
await c.end()
