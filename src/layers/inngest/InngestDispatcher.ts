/**
 * Dispatches to Inngest: a message is an event, which the server keeps and an `InngestWorker` runs.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Dispatcher, type DispatchRequest } from "../../Dispatcher.ts"
import {
  DispatchError,
  type DispatchReason,
  PayloadTooLarge,
  Rejected,
  Unavailable
} from "../../DispatchError.ts"
import { completionOf } from "../../internal/RunRecords.ts"
import { InngestClient } from "./InngestClient.ts"
import * as InngestEvent from "./Event.ts"
import * as Mailbox from "./Mailbox.ts"

/** The server's limits: one event's bytes as JSON, and how many events one request has (pkg/consts/consts.go). */
export const maxEventSize = 3 * 1024 * 1024
const maxEvents = 5_000

/**
 * The Dispatcher on an `InngestClient`. It has no list of jobs: whoever dispatches needs no worker.
 *
 * - An event's name is the job's or the domain event's, with the client's `eventPrefix` before it; its data is
 *   the payload as JSON with one reserved key, `_effectJobs`; its id is the message's, its `ts` the time of a
 *   delayed one, to the millisecond.
 * - One run an id and job, for the 24 hours that Inngest remembers ids.
 * - `dispatchAll` sends up to 5,000 events in a request, and up to 3 MiB. Where it takes several requests and
 *   one fails, those before it were accepted: with ids of their own, all may be dispatched again.
 * - Fails with `Unavailable` (no answer within the client's `sendTimeout`, a server's error), `Rejected` (a
 *   wrong key, a malformed event) or `PayloadTooLarge` (3 MiB; nothing was sent).
 */
export const layer: Layer.Layer<Dispatcher, never, InngestClient> = Layer.effect(
  Dispatcher,
  Effect.map(InngestClient, ({ client, eventPrefix, sendTimeout }) => {
    const talk = { eventPrefix, keyring: Mailbox.keyring(client) }
    const send = ([first, ...more]: Batch) =>
      Effect.timeoutOrElse(
        Effect.tryPromise({
          try: () =>
            client.send(more.length === 0 ? first.event : [first.event, ...more.map(({ event }) => event)]),
          catch: (error) => DispatchError.of(reasonOf(first.job, error))
        }),
        {
          duration: sendTimeout,
          orElse: () =>
            Effect.fail(unavailable(first.job, `it gave no answer within ${Duration.format(sendTimeout)}`))
        }
      )
    return {
      send: ([first, ...more]) =>
        more.length === 0
          ? Effect.flatMap(sized(first, talk), (event) => send([event]))
          : Effect.flatMap(
              Effect.forEach([first, ...more], (request) => sized(request, talk)),
              (events) => Effect.forEach(batches(events), send, { discard: true })
            )
    }
  })
)

interface Sized {
  readonly job: string
  readonly event: InngestEvent.OutgoingEvent
  readonly size: number
}
type Batch = readonly [Sized, ...Array<Sized>]

const utf8 = new TextEncoder()

interface Talk {
  readonly eventPrefix: string
  readonly keyring: Mailbox.Keyring | undefined
}

const sized = (
  request: DispatchRequest,
  { eventPrefix, keyring }: Talk
): Effect.Effect<Sized, DispatchError> => {
  const job = request.message.name
  const refused = (detail: string) =>
    Effect.fail(DispatchError.of(new Rejected({ job, engine: "InngestDispatcher.layer", detail })))
  const checked = (event: InngestEvent.OutgoingEvent): Effect.Effect<Sized, DispatchError> => {
    const written = utf8.encode(JSON.stringify(event)).length
    const size = event.ts === undefined ? written + InngestEvent.addedTime : written
    return size > maxEventSize
      ? Effect.fail(
          DispatchError.of(new PayloadTooLarge({ job, engine: "Inngest", size, limit: maxEventSize }))
        )
      : Effect.succeed({ job, event, size })
  }
  if (request.kind === "completion") {
    const { deferred = "", exit = null } = completionOf(request.message) ?? {}
    return keyring === undefined
      ? refused(
          "only who has the signing key completes a deferred there, and this client has none (INNGEST_SIGNING_KEY)"
        )
      : Effect.flatMap(
          Effect.promise(() =>
            Mailbox.completed({ run: request.message, deferred, exit }, { eventPrefix, keyring })
          ),
          checked
        )
  }
  const reserved = InngestEvent.reservedField(request.message.payload)
  if (reserved !== undefined) {
    return refused(`its payload has a field "${reserved}", a name that is reserved there`)
  }
  if (InngestEvent.isReservedName(eventPrefix + job)) {
    return refused(`names that begin with "inngest/" are reserved there`)
  }
  return checked(InngestEvent.fromRequest(request, eventPrefix))
}

/** As few as the limits allow, in order. */
const batches = (events: ReadonlyArray<Sized>): ReadonlyArray<Batch> => {
  const made: Array<[Sized, ...Array<Sized>]> = []
  let size = 0
  for (const event of events) {
    const last = made.at(-1)
    size += event.size + 1
    if (last !== undefined && last.length < maxEvents && size < maxEventSize) last.push(event)
    else {
      made.push([event])
      size = event.size
    }
  }
  return made
}

const unavailable = (job: string, detail: string, cause?: unknown): DispatchError =>
  DispatchError.of(
    new Unavailable({ job, engine: "Inngest", detail, ...(cause === undefined ? undefined : { cause }) })
  )

/** The SDK throws plain errors; the status is in the message (`Inngest.getResponseError`). */
const reasonOf = (job: string, error: unknown): DispatchReason => {
  const message = error instanceof Error ? error.message : String(error)
  const [, code, said] = /Inngest API Error: (\d{3}) ([^]*)/.exec(message) ?? []
  const status = Number(code)
  const detail = (said ?? message).trim().replace(/[.!]$/, "")
  const refused =
    code === undefined ? /event key/i.test(message) : status < 500 && status !== 408 && status !== 429
  return refused
    ? new Rejected({ job, engine: "Inngest", ...(code === undefined ? undefined : { status }), detail })
    : new Unavailable({
        job,
        engine: "Inngest",
        detail: code === undefined ? detail : `it answered with status ${code}: ${detail}`,
        cause: error
      })
}
