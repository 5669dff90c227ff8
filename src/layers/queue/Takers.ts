/**
 * The fibers that take from queues. Each is a slot: it claims an element only when it is free to run it.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import { BackingPersistence } from "effect/persistence/Persistence"
import { PersistedQueueStore } from "effect/persistence/PersistedQueue"
import type * as Scope from "effect/Scope"
import type { JobMessage } from "../../Dispatcher.ts"
import { reportCause } from "../../internal/isolated.ts"
import { ownServices } from "../../internal/RunContext.ts"
import { ended, endFibers, reportLeft } from "../../internal/shutdown.ts"
import * as Element from "./Element.ts"

/** A queue, how many of its elements are handled at once, and how. */
export interface Lane {
  readonly queue: string
  readonly concurrency: number
  readonly handle: (item: Element.Item) => Effect.Effect<Element.Settlement>
  /** Awaited before each take. Default: nothing. */
  readonly gate?: Effect.Effect<void> | undefined
  /** Called when an element that was handled is settled in the store. */
  readonly onSettled?: (() => void) | undefined
}

export interface Options {
  /** Its name in logs. */
  readonly name: string
  readonly store: PersistedQueueStore["Service"]
  readonly lanes: ReadonlyArray<Lane>
  /** How long the scope's close waits for elements that are handled; then they are interrupted, and given back. */
  readonly shutdownTimeout: Duration.Duration
  /** Runs when the scope begins to close, before anything is waited for. */
  readonly onClose: Effect.Effect<void>
}

interface Taker {
  readonly lane: Lane
  /** The element that it handles now. */
  item: Element.Item | undefined
}

/** The pauses after takes that failed: in milliseconds, doubling. They are logged once in `logEvery` milliseconds. */
const firstPause = 500
const longestPause = Duration.seconds(5)
const logEvery = 60_000

/**
 * The surroundings without what a taker has no use for. Effect copies a fiber's context at every finalizer, and a store
 * has some for every element.
 */
const slim = (context: Context.Context<never>): Context.Context<never> =>
  Context.omit(PersistedQueueStore, BackingPersistence)(ownServices(context))

/** Takes from all lanes until the scope closes. */
export const run = (options: Options): Effect.Effect<void, never, Scope.Scope> =>
  Effect.gen(function* () {
    const context = slim(yield* Effect.context<never>())
    const clock = yield* Clock.Clock
    const outages = makeOutages(options.name)
    const fibers = new Map<Fiber.Fiber<void>, Taker>()
    const state = { closing: false }
    const fork = Effect.runForkWith(context)
    for (const lane of options.lanes) {
      for (let n = 0; n < lane.concurrency; n++) {
        const taker: Taker = { lane, item: undefined }
        const fiber = fork(loop(options, taker, state, outages))
        fibers.set(fiber, taker)
        fiber.addObserver(() => fibers.delete(fiber))
      }
    }
    yield* Effect.addFinalizer(() =>
      Effect.gen(function* () {
        state.closing = true
        yield* options.onClose
        const busy = new Map<Fiber.Fiber<void>, { readonly message: Pick<JobMessage, "id" | "name"> }>()
        for (const [fiber, taker] of fibers) {
          if (taker.item === undefined) fiber.interruptUnsafe()
          else {
            busy.set(fiber, { message: nameOf(taker.lane, taker.item) })
            fiber.addObserver(() => busy.delete(fiber))
          }
        }
        const left = yield* endFibers(busy, options.shutdownTimeout, clock)
        yield* reportLeft(options.name, options.shutdownTimeout, left, " and given back")
        // idle takers were interrupted, and a claim on its way to one is given back; a store that hangs doesn't hold us
        yield* ended(fibers)
      })
    )
  })

const nameOf = (lane: Lane, { element, id }: Element.Item): Pick<JobMessage, "id" | "name"> =>
  Element.isJobMessage(element) ? element : { name: lane.queue, id }

const loop = (
  options: Options,
  taker: Taker,
  state: { readonly closing: boolean },
  outages: Outages
): Effect.Effect<void> => {
  const { lane } = taker
  const claim = Element.taker(options.store, lane.queue, (item) => {
    taker.item = item
    outages.over()
    // an element that arrives while the scope begins to close isn't begun
    return state.closing ? Effect.succeed(Element.giveBack) : lane.handle(item)
  })
  const one = Effect.matchCauseEffect(claim, {
    onFailure: (cause) => outages.failed(lane.queue, cause),
    onSuccess: () => Effect.void
  })
  return Effect.whileLoop({
    while: () => !state.closing,
    body: () => (lane.gate === undefined ? one : Effect.andThen(lane.gate, one)),
    step: () => {
      if (taker.item !== undefined) lane.onSettled?.()
      taker.item = undefined
    }
  })
}

interface Outages {
  readonly over: () => void
  /** Logs a failed take, once a minute, and waits before the next. */
  readonly failed: (queue: string, cause: Parameters<typeof reportCause>[2]) => Effect.Effect<void>
}

/** A store that is away fails the takes of all slots, and is one line a minute. */
const makeOutages = (name: string): Outages => {
  let since: number | undefined
  let loggedAt = Number.NEGATIVE_INFINITY
  let failures = 0
  return {
    over: () => {
      since = undefined
      failures = 0
    },
    failed: (queue, cause) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        since ??= now
        failures++
        const pause = Duration.min(
          Duration.millis(firstPause * 2 ** Math.min(10, failures - 1)),
          longestPause
        )
        if (now - loggedAt < logEvery) return Effect.sleep(pause)
        loggedAt = now
        const away = Math.round((now - since) / 1_000)
        return Effect.andThen(
          reportCause(
            Effect.logWarning,
            `${name} couldn't take from the queue "${queue}"${away > 0 ? `, for ${away} seconds now` : ""}: it goes on trying.`,
            cause
          ),
          Effect.sleep(pause)
        )
      })
  }
}
