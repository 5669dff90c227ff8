/**
 * The fibers of one request of Inngest's. When a run reaches a new step the SDK answers the server and leaves the
 * handler's promise pending for ever: what awaits it is interrupted here, so that its finalizers run.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { Middleware } from "inngest"

/** A step that the server knows already, as the SDK's middleware gets it. */
export type Memoized = Awaited<
  ReturnType<NonNullable<Middleware.BaseMiddleware["transformFunctionInput"]>>
>["steps"]

/** What one request has started. */
export class InngestRequest {
  readonly fibers = new Set<Fiber.Fiber<unknown, unknown>>()
  memoized: Memoized = {}
  answered = false

  /**
   * Runs an effect for the SDK, which wants promises. One that is interrupted because its request has been
   * answered is never settled: it isn't a failure.
   */
  promise<A, E>(
    fork: (effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>,
    effect: Effect.Effect<A, E>
  ): Promise<A> {
    return new Promise((resolve, reject) => {
      const fiber = fork(effect)
      this.fibers.add(fiber)
      fiber.addObserver((exit) => {
        this.fibers.delete(fiber)
        if (Exit.isSuccess(exit)) resolve(exit.value)
        else if (!this.answered) {
          reject(
            Cause.hasInterruptsOnly(exit.cause)
              ? new Error("The worker was closed while this ran: it is run again.")
              : Cause.squash(exit.cause)
          )
        }
      })
    })
  }

  /** Interrupts what is left; `undefined` where nothing is. */
  close(): Promise<void> | undefined {
    this.answered = true
    return this.fibers.size === 0 ? undefined : Effect.runPromise(Fiber.interruptAll(this.fibers))
  }
}

const key: unique symbol = Symbol.for("effect-jobs/InngestRequest")

/** The request in which a function runs. */
export const requestOf = (context: object): InngestRequest => {
  // sound: only the middleware below writes under this key
  const request = (context as { readonly [key]?: InngestRequest })[key]
  if (request === undefined) throw new Error("The middleware of InngestWorker isn't there.")
  return request
}

/** Given to every function; the SDK makes one for each request. */
export class RequestMiddleware extends Middleware.BaseMiddleware {
  readonly id = "effect-jobs"
  readonly request = new InngestRequest()

  override transformFunctionInput(
    arg: Middleware.TransformFunctionInputArgs
  ): Middleware.TransformFunctionInputArgs {
    this.request.memoized = arg.steps
    Object.assign(arg.ctx, { [key]: this.request })
    return arg
  }

  override async wrapRequest({ next }: Middleware.WrapRequestArgs): Promise<Middleware.Response> {
    try {
      return await next()
    } finally {
      const left = this.request.close()
      if (left !== undefined) await left
    }
  }
}
