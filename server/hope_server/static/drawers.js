// On a narrow page the sessions and the figures are drawers: one at a time, closed by Esc, the scrim or their
// button, with the focus inside while open.

import { byId, overlay } from "./dom.js";

const narrow = matchMedia("(max-width: 900px)");
const overlaid = matchMedia("(max-width: 1120px)");
let panelChanged = () => {};

/** `onPanel(open)` when the figures are shown or hidden. */
export function start(onPanel = () => {}) {
  panelChanged = onPanel;
  byId("sidebar-open").addEventListener("click", openSidebar);
  byId("sidebar-close").addEventListener("click", closeSidebar);
  byId("panel-toggle").addEventListener("click", () => showPanel(byId("panel").hidden));
  byId("scrim").addEventListener("click", closeAll);
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !byId("scrim").hidden && !overlay()) closeAll();
  });
  for (const query of [narrow, overlaid]) query.addEventListener("change", settle);
  settle();
}

/** Where there is room for the figures, they are shown from the start. */
export function begin() {
  if (!overlaid.matches) showPanel(true);
}

function closeAll() {
  closeSidebar();
  if (overlaid.matches && !byId("panel").hidden) showPanel(false);
}

function openSidebar() {
  byId("sidebar").classList.add("open");
  byId("sidebar-open").setAttribute("aria-expanded", "true");
  settle();
  byId("sidebar-close").focus();
}

/** Close the drawer with the sessions, if it is one and open. */
export function closeSidebar() {
  if (!byId("sidebar").classList.contains("open")) return;
  const inside = byId("sidebar").contains(document.activeElement);
  byId("sidebar").classList.remove("open");
  byId("sidebar-open").setAttribute("aria-expanded", "false");
  settle();
  if (inside) byId("sidebar-open").focus();
}

/** Show or hide the figures of the session. */
export function showPanel(open) {
  const inside = byId("panel").contains(document.activeElement);
  byId("panel").hidden = !open;
  byId("panel-toggle").setAttribute("aria-expanded", String(open));
  settle();
  panelChanged(open);
  if (open && overlaid.matches) byId("panel-close")?.focus();
  else if (inside) byId("panel-toggle").focus();
}

/** What lies under an open drawer cannot be reached. */
function settle() {
  const sidebarOpen = narrow.matches && byId("sidebar").classList.contains("open");
  const panelOpen = overlaid.matches && !byId("panel").hidden;
  byId("scrim").hidden = !sidebarOpen && !panelOpen;
  byId("main").inert = sidebarOpen || panelOpen;
  byId("sidebar").inert = panelOpen;
  byId("panel").inert = sidebarOpen;
}
