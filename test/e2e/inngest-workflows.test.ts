// Effect's Workflows on a real Inngest server: written for `effect/workflow`, registered with its own `toLayer`.
import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Effect, Exit, Fiber, Layer, Option, Schema } from "effect"
import { Job } from "effect-jobs"
import { InngestDispatcher, InngestWorkflowEngine, InngestWorker } from "effect-jobs/inngest"
import { Activity, DurableClock, DurableDeferred, Workflow } from "effect/workflow"
import * as Inngest from "../support/Inngest.ts"
import { onInngest } from "../support/needs.ts"
import { holds } from "../support/inngestFaults.ts"

class Declined extends Schema.TaggedError<Declined>()("Declined", { code: Schema.Int }) {}

const payload = { id: Schema.String }
const idempotencyKey = ({ id }: { readonly id: string }) => id

const Charge = Workflow.make("Charge", {
  payload: { id: Schema.String, amount: Schema.Int },
  idempotencyKey,
  success: Schema.Struct({ at: Schema.Date, amount: Schema.Int }),
  error: Declined
})
const Order = Workflow.make("Order", { payload, idempotencyKey, success: Schema.String, error: Declined })
const Approval = DurableDeferred.make("approval", { success: Schema.String })
const Approved = Workflow.make("Approved", { payload, idempotencyKey, success: Schema.String })
const Slow = Workflow.make("Slow", { payload, idempotencyKey })
const Broken = Workflow.make("Broken", { payload, idempotencyKey, success: Schema.Int })
const Patient = Workflow.make("Patient", {
  payload,
  idempotencyKey,
  success: Schema.Int,
  error: Schema.String
}).annotate(Workflow.SuspendOnFailure, true)
class Parent extends Job.make("workflows.parent", { payload, success: Schema.Int, error: Declined }) {}

const everything = [Charge, Order, Approved, Slow, Broken, Patient, Parent] as const

const handlers = (seen: Array<string>) => {
  const note = (what: string) => Effect.sync(() => void seen.push(what))
  const step = (name: string) => Activity.make({ name, execute: note(name) })
  let mended = false
  return {
    mend: () => (mended = true),
    layer: Layer.mergeAll(
      Charge.toLayer(({ amount, id }) =>
        Effect.gen(function* () {
          yield* Effect.acquireRelease(note(`acquire ${id}`), () => note(`release ${id}`))
          yield* Effect.as(step(`reserve ${id}`), 1).pipe(
            Charge.withCompensation((value, cause) =>
              Effect.asVoid(step(`refund ${id} ${value} ${Cause.hasFails(cause)}`))
            )
          )
          yield* DurableClock.sleep({ name: "bank", duration: "1 second", inMemoryThreshold: 0 })
          if (amount > 100) return yield* new Declined({ code: amount })
          return { at: new Date(amount), amount }
        })
      ),
      Order.toLayer(({ id }) =>
        Effect.gen(function* () {
          yield* note(`executions ${id}`)
          const [one, two] = yield* Effect.all(
            [Charge.execute({ id: `${id}-1`, amount: 1 }), Charge.execute({ id: `${id}-2`, amount: 2 })],
            { concurrency: "unbounded" }
          )
          const three = yield* Charge.execute({ id: `${id}-3`, amount: 103 }).pipe(
            Effect.as("charged"),
            Effect.catchTag("Declined", ({ code }) => Effect.succeed(`declined-${code}`))
          )
          const again = yield* Charge.execute({ id: `${id}-1`, amount: 1 })
          return `${one.at.getTime()} ${two.amount} ${three} ${again.amount}`
        })
      ),
      Approved.toLayer(() =>
        Effect.gen(function* () {
          yield* note(`token ${yield* DurableDeferred.token(Approval)}`)
          return `by ${yield* DurableDeferred.await(Approval)}`
        })
      ),
      Slow.toLayer(({ id }) =>
        Effect.gen(function* () {
          yield* step(`first ${id}`)
          yield* DurableClock.sleep({ name: "long", duration: "5 seconds", inMemoryThreshold: 0 })
          yield* step(`never ${id}`)
        })
      ),
      Broken.toLayer(() => Effect.die(new Error("out of order"))),
      Patient.toLayer(({ id }) =>
        Effect.gen(function* () {
          yield* step(`before ${id}`)
          return yield* Activity.make({
            name: "try",
            success: Schema.Int,
            error: Schema.String,
            execute: Effect.suspend(() => {
              seen.push(`try ${id}`)
              return mended ? Effect.succeed(7) : Effect.fail("not now")
            })
          })
        })
      ),
      Parent.toLayer(({ id }) => Effect.map(Charge.execute({ id, amount: 5 }), ({ amount }) => amount))
    )
  }
}

onInngest("workflows on Inngest", () => {
  describe("workflows on Inngest", { concurrent: true }, () => {
    for (const transport of ["http", "connect"] as const) {
      it.live(`${transport}: code for effect/workflow, unchanged`, () =>
        Effect.gen(function* () {
          const server = yield* Inngest.make(["dev"])
          const seen: Array<string> = []
          const { layer, mend } = handlers(seen)
          const options = { onError: () => Effect.void }
          const worker: Layer.Layer<never, unknown, InngestWorker.Needs<typeof everything>> = transport ===
          "http"
            ? Inngest.overHttp(everything, options)
            : InngestWorker.layerConnect(everything, options)
          const context = yield* Layer.build(
            Layer.effectDiscard(Inngest.knows(server, { jobName: "Charge" })).pipe(
              Layer.provide(worker),
              Layer.provide(layer),
              Layer.provideMerge(InngestWorkflowEngine.layer),
              Layer.provideMerge(InngestDispatcher.layer),
              Layer.provide(Inngest.client(server))
            )
          )
          let last = performance.now()
          const lap = (what: string) => {
            console.log(`${transport}: ${what} ${Math.round(performance.now() - last)} ms`)
            last = performance.now()
          }
          const count = (what: string) => seen.filter((entry) => entry === what).length
          yield* Effect.gen(function* () {
            // a workflow's typed result, its failure, and its defect
            const [charged, declined, broken] = yield* Effect.all(
              [
                Charge.execute({ id: "a", amount: 42 }),
                Effect.flip(Charge.execute({ id: "b", amount: 1000 })),
                Effect.exit(Broken.execute({ id: "c" }))
              ],
              { concurrency: "unbounded" }
            )
            assert.deepStrictEqual(charged, { at: new Date(42), amount: 42 })
            assert.deepStrictEqual(declined, new Declined({ code: 1000 }))
            assert.isTrue(Exit.isFailure(broken) && Cause.hasDies(broken.cause))
            if (Exit.isFailure(broken)) assert.match(String(Cause.squash(broken.cause)), /out of order/)
            // the activity before the failure was compensated, by an activity, once
            assert.strictEqual(count("reserve b"), 1)
            assert.strictEqual(count("refund b 1 true"), 1)
            assert.isEmpty(seen.filter((entry) => entry.startsWith("refund a")))

            lap("results")
            // the same id again is the same execution
            const start = yield* Clock.currentTimeMillis
            assert.deepStrictEqual(yield* Charge.execute({ id: "a", amount: 42 }), charged)
            console.log(`${transport}: joined in ${(yield* Clock.currentTimeMillis) - start} ms`)
            assert.strictEqual(count("reserve a"), 1)
            const id = yield* Charge.executionId({ id: "a", amount: 42 })
            const polled = yield* Charge.poll(id)
            assert.isTrue(Option.isSome(polled) && polled.value._tag === "Complete")
            assert.isTrue(Option.isNone(yield* Charge.poll("nobody")))

            lap("joins")
            // children, at once and one after the other, and one that was there
            assert.strictEqual(yield* Order.execute({ id: "o" }), "1 2 declined-103 1")
            for (const n of [1, 2, 3]) assert.strictEqual(count(`reserve o-${n}`), 1)
            // and from a job
            yield* Parent.dispatch({ id: "p" })
            yield* holds(() => assert.strictEqual(count("reserve p"), 1))

            lap("children")
            // a deferred, completed from outside
            const waiting = yield* Effect.forkChild(Approved.execute({ id: "d" }))
            const token = yield* holds(() => {
              const found = seen.find((entry) => entry.startsWith("token "))
              assert.isDefined(found)
              return found.slice("token ".length)
            })
            yield* DurableDeferred.succeed(Approval, {
              // sound: the handler wrote it down
              token: token as DurableDeferred.Token,
              value: "grace"
            })
            assert.strictEqual(yield* Fiber.join(waiting), "by grace")

            lap("deferred")
            // interrupted between two activities
            const slow = yield* Slow.execute({ id: "s" }, { discard: true })
            const watched = yield* Effect.forkChild(Effect.exit(Slow.execute({ id: "s" })))
            yield* holds(() => assert.strictEqual(count("first s"), 1))
            yield* Slow.interrupt(slow)
            const exit = yield* Fiber.join(watched)
            assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))

            lap("interrupt")
            // suspended by its failure, until it is resumed
            const patient = yield* Patient.execute({ id: "r" }, { discard: true })
            yield* holds(() => assert.strictEqual(count("try r"), 1))
            yield* Effect.sleep("2 seconds")
            assert.isTrue(Option.isNone(yield* Patient.poll(patient)))
            mend()
            yield* Patient.resume(patient)
            assert.strictEqual(yield* Patient.execute({ id: "r" }), 7)
            assert.strictEqual(count("try r"), 2)
            assert.strictEqual(count("before r"), 1)

            lap("resume")
            yield* Effect.sleep("4 seconds")
            assert.strictEqual(count("never s"), 0)
            const acquired = seen.filter((entry) => entry.startsWith("acquire ")).length
            const released = seen.filter((entry) => entry.startsWith("release ")).length
            console.log(`${transport}: ${acquired} acquired, ${released} released`)
            assert.strictEqual(acquired, released)
          }).pipe(Effect.provideContext(context))
        })
      )
    }

    it.live(
      "a run that is cancelled on the server's screens: who waits for its result gets the interruption",
      () =>
        Effect.gen(function* () {
          const server = yield* Inngest.make(["dev"])
          const seen: Array<string> = []
          const { layer } = handlers(seen)
          const context = yield* Layer.build(
            Inngest.overHttp(everything, { onError: () => Effect.void }).pipe(
              Layer.provide(layer),
              Layer.provideMerge(InngestWorkflowEngine.layer),
              Layer.provideMerge(InngestDispatcher.layer),
              Layer.provide(Inngest.client(server))
            )
          )
          yield* Effect.gen(function* () {
            const watched = yield* Effect.forkChild(Effect.exit(Approved.execute({ id: "x" })))
            yield* holds(() => assert.isTrue(seen.some((entry) => entry.startsWith("token "))))
            yield* holds(() => Inngest.cancelRunsOf(server, Approved._tag))
            const exit = yield* Fiber.join(watched)
            assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
          }).pipe(Effect.provideContext(context))
        }),
      120_000
    )

    it.effect("a workflow without a handler is refused when the worker is built", () =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(
          Layer.build(
            Layer.effectDiscard(InngestWorker.functions([Slow])).pipe(
              Layer.provide(InngestWorkflowEngine.layer),
              Layer.provide(InngestDispatcher.layer),
              Layer.provide(Inngest.client({ url: "http://127.0.0.1:1" }))
            )
          )
        )
        assert.isTrue(Exit.isFailure(exit))
        if (Exit.isFailure(exit)) {
          assert.strictEqual(
            String(Cause.squash(exit.cause)),
            'DefinitionError: The workflow "Slow" of InngestWorker has no handler: provide its toLayer to the worker\'s Layer.'
          )
        }
      })
    )
  })
})
