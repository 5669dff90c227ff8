/**
 * One request of Inngest's: what the server has memoized, and the fibers that it starts. When a run reaches a new
 * step the SDK answers the server and leaves the handler's promise pending for ever: what awaits it is interrupted
 * here, so that its finalizers run.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { Middleware } from "inngest"
import type { Answer } from "./Answer.ts"

/** The steps that the server knows already, as the SDK's middleware gets them. */
export type Memoized = Awaited<
  ReturnType<NonNullable<Middleware.BaseMiddleware["transformFunctionInput"]>>
>["steps"]

/** What becomes of a handler's call whose step was interrupted. */
export type Fate =
  /** It has come to its end. */
  | { readonly _tag: "Answered"; readonly answer: Answer }
  /** It goes on without the step, such as with the fallback of a time limit. */
  | { readonly _tag: "GoesOn" }
  /** The worker is being closed. */
  | { readonly _tag: "Closed" }

export const goesOn: Fate = { _tag: "GoesOn" }

/** How long an interrupted step waits for the handler's next step or end, in milliseconds. */
const patience = 1_000

type Fork = <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>

const closed = () => new Error("The worker was closed while this ran: it is run again.")

export class InngestRequest {
  readonly fibers = new Set<Fiber.Fiber<unknown, unknown>>()
  memoized: Memoized = {}
  private answered = false
  private ended: Fate | undefined
  private readonly interrupted = new Set<(fate: Fate) => void>()

  /**
   * Runs an effect for the SDK, which wants promises. One that is interrupted because its request has been
   * answered is never settled: it isn't a failure.
   */
  promise<A, E>(fork: Fork, effect: Effect.Effect<A, E>): Promise<A> {
    return new Promise((resolve, reject) => {
      this.start(fork, effect, (exit) => {
        if (Exit.isSuccess(exit)) return resolve(exit.value)
        if (!Cause.hasInterruptsOnly(exit.cause)) return reject(Cause.squash(exit.cause))
        this.decide({ _tag: "Closed" })
        reject(closed())
      })
    })
  }

  /**
   * As {@link InngestRequest.promise}, for the body of a step. Where `interrupt` ends it, the step gives `cut` of
   * what becomes of the handler's call: the SDK answers for a step before it answers for its handler.
   */
  step<A>(fork: Fork, effect: Effect.Effect<A>, cut: (fate: Exclude<Fate, { _tag: "Closed" }>) => A) {
    let byHandler = false
    let fiber: Fiber.Fiber<A> | undefined
    const result = new Promise<A>((resolve, reject) => {
      fiber = this.start(fork, effect, (exit) => {
        if (Exit.isSuccess(exit)) return resolve(exit.value)
        if (!Cause.hasInterruptsOnly(exit.cause)) return reject(Cause.squash(exit.cause))
        if (!byHandler) return reject(closed())
        this.onFate((fate) => (fate._tag === "Closed" ? reject(closed()) : resolve(cut(fate))))
      })
    })
    const interrupt = Effect.suspend(() => {
      byHandler = true
      return fiber === undefined ? Effect.void : Fiber.interrupt(fiber)
    })
    return { result, interrupt }
  }

  /** Tells the interrupted steps what becomes of the handler's call. */
  decide(fate: Fate): void {
    if (fate !== goesOn) this.ended = fate
    for (const tell of this.interrupted) tell(fate)
    this.interrupted.clear()
  }

  /** Interrupts what is left; `undefined` where nothing is. */
  close(): Promise<void> | undefined {
    this.answered = true
    // most end at once
    for (const fiber of this.fibers) fiber.interruptUnsafe()
    return this.fibers.size === 0 ? undefined : Effect.runPromise(Effect.asVoid(Fiber.awaitAll(this.fibers)))
  }

  private onFate(tell: (fate: Fate) => void): void {
    if (this.ended !== undefined) return tell(this.ended)
    const timer = setTimeout(() => this.decide(goesOn), patience)
    this.interrupted.add((fate) => {
      clearTimeout(timer)
      tell(fate)
    })
  }

  private start<A, E>(
    fork: Fork,
    effect: Effect.Effect<A, E>,
    settle: (exit: Exit.Exit<A, E>) => void
  ): Fiber.Fiber<A, E> {
    const fiber = fork(effect)
    this.fibers.add(fiber)
    fiber.addObserver((exit) => {
      this.fibers.delete(fiber)
      if (Exit.isSuccess(exit) || !this.answered) settle(exit)
    })
    return fiber
  }
}

const key: unique symbol = Symbol.for("effect-jobs/InngestRequest")

/** The request in which a function runs; a new one where the middleware below is left out, as by `@inngest/test`. */
export const requestOf = (context: object): InngestRequest =>
  // sound: only the middleware below writes under this key
  (context as { readonly [key]?: InngestRequest })[key] ?? new InngestRequest()

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
