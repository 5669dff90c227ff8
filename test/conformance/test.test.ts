import { conformance } from "effect-jobs/conformance"
import { TestDispatcher } from "effect-jobs/testing"

conformance({
  name: "TestDispatcher.layerRunning",
  clock: "test",
  layer: (jobs) => TestDispatcher.layerRunning(jobs)
})
