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
import * as RunRecords from "../../internal/RunRecords.ts"

/** Beside the payload's own fields, which therefore can't have this name. */
export const reservedKey = "_effectJobs"

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

/**
 * The events about deferreds; the `key` in the data of each says which one it is about. A waiting run hears only
 * what is sent after it began to wait, so a completion is kept by a function of its own, which delivers it when
 * it is there and again whenever the run says that it waits, until the run says that it has it.
 */
export const deferredEvents = {
  completed: "effect-jobs/deferred.completed",
  delivered: "effect-jobs/deferred.delivered",
  heard: "effect-jobs/deferred.heard"
} as const

/**
 * The events about executions of workflows. The result of one is a deferred of its run, kept in the same way.
 */
export const workflowEvents = {
  /** Who isn't a run asks for a result: the answer is the output of the function that this starts. */
  asked: "effect-jobs/workflow.asked",
  interrupted: "effect-jobs/workflow.interrupted",
  resumed: "effect-jobs/workflow.resumed"
} as const

/** Matches the events of one deferred; keys need no quoting. */
export const aboutDeferred = (key: string): string => `async.data.key == '${key}'`

/** One deferred of one run as a word that needs no quotes in an expression. */
export const deferredKey = async (run: { readonly name: string; readonly id: string }, deferred: string) => {
  const bytes = new TextEncoder().encode(JSON.stringify([run.name, run.id, deferred]))
  return hex(await crypto.subtle.digest("SHA-256", bytes))
}

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

/** The event of a completion. */
export const fromCompletion = ({ message }: DispatchRequest, prefix: string): Promise<OutgoingEvent> => {
  const { deferred = "", exit = null } = RunRecords.completionOf(message) ?? {}
  return completed(message, deferred, exit, prefix)
}

/** Tells that a deferred of this run was completed; with `kept`, for all who wait, and not only for the run. */
export const completed = async (
  { id, name }: { readonly name: string; readonly id: string },
  deferred: string,
  exit: Schema.Json,
  prefix: string,
  kept?: { readonly kept: true }
): Promise<OutgoingEvent> => {
  const key = await deferredKey({ name, id }, deferred)
  return {
    name: prefix + deferredEvents.completed,
    id: key,
    data: { key, job: name, id, deferred, exit, ...kept }
  }
}

/** The message that an event is for this job. An event that nobody dispatched has been dispatched when it came. */
export const toMessage = (job: Job.Any, event: IncomingEvent, now: number): JobMessage => {
  if (job.trigger._tag === "Cron") return tickMessage(job, tickTime(event, now))
  const { id = "", ts = now } = event
  // sound: it was parsed from JSON
  const json = event.data as Schema.Json
  if (!isRecord(json)) return { id, name: job.jobName, payload: json, dispatchedAt: ts }
  const { [reservedKey]: reserved, ...payload } = json
  const meta: typeof Meta.Type =
    reserved === undefined ? {} : Option.getOrElse(decodeMeta(reserved), () => ({}))
  return {
    id,
    name: job.jobName,
    payload: meta.payload ?? payload,
    dispatchedAt: meta.dispatchedAt ?? ts,
    ...(meta.trace === undefined ? undefined : { trace: meta.trace })
  }
}

/** When a tick was due: to the minute, as schedules are. A function started by hand is due at once. */
const tickTime = ({ data, ts = 0 }: IncomingEvent, now: number): number => {
  const said = Option.flatMap(decodeTick(data), ({ scheduledAt }) => DateTime.make(scheduledAt))
  const time = Option.isSome(said) ? DateTime.toEpochMillis(said.value) : ts || now
  return time - (time % 60_000)
}
