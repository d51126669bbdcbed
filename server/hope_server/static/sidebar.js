// The list of sessions, and what can be done with each of them.

import { sessions } from "./api.js";
import { ask } from "./dialog.js";
import { announce, button, byId, h } from "./dom.js";

const SHOWN = 300;
const CHANNEL = "hope-sessions";

let known = [];
let current = "";
let changed = () => {};
const otherTabs = new BroadcastChannel(CHANNEL);

/** `onChange(id, what)`: a session was "renamed", "deleted" or "changed", here or in another tab. */
export function start(onChange) {
  changed = onChange;
  byId("filter").addEventListener("input", render);
  otherTabs.addEventListener("message", async ({ data }) => {
    await refresh().catch(() => {});
    changed(data.id, data.what);
  });
}

/** Tell the other tabs that a session is another one now. */
export const tellTabs = (id, what) => otherTabs.postMessage({ id, what });

/** Read the list again. */
export async function refresh() {
  known = await sessions.list();
  render();
}

/** Mark a session as the one that is shown; "" for none. */
export function select(id) {
  current = id;
  render();
}

/** What a session is called. */
export function nameOf(session) {
  if (session.name) return session.name;
  const made = new Date(session.created_at * 1000);
  return `Session of ${made.toLocaleString([], { dateStyle: "medium", timeStyle: "short" })}`;
}

/** The session with this id, undefined when the list has none. */
export const find = (id) => known.find((session) => session.id === id);

function render() {
  const wanted = byId("filter").value.trim().toLowerCase();
  const found = known.filter((session) => nameOf(session).toLowerCase().includes(wanted));
  const focused = document.activeElement?.closest?.("#sessions li")?.dataset.id;
  const part = document.activeElement?.localName;
  byId("sessions").replaceChildren(...found.slice(0, SHOWN).map(item));
  if (focused) document.querySelector(`#sessions li[data-id="${focused}"] ${part}`)?.focus();
  const note = byId("sessions-note");
  note.hidden = found.length > 0 && found.length <= SHOWN;
  note.textContent = found.length > SHOWN ? `${found.length - SHOWN} older ones: filter to find them.`
    : known.length ? "None has this name." : "No sessions yet.";
}

function item(session) {
  const name = nameOf(session);
  const here = session.id === current;
  return h("li", { "data-id": session.id, class: here && "current" },
    h("a", { href: `#/s/${session.id}`, title: name, "aria-current": here && "page" }, name),
    button("⋯", (event) => menu(event.currentTarget, session), {
      class: "icon", "aria-label": `Actions for ${name}`, "aria-haspopup": "dialog",
    }));
}

/** A small popover beside `anchor`. Esc and a click elsewhere close it. */
function menu(anchor, session) {
  const pop = h("div", { popover: "auto", role: "dialog", "aria-label": `Actions for ${nameOf(session)}` });
  const entry = (text, act, more = {}) => button(text, () => { pop.hidePopover(); act(session); }, more);
  pop.append(entry("Rename", rename), entry("Fork", fork), entry("Delete", remove, { class: "danger" }));
  document.body.append(pop);
  pop.addEventListener("toggle", (event) => {
    if (event.newState !== "closed") return;
    pop.remove();
    if (document.activeElement === document.body) anchor.focus();
  });
  pop.showPopover();
  const at = anchor.getBoundingClientRect();
  pop.style.left = `${Math.max(8, Math.min(at.left, innerWidth - pop.offsetWidth - 8))}px`;
  pop.style.top = `${Math.max(8, Math.min(at.bottom + 4, innerHeight - pop.offsetHeight - 8))}px`;
  pop.querySelector("button").focus();
}

/** Ask for another name. */
async function rename(session) {
  const act = (name) => sessions.rename(session.id, name);
  const name = await ask({ title: "Rename the session", label: "Name", value: session.name ?? "", ok: "Rename", act });
  if (name !== null) await settle(session.id, "renamed", `Renamed to ${name}.`);
}

/** Make a copy that goes its own way from `seq` (the present without), and show it. */
export async function fork(session, seq = undefined) {
  const value = `${nameOf(session)} (fork)`.slice(-200);
  let made = null;
  const act = async (name) => { made = await sessions.fork(session.id, seq, name); };
  const text = "The copy has learned what this session had learned, and goes its own way from there.";
  if (await ask({ title: "Fork the session", text, label: "Name of the copy", value, ok: "Fork", act }) === null) return;
  await settle(made.id, "changed", "Forked. This is the copy.");
  location.hash = `#/s/${made.id}`;
}

/** Ask, then delete. */
async function remove(session) {
  const text = `“${nameOf(session)}” is deleted with everything that it has learned. This cannot be undone.`;
  const act = () => sessions.remove(session.id);
  if (await ask({ title: "Delete the session?", text, ok: "Delete", danger: true, act }) === null) return;
  await settle(session.id, "deleted", "Deleted.");
}

async function settle(id, what, said) {
  tellTabs(id, what);
  announce(said);
  await refresh();
  changed(id, what);
}
