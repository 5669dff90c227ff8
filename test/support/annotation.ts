import { Context } from "effect"

/** An annotation, as an engine would have one. */
export class Fixed extends Context.Service<Fixed, number>()("test/Fixed") {}
