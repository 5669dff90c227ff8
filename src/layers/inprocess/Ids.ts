/**
 * The ids of runs that have ended, bounded in number and in time.
 */
export interface RememberedIds {
  readonly has: (key: string, now: number) => boolean
  readonly add: (key: string, now: number) => void
  readonly clear: () => void
}

/**
 * In two generations, so that forgetting costs nothing: when the younger one is full it becomes the older one, and
 * what was the older one is forgotten at once. So `capacity` ids or more are remembered, and less than twice as
 * many.
 */
export const rememberedIds = (capacity: number, timeToLive: number): RememberedIds => {
  let younger = new Map<string, number>()
  let older = new Map<string, number>()
  return {
    has: (key, now) => {
      const expiry = younger.get(key) ?? older.get(key)
      return expiry !== undefined && expiry > now
    },
    add: (key, now) => {
      if (younger.size >= capacity) {
        older = younger
        younger = new Map()
      }
      younger.set(key, now + timeToLive)
    },
    clear: () => {
      younger.clear()
      older.clear()
    }
  }
}
