async (text) => {
  const { markdown } = await import("/static/markdown.js");
  const box = document.createElement("div");
  box.append(...markdown(text));
  const all = [...box.querySelectorAll("*")];
  return {
    html: box.innerHTML,
    text: box.textContent,
    names: [...new Set(all.map((element) => element.localName))].sort(),
    links: all.filter((element) => element.href).map((element) => element.getAttribute("href")),
    odd: all.flatMap((element) => element.getAttributeNames()).filter((name) => /^on|src|style/.test(name)),
  };
}
