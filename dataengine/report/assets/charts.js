// Charts: drawn as SVG in the width there is, again when it changes, with what they say as text.

const SERIES = 8;
const colour = (n) => "var(--s" + (n % SERIES) + ")";
const drawn = new ResizeObserver((entries) => entries.forEach((entry) => redraw(entry.target)));
const seen = new IntersectionObserver(
  (entries) =>
    entries.forEach((entry) => {
      if (!entry.isIntersecting) return;
      seen.unobserve(entry.target);
      drawn.observe(entry.target);
    }),
  { rootMargin: "300px" },
);
const painters = new WeakMap();

/** A node in which `paint(width)` draws once it comes near the screen. `label` tells the same in words. */
function canvas(label, paint) {
  const node = el("div", { class: "canvas" });
  painters.set(node, { label, paint, width: 0 });
  seen.observe(node);
  return node;
}

function redraw(node) {
  const painter = painters.get(node),
    width = Math.floor(node.clientWidth);
  if (!painter || !width || painter.width === width) return;
  painter.width = width;
  const svg = painter.paint(width);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", safe(painter.label));
  node.replaceChildren(svg);
}

/** A chart with its title, and its numbers as a table below. */
function chart(title, label, paint, table, key) {
  return el(
    "figure",
    { class: "chart" },
    el("figcaption", {}, title),
    key || null,
    canvas(label, paint),
    table ? later("Show the numbers", table) : null,
  );
}

const legend = (pairs) =>
  el(
    "ul",
    { class: "key" },
    pairs.map(([name, fillColour]) => {
      const mark = el("i", { "aria-hidden": "true" });
      mark.style.background = fillColour;
      return el("li", {}, mark, bdi(name));
    }),
  );

/** Names short enough for the space left of the bars. */
function margin(names, width) {
  const longest = Math.max(4, ...names.map((name) => name.length));
  const left = Math.min(7.2 * longest + 14, width * 0.38, 260),
    letters = Math.floor((left - 14) / 7.2);
  return {
    left,
    shorten: (name) => (name.length > letters ? safe(name).slice(0, letters - 1) + "\u2026" : safe(name)),
  };
}

/** Horizontal bars. rows: { name, value, mark: a second value shown as a line }, told by `show`. */
function bars(rows, width, { show, mark, room = 64, x = {} } = {}) {
  const { left, shorten } = margin(
    rows.map((row) => row.name),
    width,
  );
  const data = rows.map((row, n) => ({ ...row, n })),
    most = Math.max(...rows.map((row) => Math.max(row.value, row.mark || 0)));
  return Plot.plot({
    width,
    height: 34 + 26 * rows.length,
    marginLeft: left,
    marginRight: room,
    marginTop: 8,
    marginBottom: 26,
    style: { fontSize: "12px", background: "none" },
    x: { label: null, ticks: Math.max(2, Math.min(6, width / 110)), grid: true, ...x },
    y: { domain: data.map((row) => row.n), label: null, tickFormat: (n) => shorten(rows[n].name), tickSize: 0 },
    marks: [
      Plot.barX(data, { x: "value", y: "n", fill: "var(--bar)", insetTop: 3, insetBottom: 3 }),
      mark
        ? Plot.tickX(
            data.filter((row) => row.mark !== null),
            { x: "mark", y: "n", stroke: "var(--text)", strokeWidth: 3 },
          )
        : null,
      Plot.text(data, {
        x: (row) => (mark && row.mark > row.value && row.mark - row.value < 0.2 * most ? row.mark : row.value),
        y: "n",
        text: (row) => show(row),
        textAnchor: "start",
        dx: 5,
        fill: "currentColor",
      }),
      Plot.ruleX([0], { stroke: "var(--edge)" }),
    ],
  });
}

/** A histogram of { low, high, counts }; bars beyond `inside` stand out. */
function histogram(data, width, { inside } = {}) {
  const size = (data.high - data.low) / data.counts.length || 1e-9;
  const low = data.high > data.low ? data.low : data.low - 12 * size;
  const items = data.counts.map((n, i) => ({ n, x1: low + i * size, x2: low + (i + 1) * size }));
  const beyond = (item) => inside && (item.x2 <= -inside + 1e-9 || item.x1 >= inside - 1e-9);
  const domain = [low, low + size * data.counts.length];
  return Plot.plot({
    width,
    height: 84,
    marginLeft: 6,
    marginRight: 6,
    marginTop: 4,
    marginBottom: 20,
    style: { fontSize: "11px", background: "none" },
    x: {
      domain,
      ticks: inside ? [-inside, 0, inside] : [],
      tickFormat: (v) => number(Number(v.toPrecision(3))),
      label: null,
      tickSize: 3,
    },
    y: { axis: null },
    marks: [
      Plot.rectY(items, {
        x1: "x1",
        x2: "x2",
        y: "n",
        fill: (item) => (beyond(item) ? "var(--warnbar)" : "var(--bar)"),
        insetLeft: 0.5,
        insetRight: 0,
      }),
      inside ? Plot.ruleX([-inside, inside], { stroke: "var(--edge)", strokeDasharray: "2,2" }) : null,
      Plot.ruleY([0], { stroke: "var(--edge)" }),
      inside ? null : domain.map((v, n) => end(v, n)),
    ],
  });
}

/** The number at an end of a histogram's axis, within its width. */
function end(value, last) {
  const side = last ? "right" : "left";
  const place = { frameAnchor: "bottom-" + side, textAnchor: last ? "end" : "start", dy: 14, dx: last ? 5 : -5 };
  return Plot.text([number(Number(value.toPrecision(3)))], { ...place, fill: "currentColor" });
}

/** Curves over seconds: { seconds, names, values: [channel][time] }, null where nothing is known. */
function curves(data, width) {
  const points = data.names.flatMap((name, c) =>
    data.seconds.map((t, i) => ({ c, t, v: data.values[c][i] === null ? NaN : data.values[c][i] })),
  );
  const few = data.seconds.length <= 24,
    known = points.map((p) => p.v).filter((v) => v === v);
  const low = Math.min(...known),
    high = Math.max(...known),
    flat = high - low < 1e-6 * Math.max(1, Math.abs(high));
  return Plot.plot({
    width,
    height: 118,
    marginLeft: 44,
    marginRight: 8,
    marginTop: 8,
    marginBottom: 22,
    style: { fontSize: "11px", background: "none" },
    color: { type: "identity" },
    x: { label: null, ticks: 4, tickFormat: (t) => number(t) + " s" },
    y: {
      label: null,
      ticks: 4,
      grid: true,
      nice: true,
      domain: flat ? [low - Math.max(0.1, Math.abs(low) / 2), high + Math.max(0.1, Math.abs(high) / 2)] : [low, high],
      tickFormat: (v) => number(v),
    },
    marks: [
      Plot.lineY(points, { x: "t", y: "v", z: "c", stroke: (p) => colour(p.c), strokeWidth: 1.6 }),
      few
        ? Plot.dot(
            points.filter((p) => p.v === p.v),
            { x: "t", y: "v", fill: (p) => colour(p.c), r: 2 },
          )
        : null,
    ],
  });
}

/** Kept and dropped of each source, as shares of what came in. */
function fates(rows, width) {
  const { left, shorten } = margin(
    rows.map((row) => row.name),
    width,
  );
  const data = rows.flatMap((row, n) => [
    { n, x1: 0, x2: row.kept / row.total, kind: 0 },
    { n, x1: row.kept / row.total, x2: 1, kind: 1 },
  ]);
  return Plot.plot({
    width,
    height: 34 + 26 * rows.length,
    marginLeft: left,
    marginRight: 96,
    marginTop: 8,
    marginBottom: 26,
    style: { fontSize: "12px", background: "none" },
    x: { domain: [0, 1], ticks: [0, 0.5, 1], label: null, tickFormat: (v) => 100 * v + " %" },
    y: { domain: rows.map((_, n) => n), label: null, tickFormat: (n) => shorten(rows[n].name), tickSize: 0 },
    marks: [
      Plot.barX(data, {
        x1: "x1",
        x2: "x2",
        y: "n",
        fill: (d) => (d.kind ? "var(--warnbar)" : "var(--bar)"),
        insetTop: 3,
        insetBottom: 3,
      }),
      Plot.text(rows, {
        x: 1,
        y: (_, n) => n,
        text: (row) => count(row.kept) + " / " + count(row.total),
        textAnchor: "start",
        dx: 5,
        fill: "currentColor",
      }),
    ],
  });
}
