/**
 * Where the outbox keeps what a transaction has dispatched: PersistedQueue's table on the program's own
 * `SqlClient`. `OutboxDispatcher` writes it, `OutboxRelay` empties it.
 */
import * as Context from "effect/Context"
import * as Layer from "effect/Layer"
import type { PersistedQueueStore } from "effect/persistence/PersistedQueue"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { makeSql, type QueueStoreError, type SqlOptions } from "../queue/QueueStore.ts"

/**
 * A store that is on SQL by construction. An outbox's dispatcher and relay in one process share it, so that a
 * commit wakes the relay at once.
 */
export class OutboxStore extends Context.Service<OutboxStore, PersistedQueueStore["Service"]>()(
  "effect-jobs/OutboxStore"
) {}

/** With options, for `OutboxDispatcher.layerOnStore` and `OutboxRelay.layerOnStore`. */
export const layer = (
  options?: SqlOptions
): Layer.Layer<OutboxStore, SqlError | QueueStoreError, SqlClient> =>
  Layer.effect(OutboxStore, makeSql(options))

/** One value, so that the dispatcher and the relay of one program build it once. */
export const layerDefault: Layer.Layer<OutboxStore, SqlError | QueueStoreError, SqlClient> = layer()
