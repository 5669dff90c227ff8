/**
 * The fibers that take from a set of queues: how many run at once, and how they stop.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import * as Layer from "effect/Layer"
import { PersistedQueueStore } from "effect/persistence/PersistedQueue"
import { BackingPersistence } from "effect/persistence/Persistence"
import * as Scope from "effect/Scope"
import { DefinitionError } from "../DefinitionError.ts"
import * as QueueElement from "./QueueElement.ts"

/** A queue, and what is done with each of its elements. */
export interface Source {
  readonly queue: string
  readonly handle: (item: QueueElement.Item) => Effect.Effect<QueueElement.Settlement>
  /** Awaited before each take. Default: nothing. */
  readonly gate?: Effect.Effect<void> | undefined
  /** Called when an element that was handled is settled in the store. */
  readonly onSettled?: (() => void) | undefined
}

export interface Options {
  /** Its name in logs. */
  readonly name: string
  readonly store: PersistedQueueStore["Service"]
  readonly sources: ReadonlyArray<Source>
  /** How many elements are handled at once, over all sources. */
  readonly concurrency: number
  /** How long the scope's close waits for what is being handled; then it is interrupted, and given back. */
  readonly drainTimeout: Duration.Duration
  /** Runs when the scope begins to close. */
  readonly onClose: Effect.Effect<void>
}

/**
 * The surroundings without what a taker has no use for, or was given: its layer's services and all of our own.
 * Effect copies a fiber's context at every finalizer, and a store has some for every element.
 */
const slim = (context: Context.Context<never>): Context.Context<never> => {
  const unused: ReadonlySet<string> = new Set([
    Scope.Scope.key,
    Layer.CurrentMemoMap.key,
    PersistedQueueStore.key,
    BackingPersistence.key
  ])
  return Context.makeUnsafe(
    new Map(
      Array.from(context.mapUnsafe).filter(([key]) => !unused.has(key) && !key.startsWith("effect-jobs/"))
    )
  )
}

/** How long a claimed element waits for a free slot before it is given back for another worker. */
const slotPatience = Duration.seconds(1)

/** How long a slot is kept for a queue that may have something. */
const claimPatience = Duration.millis(100)

interface Taker {
  busy: boolean
}

/**
 * Takes from all sources until the scope closes.
 *
 * While slots are free, `concurrency` fibers wait at each queue, so that the store claims whole batches, and an
 * element gets its slot after its claim. When no slot is free, a slot comes first and the claim after it, so that
 * a busy worker holds nothing that another one could run; what it had claimed by then, it gives back after a
 * second.
 */
export const run = (options: Options): Effect.Effect<void, never, Scope.Scope> =>
  Effect.gen(function* () {
    const slots = makeSlots(options.concurrency)
    let closing = false

    const handled = (taker: Taker, source: Source, holdsSlot: boolean) => (item: QueueElement.Item) => {
      taker.busy = true
      if (closing) return Effect.succeed(QueueElement.giveBack)
      if (holdsSlot) return source.handle(item)
      if (slots.takeUnsafe()) return Effect.ensuring(source.handle(item), slots.release)
      return Effect.flatMap(slots.takeWithin(slotPatience), (taken) =>
        taken
          ? Effect.ensuring(
              Effect.suspend(() => (closing ? Effect.succeed(QueueElement.giveBack) : source.handle(item))),
              slots.release
            )
          : Effect.succeed(QueueElement.giveBack)
      )
    }

    const takeOne = (taker: Taker, source: Source) =>
      Effect.suspend(() =>
        slots.isFree()
          ? QueueElement.take(options.store, source.queue, handled(taker, source, false))
          : Effect.andThen(
              slots.take,
              Effect.ensuring(
                QueueElement.take(options.store, source.queue, handled(taker, source, true), claimPatience),
                slots.release
              )
            )
      ).pipe(
        Effect.catchCause((cause) =>
          Effect.andThen(
            Effect.logWarning(`${options.name} couldn't take from the queue "${source.queue}".`, cause),
            Effect.sleep(500)
          )
        )
      )

    const loop = (taker: Taker, source: Source): Effect.Effect<void> =>
      Effect.whileLoop({
        while: () => !closing,
        body: () =>
          source.gate === undefined
            ? takeOne(taker, source)
            : Effect.andThen(source.gate, takeOne(taker, source)),
        step: () => {
          if (taker.busy) source.onSettled?.()
          taker.busy = false
        }
      })

    const takers: Array<{ readonly taker: Taker; readonly fiber: Fiber.Fiber<void> }> = []
    yield* Effect.addFinalizer(() =>
      Effect.gen(function* () {
        closing = true
        yield* options.onClose
        const idle = takers.filter(({ taker }) => !taker.busy)
        yield* Fiber.interruptAll(idle.map(({ fiber }) => fiber))
        const busy = takers.filter(({ taker }) => taker.busy)
        const drained = yield* Effect.timeoutOption(
          Fiber.awaitAll(busy.map(({ fiber }) => fiber)),
          options.drainTimeout
        )
        if (drained._tag === "Some") return
        const left = busy.filter(({ fiber }) => fiber.pollUnsafe() === undefined)
        yield* Effect.logWarning(
          `${options.name} closed while ${left.length} runs went on after its drainTimeout of ${Duration.format(
            options.drainTimeout
          )}: they are interrupted and given back.`
        )
        yield* Fiber.interruptAll(left.map(({ fiber }) => fiber))
      })
    )
    const context = slim(yield* Effect.context<never>())
    for (const source of options.sources) {
      for (let n = 0; n < options.concurrency; n++) {
        const taker: Taker = { busy: false }
        takers.push({
          taker,
          fiber: yield* Effect.forkDetach(
            Effect.updateContext(loop(taker, source), (_: Context.Context<never>) => context)
          )
        })
      }
    }
  })

/** A counting semaphore that answers at once where it can. */
const makeSlots = (count: number) => {
  let free = count
  const freed = Latch.makeUnsafe(false)
  const takeUnsafe = () => {
    if (free === 0) return false
    free--
    if (free === 0) freed.closeUnsafe()
    return true
  }
  freed.openUnsafe()
  const release = Effect.sync(() => {
    free++
    freed.openUnsafe()
  })
  const take: Effect.Effect<void> = Effect.suspend(() =>
    takeUnsafe() ? Effect.void : Effect.andThen(freed.await, take)
  )
  return {
    isFree: () => free > 0,
    takeUnsafe,
    /** Waits for a slot. */
    take,
    /** As `take`, but not for longer. A slot that comes too late isn't taken: taking it is one step. */
    takeWithin: (patience: Duration.Duration): Effect.Effect<boolean> =>
      Effect.suspend(() => {
        let taken = false
        let late = false
        const inTime: Effect.Effect<void> = Effect.suspend(() => {
          if (late) return Effect.void
          taken = takeUnsafe()
          return taken ? Effect.void : Effect.andThen(freed.await, inTime)
        })
        const lateness = Effect.map(Effect.sleep(patience), () => {
          late = true
        })
        return Effect.onInterrupt(
          // whoever ends the race, what was taken is held
          Effect.map(Effect.raceFirst(inTime, lateness), () => taken),
          () => (taken ? release : Effect.void)
        )
      }),
    release
  }
}

/** The number, or a refusal in one sentence. */
export const checkedCount = (value: number, what: string): number => {
  if (Number.isSafeInteger(value) && value >= 1) return value
  throw new DefinitionError({ message: `${what} must be an integer of at least 1, not ${value}.` })
}
