// Wires the parts, and shows what the address names: #/s/<session>, #/server, or a new session.

import { model, onKeyNeeded, setKey } from "./api.js";
import * as chat from "./chat.js";
import { ask } from "./dialog.js";
import { byId, notice, overlay } from "./dom.js";
import * as drawers from "./drawers.js";
import * as panel from "./panel.js";
import * as server from "./server.js";
import * as sidebar from "./sidebar.js";

onKeyNeeded(async (error) => {
  const key = await ask({
    title: "This server asks for a key",
    text: error.code === "missing_api_key" ? "It is kept in this tab alone, until you close it." : "The server does not know this key.",
    label: "API key",
    secret: true,
    ok: "Go on",
    cancellable: false,
  });
  setKey(key);
});

sidebar.start((id, what) => {
  if (what === "deleted") panel.forget(id);
  if (id !== chat.currentId()) return;
  if (what === "deleted") location.hash = "#/";
  else if (what === "renamed") chat.title(id);
  else chat.follow().catch(() => {});
});
chat.start((id, over) => { if (id === chat.currentId()) panel.update(id, over); });
drawers.start(() => panel.update(chat.currentId()));
byId("new-session").addEventListener("click", () => byId("composer-text").focus());
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("composer-text").focus();
});
addEventListener("hashchange", route);

async function route() {
  notice("");
  drawers.closeSidebar();
  const isServer = location.hash === "#/server";
  const id = /^#\/s\/([A-Za-z0-9_-]{1,64})$/.exec(location.hash)?.[1] ?? "";
  showView(isServer);
  sidebar.select(id);
  try {
    if (isServer) return server.start();
    server.stop();
    panel.update(id);
    await chat.show(id);
    chat.title(id);
  } catch (error) {
    if (error.name !== "AbortError") notice(chat.explained(error), { bad: true });
  }
}

/** The server's figures take the place of the chat. */
function showView(isServer) {
  byId("server").hidden = !isServer;
  for (const id of ["chat", "learn-label", "panel-toggle"]) byId(id).hidden = isServer;
  if (isServer && !byId("panel").hidden) drawers.showPanel(false);
  if (isServer) {
    byId("title").textContent = "The server";
    document.title = "The server · Hope";
    byId("server-link").setAttribute("aria-current", "page");
  } else {
    byId("server-link").removeAttribute("aria-current");
  }
}

async function begin() {
  try {
    byId("model").textContent = await model();
    await sidebar.refresh();
    await route();
    if (!byId("panel-toggle").hidden) drawers.begin();
    if (!chat.currentId() && !overlay()) byId("composer-text").focus();
  } catch (error) {
    notice(chat.explained(error), { bad: true, actions: [["Try again", begin]] });
  }
}

begin();
