/**
 * A worker's HTTP side: how much of a request is read, which address the app is registered under, and the SDK's
 * handler behind both.
 */
import * as ByteSize from "effect/ByteSize"
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { InngestCommHandler, type Inngest, type RegisterOptions } from "inngest"
import { DefinitionError } from "../../DefinitionError.ts"
import type { Made } from "./Functions.ts"

/** What a worker over HTTP takes beside the options of every worker. The SDK's own options have its names. */
export interface TransportOptions extends Pick<
  RegisterOptions,
  "servePath" | "streaming" | "enableUnauthedSync"
> {
  /**
   * Where Inngest reaches this app, such as `https://shop.example`. Default: `INNGEST_SERVE_ORIGIN` of Effect's
   * Config. Needed outside of dev mode: without it the SDK registers the app at whatever `Host` a stranger's
   * request names, and Inngest then sends the payloads there.
   */
  readonly origin?: string | undefined
  /**
   * Registers the app at the address that a request names. Only for a worker that strangers can't reach. Default
   * `false`, in dev mode `true`.
   */
  readonly trustHostHeader?: boolean | undefined
  /**
   * How much of a request's body is read, signed or not; more is answered with 413. Default 8 MiB: the server's
   * own requests have up to 4 MiB, and those that tell of a failure more.
   */
  readonly maxBodySize?: ByteSize.Input | undefined
}

const defaultMaxBodySize = 8 * 1024 * 1024

/** A request, of whichever HTTP server. */
export interface Incoming {
  readonly method: string
  readonly url: URL
  readonly header: (name: string) => string | null | undefined
  readonly body: string
}

/** An answer, for whichever HTTP server. */
export interface Outgoing {
  readonly status: number
  readonly headers: Record<string, string>
  readonly body: string | ReadableStream<Uint8Array>
}

export interface Transport extends Pick<Made, "drain"> {
  readonly handle: (request: Incoming) => Promise<Outgoing>
  readonly maxBodySize: number
}

const outgoing = ({ body, headers, status }: Outgoing): Outgoing => ({ status, headers, body })

/** To a body that is longer than `maxBodySize`: it isn't read to its end. */
export const tooLarge: Outgoing = { status: 413, headers: { connection: "close" }, body: "" }

const malformed: Outgoing = { status: 400, headers: {}, body: "" }

interface Parsed extends Omit<Incoming, "body"> {
  readonly body: unknown
}

/** With its body as JSON; `undefined` if it is none. */
const parse = (request: Incoming): Parsed | undefined => {
  try {
    return { ...request, body: request.body === "" ? "" : JSON.parse(request.body) }
  } catch {
    return undefined
  }
}

/** Only these have a body that the SDK reads. */
export const hasBody = (method: string): boolean => method === "POST" || method === "PUT"

/** Dies with a `DefinitionError` where the app's address would be a stranger's to say. */
export const make = (
  client: Inngest.Any,
  { drain, functions }: Made,
  options: TransportOptions
): Effect.Effect<Transport> =>
  Effect.gen(function* () {
    const origin = yield* originOf(client, options)
    const { enableUnauthedSync, maxBodySize, servePath, streaming } = options
    const sdk: (request: Parsed) => Promise<Outgoing> = new InngestCommHandler({
      frameworkName: "effect-jobs",
      client,
      functions,
      ...(origin === undefined ? undefined : { serveOrigin: origin }),
      ...(servePath === undefined ? undefined : { servePath }),
      ...(streaming === undefined ? undefined : { streaming }),
      ...(enableUnauthedSync === undefined ? undefined : { enableUnauthedSync }),
      handler: (request: Parsed) => ({
        body: () => request.body,
        headers: request.header,
        method: () => request.method,
        url: (): URL => (request.method === "PUT" ? registered(request.url, origin) : request.url),
        transformResponse: outgoing,
        transformStreamingResponse: outgoing
      })
    }).createHandler()
    return {
      handle: async (request) => {
        const parsed = parse(request)
        return parsed === undefined ? malformed : sdk(parsed)
      },
      drain,
      maxBodySize: maxBodySize === undefined ? defaultMaxBodySize : bytesOf(maxBodySize)
    }
  })

/**
 * The address that a request to register registers. Of the request it takes the path, where it can't be read as
 * a host, and no query: what is in it would be in each of the server's own requests.
 */
const registered = (asked: URL, origin: string | undefined): URL => {
  const url = new URL(origin ?? asked.origin)
  url.pathname = asked.pathname.replace(/^\/+/, "/")
  const deployId = asked.searchParams.get("deployId")
  if (deployId !== null) url.searchParams.set("deployId", deployId)
  return url
}

const bytesOf = (input: ByteSize.Input): number => {
  const size = Option.getOrUndefined(ByteSize.fromInput(input))
  const bytes = size === undefined ? Number.NaN : ByteSize.toNumberUnsafe(size)
  if (Number.isSafeInteger(bytes) && bytes >= 1) return bytes
  throw new DefinitionError({
    message: `The maxBodySize of InngestWorker must be a size of at least a byte, not ${JSON.stringify(String(input))}.`
  })
}

const ServeOrigin = Config.option(Config.String("INNGEST_SERVE_ORIGIN"))

const originOf = (
  client: Inngest.Any,
  { origin, trustHostHeader }: TransportOptions
): Effect.Effect<string | undefined> =>
  Effect.map(origin === undefined ? Effect.orDie(ServeOrigin) : Effect.succeedSome(origin), (given) => {
    const said = Option.getOrElse(given, () => "")
    if (said !== "") return checkedOrigin(said)
    if (client.mode !== "cloud" || trustHostHeader === true) return undefined
    throw new DefinitionError({
      message: `The InngestWorker of "${client.id}" needs to know where Inngest reaches it, or a stranger's request could say so: set its origin or INNGEST_SERVE_ORIGIN, such as "https://shop.example" (or trustHostHeader: true, where no stranger can reach it).`
    })
  })

const checkedOrigin = (said: string): string => {
  const url = URL.parse(said)
  const web = url !== null && (url.protocol === "http:" || url.protocol === "https:")
  if (web && url.pathname === "/" && url.search === "" && url.hash === "" && url.username === "") {
    return url.origin
  }
  throw new DefinitionError({
    message: `The origin of InngestWorker must be one such as "https://shop.example", without a path, not ${JSON.stringify(said)}.`
  })
}

const decoder = new TextDecoder()

/** A web request's body, up to so many bytes; `undefined` if it has more. */
export const readBody = async (request: Request, max: number): Promise<string | undefined> => {
  if (Number(request.headers.get("content-length") ?? 0) > max) return undefined
  if (request.body === null) return ""
  // sound: the body of a request is of bytes
  const reader = (request.body as ReadableStream<Uint8Array>).getReader()
  const chunks: Array<Uint8Array> = []
  let size = 0
  for (;;) {
    const { done, value } = await reader.read()
    if (done) break
    size += value.length
    if (size > max) {
      void reader.cancel().catch(() => undefined)
      return undefined
    }
    chunks.push(value)
  }
  const [only] = chunks
  if (only === undefined) return ""
  if (chunks.length === 1) return decoder.decode(only)
  const whole = new Uint8Array(size)
  let at = 0
  for (const chunk of chunks) {
    whole.set(chunk, at)
    at += chunk.length
  }
  return decoder.decode(whole)
}

/** The worker for web requests, by the answers of its {@link Transport}. */
export const webHandler =
  ({ handle, maxBodySize }: Transport) =>
  async (request: Request): Promise<Response> => {
    const body = hasBody(request.method) ? await readBody(request, maxBodySize) : ""
    const answer =
      body === undefined
        ? tooLarge
        : await handle({
            method: request.method,
            url: new URL(request.url),
            header: (name) => request.headers.get(name),
            body
          })
    return new Response(answer.body, { status: answer.status, headers: answer.headers })
  }
