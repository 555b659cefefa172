// The curves of a model. Points come once, then only those that are new; what was rolled back is sent each time.
import uPlot from "./vendor/uPlot.esm.js";

const holder = document.getElementById("charts");
const data = { names: [], steps: [], series: {}, total: 0, first: 0, left_behind: [], rollbacks: [] };
const charts = [...holder.querySelectorAll("[data-chart]")].map((figure) => ({
  figure, key: figure.dataset.chart, spread: figure.dataset.spread ?? null, isSparse: "sparse" in figure.dataset, plot: null, hasDots: null,
}));
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const FEW = 60, MANY = 300;

async function load() {
  const reply = await fetch(`${holder.dataset.series}?after=${data.total}`, { cache: "no-store" });
  if (!reply.ok) throw new Error(`status ${reply.status}`);
  const fresh = await reply.json();
  if (fresh.first !== data.total || data.total === 0) Object.assign(data, { names: [], steps: [], series: {}, first: fresh.first });
  data.names.push(...fresh.names);
  data.steps.push(...fresh.steps);
  for (const [key, values] of Object.entries(fresh.series)) (data.series[key] ??= []).push(...values);
  data.total = data.first + data.names.length;
  const places = new Map(data.names.map((name, i) => [name, i]));
  for (const [key, scores] of Object.entries(fresh.scores)) {
    data.series[key] = new Array(data.names.length).fill(null);
    for (const [name, score] of scores) if (places.has(name)) data.series[key][places.get(name)] = score;
  }
  data.left_behind = fresh.left_behind;
  data.rollbacks = fresh.rollbacks;
  const note = document.getElementById("chart-window");
  note.textContent = data.first ? `Shown are the newest ${data.names.length} of ${data.total} steps.` : "";
}

function leftBehind() {
  const flags = new Array(data.names.length).fill(false);
  for (const [from, to] of data.left_behind)
    for (let i = Math.max(from, data.first); i <= to && i < data.total; i++) flags[i - data.first] = true;
  return flags;
}

// x, what leads to the head, what was left behind (which begins and ends at the neighbours, so that lines meet),
// and with a spread its two edges.
function columns(chart) {
  const values = data.series[chart.key] ?? [], off = leftBehind();
  const x = values.map((_, i) => data.first + i + 1);
  const rolled = new Set(data.rollbacks.map(([at]) => at - data.first));
  const on = values.map((value, i) => (off[i] ? null : value));
  const faint = values.map((value, i) => (off[i] || (off[i + 1] && !rolled.has(i + 1)) ? value : null));
  if (!chart.spread) return [x, on, faint];
  const spread = data.series[chart.spread] ?? [];
  const edge = (sign) => values.map((value, i) => (value === null || spread[i] == null ? null : value + sign * spread[i]));
  return [x, on, faint, edge(1), edge(-1)];
}

function draw() {
  for (const chart of charts) {
    const place = chart.figure.querySelector(".plot"), table = columns(chart);
    const isEmpty = !(data.series[chart.key] ?? []).some((value) => value !== null);
    place.classList.toggle("empty", isEmpty);
    place.dataset.empty = data.total ? "no values" : "no steps yet";
    const hasDots = chart.isSparse || table[0].length <= FEW;
    if (chart.plot && (isEmpty || hasDots !== chart.hasDots)) {
      chart.plot.destroy();
      chart.plot = null;
    }
    if (isEmpty) continue;
    chart.hasDots = hasDots;
    if (chart.plot) chart.plot.setData(table);
    else chart.plot = new uPlot(options(chart, place, hasDots), table, place);
    say(chart, null);
  }
  holder.dataset.points = data.total;
}

function options(chart, place, hasDots) {
  const isDense = data.names.length > MANY, dots = hasDots ? { show: true } : {};
  const axis = { stroke: css("--muted"), grid: { stroke: css("--grid"), width: 1 }, ticks: { show: false }, font: "11.5px system-ui, sans-serif" };
  // Where training went on from elsewhere, no line leads there.
  const gaps = (plot, _series, _first, _last, found) => joined([
    ...found,
    ...data.rollbacks.filter(([at]) => at > data.first).map(([at]) => [plot.valToPos(at, "x", true), plot.valToPos(at + 1, "x", true)]),
  ]);
  const edge = { gaps, stroke: "transparent", width: 0, points: { show: false } };
  const series = [
    {},
    { ...(chart.isSparse ? { spanGaps: true } : { gaps }), stroke: css("--curve"), width: isDense ? 1.2 : 2, points: { ...dots, size: 5, fill: css("--curve") } },
    { gaps, stroke: css("--faint"), width: isDense ? 1 : 1.5, points: { ...dots, size: 4, fill: css("--faint") } },
    ...(chart.spread ? [edge, edge] : []),
  ];
  return {
    width: place.clientWidth, height: place.clientHeight, series,
    legend: { show: false },
    padding: [12, 20, 0, 0],
    scales: { x: { time: false, range: (_, low, high) => (low === high ? [low - 0.5, high + 0.5] : [low, high]) } },
    bands: chart.spread ? [{ series: [3, 4], fill: css("--band") }] : [],
    axes: [
      { ...axis, size: 26, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? tick : "")) },
      { ...axis, size: 56, values: (_, ticks) => ticks.map(brief) },
    ],
    cursor: { sync: { key: "steps" }, points: { size: 7 }, drag: { x: true, y: false }, focus: { prox: -1 } },
    hooks: { drawClear: [drawRollbacks], setCursor: [(plot) => say(chart, plot.cursor.idx)], ready: [(plot) => openOnClick(plot)] },
  };
}

// uPlot wants gaps in order, and none within another.
function joined(gaps) {
  const result = [];
  for (const [from, to] of gaps.sort((one, other) => one[0] - other[0])) {
    const last = result.at(-1);
    if (last && from < last[1]) last[1] = Math.max(last[1], to);
    else result.push([from, to]);
  }
  return result;
}

function drawRollbacks(plot) {
  const context = plot.ctx, { top, height } = plot.bbox;
  context.save();
  context.strokeStyle = css("--rollback");
  context.lineWidth = devicePixelRatio;
  context.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
  for (const [at] of data.rollbacks) {
    const x = Math.round(plot.valToPos(at + 0.5, "x", true));
    if (at < data.first || x < plot.bbox.left || x > plot.bbox.left + plot.bbox.width) continue;
    context.beginPath();
    context.moveTo(x, top);
    context.lineTo(x, top + height);
    context.stroke();
  }
  context.restore();
}

// The figure under the pointer, or the newest one.
function say(chart, index) {
  const values = data.series[chart.key] ?? [];
  let at = index ?? -1;
  if (index === null || index === undefined) at = values.findLastIndex((value) => value !== null);
  const output = chart.figure.querySelector(".now");
  if (at < 0 || at >= values.length) return void (output.textContent = "–");
  const spread = chart.spread ? data.series[chart.spread]?.[at] : null;
  const rollback = data.rollbacks.find(([mark]) => mark - data.first === at);
  output.textContent = `${brief(values[at])}${spread == null ? "" : ` ± ${brief(spread)}`} · ${data.names[at]}${rollback ? ` · went on from ${rollback[1]}` : ""}`;
}

function brief(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size && (size < 1e-3 || size >= 1e6)) return value.toExponential(1).replace("-", "−");
  return value.toLocaleString("en", { maximumSignificantDigits: 4 }).replace("-", "−");
}

function openOnClick(plot) {
  let downAt = null;
  plot.over.addEventListener("mousedown", (event) => (downAt = event.clientX));
  plot.over.addEventListener("mouseup", (event) => {
    const name = data.names[plot.cursor.idx];
    if (name && Math.abs(event.clientX - downAt) < 3 && event.detail === 1) {
      const click = setTimeout(() => (location.href = `${holder.dataset.page}&node=${name}`), 260);
      plot.over.addEventListener("dblclick", () => clearTimeout(click), { once: true });
    }
  });
}

// One at a time: two would ask for the same points.
let loading = Promise.resolve();

function refresh() {
  loading = loading.then(load).then(draw, () => {}); // the indicator in the bar says so; the next change tries again
}

function redraw() {
  for (const chart of charts) {
    chart.plot?.destroy();
    chart.plot = null;
  }
  draw();
}

new ResizeObserver(() => {
  for (const { plot, figure } of charts) plot?.setSize({ width: figure.querySelector(".plot").clientWidth, height: figure.querySelector(".plot").clientHeight });
}).observe(holder);
addEventListener("livechange", refresh);
addEventListener("themechange", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
refresh();
