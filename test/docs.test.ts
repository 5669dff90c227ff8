// Every TypeScript block of the documentation compiles against the package.
import { existsSync, globSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { describe, expect, it } from "vitest"
import { type Diagnostic, typecheck } from "../scripts/typecheck.ts"

const root = fileURLToPath(new URL("..", import.meta.url))

interface Block {
  readonly doc: string
  /** Line of the document that holds the first line of code, the first is 1. */
  readonly line: number
  readonly info: string
  readonly extension: "ts" | "tsx"
  readonly source: string
}

const blocksOf = (doc: string, text: string): ReadonlyArray<Block> => {
  const blocks: Array<Block> = []
  let open: { fence: string; indent: number; info: string; line: number; code: Array<string> } | undefined
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    const fence = /^( *)(`{3,}|~{3,})(.*)$/.exec(line)
    if (open === undefined) {
      if (fence === null) continue
      const [, indent = "", mark = "", info = ""] = fence
      open = { fence: mark, indent: indent.length, info: info.trim(), line: index + 2, code: [] }
    } else if (fence !== null && fence[2]?.startsWith(open.fence) === true && fence[3]?.trim() === "") {
      const language = open.info.split(/[\s{,]/)[0]?.toLowerCase()
      if (language === "ts" || language === "typescript" || language === "tsx") {
        const extension = language === "tsx" ? "tsx" : "ts"
        blocks.push({ doc, line: open.line, info: open.info, extension, source: open.code.join("\n") })
      }
      open = undefined
    } else {
      open.code.push(line.slice(Math.min(open.indent, line.length - line.trimStart().length)))
    }
  }
  if (open !== undefined) throw new Error(`${doc}:${open.line - 1}: block is never closed`)
  return blocks
}

/** The first line of a block may name its file: then other blocks of the page can import it. */
const fileOf = (block: Block): string => {
  const doc = block.doc.replaceAll(/[^\w-]+/g, "_")
  const named = /^\/\/ ([\w.-]+\.tsx?)$/m.exec(block.source.split("\n")[0] ?? "")
  return named === null ? `${doc}_L${block.line}.${block.extension}` : `${doc}/${named[1]}`
}

/** The problems of each block, as `doc:line: message`. */
const check = (blocks: ReadonlyArray<Block>): ReadonlyMap<Block, ReadonlyArray<string>> => {
  const files = new Map(
    blocks.map((block) => [
      fileOf(block),
      /^\s*(?:import|export)\b/m.test(block.source) ? block.source : `${block.source}\nexport {}\n`
    ])
  )
  const diagnostics = typecheck(files)
  const problem = (block: Block, { line, code, message }: Diagnostic): string =>
    `${block.doc}:${block.line + line - 1}: ${code}: ${message}`
  const elsewhere = diagnostics.filter(({ file }) => !files.has(file))
  return new Map(
    blocks.map((block) => [
      block,
      [
        ...(/\bno-?check\b/i.test(block.info) || /@ts-no-?check|@ts-ignore/i.test(block.source)
          ? [`${block.doc}:${block.line - 1}: a block may not opt out of the check`]
          : []),
        ...diagnostics.filter(({ file }) => file === fileOf(block)).map((found) => problem(block, found)),
        ...elsewhere.map(({ file, line, message }) => `${file}:${line}: ${message}`)
      ]
    ])
  )
}

const docs = ["README.md", ...globSync("docs/**/*.md", { cwd: root }).toSorted()]
const blocks = docs.flatMap((doc) =>
  existsSync(`${root}${doc}`) ? blocksOf(doc, readFileSync(`${root}${doc}`, "utf8")) : []
)
const problems = check(blocks)

describe("code blocks of the documentation", () => {
  it("README.md has some", () => {
    expect(blocks.filter(({ doc }) => doc === "README.md").length).toBeGreaterThan(0)
  })

  for (const block of blocks) {
    it(`${block.doc}:${block.line} compiles`, () => {
      expect(problems.get(block)?.join("\n\n")).toBe("")
    })
  }
})

describe("the check itself", () => {
  const fixture = blocksOf(
    "fixture.md",
    [
      "# Fixture", // 1
      "",
      "```ts", // 3
      "const fine: number = 1",
      "```",
      "",
      "```typescript title=broken", // 7
      'import { Effect } from "effect"',
      "",
      'const broken: Effect.Effect<number> = Effect.succeed("text")', // 10
      "```",
      "",
      "1. In a list:",
      "",
      "   ```ts nocheck", // 15
      "   const value = 1",
      "   ```",
      "",
      "```sh",
      "not typescript",
      "```"
    ].join("\n")
  )
  const found = [...check(fixture).values()]

  it("reports a broken block at its line of the document", () => {
    expect(found[0]).toEqual([])
    expect(found[1]).toHaveLength(1)
    expect(found[1]?.[0]).toMatch(/^fixture\.md:10: TS\d+: .*'string' is not assignable to type 'number'/s)
  })

  it("rejects a block that opts out", () => {
    expect(found).toHaveLength(3)
    expect(found[2]).toEqual(["fixture.md:15: a block may not opt out of the check"])
  })
})
