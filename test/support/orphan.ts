// For programs that a test starts: they end with it, also where it is killed.

/** Ends this process when its standard input does, which is a pipe from the test. */
export const endWithParent = (): void => {
  process.stdin.on("end", () => process.exit()).resume()
}
