/**
 * Runs what `InngestDispatcher` has sent: one Inngest function for each job, listener and cron job. Over HTTP, or
 * over a WebSocket that the worker opens (`layerConnect`).
 */
import * as ByteSize from "effect/ByteSize"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as HttpIncomingMessage from "effect/http/HttpIncomingMessage"
import * as HttpRouter from "effect/http/HttpRouter"
import { ClientAbort } from "effect/http/HttpServerError"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type Listed, make, type Needs, type Options } from "./Functions.ts"
import { InngestClient } from "./InngestClient.ts"
import * as Transport from "./Transport.ts"

export { ResultTooLarge, ServerFailed } from "./Answer.ts"
export { ConnectError, type ConnectOptions, layerConnect } from "./Connect.ts"
export {
  FunctionOptions,
  functions,
  type HandlersOf,
  type Listed,
  type Needs,
  type Options
} from "./Functions.ts"
export type { TransportOptions } from "./Transport.ts"

/** What a worker over HTTP takes. */
export interface HttpOptions extends Options, Transport.TransportOptions {}

const transport = <const Jobs extends ReadonlyArray<Listed>>(
  jobs: Jobs,
  options: HttpOptions
): Effect.Effect<Transport.Transport, never, Needs<Jobs> | Scope.Scope> =>
  Effect.gen(function* () {
    const { client } = yield* InngestClient
    return yield* Transport.make(client, yield* make(jobs, options), options)
  })

/**
 * The worker as a route (GET, POST, PUT) of Effect's HttpRouter, which Inngest calls. Handlers dispatch with the
 * `Dispatcher` of its surroundings, and run on services that are built once.
 *
 * - At least once: a run whose worker dies is started again by the server, as a new attempt.
 * - `attempts` become Inngest's `retries`, and a stated backoff gives the server its delays, to the millisecond
 *   by this machine's clock; one under 1.25 seconds becomes that. Without one the backoff is Inngest's own. More
 *   than 21 attempts, or a delay of more than 24 hours, die when the layer is built; a longer one that an error
 *   names (`retryAfter`) is cut to 24 hours by the server.
 * - What is not to be retried stops at once. `onFailure` and `onError` run in Inngest's failure function.
 * - A request that Inngest hasn't signed runs nothing, unless the client is in dev mode. One to register the app
 *   needs no signature: the address comes from `origin`, never from the request, outside of dev mode.
 * - Durable steps are steps of Inngest's; `timeout` limits each request of an attempt between two of them.
 */
export const layer = <const Jobs extends ReadonlyArray<Listed>>(
  jobs: Jobs,
  options: HttpOptions & {
    /** Such as `/api/inngest`, where Inngest looks first. */
    readonly path: HttpRouter.PathInput
  }
): Layer.Layer<never, never, Needs<Jobs> | HttpRouter.HttpRouter> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const made = yield* transport(jobs, options)
      const router = yield* HttpRouter.HttpRouter
      const respond = Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) => answer(made, request))
      for (const method of ["GET", "POST", "PUT"] as const) {
        yield* router.add(method, options.path, respond, { uninterruptible: true })
      }
    })
  )

const answer = (
  made: Transport.Transport,
  request: HttpServerRequest.HttpServerRequest
): Effect.Effect<HttpServerResponse.HttpServerResponse> =>
  Effect.gen(function* () {
    const { headers, method } = request
    const url = Option.getOrUndefined(HttpServerRequest.toURL(request))
    if (url === undefined) return HttpServerResponse.empty({ status: 400 })
    if (Number(headers["content-length"] ?? 0) > made.maxBodySize) return respondWith(Transport.tooLarge)
    const body = Transport.hasBody(method)
      ? yield* Effect.interruptible(request.text).pipe(
          Effect.provideService(HttpIncomingMessage.MaxBodySize, ByteSize.fromInputUnsafe(made.maxBodySize))
        )
      : ""
    const header = (name: string) => headers[name.toLowerCase()]
    return respondWith(yield* untilClosed(made, made.handle({ method, url, header, body })))
  }).pipe(
    // a body that is longer than it said, or that didn't come to its end
    Effect.catch(() => Effect.succeed(respondWith(Transport.tooLarge)))
  )

/**
 * The answer, also when the HTTP server is closed before it is there: the server has a patience of its own, and
 * would answer that the run failed although it ends in time. A client that went away is waited for no longer.
 */
const untilClosed = (
  { drain }: Transport.Transport,
  pending: Promise<Transport.Outgoing>
): Effect.Effect<Transport.Outgoing> => {
  const answer = Effect.promise(() => pending)
  return Effect.catchCause(Effect.interruptible(answer), (cause) =>
    !Cause.hasInterrupts(cause) || Context.getOption(Cause.annotations(cause), ClientAbort)._tag === "Some"
      ? Effect.failCause(cause)
      : // what doesn't end in time is interrupted, and answers with that
        Effect.andThen(drain, answer)
  )
}

const respondWith = ({ body, headers, status }: Transport.Outgoing): HttpServerResponse.HttpServerResponse =>
  typeof body === "string"
    ? HttpServerResponse.text(body, { status, headers, ...contentType(headers) })
    : HttpServerResponse.stream(
        Stream.fromReadableStream({ evaluate: () => body, onError: (error) => error }),
        { status, headers, ...contentType(headers) }
      )

const contentType = (headers: Record<string, string>) => {
  const given = Object.entries(headers).find(([name]) => name.toLowerCase() === "content-type")
  return given === undefined ? undefined : { contentType: given[1] }
}

/**
 * The worker for frameworks with web handlers: Next, Hono, Bun, Workers. The layer is built with the first
 * request, and again with the next one if that failed; `dispose` waits for what runs and closes it.
 */
export const toWebHandler = <const Jobs extends ReadonlyArray<Listed>, E>(
  jobs: Jobs,
  layer: Layer.Layer<Needs<Jobs>, E>,
  options: HttpOptions = {}
): { readonly handler: (request: Request) => Promise<Response>; readonly dispose: () => Promise<void> } => {
  class Handler extends Context.Service<Handler, (request: Request) => Promise<Response>>()(
    "effect-jobs/InngestWorker/Handler"
  ) {}
  const worker = Layer.provide(
    Layer.effect(Handler, Effect.map(transport(jobs, options), Transport.webHandler)),
    layer
  )
  let runtime = ManagedRuntime.make(worker)
  let built: Promise<Handler["Service"]> | undefined
  const build = () => {
    const mine = runtime
    const building = mine.runPromise(Effect.service(Handler)).catch((error: unknown) => {
      // the next request may find the database that this one didn't
      if (runtime === mine) {
        runtime = ManagedRuntime.make(worker)
        built = undefined
      }
      return mine.dispose().then(() => Promise.reject(error))
    })
    return (built = building)
  }
  return {
    handler: async (request) => (await (built ?? build()))(request),
    dispose: () => runtime.dispose()
  }
}
