/**
 * The step tools of Inngest's SDK in a handler: what durable steps are there beside Effect's own vocabulary.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { GetStepTools, Inngest } from "inngest"
import * as Option from "effect/Option"
import { CurrentRunState } from "../../internal/RunState.ts"
import { type InngestRunSteps, tooling } from "./Steps.ts"

/** The SDK's step tools: `invoke`, `sendEvent`, `ai`, `fetch`, `waitForSignal`, `realtime` and the others. */
export type StepTools = GetStepTools<Inngest.Any>

/**
 * A step of the SDK's, with its result as `schema` decodes it. Hand `id` on to the one tool that `use` calls: by it
 * the server knows the step again.
 *
 *     InngestSteps.tool("summary", (step, id) => step.ai.infer(id, { model, body }), Summary)
 *
 * The handler is called again when the step is done, as with every step, so it is safe to wait for it with finalizers
 * around it. A step that fails, or whose result doesn't decode, is a defect. Outside of a handler on Inngest it dies.
 */
export const tool = <A, R = never>(
  id: string,
  use: (step: StepTools, id: string) => Promise<unknown>,
  schema: Schema.Codec<A, unknown, R>
): Effect.Effect<A, never, R> =>
  Effect.gen(function* () {
    const state = Option.getOrUndefined(yield* Effect.serviceOption(CurrentRunState))
    if (state === undefined || state.isActivity || !isInngest(state.steps)) {
      return yield* Effect.die(
        new Error(`The step "${id}" isn't in the handler of a job on Inngest: only there are its tools.`)
      )
    }
    // sound: the SDK's own tools, of which the engine knows those that it uses
    const value = yield* state.steps[tooling](id, (tools) => use(tools as unknown as StepTools, id))
    return yield* Effect.orDie(Schema.decodeUnknownEffect(schema)(value))
  })

const isInngest = (steps: object): steps is InngestRunSteps => tooling in steps
