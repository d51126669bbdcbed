// The field to write a message, with Send and Stop.

import { byId, overlay } from "./dom.js";

/** `send(text)` and `stop()` are what the two buttons do. */
export function start({ send, stop }) {
  const field = byId("composer-text");
  const submit = () => {
    const text = field.value.trim();
    if (!text || byId("send").hidden) return;
    field.value = "";
    resize();
    send(text);
  };
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  field.addEventListener("input", resize);
  byId("stop").addEventListener("click", stop);
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !overlay() && !byId("stop").hidden) stop();
  });
}

/** Show Stop while an answer is written, else Send. */
export function running(is) {
  const focused = document.activeElement === byId(is ? "send" : "stop");
  byId("send").hidden = is;
  byId("stop").hidden = !is;
  if (focused) byId(is ? "stop" : "composer-text").focus();
}

/** Put a text into the field and go there. */
export function fill(text) {
  const field = byId("composer-text");
  field.value = text;
  resize();
  field.focus();
}

/** For browsers without `field-sizing`. */
function resize() {
  if (CSS.supports("field-sizing", "content")) return;
  const field = byId("composer-text");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}
