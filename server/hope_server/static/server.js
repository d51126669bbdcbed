// The server at a glance, from its own /metrics. With API keys it shows itself to an operator's key alone.

import { ApiError, forgetKey, request } from "./api.js";
import { levelTable, short, spectrum } from "./charts.js";
import { announce, button, byId, h } from "./dom.js";
import { mean, parse, quantile, total, values } from "./prometheus.js";

const EVERY_MS = 5000;

let timer = 0;
let last = null;

/** Show the figures and keep them fresh until `stop`. */
export function start() {
  stop();
  last = null;
  byId("server").replaceChildren(h("p", { class: "quiet" }, "Reading the server…"));
  refresh();
}

export function stop() {
  clearTimeout(timer);
  timer = 0;
}

async function refresh() {
  const mine = timer = setTimeout(refresh, EVERY_MS);
  if (document.hidden && last) return;
  try {
    const text = await (await request("GET", "/metrics")).text();
    if (timer !== mine) return;
    const now = { series: parse(text), at: performance.now() };
    draw(now.series, rates(now, last));
    last = now;
  } catch (error) {
    if (timer === mine) explain(error);
  }
}

function explain(error) {
  const forbidden = error instanceof ApiError && error.status === 403;
  const text = forbidden ? "These figures are of all tenants, and are shown to an operator's key alone (hope keys create --operator)." : `${error.message}.`;
  const again = forbidden ? [button("Use another key", () => { forgetKey(); start(); }, { class: "plain" })] : [];
  if (byId("server").firstChild?.textContent !== text) announce(text); // not every 5 seconds
  byId("server").replaceChildren(h("p", { class: forbidden ? "quiet" : "error" }, text), ...again);
  if (forbidden) stop();
}

/** How much a counter grew a second since the last look; null at first. */
function rates(now, before) {
  return (name, labels) => {
    if (!before) return null;
    const grown = total(now.series, name, labels) - total(before.series, name, labels);
    return grown < 0 ? null : grown / ((now.at - before.at) / 1000);
  };
}

function draw(series, rate) {
  const one = (name) => total(series, name);
  const ms = (seconds) => (seconds === null ? "–" : `${short(Math.round(seconds * 1000))} ms`);
  const per = (value) => (value === null ? "–" : `${short(value)} /s`);
  byId("server").replaceChildren(
    card("Now", [
      ["Turns running", short(one("num_requests_running"))],
      ["Turns waiting", short(one("num_requests_waiting"))],
      ["Sessions on the device", `${short(one("slots_used"))} of ${short(one("slots"))}`],
      ["Tokens read", per(rate("prompt_tokens_total"))],
      ["Tokens written", per(rate("generation_tokens_total"))],
    ]),
    card("Time", [
      ["To the first token, median", ms(quantile(series, "time_to_first_token_seconds", 0.5))],
      ["To the first token, 95 %", ms(quantile(series, "time_to_first_token_seconds", 0.95))],
      ["Between tokens, median", ms(quantile(series, "inter_token_latency_seconds", 0.5))],
      ["Between tokens, 95 %", ms(quantile(series, "inter_token_latency_seconds", 0.95))],
      ["A wait for a slot, 95 %", ms(quantile(series, "request_queue_time_seconds", 0.95))],
    ]),
    card("Turns since the start", outcomes(series)),
    card("Store", [
      ["Commits", short(total(series, "state_commit_total", { result: "ok" }))],
      ["Commits refused or failed", short(one("state_commit_total") - total(series, "state_commit_total", { result: "ok" }))],
      ["A commit, 95 %", ms(quantile(series, "state_commit_seconds", 0.95))],
      ["A session's load, mean", ms(mean(series, "state_load_seconds"))],
      ["Snapshots not written", short(one("state_save_failures_total"))],
    ]),
    learning(series),
    h("p", { class: "quiet" }, one("slow_weights_ok") ? "The slow weights are those that the server started with." : "The slow weights have changed: stop this server."),
  );
}

function outcomes(series) {
  const errors = (series.get("request_errors_total") ?? []).filter(({ value }) => value > 0);
  const said = { stop: "Ended by the model", length: "Ended by a limit of tokens", abort: "Stopped by the client", error: "Failed" };
  return [
    ...Object.entries(said).map(([reason, text]) => [text, short(total(series, "request_success_total", { finished_reason: reason }))]),
    ...errors.map(({ labels, value }) => [`Answered ${labels.code}`, short(value)]),
  ];
}

function learning(series) {
  const levels = values(series, "level_tokens_total", "level").map((name) => {
    const of = (metric) => total(series, metric, { level: name });
    const writes = of("level_updates_total");
    return {
      name,
      writes,
      frequency: of("level_update_frequency"),
      period: of("level_period_tokens"),
      refused: of("level_updates_refused_total"),
      norm: mean(series, "level_update_norm", { level: name }),
      drift: mean(series, "session_drift_ratio", { level: name }) ?? 0,
    };
  });
  const figures = {
    Writes: (level) => level.writes,
    Refused: (level) => level.refused,
    "A write's norm": (level) => level.norm,
    Drift: (level) => level.drift,
  };
  return h("section", { class: "card wide" },
    h("h2", {}, "Learning, all sessions"),
    spectrum(levels),
    h("div", { class: "table" }, levelTable("Levels, over all sessions", levels, figures)));
}

function card(title, rows) {
  return h("section", { class: "card" },
    h("h2", {}, title),
    h("dl", {}, ...rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])));
}
