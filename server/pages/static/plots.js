// One chart: lines over steps, time or tokens, smoothed, on a log scale, and as a picture to save.
import uPlot from "./vendor/uPlot.esm.js";

const FEW = 60, MANY = 300;
const SECONDS = [1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 28_800, 43_200, 86_400, 172_800, 432_000, 864_000];
const GAPS = 2; // of uPlot.join: a null cuts the line up to the next points of the same line
export const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function settingsOf(holder) {
  const { x, xLabel, smooth } = holder.dataset;
  return { x, xLabel, smoothing: Number(smooth), isLog: "log" in holder.dataset };
}

export function brief(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size && (size < 1e-3 || size >= 1e6)) return value.toExponential(1).replace("-", "−");
  return value.toLocaleString("en", { maximumSignificantDigits: 4 }).replace("-", "−");
}

// A place on the x axis, in the words of its kind.
export function place(value, kind) {
  if (kind === "tokens") return new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 }).format(value);
  if (kind !== "time") return Number.isInteger(value) ? String(value) : "";
  if (value < 120) return `${+value.toFixed(1)} s`;
  return value < 7200 ? `${+(value / 60).toFixed(1)} min` : `${+(value / 3600).toFixed(1)} h`;
}

// The index of the point nearest to a place; -1: there is none.
export function nearest(xs, at) {
  let best = -1;
  for (let i = 0; i < xs.length; i++) if (best < 0 || Math.abs(xs[i] - at) < Math.abs(xs[best] - at)) best = i;
  return best;
}

// An exponential moving average that does not begin at 0; gaps stay gaps.
function smoothed(values, weight) {
  let sum = 0, whole = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    whole = weight * whole + (1 - weight);
    return sum / whole;
  });
}

export class Chart {
  // settings: of the page. more: { say(chart, at), open(at), marks() } as far as the page has them.
  constructor(figure, settings, more = {}) {
    Object.assign(this, { figure, settings, more, lines: [], plot: null, shape: "" });
    this.place = figure.querySelector(".plot");
    const button = figure.querySelector("[data-png]");
    button.hidden = false;
    button.addEventListener("click", () => this.save());
  }

  // lines: { x, y, stroke, dash, isFaint, isSparse, spread }; y may hold nulls, which are gaps.
  draw(lines, emptyText) {
    this.lines = lines;
    const tables = [], series = [{}], bands = [], { smoothing, isLog } = this.settings;
    const add = (x, y, look) => {
      tables.push([x, isLog ? y.map((value) => (value > 0 ? value : null)) : y]);
      return series.push(look) - 1;
    };
    for (const line of lines) {
      const dots = line.isSparse || line.x.length <= FEW ? { show: true } : {};
      const width = line.isFaint ? 1.2 : line.x.length > MANY ? 1.4 : 2;
      const look = { stroke: line.stroke, dash: line.dash, width, spanGaps: Boolean(line.isSparse), points: { ...dots, size: line.isFaint ? 4 : 5, fill: line.stroke } };
      if (smoothing && !line.isFaint && !line.isSparse) {
        add(line.x, line.y, { ...look, stroke: `${line.stroke}59`, width: 1, points: { show: false } });
        add(line.x, smoothed(line.y, smoothing), { ...look, points: { show: false } });
      } else add(line.x, line.y, look);
      if (!line.spread || smoothing || isLog) continue;
      const edge = { stroke: "transparent", width: 0, points: { show: false } };
      const [top, bottom] = [1, -1].map((sign) => add(line.x, line.y.map((value, i) => (value === null || line.spread[i] == null ? null : value + sign * line.spread[i])), edge));
      bands.push({ series: [top, bottom], fill: css("--band") });
    }
    const isEmpty = !tables.some(([, values]) => values.some((value) => value != null));
    this.place.classList.toggle("empty", isEmpty);
    this.place.dataset.empty = isEmpty && isLog && emptyText !== "no steps yet" ? "no values above 0" : emptyText;
    const shape = JSON.stringify([series, bands]);
    if (this.plot && (isEmpty || shape !== this.shape)) this.forget();
    if (!isEmpty) {
      const data = uPlot.join(tables, tables.map(() => [0, GAPS]));
      this.shape = shape;
      if (this.plot) this.plot.setData(data);
      else this.plot = new uPlot(this.options(series, bands), data, this.place);
    }
    this.more.say?.(this, null);
  }

  forget() {
    this.plot?.destroy();
    this.plot = null;
  }

  resize() {
    this.plot?.setSize({ width: this.place.clientWidth, height: this.place.clientHeight });
  }

  options(series, bands) {
    const { x, isLog } = this.settings, { say, open, marks } = this.more;
    const axis = { stroke: css("--muted"), grid: { stroke: css("--grid"), width: 1 }, ticks: { show: false }, font: "11.5px system-ui, sans-serif" };
    return {
      width: this.place.clientWidth, height: this.place.clientHeight, series, bands,
      legend: { show: false },
      padding: [12, 20, 0, 0],
      scales: {
        x: { time: false, range: (_, low, high) => (low === high ? [low - 0.5, high + 0.5] : [low, high]) },
        y: isLog ? { distr: 3 } : {},
      },
      axes: [
        { ...axis, size: 26, ...(x === "time" && { incrs: SECONDS }), values: (_, ticks) => ticks.map((tick) => place(tick, x)) },
        { ...axis, size: 56, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : brief(tick))) },
      ],
      cursor: { sync: { key: "charts", scales: ["x", null] }, points: { size: 7 }, drag: { x: true, y: false }, focus: { prox: -1 } },
      hooks: {
        drawClear: [(plot) => marks && drawMarks(plot, marks())],
        setCursor: [(plot) => say?.(this, plot.cursor.left >= 0 ? plot.posToVal(plot.cursor.left, "x") : null)],
        ready: [(plot) => open && openOnClick(plot, open)],
      },
    };
  }

  // The chart with its title, on the colour of the page.
  save() {
    if (!this.plot) return;
    const drawn = this.plot.ctx.canvas, head = 34 * devicePixelRatio;
    const picture = Object.assign(document.createElement("canvas"), { width: drawn.width, height: drawn.height + head });
    const context = picture.getContext("2d");
    context.fillStyle = css("--card");
    context.fillRect(0, 0, picture.width, picture.height);
    context.fillStyle = css("--text");
    context.font = `${14 * devicePixelRatio}px system-ui, sans-serif`;
    context.fillText(`${this.figure.dataset.title} over ${this.settings.xLabel}`, 12 * devicePixelRatio, 22 * devicePixelRatio);
    this.more.legend?.(context, picture.width);
    context.drawImage(drawn, 0, head);
    picture.toBlob((blob) => {
      const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: `${this.figure.dataset.title}.png` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    });
  }
}

// Draws them again when the window or the colours change.
export function keepDrawn(holder, charts, redraw) {
  const anew = () => {
    for (const chart of charts) chart.forget();
    redraw();
  };
  new ResizeObserver(() => charts.forEach((chart) => chart.resize())).observe(holder);
  addEventListener("themechange", anew);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", anew);
}

function drawMarks(plot, places) {
  const context = plot.ctx, { top, height, left, width } = plot.bbox;
  context.save();
  context.strokeStyle = css("--rollback");
  context.lineWidth = devicePixelRatio;
  context.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
  for (const at of places) {
    const x = Math.round(plot.valToPos(at, "x", true));
    if (x < left || x > left + width) continue;
    context.beginPath();
    context.moveTo(x, top);
    context.lineTo(x, top + height);
    context.stroke();
  }
  context.restore();
}

// A double click zooms out instead.
function openOnClick(plot, open) {
  let downAt = null;
  plot.over.addEventListener("mousedown", (event) => (downAt = event.clientX));
  plot.over.addEventListener("mouseup", (event) => {
    if (Math.abs(event.clientX - downAt) >= 3 || event.detail !== 1) return;
    const at = plot.posToVal(plot.cursor.left, "x"), click = setTimeout(() => open(at), 260);
    plot.over.addEventListener("dblclick", () => clearTimeout(click), { once: true });
  });
}
