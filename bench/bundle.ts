/**
 * What an application ships, minified and with gzip: three typical programs, whole, and this package's share of
 * them. Bundled by rolldown, for the conditions that workers and browsers have.
 */
import { fileURLToPath } from "node:url"
import { gzipSync } from "node:zlib"
import { rolldown } from "rolldown"
import type { Row } from "./Row.ts"

const root = fileURLToPath(new URL("..", import.meta.url))

const job = `
import { Effect, Layer, Schema } from "effect"
import { Job, RetryPolicy } from "effect-jobs"
class Mail extends Job.make("mail.welcome", {
  payload: { email: Schema.String },
  retry: RetryPolicy.exponential({ attempts: 5, initialDelay: "1 second" })
}) {}
`

export const programs = {
  "core and inline": `${job}
import { InlineDispatcher } from "effect-jobs"
const Live = Mail.toLayer(({ email }) => Effect.log(email))
const jobs = Layer.provide(InlineDispatcher.layer([Mail]), Live)
Effect.runFork(Effect.provide(Mail.dispatch({ email: "a" }), jobs))`,
  "dispatch by Inngest": `${job}
import { InngestClient, InngestDispatcher } from "effect-jobs/inngest"
const jobs = Layer.provide(InngestDispatcher.layer, InngestClient.layer({ id: "app" }))
Effect.runFork(Effect.provide(Mail.dispatch({ email: "a" }), jobs))`,
  "Inngest worker": `${job}
import { InngestClient, InngestDispatcher, InngestWorker } from "effect-jobs/inngest"
const Live = Mail.toLayer(({ email }) => Effect.log(email))
export const { handler } = InngestWorker.toWebHandler(
  [Mail],
  Layer.merge(Live, InngestDispatcher.layer).pipe(Layer.provideMerge(InngestClient.layer({ id: "app" })))
)`
} as const

export interface Bundle {
  /** Bytes. */
  readonly size: number
  /** The modules of which something is left in it, as paths from the project's folder. */
  readonly modules: ReadonlyArray<string>
  /** What it imports of Node. */
  readonly node: ReadonlyArray<string>
}

/** The bundle of a program; `external`, without these packages. It needs `dist`. */
export const bundle = async (program: string, external: ReadonlyArray<string> = []): Promise<Bundle> => {
  const isNode = /^(?:node:.*|async_hooks|crypto|fs|http|https|net|os|path|stream|tls|url|util|zlib)$/
  const built = await rolldown({
    input: "program",
    cwd: root,
    platform: "browser",
    logLevel: "silent",
    resolve: {
      conditionNames: ["worker", "browser", "import", "default"],
      alias: { "effect-jobs/inngest": `${root}dist/inngest.js`, "effect-jobs": `${root}dist/index.js` }
    },
    external: (id) => isNode.test(id) || external.some((name) => id === name || id.startsWith(`${name}/`)),
    plugins: [
      {
        name: "program",
        resolveId: (id) => (id === "program" ? `${root}program.js` : null),
        load: (id) => (id === `${root}program.js` ? program : null)
      }
    ]
  })
  const { output } = await built.generate({ format: "esm", minify: true })
  await built.close()
  const chunks = output.filter((file) => file.type === "chunk")
  return {
    size: gzipSync(chunks.map(({ code }) => code).join("")).length,
    modules: chunks.flatMap(({ modules }) =>
      Object.entries(modules)
        .filter(([, { renderedLength }]) => renderedLength > 0)
        .map(([id]) => id.replace(root, ""))
    ),
    node: [
      ...new Set(
        chunks
          .flatMap(({ dynamicImports, imports }) => [...imports, ...dynamicImports])
          .filter((id) => isNode.test(id))
      )
    ]
  }
}

/** This package's share: everything else is left out. */
export const share = (program: string): Promise<Bundle> => bundle(program, ["effect", "inngest"])

const kilobytes = ({ size }: Bundle) => size / 1_000

export const run = async (): Promise<ReadonlyArray<Row>> => {
  const rows: Array<Row> = []
  for (const [name, program] of Object.entries(programs)) {
    const [whole, own] = [await bundle(program), await share(program)]
    rows.push({
      name: `${name}: this package / the whole`,
      ratios: [own.size / whole.size],
      note: `${kilobytes(own).toFixed(1)} KB of ${kilobytes(whole).toFixed(1)} KB, gzip`
    })
  }
  return rows
}
