/**
 * What a dispatch in this process costs, against doing the same by hand; what it costs when many have gone
 * before; and what it keeps.
 */
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { Effect, Exit, Layer, ManagedRuntime, Schema, Scope } from "effect"
import { InlineDispatcher, Job } from "effect-jobs"
import { TestDispatcher } from "effect-jobs/testing"
import { Bench } from "tinybench"
import { median, type Row } from "./Row.ts"

const repetitions = 5

const Payload = Schema.Struct({ email: Schema.String, joinedAt: Schema.Date })
const payload = { email: "ada@example.com", joinedAt: new Date(0) }

class Welcome extends Job.make("bench.welcome", { payload: Payload, timeout: "30 seconds" }) {}

let runs = 0
const handler = (_: typeof Payload.Type) => Effect.sync(() => void runs++)
const handlers = Welcome.toLayer(handler)
const dispatch = Welcome.dispatch(payload)

const codec = Schema.toCodecJson(Payload)
const encode = Schema.encodeUnknownEffect(codec)
const decode = Schema.decodeUnknownEffect(codec)

/** Encode to JSON, decode, run: the least that anything with a message can do. */
const floor = Effect.flatMap(
  // a schema does its work when it is called, and not when its effect runs
  Effect.flatMap(
    Effect.suspend(() => encode(payload)),
    decode
  ),
  handler
)

/** The same with what every run has: a span, a time limit, a Scope. */
const fullFloor = Effect.flatMap(
  Effect.suspend(() => encode(payload)),
  (json) =>
    Effect.flatMap(decode(json), (decoded) => Effect.scoped(handler(decoded))).pipe(
      Effect.timeout("30 seconds"),
      Effect.withSpan("process bench.welcome", { kind: "consumer" })
    )
)

/** `count` times, one after the other, in one fiber. */
const times = <A, E, R>(count: number, effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    for (let i = 0; i < count; i++) yield* effect
  })

/** `layerRunning` runs in the background. */
const allHaveRun = (target: number) =>
  Effect.whileLoop({ while: () => runs < target, body: () => Effect.yieldNow, step: () => {} })

const batch = 500
const inlineLayer = Layer.provide(InlineDispatcher.layer([Welcome]), handlers)

const againstFloor = async (): Promise<ReadonlyArray<Row>> => {
  const inline = ManagedRuntime.make(inlineLayer)
  const recording = ManagedRuntime.make(TestDispatcher.layer)
  const running = ManagedRuntime.make(Layer.provide(TestDispatcher.layerRunning([Welcome]), handlers))

  const measured = {
    floor: [] as Array<number>,
    fullFloor: [] as Array<number>,
    inline: [] as Array<number>,
    recording: [] as Array<number>,
    running: [] as Array<number>
  }
  for (let repetition = 0; repetition < repetitions; repetition++) {
    const bench = new Bench({ time: 1_000, warmupTime: 500 })
      .add("floor", () => Effect.runPromise(times(batch, floor)))
      .add("fullFloor", () => Effect.runPromise(times(batch, fullFloor)))
      .add("inline", () => inline.runPromise(times(batch, dispatch)))
      .add("recording", () =>
        recording.runPromise(Effect.andThen(times(batch, dispatch), TestDispatcher.clear))
      )
      .add("running", () =>
        running.runPromise(
          Effect.suspend(() => {
            const target = runs + batch
            return Effect.andThen(times(batch, dispatch), allHaveRun(target))
          }).pipe(Effect.andThen(TestDispatcher.clear))
        )
      )
    await bench.run()
    for (const name of Object.keys(measured) as Array<keyof typeof measured>) {
      const result = bench.getTask(name)?.result
      if (result?.state !== "completed") throw new Error(`${name}: ${result?.state}`)
      measured[name].push((result.latency.p50 / batch) * 1_000)
    }
  }
  await Promise.all([inline.dispose(), recording.dispose(), running.dispose()])

  const ratio = (ours: ReadonlyArray<number>, theirs: ReadonlyArray<number>) =>
    ours.map((value, index) => value / (theirs[index] ?? Number.NaN))
  const micros = (values: ReadonlyArray<number>) => `${median(values).toFixed(1)} µs`
  const row = (name: string, ours: ReadonlyArray<number>): ReadonlyArray<Row> => [
    {
      name: `${name} / floor`,
      ratios: ratio(ours, measured.floor),
      note: `${micros(ours)} / ${micros(measured.floor)}`
    },
    {
      name: `${name} / floor with span, time limit, Scope`,
      ratios: ratio(ours, measured.fullFloor),
      note: `${micros(ours)} / ${micros(measured.fullFloor)}`
    }
  ]
  return [
    ...row("inline dispatch, awaited", measured.inline),
    ...row("test dispatch, recorded", measured.recording),
    ...row("test dispatch, run", measured.running)
  ]
}

/** Cost a job after 10,000 and 100,000 in one process, over the cost after 1,000. */
const byNumber = async (): Promise<ReadonlyArray<Row>> => {
  /** Microseconds a job of `count` jobs, dispatched by one dispatcher that is new. */
  const cost = (count: number) =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(inlineLayer, scope)
      const start = performance.now()
      yield* Effect.provideContext(times(count, dispatch), context)
      const end = performance.now()
      yield* Scope.close(scope, Exit.void)
      return ((end - start) / count) * 1_000
    })
  const costs = (count: number, samples: number) =>
    Effect.runPromise(Effect.map(Effect.replicateEffect(cost(count), samples), median))
  const ten: Array<number> = []
  const hundred: Array<number> = []
  for (let repetition = 0; repetition < repetitions; repetition++) {
    const one = await costs(1_000, 31)
    ten.push((await costs(10_000, 5)) / one)
    hundred.push((await costs(100_000, 1)) / one)
  }
  return [
    { name: "cost a job: 10,000 / 1,000 inline dispatches", ratios: ten },
    { name: "cost a job: 100,000 / 1,000 inline dispatches", ratios: hundred }
  ]
}

/** The heap after each 200,000 of a million inline dispatches, over the heap after the first 100,000. */
const memory = async (): Promise<ReadonlyArray<Row>> => {
  setFlagsFromString("--expose-gc")
  const gc: () => void = runInNewContext("gc")
  const heap = () => {
    gc()
    return process.memoryUsage().heapUsed / 2 ** 20
  }
  const heaps: Array<number> = []
  const first = await Effect.runPromise(
    Effect.gen(function* () {
      yield* times(100_000, dispatch)
      const first = heap()
      for (const count of [100_000, 200_000, 200_000, 200_000, 200_000]) {
        yield* times(count, dispatch)
        heaps.push(heap())
      }
      return first
    }).pipe(Effect.provide(inlineLayer))
  )
  return [
    {
      name: "heap: at 200,000 to 1,000,000 / at 100,000 inline dispatches",
      ratios: heaps.map((value) => value / first),
      note: `${first.toFixed(1)} MB, then ${heaps.map((value) => value.toFixed(1)).join(", ")} MB`
    }
  ]
}

export const run = async (): Promise<ReadonlyArray<Row>> => [
  ...(await againstFloor()),
  ...(await byNumber()),
  ...(await memory())
]
