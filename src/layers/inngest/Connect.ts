/**
 * The worker over a WebSocket.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type { Inngest, InngestFunction } from "inngest"
import type { ConnectHandlerOptions, WorkerConnection } from "inngest/connect"
import { checkedDuration } from "../../internal/checks.ts"
import { type Listed, make, type Needs, type Options } from "./Functions.ts"
import { InngestClient } from "./InngestClient.ts"

/** What a worker over a WebSocket takes. */
export interface ConnectOptions
  extends Options, Omit<ConnectHandlerOptions, "apps" | "handleShutdownSignals" | "isolateExecution"> {
  /** How long the layer waits for its first connection. Later ones are tried for until it is closed. Default 30 seconds. */
  readonly connectTimeout?: Duration.Input | undefined
}

/** Inngest's gateway couldn't be reached in time, or refused the worker. */
export class ConnectError extends Schema.TaggedError<ConnectError>()("ConnectError", {
  cause: Schema.Defect()
}) {
  override get message(): string {
    const { cause } = this
    return `The worker couldn't connect to Inngest: ${cause instanceof Error ? cause.message : String(cause)}`
  }
}

/** How long a connection has to say goodbye when its runs have ended. */
const goodbye = "500 millis"

/**
 * The worker over a WebSocket that it opens, so that it needs no port and no public address. The layer is built
 * when it is connected; when the scope closes it takes nothing more and waits for what runs. A connection that is
 * lost later is opened again for as long as the scope is open. Everything else is as with {@link layer}. On Node
 * and Bun.
 */
export const layerConnect = <const Jobs extends ReadonlyArray<Listed>>(
  jobs: Jobs,
  options: ConnectOptions = {}
): Layer.Layer<never, ConnectError, Needs<Jobs>> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const { connectTimeout, shutdownTimeout, onError, ...connection } = options
      const timeout = checkedDuration(connectTimeout ?? "30 seconds", "The connectTimeout of InngestWorker")
      const { client } = yield* InngestClient
      const { drain, functions } = yield* make(jobs, { shutdownTimeout, onError })
      const connected = yield* Effect.acquireRelease(open(client, functions, connection), ({ close }) =>
        Effect.gen(function* () {
          // it takes nothing more from here on, and ends with the last run
          const closed = close()
          yield* drain
          yield* Effect.ignore(
            Effect.timeoutOption(
              Effect.tryPromise(() => closed),
              goodbye
            )
          )
        })
      )
      yield* Effect.tryPromise({
        try: () => connected.ready,
        catch: (cause) => new ConnectError({ cause })
      }).pipe(
        Effect.timeoutOrElse({
          duration: timeout,
          orElse: () =>
            Effect.flatMap(whyNot(client), (reason) =>
              Effect.fail(
                new ConnectError({
                  cause: new Error(`there was no connection within ${Duration.format(timeout)}: ${reason}`)
                })
              )
            )
        })
      )
    })
  )

interface Connection {
  /** Resolves at the first connection; the SDK tries for ever. */
  readonly ready: Promise<unknown>
  readonly close: () => Promise<void>
}

let opened = 0

/**
 * The SDK gives a connection when there is one, and has no way to stop it before that but a signal: so it is given
 * one that no operating system sends.
 */
const open = (
  client: Inngest.Any,
  functions: Array<InngestFunction.Any>,
  options: Partial<ConnectHandlerOptions>
): Effect.Effect<Connection> =>
  Effect.promise(async () => {
    // loaded here: it has Node's modules, which the rest does without
    const { connect } = await import("inngest/connect")
    const signal = `effect-jobs/close/${++opened}`
    let connection: WorkerConnection | undefined
    const ready = connect({
      ...options,
      apps: [{ client, functions }],
      handleShutdownSignals: [signal],
      isolateExecution: false
    }).then((made) => void (connection = made))
    // said by whoever waits for it
    ready.catch(() => undefined)
    return {
      ready,
      close: async () => {
        if (connection !== undefined) return connection.close()
        // sound: `process` is an emitter of any events, and this one is ours
        ;(process as NodeJS.EventEmitter).emit(signal)
      }
    }
  })

/** What the server says to a request of the kind that opens a connection. */
const whyNot = (client: Inngest.Any): Effect.Effect<string> =>
  Effect.tryPromise(async (signal) => {
    const response = await client.fetch(new URL("/v0/connect/start", client.apiBaseUrl), {
      method: "POST",
      signal,
      headers: client.signingKey === undefined ? {} : { authorization: `Bearer ${client.signingKey}` }
    })
    return response.ok
      ? `${client.apiBaseUrl} answers, and its gateway doesn't`
      : `${client.apiBaseUrl} answers with status ${response.status}`
  }).pipe(
    Effect.timeout("2 seconds"),
    Effect.catch((error) => Effect.succeed(`${client.apiBaseUrl} can't be reached (${reasonOf(error)})`))
  )

/** The innermost message: `fetch` says no more than that it failed. */
const reasonOf = (error: unknown): string => {
  let last = error
  while (last instanceof Error && last.cause instanceof Error) last = last.cause
  return last instanceof Error ? last.message : String(last)
}
