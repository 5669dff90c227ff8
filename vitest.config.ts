import { readFileSync } from "node:fs"
import { defineConfig } from "vitest/config"

const manifest: { readonly exports: Record<string, unknown> } = JSON.parse(
  readFileSync(new URL("package.json", import.meta.url), "utf8")
)

// Each entry point of package.json, resolved to its source so that tests need no build.
const alias = Object.keys(manifest.exports)
  .filter((entry) => !entry.endsWith(".json"))
  .map((entry) => ({
    find: new RegExp(`^effect-jobs${entry.slice(1)}$`),
    replacement: new URL(`src/${entry === "." ? "index" : entry.slice(2)}.ts`, import.meta.url).pathname
  }))

export default defineConfig({
  resolve: { alias },
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: "test/support/build.ts",
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 120_000,
    teardownTimeout: 30_000,
    typecheck: {
      enabled: true,
      checker: "tsc",
      include: ["test/**/*.test-d.ts"],
      tsconfig: "tsconfig.json",
      // Errors elsewhere are what `npm run check` reports.
      ignoreSourceErrors: true
    }
  }
})
