"use strict";
// Everything that comes from data goes into the page by `el` and `safe`: as text, never as markup.

/** An element with attributes, `on...` listeners, and children: nodes, or anything else as text. */
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  put(node, children);
  return node;
}

function put(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(safe(child)));
  }
}

/** Replace what a node holds. */
function fill(node, ...children) {
  node.replaceChildren();
  put(node, children);
  return node;
}

const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** A text in which characters that do not show, or that turn the direction, are told by their number. */
function safe(value) {
  return String(value).replace(
    HIDDEN,
    (c) => "\u27e8U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "\u27e9",
  );
}

/** Text that came from outside, with its own direction kept inside. */
const bdi = (text) => el("bdi", {}, text);

/** The same for a long name, which may break behind slashes, underscores and dots. */
const breakable = (text) =>
  el(
    "bdi",
    {},
    String(text)
      .split(/(?<=[/_.#])/)
      .flatMap((part, n) => (n ? [el("wbr"), part] : [part])),
  );

const body = (id) => document.querySelector("#" + id + " > .body");

const grouped = new Intl.NumberFormat("en-US");
const count = (value) => (value === null || value === undefined ? "\u2013" : grouped.format(value));
const percent = (value, digits = 1) =>
  value === null || value === undefined ? "\u2013" : (100 * value).toFixed(digits) + " %";
const number = (value) =>
  value === null || value === undefined ? "\u2013" : Number(value.toPrecision(4)).toString().replace("-", "\u2212");
const signed = (value) => (value > 0 ? "+" : value < 0 ? "\u2212" : "\u00b1") + grouped.format(Math.abs(value));

function bytes(value) {
  for (const [unit, size] of [
    ["GB", 1e9],
    ["MB", 1e6],
    ["kB", 1e3],
  ])
    if (value >= size) return (value / size).toPrecision(3) + " " + unit;
  return value + " B";
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "\u2013";
  if (seconds >= 3600) return (seconds / 3600).toFixed(seconds >= 36000 ? 0 : 1) + " h";
  return seconds >= 60 ? (seconds / 60).toFixed(1) + " min" : seconds.toFixed(seconds < 10 ? 1 : 0) + " s";
}

const plural = (value, one, many) => count(value) + " " + (value === 1 ? one : many || one + "s");

/** A labelled <select> over [value, text] pairs. */
function select(label, pairs, change, chosen) {
  const box = el("select", { onchange: () => change(box.value) });
  for (const [value, text] of pairs)
    box.append(el("option", { value, selected: String(value) === String(chosen) }, text));
  return { node: el("label", {}, label, box), box };
}

const facts = (pairs) =>
  el(
    "dl",
    { class: "facts" },
    pairs
      .filter((pair) => pair[1] !== null && pair[1] !== undefined && pair[1] !== "")
      .map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
  );

/** A small table of all its rows. `columns`: [label, value(row), numeric]. */
function plainTable(caption, columns, rows) {
  const cell = (tag, column, content) =>
    el(tag, { class: column[2] ? "n" : null, scope: tag === "th" ? "col" : null }, content);
  return scroller(
    caption,
    el(
      "table",
      {},
      el("caption", {}, caption),
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          columns.map((column) => cell("th", column, column[0])),
        ),
      ),
      el(
        "tbody",
        {},
        rows.map((row) =>
          el(
            "tr",
            {},
            columns.map((column) => cell("td", column, column[1](row))),
          ),
        ),
      ),
    ),
  );
}

const scroller = (label, table) =>
  el("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": label }, table);

/** `<details>` whose content is made when it is opened. */
function later(title, make) {
  const holder = el("div");
  const node = el(
    "details",
    {
      ontoggle: () => {
        if (node.open && !holder.hasChildNodes()) put(holder, [make()]);
      },
    },
    el("summary", {}, title),
    holder,
  );
  return node;
}
