// What the fault tests with one worker process have in common: a worker process, and its journal.
import { Effect } from "effect"
import { spawn } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { eventually } from "./eventually.ts"
import type * as Child from "./inngestChild.ts"
import { freePort } from "./freePort.ts"

export const journalOf = (file: string) =>
  readFileSync(file, "utf8")
    .split("\n")
    .filter((line) => line !== "")

/** Asks until the check no longer throws, for 5 minutes at most. */
export const holds = <A>(check: () => A | Promise<A>) =>
  Effect.map(
    eventually(
      Effect.promise(async () => {
        try {
          return { holds: true, value: await check() } as const
        } catch (error) {
          return { holds: false, value: String(error) } as const
        }
      }),
      (answer) => answer.holds,
      300_000,
      25
    ),
    // sound: that it holds is what was waited for
    ({ value }) => value as A
  )

const tempDir = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "effect-jobs-"))),
  (dir) => Effect.sync(() => rmSync(dir, { recursive: true, force: true }))
)

/** An empty journal, gone when the scope closes. */
export const newJournal = Effect.map(tempDir, (dir) => {
  const file = join(dir, "journal")
  writeFileSync(file, "")
  return file
})

/** What a worker process for this server is told, with a journal of its own. */
export const toldOf = (
  server: { readonly url: string },
  told: Pick<Child.Told, "transport" | "checkpointing">
) =>
  Effect.gen(function* () {
    const made: Child.Told = {
      ...told,
      server: server.url,
      port: yield* freePort,
      journal: yield* newJournal
    }
    return made
  })

/** A worker process that is ready. */
export const startChild = (told: Child.Told) => startProgram("inngestChild.ts", told)

/** A program beside this file that says when it is ready. */
export const startProgram = (file: string, told: unknown) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const child = spawn(
        process.execPath,
        [fileURLToPath(new URL(file, import.meta.url)), JSON.stringify(told)],
        { stdio: ["pipe", "pipe", "pipe"], env: { ...process.env, NODE_NO_WARNINGS: "1" } }
      )
      let said = ""
      child.stderr.on("data", (data: Buffer) => (said = (said + String(data)).slice(-20_000)))
      await new Promise<void>((resolve, reject) => {
        child.stdout.once("data", () => resolve())
        child.once("exit", (code) => reject(new Error(`the worker ended with ${code}: ${said}`)))
      })
      const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()))
      return {
        kill: async () => {
          child.kill("SIGKILL")
          await ended
        }
      }
    }),
    (child) => Effect.promise(() => child.kill())
  )
