/**
 * Makes contracts, for `Job`, `DomainEvent`, `Listener` and `CronJob`. A contract is a class, so that
 * `class X extends Job.make(…) {}` is a value and a type. Its verbs are closures, so that they work unbound.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as SchemaAST from "effect/SchemaAST"
import type * as SchemaIssue from "effect/SchemaIssue"
import * as SchemaParser from "effect/SchemaParser"
import { DefinitionError } from "../DefinitionError.ts"
import type { Dispatchable, DispatchAllOptions, DispatchOptions, PayloadCodec } from "../Dispatcher.ts"
import type * as Job from "../Job.ts"
import * as RetryPolicy from "../RetryPolicy.ts"
import { checkedDuration } from "./checks.ts"
import { dispatchAll, dispatchOne } from "./dispatching.ts"
import { ownServices, runOnce } from "./RunContext.ts"

export const JobTypeId: unique symbol = Symbol.for("effect-jobs/Job")

/** Every name that travels: jobs, listeners, cron jobs and domain events. */
const namePattern = /^[a-z0-9]+(?:[._/-][a-z0-9]+)*$/

/** PersistedQueue's queue names hold 255 characters on Postgres; this leaves room for a prefix. */
const maxNameLength = 200

/** The name, or a refusal in one sentence. */
export const checkedName = <Name extends string>(name: Name, kind: string): Name => {
  if (typeof name !== "string" || !namePattern.test(name)) {
    throw new DefinitionError({
      message: `${JSON.stringify(name)} can't be the name of a ${kind}: use words of a-z and 0-9 joined by ".", "-", "_" or "/", as in "mail.welcome".`
    })
  }
  if (name.length > maxNameLength) {
    throw new DefinitionError({
      message: `The name of a ${kind} has at most ${maxNameLength} characters, and "${name.slice(0, 40)}…" has ${name.length}.`
    })
  }
  return name
}

/** Struct fields, or a schema whose JSON is an object, as a schema; or a refusal in one sentence. */
export const checkedPayload = (payload: unknown, kind: string, name: string): Schema.Top => {
  if (Schema.isSchema(payload)) {
    // sound: `Top` is what every schema is
    if (encodesToObject(SchemaAST.toEncoded(payload.ast))) return payload
  } else if (
    typeof payload === "object" &&
    payload !== null &&
    Object.values(payload).every((field) => Schema.isSchema(field))
  ) {
    // sound: a record of schemas is what struct fields are
    return Schema.Struct(payload as Schema.Struct.Fields)
  }
  throw new DefinitionError({
    message: `The payload of the ${kind} "${name}" must be struct fields, or a schema whose JSON is an object, as in { email: Schema.String }.`
  })
}

/** A recursive part isn't looked into: if it is no object, encoding fails. */
const encodesToObject = (ast: SchemaAST.AST): boolean => {
  switch (ast._tag) {
    case "Objects":
    case "Suspend":
      return true
    case "Union":
      return ast.types.length > 0 && ast.types.every((member) => encodesToObject(SchemaAST.toEncoded(member)))
    default:
      return false
  }
}

/** The queue of jobs that name none. */
export const defaultQueue = "default"

/** The dispatchable part of a contract; its codecs are made when first used. */
export const dispatchable = <Payload extends Schema.Top>(options: {
  readonly kind: "job" | "event"
  readonly name: string
  readonly payloadSchema: Payload
  readonly queue: string
  readonly idempotencyKey: ((payload: never) => string) | undefined
}): Dispatchable<Payload["EncodingServices"]> => {
  let codec: PayloadCodec<Payload["EncodingServices"]> | undefined
  return {
    kind: options.kind,
    name: options.name,
    queue: options.queue,
    idempotencyKey: options.idempotencyKey,
    get codec() {
      return (codec ??= payloadCodec(options.payloadSchema))
    }
  }
}

const payloadCodec = <Payload extends Schema.Top>(
  schema: Payload
): PayloadCodec<Payload["EncodingServices"]> => {
  const json = Schema.toCodecJson(schema)
  return {
    make: withAllIssues((input, parseOptions) => schema.makeEffect(input, { parseOptions })),
    encode: withAllIssues(SchemaParser.encodeUnknownEffect(json)),
    decode: withAllIssues(SchemaParser.decodeUnknownEffect(json))
  }
}

const allIssues: SchemaAST.ParseOptions = { errors: "all" }

/** Effect has a faster way to parse up to the first issue; an input with one is parsed again, for all of them. */
const withAllIssues =
  <A, R>(
    parse: (input: unknown, options?: SchemaAST.ParseOptions) => Effect.Effect<A, SchemaIssue.Issue, R>
  ) =>
  (input: unknown): Effect.Effect<A, SchemaIssue.Issue, R> =>
    Effect.catchEager(parse(input), () => parse(input, allIssues))

/** The verbs of whatever is dispatched. An absent payload is an empty one. */
export const dispatchVerbs = (target: Dispatchable) => ({
  one: (payload: unknown = {}, options?: DispatchOptions) => dispatchOne(target, payload, options ?? {}),
  all: (payloads: ReadonlyArray<unknown>, options?: DispatchAllOptions<never>) =>
    dispatchAll(target, payloads, options ?? {})
})

/** The values of a contract. */
type Definition = Omit<Job.Any, typeof JobTypeId>

/** The class of a contract: its values, and its verbs as closures over them. */
const contract = (definition: Definition): unknown => {
  const { one, all } = dispatchVerbs(definition.target)
  function Contract() {}
  return Object.assign(Contract, definition, {
    [JobTypeId]: JobTypeId,
    dispatch: one,
    dispatchAll: all,
    run: (input: unknown = {}) => runOnce(definition, input),
    toLayer: (
      handler: Job.HandlerService["run"],
      options?: Job.HandlerOptions<unknown, unknown, Job.Provided>
    ) =>
      Layer.effect(
        definition.handler,
        Effect.map(Effect.context<never>(), (context): Job.HandlerService => ({
          run: handler,
          onFailure: options?.onFailure,
          context: ownServices(context),
          target: definition.target
        }))
      ),
    // the class that it is called on, with its own statics, is the prototype of the annotated one
    annotate(this: (Definition & object) | undefined, key: Context.Key<unknown, unknown>, value: unknown) {
      // sound: unbound it is the contract itself, which has had its values put onto it
      const base = this ?? (Contract as unknown as Definition)
      function Annotated() {}
      Object.setPrototypeOf(Annotated, base)
      return Object.assign(Annotated, { annotations: Context.add(base.annotations, key, value) })
    }
  })
}

/** Checks the options of `make` and makes the contract, for `Job`, `Listener` and `CronJob`. */
export const makeContract = (
  kind: "job" | "listener" | "cron job" | "workflow",
  name: string,
  options: Job.Options<Schema.Top, Schema.Top> & {
    readonly trigger: Job.Trigger
    readonly payload: unknown
    readonly idempotencyKey?: ((payload: never) => string) | undefined
  }
): unknown => {
  // the names of workflows are given by other rules
  const jobName = kind === "workflow" ? name : checkedName(name, kind)
  const payloadSchema = checkedPayload(options.payload, kind, jobName)
  return contract({
    jobName,
    trigger: options.trigger,
    payloadSchema,
    successSchema: options.success ?? Schema.Void,
    errorSchema: options.error ?? Schema.Defect(),
    retry: options.retry === undefined ? RetryPolicy.none : RetryPolicy.make(options.retry),
    queue: options.queue === undefined ? defaultQueue : checkedName(options.queue, "queue"),
    timeout: checkedTimeout(options.timeout, `The timeout of the ${kind} "${jobName}"`),
    annotations: options.annotations ?? Context.empty(),
    handler: Context.Service<never, Job.HandlerService>(`effect-jobs/Job/Handler/${jobName}`),
    target: dispatchable({
      kind: "job",
      name: jobName,
      queue: options.queue ?? defaultQueue,
      payloadSchema,
      idempotencyKey: options.idempotencyKey
    })
  })
}

const checkedTimeout = (timeout: Duration.Input | undefined, what: string): Duration.Duration | undefined => {
  if (timeout === undefined) return undefined
  const checked = checkedDuration(timeout, what)
  if (Duration.isZero(checked)) {
    throw new DefinitionError({ message: `${what} must be longer than nothing.` })
  }
  return checked
}
