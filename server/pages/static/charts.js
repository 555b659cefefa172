// The curves of a model. Points come once, then only those that are new; what was rolled back is sent each time.
import { Chart, brief, css, keepDrawn, nearest, place, settingsOf } from "./plots.js";

const MOST_BRANCHES = 24;
const holder = document.getElementById("charts"), settings = settingsOf(holder);
const data = { names: [], steps: [], places: [], series: {}, total: 0, first: 0, left_behind: [], rollbacks: [] };
const isOrdered = settings.x === "order" || settings.x === "time"; // branches follow one another

async function load() {
  const address = new URL(holder.dataset.series, location.href);
  address.searchParams.set("after", data.total);
  const reply = await fetch(address, { cache: "no-store" });
  if (!reply.ok) throw new Error(`status ${reply.status}`);
  const fresh = await reply.json();
  if (fresh.first !== data.total || data.total === 0) Object.assign(data, { names: [], steps: [], places: [], series: {}, first: fresh.first });
  data.names.push(...fresh.names);
  data.steps.push(...fresh.steps);
  data.places.push(...(fresh.places ?? []));
  for (const [key, values] of Object.entries(fresh.series)) (data.series[key] ??= []).push(...values);
  data.total = data.first + data.names.length;
  const known = new Map(data.names.map((name, i) => [name, i]));
  for (const [key, scores] of Object.entries(fresh.scores)) {
    data.series[key] = new Array(data.names.length).fill(null);
    for (const [name, score] of scores) if (known.has(name)) data.series[key][known.get(name)] = score;
  }
  data.left_behind = fresh.left_behind;
  data.rollbacks = fresh.rollbacks.map(([at, from]) => ({ at: at - data.first, from, parent: known.get(from) }));
  const note = document.getElementById("chart-window");
  note.textContent = data.first ? `Shown are the newest ${data.names.length} of ${data.total} steps; Compare shows all.` : "";
}

// The places of all steps on the x axis, and which of them the head does not come from.
function across() {
  if (settings.x === "step") return data.steps;
  return settings.x === "order" ? data.names.map((_, i) => data.first + i + 1) : data.places;
}

function leftBehind() {
  const flags = new Array(data.names.length).fill(false);
  for (const [from, to] of data.left_behind)
    for (let i = Math.max(from, data.first); i <= to && i < data.total; i++) flags[i - data.first] = true;
  return flags;
}

// What was left behind, branch by branch, each with the step that it went on from, so that lines meet.
function branches(off) {
  const rolled = new Map(data.rollbacks.map((one) => [one.at, one])), found = [];
  for (let i = 0; i < off.length; i++) {
    if (!off[i]) continue;
    if (off[i - 1] && !rolled.has(i)) found.at(-1).push(i);
    else {
      const parent = rolled.has(i) ? (isOrdered ? undefined : rolled.get(i).parent) : i - 1;
      found.push(parent >= 0 ? [parent, i] : [i]);
    }
  }
  return found;
}

function lines(chart) {
  const values = data.series[chart.key] ?? [], spread = data.series[chart.figure.dataset.spread];
  const { off, x } = chart.shared, isSparse = "sparse" in chart.figure.dataset;
  const pick = (indices) => {
    const kept = isSparse ? indices.filter((i) => values[i] !== null) : indices;
    return { x: kept.map((i) => x[i]), y: kept.map((i) => values[i]), spread: spread && kept.map((i) => spread[i]), isSparse };
  };
  const main = { ...pick(values.map((_, i) => i).filter((i) => !off[i])), stroke: css("--curve") };
  if (settings.x === "order" && !isSparse) Object.assign(main, { x, y: values.map((value, i) => (off[i] ? null : value)), spread });
  const faint = chart.shared.branches.map((indices) => ({ ...pick(indices), spread: null, stroke: css("--faint"), isFaint: true }));
  return [...(isOrdered ? [merged(faint)] : faint.slice(-MOST_BRANCHES)), main];
}

// One line of all, with gaps between them.
function merged(branches) {
  const whole = { x: [], y: [], stroke: css("--faint"), isFaint: true };
  for (const { x, y } of branches) {
    if (!x.length) continue;
    if (x[0] === whole.x.at(-1)) [whole.x.pop(), whole.y.pop()];
    else if (whole.x.length) (whole.x.push((whole.x.at(-1) + x[0]) / 2), whole.y.push(null));
    whole.x.push(...x);
    whole.y.push(...y);
  }
  return whole;
}

function draw() {
  const off = leftBehind(), shared = { off, x: across(), branches: branches(off) };
  for (const chart of charts) {
    chart.shared = shared;
    chart.draw(lines(chart), data.total ? "no values" : "no steps yet");
  }
  holder.dataset.points = data.total;
}

// The step at a place: of those that lead to the head, if one is as near as any other.
function stepAt(at) {
  const x = across(), off = charts[0].shared.off, best = nearest(x, at);
  const onPath = x.findIndex((value, i) => value === x[best] && !off[i]);
  return onPath < 0 ? best : onPath;
}

// The figure under the pointer, or the newest one.
function say(chart, at) {
  const values = data.series[chart.key] ?? [], output = chart.figure.querySelector(".now");
  const index = at === null ? values.findLastIndex((value) => value !== null) : stepAt(at);
  if (index < 0 || index >= values.length) return void (output.textContent = "–");
  const spread = data.series[chart.figure.dataset.spread]?.[index], rollback = data.rollbacks.find((one) => one.at === index);
  const where = settings.x === "step" || settings.x === "order" ? "" : ` · ${place(across()[index], settings.x)}`;
  output.textContent = `${brief(values[index])}${spread == null ? "" : ` ± ${brief(spread)}`} · step ${data.steps[index]}${where} · ${data.names[index]}${rollback ? ` · went on from ${rollback.from}` : ""}`;
}

const marks = () => (settings.x === "order" ? data.rollbacks.filter((one) => one.at > 0).map((one) => data.first + one.at + 0.5) : []);
const open = (at) => (location.href = `${holder.dataset.page}&node=${data.names[stepAt(at)]}`);
const charts = [...holder.querySelectorAll("[data-chart]")].map((figure) => Object.assign(new Chart(figure, settings, { say, open, marks }), { key: figure.dataset.chart }));

// One at a time: two would ask for the same points.
let loading = Promise.resolve();

function refresh() {
  loading = loading.then(load).then(draw, () => {}); // the indicator in the bar says so; the next change tries again
}

keepDrawn(holder, charts, draw);
addEventListener("livechange", refresh);
refresh();
