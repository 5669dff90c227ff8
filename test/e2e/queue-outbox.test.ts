// The outbox under fire, on Postgres: exactly what was committed is delivered.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { Dispatcher, DispatchError, type DispatchRequest, Unavailable } from "effect-jobs"
import { OutboxDispatcher, OutboxRelay, OutboxStore, QueueWorker } from "effect-jobs/queue"
import { SqlClient } from "effect/sql"
import { handlers, Once, transaction, Work } from "../support/child.ts"
import { eventually } from "../support/eventually.ts"
import { count, onPostgres } from "../support/faults.ts"
import { spawn } from "../support/spawn.ts"

const committed = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const rows = yield* sql<{ readonly n: number }>`SELECT n FROM accounts`
  return rows.map(({ n }) => n)
})

/** Messages that the outbox still has to hand over. */
const outstanding = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const [row] = yield* sql<{
    readonly count: string
  }>`SELECT COUNT(*) AS count FROM effect_queue WHERE queue_name = '@outbox' AND state = 'pending'`
  return Number(row?.count)
})

const transactions = 1_000
const kills = 10

describe("the outbox on Postgres", () => {
  it.live(
    "a thousand transactions, half rolled back, the process killed ten times at random: exactly the committed are delivered",
    () =>
      Effect.gen(function* () {
        const { entries, provided, told } = yield* onPostgres()
        let next = 0
        for (let kill = 0; kill <= kills; kill++) {
          const child = yield* spawn({
            role: "transactions",
            name: `child-${kill}`,
            server: told,
            lockExpiration: "2 seconds",
            from: next,
            to: transactions
          })
          yield* Effect.promise(() => child.said("ready"))
          if (kill === kills) {
            yield* Effect.promise(() => child.said("done"))
            yield* eventually(provided(outstanding), (count) => count === 0)
            const wanted = yield* provided(committed)
            yield* eventually(entries, (seen) => count(seen, wanted).lost.length === 0)
            // whatever else may come would come now
            yield* Effect.sleep(3_000)
            yield* Effect.promise(() => child.kill())
            break
          }
          // at a random moment of the run, some hundred transactions before its end
          const share = ((transactions - next) / (kills - kill + 1)) * (0.5 + Math.random())
          yield* eventually(
            Effect.sync(() => child.lines.length),
            (lines) => lines >= share
          )
          yield* Effect.promise(() => child.kill())
          // those that were under way are left as they are: committed or not
          const done = child.lines.flatMap((line) =>
            line.startsWith("transaction ") ? [Number(line.slice(12))] : []
          )
          next = Math.max(next, ...done) + 5
        }
        const wanted = yield* provided(committed)
        const { invented, lost, twice } = count(yield* entries, wanted)
        console.log(
          `outbox: ${kills} kills in ${transactions} transactions, ${wanted.length} committed, ${lost.length} lost, ${invented.length} invented, ${twice} ran twice`
        )
        assert.isTrue(wanted.every((n) => n % 2 === 0))
        assert.isAbove(wanted.length, transactions / 2 - kills * 10)
        assert.isEmpty(lost)
        assert.isEmpty(invented)
      })
  )

  it.live(
    "a relay killed between its target's answer and its own acknowledgement: handed over twice, run once",
    () =>
      Effect.gen(function* () {
        const { entries, journal, provided, told } = yield* onPostgres()
        const handedOver: Array<string> = []
        yield* provided(
          Effect.gen(function* () {
            const client = yield* SqlClient.SqlClient
            const queue = yield* Dispatcher
            const outbox = OutboxStore.layer({ lockExpiration: "2 seconds" }).pipe(
              Layer.provide(Layer.succeed(SqlClient.SqlClient, client))
            )
            yield* Effect.forEach(
              Array.from({ length: 20 }, (_, n) => n),
              transaction,
              { discard: true }
            ).pipe(Effect.provide(Layer.provide(OutboxDispatcher.layerOnStore, outbox)))
            yield* Effect.scoped(
              Effect.gen(function* () {
                const child = yield* spawn({
                  role: "relay",
                  name: "killed",
                  server: told,
                  lockExpiration: "2 seconds"
                })
                yield* Effect.promise(() => child.ended)
              })
            )
            assert.isAbove(yield* outstanding, 0)
            const target = Layer.succeed(Dispatcher, {
              send: (requests) => {
                handedOver.push(...requests.map(({ message }) => message.id))
                return queue.send(requests)
              }
            })
            const relay = Layer.provide(OutboxRelay.layerOnStore(), [outbox, target])
            const worker = Layer.provide(QueueWorker.layer([Work, Once]), handlers(journal, "here"))
            yield* Effect.gen(function* () {
              yield* eventually(outstanding, (count) => count === 0)
              const wanted = yield* committed
              yield* eventually(entries, (seen) => count(seen, wanted).lost.length === 0)
              yield* Effect.sleep(500)
            }).pipe(Effect.provide(Layer.merge(relay, worker)))
          })
        )
        const result = count(yield* entries, yield* provided(committed))
        console.log(
          `relay killed: ${handedOver.length} of 10 handed over a second time, ${result.twice} ran twice`
        )
        assert.lengthOf(handedOver, 10)
        assert.deepStrictEqual(result, { lost: [], invented: [], twice: 0 })
      })
  )

  it.live("a target that is down for a while gets everything when it is back", () =>
    Effect.gen(function* () {
      const { provided } = yield* onPostgres()
      let down = true
      let refused = 0
      const sent: Array<DispatchRequest> = []
      const target = Layer.succeed(Dispatcher, {
        send: (requests) =>
          Effect.suspend(() => {
            if (!down) {
              sent.push(...requests)
              return Effect.void
            }
            refused++
            return Effect.fail(
              DispatchError.of(new Unavailable({ job: "any", engine: "the test", detail: "it is down" }))
            )
          })
      })
      yield* provided(
        Effect.gen(function* () {
          const client = Layer.succeed(SqlClient.SqlClient, yield* SqlClient.SqlClient)
          yield* Effect.gen(function* () {
            yield* Effect.forEach(
              Array.from({ length: 200 }, (_, n) => n),
              transaction,
              { discard: true }
            )
            yield* Effect.sleep(3_000)
            assert.isAbove(refused, 1)
            assert.isBelow(refused, 15)
            down = false
            yield* eventually(
              Effect.sync(() => sent.length),
              (count) => count >= 100
            )
            yield* eventually(outstanding, (count) => count === 0)
          }).pipe(
            Effect.provide(
              Layer.merge(OutboxDispatcher.layer, Layer.provide(OutboxRelay.layer(), target)).pipe(
                Layer.provide(client)
              )
            )
          )
        })
      )
      console.log(`target down for 3 s: ${refused} sends refused, ${sent.length} of 100 messages delivered`)
      assert.lengthOf(sent, 100)
      assert.strictEqual(new Set(sent.map(({ message }) => message.id)).size, 100)
    })
  )
})
