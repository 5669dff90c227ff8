/**
 * A dispatch fails with one tagged error, whose `reason` says what the caller can do about it.
 */
import * as Schema from "effect/Schema"
import type * as SchemaAST from "effect/SchemaAST"
import * as SchemaIssue from "effect/SchemaIssue"

/** One fault of a value: where it is (`items[0].email`; empty for the value itself), and what was expected there. */
export interface Issue {
  readonly path: string
  readonly message: string
}

const formatIssues = SchemaIssue.makeFormatterStandardSchemaV1()

/**
 * The keys of a record are data (addresses, often), so a path has `*` in their place. The names of a struct's fields
 * stay.
 */
const withoutKeys = (issue: SchemaIssue.Issue, parent?: SchemaAST.AST): SchemaIssue.Issue => {
  switch (issue._tag) {
    case "Composite":
    case "AnyOf":
      return changed(issue, { issues: issue.issues.map((inner) => withoutKeys(inner, issue.ast)) })
    case "Encoding":
      return changed(issue, { issue: withoutKeys(issue.issue, issue.ast) })
    case "Filter":
      return changed(issue, { issue: withoutKeys(issue.issue, parent) })
    case "Pointer": {
      const [key, ...rest] = issue.path
      return changed(issue, {
        path: isKeyOfRecord(key, parent) ? ["*", ...rest] : issue.path,
        issue: withoutKeys(issue.issue)
      })
    }
    default:
      return issue
  }
}

const isKeyOfRecord = (key: PropertyKey | undefined, ast: SchemaAST.AST | undefined): boolean =>
  ast?._tag === "Objects" &&
  ast.indexSignatures.length > 0 &&
  !ast.propertySignatures.some(({ name }) => name === key)

/** A copy of an issue, which has more to it than its constructor takes. */
const changed = <I extends SchemaIssue.Issue>(issue: I, fields: object): I =>
  // sound: the copy has all properties of the issue, and in place of some others of the same type
  Object.assign(
    Object.create(Object.getPrototypeOf(issue) as object, Object.getOwnPropertyDescriptors(issue)),
    fields
  ) as I

/** A schema's issues as a flat list. Neither the rejected values nor the keys of records are in it. */
export const issuesOf = (root: SchemaIssue.Issue): ReadonlyArray<Issue> =>
  formatIssues(withoutKeys(root)).issues.map((issue) => ({
    path: (issue.path ?? []).reduce<string>((path, segment) => {
      const key = typeof segment === "object" ? segment.key : segment
      return typeof key === "number"
        ? `${path}[${key}]`
        : path === ""
          ? String(key)
          : `${path}.${String(key)}`
    }, ""),
    message: issue.message
  }))

/** The same in one line. */
export const issuesSentence = (issues: ReadonlyArray<Issue>): string =>
  issues.map(({ message, path }) => (path === "" ? message : `${message} at "${path}"`)).join("; ")

/**
 * The payload doesn't fit the job's schema. `issues` has a path (`items[0].email`; empty for the payload
 * itself) and what was expected there; the rejected values are not in it.
 */
export class InvalidPayload extends Schema.TaggedError<InvalidPayload>()("InvalidPayload", {
  job: Schema.String,
  /** The id of a message that came in; a payload that is refused when it is dispatched has none yet. */
  id: Schema.optionalKey(Schema.String),
  issues: Schema.Array(Schema.Struct({ path: Schema.String, message: Schema.String }))
}) {
  static fromIssue(job: string, root: SchemaIssue.Issue, id?: string): InvalidPayload {
    const issues = issuesOf(root)
    return new InvalidPayload(id === undefined ? { job, issues } : { job, id, issues })
  }
  /** Where the first problem is: `items[0].email`. */
  get path(): string {
    return this.issues[0]?.path ?? ""
  }
  override get message(): string {
    return this.id === undefined
      ? `The payload for "${this.job}" is invalid: ${issuesSentence(this.issues)}.`
      : `The message "${this.id}" for "${this.job}" has an invalid payload: ${issuesSentence(this.issues)}.`
  }
}

/** An option of the dispatch is invalid: an id that is empty or too long, a delay that is negative or infinite. */
export class InvalidOption extends Schema.TaggedError<InvalidOption>()("InvalidOption", {
  job: Schema.String,
  option: Schema.Literals(["id", "delay", "at"]),
  issue: Schema.String
}) {
  override get message(): string {
    return `"${this.job}" can't be dispatched with this ${this.option}: ${this.issue}.`
  }
}

/** The dispatcher has a list of jobs, and this one isn't in it. */
export class UnknownJob extends Schema.TaggedError<UnknownJob>()("UnknownJob", {
  job: Schema.String,
  dispatcher: Schema.String
}) {
  override get message(): string {
    return `"${this.job}" is not in the list of jobs given to ${this.dispatcher}: add it there, with its handler.`
  }
}

/** The engine couldn't be reached or couldn't answer. The same dispatch may work later; an id makes it safe to repeat. */
export class Unavailable extends Schema.TaggedError<Unavailable>()("Unavailable", {
  job: Schema.String,
  engine: Schema.String,
  detail: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    return `"${this.job}" couldn't be dispatched now, ${this.engine} is unavailable: ${this.detail}.`
  }
}

/** The engine refused the message, and would refuse it again: a wrong key, a malformed request. */
export class Rejected extends Schema.TaggedError<Rejected>()("Rejected", {
  job: Schema.String,
  engine: Schema.String,
  /** The HTTP status, where there is one. */
  status: Schema.optionalKey(Schema.Int),
  detail: Schema.String
}) {
  override get message(): string {
    const status = this.status === undefined ? "" : ` with status ${this.status}`
    return `"${this.job}" was rejected by ${this.engine}${status}: ${this.detail}.`
  }
}

/** The message is larger than the engine takes. Sizes are in bytes. Put large data elsewhere, and send its key. */
export class PayloadTooLarge extends Schema.TaggedError<PayloadTooLarge>()("PayloadTooLarge", {
  job: Schema.String,
  engine: Schema.String,
  size: Schema.Int,
  limit: Schema.Int
}) {
  override get message(): string {
    return `The message for "${this.job}" has ${this.size} bytes, more than the ${this.limit} that ${this.engine} takes.`
  }
}

/** Why a dispatch failed. */
export const DispatchReason = Schema.Union([
  InvalidPayload,
  InvalidOption,
  UnknownJob,
  Unavailable,
  Rejected,
  PayloadTooLarge
])
export type DispatchReason = typeof DispatchReason.Type

/**
 * A dispatch failed; unless it is `Unavailable`, nothing was sent. `reason` says why, and can be caught alone with
 * `Effect.catchReason("DispatchError", "InvalidPayload", …)`.
 */
export class DispatchError extends Schema.TaggedError<DispatchError>()("DispatchError", {
  reason: DispatchReason
}) {
  static of(reason: DispatchReason): DispatchError {
    return new DispatchError({ reason })
  }
  override get message(): string {
    return this.reason.message
  }
  /** Whether the same dispatch may work later: true for `Unavailable`. */
  get isRetryable(): boolean {
    return this.reason._tag === "Unavailable"
  }
}
