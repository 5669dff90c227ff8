// The stepwise handler, unchanged, where steps are kept in memory, and on Postgres with its worker killed.
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Fiber, Layer } from "effect"
import { InlineDispatcher, Steps } from "effect-jobs"
import { QueueDispatcher } from "effect-jobs/queue"
import { TestClock } from "effect/testing"
import { DurableDeferred } from "effect/workflow"
import { holds, journalOf, newJournal, startProgram } from "../support/inngestFaults.ts"
import * as Postgres from "../support/Postgres.ts"
import { Approval, type Entry, parse, Stepwise, stepwise } from "../support/stepwise.ts"
import { store, type Told } from "../support/stepwiseChild.ts"

const effects = ["a", "b", "c", "d", "e", "f", "flaky/1", "flaky/2", "flaky/3"]

const approve = (entries: () => ReadonlyArray<Entry>) =>
  Effect.suspend(() =>
    DurableDeferred.succeed(Approval, {
      // sound: the handler wrote it down
      token: (entries().find(({ what }) => what === "token")?.detail ?? "") as DurableDeferred.Token,
      value: 100
    })
  ).pipe(Effect.provide(Steps.layer))

const check = (entries: ReadonlyArray<Entry>) => {
  const of = (what: string) => entries.filter((entry) => entry.what === what)
  assert.deepStrictEqual(
    of("effect")
      .map(({ detail }) => detail)
      .toSorted((a, b) => (a < b ? -1 : 1)),
    effects
  )
  assert.deepStrictEqual(
    of("result").map(({ detail }) => detail),
    [String(11 + 6 + 3 + 100)]
  )
  return of
}

describe("durable steps", () => {
  it.effect("in this process, on TestClock: in milliseconds", () => {
    const lines: Array<string> = []
    const entries = () => lines.map(parse)
    return Effect.gen(function* () {
      const fiber = yield* Effect.forkChild(Stepwise.dispatch({ n: 5 }), { startImmediately: true })
      while (!entries().some(({ what }) => what === "awake")) yield* TestClock.adjust("500 millis")
      yield* approve(entries)
      yield* Fiber.join(fiber)
      const of = check(entries())
      assert.strictEqual(of("acquired").length, of("released").length)
      assert.strictEqual((of("awake")[0]?.time ?? 0) - (of("asleep")[0]?.time ?? 0), 2_000)
    }).pipe(
      Effect.provide(
        Layer.provide(
          InlineDispatcher.layer([Stepwise]),
          stepwise((line) => lines.push(line), false)
        )
      )
    )
  })

  it.live("on Postgres: killed between two activities, each happens once", () =>
    Effect.gen(function* () {
      const { url } = yield* Postgres.make()
      const journal = yield* newJournal
      const entries = () => journalOf(journal).map(parse)
      const told: Told = { postgres: url, journal, stops: true }
      const outside = yield* Layer.build(Layer.provide(QueueDispatcher.layer, store(url)))
      const first = yield* startProgram("stepwiseChild.ts", told)
      yield* Effect.provideContext(Stepwise.dispatch({ n: 5 }), outside)
      const happened = (what: string) => () => assert.include(journalOf(journal).join("\n"), what)
      yield* holds(happened("between"))
      yield* Effect.promise(first.kill)
      const killed = yield* Clock.currentTimeMillis
      yield* startProgram("stepwiseChild.ts", { ...told, stops: false })
      yield* holds(happened("awake"))
      yield* Effect.provideContext(approve(entries), outside)
      yield* holds(happened("result"))
      yield* Effect.sleep("500 millis")
      const of = check(entries())
      const pids = [...new Set(of("acquired").map(({ pid }) => pid))]
      const left = pids.map(
        (pid) =>
          of("acquired").filter((entry) => entry.pid === pid).length -
          of("released").filter((entry) => entry.pid === pid).length
      )
      // what the killed process had acquired is gone with it
      assert.deepStrictEqual(left, [1, 0])
      const again = (entries().find(({ detail }) => detail === "c")?.time ?? 0) - killed
      console.log(`Postgres: went on ${again} ms after the kill, with a lock of 3 s`)
    })
  )
})
