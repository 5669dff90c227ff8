import { NodeFileSystem, NodeStream } from "@effect/platform-node"
import { type CsvError, type Info, parse } from "csv-parse"
import { type Cause, Context, Effect, FileSystem, Layer, type PlatformError, Schema, Stream } from "effect"
import { Subscriber } from "./model.ts"
import { Summary } from "./Summary.ts"

type Read = Stream.Stream<Subscriber, PlatformError.PlatformError | Cause.UnknownError>

const decode = Schema.decodeUnknownEffect(Subscriber)

/** The subscribers of a CSV file, read as they are asked for. What isn't one goes to the Summary, with its line. */
const read = (
  file: string
): Stream.Stream<Subscriber, PlatformError.PlatformError | Cause.UnknownError, Summary> =>
  Stream.unwrap(
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const summary = yield* Summary
      const skipped: Array<CsvError> = []
      const parser = () =>
        parse({
          bom: true,
          columns: true,
          info: true,
          relax_quotes: true,
          skip_empty_lines: true,
          skip_records_with_error: true,
          on_skip: (error) => {
            if (error !== undefined) skipped.push(error)
            return undefined
          }
        })
      return fs.stream(file).pipe(
        NodeStream.pipeThroughDuplex<Parsed>({ evaluate: parser }),
        Stream.mapEffect(({ info, record }) =>
          Effect.matchEffect(decode(record), {
            onSuccess: (subscriber) => Effect.succeed([subscriber]),
            onFailure: (error) => Effect.as(summary.refused(info.lines, error.message), [])
          })
        ),
        Stream.flattenIterable,
        Stream.ensuring(
          Effect.suspend(() =>
            Effect.forEach(skipped, (error) => summary.refused(Number(error.lines), error.message))
          )
        )
      )
    }).pipe(Effect.provide(NodeFileSystem.layer))
  )

/** The file that the command was given; `read` for any other. */
export class Subscribers extends Context.Service<Subscribers, { readonly all: Read }>()(
  "newsletter/Subscribers"
) {
  static readonly read = read

  static layer(file: string): Layer.Layer<Subscribers, never, Summary> {
    return Layer.effect(
      Subscribers,
      Effect.map(Summary, (summary) => ({ all: Stream.provideService(read(file), Summary, summary) }))
    )
  }
}

/** What csv-parse gives for a line with its `info` option. */
interface Parsed {
  readonly record: unknown
  readonly info: Info
}
