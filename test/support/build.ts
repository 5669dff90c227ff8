// Before any test: `dist`, which the package's, the bundles' and the example's tests use, as it is now.
import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"

export default (): void => {
  const cwd = fileURLToPath(new URL("../..", import.meta.url))
  const { status, stderr, stdout } = spawnSync("npm", ["run", "build"], { cwd, encoding: "utf8" })
  if (status !== 0) throw new Error(`npm run build failed:\n${stdout}${stderr}`)
}
