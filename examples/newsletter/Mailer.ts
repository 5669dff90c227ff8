import { Context, Effect, Layer, Predicate } from "effect"
import { createTransport } from "nodemailer"
import { mailbox } from "./mailbox.ts"
import { MailError } from "./model.ts"

export interface Mail {
  /** Two mails with one id are one mail. */
  readonly id: string
  readonly to: { readonly name: string; readonly address: string }
  readonly subject: string
  readonly text: string
}

export class Mailer extends Context.Service<
  Mailer,
  { readonly send: (mail: Mail) => Effect.Effect<void, MailError> }
>()("newsletter/Mailer") {
  /** Mails become `.eml` files in a folder. For real ones: `createTransport("smtp://…")`. */
  static layer(directory: string): Layer.Layer<Mailer> {
    return Layer.sync(Mailer, () => {
      const transport = createTransport(mailbox(directory), { from: "newsletter@example.com" })
      return Mailer.of({
        send: ({ id, ...mail }) =>
          Effect.tryPromise({
            try: () => transport.sendMail({ ...mail, messageId: `<${encodeURIComponent(id)}@example.com>` }),
            catch: (error) => new MailError(replyOf(error))
          })
      })
    })
  }
}

/** What nodemailer throws; a `responseCode` is there where a server has answered. */
const replyOf = (error: unknown) => ({
  code:
    Predicate.hasProperty(error, "responseCode") && Predicate.isNumber(error.responseCode)
      ? error.responseCode
      : 421,
  message: Predicate.isError(error) ? error.message : String(error)
})
