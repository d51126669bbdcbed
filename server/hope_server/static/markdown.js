// Markdown as nodes. A model's text never becomes markup: each piece of it goes in as text, and a link is a
// link only to http, https or mailto.

import { h } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const BULLET = /^(\s*)([-*+])\s+(.*)$/;
const NUMBER = /^(\s*)(\d{1,9})[.)]\s+(.*)$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const DIVIDER = /^ {0,3}\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const SAFE_LINK = /^(https?:\/\/|mailto:)/i;
const MAX_DEPTH = 8;
const MAX_LINE = 20_000;

/** The blocks of `text` as an array of elements. */
export function markdown(text, depth = 0) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    const [block, next] = blockAt(lines, at, depth);
    if (block) blocks.push(block);
    at = next;
  }
  return blocks;
}

function blockAt(lines, at, depth) {
  const line = lines[at];
  if (!line.trim()) return [null, at + 1];
  const fence = FENCE.exec(line);
  if (fence) return code(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) return [h(`h${Math.min(heading[1].length + 1, 5)}`, {}, ...inline(heading[2])), at + 1];
  if (RULE.test(line)) return [h("hr"), at + 1];
  if (depth < MAX_DEPTH) {
    if (QUOTE.test(line)) return quote(lines, at, depth);
    if (BULLET.test(line)) return list(lines, at, depth, BULLET, "ul");
    if (NUMBER.test(line)) return list(lines, at, depth, NUMBER, "ol");
  }
  if (line.includes("|") && DIVIDER.test(lines[at + 1] ?? "") && lines[at + 1].includes("-")) return table(lines, at);
  return paragraph(lines, at, depth);
}

function code(lines, at, [, mark, language]) {
  const ends = new RegExp(`^ {0,3}${mark[0]}{${mark.length},}\\s*$`);
  let end = at + 1;
  while (end < lines.length && !ends.test(lines[end])) end++;
  const text = lines.slice(at + 1, end).join("\n");
  return [h("pre", { tabindex: "0", role: "group", "aria-label": language ? `Code, ${language}` : "Code" }, h("code", {}, text)), end + 1];
}

function quote(lines, at, depth) {
  const inner = [];
  let end = at;
  for (let found; end < lines.length && (found = QUOTE.exec(lines[end])); end++) inner.push(found[1]);
  return [h("blockquote", {}, ...markdown(inner.join("\n"), depth + 1)), end];
}

function list(lines, at, depth, pattern, name) {
  const indent = pattern.exec(lines[at])[1].length;
  const items = [];
  let end = at;
  for (; end < lines.length; end++) {
    const found = pattern.exec(lines[end]);
    if (found && found[1].length <= indent + 1) items.push([found[3]]);
    else if (continues(lines, end, indent)) items.at(-1).push(lines[end].slice(Math.min(leading(lines[end]), indent + 2)));
    else break;
  }
  const start = name === "ol" ? { start: pattern.exec(lines[at])[2] } : {};
  return [h(name, start, ...items.map((item) => h("li", {}, ...tight(markdown(item.join("\n"), depth + 1))))), end];
}

const leading = (line) => line.length - line.trimStart().length;

/** Whether a line belongs to the item above it: it is indented, or blank before an indented one. */
function continues(lines, at, indent) {
  if (lines[at].trim()) return leading(lines[at]) > indent + 1;
  return at + 1 < lines.length && Boolean(lines[at + 1].trim()) && leading(lines[at + 1]) > indent + 1;
}

/** An item's first paragraph without its element. */
const tight = ([first, ...rest]) => (first?.localName === "p" ? [...first.childNodes, ...rest] : [first, ...rest]);

function table(lines, at) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => inline(cell.trim()));
  const head = cells(lines[at]);
  const rows = [];
  let end = at + 2;
  for (; end < lines.length && lines[end].includes("|"); end++) rows.push(cells(lines[end]));
  return [
    h("table", { tabindex: "0" },
      h("thead", {}, h("tr", {}, ...head.map((cell) => h("th", { scope: "col" }, ...cell)))),
      h("tbody", {}, ...rows.map((row) => h("tr", {}, ...head.map((_, index) => h("td", {}, ...(row[index] ?? []))))))),
    end,
  ];
}

function paragraph(lines, at, depth) {
  let end = at + 1;
  const begins = [FENCE, HEADING, RULE, ...(depth < MAX_DEPTH ? [QUOTE, BULLET] : [])];
  while (end < lines.length && lines[end].trim() && !begins.some((pattern) => pattern.test(lines[end]))) end++;
  const nodes = [];
  for (const [index, line] of lines.slice(at, end).entries()) {
    if (index) nodes.push(/ {2,}$/.test(lines[at + index - 1]) ? h("br") : "\n");
    nodes.push(...inline(line.trim()));
  }
  return [h("p", {}, ...nodes), end];
}

const SPAN = new RegExp(
  [
    "(?<code>`+)(?<coded>.+?)(?<!`)\\k<code>(?!`)",
    "\\*\\*(?<strong>\\S(?:.*?\\S)?)\\*\\*",
    "(?<!\\w)__(?<strong2>\\S(?:.*?\\S)?)__(?!\\w)",
    "~~(?<gone>\\S(?:.*?\\S)?)~~",
    "\\*(?<em>[^\\s*](?:[^*]*[^\\s*])?)\\*",
    "(?<!\\w)_(?<em2>[^\\s_](?:[^_]*[^\\s_])?)_(?!\\w)",
    "!?\\[(?<label>[^\\]\\n]*)\\]\\((?<target>[^()\\s]*)\\)",
    "(?<url>https?:\\/\\/[^\\s<>()]*[^\\s<>().,;:!?'\"])",
    "\\\\(?<escaped>[\\\\`*_{}\\[\\]()#+.!|~>-])",
  ].join("|"),
);

/** The nodes of one line: code, emphasis, links, and text. */
function inline(text, depth = 0) {
  const nodes = [];
  let rest = text;
  const plain = depth >= MAX_DEPTH || text.length > MAX_LINE;
  for (let found; !plain && (found = SPAN.exec(rest)); ) {
    if (found.index) nodes.push(rest.slice(0, found.index));
    nodes.push(span(found[0], found.groups, depth + 1));
    rest = rest.slice(found.index + found[0].length);
  }
  if (rest) nodes.push(rest);
  return nodes;
}

function span(whole, groups, depth) {
  if (groups.coded !== undefined) return h("code", {}, groups.coded.trim() || groups.coded);
  if (groups.escaped !== undefined) return groups.escaped;
  if (groups.url !== undefined) return link(groups.url, [groups.url]);
  if (groups.label !== undefined) {
    return SAFE_LINK.test(groups.target) ? link(groups.target, inline(groups.label || groups.target, MAX_DEPTH)) : whole;
  }
  const strong = groups.strong ?? groups.strong2;
  if (strong !== undefined) return h("strong", {}, ...inline(strong, depth));
  if (groups.gone !== undefined) return h("s", {}, ...inline(groups.gone, depth));
  return h("em", {}, ...inline(groups.em ?? groups.em2, depth));
}

const link = (target, nodes) => h("a", { href: target, rel: "noopener noreferrer nofollow", target: "_blank" }, ...nodes);
