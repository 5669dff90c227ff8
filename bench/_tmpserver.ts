import { Effect } from "effect"
import * as Postgres from "../test/support/Postgres.ts"
import { writeFileSync } from "node:fs"
await Effect.runPromise(
  Effect.scoped(
    Effect.gen(function* () {
      const s = yield* Postgres.make()
      writeFileSync("/tmp/work/pgurl", s.url)
      yield* Effect.never
    })
  )
)
