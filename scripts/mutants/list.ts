/** A change of one file that makes it wrong: `find`, which is there exactly once, becomes `replace`. */
export interface Mutant {
  readonly name: string
  readonly file: string
  readonly find: string
  readonly replace: string
  /** Tests that must notice it, beside the conformance suites. */
  readonly tests?: ReadonlyArray<string>
}

const dispatching: ReadonlyArray<Mutant> = [
  {
    name: "the delay of a publish is ignored",
    file: "src/internal/dispatching.ts",
    find: `          queue: target.queue,
          notBefore,
          message:`,
    replace: `          queue: target.queue,
          notBefore: kind === "event" ? undefined : notBefore,
          message:`
  },
  {
    name: "the delay of the second payload of dispatchAll is ignored",
    file: "src/internal/dispatching.ts",
    find: "Effect.mapEager(notBefore(target, now, options), (notBefore) => {",
    replace: "Effect.mapEager(notBefore(target, now, index === 0 ? options : {}), (notBefore) => {"
  },
  {
    name: "publishAll publishes the first payload alone",
    file: "src/DomainEvent.ts",
    find: "publishAll: all",
    replace:
      "publishAll: (payloads: ReadonlyArray<unknown>, options?: DispatchAllOptions<never>) => all(payloads.slice(0, 1), options)"
  },
  {
    name: "publishAll drops its options",
    file: "src/DomainEvent.ts",
    find: "publishAll: all",
    replace: "publishAll: (payloads: ReadonlyArray<unknown>) => all(payloads)"
  },
  {
    name: "a dispatch from within a run has a new id each time",
    file: "src/internal/dispatching.ts",
    find: "        ? Effect.succeed(crypto.randomUUID())",
    replace:
      "        ? Effect.succeed(crypto.randomUUID()) : Math.random() > -1 ? Effect.succeed(crypto.randomUUID())"
  }
]

const engine: ReadonlyArray<Mutant> = [
  {
    name: "a second delayed dispatch of an id makes a second run",
    file: "src/layers/inprocess/Engine.ts",
    find: "  if (self.runs.has(key) || self.ids.has(key",
    replace: "  if ((options.delay === 0 && self.runs.has(key)) || self.ids.has(key"
  },
  {
    name: "an id is forgotten when its run has ended",
    file: "src/layers/inprocess/Engine.ts",
    find: "  if (run.isRemembered && Exit.isSuccess(exit)) {",
    replace: "  if (run.isRemembered && Exit.isFailure(exit)) {"
  },
  {
    name: "an id belongs to all jobs",
    file: "src/layers/inprocess/Engine.ts",
    find: "=> `${name} ${id}`",
    replace: '=> `${name === "" ? "" : id}`'
  },
  {
    name: "attempts share a payload",
    file: "src/layers/inprocess/Engine.ts",
    find: 'payload: JSON.parse(text) as JobMessage["payload"] })',
    replace: "payload: text === undefined ? text : message.payload })"
  },
  {
    name: "the pause before a retry isn't waited for",
    file: "src/layers/inprocess/Engine.ts",
    find: "Effect.flatMap(self.sleep(outcome.delay), () => from(attempt + 1))",
    replace: "from(attempt + 1)"
  },
  {
    name: "an event reaches the first of its listeners alone",
    file: "src/layers/inprocess/Engine.ts",
    find: "return runner.listeners(message.name).map(",
    replace: "return runner.listeners(message.name).slice(0, 1).map("
  }
]

const attempts: ReadonlyArray<Mutant> = [
  {
    name: "while is asked about defects",
    file: "src/RetryPolicy.ts",
    find: "if (Option.isSome(error) && policy.while?.(error.value) === false) {",
    replace: "if (policy.while?.((Option.isSome(error) ? error.value : {}) as E) === false) {"
  },
  {
    name: "there is one attempt more than the policy says",
    file: "src/RetryPolicy.ts",
    find: "    if (attempt >= policy.attempts) {",
    replace: "    if (attempt > policy.attempts) {"
  },
  {
    name: "the pause that an error names is ignored",
    file: "src/RetryPolicy.ts",
    find: "    if (named !== undefined && ",
    replace: "    if (named === null && "
  },
  {
    name: "a payload that doesn't decode is retried",
    file: "src/Attempt.ts",
    find: `  if (progress.phase === "decode") return Effect.succeed(undecodable(self, cause))
`,
    replace: "",
    tests: ["test/Attempt.test.ts"]
  },
  {
    name: "onFailure isn't called",
    file: "src/Attempt.ts",
    find: "  if (run === undefined) return Effect.void",
    replace: "  if (run !== null) return Effect.void"
  },
  {
    name: "the Scope of a failed attempt stays open",
    file: "src/Attempt.ts",
    find: `scope.state._tag === "Empty" ?`,
    replace: `scope.state._tag === "Empty" || Exit.isFailure(exit) ?`
  },
  {
    name: "the span of an attempt begins a trace of its own",
    file: "src/Attempt.ts",
    find: `  const parent = TraceParent.toSpan(message.trace)
  return Effect.useSpan(`,
    replace: `  const parent = TraceParent.toSpan(message.trace === undefined ? message.trace : undefined)
  return Effect.useSpan(`
  },
  {
    name: "a timeout isn't kept",
    file: "src/internal/limited.ts",
    find: "  yield* Effect.sleep(limit)",
    replace: "  yield* Effect.never"
  },
  {
    name: "CurrentRun says that each attempt is the first",
    file: "src/internal/RunContext.ts",
    find: `    job: job.jobName,
    attempt,
    maxAttempts`,
    replace: `    job: job.jobName,
    attempt: 1,
    maxAttempts`
  }
]

const steps: ReadonlyArray<Mutant> = [
  {
    name: "an activity that failed is never tried again",
    file: "src/internal/StepEngine.ts",
    find: "if (!again) return new Complete({ exit })",
    replace: "if (!again || time > 0) return new Complete({ exit })"
  },
  {
    name: "a second completion overwrites the first",
    file: "src/internal/RunRecords.ts",
    find: "Effect.flatMap(run(completionId(name), Effect.succeed(exit)), (first) =>",
    replace: "Effect.flatMap(Effect.as(records.set(completionId(name), exit), exit), (first) =>"
  },
  {
    name: "what has finished is done again",
    file: "src/internal/RunRecords.ts",
    find: "        ? Effect.succeed(recorded.value)\n        : Effect.tap",
    replace: "        ? execute\n        : Effect.tap"
  },
  {
    name: "a durable sleep is slept again by each attempt",
    file: "src/internal/RunRecords.ts",
    find: "yield* around(Effect.sleep(Duration.millis(wakeAt - now)), wakeAt)",
    replace: "yield* around(Effect.sleep(duration)); else yield* Effect.sleep(duration)",
    tests: ["test/Steps.test.ts"]
  },
  {
    name: "nobody hears of a completion",
    file: "src/internal/RunRecords.ts",
    find: "        Deferred.succeed(deferredOf(name), first)",
    replace: "        first === undefined ? Deferred.succeed(deferredOf(name), first) : Effect.void"
  }
]

export const mutants: ReadonlyArray<Mutant> = [...dispatching, ...engine, ...attempts, ...steps]
