// Jobs of the queue's tests, and a worker of them whose handlers do what the test says.
import { type Cause, DateTime, Effect, Exit, Layer, Schema, Scope } from "effect"
import { CronJob, DomainEvent, Job, Listener, RetryPolicy } from "effect-jobs"
import { QueueWorker } from "effect-jobs/queue"

export class Work extends Job.make("queue.work", {
  payload: { key: Schema.String },
  retry: RetryPolicy.fixed<unknown>({
    attempts: 5,
    delay: "1 hour",
    while: (error) => error !== "never again",
    retryAfter: (error) => (error === "soon" ? "2 seconds" : undefined)
  })
}) {}
export class Else extends Job.make("queue.else", { payload: { key: Schema.String } }) {}
export class Keyed extends Job.make("queue.keyed", {
  payload: { key: Schema.String },
  idempotencyKey: ({ key }) => key
}) {}
export class Happened extends DomainEvent.make("queue.happened", { payload: { key: Schema.String } }) {}
export class Hears extends Listener.make("queue.hears", { event: Happened }) {}
export class HearsToo extends Listener.make("queue.hears-too", { event: Happened }) {}
export class Hourly extends CronJob.make("queue.hourly", { cron: "0 * * * *" }) {}
const jobs = [Work, Else, Hears, HearsToo, Hourly] as const

/** What every handler of a test does. */
export type Handle = (run: typeof Job.CurrentRun.Service, key: string) => Effect.Effect<void, unknown>

const handlers = (handle: Handle, onFailure?: (key: string, cause: Cause.Cause<unknown>) => void) => {
  const one = ({ key }: { readonly key: string }) => Effect.flatMap(Job.CurrentRun, (run) => handle(run, key))
  const options = {
    onFailure: ({ key }: { readonly key: string }, cause: Cause.Cause<unknown>) =>
      Effect.sync(() => onFailure?.(key, cause))
  }
  return Layer.mergeAll(
    Work.toLayer(one, options),
    Else.toLayer(one, options),
    Hears.toLayer(one, options),
    HearsToo.toLayer(one, options),
    Hourly.toLayer(({ scheduledAt }) => one({ key: DateTime.formatIso(scheduledAt) }))
  )
}

/** A worker in a scope of its own, on the store and the dispatcher of the environment. */
export const start = (
  handle: Handle,
  options: QueueWorker.Options & { readonly onFailure?: Parameters<typeof handlers>[1] } = {}
) =>
  Effect.gen(function* () {
    const scope = yield* Scope.fork(yield* Effect.scope)
    const worker = QueueWorker.layer(jobs, { onError: () => Effect.void, ...options })
    yield* Layer.buildWithScope(Layer.provide(worker, handlers(handle, options.onFailure)), scope)
    return Scope.close(scope, Exit.void)
  })
