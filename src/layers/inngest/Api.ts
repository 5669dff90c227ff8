/**
 * Inngest's REST API, by a client's keys, environment and `fetch`.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type { Inngest } from "inngest"

/** A request that was answered with an error, or with nothing. */
export class ApiError extends Schema.TaggedError<ApiError>()("InngestApiError", {
  path: Schema.String,
  /** Absent without an answer. */
  status: Schema.optionalKey(Schema.Int),
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    return this.status === undefined
      ? `Inngest's API gives no answer to ${this.path}.`
      : `Inngest's API answers ${this.path} with status ${this.status}.`
  }
  /** Whether it may be answered a moment later. */
  get isTransient(): boolean {
    return this.status === undefined || this.status >= 500 || this.status === 429
  }
}

/** How long one answer is waited for. */
const patience = Duration.seconds(10)

/** A server that restarts is back within these. */
const again = Schedule.max([
  Schedule.min([Schedule.exponential("200 millis"), Schedule.spaced("2 seconds")]),
  Schedule.recurs(15)
])

/** Answers of these statuses come from a key that is no more, or not yet, the server's. */
const isRefused = (response: Response): boolean => response.status === 401 || response.status === 403

const request = async (client: Inngest.Any, path: string, signal: AbortSignal): Promise<Response> => {
  const by = (key: string | undefined) =>
    client.fetch(new URL(path, client.apiBaseUrl), {
      signal,
      headers: { ...client.headers, ...(key === undefined ? undefined : { authorization: `Bearer ${key}` }) }
    })
  const response = await by(client.signingKey)
  return isRefused(response) && client.signingKeyFallback !== undefined
    ? by(client.signingKeyFallback)
    : response
}

/** What a path answers with, as JSON. What may pass is tried again, for about half a minute. */
export const get = (client: Inngest.Any, path: string): Effect.Effect<unknown, ApiError> =>
  Effect.tryPromise({
    try: async (signal) => {
      const response = await request(client, path, signal)
      return response.ok ? { json: await response.json() } : { status: response.status }
    },
    catch: (cause) => new ApiError({ path, cause })
  }).pipe(
    Effect.timeoutOrElse({ duration: patience, orElse: () => Effect.fail(new ApiError({ path })) }),
    Effect.flatMap((answer) =>
      "json" in answer
        ? Effect.succeed(answer.json)
        : Effect.fail(new ApiError({ path, status: answer.status }))
    ),
    Effect.retry({ schedule: again, while: (error) => error.isTransient })
  )

/** Sends events, and gives the server's ids of them. */
export const send = (
  client: Inngest.Any,
  events: ReadonlyArray<{ readonly name: string; readonly data: unknown }>
): Effect.Effect<ReadonlyArray<string>, ApiError> =>
  Effect.tryPromise({
    // sound: the SDK's type of an event's data is of a record, which these are
    try: () => client.send(events as Parameters<typeof client.send>[0]),
    catch: (cause) => new ApiError({ path: "/e", cause })
  }).pipe(
    Effect.map(({ ids }) => ids),
    Effect.retry({ schedule: again, while: (error) => error.isTransient })
  )
