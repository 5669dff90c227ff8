/**
 * The SDK's client as a service: shared by `InngestDispatcher` and `InngestWorker`, and the escape hatch for
 * everything that is Inngest's own.
 */
import * as Cause from "effect/Cause"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as LogLevel from "effect/LogLevel"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import { MinimumLogLevel } from "effect/References"
import { type ClientOptions, Inngest, type Logger } from "inngest"
import { checkedDuration } from "../../internal/checks.ts"
import { isAnswer } from "./Answer.ts"

/** The SDK's own options, with keys that are never printed, and with what the dispatcher needs to know. */
export interface InngestClientOptions extends Omit<
  ClientOptions,
  "eventKey" | "signingKey" | "signingKeyFallback" | "logger" | "internalLogger"
> {
  /** For sending. Default: `INNGEST_EVENT_KEY` of the process, which the SDK reads itself. */
  readonly eventKey?: Redacted.Redacted | undefined
  /** For checking that a request comes from Inngest. Default: `INNGEST_SIGNING_KEY` of the process. */
  readonly signingKey?: Redacted.Redacted | undefined
  readonly signingKeyFallback?: Redacted.Redacted | undefined
  /** Before the names of all jobs and events, such as `"shop/"`. The same for who sends and who works. */
  readonly eventPrefix?: string | undefined
  /** How long a dispatch waits for Inngest to take it. Default 4 seconds; the SDK tries again in that time. */
  readonly sendTimeout?: Duration.Input | undefined
}

/** `yield* InngestClient` gives `client`, the SDK's. */
export class InngestClient extends Context.Service<
  InngestClient,
  {
    readonly client: Inngest.Any
    readonly eventPrefix: string
    readonly sendTimeout: Duration.Duration
  }
>()("effect-jobs/InngestClient") {
  /**
   * A client with these options. What the SDK logs goes to Effect's loggers, annotated with `logger=inngest`;
   * it prints nothing itself.
   */
  static readonly layer = (options: InngestClientOptions): Layer.Layer<InngestClient> =>
    Layer.effect(
      InngestClient,
      Effect.map(Effect.context<never>(), (context) => {
        const { eventKey, eventPrefix, sendTimeout, signingKey, signingKeyFallback, ...rest } = options
        return {
          client: new Client({
            ...rest,
            ...(eventKey === undefined ? undefined : { eventKey: Redacted.value(eventKey) }),
            ...(signingKey === undefined ? undefined : { signingKey: Redacted.value(signingKey) }),
            ...(signingKeyFallback === undefined
              ? undefined
              : { signingKeyFallback: Redacted.value(signingKeyFallback) }),
            logger: effectLogger(context)
          }),
          eventPrefix: eventPrefix ?? "",
          sendTimeout: checkedDuration(sendTimeout ?? "4 seconds", "The sendTimeout of InngestClient.layer")
        }
      })
    )

  /**
   * As {@link InngestClient.layer}, with `INNGEST_EVENT_KEY`, `INNGEST_SIGNING_KEY`,
   * `INNGEST_SIGNING_KEY_FALLBACK`, `INNGEST_BASE_URL` and `INNGEST_DEV` (`1`, `0` or the dev server's address)
   * from Effect's Config. All may be absent; what `options` say goes first.
   */
  static readonly layerConfig = (
    options: InngestClientOptions
  ): Layer.Layer<InngestClient, Config.ConfigError> =>
    Layer.unwrap(
      Effect.map(fromConfig, ({ baseUrl, dev, eventKey, signingKey, signingKeyFallback }) =>
        InngestClient.layer({
          ...devOptions(dev),
          ...(baseUrl === undefined ? undefined : { baseUrl }),
          eventKey,
          signingKey,
          signingKeyFallback,
          ...options
        })
      )
    )
}

type Variables = NonNullable<Parameters<Inngest["setEnvVars"]>[0]>

const sameVariables = (one: Variables, other: Variables): boolean => {
  const names = Object.keys(one)
  return names.length === Object.keys(other).length && names.every((name) => one[name] === other[name])
}

/**
 * The SDK reads all of `process.env` for the headers of every request, which with 35 variables takes as long as
 * everything that a dispatch does here: they are made once, and again when the SDK is given other variables.
 * Printed, it says nothing of its keys, which are among its fields and its variables.
 */
class Client extends Inngest {
  private made: Record<string, string> | undefined
  private given: Variables | undefined

  toJSON() {
    return { _id: "effect-jobs/InngestClient", id: this.id, mode: this.mode }
  }

  [Symbol.for("nodejs.util.inspect.custom")]() {
    return this.toJSON()
  }

  override get headers(): Record<string, string> {
    return (this.made ??= super.headers)
  }

  /** The SDK's handlers give it the same variables with each request, twice. */
  override setEnvVars(...args: Parameters<Inngest["setEnvVars"]>): this {
    const [given] = args
    if (given === undefined || this.given === undefined || !sameVariables(this.given, given)) {
      this.made = undefined
      this.given = given
    }
    return super.setEnvVars(...args)
  }
}

const optional = <A>(config: Config.Config<A>) => Config.map(Config.option(config), Option.getOrUndefined)

const fromConfig = Config.all({
  eventKey: optional(Config.Redacted("INNGEST_EVENT_KEY")),
  signingKey: optional(Config.Redacted("INNGEST_SIGNING_KEY")),
  signingKeyFallback: optional(Config.Redacted("INNGEST_SIGNING_KEY_FALLBACK")),
  baseUrl: optional(Config.String("INNGEST_BASE_URL")),
  dev: optional(Config.String("INNGEST_DEV"))
})

/** As the SDK reads `INNGEST_DEV`: a flag, or the address of the dev server. */
const devOptions = (dev: string | undefined): Pick<InngestClientOptions, "isDev" | "baseUrl"> => {
  if (dev === undefined || dev === "") return {}
  if (/^(?:0|false|off|no)$/i.test(dev)) return { isDev: false }
  if (/^(?:1|true|on|yes)$/i.test(dev)) return { isDev: true }
  return { isDev: true, baseUrl: dev }
}

/** Whether this is the SDK's line for a failure of a job, which was logged where it was decided. */
const repeats = (args: ReadonlyArray<unknown>): boolean =>
  args.some(
    (arg) => isAnswer(arg) || (typeof arg === "object" && arg !== null && "err" in arg && isAnswer(arg.err))
  )

/** The SDK logs strings and records, an error among them under `err`. */
const effectLogger = (context: Context.Context<never>): Logger & { readonly flush: () => Promise<void> } => {
  const run = Effect.runForkWith(context)
  const minimum = Context.get(context, MinimumLogLevel)
  const log =
    (level: LogLevel.Severity) =>
    (...args: ReadonlyArray<unknown>): void => {
      // it says much at debug level, in every request
      if (LogLevel.isGreaterThan(minimum, level) || repeats(args)) return
      const messages: Array<unknown> = []
      const annotations: Record<string, unknown> = { logger: "inngest" }
      for (const arg of args) {
        if (typeof arg !== "object" || arg === null || arg instanceof Error) messages.push(arg)
        else {
          for (const [key, value] of Object.entries(arg)) {
            if (value instanceof Error) messages.push(Cause.die(value))
            else annotations[key] = value
          }
        }
      }
      run(Effect.annotateLogs(Effect.logWithLevel(level)(...messages.toReversed()), annotations))
    }
  return {
    debug: log("Debug"),
    info: log("Info"),
    warn: log("Warn"),
    error: log("Error"),
    // there is nothing to flush: without this the SDK sleeps for a timer's tick at the end of every request
    flush: () => Promise.resolve()
  }
}
