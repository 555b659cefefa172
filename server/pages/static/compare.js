// Curves of several models on one chart. Each has a colour and a dash of its own, which the legend's lines hold.
import { Chart, brief, keepDrawn, nearest, place, settingsOf } from "./plots.js";

const EVERY_MS = 10_000;
const holder = document.getElementById("charts");

function look(line) {
  const { stroke, strokeDasharray } = getComputedStyle(line);
  const dash = strokeDasharray === "none" ? undefined : strokeDasharray.split(",").map(parseFloat);
  return { stroke: hex(stroke), dash };
}

const hex = (rgb) => `#${rgb.match(/\d+/g).slice(0, 3).map((part) => Number(part).toString(16).padStart(2, "0")).join("")}`;

function compare() {
  const settings = settingsOf(holder), legend = [...document.querySelectorAll("#curves .dash line")];
  let answer = null, tag = null, timer = null;

  async function load() {
    const reply = await fetch(holder.dataset.series, { cache: "no-store", headers: tag ? { "If-None-Match": tag } : {} });
    if (reply.status === 304) return;
    if (!reply.ok) throw new Error(`status ${reply.status}`);
    answer = await reply.json();
    tag = reply.headers.get("ETag");
    const isThinned = Object.values(answer.series).some((curves) => curves.some(([x], i) => x.length < answer.num_steps[i] && x.length >= answer.most - 2));
    document.getElementById("chart-window").textContent = isThinned ? `Drawn are up to ${answer.most} points of each curve, with its highest and lowest; the CSV has all.` : "";
    draw();
  }

  function draw() {
    const looks = legend.map(look);
    for (const chart of charts) chart.draw((answer?.series[chart.key] ?? []).map(([x, y], i) => ({ x, y, ...looks[i] })), "no values");
    holder.dataset.points = answer ? Math.max(...answer.num_steps) : 0;
  }

  // Of each curve the value at the pointer, or the newest.
  function say(chart, at) {
    const values = chart.lines.map(({ x, y }) => brief(at === null ? y.at(-1) : y[nearest(x, at)]));
    const where = at === null ? "" : ` · ${settings.x === "step" ? "step " : ""}${place(settings.x === "step" ? Math.round(at) : at, settings.x)}`;
    chart.figure.querySelector(".now").textContent = values.join(" | ") + where;
  }

  // In a saved picture, at the right of the title.
  function legendOf(context, width) {
    const scale = devicePixelRatio;
    let right = width - 12 * scale;
    for (const [i, label] of [...answer.labels.entries()].reverse()) {
      const { stroke, dash } = look(legend[i]);
      context.font = `${12 * scale}px system-ui, sans-serif`;
      right -= context.measureText(label).width;
      context.fillText(label, right, 22 * scale);
      context.save();
      Object.assign(context, { strokeStyle: stroke, lineWidth: 2 * scale });
      context.setLineDash((dash ?? []).map((part) => part * scale));
      context.beginPath();
      context.moveTo(right - 34 * scale, 18 * scale);
      context.lineTo(right - 6 * scale, 18 * scale);
      context.stroke();
      context.restore();
      right -= 48 * scale;
    }
  }

  const charts = [...holder.querySelectorAll("[data-chart]")].map((figure) => Object.assign(new Chart(figure, settings, { say, legend: legendOf }), { key: figure.dataset.chart }));

  async function follow() {
    clearTimeout(timer);
    if (document.hidden) return;
    await load().catch(() => {}); // tried again, as the curves that are there go on being shown
    timer = setTimeout(follow, EVERY_MS);
  }

  keepDrawn(holder, charts, draw);
  document.addEventListener("visibilitychange", follow);
  follow();
}

if (holder) compare();
