/**
 * Deferreds of runs, and the results of workflows, as Inngest's events: what one run waits for and anyone else
 * completes, early or late, is kept until it is taken.
 *
 *     who completes          the keeper (a function of ours)          the run that waits
 *          |--- completed -------->|                                       |
 *          |                       |<-------------- heard (received: no) --| begins to wait
 *          |                       |--- delivered ------------------------>|
 *          |                       |<-------------- heard (received: yes) -| has it: the keeper ends
 *
 * A waiting run hears only what is sent after it began to wait, so the keeper delivers a completion when it is
 * there, and again whenever a run says that it waits. A run of Inngest's has at most 1,000 steps, so a keeper that
 * was asked often hands over to another one. The first completion counts: its event's id is the key.
 * A result (`kept`) is delivered to everyone who says so, for as long as it is kept. Who isn't a run asks for it
 * (`asked`): the answer is the output of another function of ours, which waits in its place.
 *
 * Whoever has the event key can send these events. So each names its deferred by a key that only who has the
 * signing key can make, an HMAC of run and deferred; in dev mode, where there need be none, a hash of them.
 */
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { Inngest } from "inngest"
import type { OutgoingEvent } from "./Event.ts"

/** The names of the events; before each is the client's `eventPrefix`. */
export const events = {
  completed: "effect-jobs/deferred.completed",
  delivered: "effect-jobs/deferred.delivered",
  heard: "effect-jobs/deferred.heard",
  asked: "effect-jobs/workflow.asked",
  resumed: "effect-jobs/workflow.resumed"
} as const

/** An event as a step sends it. */
export interface Sent {
  readonly name: string
  readonly id?: string
  readonly data: Record<string, unknown>
}

/** The step tools that are used here. */
export interface Tools {
  readonly sendEvent: (id: string, events: ReadonlyArray<Sent>) => Promise<unknown>
  readonly waitForEvent: (
    id: string,
    options: { readonly event: string; readonly timeout: string; readonly if: string }
  ) => Promise<unknown>
}

/** How long a completion is kept for a run that doesn't wait for it yet. */
const keepTimeout = "30d"

/** How long the result of a workflow is kept: as long as the server remembers the id of its execution. */
const resultTimeout = "24h"

/** The name that the result of a workflow has among the deferreds of its run. */
export const resultDeferred = "effect-jobs/result"

/** And what is waited for when it is to be resumed. */
export const resumedDeferred = "effect-jobs/resumed"

export interface Run {
  readonly name: string
  readonly id: string
}

/** The key of a deferred by the signing key, and while keys are rotated by the fallback key too. */
export type Keys = readonly [string, ...ReadonlyArray<string>]

/** Makes the keys of deferreds. */
export interface Keyring {
  readonly of: (run: Run, deferred: string) => Promise<Keys>
  /** The names of the event that cancels runs of workflows: an expression of `cancelOn` can't make a key. */
  readonly interrupted: () => Promise<Keys>
}

const hex = (buffer: ArrayBuffer): string =>
  Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("")

const bytes = (text: string) => new TextEncoder().encode(text)

/** By the keys of this client; `undefined` where it has none, and isn't in dev mode. */
export const keyring = (client: Inngest.Any): Keyring | undefined => {
  if (client.mode !== "cloud") {
    return make([async (text) => hex(await crypto.subtle.digest("SHA-256", bytes(text)))])
  }
  const [first, ...more] = [client.signingKey, client.signingKeyFallback]
    .filter((key): key is string => key !== undefined && key !== "")
    .map(signer)
  return first === undefined ? undefined : make([first, ...more])
}

type Sign = (text: string) => Promise<string>

const signer = (signingKey: string): Sign => {
  // the same key with and without the prefix that says of which environment it is
  const raw = bytes(signingKey.replace(/^signkey-\w+-/, ""))
  const key = crypto.subtle.importKey("raw", raw, { name: "HMAC", hash: "SHA-256" }, false, ["sign"])
  return async (text) => hex(await crypto.subtle.sign("HMAC", await key, bytes(text)))
}

const make = ([first, ...more]: readonly [Sign, ...ReadonlyArray<Sign>]): Keyring => {
  const all = async (parts: ReadonlyArray<string>): Promise<Keys> => {
    const text = JSON.stringify(parts)
    return [await first(text), ...(await Promise.all(more.map((sign) => sign(text))))]
  }
  return {
    of: ({ id, name }, deferred) => all([name, id, deferred]),
    interrupted: () => all(["effect-jobs/workflow.interrupted"])
  }
}

/** The name of the event that cancels runs of workflows. */
export const interruptedEvent = (eventPrefix: string, key: string): string =>
  `${eventPrefix}effect-jobs/workflow.interrupted.${key.slice(0, 32)}`

/** Matches the events about a deferred; keys need no quoting. */
export const about = (keys: Keys): string => keys.map((key) => `async.data.key == '${key}'`).join(" || ")

/** What a completion's event is made of; with `kept`, it is for all who wait, and not only for the run. */
export interface Completion {
  readonly run: Run
  readonly deferred: string
  readonly exit: Schema.Json
  readonly kept?: true
}

/** The event that says that a deferred was completed. */
export const completed = async (
  { deferred, exit, kept, run }: Completion,
  { eventPrefix, keyring }: Pick<Talk, "eventPrefix" | "keyring">
): Promise<OutgoingEvent> => {
  const [key] = await keyring.of(run, deferred)
  return {
    name: eventPrefix + events.completed,
    id: key,
    data: { key, job: run.name, id: run.id, deferred, exit, ...(kept === true ? { kept } : undefined) }
  }
}

/** How a function speaks and hears of deferreds. */
export interface Talk {
  readonly tools: Tools
  readonly eventPrefix: string
  readonly keyring: Keyring
}

/** What the bodies of our own functions are given. */
export interface Called extends Talk {
  /** Of the event that has started the function. */
  readonly data: unknown
  /** Whether this worker runs the job of this name. */
  readonly runs: (job: string) => boolean
}

const decodeDelivered = Schema.decodeUnknownOption(
  Schema.Struct({ data: Schema.Struct({ exit: Schema.Json }) })
)
const decodeHeard = Schema.decodeUnknownOption(
  Schema.Struct({ data: Schema.Struct({ received: Schema.Boolean }) })
)
const decodeCompleted = Schema.decodeUnknownOption(
  Schema.Struct({
    key: Schema.String,
    job: Schema.String,
    id: Schema.String,
    deferred: Schema.String,
    exit: Schema.Json,
    kept: Schema.optionalKey(Schema.Boolean),
    /** How many keepers had it before. */
    keeper: Schema.optionalKey(Schema.Int)
  })
)

/** How often a keeper delivers, with two steps each, until it hands over. */
const deliveries = 400
const decodeAsked = Schema.decodeUnknownOption(
  Schema.Struct({ key: Schema.String, job: Schema.String, id: Schema.String, timeout: Schema.String })
)

interface Said {
  readonly step: string
  readonly event: keyof typeof events
  readonly data: Record<string, unknown>
}

/** Waits for an event about a deferred, and sends one meanwhile; `null` if none came in time. */
const waitSaying = async (
  talk: Talk,
  keys: Keys,
  wait: Omit<Said, "data"> & { readonly timeout: string },
  say: Said
): Promise<unknown> => {
  const [event] = await Promise.all([
    talk.tools.waitForEvent(wait.step, {
      event: talk.eventPrefix + events[wait.event],
      timeout: wait.timeout,
      if: about(keys)
    }),
    sayIt(talk, keys, say)
  ])
  return event
}

const sayIt = ({ eventPrefix, tools }: Talk, keys: Keys, { data, event, step }: Said) =>
  tools.sendEvent(
    step,
    keys.map((key) => ({ name: eventPrefix + events[event], data: { key, ...data } }))
  )

/** The keeper: the body of a function that the event of a completion starts. A forged one ends it at once. */
export const deliver = async (called: Called): Promise<void> => {
  const completed = Option.getOrUndefined(decodeCompleted(called.data))
  if (completed === undefined || !called.runs(completed.job)) return
  const { deferred, exit, id, job, keeper = 0, kept = false, key } = completed
  const keys = await called.keyring.of({ name: job, id }, deferred)
  if (!keys.includes(key)) return
  for (let time = 1; time <= deliveries; time++) {
    const heard = await waitSaying(
      called,
      keys,
      { step: `heard ${time}`, event: "heard", timeout: kept ? resultTimeout : keepTimeout },
      { step: `deliver ${time}`, event: "delivered", data: { exit } }
    )
    const answer = Option.getOrUndefined(decodeHeard(heard))
    if (answer === undefined || (answer.data.received && !kept)) return
  }
  await called.tools.sendEvent("hand over", [
    {
      name: called.eventPrefix + events.completed,
      id: `${key}.${keeper + 1}`,
      data: { ...completed, keeper: keeper + 1 }
    }
  ])
}

/** Waits for what is delivered about a deferred: `undefined` if nothing came in time. */
export const hear = async (
  talk: Talk,
  step: string,
  keys: Keys,
  timeout: string
): Promise<Schema.Json | undefined> => {
  const event = await waitSaying(
    talk,
    keys,
    { step, event: "delivered", timeout },
    { step: `${step}: waits`, event: "heard", data: { received: false } }
  )
  const delivered = Option.getOrUndefined(decodeDelivered(event))
  if (delivered === undefined) return undefined
  await sayIt(talk, keys, { step: `${step}: received`, event: "heard", data: { received: true } })
  return delivered.data.exit
}

/** What {@link answer} gives, as the server's API shows it. */
export const decodeAnswer = Schema.decodeUnknownOption(
  Schema.Struct({ answers: Schema.Boolean, exit: Schema.optionalKey(Schema.Json) })
)

/** Waits for a result, for those who aren't a run and read the output of the function that has this body. */
export const answer = async (called: Called): Promise<unknown> => {
  const asked = Option.getOrUndefined(decodeAsked(called.data))
  if (asked === undefined || !called.runs(asked.job)) return { answers: false }
  const keys = await called.keyring.of({ name: asked.job, id: asked.id }, resultDeferred)
  if (!keys.includes(asked.key)) return { answers: false }
  const exit = await hear(called, "result", keys, asked.timeout)
  return exit === undefined ? { answers: true } : { answers: true, exit }
}
