import type { Receipt } from "effect-jobs"
import { Clock, Console, Context, Effect, Layer, Schedule } from "effect"

export interface Run {
  readonly id: string
  readonly attempt: number
}

/**
 * Counts what was accepted and how it ended. An engine may run a job before its dispatch returns, after it, or
 * twice: so the runs are counted, by their ids.
 */
export class Summary extends Context.Service<
  Summary,
  {
    readonly refused: (line: number, reason: string) => Effect.Effect<void>
    readonly accepted: (receipts: ReadonlyArray<Receipt>) => Effect.Effect<void>
    readonly sent: (run: Run) => Effect.Effect<void>
    readonly failed: (run: Run, reason: string) => Effect.Effect<void>
    /** A run that sends no mail itself has ended. */
    readonly done: (run: Run) => Effect.Effect<void>
    /** Returns when whatever was accepted has ended, or when nothing has happened for 10 seconds. */
    readonly settled: Effect.Effect<void>
    readonly progress: Effect.Effect<string>
    readonly report: Effect.Effect<string>
  }
>()("newsletter/Summary") {
  static readonly layer: Layer.Layer<Summary> = Layer.effect(
    Summary,
    Effect.gen(function* () {
      const clock = yield* Clock.Clock
      const waiting = new Set<string>()
      const ended = new Set<string>()
      const failures: Array<string> = []
      const refusals = new Map<number, string>()
      let sent = 0
      let retried = 0
      let lastEnd = clock.currentTimeMillisUnsafe()

      const end = (id: string, count: () => void) =>
        Effect.sync(() => {
          lastEnd = clock.currentTimeMillisUnsafe()
          waiting.delete(id)
          if (ended.has(id)) return
          ended.add(id)
          count()
        })

      return {
        refused: (line, reason) => Effect.sync(() => void refusals.set(line, reason)),
        accepted: (receipts) =>
          Effect.sync(() => {
            lastEnd = clock.currentTimeMillisUnsafe()
            for (const { id } of receipts) if (!ended.has(id)) waiting.add(id)
          }),
        sent: ({ attempt, id }) =>
          end(id, () => {
            sent++
            if (attempt > 1) retried++
          }),
        failed: ({ attempt, id }, reason) =>
          end(id, () => {
            if (attempt > 1) retried++
            failures.push(`${id}, ${attempt === 1 ? "1 attempt" : `${attempt} attempts`}: ${reason}`)
          }),
        done: ({ id }) => end(id, () => {}),
        settled: Effect.sync(
          () => waiting.size === 0 || clock.currentTimeMillisUnsafe() - lastEnd > 10_000
        ).pipe(Effect.repeat({ schedule: Schedule.spaced("50 millis"), until: (settled) => settled })),
        progress: Effect.sync(() => `${sent} sent, ${failures.length} failed`),
        report: Effect.sync(() =>
          [
            ...section("sent", sent),
            ...section("retried", retried),
            ...section("failed", failures.length, failures),
            ...section(
              "refused",
              refusals.size,
              [...refusals].toSorted(([a], [b]) => a - b).map(([line, reason]) => `line ${line}: ${reason}`)
            ),
            ...(waiting.size === 0 ? [] : section("no news of", waiting.size, [...waiting]))
          ].join("\n")
        )
      }
    })
  )

  /** Prints the progress once a second, while there is any. */
  static readonly printed = Layer.effectDiscard(
    Effect.gen(function* () {
      const { progress } = yield* Summary
      let last = yield* progress
      const print = Effect.flatMap(Effect.delay(progress, "1 second"), (now) => {
        if (now === last) return Effect.void
        last = now
        return Console.log(now)
      })
      yield* Effect.forkScoped(Effect.forever(print))
    })
  )
}

const section = (title: string, count: number, lines: ReadonlyArray<string> = []): ReadonlyArray<string> => [
  `${title.padEnd(10)} ${count}`,
  ...lines.slice(0, 20).map((line) => `  ${line.replaceAll(/\s*\n\s*/g, " ")}`),
  ...(lines.length > 20 ? [`  and ${lines.length - 20} more`] : [])
]
