import { readFileSync } from "node:fs"
import { configDefaults, defineConfig } from "vitest/config"

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

/** Tests that take long, that wait for a server's own minutes, or that need the network. */
const e2e = ["test/e2e/**/*.test.ts", "test/conformance/inngest.test.ts"]

export default defineConfig({
  resolve: { alias },
  test: {
    globalSetup: "test/support/shared.ts",
    pool: "forks",
    // most tests wait, for a server or for the clock
    maxWorkers: 4,
    maxConcurrency: 40,
    silent: "passed-only",
    // of what waits for a real clock many tests take seconds
    slowTestThreshold: 15_000,
    teardownTimeout: 30_000,
    projects: [
      {
        extends: true,
        test: {
          name: "unit",
          include: ["test/**/*.test.ts"],
          exclude: [...configDefaults.exclude, ...e2e],
          // they wait with patience: a machine may have other things to do
          testTimeout: 180_000,
          hookTimeout: 180_000
        }
      },
      {
        extends: true,
        test: { name: "e2e", include: e2e, maxWorkers: 2, testTimeout: 900_000, hookTimeout: 300_000 }
      }
    ]
  }
})
