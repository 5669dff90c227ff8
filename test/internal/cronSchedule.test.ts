import { assert, describe, it } from "@effect/vitest"
import { CronJob, DefinitionError } from "effect-jobs"
import { Cron as Croner } from "croner"
import { Cron, Schema } from "effect"
import { parse } from "../../src/internal/cronSchedule.ts"

const scheduleOf = (cron: string, timeZone?: string) => {
  const { trigger } = CronJob.make("a", { cron, timeZone })
  assert(trigger._tag === "Cron")
  return trigger
}
const expressionOf = (cron: string) => scheduleOf(cron).expression
const refusal = (cron: string, timeZone?: string) => {
  try {
    CronJob.make("a", { cron, timeZone })
  } catch (error) {
    assert.instanceOf(error, DefinitionError)
    return error.message
  }
  return "accepted"
}

describe("expressions that engines get", () => {
  for (const [written, normal] of [
    ["0 9 * * 1-5", "0 9 * * 1-5"],
    ["*/15 * * * *", "*/15 * * * *"],
    ["  0  9\t* * *\n", "0 9 * * *"],
    ["00 09 01 01 *", "0 9 1 1 *"],
    // Sunday
    ["0 0 * * 7", "0 0 * * 0"],
    ["0 0 * * 0,7", "0 0 * * 0"],
    ["0 0 * * 5-7", "0 0 * * 0,5,6"],
    ["0 0 * * 0-7", "0 0 * * 0,1,2,3,4,5,6"],
    ["0 0 * * 7-7", "0 0 * * 0"],
    ["0 0 * * 3-7/2", "0 0 * * 0,3,5"],
    ["0 0 * * 1/2", "0 0 * * 1-6/2"],
    ["0 0 * * */2", "0 0 * * */2"],
    // names, in any case
    ["0 0 * * MON", "0 0 * * 1"],
    ["0 0 * * sun,Wed", "0 0 * * 0,3"],
    ["0 0 * JAN-mar MON-FRI", "0 0 * 1-3 1-5"],
    ["0 0 * Feb,12 *", "0 0 * 2,12 *"],
    ["0 0 * * FRI-SUN", "0 0 * * 0,5,6"],
    ["0 0 * * Mon-Sun/2", "0 0 * * 0,1,3,5"],
    ["0 0 * * SUN-TUE", "0 0 * * 0-2"],
    ["0 0 * * SUN-SUN", "0 0 * * 0"],
    // stars
    ["*/1 */1 */1 */1 */1", "* * * * *"],
    ["*,5 5,* * * *", "* * * * *"],
    ["0 0 ? * 1", "0 0 * * 1"],
    ["0 0 1 * ?", "0 0 1 * *"],
    // steps
    ["5/15 * * * *", "5-59/15 * * * *"],
    ["10-20/1 * * * *", "10-20 * * * *"],
    ["5-5/3 * * * *", "5 * * * *"],
    ["0 */6 * * *", "0 */6 * * *"],
    ["1,1,2 * * * *", "1,2 * * * *"],
    // a day of the month or a day of the week
    ["0 0 1,15 * 1", "0 0 1,15 * 1"],
    ["0 0 1-7 * MON", "0 0 1-7 * 1"],
    ["0 0 */10 * *", "0 0 */10 * *"],
    ["0 0 */1 * MON", "0 0 * * 1"],
    // as in crontab(5)
    ["@yearly", "0 0 1 1 *"],
    ["@annually", "0 0 1 1 *"],
    ["@monthly", "0 0 1 * *"],
    ["@weekly", "0 0 * * 0"],
    [" @Daily ", "0 0 * * *"],
    ["@midnight", "0 0 * * *"],
    ["@hourly", "0 * * * *"]
  ] as const) {
    it(`${JSON.stringify(written)} is ${normal}`, () => {
      assert.strictEqual(expressionOf(written), normal)
      assert.strictEqual(expressionOf(normal), normal)
    })
  }

  for (const [written, reason] of [
    ["", "five fields"],
    ["* * * *", "five fields"],
    ["0 0 9 * * *", "five fields"],
    ["@reboot", "five fields"],
    ["@every 1h", "five fields"],
    ["TZ=UTC 0 9 * * *", "five fields"],
    ["60 * * * *", "Expected a value between 0 and 59"],
    ["0 24 * * *", "Expected a value between 0 and 23"],
    ["0 0 0 * *", "Expected a value between 1 and 31"],
    ["0 0 32 * *", "Expected a value between 1 and 31"],
    ["0 0 * 13 *", "Expected a value between 1 and 12"],
    ["0 0 * * 8", "Expected a value between 0 and 7"],
    ["99999999999999999999 * * * *", "Expected a value between 0 and 59"],
    ["-5 * * * *", "neither"],
    ["+5 * * * *", "neither"],
    ["1.5 * * * *", "neither"],
    ["1,,2 * * * *", "neither"],
    [",1 * * * *", "neither"],
    ["1, * * * *", "neither"],
    ["1-2-3 * * * *", "neither"],
    ["1-* * * * *", "neither"],
    ["*-5 * * * *", "neither"],
    ["*/ * * * *", "neither"],
    ["/5 * * * *", "neither"],
    ["*/5/5 * * * *", "neither"],
    ["** * * * *", "neither"],
    ["*5 * * * *", "neither"],
    ["? * * * *", "neither"],
    ["0 0 L * *", "no value of its field"],
    ["0 0 15W * *", "no value of its field"],
    ["0 0 * * 5L", "no value of its field"],
    ["0 0 * * 1#2", "neither"],
    ["0 0 * * MONDAY", "no value of its field"],
    ["0 0 * * JAN", "no value of its field"],
    ["0 MON * * *", "no value of its field"],
    ["１ * * * *", "neither"],
    ["*/0 * * * *", "a step must be from 1 to 59"],
    ["*/60 * * * *", "a step must be from 1 to 59"],
    ["0 22-4 * * *", 'write two ranges, as in "22-23,0-4"'],
    ["0 0 * * 5-0", "write two ranges"],
    ["0 0 * * SAT-MON", "write two ranges"],
    ["0 0 * * 7/2", "write two ranges"],
    ["0 0 */10 * 1-5", "list the days"],
    ["0 0 1,*/10 * 1-5", "list the days"],
    ["0 0 1 * */2", "list the days"],
    ["0 0 30 2 *", "no date fits it"],
    ["0 0 31 4,6,9,11 *", "no date fits it"],
    [
      `${Array.from({ length: 60 }, (_, minute) => `${minute}-59`).join(",")} * * * *`,
      "more than 200 characters"
    ]
  ] as const) {
    it(`${JSON.stringify(written.slice(0, 30))} is refused in one sentence`, () => {
      const sentence = refusal(written)
      assert.include(sentence, reason)
      assert.match(sentence, /^".*" can't be the schedule of the cron job "a": .*\.$|… can't be the schedule/)
    })
  }

  it("what is no text is refused in one sentence", () => {
    for (const wrong of [undefined, null, 5, {}, ["0 9 * * *"]]) {
      assert.include(refusal(wrong as never), "can't be the schedule")
    }
    for (const wrong of [null, 5, {}, true]) {
      assert.include(refusal("0 9 * * *", wrong as never), "can't be the time zone")
    }
  })

  it("other options are refused in one sentence", () => {
    const wrong = { cron: "0 9 * * *", catchUp: true, overlap: "queue" }
    assert.throws(
      () => CronJob.make("a", wrong as never),
      'The catchUp of the cron job "a" must be "once" or left out, not true.'
    )
    assert.throws(
      () => CronJob.make("a", { ...wrong, catchUp: undefined } as never),
      'The overlap of the cron job "a" must be "skip" or left out, not "queue".'
    )
  })

  it("the trigger has the options that were given", () => {
    const { trigger } = CronJob.make("a", {
      cron: "@daily",
      timeZone: "europe/london",
      catchUp: "once",
      overlap: "skip"
    })
    assert.deepInclude(trigger, {
      _tag: "Cron",
      expression: "0 0 * * *",
      timeZone: "Europe/London",
      catchUp: "once",
      overlap: "skip"
    })
  })
})

describe("time zones that engines get", () => {
  for (const [written, normal] of [
    ["Europe/London", "Europe/London"],
    ["europe/london", "Europe/London"],
    ["EUROPE/LONDON", "Europe/London"],
    ["america/port-au-prince", "America/Port-au-Prince"],
    ["utc", "UTC"],
    ["UTC", "UTC"],
    ["Etc/GMT-2", "Etc/GMT-2"],
    ["etc/gmt-2", "Etc/GMT-2"],
    ["Asia/Kolkata", "Asia/Kolkata"],
    ["US/Pacific", "America/Los_Angeles"]
  ] as const) {
    it(`${written} is ${normal}`, () => {
      assert.strictEqual(scheduleOf("0 9 * * *", written).timeZone, normal)
    })
  }
  it("the default is left to the engine, which is UTC", () => {
    assert.isUndefined(scheduleOf("0 9 * * *").timeZone)
  })
  for (const wrong of [
    "+02:00",
    "-05:00",
    "GMT+2",
    "gmt-2",
    "UTC+2",
    "",
    " Europe/London",
    "local",
    "Local",
    "Europe/Londn",
    "SystemV/PST8",
    "../UTC"
  ]) {
    it(`${JSON.stringify(wrong)} is refused in one sentence`, () => {
      assert.strictEqual(
        refusal("0 9 * * *", wrong),
        `${JSON.stringify(wrong)} can't be the time zone of the cron job "a": use an IANA name, as in "Europe/London".`
      )
    })
  }
})

const between = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))
/** Any field, right or wrong; the numbers are small, so that many are right. */
const field = (minimum: number, maximum: number, names: readonly [string, ...Array<string>]) => {
  const Value = Schema.Union([between(minimum, maximum), Schema.Literals(names)])
  const Step = between(1, 6)
  const Item = Schema.Union([
    Schema.Literal("*"),
    Value,
    Schema.TemplateLiteral(["*/", Step]),
    Schema.TemplateLiteral([Value, "-", Value]),
    Schema.TemplateLiteral([Value, "/", Step]),
    Schema.TemplateLiteral([Value, "-", Value, "/", Step])
  ])
  return Schema.Union([Schema.Literal("*"), Schema.Tuple([Item]), Schema.Tuple([Item, Item])])
}
const Fields = [
  field(0, 60, ["05"]),
  field(0, 24, ["09"]),
  field(0, 31, ["015"]),
  field(0, 12, ["jan", "JUN", "Dec"]),
  field(0, 7, ["sun", "MON", "Sat"])
]

describe("where an expression is accepted", () => {
  let accepted = 0
  it.prop(
    "its next 20 times are those of another library, which reads it as it was written and as it is given on",
    Fields,
    (fields) => {
      const written = fields.map(String).join(" ")
      if (refusal(written) !== "accepted") return
      accepted++
      const schedule = scheduleOf(written, "Asia/Kolkata")
      const start = new Date("2026-01-30T12:34:56Z")
      const ours = Cron.sequence(parse(schedule), start)
      const croner = new Croner(schedule.expression, { timezone: "Asia/Kolkata" }).nextRuns(20, start)
      assert.deepStrictEqual(
        croner,
        croner.map(() => ours.next().value),
        written
      )
      assert.strictEqual(expressionOf(schedule.expression), schedule.expression)
      // croner refuses a step of a single value, takes 0-SUN for every day, and "*/1" for days that are given
      if (/\w\/\d/.test(written.replaceAll(/-\w+\//g, "")) || /-sun/i.test(written)) return
      if ([fields[2], fields[4]].some((days) => days !== "*" && String(days).includes("*"))) return
      assert.deepStrictEqual(
        new Croner(written, { timezone: "Asia/Kolkata" }).nextRuns(20, start),
        croner,
        written
      )
    },
    { arbitrary: { runs: 300 } }
  )
  it("which many of those are", () => {
    assert.isAbove(accepted, 30)
  })
})
