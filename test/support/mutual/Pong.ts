import { Job } from "effect-jobs"
import { Effect, Schema } from "effect"
import { Ping } from "./Ping.ts"

export class Pong extends Job.make("mutual.pong", { payload: { left: Schema.Int } }) {}

export const PongLive = (seen: Array<string>) =>
  Pong.toLayer(({ left }) =>
    Effect.gen(function* () {
      seen.push(`pong ${left}`)
      if (left > 0) yield* Ping.dispatch({ left: left - 1 })
    })
  )
