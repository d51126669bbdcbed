// Small charts. Each has a name for who cannot see it; the numbers themselves stand in a table beside it.

import { h, svg } from "./dom.js";

const WIDTH = 304;

/** A number with three figures that say something. */
export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0 || Number.isInteger(value) && Math.abs(value) < 1e6) return value.toLocaleString();
  const size = Math.abs(value);
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))} M`;
  return size >= 0.001 ? String(Number(value.toPrecision(3))) : value.toExponential(1);
}

/**
 * Levels by how often they write: an open ring where the model says they do, a stem where they did.
 *
 * levels: {name, period (null for frozen), frequency, drift}; the stem's height is the drift.
 */
export function spectrum(levels) {
  const learning = levels.filter((level) => level.period !== null);
  const height = 148;
  const base = height - 26;
  const last = Math.max(4, ...learning.map((level) => Math.log2(level.period))) + 0.6;
  const x = (period) => 14 + (Math.log2(Math.max(period, 1)) / last) * (WIDTH - 34);
  const most = Math.max(1e-9, ...learning.map((level) => level.drift));
  const chart = figure(height, `Spectrum of ${learning.length} levels: ${learning.map(said).join("; ")}`);
  chart.append(svg("line", { class: "axis", x1: 6, y1: base, x2: WIDTH - 6, y2: base }));
  for (let power = 0; power <= last; power += last > 9 ? 4 : 2) {
    chart.append(label(x(2 ** power), base + 18, String(2 ** power)));
  }
  const taken = [];
  learning.forEach((level, index) => chart.append(...stem(level, index, { x, base, most, taken })));
  return chart;
}

const said = (level) =>
  `${level.name}, every ${level.period === 1 ? "token" : `${level.period} tokens`}, measured ${short(level.frequency)} per token, drift ${short(level.drift)}`;

function stem(level, index, { x, base, most, taken }) {
  const ring = svg("circle", { class: "ring", cx: x(level.period), cy: base, r: 4.5 });
  if (!level.frequency) return [ring, label(x(level.period), base - 12, String(index + 1))];
  let at = x(1 / level.frequency);
  while (taken.some((other) => Math.abs(other - at) < 13)) at += 13;
  taken.push(at);
  const top = base - 8 - (level.drift / most) * (base - 34);
  return [
    ring,
    svg("line", { class: "stem", x1: at, y1: base, x2: at, y2: top }),
    svg("circle", { class: "dot", cx: at, cy: top, r: 3.5 }),
    label(at, top - 9, String(index + 1)),
  ];
}

/** What the charts show of levels, as a table, and `figures`: {title: (level) => number} beside it. */
export function levelTable(caption, levels, figures) {
  const head = ["Level", "Every", "Measured", ...Object.keys(figures)].map((text) => h("th", { scope: "col" }, text));
  const cells = ({ period, frequency }) => [period === 1 ? "token" : short(period), frequency ? `1/${short(1 / frequency)}` : "–"];
  const rows = levels.map((level, index) => h("tr", {},
    h("th", { scope: "row" }, h("span", { class: "number" }, `${index + 1}`), ` ${level.name}`),
    ...[...cells(level), ...Object.values(figures).map((of) => short(of(level)))].map((text) => h("td", {}, text))));
  return h("table", {}, h("caption", { class: "hidden" }, caption), h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...rows));
}

/** Lines over tokens. points: [{tokens, values: {name: number}}], names in the order of their numbers. */
export function lines(points, names, about) {
  const height = 110;
  const box = { left: 8, right: WIDTH - 22, top: 10, bottom: height - 22 };
  const first = points[0].tokens;
  const span = Math.max(1, points.at(-1).tokens - first);
  const most = Math.max(1e-9, ...points.flatMap((point) => Object.values(point.values)));
  const x = (tokens) => box.left + ((tokens - first) / span) * (box.right - box.left);
  const y = (value) => box.bottom - (value / most) * (box.bottom - box.top);
  const chart = figure(height, about);
  chart.append(svg("line", { class: "axis", x1: box.left, y1: box.bottom, x2: box.right, y2: box.bottom }));
  names.forEach((name, index) => {
    const path = points.map((point) => `${x(point.tokens).toFixed(1)},${y(point.values[name] ?? 0).toFixed(1)}`);
    chart.append(svg("polyline", { class: `line line-${index % 4}`, points: path.join(" ") }));
  });
  const ends = names.map((name, index) => [points.at(-1).values[name] ?? 0, String(index + 1)]);
  let below = Infinity;
  for (const [value, number] of ends.sort(([a], [b]) => a - b)) {
    below = Math.min(y(value) + 4, below - 11);
    chart.append(label(box.right + 11, below, number));
  }
  chart.append(label(box.left, height - 5, short(first), "start"), label(box.right, height - 5, `${short(points.at(-1).tokens)} tokens`, "end"));
  return chart;
}

/** Two bars, one above the other. rows: [[label, value]]. */
export function bars(rows, about) {
  const most = Math.max(...rows.map(([, value]) => value));
  const chart = figure(rows.length * 42, about);
  rows.forEach(([name, value], index) => {
    const top = index * 42;
    chart.append(
      label(0, top + 13, name, "start"),
      label(WIDTH, top + 13, value.toFixed(3), "end"),
      svg("rect", { class: "track-bar", x: 0, y: top + 20, width: WIDTH, height: 9, rx: 4.5 }),
      svg("rect", { class: `bar-${index}`, x: 0, y: top + 20, width: Math.max(4, (value / most) * WIDTH), height: 9, rx: 4.5 }),
    );
  });
  return chart;
}

const figure = (height, about) =>
  svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": about });

const label = (x, y, text, anchor = "middle") => svg("text", { x, y, "text-anchor": anchor }, text);
