/**
 * The trace of a dispatch in its JSON message: W3C Trace Context, version 00
 * (https://www.w3.org/TR/trace-context/#traceparent-header). Effect's own reader and writer of it,
 * `effect/http/HttpTraceContext`, would bring `effect/http` into the root entry point.
 */
import * as Tracer from "effect/Tracer"

const pattern = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/

/** `undefined` where the tracer's ids are none of W3C's, as with tracing disabled. */
export const fromSpan = ({ sampled, spanId, traceId }: Tracer.AnySpan): string | undefined =>
  traceId.length === 32 && spanId.length === 16
    ? `00-${traceId}-${spanId}-${sampled ? "01" : "00"}`
    : undefined

/** `undefined` for whatever isn't a valid header: a message never fails for its trace. */
export const toSpan = (header: string | undefined): Tracer.ExternalSpan | undefined => {
  if (header === undefined || !pattern.test(header)) return undefined
  return Tracer.externalSpan({
    traceId: header.slice(3, 35),
    spanId: header.slice(36, 52),
    sampled: (Number.parseInt(header.slice(53), 16) & 1) === 1
  })
}
