import { Job } from "effect-jobs"
import { Effect, Schema } from "effect"
import { Pong } from "./Pong.ts"

export class Ping extends Job.make("mutual.ping", { payload: { left: Schema.Int } }) {}

export const PingLive = (seen: Array<string>) =>
  Ping.toLayer(({ left }) =>
    Effect.gen(function* () {
      seen.push(`ping ${left}`)
      if (left > 0) yield* Pong.dispatch({ left: left - 1 })
    })
  )
