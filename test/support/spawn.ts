// Child processes of fault tests, and what they say.
import { Effect } from "effect"
import { type ChildProcess, spawn as spawnProcess } from "node:child_process"
import { fileURLToPath } from "node:url"
import type { Told } from "./child.ts"

export interface Child {
  readonly lines: ReadonlyArray<string>
  /** Resolves when it has said this line; rejects when it ends before. */
  readonly said: (line: string) => Promise<void>
  readonly kill: () => Promise<void>
  readonly ended: Promise<void>
}

const start = (told: Told): Child => {
  const child: ChildProcess = spawnProcess(
    process.execPath,
    [fileURLToPath(new URL("child.ts", import.meta.url)), JSON.stringify(told)],
    { stdio: ["pipe", "pipe", "pipe"], env: { ...process.env, NODE_NO_WARNINGS: "1" } }
  )
  const lines: Array<string> = []
  const errors: Array<string> = []
  const waiting = new Set<() => void>()
  let rest = ""
  child.stdout?.on("data", (data: Buffer) => {
    const parts = (rest + String(data)).split("\n")
    rest = parts.pop() ?? ""
    lines.push(...parts)
    for (const look of waiting) look()
  })
  child.stderr?.on("data", (data: Buffer) => errors.push(String(data)))
  const ended = new Promise<void>((resolve) => child.once("close", () => resolve()))
  return {
    lines,
    ended,
    said: (line) =>
      new Promise((resolve, reject) => {
        const look = () => {
          if (!lines.includes(line)) return
          waiting.delete(look)
          resolve()
        }
        waiting.add(look)
        look()
        void ended.then(() =>
          reject(
            new Error(`the child ended without saying "${line}": ${lines.join(" | ")} ${errors.join("")}`)
          )
        )
      }),
    kill: async () => {
      child.kill("SIGKILL")
      await ended
    }
  }
}

/** Killed when the scope closes, if it lives still. */
export const spawn = (told: Told) =>
  Effect.acquireRelease(
    Effect.sync(() => start(told)),
    (child) => Effect.promise(() => child.kill())
  )
