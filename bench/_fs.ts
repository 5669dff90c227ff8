import { openSync, writeSync, fdatasyncSync } from "node:fs"
for (const d of ["/tmp/work/fs", "/dev/shm/fs"]) {
  const f = openSync(d, "w")
  const b = Buffer.alloc(8192)
  const t: number[] = []
  for (let i = 0; i < 300; i++) {
    const s = performance.now()
    writeSync(f, b, 0, 8192, 0)
    fdatasyncSync(f)
    t.push(performance.now() - s)
  }
  t.sort((a, b) => a - b)
  console.log(d, "fdatasync median", t[150], "p90", t[270])
}
