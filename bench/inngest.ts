/**
 * Inngest: a dispatch against the SDK's own `send` on a real server, and a worker's call against the plain SDK
 * function with the same body. Each ratio is of measurements that take turns in one repetition.
 */
import { Effect, Layer, ManagedRuntime, Schema } from "effect"
import { Dispatcher, Job } from "effect-jobs"
import { InngestClient, InngestDispatcher, InngestWorker } from "effect-jobs/inngest"
import { Activity } from "effect/workflow"
import { Inngest as Sdk } from "inngest"
import { serve } from "inngest/edge"
import * as Inngest from "../test/support/Inngest.ts"
import { median, type Row } from "./Row.ts"

const repetitions = 5

const payload = { to: Schema.String, n: Schema.Int }
class Noop extends Job.make("bench.noop", { payload, timeout: "30 seconds" }) {}
/** One activity, in a call of its own: the call after it finds it done. */
class Stepped extends Job.make("bench.stepped", {
  payload,
  success: Schema.Int,
  timeout: "30 seconds"
}).annotate(InngestWorker.FunctionOptions, { checkpointing: false }) {}

const micros = (values: ReadonlyArray<number>) => `${(median(values) * 1_000).toFixed(0)} µs`

type Call = () => Promise<unknown>

/** The server goes on with an event after its answer: before what is to be measured alone it gets time for that. */
const quiet = 1_500

/** Milliseconds a call of each, in turns, so that all see the same machine; with a pause before each side's turn. */
const inTurns = async <const Calls extends ReadonlyArray<Call>>(
  { calls, pause = 0, turns }: { readonly turns: number; readonly calls: number; readonly pause?: number },
  ...sides: Calls
): Promise<{ readonly [K in keyof Calls]: number }> => {
  const took = sides.map((): Array<number> => [])
  for (let turn = 0; turn < turns; turn++) {
    for (let n = 0; n < sides.length; n++) {
      const side = (turn + n) % sides.length
      if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause))
      const start = performance.now()
      for (let call = 0; call < calls; call++) await sides[side]?.()
      took[side]?.push((performance.now() - start) / calls)
    }
  }
  // sound: one median a side
  return took.map(median) as unknown as { readonly [K in keyof Calls]: number }
}

const request = (job: string, steps: Record<string, unknown> = {}) =>
  new Request(`http://127.0.0.1/api/inngest?fnId=bench-${job}&stepId=step`, {
    method: "POST",
    headers: { host: "127.0.0.1", "content-type": "application/json" },
    body: JSON.stringify({
      version: 2,
      event: { id: "1", name: job, data: { to: "ada@example.com", n: 1 }, ts: 1_000 },
      events: [],
      steps,
      ctx: {
        run_id: "01",
        attempt: 0,
        disable_immediate_execution: false,
        use_api: false,
        stack: { stack: Object.keys(steps), current: Object.keys(steps).length }
      }
    })
  })

/** The plain SDK's functions, with the same bodies. */
const plainHandler = (count: () => number) => {
  const sdk = new Sdk({ id: "bench", isDev: true, baseUrl: "http://127.0.0.1:9" })
  return serve({
    client: sdk,
    functions: [
      sdk.createFunction(
        { id: Noop.jobName, retries: 0, triggers: [{ event: Noop.jobName }] },
        async () => void count()
      ),
      sdk.createFunction(
        { id: Stepped.jobName, retries: 0, triggers: [{ event: Stepped.jobName }], checkpointing: false },
        ({ step }) => step.run("count", count)
      )
    ]
  })
}

type Handler = (request: Request) => Promise<Response>

const callNoop = (handler: Handler) => async () => {
  const response = await handler(request(Noop.jobName))
  if (response.status !== 200) throw new Error(await response.text())
  await response.text()
}

/** A run of one step: the call that runs it, and the one that finds it done. */
const callStepped = (handler: Handler) => async () => {
  const first = await handler(request(Stepped.jobName))
  const text = await first.text()
  if (first.status !== 206) throw new Error(text)
  // sound: what the SDK answers at a step
  const [op] = JSON.parse(text) as ReadonlyArray<{ readonly id: string; readonly data: unknown }>
  const memo = { [op?.id ?? ""]: { type: "data", data: op?.data } }
  const second = await handler(request(Stepped.jobName, memo))
  if (second.status !== 200) throw new Error(await second.text())
  await second.text()
}

const worker = async (): Promise<ReadonlyArray<Row>> => {
  let runs = 0
  const count = () => ++runs
  const ours = InngestWorker.toWebHandler(
    [Noop, Stepped],
    Layer.mergeAll(
      Noop.toLayer(() => Effect.sync(() => void count())),
      Stepped.toLayer(() =>
        Activity.make({ name: "count", success: Schema.Int, execute: Effect.sync(count) })
      ),
      Layer.succeed(Dispatcher, { send: () => Effect.void }),
      InngestClient.layer({ id: "bench", isDev: true, baseUrl: "http://127.0.0.1:9" })
    )
  )
  const plain = plainHandler(count)
  const sides = [
    callNoop(ours.handler),
    callNoop(plain),
    callStepped(ours.handler),
    callStepped(plain)
  ] as const
  await inTurns({ turns: 4, calls: 300 }, ...sides)
  const measured: Array<readonly [number, number, number, number]> = []
  for (let repetition = 0; repetition < repetitions; repetition++) {
    measured.push(await inTurns({ turns: 40, calls: 50 }, ...sides))
  }
  await ours.dispose()
  return [
    {
      name: "worker's call / plain SDK function",
      ratios: measured.map(([ours, theirs]) => ours / theirs),
      note: `${micros(measured.map(([ours]) => ours))} / ${micros(measured.map(([, theirs]) => theirs))}`
    },
    {
      name: "a run of one activity / plain SDK function of one step, two calls",
      ratios: measured.map(([, , ours, theirs]) => ours / theirs),
      note: `${micros(measured.map(([, , ours]) => ours))} / ${micros(measured.map(([, , , theirs]) => theirs))}`
    }
  ]
}

const dispatch = Effect.gen(function* () {
  const server = yield* Inngest.make(["dev"])
  const sdk = new Sdk({ id: "bench", isDev: true, baseUrl: server.url })
  const runtime = ManagedRuntime.make(Layer.provide(InngestDispatcher.layer, Inngest.client(server)))
  let n = 0
  const calls = 30
  const repeated = (times: number, call: Call) => async () => {
    for (let count = 0; count < times; count++) await call()
  }
  /** In one fiber, as a program dispatches. */
  const ours = () =>
    runtime.runPromise(
      Effect.gen(function* () {
        for (let count = 0; count < calls; count++) yield* Noop.dispatch({ to: "ada@example.com", n: n++ })
      })
    )
  const send = () => sdk.send({ name: Noop.jobName, data: { to: "ada@example.com", n: n++ } })
  const theirs = repeated(calls, send)
  const thousand = () =>
    runtime.runPromise(
      Noop.dispatchAll(Array.from({ length: 1_000 }, () => ({ to: "ada@example.com", n: n++ })))
    )
  const sdkThousand = () =>
    sdk.send(
      Array.from({ length: 1_000 }, () => ({ name: Noop.jobName, data: { to: "ada@example.com", n: n++ } }))
    )
  /** What ours sends. The server looks for an id that it has had. */
  const event = () => ({
    id: crypto.randomUUID(),
    name: Noop.jobName,
    data: {
      to: "ada@example.com",
      n: n++,
      _effectJobs: {
        dispatchedAt: 1_767_225_600_000,
        trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
      }
    }
  })
  const same = repeated(calls, () => sdk.send(event()))
  const sendThousandTimes = repeated(1_000, send)
  const sameThousand = () => sdk.send(Array.from({ length: 1_000 }, event))
  return yield* Effect.promise(async (): Promise<ReadonlyArray<Row>> => {
    await inTurns({ turns: 4, calls: 15 }, ours, theirs, same)
    await inTurns({ turns: 4, calls: 1 }, thousand, sdkThousand, sameThousand)
    const single: Array<readonly [number, number, number]> = []
    const batch: Array<readonly [number, number, number, number]> = []
    for (let repetition = 0; repetition < repetitions; repetition++) {
      const took = await inTurns({ turns: 100, calls: 1 }, ours, theirs, same)
      single.push([took[0] / calls, took[1] / calls, took[2] / calls])
      batch.push(
        await inTurns(
          { turns: 3, calls: 1, pause: quiet },
          thousand,
          sdkThousand,
          sameThousand,
          sendThousandTimes
        )
      )
    }
    await runtime.dispose()
    return [
      {
        name: "dispatch / client.send",
        ratios: single.map(([ours, theirs]) => ours / theirs),
        note: `${micros(single.map(([ours]) => ours))} / ${micros(single.map(([, theirs]) => theirs))}`
      },
      {
        name: "dispatch / client.send of the same event, with an id",
        ratios: single.map(([ours, , same]) => ours / same),
        note: `${micros(single.map(([ours]) => ours))} / ${micros(single.map(([, , same]) => same))}`
      },
      {
        name: "dispatchAll of 1,000 / 1,000 times client.send",
        ratios: batch.map(([ours, , , singly]) => ours / singly),
        note: `${median(batch.map(([ours, , , singly]) => singly / ours)).toFixed(1)} times as fast; the SDK's own ${median(batch.map(([, theirs, , singly]) => singly / theirs)).toFixed(1)} times`
      },
      {
        name: "dispatchAll of 1,000 / client.send of all 1,000",
        ratios: batch.map(([ours, theirs]) => ours / theirs),
        note: `${median(batch.map(([ours]) => ours)).toFixed(1)} ms / ${median(batch.map(([, theirs]) => theirs)).toFixed(1)} ms`
      },
      {
        name: "dispatchAll of 1,000 / client.send of all 1,000, with ids",
        ratios: batch.map(([ours, , same]) => ours / same),
        note: `${median(batch.map(([ours]) => ours)).toFixed(1)} ms / ${median(batch.map(([, , same]) => same)).toFixed(1)} ms`
      }
    ]
  })
})

export const run = async (): Promise<ReadonlyArray<Row>> => [
  ...(await worker()),
  ...(Inngest.bin === undefined ? [] : await Effect.runPromise(Effect.scoped(dispatch)))
]
