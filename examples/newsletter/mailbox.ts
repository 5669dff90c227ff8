// A mail server that needs no network: a nodemailer transport that writes each mail into a file of its own. Like
// a real server it refuses some mails, by the domain of the address.
import { mkdirSync, writeFile } from "node:fs"
import { join } from "node:path"
import type { Transport } from "nodemailer"

export const mailbox = (directory: string): Transport<void> => {
  mkdirSync(directory, { recursive: true })
  const deferred = new Map<string, number>()

  const refusal = (address: string): string | undefined => {
    if (address.endsWith("@unreachable.example")) return "421 Service not available, try again later"
    if (address.endsWith("@no-such-user.example")) return "550 No such user here"
    if (address.endsWith("@greylisting.example")) {
      const times = (deferred.get(address) ?? 0) + 1
      deferred.set(address, times)
      if (times <= 2) return "451 Greylisted, try again in a moment"
    }
    return undefined
  }

  return {
    name: "mailbox",
    version: "1.0.0",
    send(mail, done) {
      const [address = ""] = mail.message.getEnvelope().to
      const refused = refusal(address)
      if (refused !== undefined) {
        const responseCode = Number.parseInt(refused, 10)
        return done(Object.assign(new Error(refused), { responseCode }))
      }
      const name = mail.message.messageId().replaceAll(/^<|@[^@]*>$/g, "")
      mail.message.build((error, source) =>
        error === null ? writeFile(join(directory, `${name}.eml`), source, done) : done(error)
      )
    }
  }
}
