/**
 * The two built-in SQLites behind one interface. Each is loaded where it is used: a bundle for one runtime must not
 * need the other's.
 */
import type { DatabaseSync, SQLInputValue } from "node:sqlite"

export interface Prepared {
  readonly all: (params: ReadonlyArray<unknown>) => ReadonlyArray<Record<string, unknown>>
  readonly values: (params: ReadonlyArray<unknown>) => ReadonlyArray<ReadonlyArray<unknown>>
}

export interface Database {
  readonly prepare: (sql: string) => Prepared
  readonly isTransaction: () => boolean
  readonly close: () => void
}

/** What is used of `bun:sqlite`. */
interface BunDatabase {
  readonly inTransaction: boolean
  readonly close: () => void
  readonly exec: (sql: string) => unknown
  readonly prepare: (sql: string) => {
    readonly all: (...params: ReadonlyArray<unknown>) => ReadonlyArray<Record<string, unknown>>
    readonly values: (...params: ReadonlyArray<unknown>) => ReadonlyArray<ReadonlyArray<unknown>>
  }
}

/** In WAL mode; throws what the runtime's SQLite throws. */
export const open = async (
  filename: string,
  busyTimeout: number,
  synchronous: "full" | "normal"
): Promise<Database> => {
  const pragmas = `PRAGMA busy_timeout = ${Math.round(busyTimeout)}; PRAGMA journal_mode = WAL; PRAGMA synchronous = ${synchronous}; PRAGMA foreign_keys = ON`
  return "bun" in process.versions ? openBun(filename, pragmas) : openNode(filename, pragmas)
}

const openNode = async (filename: string, pragmas: string): Promise<Database> => {
  const { DatabaseSync } = await import("node:sqlite")
  const db: DatabaseSync = new DatabaseSync(filename)
  prepared(db, () => db.exec(pragmas))
  return {
    isTransaction: () => db.isTransaction,
    close: () => db.close(),
    prepare: (sql) => {
      const rows = db.prepare(sql)
      let arrays: ReturnType<DatabaseSync["prepare"]> | undefined
      return {
        // sound: what isn't an SQLite value is refused by the statement itself
        all: (params) => rows.all(...(params as ReadonlyArray<SQLInputValue>)),
        values: (params) => {
          if (arrays === undefined) {
            arrays = db.prepare(sql)
            arrays.setReturnArrays(true)
          }
          // sound: as above, and `setReturnArrays` makes arrays of the rows
          return arrays.all(...(params as ReadonlyArray<SQLInputValue>)) as unknown as ReadonlyArray<
            ReadonlyArray<unknown>
          >
        }
      }
    }
  }
}

const openBun = async (filename: string, pragmas: string): Promise<Database> => {
  // not a literal, so that neither a bundler nor the compiler looks for Bun's module elsewhere
  const specifier: string = "bun:sqlite"
  // sound: Bun's module has this class
  const { Database } = (await import(specifier)) as {
    readonly Database: new (filename: string) => BunDatabase
  }
  const db = new Database(filename)
  prepared(db, () => db.exec(pragmas))
  return {
    isTransaction: () => db.inTransaction,
    close: () => db.close(),
    prepare: (sql) => {
      const statement = db.prepare(sql)
      return {
        all: (params) => statement.all(...params),
        values: (params) => statement.values(...params)
      }
    }
  }
}

/** A file that is no database is noticed by the first statement. */
const prepared = (db: { readonly close: () => void }, run: () => void) => {
  try {
    run()
  } catch (cause) {
    db.close()
    throw cause
  }
}
