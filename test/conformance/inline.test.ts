import { InlineDispatcher } from "effect-jobs"
import { conformance } from "effect-jobs/conformance"

conformance({ name: "InlineDispatcher", clock: "test", layer: (jobs) => InlineDispatcher.layer(jobs) })

conformance({
  name: "InlineDispatcher in the background",
  clock: "test",
  layer: (jobs) => InlineDispatcher.layer(jobs, { background: true })
})
