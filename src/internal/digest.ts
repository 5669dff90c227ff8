import * as Effect from "effect/Effect"

/**
 * The first 128 bits of a text's SHA-256, in hex. At once where there is `node:crypto` (Node, Bun, Deno): a promise in
 * a handler would let a TestClock move on without it. Web Crypto has no other way.
 */
export const digest = (text: string): Effect.Effect<string> => {
  const node = globalThis.process?.getBuiltinModule?.("node:crypto")
  return node === undefined
    ? Effect.map(
        Effect.promise(() => crypto.subtle.digest("SHA-256", new TextEncoder().encode(text))),
        (bytes) =>
          new Uint8Array(bytes, 0, 16).reduce((hex, byte) => hex + byte.toString(16).padStart(2, "0"), "")
      )
    : Effect.succeed(node.createHash("sha256").update(text).digest("hex").slice(0, 32))
}
