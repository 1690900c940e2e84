// Tables of very many rows: searched, filtered, sorted, and shown page by page.

const PAGE = 50;
const MANY = 5000;

/**
 * A table over rows 0..size-1.
 *
 * columns: { label, value(i): what it sorts by, text(i): what it shows (default: the value), numeric, filter: offer its
 * texts to choose from, search: search in it, find(i): what to
 * search in instead, tight, mono, wrap: may break at slashes }. open(i): the row's record; the first column then holds a button.
 */
function dataTable({ caption, size, columns, open, sort, search = "Search", page = PAGE }) {
  const state = { query: "", filters: new Map(), sort: sort || null, at: 0, found: null, hay: null };
  const text = (column, i) => (column.text ? column.text(i) : column.value(i));
  const status = el("p", { class: "muted small", role: "status", "aria-live": "polite" });
  const head = el("tr"),
    rows = el("tbody");
  const previous = el("button", { type: "button", onclick: () => turn(-1) }, "Previous");
  const next = el("button", { type: "button", onclick: () => turn(1) }, "Next");
  const place = el("span", { class: "small" });
  let waiting = 0;
  const query = el("input", {
    type: "search",
    autocomplete: "off",
    spellcheck: "false",
    oninput: () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        state.query = query.value;
        select_();
      }, 60);
    },
  });
  const root = el(
    "div",
    { class: "datatable" },
    el(
      "div",
      { class: "controls" },
      el("label", { class: "grow" }, search, query),
      columns.filter((c) => c.filter).map(filterBox),
    ),
    status,
    scroller(caption, el("table", {}, el("caption", {}, caption), el("thead", {}, head), rows)),
    el("div", { class: "pager" }, previous, place, next),
  );

  function filterBox(column) {
    const texts = new Map();
    for (let i = 0; i < size; i++)
      for (const name of [text(column, i)].flat()) texts.set(name, (texts.get(name) || 0) + 1);
    const pairs = [...texts]
      .sort((a, b) => (a[0] < b[0] ? -1 : 1))
      .map(([name, many]) => [name, (name || "(none)") + " (" + count(many) + ")"]);
    return select(
      column.label,
      [["\u0000", "all"], ...pairs],
      (value) => {
        if (value === "\u0000") state.filters.delete(column);
        else state.filters.set(column, value);
        select_();
      },
      "\u0000",
    ).node;
  }

  function haystack() {
    if (state.hay) return state.hay;
    const searched = columns.filter((column) => column.search || column.find);
    state.hay = new Array(size);
    for (let i = 0; i < size; i++)
      state.hay[i] = searched
        .map((column) => text(column, i))
        .join("\n")
        .toLowerCase();
    return state.hay;
  }

  /** Which rows are wanted, in their order. */
  function select_() {
    const since = performance.now();
    const words = state.query.toLowerCase().split(/\s+/).filter(Boolean),
      hay = words.length ? haystack() : null;
    const filters = [...state.filters];
    const found = [];
    for (let i = 0; i < size; i++) {
      if (hay && !words.every((word) => hay[i].includes(word))) continue;
      if (
        filters.every(([column, wanted]) => {
          const own = text(column, i);
          return Array.isArray(own) ? own.includes(wanted) : own === wanted;
        })
      )
        found.push(i);
    }
    if (state.sort) {
      const { column, down } = state.sort,
        keys = new Map(found.map((i) => [i, columns[column].value(i)])),
        sign = down ? -1 : 1;
      const missing = (value) => value === null || value === undefined;
      found.sort((a, b) => {
        const x = keys.get(a),
          y = keys.get(b);
        if (missing(x) || missing(y)) return missing(x) - missing(y) || a - b;
        return x < y ? -sign : x > y ? sign : a - b;
      });
    }
    state.found = found;
    state.at = 0;
    draw();
    root.dataset.ms = (performance.now() - since).toFixed(1);
  }

  function turn(by) {
    state.at += by;
    draw();
  }

  function draw() {
    const pages = Math.max(1, Math.ceil(state.found.length / page)),
      first = state.at * page;
    const shown = state.found.slice(first, first + page);
    fill(
      rows,
      shown.map((i) =>
        el(
          "tr",
          {
            class: open ? "openable" : null,
            "data-row": i,
            onclick: open
              ? (event) => {
                  if (!event.target.closest("button, a") && !String(getSelection())) open(i);
                }
              : null,
          },
          columns.map((column, c) => cell(column, c, i)),
        ),
      ),
    );
    if (!shown.length) fill(rows, el("tr", {}, el("td", { colspan: columns.length }, "Nothing matches.")));
    status.textContent =
      state.found.length === size ? plural(size, "row") : count(state.found.length) + " of " + count(size) + " rows";
    place.textContent = "page " + count(state.at + 1) + " of " + count(pages);
    previous.disabled = state.at === 0;
    next.disabled = state.at >= pages - 1;
    previous.parentNode.hidden = pages === 1;
    [...head.children].forEach((th, c) =>
      th.setAttribute(
        "aria-sort",
        state.sort && state.sort.column === c ? (state.sort.down ? "descending" : "ascending") : "none",
      ),
    );
    [...head.querySelectorAll(".arrow")].forEach(
      (arrow, c) =>
        (arrow.textContent = state.sort && state.sort.column === c ? (state.sort.down ? " \u25bc" : " \u25b2") : ""),
    );
  }

  function cell(column, c, i) {
    let content = text(column, i);
    if (Array.isArray(content)) content = content.join(", ");
    content =
      column.numeric && !column.text ? count(content) : content === null || content === undefined ? "\u2013" : content;
    const kinds = [column.numeric && "n", column.tight && "tight", column.wide && "wide", column.mono && "mono"]
      .filter(Boolean)
      .join(" ");
    const inner =
      open && c === 0
        ? el("button", { type: "button", class: "open", onclick: () => open(i) }, breakable(content))
        : column.numeric
          ? content
          : column.wrap
            ? breakable(content)
            : bdi(content);
    return el("td", { class: kinds || null }, inner);
  }

  columns.forEach((column, c) =>
    head.append(
      el(
        "th",
        { scope: "col", class: column.numeric ? "n" : null, "aria-sort": "none" },
        el(
          "button",
          {
            type: "button",
            onclick: () => {
              state.sort = {
                column: c,
                down: state.sort && state.sort.column === c ? !state.sort.down : Boolean(column.numeric),
              };
              select_();
            },
          },
          column.label,
          el("span", { class: "arrow", "aria-hidden": "true" }),
        ),
      ),
    ),
  );
  select_();
  if (size > MANY) setTimeout(haystack, 300); // so that the first search is as quick as the next
  return root;
}
