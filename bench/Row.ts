/** A line of the table: one ratio for each repetition, each of two measurements from the same repetition. */
export interface Row {
  readonly name: string
  /** Ours over theirs, in time or memory: below 1 is less. */
  readonly ratios: ReadonlyArray<number>
  readonly note?: string | undefined
}

export const median = (values: ReadonlyArray<number>): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN
