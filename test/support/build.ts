// `dist`, which the package's, the bundles' and the example's tests use, as it is now.
import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"

/** Brings `dist` up to date; runs at the same time don't disturb each other (scripts/build.ts). */
export const build = (): void => {
  const script = fileURLToPath(new URL("../../scripts/build.ts", import.meta.url))
  const { status, stderr, stdout } = spawnSync(process.execPath, [script], { encoding: "utf8" })
  if (status !== 0) throw new Error(`the build failed:\n${stdout}${stderr}`)
}
