/**
 * Inngest: a dispatch against the SDK's own `send` on a real server, and a worker's call against the plain SDK
 * function with the same body. Each ratio is of measurements that take turns in one repetition.
 */
import { Effect, Layer, ManagedRuntime, Schema } from "effect"
import { Dispatcher, Job } from "effect-jobs"
import { InngestClient, InngestDispatcher, InngestWorker } from "effect-jobs/inngest"
import { Inngest as Sdk } from "inngest"
import { serve } from "inngest/edge"
import * as Inngest from "../test/support/Inngest.ts"
import type { Row } from "./Row.ts"

const repetitions = 5

class Noop extends Job.make("bench.noop", {
  payload: { to: Schema.String, n: Schema.Int },
  timeout: "30 seconds"
}) {}

const median = (values: ReadonlyArray<number>): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN

const micros = (values: ReadonlyArray<number>) => `${(median(values) * 1_000).toFixed(0)} µs`

/** Milliseconds a call of each, in turns, so that both see the same machine. */
const inTurns = async (
  turns: number,
  calls: number,
  ours: () => Promise<unknown>,
  theirs: () => Promise<unknown>
): Promise<readonly [number, number]> => {
  const took: [Array<number>, Array<number>] = [[], []]
  for (let turn = 0; turn < turns; turn++) {
    for (const side of turn % 2 === 0 ? ([0, 1] as const) : ([1, 0] as const)) {
      const one = side === 0 ? ours : theirs
      const start = performance.now()
      for (let n = 0; n < calls; n++) await one()
      took[side].push((performance.now() - start) / calls)
    }
  }
  return [median(took[0]), median(took[1])]
}

const request = (app: string) => () =>
  new Request(`http://127.0.0.1/api/inngest?fnId=${app}-${Noop.jobName}&stepId=step`, {
    method: "POST",
    headers: { host: "127.0.0.1", "content-type": "application/json" },
    body: JSON.stringify({
      version: 2,
      event: { id: "1", name: Noop.jobName, data: { to: "ada@example.com", n: 1 }, ts: 1_000 },
      events: [],
      steps: {},
      ctx: {
        run_id: "01",
        attempt: 0,
        disable_immediate_execution: false,
        use_api: false,
        stack: { stack: [], current: 0 }
      }
    })
  })

const worker = async (): Promise<ReadonlyArray<Row>> => {
  let runs = 0
  const ours = InngestWorker.toWebHandler(
    [Noop],
    Layer.mergeAll(
      Noop.toLayer(() => Effect.sync(() => void runs++)),
      Layer.succeed(Dispatcher, { send: () => Effect.void }),
      InngestClient.layer({ id: "bench", isDev: true, baseUrl: "http://127.0.0.1:9" })
    )
  )
  const sdk = new Sdk({ id: "bench", isDev: true, baseUrl: "http://127.0.0.1:9" })
  const plain = serve({
    client: sdk,
    functions: [
      sdk.createFunction(
        { id: Noop.jobName, retries: 0, triggers: [{ event: Noop.jobName }] },
        async () => void runs++
      )
    ]
  })
  const make = request("bench")
  const check = async (response: Response) => {
    if (response.status !== 200) throw new Error(await response.text())
    await response.text()
  }
  const callOurs = async () => check(await ours.handler(make()))
  const callTheirs = async () => check(await plain(make()))
  await inTurns(4, 500, callOurs, callTheirs)
  const measured: Array<readonly [number, number]> = []
  for (let repetition = 0; repetition < repetitions; repetition++) {
    measured.push(await inTurns(40, 100, callOurs, callTheirs))
  }
  await ours.dispose()
  return [
    {
      name: "worker's call / plain SDK function",
      ratios: measured.map(([ours, theirs]) => ours / theirs),
      note: `${micros(measured.map(([ours]) => ours))} / ${micros(measured.map(([, theirs]) => theirs))}`
    }
  ]
}

const dispatch = Effect.gen(function* () {
  const server = yield* Inngest.make(["dev"])
  const sdk = new Sdk({ id: "bench", isDev: true, baseUrl: server.url })
  const runtime = ManagedRuntime.make(Layer.provide(InngestDispatcher.layer, Inngest.client(server)))
  let n = 0
  const ours = () => runtime.runPromise(Noop.dispatch({ to: "ada@example.com", n: n++ }))
  const theirs = () => sdk.send({ name: Noop.jobName, data: { to: "ada@example.com", n: n++ } })
  const thousand = () =>
    runtime.runPromise(
      Noop.dispatchAll(Array.from({ length: 1_000 }, () => ({ to: "ada@example.com", n: n++ })))
    )
  const sdkThousand = () =>
    sdk.send(
      Array.from({ length: 1_000 }, () => ({ name: Noop.jobName, data: { to: "ada@example.com", n: n++ } }))
    )
  return yield* Effect.promise(async (): Promise<ReadonlyArray<Row>> => {
    await inTurns(4, 500, ours, theirs)
    await inTurns(4, 1, thousand, sdkThousand)
    const single: Array<readonly [number, number]> = []
    const batch: Array<readonly [number, number, number]> = []
    for (let repetition = 0; repetition < repetitions; repetition++) {
      const took = await inTurns(60, 30, ours, theirs)
      single.push(took)
      const [all, sdkAll] = await inTurns(10, 1, thousand, sdkThousand)
      batch.push([all, took[1] * 1_000, sdkAll])
    }
    await runtime.dispose()
    return [
      {
        name: "dispatch / client.send",
        ratios: single.map(([ours, theirs]) => ours / theirs),
        note: `${micros(single.map(([ours]) => ours))} / ${micros(single.map(([, theirs]) => theirs))}`
      },
      {
        name: "dispatchAll of 1,000 / 1,000 times client.send",
        ratios: batch.map(([ours, theirs]) => ours / theirs),
        note: `${median(batch.map(([ours, theirs]) => theirs / ours)).toFixed(0)} times as fast`
      },
      {
        name: "dispatchAll of 1,000 / client.send of all 1,000",
        ratios: batch.map(([ours, , all]) => ours / all),
        note: `${median(batch.map(([ours]) => ours)).toFixed(1)} ms / ${median(batch.map(([, , all]) => all)).toFixed(1)} ms`
      }
    ]
  })
})

export const run = async (): Promise<ReadonlyArray<Row>> => [
  ...(await worker()),
  ...(Inngest.bin === undefined ? [] : await Effect.runPromise(Effect.scoped(dispatch)))
]
