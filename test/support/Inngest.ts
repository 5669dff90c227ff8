// A real Inngest server of its own for a test file: INNGEST_BIN, then `inngest` on PATH, then the npm package's.
import { NodeHttpServer } from "@effect/platform-node"
import { Effect, Layer, Redacted, type Scope } from "effect"
import { HttpRouter } from "effect/http"
import { InngestClient, type InngestClientOptions, InngestWorker } from "../../src/inngest.ts"
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { createServer } from "node:http"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { freePort } from "./freePort.ts"

const candidates = [
  process.env["INNGEST_BIN"],
  "inngest",
  fileURLToPath(new URL("../../node_modules/.bin/inngest", import.meta.url))
].filter((bin): bin is string => bin !== undefined && bin !== "")

/** The server's program, if there is one. */
export const bin = candidates.find((bin) => spawnSync(bin, ["version"]).status === 0)

export const missing =
  "there is no Inngest server, install one with `npm install --no-save inngest-cli` or name one in INNGEST_BIN"

export interface Server {
  readonly url: string
  /** SIGKILL, and the same server again after a pause. */
  readonly kill: () => Promise<void>
  readonly start: () => Promise<void>
  readonly log: () => string
}

const ok = async (url: string) => {
  try {
    return (await fetch(url)).ok
  } catch {
    return false
  }
}

const until = async (condition: () => Promise<boolean>, what: () => string, timeout = 120_000) => {
  const end = performance.now() + timeout
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(what())
    await new Promise((resolve) => setTimeout(resolve, 25))
  }
}

/** Started when it is built; killed, and its files removed, when the scope closes. */
export const make = (
  args: readonly ["dev" | "start", ...ReadonlyArray<string>]
): Effect.Effect<Server, never, Scope.Scope> =>
  Effect.gen(function* () {
    const dir = mkdtempSync(join(tmpdir(), "effect-jobs-inngest-"))
    const [mode, ...rest] = args
    let child: ChildProcess | undefined
    let log = ""
    let url = ""
    const startOn = async ([port, gateway, gatewayGrpc, executorGrpc]: ReadonlyArray<number>) => {
      url = `http://127.0.0.1:${port}`
      child = spawn(
        bin ?? "inngest",
        [
          mode,
          "--host",
          "127.0.0.1",
          "--port",
          String(port),
          "--connect-gateway-port",
          String(gateway),
          "--connect-gateway-grpc-port",
          String(gatewayGrpc),
          "--connect-executor-grpc-port",
          String(executorGrpc),
          "--tick",
          "50",
          // at its default it logs every event, whole
          "--log-level",
          "warn",
          ...(mode === "dev" ? ["--no-discovery", "--no-poll"] : ["--sqlite-dir", dir]),
          ...rest
        ],
        { cwd: dir, stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, DO_NOT_TRACK: "1" } }
      )
      const read = (data: Buffer) => (log = (log + String(data)).slice(-20_000))
      child.stdout?.on("data", read)
      child.stderr?.on("data", read)
      await until(
        () => ok(`${url}/health`),
        () => `the Inngest server didn't start:\n${log}`,
        60_000
      )
    }
    const kill = async () => {
      const running = child
      if (running === undefined || running.exitCode !== null || running.signalCode !== null) return
      const ended = new Promise<void>((resolve) => running.once("exit", () => resolve()))
      running.kill("SIGKILL")
      await ended
    }
    // a port that was free a moment ago may be another server's by now
    let ports: ReadonlyArray<number> = []
    const first = Effect.gen(function* () {
      ports = yield* Effect.all([freePort, freePort, freePort, freePort])
      yield* Effect.tryPromise(() => startOn(ports)).pipe(Effect.onError(() => Effect.promise(kill)))
    })
    yield* Effect.acquireRelease(Effect.orDie(Effect.retry(first, { times: 3 })), () =>
      Effect.promise(async () => {
        await kill()
        rmSync(dir, { recursive: true, force: true })
      })
    )
    return { url, kill, start: () => startOn(ports), log: () => log }
  })

export const path = "/api/inngest"

/** Tells the server of the app at this address, as a deployment does. */
export const register = (app: string): Effect.Effect<void> =>
  Effect.promise(() =>
    until(
      async () => {
        const response = await fetch(app + path, { method: "PUT" })
        if (response.ok) return true
        throw new Error(`the app at ${app} wasn't registered: ${response.status} ${await response.text()}`)
      },
      () => `the app at ${app} wasn't registered`
    )
  )

/** An Effect HTTP server with the worker's route, known to its Inngest server. */
export const overHttp = <const Jobs extends ReadonlyArray<InngestWorker.Listed>>(
  jobs: Jobs,
  options: InngestWorker.HttpOptions = {},
  app?: number
): Layer.Layer<never, unknown, InngestWorker.Needs<Jobs>> =>
  Layer.unwrap(
    Effect.gen(function* () {
      const port = app ?? (yield* freePort)
      // sound: what the compiler can't compute for a list of jobs that is a type parameter
      const origin = `http://127.0.0.1:${port}`
      const routes = InngestWorker.layer(jobs, { origin, ...options, path }) as Layer.Layer<
        never,
        never,
        HttpRouter.HttpRouter
      >
      return Layer.provide(
        Layer.effectDiscard(Effect.suspend(() => register(origin))),
        HttpRouter.serve(routes, { disableLogger: true, disableListenLog: true }).pipe(
          Layer.provideMerge(NodeHttpServer.layer(createServer, { port, host: "127.0.0.1" }))
        )
      )
    })
  )

/** Waits until the server has the function of this job: a worker over connect may be ready a little earlier. */
export const knows = (server: Server, job: { readonly jobName: string }): Effect.Effect<void> =>
  Effect.promise(() =>
    until(
      async () => (await (await fetch(`${server.url}/dev`)).text()).includes(`-${job.jobName}"`),
      () => `the server doesn't know "${job.jobName}"`
    )
  )

let apps = 0
/** A client of this server, as an app of its own. */
export const client = (server: Pick<Server, "url">, options: Partial<InngestClientOptions> = {}) =>
  InngestClient.layer({
    id: `app-${++apps}`,
    isDev: true,
    baseUrl: server.url,
    // its default of some seconds is too short for a machine that is busy with something else
    sendTimeout: "1 minute",
    ...options
  })

/** The keys of a server started with {@link keys}. */
export const eventKey = Redacted.make("abcdef0123456789")
export const signingKey = Redacted.make("signkey-test-0123456789abcdef0123456789abcdef")
export const keys = [
  "--event-key",
  "abcdef0123456789",
  "--signing-key",
  "0123456789abcdef0123456789abcdef"
] as const

export interface Run {
  readonly run_id: string
  readonly status: string
  readonly function_id: string
  readonly output: unknown
}

// sound: the callers name what this endpoint answers with
const get = <A>(server: Pick<Server, "url">, address: string, authorized: boolean) =>
  fetch(`${server.url}/v1/${address}`, {
    headers: authorized ? { authorization: `Bearer ${Redacted.value(signingKey)}` } : {}
  })
    .then((response) => response.json())
    .then((body) => (body as { readonly data?: ReadonlyArray<A> }).data ?? [])

/** The runs that the server knows of an event, by its id there. */
export const runsOf = (
  server: Pick<Server, "url">,
  event: string,
  authorized = false
): Promise<ReadonlyArray<Run>> =>
  // the server keeps an answer for 15 seconds, by the whole address
  get(server, `events/${event}/runs?look=${performance.now()}`, authorized)

/** Cancels what runs for events of this name, as its screens do. Rejects while there is nothing. */
export const cancelRunsOf = async (server: Pick<Server, "url">, name: string): Promise<void> => {
  const events = await get<{ readonly internal_id: string }>(
    server,
    `events?name=${name}&limit=10&look=${performance.now()}`,
    false
  )
  const runs = await Promise.all(events.map(({ internal_id }) => runsOf(server, internal_id)))
  const ids = runs.flat().map(({ run_id }) => run_id)
  if (ids.length === 0) throw new Error(`there are no runs for "${name}"`)
  for (const id of ids) {
    const { ok, status } = await fetch(`${server.url}/v1/runs/${id}`, { method: "DELETE" })
    if (!ok) throw new Error(`run ${id} wasn't cancelled: ${status}`)
  }
}

/** How many events of this name have a run, due or done, that the server has written down. */
export const written = async (
  server: Pick<Server, "url">,
  name: string,
  authorized = false
): Promise<number> => {
  const page = 50
  const countFrom = async (cursor: string): Promise<number> => {
    const events = await get<{ readonly internal_id: string }>(
      server,
      `events?name=${name}&limit=${page}&cursor=${cursor}`,
      authorized
    )
    const ids = events.map((event) => event.internal_id)
    const runs = await Promise.all(ids.map((id) => runsOf(server, id, authorized)))
    const last = ids.at(-1)
    return (
      runs.filter((runs) => runs.length > 0).length +
      (last === undefined || ids.length < page ? 0 : await countFrom(last))
    )
  }
  return countFrom("")
}
