// Tests that need something which may be missing here: where it is, one skipped test says what.
import { describe, it } from "vitest"
import * as Inngest from "./Inngest.ts"
import * as Redis from "./Redis.ts"

const needs = (missing: string | undefined) => (name: string, declare: () => void) => {
  if (missing === undefined) declare()
  else describe(name, () => it.skip(missing, () => {}))
}

export const onRedis = needs(Redis.hasRedis ? undefined : Redis.missing)
export const onInngest = needs(Inngest.bin === undefined ? Inngest.missing : undefined)
