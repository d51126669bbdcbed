// The messages of a session as the page shows them.

import { announce, button, byId, h } from "./dom.js";
import { markdown } from "./markdown.js";

const NAMES = { user: "You", assistant: "Hope", system: "System", tool: "Tool", text: "Text" };
const NEAR_END_PX = 80;

/** What can be done with a message; set by whoever shows the log. */
export const actions = { fork: null, rollback: null, edit: null };

/** Show these messages and no others. */
export function show(messages) {
  byId("log").replaceChildren();
  add(messages);
  toEnd();
}

/** Show these messages behind those that are shown. `note`: what is said below the last answer. */
function add(messages, note = "") {
  const log = byId("log");
  const stuck = atEnd();
  let before = Number([...log.querySelectorAll("[data-seq]:is(.assistant, .text)")].at(-1)?.dataset.seq ?? 0);
  for (const message of messages) {
    log.append(item(message, before, message === messages.at(-1) ? note : ""));
    if (message.role === "assistant" || message.role === "text") before = message.last_seq;
  }
  byId("empty").hidden = log.childElementCount > 0;
  if (stuck) toEnd();
}

/** Where the last turn that is shown begins: the journal entry before it. What comes before stays as it is. */
export const turnStart = () => Number([...document.querySelectorAll("#log .user[data-before]")].at(-1)?.dataset.before ?? 0);

/** Show these messages in place of those behind the journal entry `after`. */
export function replaceFrom(after, messages, note = "") {
  const stuck = atEnd();
  for (const element of document.querySelectorAll("#log [data-seq]")) {
    if (Number(element.dataset.seq) > after) element.remove();
  }
  add(messages, note);
  if (stuck) toEnd();
}

/** Show elements that `pendingUser` and `pendingAnswer` made. */
export function attach(elements) {
  byId("log").append(...elements);
  byId("empty").hidden = true;
  toEnd();
}

/** A message that is on its way to the session. */
export const pendingUser = (text) =>
  h("li", { class: "message user" }, who("user"), h("div", { class: "body" }, text));

/** An answer that is being written: {element, begin(), piece(text), say()}. */
export function pendingAnswer() {
  const body = h("div", { class: "body waiting" });
  const element = h("li", { class: "message assistant", "aria-busy": "true" }, who("assistant"), body);
  let text = "";
  let drawn = true;
  const draw = () => {
    drawn = true;
    const stuck = atEnd();
    body.replaceChildren(...markdown(text));
    if (stuck) toEnd();
  };
  const later = () => {
    if (drawn) requestAnimationFrame(draw);
    drawn = false;
  };
  return {
    element,
    begin: () => { text = ""; later(); },
    piece: (more) => { text += more; later(); },
    say: () => announce(text ? `Answer: ${text}` : "The answer is empty."),
  };
}

const who = (role) => h("div", { class: "who" }, NAMES[role]);

function item(message, before, note) {
  const { role, text, last_seq: seq } = message;
  const body = h("div", { class: "body" }, ...(role === "assistant" ? markdown(text) : [text]));
  const start = role === "user" ? before : null;
  return h("li", { class: `message ${role}`, "data-seq": seq, "data-before": start }, who(role), body, tools(message, before, note));
}

function tools({ role, text, last_seq: seq, finished, learn }, before, note) {
  const row = h("div", { class: "tools" });
  if (role === "assistant") {
    row.append(
      button("Fork here", () => actions.fork(seq), { title: "A copy of the session as of this answer" }),
      button("Roll back to here", () => actions.rollback(seq), { title: "Forget what came after this answer" }),
    );
    if (!finished) row.append(h("span", {}, "cut short"));
    if (learn === "off") row.append(h("span", {}, "learned nothing"));
  } else if (role === "user") {
    row.append(button("Take back and edit", () => actions.edit(before, text), {
      title: "Forget this message and what came after it, and write it anew",
    }));
  }
  if (note) row.append(h("span", {}, note));
  return row;
}

const atEnd = () => {
  const scroll = byId("scroll");
  return scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR_END_PX;
};

/** Scroll to the last message. */
function toEnd() {
  const scroll = byId("scroll");
  scroll.scrollTop = scroll.scrollHeight;
}
