// What has failed for good: to see it, to run it again, or to let it go.
import { DeadLetters } from "effect-jobs/queue"
import { Console, DateTime, Effect, Option, Result } from "effect"
import { SendWelcome } from "./jobs.ts"

const describe = Effect.fn(function* (letter: DeadLetters.DeadLetter) {
  const { error, payload } = yield* DeadLetters.decode(SendWelcome, letter)
  const to = Result.isSuccess(payload) ? ` to ${payload.success.email}` : ""
  const code = Option.isSome(error) ? ` (reply ${error.value.code})` : ""
  return `${letter.sequence.padStart(6)}  ${DateTime.formatIso(letter.failedAt)}  ${letter.name ?? letter.source}${to}, ${letter.reason}: ${letter.error}${code}`
})

export const list = Effect.gen(function* () {
  const deadLetters = yield* DeadLetters.DeadLetters
  const letters = yield* deadLetters.list()
  for (const letter of letters) yield* Console.log(yield* describe(letter))
  yield* Console.log(`${yield* deadLetters.count()} dead letters`)
})

export const retry = Effect.gen(function* () {
  const deadLetters = yield* DeadLetters.DeadLetters
  yield* Console.log(`${yield* deadLetters.retryAll({})} will run again, with the next worker`)
})

export const discard = Effect.gen(function* () {
  const deadLetters = yield* DeadLetters.DeadLetters
  yield* Console.log(`${yield* deadLetters.discardAll({})} discarded`)
})
