// Reads Prometheus' text format, as /metrics writes it.

const LINE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** All series: name without prefix -> [{labels, value}]. */
export function parse(text) {
  const series = new Map();
  for (const line of text.split("\n")) {
    const found = LINE.exec(line);
    if (!found) continue;
    const name = found[1].slice(found[1].indexOf(":") + 1);
    const labels = Object.fromEntries([...(found[2] ?? "").matchAll(LABEL)].map(([, key, value]) => [key, value]));
    if (!series.has(name)) series.set(name, []);
    series.get(name).push({ labels, value: Number(found[3]) });
  }
  return series;
}

/** The sum of the samples whose labels have these values. */
export function total(series, name, labels = {}) {
  const samples = series.get(name) ?? [];
  return samples.filter((sample) => fits(sample, labels)).reduce((sum, { value }) => sum + value, 0);
}

const fits = (sample, labels) => Object.entries(labels).every(([key, value]) => sample.labels[key] === value);

/** The values of a label, in order of appearance. */
export const values = (series, name, label) => [...new Set((series.get(name) ?? []).map(({ labels }) => labels[label]))];

/** The q-quantile of a histogram as Prometheus estimates it; null for an empty one. */
export function quantile(series, name, q) {
  const buckets = (series.get(`${name}_bucket`) ?? [])
    .map(({ labels, value }) => [labels.le === "+Inf" ? Infinity : Number(labels.le), value])
    .sort(([a], [b]) => a - b);
  const count = buckets.at(-1)?.[1] ?? 0;
  if (!count) return null;
  const index = buckets.findIndex(([, below]) => below >= q * count);
  const [bound, below] = buckets[index];
  const [start, before] = index ? buckets[index - 1] : [0, 0];
  if (bound === Infinity) return start;
  return start + (bound - start) * ((q * count - before) / Math.max(1, below - before));
}

/** Sum over count of a histogram; null for an empty one. */
export function mean(series, name, labels = {}) {
  const count = total(series, `${name}_count`, labels);
  return count ? total(series, `${name}_sum`, labels) / count : null;
}
