/**
 * A retry policy within the limits of Inngest's server.
 */
import * as Duration from "effect/Duration"
import { DefinitionError } from "../../DefinitionError.ts"
import type * as Job from "../../Job.ts"
import { delayAfter } from "../../RetryPolicy.ts"

/** Neither SDK nor server refuse more than 20 retries: they quietly make it 20. */
export const maxAttempts = 21

/** The server quietly makes a retry's delay at most this (`MaxRetryDuration`, pkg/consts/consts.go). */
const maxDelay = Duration.hours(24)

/** And at least a second, cut down to where the second began: what is due later than that comes when it says. */
const minDelay = Duration.millis(1_250)

/** Throws a `DefinitionError` for a policy that the server wouldn't keep to. */
export const checked = ({ jobName, retry }: Job.Any): void => {
  const { attempts } = retry
  if (attempts > maxAttempts) {
    throw new DefinitionError({
      message: `"${jobName}" can't have ${attempts} attempts on Inngest: it has at most ${maxAttempts} (20 retries).`
    })
  }
  if (retry.backoff === undefined) return
  for (let attempt = 1; attempt < attempts; attempt++) {
    const delay = delayAfter(retry, attempt)
    if (Duration.isGreaterThan(delay, maxDelay)) {
      throw new DefinitionError({
        message: `"${jobName}" can't wait for ${Duration.format(delay)} after attempt ${attempt} on Inngest: a retry comes after ${Duration.format(maxDelay)} at most.`
      })
    }
  }
}

/** A time, and not a number of seconds, which the server would count from where the present second began. */
export const retryAt = (now: number, delay: Duration.Duration): number =>
  now + (Duration.isZero(delay) ? 0 : Duration.toMillis(Duration.max(delay, minDelay)))
