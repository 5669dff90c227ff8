/** The table as a picture: each line's five ratios as a box, on a logarithmic axis. */
import { init } from "echarts"
import type { Row } from "./Row.ts"

const rowHeight = 18
const margin = { left: 600, right: 30, top: 40, bottom: 40 }

/** An SVG of the rows that were repeated; a bundle's size is measured once and isn't among them. */
export const plot = (rows: ReadonlyArray<Row>): string => {
  const repeated = rows.filter(({ ratios }) => ratios.length >= 5).toReversed()
  const chart = init(null, null, {
    renderer: "svg",
    ssr: true,
    width: 1150,
    height: margin.top + margin.bottom + rowHeight * repeated.length
  })
  chart.setOption({
    animation: false,
    backgroundColor: "#ffffff",
    title: { text: "ours / theirs: less is faster", left: "center", textStyle: { fontSize: 13 } },
    grid: margin,
    xAxis: { type: "log", min: 0.05, max: 20, splitLine: { lineStyle: { color: "#dddddd" } } },
    yAxis: {
      type: "category",
      data: repeated.map(({ name }) => name),
      axisLabel: { fontSize: 11, interval: 0 }
    },
    series: [
      {
        type: "boxplot",
        data: repeated.map(({ ratios }) => ratios.toSorted((a, b) => a - b).slice(0, 5)),
        boxWidth: [5, 9],
        itemStyle: { color: "#bfd7ea", borderColor: "#0b3954" },
        markLine: {
          symbol: "none",
          silent: true,
          label: { show: false },
          lineStyle: { color: "#c81d25", type: "solid" },
          data: [{ xAxis: 1 }]
        }
      }
    ]
  })
  const svg = chart.renderToSVGString()
  chart.dispose()
  return `${svg}\n`
}
