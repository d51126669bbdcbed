// The open session: its messages, the turns that run, and what takes it back.

import { ApiError, sessions } from "./api.js";
import * as composer from "./composer.js";
import { announce, byId, notice, pause } from "./dom.js";
import * as log from "./log.js";
import * as sidebar from "./sidebar.js";
import { turn } from "./turn.js";

const NAME_CHARS = 60;
const SETTLE_MS = 250;
const LIVE_MS = 2000;

/** {id, seq} of what is shown; no id for a session that does not exist yet. */
let open = { id: "", seq: 0 };
let opening = new AbortController();
const runs = new Map();
let figures = () => {};

/** `onFigures(id, over)`: the session's figures have moved; `over` unless an answer is being written. */
export function start(onFigures) {
  figures = onFigures;
  log.actions.fork = (seq) => sidebar.fork(sidebar.find(open.id) ?? open, seq);
  log.actions.rollback = (seq) => guarded(() => rollback(seq));
  log.actions.edit = (seq, text) => guarded(() => edit(seq, text));
  composer.start({ send, stop: () => runs.get(open.id)?.controller.abort(new Error("stopped")) });
  addEventListener("focus", () => follow().catch(() => {}));
}

export const currentId = () => open.id;

/** Show a session, or the beginning of one for "". */
export async function show(id) {
  opening.abort();
  opening = new AbortController();
  const { signal } = opening;
  if (!id || open.id !== id) log.show([]);
  open = { id, seq: 0 };
  composer.running(runs.has(id));
  byId("empty").hidden = Boolean(id);
  if (!id) {
    if (runs.has("")) log.attach(runs.get("").elements);
    return title("");
  }
  title(id);
  const [session, messages] = await Promise.all([sessions.get(id), sessions.messages(id, 0, signal)]);
  if (signal.aborted) return;
  open.seq = session.seq;
  const run = runs.get(id);
  log.show(run ? messages.filter((message) => message.last_seq <= run.before) : messages);
  if (run) log.attach(run.elements);
}

/** The session was changed elsewhere: show it as it is now. */
export async function follow() {
  const { id, seq } = open;
  if (!id || runs.has(id)) return;
  const session = await sessions.get(id);
  if (session.seq !== seq && open.id === id && !runs.has(id)) await show(id);
}

/** Show its name as the title. */
export function title(id) {
  const session = sidebar.find(id);
  const name = session ? sidebar.nameOf(session) : id ? "Session" : "New session";
  byId("title").textContent = name;
  document.title = `${name} · Hope`;
}

async function send(text) {
  const fresh = !open.id;
  if (runs.has(open.id)) return;
  notice("");
  const answer = log.pendingAnswer();
  const run = { controller: new AbortController(), before: open.seq, elements: [log.pendingUser(text), answer.element] };
  runs.set(open.id, run);
  composer.running(true);
  log.attach(run.elements);
  let id = open.id;
  const live = setInterval(() => figures(id, false), LIVE_MS);
  try {
    if (fresh) id = await begin(text, run);
    await converse(id, text, run, answer);
  } catch (error) {
    await failed(id, text, run, error);
  } finally {
    clearInterval(live);
    runs.delete(id);
    composer.running(runs.has(open.id));
    figures(id, true);
    sidebar.tellTabs(id, "changed");
  }
}

/** Make the session that the first message is for. */
async function begin(text, run) {
  const session = await sessions.create(text.replace(/\s+/g, " ").trim().slice(0, NAME_CHARS));
  runs.delete("");
  runs.set(session.id, run);
  if (!open.id) {
    open = { id: session.id, seq: 0 };
    history.replaceState(null, "", `#/s/${session.id}`);
  }
  await sidebar.refresh().catch(() => {}); // the list can wait, the message cannot
  sidebar.select(open.id);
  title(open.id);
  return session.id;
}

async function converse(id, text, run, answer) {
  let again = false;
  const on = {
    start: () => { answer.begin(); if (again && open.id === id) notice(""); },
    piece: answer.piece,
    waiting: (why) => { again = true; (open.id === id ? notice : announce)(why); },
  };
  const { controller: { signal } } = run;
  const done = await turn({ session: id, text, learn: byId("learn").checked, signal, on });
  await settle(id, run, note(done.hope));
  if (done.kind === "kept" && open.id === id) {
    const said = "The answer broke off. What the session kept of it is shown, and nothing was learned twice.";
    notice(said, { actions: [["Ask again", () => guarded(() => askAgain(text))]] });
  } else {
    answer.say();
  }
}

async function failed(id, text, run, error) {
  const stopped = run.controller.signal.aborted;
  if (stopped) await pause(SETTLE_MS);
  const found = await settle(id, run, stopped ? "stopped" : "").catch(() => drop(run, []));
  if (open.id !== id) return;
  const kept = found.some((message) => message.role === "user" && message.first_seq > run.before && message.text === text);
  if (!kept) composer.fill(text);
  if (stopped) announce("Stopped.");
  else notice(explained(error), { bad: true });
}

/** Replace what was pending, and the turn before it (which may have grown since), by what the session has. */
async function settle(id, run, said) {
  if (!id) return drop(run, []);
  const { seq } = await sessions.get(id);
  if (open.id !== id) return drop(run, []);
  const start = log.turnStart();
  const found = await sessions.messages(id, start);
  drop(run, found);
  if (open.id === id) {
    open.seq = seq;
    log.replaceFrom(start, found, said);
  }
  return found;
}

function drop(run, found) {
  for (const element of run.elements) element.remove();
  return found;
}

async function rollback(seq) {
  const { id, seq: head } = open;
  await sessions.rollback(id, seq);
  await changed(id);
  notice("Rolled back: what came after is forgotten.", { actions: [["Undo", () => guarded(async () => { await sessions.rollback(id, head); await changed(id); })]] });
}

async function edit(seq, text) {
  await rollback(seq);
  composer.fill(text);
}

async function askAgain(text) {
  await sessions.rollback(open.id, log.turnStart());
  await changed(open.id);
  await send(text);
}

async function changed(id) {
  sidebar.tellTabs(id, "changed");
  if (open.id === id) await show(id);
  figures(id, true);
}

async function guarded(act) {
  if (runs.has(open.id)) return notice("An answer is being written. Stop it first.");
  try {
    await act();
  } catch (error) {
    notice(explained(error), { bad: true });
  }
}

/** What an error means for the person. */
export function explained(error) {
  if (error instanceof ApiError && error.code === "session_not_found") return "This session is not there any more.";
  return error.message.charAt(0).toUpperCase() + error.message.slice(1) + (/[.!?…]$/.test(error.message) ? "" : ".");
}

/** What a turn did, in a few words. */
function note(hope) {
  if (hope?.learning === "frozen") return "frozen: it learns no more";
  if (!hope?.learned_tokens) return "";
  const writes = Object.entries(hope.level_writes).filter(([, count]) => count > 0);
  if (!writes.length) return "nothing written yet";
  return `wrote ${writes.map(([level, count]) => `${level} ${count}×`).join(", ")}`;
}
