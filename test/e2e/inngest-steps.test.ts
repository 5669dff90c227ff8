// Durable steps on a real Inngest server, with a worker that is killed between two of them.
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Layer } from "effect"
import { Steps } from "effect-jobs"
import { InngestDispatcher } from "effect-jobs/inngest"
import { DurableDeferred } from "effect/workflow"
import * as Inngest from "../support/Inngest.ts"
import { onInngest } from "../support/needs.ts"
import { holds, journalOf, startChild, toldOf } from "../support/inngestFaults.ts"
import { Approval, parse, Stepwise } from "../support/stepwise.ts"

const entriesOf = (journal: string) => journalOf(journal).map(parse)

onInngest("durable steps on Inngest", () => {
  describe("durable steps on Inngest", { concurrent: true }, () => {
    for (const { approved, checkpointing, transport } of [
      { transport: "http", checkpointing: true, approved: "early" },
      { transport: "http", checkpointing: false, approved: "late" },
      { transport: "connect", checkpointing: true, approved: "late" }
    ] as const) {
      it.live(
        `${transport}, checkpointing ${checkpointing ? "on" : "off"}, completed ${approved}: killed between two activities, each happens once`,
        () =>
          Effect.gen(function* () {
            const server = yield* Inngest.make(["dev"])
            const told = yield* toldOf(server, { transport, checkpointing })
            const { journal } = told
            const outside = yield* Layer.build(
              Steps.layer.pipe(
                Layer.provideMerge(InngestDispatcher.layer),
                Layer.provide(Inngest.client(server, { id: "outside" }))
              )
            )
            const of = (what: string) => entriesOf(journal).filter((entry) => entry.what === what)
            const approve = Effect.suspend(() =>
              DurableDeferred.succeed(Approval, {
                // sound: the handler wrote it down
                token: (of("token")[0]?.detail ?? "") as DurableDeferred.Token,
                value: 100
              })
            ).pipe(Effect.provideContext(outside))

            const first = yield* startChild({ ...told, stops: true })
            yield* Inngest.knows(server, Stepwise)
            yield* Effect.provideContext(Stepwise.dispatch({ n: 5 }), outside)
            yield* holds(() => assert.isNotEmpty(of("between")))
            if (approved === "early") yield* approve
            // a result that is on its way to the server when the worker dies is lost with it
            yield* Effect.sleep("1 second")
            yield* Effect.promise(first.kill)
            const killed = yield* Clock.currentTimeMillis
            yield* startChild(told)
            yield* holds(() => assert.isNotEmpty(of("asleep")))
            if (approved === "late") {
              yield* holds(() => assert.isNotEmpty(of("awake")))
              yield* Effect.sleep("1 second")
              yield* approve
            }
            yield* holds(() => assert.isNotEmpty(of("result")))
            yield* Effect.sleep("2 seconds")

            const effects = of("effect")
            assert.deepStrictEqual(
              effects.map(({ detail }) => detail).toSorted((a, b) => (a < b ? -1 : 1)),
              ["a", "b", "c", "d", "e", "f", "flaky/1", "flaky/2", "flaky/3"]
            )
            // 5, 10, 11; 1 + 2 + 3; 3 tries; 100
            assert.strictEqual(of("result").at(-1)?.detail, String(11 + 6 + 3 + 100))
            const at = (detail: string) => effects.find((entry) => entry.detail === detail)?.time ?? 0
            const pauses = [at("flaky/2") - at("flaky/1"), at("flaky/3") - at("flaky/2")]
            const slept = (of("awake")[0]?.time ?? 0) - (of("asleep")[0]?.time ?? 0)
            console.log(
              `${transport}, checkpointing ${checkpointing}: went on ${at("c") - killed} ms after the kill, tries ${pauses.join(
                " and "
              )} ms apart, slept ${slept} ms; the handler was called ${of("acquired").length} times`
            )
            for (const pause of pauses) assert.isAtLeast(pause, 1_000)
            assert.isAtLeast(slept, 2_000)
            // what the killed process had acquired is gone with it
            const pids = [...new Set(of("acquired").map(({ pid }) => pid))]
            assert.strictEqual(pids.length, 2)
            for (const pid of pids) {
              const acquired = of("acquired").filter((entry) => entry.pid === pid).length
              const released = of("released").filter((entry) => entry.pid === pid).length
              assert.strictEqual(acquired - released, pid === pids[0] ? 1 : 0)
            }
          })
      )
    }
  })
})
