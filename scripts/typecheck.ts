// Type checks sources that are not part of the project (the code blocks of the documentation, programs that
// must not compile) with the project's compiler and options, and returns what the compiler says.
import { spawnSync } from "node:child_process"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))

export interface Diagnostic {
  readonly file: string
  /** Line in the file, the first is 1. */
  readonly line: number
  readonly column: number
  readonly code: string
  /** The whole message, with the lines of its chain. */
  readonly message: string
}

/** Type checks `files` (names to sources) as modules of their own, which see the packages that the project sees. */
export const typecheck = (files: ReadonlyMap<string, string>): ReadonlyArray<Diagnostic> => {
  const directory = mkdtempSync(join(root, ".typecheck-"))
  try {
    return typecheckIn(directory, files)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

const typecheckIn = (directory: string, files: ReadonlyMap<string, string>): ReadonlyArray<Diagnostic> => {
  writeFileSync(`${directory}/package.json`, JSON.stringify({ type: "module" }))
  writeFileSync(
    `${directory}/tsconfig.json`,
    JSON.stringify({
      extends: "../tsconfig.json",
      compilerOptions: { jsx: "preserve", noUnusedLocals: false },
      include: [],
      files: [...files.keys()]
    })
  )
  for (const [file, source] of files) {
    mkdirSync(dirname(`${directory}/${file}`), { recursive: true })
    writeFileSync(`${directory}/${file}`, source)
  }

  const compiler = spawnSync(
    process.execPath,
    [`${root}node_modules/typescript/bin/tsc`, "--noEmit", "--pretty", "false", "-p", "tsconfig.json"],
    { cwd: directory, encoding: "utf8", maxBuffer: 64 * 1024 * 1024 }
  )
  const diagnostics: Array<Diagnostic> = []
  const unread: Array<string> = []
  for (const text of compiler.stdout.split("\n")) {
    const match = /^(.+?)\((\d+),(\d+)\): error (TS\d+): (.*)$/.exec(text)
    const last = diagnostics.at(-1)
    if (match !== null) {
      const [, file = "", line, column, code = "", message = ""] = match
      diagnostics.push({ file, line: Number(line), column: Number(column), code, message })
    } else if (last !== undefined && text.startsWith(" ")) {
      diagnostics[diagnostics.length - 1] = { ...last, message: `${last.message}\n${text}` }
    } else if (text !== "") {
      unread.push(text)
    }
  }
  if (unread.length > 0 || compiler.stderr !== "" || (compiler.status !== 0 && diagnostics.length === 0)) {
    throw new Error(`tsc failed (${compiler.status}):\n${unread.join("\n")}${compiler.stderr}`)
  }
  return diagnostics
}

export interface ExpectedError {
  /** Line of the comment, the first is 1. */
  readonly line: number
  readonly text: string
}

const expectError = /^([\t ]*\/\/ )@ts-expect-error:?[\t ]*(.*)$/

/** The `// @ts-expect-error <text>` comments of a source, and that source without their effect. */
export const expectedErrors = (
  source: string
): { readonly source: string; readonly expected: ReadonlyArray<ExpectedError> } => {
  const expected: Array<ExpectedError> = []
  const lines = source.split("\n").map((line, index) => {
    const match = expectError.exec(line)
    if (match === null) return line
    expected.push({ line: index + 1, text: (match[2] ?? "").trim() })
    return `${match[1]}expected: ${match[2]}`
  })
  return { source: lines.join("\n"), expected }
}

/**
 * What is wrong with a source whose `// @ts-expect-error <text>` comments state, each, a part of the message
 * the compiler must give for the line below; empty when every comment is right and nothing else is reported.
 */
export const mismatches = (
  expected: ReadonlyArray<ExpectedError>,
  diagnostics: ReadonlyArray<Diagnostic>
): ReadonlyArray<string> => {
  const rest = new Set(diagnostics)
  const problems: Array<string> = []
  for (const { line, text } of expected) {
    const found = diagnostics.filter((diagnostic) => diagnostic.line === line + 1)
    for (const diagnostic of found) rest.delete(diagnostic)
    if (found.length === 0) problems.push(`line ${line + 1}: compiles, expected: ${text}`)
    else if (!found.some((diagnostic) => squash(diagnostic.message).includes(squash(text)))) {
      problems.push(`line ${line + 1}: expected: ${text}\n${found.map(({ message }) => message).join("\n")}`)
    }
  }
  for (const { line, code, message } of rest) problems.push(`line ${line}: ${code}: ${message}`)
  return problems
}

const squash = (text: string): string => text.replaceAll(/\s+/g, " ").trim()
