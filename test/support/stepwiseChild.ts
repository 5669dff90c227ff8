// A queue's worker with the stepwise handler, to be killed: its argument says where.
import { Effect, Layer } from "effect"
import { pathToFileURL } from "node:url"
import { endWithParent } from "./orphan.ts"
import { QueueDispatcher, QueueStore, QueueWorker } from "../../src/queue.ts"
import * as Postgres from "./Postgres.ts"
import { fileJournal, Stepwise, stepwise } from "./stepwise.ts"

export interface Told {
  readonly postgres: string
  readonly journal: string
  readonly stops: boolean
}

export const store = (postgres: string) =>
  Layer.provide(QueueStore.layerSql({ lockExpiration: "3 seconds" }), Postgres.client(postgres))

const [, program, argument] = process.argv
if (argument !== undefined && program !== undefined && import.meta.url === pathToFileURL(program).href) {
  endWithParent()
  // sound: it is what the test wrote
  const { journal, postgres, stops } = JSON.parse(argument) as Told
  const worker = QueueWorker.layer([Stepwise]).pipe(
    Layer.provide(stepwise(fileJournal(journal), stops)),
    Layer.provideMerge(QueueDispatcher.layer),
    Layer.provide(store(postgres))
  )
  Effect.runFork(
    Effect.scoped(
      Effect.andThen(
        Layer.build(worker),
        Effect.andThen(
          Effect.sync(() => process.stdout.write("ready\n")),
          Effect.never
        )
      )
    )
  )
}
