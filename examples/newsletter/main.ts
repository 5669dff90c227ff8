import { join } from "node:path"
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Console, Effect, Layer, Stream, Struct } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { dispatchers } from "./dispatchers.ts"
import { handlers } from "./handlers.ts"
import { PostPublished, SendWelcome } from "./jobs.ts"
import { Mailer } from "./Mailer.ts"
import { Subscribers } from "./Subscribers.ts"
import { Summary } from "./Summary.ts"

const options = {
  file: Argument.File("file", { mustExist: true }).pipe(
    Argument.withDescription("The subscribers: a CSV file with the columns email, name and joinedAt"),
    Argument.withDefault(join(import.meta.dirname, "subscribers.csv"))
  ),
  dispatcher: Flag.Literals("dispatcher", Struct.keys(dispatchers)).pipe(
    Flag.withDescription("What runs the jobs"),
    Flag.withDefault("inline")
  ),
  out: Flag.Directory("out").pipe(
    Flag.withDescription("The folder for the mails"),
    Flag.withDefault(join(import.meta.dirname, "out"))
  )
}

interface Options {
  readonly dispatcher: keyof typeof dispatchers
  readonly file: string
  readonly out: string
}

/** The jobs and what they need, on the engine that was asked for. */
const app = ({ dispatcher, file, out }: Options) =>
  dispatchers[dispatcher].pipe(
    Layer.provide(handlers),
    Layer.provideMerge(Layer.mergeAll(Mailer.layer(out), Subscribers.layer(file))),
    Layer.provideMerge(Layer.provideMerge(Summary.printed, Summary.layer))
  )

/** Waits for the runs that follow from what was dispatched, and says how they ended. */
const report = Effect.fn(function* ({ out }: Options) {
  const summary = yield* Summary
  yield* summary.settled
  yield* Console.log(yield* summary.report)
  yield* Console.log(`The mails are in ${out}`)
})

const welcome = Effect.fn(function* (options: Options) {
  const subscribers = yield* Subscribers
  const summary = yield* Summary
  yield* subscribers.all.pipe(
    Stream.grouped(100),
    Stream.mapEffect((group) => SendWelcome.dispatchAll(group), { concurrency: 10, unordered: true }),
    Stream.runForEach(summary.accepted)
  )
  yield* report(options)
})

const publish = Effect.fn(function* ({ title, ...options }: Options & { readonly title: string }) {
  const summary = yield* Summary
  const issue = title.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-")
  yield* summary.accepted([yield* PostPublished.publish({ issue, title }, { id: issue })])
  yield* report(options)
})

const schedule = Effect.fn(function* () {
  yield* Console.log("The weekly digest goes out on Mondays at 9:00 in London. Stop with Ctrl-C.")
  yield* Effect.never
})

Command.make("newsletter", options, welcome).pipe(
  Command.withDescription("Welcome every subscriber"),
  Command.provide(app),
  Command.withSubcommands([
    Command.make("publish", { title: Argument.String("title"), ...options }, publish).pipe(
      Command.withDescription("Publish an issue of the newsletter: every subscriber gets it"),
      Command.provide((options) => app(options))
    ),
    Command.make("schedule", options, schedule).pipe(
      Command.withDescription("Stay, and send the weekly digest when it is due"),
      Command.provide(app)
    )
  ]),
  Command.run({ version: "1.0.0" }),
  Effect.provide(NodeServices.layer),
  NodeRuntime.runMain
)
