// The trace that docs/observability.md shows is one that a run made.
import { readFileSync } from "node:fs"
import { assert, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Option, Schema, Tracer } from "effect"
import { InlineDispatcher, Job, RetryPolicy } from "effect-jobs"
import { TestClock } from "effect/testing"

class SendWelcome extends Job.make("mail.welcome", {
  payload: { email: Schema.String },
  retry: RetryPolicy.fixed({ attempts: 2, delay: "1 second" })
}) {}

const SendWelcomeLive = SendWelcome.toLayer(
  Effect.fn("SendWelcome")(function* () {
    const { attempt } = yield* Job.CurrentRun
    if (attempt === 1) return yield* Effect.fail("the mail server is busy")
  })
)

/** A line a span, below its parent. */
const render = (spans: ReadonlyArray<Tracer.Span>): string => {
  const lines = (parent: string | undefined, indent: string): ReadonlyArray<string> =>
    spans
      .filter((span) => Option.getOrUndefined(Option.map(span.parent, ({ spanId }) => spanId)) === parent)
      .flatMap((span) => {
        const attempt = span.attributes.get("effect_jobs.attempt")
        const failed = span.status._tag === "Ended" && Exit.isFailure(span.status.exit)
        return [
          [
            indent + span.name,
            span.kind,
            ...(attempt === undefined ? [] : [`effect_jobs.attempt=${Number(attempt)}`]),
            ...(failed ? ["failed"] : [])
          ].join("  "),
          ...lines(span.spanId, `${indent}  `)
        ]
      })
  return lines(undefined, "").join("\n")
}

it.effect("the trace of a job that failed once", () => {
  const spans: Array<Tracer.Span> = []
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      spans.push(span)
      return span
    }
  })
  return Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(SendWelcome.dispatch({ email: "ada@example.com" }))
    yield* TestClock.adjust("1 second")
    yield* Fiber.join(fiber)
    const picture = render(spans)
    assert.include(
      readFileSync(new URL("../docs/observability.md", import.meta.url), "utf8"),
      `\`\`\`\n${picture}\n\`\`\``,
      picture
    )
    assert.strictEqual(new Set(spans.map(({ traceId }) => traceId)).size, 1)
    assert.notInclude(
      spans.flatMap(({ attributes }) => [...attributes.values()].map(String)).join(" "),
      "ada@example.com"
    )
  }).pipe(
    Effect.provide(Layer.provide(InlineDispatcher.layer([SendWelcome]), SendWelcomeLive)),
    Effect.withTracer(tracer)
  )
})
