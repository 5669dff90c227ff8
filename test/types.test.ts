// What the compiler infers, and what it says where a program must not compile.
import { readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { expectedErrors, mismatches, typecheck } from "../scripts/typecheck.ts"

const read = (name: string) => readFileSync(new URL(`types/${name}`, import.meta.url), "utf8")

describe("types", () => {
  const { expected, source } = expectedErrors(read("errors.ts"))
  const diagnostics = typecheck(
    new Map([
      ["errors.ts", source],
      ["inferred.ts", read("inferred.ts")]
    ])
  )

  it("are inferred as types/inferred.ts says", () => {
    expect(diagnostics.filter(({ file }) => file !== "errors.ts")).toEqual([])
  })

  it("say what is wrong with the programs of types/errors.ts", () => {
    expect(expected.length).toBeGreaterThan(10)
    expect(
      mismatches(
        expected,
        diagnostics.filter(({ file }) => file === "errors.ts")
      )
    ).toEqual([])
  })
})
