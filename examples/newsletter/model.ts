import { Schema } from "effect"

const EmailAddress = Schema.String.check(
  Schema.isPattern(/^[^\s@]+@[^\s@]+$/, { expected: "an email address" })
)

export const Subscriber = Schema.Struct({
  email: EmailAddress,
  name: Schema.NonEmptyString,
  joinedAt: Schema.DateTimeUtcFromString
})
export type Subscriber = typeof Subscriber.Type

/** `code` is the reply of the mail server: 4yz is worth another attempt, 5yz isn't (RFC 5321, 4.2.1). */
export class MailError extends Schema.TaggedError<MailError>()("MailError", {
  code: Schema.Int,
  message: Schema.String
}) {
  get isTemporary(): boolean {
    return this.code < 500
  }
}
