// What the compiler says where a program must not compile: that it fails is checked by `npm run check`.
import { readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { expectedErrors, mismatches, typecheck } from "../scripts/typecheck.ts"

const file = new URL("types/errors.ts", import.meta.url)

describe("compile errors", () => {
  it("say what is wrong", () => {
    const { expected, source } = expectedErrors(readFileSync(file, "utf8"))
    expect(expected.length).toBeGreaterThan(10)
    expect(mismatches(expected, typecheck("types", new Map([["errors.ts", source]])))).toEqual([])
  })
})
