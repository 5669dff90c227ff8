/**
 * A message as an Inngest event, and back. The data is the payload, as anyone would send it by hand, and one
 * reserved key for what a `JobMessage` has beside it.
 */
import * as DateTime from "effect/DateTime"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { tickMessage } from "../../internal/ticks.ts"
import type { JobMessage, DispatchRequest } from "../../Dispatcher.ts"
import type * as Job from "../../Job.ts"

/** Beside the payload's own fields, which therefore can't have this name. */
export const reservedKey = "_effectJobs"

/** Fields that a payload can't have: the server drops the second one. */
const reservedFields = [reservedKey, "_inngest"]

/** The first of a payload's fields that can't arrive. */
export const reservedField = (payload: Schema.Json): string | undefined =>
  isRecord(payload) ? reservedFields.find((field) => Object.hasOwn(payload, field)) : undefined

/** Events of this name are the server's own: it refuses them, in a request that may have others. */
export const isReservedName = (name: string): boolean => name.startsWith("inngest/")

/** The SDK adds the time to an event that has none, and the server counts it: `,"ts":1767225600000`. */
export const addedTime = 19

/** An event as it is sent. */
export interface OutgoingEvent {
  readonly name: string
  readonly id: string
  readonly data: Record<string, unknown>
  readonly ts?: number
}

/** An event as a function gets it; it may come from anywhere. */
export interface IncomingEvent {
  readonly name?: string | undefined
  readonly id?: string | undefined
  readonly data?: unknown
  readonly ts?: number | undefined
}

/** A time that a Date can be of. */
const isTime = (millis: number): boolean => Math.abs(millis) <= 8.64e15

const Meta = Schema.Struct({
  dispatchedAt: Schema.optionalKey(Schema.Finite),
  trace: Schema.optionalKey(Schema.String),
  /** A payload that isn't an object, which the data of an event has to be. */
  payload: Schema.optionalKey(Schema.Json)
})
const decodeMeta = Schema.decodeUnknownOption(Meta)
const decodeTick = Schema.decodeUnknownOption(Schema.Struct({ scheduledAt: Schema.String }))

const isRecord = (value: unknown): value is Record<string, Schema.Json> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** The ids of the SDK's memoized steps are hashed: SHA-1, in hex. */
export const stepKey = async (id: string) =>
  hex(await crypto.subtle.digest("SHA-1", new TextEncoder().encode(id)))

const hex = (buffer: ArrayBuffer): string =>
  Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("")

/** The event of a job's or an event's message. */
export const fromRequest = (
  { message: { dispatchedAt, id, name, payload, trace }, notBefore }: DispatchRequest,
  prefix: string
): OutgoingEvent => {
  const meta = { dispatchedAt, ...(trace === undefined ? undefined : { trace }) }
  return {
    name: prefix + name,
    id,
    data: isRecord(payload) ? { ...payload, [reservedKey]: meta } : { [reservedKey]: { ...meta, payload } },
    ...(notBefore === undefined ? undefined : { ts: notBefore })
  }
}

/** The message that an event is for this job. An event that nobody dispatched has been dispatched when it came. */
export const toMessage = (job: Job.Any, event: IncomingEvent, now: number): JobMessage => {
  if (job.trigger._tag === "Cron") return tickMessage(job, tickTime(event, now))
  const { id = "" } = event
  const ts = event.ts !== undefined && isTime(event.ts) ? event.ts : now
  // sound: it was parsed from JSON
  const json = event.data as Schema.Json
  if (!isRecord(json)) return { id, name: job.jobName, payload: json, dispatchedAt: ts }
  const { [reservedKey]: reserved, ...payload } = json
  const meta: typeof Meta.Type =
    reserved === undefined ? {} : Option.getOrElse(decodeMeta(reserved), () => ({}))
  const { dispatchedAt = ts } = meta
  // only what can't be the data itself is hidden in it: what `concurrency.key` sees is what the handler gets
  const alone = Object.keys(payload).length === 0 && !isRecord(meta.payload)
  const hidden = alone ? meta.payload : undefined
  return {
    id,
    name: job.jobName,
    payload: hidden ?? payload,
    dispatchedAt: isTime(dispatchedAt) ? dispatchedAt : ts,
    ...(meta.trace === undefined ? undefined : { trace: meta.trace })
  }
}

/** When a tick was due: to the minute, as schedules are. A function started by hand is due at once. */
const tickTime = ({ data, ts = 0 }: IncomingEvent, now: number): number => {
  const said = Option.flatMap(decodeTick(data), ({ scheduledAt }) => DateTime.make(scheduledAt))
  const time = Option.isSome(said) ? DateTime.toEpochMillis(said.value) : ts || now
  return time - (time % 60_000)
}
