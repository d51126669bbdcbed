// Elements without markup: every text goes in as text.

/** The element with this id, which the page has. */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element. Properties that begin with "on" are listeners, those of an element are set,
 * others become attributes; null and false are left out. Children are nodes or texts.
 */
export function h(name, properties = {}, ...children) {
  return filled(document.createElement(name), properties, children);
}

/** The same in SVG. */
export function svg(name, properties = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), properties, children);
}

function filled(element, properties, children) {
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** A button that does nothing but call `act`. */
export function button(text, act, properties = {}) {
  return h("button", { type: "button", onclick: act, ...properties }, text);
}

/** The dialog or menu that is open, which Esc belongs to; null when there is none. */
export const overlay = () => document.querySelector("dialog[open], [popover]:popover-open");

let announced = 0;

/** Have a screen reader say something, also the same thing twice. */
export function announce(text) {
  const said = ++announced;
  byId("announcer").textContent = "";
  setTimeout(() => {
    if (said === announced) byId("announcer").textContent = text;
  }, 60);
}

/** Show a line above the chat, and say it; nothing for an empty text. `actions`: [label, function] pairs. */
export function notice(text, { bad = false, actions = [] } = {}) {
  const line = byId("notice");
  line.hidden = !text;
  line.classList.toggle("bad", bad);
  const buttons = actions.map(([label, act]) => button(label, () => { notice(""); act(); }));
  line.replaceChildren(h("span", {}, text), ...buttons);
  if (text) announce(text);
}

/** After `milliseconds`, or at once when `signal` aborts (which it then throws). */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(done, milliseconds);
    function done() {
      signal?.removeEventListener("abort", stop);
      resolve();
    }
    function stop() {
      clearTimeout(timer);
      reject(signal.reason);
    }
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}
