// An Inngest worker without a server: requests as the server makes them.
import { assert } from "@effect/vitest"
import { Effect, Layer, Logger, Schema } from "effect"
import { Dispatcher, Job } from "effect-jobs"
import { InngestClient, InngestWorker } from "effect-jobs/inngest"
import { Activity } from "effect/workflow"

export const noDispatcher = Layer.succeed(Dispatcher, { send: () => Effect.void })
export const client = InngestClient.layer({
  id: "web",
  isDev: true,
  baseUrl: "http://127.0.0.1:9",
  // with it the answer is a list of steps
  checkpointing: false
})

interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly body: unknown
}

/** A request as the server makes it. */
export const call = async (
  handler: (request: Request) => Promise<Response>,
  job: string,
  data: unknown,
  { attempt = 0, event = {}, steps = {} }: { attempt?: number; event?: object; steps?: object } = {}
): Promise<Answer> => {
  const response = await handler(
    new Request(`http://127.0.0.1/api/inngest?fnId=web-${job}&stepId=step`, {
      method: "POST",
      headers: { host: "127.0.0.1", "content-type": "application/json" },
      body: JSON.stringify({
        version: 2,
        event: { id: "an-id", name: job, data, ts: 1_000, ...event },
        events: [],
        steps,
        ctx: {
          run_id: "01",
          fn_id: "f",
          attempt,
          disable_immediate_execution: false,
          use_api: false,
          stack: { stack: [], current: 0 }
        }
      })
    })
  )
  const text = await response.text()
  return {
    status: response.status,
    headers: response.headers,
    body: text === "" ? undefined : JSON.parse(text)
  }
}

export const serving = <const Jobs extends ReadonlyArray<Job.Any>>(
  jobs: Jobs,
  handlers: Layer.Layer<Job.HandlerOf<Jobs[number]>>,
  options: InngestWorker.HttpOptions & { readonly client?: Layer.Layer<InngestClient> } = {}
) =>
  Effect.acquireRelease(
    Effect.sync(() =>
      InngestWorker.toWebHandler(
        jobs,
        // sound: what the compiler can't compute for a list of jobs that is a type parameter
        Layer.mergeAll(
          handlers,
          noDispatcher,
          options.client ?? client,
          Logger.layer([])
        ) as unknown as Layer.Layer<InngestWorker.Needs<Jobs>>,
        options
      )
    ),
    ({ dispose }) => Effect.promise(dispose)
  )

class Steps extends Job.make("web.steps", { payload: { n: Schema.Int }, success: Schema.Int }).annotate(
  InngestWorker.FunctionOptions,
  { checkpointing: false, concurrency: 5 }
) {}

/** A worker whose runs are suspended at a step, once each; and how often it did what. */
export const suspended = Effect.gen(function* () {
  const counts = { acquired: 0, released: 0, bodies: 0 }
  const { handler } = yield* serving(
    [Steps],
    Steps.toLayer(({ n }) =>
      Effect.gen(function* () {
        yield* Effect.acquireRelease(
          Effect.sync(() => counts.acquired++),
          () => Effect.sync(() => counts.released++)
        )
        return yield* Activity.make({
          name: "double",
          success: Schema.Int,
          execute: Effect.sync(() => {
            counts.bodies++
            return n * 2
          })
        })
      })
    )
  )
  const run = (n: number) =>
    Effect.promise(async () => {
      const first = await call(handler, Steps.jobName, { n })
      assert.strictEqual(first.status, 206)
      // sound: what the SDK answers at a step
      const [op] = first.body as ReadonlyArray<{ readonly id: string; readonly data: unknown }>
      const second = await call(
        handler,
        Steps.jobName,
        { n },
        { steps: { [op?.id ?? ""]: { type: "data", data: op?.data } } }
      )
      assert.deepStrictEqual(second.body, n * 2)
    })
  return { counts, run }
})
