// What the open session has learned: its levels, how far they moved, and what that is worth.

import { sessions } from "./api.js";
import { bars, levelTable, lines, short, spectrum } from "./charts.js";
import { button, byId, h, pause } from "./dom.js";
import { showPanel } from "./drawers.js";

const QUIET_MS = 900;
const MAX_POINTS = 200;
const HISTORY = "hope-drift-";

let shown = "";
let reading = new AbortController();

/**
 * Show the figures of a session ("" for none) if the panel is open. Reads them again each time; what its memory
 * is worth only when `over`: no answer is being written.
 */
export async function update(id, over = true) {
  reading.abort();
  reading = new AbortController();
  const { signal } = reading;
  const panel = byId("panel");
  if (panel.hidden) return;
  if (!id) return draw(panel, [h("p", { class: "quiet" }, "Nothing yet: the session begins with its first message.")]);
  try {
    if (shown !== id) draw(panel, [h("p", { class: "quiet" }, "Reading the session…")]);
    shown = id;
    const [{ levels }, session] = await Promise.all([sessions.levels(id, signal), sessions.get(id)]);
    if (signal.aborted) return;
    const worth = (!over && panel.querySelector(`.worth[data-session="${id}"]`))
      || h("section", { class: "worth", "aria-label": "What its memory is worth", "data-session": id });
    draw(panel, [...state(session), ...levelFigures(id, levels), worth]);
    if (over) await measure(id, worth, signal);
  } catch (error) {
    if (!signal.aborted) draw(panel, [h("p", { class: "error" }, error.message)]);
  }
}

/** Forget what is known of sessions that are gone. */
export const forget = (id) => sessionStorage.removeItem(HISTORY + id);

function draw(panel, content) {
  const close = button("✕", () => showPanel(false), { class: "icon", id: "panel-close", "aria-label": "Close what it learned" });
  const focused = document.activeElement?.id === "panel-close";
  panel.replaceChildren(h("div", { class: "panel-head" }, h("h2", {}, "What it learned"), close), ...content);
  if (focused) byId("panel-close").focus();
}

/** Whether the server has stopped the session's learning. */
function state(session) {
  if (session.learning !== "frozen") return [];
  return [h("p", { class: "notice" }, h("span", {}, "Frozen: it keeps what it has learned, and learns no more."))];
}

function levelFigures(id, levels) {
  const learning = levels.filter((level) => level.period !== null);
  const seen = learning.map((level) => ({ ...level, drift: level.drift_ratio }));
  const history = remember(id, levels[0]?.tokens ?? 0, learning);
  const found = [
    h("h3", {}, "Levels"),
    h("p", { class: "quiet" }, "By how many tokens pass between two writes. Ring: as the model says. Stem: as counted; its height is how far the level has moved."),
    spectrum(seen),
    table(learning),
  ];
  if (history.length > 1) {
    const about = `Drift of ${learning.length} levels at ${history.length} moments, the last one in the table`;
    found.push(h("h3", {}, "Drift, as seen in this tab"), lines(history, learning.map((level) => level.name), about));
  }
  return found;
}

function table(levels) {
  const [{ tokens } = { tokens: 0 }] = levels;
  const bytes = levels.reduce((sum, level) => sum + level.bytes, 0);
  return h("div", { class: "table" },
    levelTable("Levels of the session", levels, { Writes: (level) => level.writes, Drift: (level) => level.drift_ratio }),
    h("p", { class: "quiet" }, `${short(tokens)} tokens read; its own weights take ${short(Math.round(bytes / 1024))} KiB.`));
}

/** Add a point to what this tab has seen of the session's drift. */
function remember(id, tokens, levels) {
  let points = [];
  try {
    points = JSON.parse(sessionStorage.getItem(HISTORY + id)) ?? [];
  } catch {
    // Not ours: begin anew.
  }
  points = points.filter((point) => point.tokens < tokens);
  points.push({ tokens, values: Object.fromEntries(levels.map((level) => [level.name, level.drift_ratio])) });
  points = points.slice(-MAX_POINTS);
  sessionStorage.setItem(HISTORY + id, JSON.stringify(points));
  return points;
}

/** Once nothing has happened for a moment: it reads some text twice, beside whoever is being answered. */
async function measure(id, place, signal) {
  place.append(h("h3", {}, "With and without its memory"), h("p", { class: "quiet" }, "Measuring…"));
  await pause(QUIET_MS, signal);
  const found = await sessions.loss(id, signal);
  if (signal.aborted) return;
  place.lastChild.remove();
  if (found.with_memory === null || found.without_memory === null) {
    place.append(h("p", { class: "quiet" }, "There is something to compare once the session has read about 300 tokens."));
    return;
  }
  const gain = found.without_memory - found.with_memory;
  const about = `Loss with its memory ${found.with_memory.toFixed(3)}, without ${found.without_memory.toFixed(3)} nats per token`;
  const sense = gain >= 0 ? `${short(gain)} nats a token better for what it had learned` : `${short(-gain)} nats a token worse for what it had learned`;
  place.append(
    bars([["With", found.with_memory], ["Without", found.without_memory]], about),
    h("p", {}, `It reads ${sense}.`),
    h("p", { class: "quiet" }, `Loss in nats per token, lower is better, on ${short(found.tokens)} recent tokens that it had not read when it learned what is compared. Its own words do not count.`),
  );
}
