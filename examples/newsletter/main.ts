import { join } from "node:path"
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Console, Effect, Layer, Stream, Struct } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { DeadLetters } from "effect-jobs/queue"
import { Database } from "./Database.ts"
import * as DeadLettersOf from "./deadLetters.ts"
import { dispatchers, type Engine, queue, type Where } from "./dispatchers.ts"
import { handlers } from "./handlers.ts"
import { ImportSubscribers, PostPublished, SendWelcome } from "./jobs.ts"
import { Mailer } from "./Mailer.ts"
import { Registry } from "./Registry.ts"
import { signUp } from "./signUp.ts"
import { Subscribers } from "./Subscribers.ts"
import { Summary } from "./Summary.ts"

const here = (name: string) => join(import.meta.dirname, name)

const options = {
  file: Argument.File("file", { mustExist: true }).pipe(
    Argument.withDescription("The subscribers: a CSV file with the columns email, name and joinedAt"),
    Argument.withDefault(here("subscribers.csv"))
  ),
  dispatcher: Flag.Literals("dispatcher", Struct.keys(dispatchers)).pipe(
    Flag.withDescription("What runs the jobs"),
    Flag.withDefault("inline")
  ),
  out: Flag.Directory("out").pipe(
    Flag.withDescription("The folder for the mails"),
    Flag.withDefault(here("out"))
  ),
  data: Flag.Directory("data").pipe(
    Flag.withDescription("The folder of the queue's database"),
    Flag.withDefault(here("data"))
  ),
  server: Flag.String("server").pipe(
    Flag.withDescription("The address of the Inngest dev server"),
    Flag.withDefault("http://127.0.0.1:8288")
  )
}

interface Options extends Where {
  readonly dispatcher: keyof typeof dispatchers
  readonly file: string
  readonly out: string
}

/** The jobs and what they need, on the engine that was asked for. */
const app = ({ dispatcher, file, out, ...where }: Options) => {
  const engine: Engine = dispatchers[dispatcher](where)
  return engine.pipe(
    Layer.provide(handlers),
    Layer.provideMerge(
      Layer.mergeAll(
        Mailer.layer(out),
        Subscribers.layer(file),
        dispatcher === "queue"
          ? Layer.provide(Registry.layerSql, Database.layer(where.data))
          : Registry.layerCounting
      )
    ),
    Layer.provideMerge(Layer.provideMerge(Summary.printed, Summary.layer))
  )
}

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

const importFile = Effect.fn(function* (options: Options & { readonly batch: number }) {
  const summary = yield* Summary
  yield* summary.accepted([yield* ImportSubscribers.dispatch({ file: options.file, batch: options.batch })])
  yield* report(options)
})

const inQueue = { data: options.data }
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
    ),
    Command.make(
      "import",
      {
        ...options,
        batch: Flag.Int("batch").pipe(
          Flag.withDescription("How many subscribers are written at once"),
          Flag.withDefault(1_000)
        )
      },
      importFile
    ).pipe(
      Command.withDescription("Import the file as one job with durable steps, a batch each"),
      Command.provide((options) => app(options))
    ),
    Command.make(
      "sign-up",
      {
        email: Argument.String("email"),
        name: Argument.String("name"),
        fail: Flag.Boolean("fail").pipe(
          Flag.withDescription("Fail after the dispatch: neither row nor mail is left"),
          Flag.withDefault(false)
        ),
        ...inQueue
      },
      (options) =>
        Effect.flatMap(signUp(options), ({ id }) =>
          Console.log(`Signed up; the mail (${id}) goes out with the next worker on the queue.`)
        )
    ).pipe(
      Command.withDescription(
        "Write a subscriber and dispatch the mail, in one transaction of the queue's database"
      ),
      Command.provide(({ data }) => queue(data))
    ),
    Command.make("batches", inQueue, () =>
      Effect.flatMap(Registry, ({ counted }) => Effect.flatMap(counted, Console.log))
    ).pipe(
      Command.withDescription("What the imports have written"),
      Command.provide(({ data }) => Layer.provide(Registry.layerSql, Database.layer(data)))
    ),
    Command.make("dead-letters").pipe(
      Command.withDescription("What has failed for good on the queue"),
      Command.withSubcommands(
        (
          [
            ["list", DeadLettersOf.list],
            ["retry", DeadLettersOf.retry],
            ["discard", DeadLettersOf.discard]
          ] as const
        ).map(([name, run]) =>
          Command.make(name, inQueue, () => run).pipe(
            Command.provide(({ data }) => Layer.provide(DeadLetters.layer(), Database.layer(data)))
          )
        )
      )
    )
  ]),
  Command.run({ version: "1.0.0" }),
  Effect.provide(NodeServices.layer),
  NodeRuntime.runMain
)
