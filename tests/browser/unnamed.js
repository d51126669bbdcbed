() => {
  const byId = (id) => document.getElementById(id)?.textContent;
  const names = (element) => [
    element.getAttribute("aria-label"),
    ...(element.getAttribute("aria-labelledby") ?? "").split(" ").map(byId),
    ...[...(element.labels ?? [])].map((label) => label.textContent),
    element.matches("a, button") ? element.textContent : "",
  ];
  return [...document.querySelectorAll("a, button, input, textarea, dialog, nav, aside, section, [role], [tabindex]")]
    .filter((element) => element.checkVisibility() && !element.closest("[inert]"))
    .filter((element) => !element.matches("main, .card, body table, [role=status], [role=alert]"))
    .filter((element) => !names(element).some((name) => name?.trim()))
    .map((element) => element.outerHTML.slice(0, 200));
}
