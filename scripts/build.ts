// Compiles src to dist. The compiler rewrites `./Job.ts` to `./Job.js` in the JavaScript it emits but leaves
// the specifiers of declaration files alone, so those are rewritten here. Both are equally long, which keeps
// the declaration maps exact.
import { spawnSync } from "node:child_process"
import { globSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))

rmSync(`${root}dist`, { recursive: true, force: true })

const compiler = spawnSync(
  process.execPath,
  [`${root}node_modules/typescript/bin/tsc`, "-p", `${root}tsconfig.build.json`],
  { stdio: "inherit" }
)
if (compiler.status !== 0) process.exit(compiler.status ?? 1)

for (const file of globSync("dist/**/*.d.ts", { cwd: root })) {
  const source = readFileSync(`${root}${file}`, "utf8")
  const rewritten = source.replaceAll(/((?:from |import |import\()"\.{1,2}\/[^"\n]*)\.ts"/g, '$1.js"')
  if (rewritten !== source) writeFileSync(`${root}${file}`, rewritten)
}
