// One modal dialog for everything that has to be asked: the browser keeps the focus in it, closes it with Esc
// and gives the focus back.

import { byId } from "./dom.js";

/**
 * Ask. With `label` there is a field, which must not stay empty.
 *
 * Resolves to the field's text (true without one), or null when the person cancels, if they may (`cancellable`).
 * `act(text)`, if given, runs before the dialog closes; when it raises, its message is shown and the dialog stays.
 */
export function ask({ title, text = "", label = "", value = "", secret = false, ok = "OK", danger = false, cancellable = true, act = null }) {
  const dialog = byId("dialog");
  const input = byId("dialog-input");
  byId("dialog-title").textContent = title;
  byId("dialog-text").textContent = text;
  byId("dialog-text").hidden = !text;
  byId("dialog-field").hidden = !label;
  byId("dialog-label").textContent = label;
  byId("dialog-error").textContent = "";
  byId("dialog-ok").textContent = ok;
  byId("dialog-ok").classList.toggle("danger", danger);
  byId("dialog-cancel").hidden = !cancellable;
  input.type = secret ? "password" : "text";
  input.value = value;
  input.required = Boolean(label);
  input.maxLength = 200;
  return new Promise((resolve) => open(dialog, input, { label, danger, act, cancellable }, resolve));
}

function open(dialog, input, { label, danger, act, cancellable }, resolve) {
  const listening = new AbortController();
  const { signal } = listening;
  let result = null;
  const accept = async (event) => {
    event.preventDefault();
    const text = label ? input.value.trim() : true;
    if (!text) return;
    try {
      if (act) await act(text);
      result = text;
      dialog.close();
    } catch (error) {
      byId("dialog-error").textContent = error.message;
    }
  };
  byId("dialog-form").addEventListener("submit", accept, { signal });
  byId("dialog-cancel").addEventListener("click", () => dialog.close(), { signal });
  dialog.addEventListener("cancel", (event) => { if (!cancellable) event.preventDefault(); }, { signal });
  dialog.addEventListener("close", () => { listening.abort(); resolve(result); }, { signal });
  dialog.showModal();
  if (label) input.select();
  else byId(danger ? "dialog-cancel" : "dialog-ok").focus();
}
