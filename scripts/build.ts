// Compiles src to dist. The compiler rewrites `./Job.ts` to `./Job.js` in the JavaScript it emits but leaves
// the specifiers of declaration files alone, so those are rewritten here. Both are equally long, which keeps
// the declaration maps exact.
//
// It compiles into a folder of its own and then brings dist up to date, file by file: whoever reads dist meanwhile
// (another build, a test run) never finds a file missing or half written, and files that are the same stay untouched.
import { spawnSync } from "node:child_process"
import { globSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))
const dist = join(root, "dist")

/** The text of a file; undefined if there is none. */
const read = (file: string): string | undefined => {
  try {
    return readFileSync(file, "utf8")
  } catch {
    return undefined
  }
}

// beside dist, because source maps name their sources relative to where they lie
const built = mkdtempSync(join(root, ".dist-"))
try {
  const compiler = spawnSync(
    process.execPath,
    [`${root}node_modules/typescript/bin/tsc`, "-p", `${root}tsconfig.build.json`, "--outDir", built],
    { stdio: "inherit" }
  )
  if (compiler.status !== 0) process.exitCode = compiler.status ?? 1
  else {
    const files = new Set(globSync("**/*.{js,ts,map}", { cwd: built }))
    for (const file of files) {
      const source = readFileSync(join(built, file), "utf8")
      const wanted = file.endsWith(".d.ts")
        ? source.replaceAll(/((?:from |import |import\()"\.{1,2}\/[^"\n]*)\.ts"/g, '$1.js"')
        : source
      if (wanted === read(join(dist, file))) continue
      if (wanted !== source) writeFileSync(join(built, file), wanted)
      mkdirSync(dirname(join(dist, file)), { recursive: true })
      renameSync(join(built, file), join(dist, file))
    }
    for (const file of globSync("**/*.{js,ts,map}", { cwd: dist })) {
      if (!files.has(file)) rmSync(join(dist, file), { force: true })
    }
  }
} finally {
  rmSync(built, { recursive: true, force: true })
}
