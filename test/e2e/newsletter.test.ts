// The example as a user starts it: a process of its own, its output, and the mails that it leaves.
import { spawn, spawnSync } from "node:child_process"
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { Effect } from "effect"
import { afterAll, assert, beforeAll, describe, it } from "vitest"
import { build } from "../support/build.ts"
import * as Inngest from "../support/Inngest.ts"

const root = fileURLToPath(new URL("../..", import.meta.url))
const temp = mkdtempSync(join(tmpdir(), "effect-jobs-newsletter-"))

beforeAll(() => {
  build()
  // as root, the database runs as another user, who must get in
  mkdirSync(join(temp, "out"), { recursive: true })
  spawnSync("chmod", ["-R", "a+rx", temp])
})
afterAll(() => rmSync(temp, { recursive: true, force: true }))

const start = (...args: ReadonlyArray<string>) => {
  const child = spawn(process.execPath, ["examples/newsletter/main.ts", ...args], {
    cwd: root,
    env: { ...process.env, NODE_NO_WARNINGS: "1" },
    stdio: ["ignore", "pipe", "pipe"]
  })
  let output = ""
  child.stdout.on("data", (data: Buffer) => (output += String(data)))
  child.stderr.on("data", (data: Buffer) => (output += String(data)))
  const ended = new Promise<{ readonly code: number | null; readonly output: string }>((resolve) =>
    child.once("close", (code) => resolve({ code, output }))
  )
  return { child, ended, output: () => output }
}
const run = (...args: ReadonlyArray<string>) => start(...args).ended

const mails = (out: string) => {
  try {
    return readdirSync(out).filter((file) => file.endsWith(".eml"))
  } catch {
    return []
  }
}

const fileOf = (count: number) => {
  const file = join(temp, `${count}.csv`)
  const lines = Array.from({ length: count }, (_, n) => `s${n}@example.com,Subscriber ${n},2026-01-05`)
  writeFileSync(file, ["email,name,joinedAt", ...lines, ""].join("\n"))
  return file
}

const until = async (condition: () => boolean) => {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5))
}

describe("the newsletter", { concurrent: true }, () => {
  it("welcomes who is in the shipped file, and says who couldn't be", async () => {
    const out = join(temp, "shipped")
    const { code, output } = await run("--out", out)
    assert.strictEqual(code, 0, output)
    assert.match(output, /sent +8\n/)
    assert.match(output, /failed +2\n/)
    assert.match(output, /ken@no-such-user.example, 1 attempt: 550/)
    assert.match(output, /john@unreachable.example, 4 attempts: 421/)
    assert.match(output, /refused +2\n +line 5: .*\n +line 8: Expected an email address/)
    assert.strictEqual(mails(out).length, 8)
    assert.match(readFileSync(join(out, mails(out)[0] ?? ""), "utf8"), /^To: "?Ada Lovelace/m)
  })

  it("takes a file of 10,000 lines", async () => {
    const out = join(temp, "many")
    const { code, output } = await run(fileOf(10_000), "--out", out)
    assert.strictEqual(code, 0, output)
    assert.match(output, /sent +10000\n/)
    assert.match(output, /failed +0\n/)
    assert.strictEqual(mails(out).length, 10_000)
  })

  it("says that there is no such file", async () => {
    const { code, output } = await run(join(temp, "nowhere.csv"))
    assert.notStrictEqual(code, 0)
    assert.match(output, /nowhere\.csv/)
    assert.notMatch(output, /at .*main\.ts/)
  })

  it("publishes an issue: an event, a listener, a mail for each subscriber", async () => {
    const out = join(temp, "published")
    const { code, output } = await run("publish", "The Big Issue", "--out", out)
    assert.strictEqual(code, 0, output)
    assert.match(output, /sent +8\n/)
    assert.isTrue(mails(out).every((mail) => mail.startsWith("the-big-issue")))
  })

  it("on the queue: killed in the middle, a second start goes on with what was left", async () => {
    const out = join(temp, "queued")
    const args = [
      fileOf(3_000),
      "--dispatcher",
      "queue",
      "--data",
      join(temp, "queue"),
      "--out",
      out
    ] as const
    const first = start(...args)
    await until(() => mails(out).length >= 100)
    first.child.kill("SIGKILL")
    await first.ended
    const before = mails(out).length
    assert.isBelow(before, 3_000)
    const { code, output } = await run(...args)
    assert.strictEqual(code, 0, output)
    assert.strictEqual(mails(out).length, 3_000)
  })

  it("signs up in one transaction, and keeps what failed for good", async () => {
    const data = ["--data", join(temp, "sign-up")] as const
    const out = join(temp, "signed-up")
    assert.match((await run("sign-up", "new@example.com", "New", ...data)).output, /Signed up/)
    const failed = await run("sign-up", "other@example.com", "Other", "--fail", ...data)
    assert.notStrictEqual(failed.code, 0)
    assert.match(failed.output, /the sign-up failed after its dispatch/)
    const { output } = await run("--dispatcher", "queue", "--out", out, ...data)
    assert.match(output, /failed +2\n/)
    assert.strictEqual(mails(out).filter((mail) => mail.includes("new%40")).length, 1)
    assert.strictEqual(mails(out).filter((mail) => mail.includes("other%40")).length, 0)

    const list = (await run("dead-letters", "list", ...data)).output
    assert.match(list, /mail\.welcome to ken@no-such-user\.example, NotRetryable: 550 .* \(reply 550\)/)
    assert.match(list, /2 dead letters/)
    assert.match((await run("dead-letters", "retry", ...data)).output, /2 will run again/)
    assert.match((await run("dead-letters", "list", ...data)).output, /0 dead letters/)
  })

  it("imports a large file in steps: killed in the middle, no batch is lost and none written twice", async () => {
    const args = [
      "import",
      fileOf(10_000),
      "--dispatcher",
      "queue",
      "--data",
      join(temp, "import"),
      "--out",
      join(temp, "imported")
    ] as const
    const first = start(...args)
    await until(() => first.output().includes("batch 4 of 10"))
    first.child.kill("SIGKILL")
    await first.ended
    const { code, output } = await run(...args)
    assert.strictEqual(code, 0, output)
    assert.include(output, "batch 10 of 10")
    const { output: batches } = await run("batches", "--data", join(temp, "import"))
    assert.match(batches, /10 batches, 10 of them different, 10000 subscribers/)
  })

  it.skipIf(Inngest.bin === undefined)(
    Inngest.bin === undefined ? `on Inngest (${Inngest.missing})` : "on Inngest",
    async () => {
      const out = join(temp, "inngest")
      await Effect.runPromise(
        Effect.scoped(
          Effect.gen(function* () {
            const server = yield* Inngest.make(["dev"])
            // the first start makes the functions known to the server
            const { code, output } = yield* Effect.promise(() =>
              run("--dispatcher", "inngest", "--server", server.url, "--out", out)
            )
            assert.strictEqual(code, 0, output)
            assert.match(output, /sent +8\n/)
            assert.match(output, /failed +2\n/)
            assert.strictEqual(mails(out).length, 8)
            // the whole chain: an event, its listener, a mail job for each subscriber, each mail once
            const published = yield* Effect.promise(() =>
              run("publish", "Issue One", "--dispatcher", "inngest", "--server", server.url, "--out", out)
            )
            assert.match(published.output, /sent +8\n/)
            assert.strictEqual(mails(out).filter((mail) => mail.startsWith("issue-one")).length, 8)
          })
        )
      )
    }
  )
})
