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
import * as Element from "./Element.ts"

/** A queue, and what is done with each of its elements. */
export interface Source {
  readonly queue: string
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
  readonly sources: ReadonlyArray<Source>
  /** How many elements are handled at once, over all sources. */
  readonly concurrency: number
  /** How long the scope's close waits for what is being handled; then it is interrupted, and given back. */
  readonly shutdownTimeout: Duration.Duration
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

/** How long the takers that were told of a free slot are given to claim something for it, before more are told. */
const invitationPatience = Duration.millis(10)

interface Taker {
  busy: boolean
}

/**
 * Takes from all sources until the scope closes.
 *
 * While slots are free, `concurrency` fibers wait at each queue, so that the store claims whole batches, and an
 * element gets its slot after its claim. When no slot is free, nothing more is claimed, so that a busy worker holds
 * nothing that another one could run; what it had claimed by then, it gives back after a second. Each slot that
 * becomes free lets one waiting fiber claim, and more of them where its queue turns out to be empty.
 */
export const run = (options: Options): Effect.Effect<void, never, Scope.Scope> =>
  Effect.gen(function* () {
    const slots = makeSlots(options.concurrency)
    yield* Effect.forkScoped(slots.inviting)
    let closing = false

    const handled = (taker: Taker, source: Source) => (item: Element.Item) => {
      taker.busy = true
      if (closing) return Effect.succeed(Element.giveBack)
      if (slots.takeUnsafe()) return Effect.ensuring(source.handle(item), slots.release)
      return Effect.flatMap(slots.takeWithin(slotPatience), (taken) =>
        taken
          ? Effect.ensuring(
              Effect.suspend(() => (closing ? Effect.succeed(Element.giveBack) : source.handle(item))),
              slots.release
            )
          : Effect.succeed(Element.giveBack)
      )
    }

    const loop = (taker: Taker, source: Source): Effect.Effect<void> => {
      const claim = Element.taker(options.store, source.queue, handled(taker, source))
      const invited = Effect.andThen(slots.invitation, claim)
      const one = Effect.suspend(() => (slots.isFree() ? claim : invited)).pipe(
        Effect.catchCause((cause) =>
          Effect.andThen(
            Effect.logWarning(`${options.name} couldn't take from the queue "${source.queue}".`, cause),
            Effect.sleep(500)
          )
        )
      )
      const body = source.gate === undefined ? one : Effect.andThen(source.gate, one)
      return Effect.whileLoop({
        while: () => !closing,
        body: () => body,
        step: () => {
          if (taker.busy) source.onSettled?.()
          taker.busy = false
        }
      })
    }

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
          options.shutdownTimeout
        )
        if (drained._tag === "Some") return
        const left = busy.filter(({ fiber }) => fiber.pollUnsafe() === undefined)
        yield* Effect.logWarning(
          `${options.name} closed while ${left.length} runs went on after its shutdownTimeout of ${Duration.format(
            options.shutdownTimeout
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

/**
 * Places for what is handled. Effect's Semaphore has neither a wait that ends without losing a permit, nor a word to
 * those who would first look for something to do.
 */
const makeSlots = (count: number) => {
  let free = count
  /** Fibers with an element, in the order in which they came: a slot is handed over to the first. */
  const inLine = new Set<() => void>()
  /** Fibers that claim nothing until there is a free slot. */
  const uninvited = new Set<() => void>()
  const unused = Latch.makeUnsafe(false)
  const tell = (fibers: Set<() => void>, most: number) => {
    let left = most
    for (const told of fibers) {
      if (left-- === 0) return
      fibers.delete(told)
      told()
    }
  }
  const release = Effect.sync(() => {
    if (inLine.size > 0) return tell(inLine, 1)
    free++
    tell(uninvited, 1)
    if (uninvited.size > 0) unused.openUnsafe()
  })
  /** Until it is told. It goes on in its own time, not within the fiber that tells it. */
  const wait = (among: Set<() => void>, onTold: () => void) =>
    Effect.callback<void>((resume) => {
      const told = () => {
        onTold()
        resume(Effect.yieldNow)
      }
      among.add(told)
      return Effect.sync(() => among.delete(told))
    })
  const isFree = () => free > 0
  return {
    isFree,
    takeUnsafe: () => {
      if (!isFree()) return false
      free--
      return true
    },
    /** Waits for a slot, but not for longer. */
    takeWithin: (patience: Duration.Duration): Effect.Effect<boolean> =>
      Effect.suspend(() => {
        let taken = false
        const handedOver = wait(inLine, () => {
          taken = true
        })
        return Effect.onInterrupt(
          // whoever ends the race, what was handed over is held
          Effect.map(Effect.raceFirst(handedOver, Effect.sleep(patience)), () => taken),
          () => (taken ? release : Effect.void)
        )
      }),
    release,
    /** Waits until a slot may be free. */
    invitation: wait(uninvited, () => {}),
    /** Invites more, and then twice as many, while slots stay free: the queues of those before had nothing. */
    inviting: Effect.gen(function* () {
      while (true) {
        yield* unused.await
        unused.closeUnsafe()
        yield* Effect.sleep(invitationPatience)
        let more = free
        while (isFree() && uninvited.size > 0) {
          tell(uninvited, more)
          more *= 2
          yield* Effect.sleep(invitationPatience)
        }
      }
    })
  }
}
