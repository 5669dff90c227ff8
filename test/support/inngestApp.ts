// What a stranger may send to an Inngest server and its worker.
import { Effect, Redacted } from "effect"
import { createServer, request as httpRequest } from "node:http"
import { freePort } from "./freePort.ts"
import * as Inngest from "./Inngest.ts"

/** A client that has the keys of a server started with `Inngest.keys`. */
export const keyed = (server: Pick<Inngest.Server, "url">, id: string, eventPrefix = "") =>
  Inngest.client(server, {
    id,
    eventPrefix,
    isDev: false,
    eventKey: Inngest.eventKey,
    signingKey: Inngest.signingKey
  })

export interface Raw {
  readonly method?: string
  readonly path?: string
  readonly headers?: Record<string, string>
  readonly body?: string | Uint8Array
}

/** A request as it is on the wire, with any Host, which `fetch` doesn't send. The status is 0 if it was cut off. */
export const raw = (port: number, { body, headers = {}, method = "POST", path = Inngest.path }: Raw) =>
  Effect.promise(
    () =>
      new Promise<{ readonly status: number; readonly body: string }>((resolve) => {
        const request = httpRequest({ host: "127.0.0.1", port, method, path, headers }, (response) => {
          let text = ""
          const end = () => resolve({ status: response.statusCode ?? 0, body: text })
          response.on("data", (chunk: Buffer) => (text += String(chunk)))
          response.on("end", end)
          response.on("error", end)
        })
        request.on("error", () => resolve({ status: 0, body: "" }))
        request.end(body)
      })
  )

/** A server of a stranger's: what came to it. It answers as a worker that has nothing to sign with. */
export const stranger = Effect.gen(function* () {
  const port = yield* freePort
  const seen: Array<string> = []
  yield* Effect.acquireRelease(
    Effect.promise(
      () =>
        new Promise<ReturnType<typeof createServer>>((resolve) => {
          const server = createServer((request, response) => {
            seen.push(`${request.method} ${request.url}`)
            response.writeHead(200, { "content-type": "application/json", "x-inngest-sdk": "js:v4.24.0" })
            response.end(JSON.stringify("stolen"))
          })
          server.listen(port, "127.0.0.1", () => resolve(server))
        })
    ),
    (server) =>
      Effect.sync(() => {
        server.close()
        server.closeAllConnections()
      })
  )
  return { port, seen }
})

/** Sends an event with the event key, as anyone who has it may. The status of the server's answer. */
export const send = (server: Pick<Inngest.Server, "url">, event: unknown) =>
  Effect.promise(async () => {
    const response = await fetch(`${server.url}/e/${Redacted.value(Inngest.eventKey)}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(event)
    })
    // sound: the answer of this endpoint
    const { ids = [] } = (await response.json()) as { readonly ids?: ReadonlyArray<string> }
    return { status: response.status, id: ids[0] ?? "" }
  })
