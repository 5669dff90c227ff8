// Two minutes of three workers, over HTTP and connect, that are killed at random, and their server too: what was
// accepted is counted.
import { assert, it } from "@effect/vitest"
import { Clock, Effect, Layer, Random, Ref } from "effect"
import { Dispatcher } from "effect-jobs"
import { InngestDispatcher } from "effect-jobs/inngest"
import { freePort } from "../support/freePort.ts"
import * as Inngest from "../support/Inngest.ts"
import { holds, journalOf, newJournal, startProgram } from "../support/inngestFaults.ts"
import * as Soak from "../support/inngestSoak.ts"
import { onInngest } from "../support/needs.ts"
import * as Redis from "../support/Redis.ts"

/** How long it is dispatched and killed, in milliseconds. */
const length = 120_000

/**
 * An event that was accepted a moment before its server's kill may be lost: it answers before it writes
 * (docs/inngest.md). How long a moment is, is the machine's doing.
 */
const unwritten = 10_000

const server = Effect.gen(function* () {
  const redis = yield* Redis.make
  return yield* Inngest.make(["start", ...Inngest.keys, "--redis-uri", `redis://127.0.0.1:${redis.port}`])
})

/** A worker that dies every 5 to 20 seconds, and is started again a moment later. */
const dying = (told: Soak.Told) =>
  Effect.gen(function* () {
    while (true) {
      yield* Effect.scoped(
        Effect.gen(function* () {
          const child = yield* startProgram("inngestSoak.ts", told)
          yield* Effect.sleep(yield* Random.nextIntBetween(5_000, 20_000))
          yield* Effect.promise(child.kill)
        })
      ).pipe(
        // its server was down when it began
        Effect.catchCause(() => Effect.sleep("500 millis"))
      )
    }
  })

onInngest("Inngest under fire", () => {
  it.live.skipIf(!Redis.hasRedis)(
    Redis.hasRedis ? "two minutes of kills: every accepted job ends, but what the docs name" : Redis.missing,
    () =>
      Effect.gen(function* () {
        const inngest = yield* server
        const apps = yield* Effect.forEach(["http-1", "http-2", "connect-1"], (app) =>
          Effect.gen(function* () {
            const told: Soak.Told = {
              app,
              transport: app.startsWith("http") ? "http" : "connect",
              server: inngest.url,
              port: yield* freePort,
              journal: yield* newJournal
            }
            const dispatcher = yield* Layer.build(
              Layer.provide(InngestDispatcher.layer, Soak.client(inngest.url, app))
            )
            // the server knows the app before the first event
            yield* Effect.scoped(startProgram("inngestSoak.ts", told))
            return { ...told, dispatcher }
          })
        )
        const accepted = yield* Ref.make<ReadonlyArray<{ readonly key: string; readonly at: number }>>([])
        const start = yield* Clock.currentTimeMillis
        let n = 0
        const dispatching = Effect.forEach(
          apps,
          ({ app, dispatcher }) =>
            Effect.gen(function* () {
              const number = ++n
              yield* Soak.Soak.dispatch({ app, n: number }).pipe(
                Effect.provideService(Dispatcher, yield* Effect.provideContext(Dispatcher, dispatcher))
              )
              const at = yield* Clock.currentTimeMillis
              yield* Ref.update(accepted, (all) => [...all, { key: `${app} ${number}`, at }])
            }).pipe(Effect.ignore),
          { concurrency: "unbounded", discard: true }
        ).pipe(Effect.andThen(Effect.sleep("300 millis")), Effect.forever)
        const kills: Array<number> = []
        const restarts = Effect.gen(function* () {
          for (const at of [40_000, 85_000]) {
            yield* Effect.sleep(Math.max(0, start + at - (yield* Clock.currentTimeMillis)))
            kills.push(yield* Clock.currentTimeMillis)
            yield* Effect.promise(inngest.kill)
            yield* Effect.sleep("1 second")
            yield* Effect.promise(inngest.start)
          }
          return yield* Effect.never
        })
        yield* Effect.raceAll([dispatching, restarts, ...apps.map(dying)]).pipe(Effect.timeoutOption(length))
        // and now they live
        yield* Effect.forEach(apps, (told) => startProgram("inngestSoak.ts", told))
        const all = yield* Ref.get(accepted)
        const counted = all.filter(({ at }) => !kills.some((kill) => at <= kill && kill - at < unwritten))
        const lines = () => apps.flatMap(({ journal }) => journalOf(journal))
        const missing = (of: typeof all = counted) => {
          const done = new Set(
            lines()
              .filter((line) => /^(?:ended|failed) /.test(line))
              .map((line) => line.split(" ").slice(1, 3).join(" "))
          )
          return of.filter(({ key }) => !done.has(key)).map(({ key }) => key)
        }
        yield* holds(() => assert.isEmpty(missing()))
        const failed = lines().filter((line) => line.startsWith("failed "))
        console.log(
          `${all.length} accepted; ${missing(all).length} of ${all.length - counted.length} lost that came just before one of ${kills.length} kills of the server, none of the others; ${failed.length} failed for good`
        )
        assert.isAbove(counted.length, 300)
        assert.isEmpty(failed)
      }),
    900_000
  )
})
