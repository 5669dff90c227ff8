// What the fault tests with one worker process have in common: a worker process, and its journal.
import { Effect } from "effect"
import { spawn } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { eventually } from "./eventually.ts"
import type * as Child from "./inngestChild.ts"

export const journalOf = (file: string) =>
  readFileSync(file, "utf8")
    .split("\n")
    .filter((line) => line !== "")

/** Asks until the check no longer throws. */
export const holds = <A>(check: () => A | Promise<A>, patience: number) =>
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
      patience,
      25
    ),
    // sound: that it holds is what was waited for
    ({ value }) => value as A
  )

export const tempDir = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "effect-jobs-"))),
  (dir) => Effect.sync(() => rmSync(dir, { recursive: true, force: true }))
)

/** A worker process that is ready. */
export const startChild = (told: Child.Told) => startProgram("inngestChild.ts", told)

/** A program beside this file that says when it is ready. */
export const startProgram = (file: string, told: unknown) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const child = spawn(
        process.execPath,
        [fileURLToPath(new URL(file, import.meta.url)), JSON.stringify(told)],
        { stdio: ["ignore", "pipe", "inherit"], env: { ...process.env, NODE_NO_WARNINGS: "1" } }
      )
      await new Promise<void>((resolve, reject) => {
        child.stdout.once("data", () => resolve())
        child.once("exit", (code) => reject(new Error(`the worker ended with ${code}`)))
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
