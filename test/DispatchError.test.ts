import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { Dispatcher, Job } from "effect-jobs"

describe("the path of an invalid payload", () => {
  class Invite extends Job.make("invite", {
    payload: {
      rooms: Schema.Record(Schema.String, Schema.Struct({ seats: Schema.Int })),
      either: Schema.Union([
        Schema.Struct({ kind: Schema.Literal("a"), of: Schema.Record(Schema.String, Schema.Int) }),
        Schema.Struct({ kind: Schema.Literal("b") })
      ]),
      list: Schema.Array(Schema.Struct({ email: Schema.String }))
    }
  }) {}

  it.effect("has the names of fields, and never the keys of records", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(
        Invite.dispatch({
          rooms: { "ada@example.com": { seats: 1.5 } },
          either: { kind: "a", of: { "grace@example.com": 0.5 } },
          // sound: it is what the test is about
          list: [{ email: 1 as never }]
        })
      )
      assert(error.reason._tag === "InvalidPayload")
      assert.deepStrictEqual(
        error.reason.issues.map(({ path }) => path),
        ["rooms.*.seats", "either.of.*", "list[0].email"]
      )
      assert.notInclude(JSON.stringify(error), "example.com")
      assert.notInclude(error.message, "example.com")
    }).pipe(Effect.provideService(Dispatcher, { send: () => Effect.void }))
  )
})
