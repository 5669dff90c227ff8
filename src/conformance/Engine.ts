import type * as Duration from "effect/Duration"
import type * as Layer from "effect/Layer"
import type { Dispatcher } from "../Dispatcher.ts"
import type * as Job from "../Job.ts"

/** The dispatcher to prove, and how to wait for it. */
export interface Engine {
  /** The name of the block of tests. */
  readonly name: string
  /**
   * The dispatcher with a worker that runs `jobs` in this process. Built once for the suite, with a store or a
   * server in which nothing of an earlier suite is left.
   */
  readonly layer: <const Jobs extends ReadonlyArray<Job.Any>>(
    jobs: Jobs
  ) => Layer.Layer<Dispatcher, unknown, Job.HandlerOf<Jobs[number]>>
  /** `test`: the suite moves TestClock. `live`: it waits for the real clock. */
  readonly clock: "test" | "live"
  /**
   * How much too early a run may start, for engines whose delays are in whole seconds. Default: nothing on `test`,
   * 5 milliseconds on `live`, where a timer may fire up to one before its time by the wall clock (Node counts from
   * the start of the millisecond in which it was set).
   */
  readonly early?: Duration.Input | undefined
  /** Whether the suite waits for ticks of a cron job: up to two minutes on a live clock. Default: on `test`. */
  readonly cron?: boolean | undefined
  /** How long a test waits for what it expects, on the engine's clock. Default 30 seconds. */
  readonly patience?: Duration.Input | undefined
}
