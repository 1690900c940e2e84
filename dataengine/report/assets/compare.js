// The difference of two versions.

function compare(diff) {
  const section = document.getElementById("compare"),
    target = body("compare");
  section.hidden = false;
  const said = diff.a.name + "@" + diff.a.version + " \u2192 " + diff.b.name + "@" + diff.b.version;
  put(target, [el("p", {}, bdi(said))]);
  if (diff.equal) return put(target, [el("p", {}, "The two versions are equal: same shards, statistics and ledger.")]);
  const change = (value) => el("span", { class: value > 0 ? "plus" : value < 0 ? "minus" : "" }, signed(value));
  const counts = diff.episode_counts,
    shards = diff.shards,
    yes = (flag) => (flag ? "changed" : "unchanged");
  const tiles = [
    ["samples", change(diff.samples)],
    ["episodes added", count(counts.added)],
    ["episodes removed", count(counts.removed)],
    ["episodes whose fate changed", count(counts.changed)],
    [
      "shards the same / added / removed",
      [count(shards.same), " / ", count(shards.added), " / ", count(shards.removed)],
    ],
    ["statistics", yes(diff.normalization_changed)],
    ["recipe", yes(diff.recipe_changed)],
  ];
  const moved = diff.samples_by_source
    .filter((r) => r.before !== r.after)
    .map((r) => ({ name: r.name, value: r.after, mark: r.before }))
    .sort((a, b) => Math.abs(b.value - b.mark) - Math.abs(a.value - a.mark))
    .slice(0, 25);
  put(target, [
    el(
      "dl",
      { class: "tiles" },
      tiles.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
    ),
    moved.length
      ? chart(
          "Samples of the sources that changed",
          "Samples by source: " +
            moved.map((r) => r.name + " from " + count(r.mark) + " to " + count(r.value)).join("; "),
          (width) => bars(moved, width, { show: (r) => signed(r.value - r.mark), mark: true, x: { tickFormat: "s" } }),
          null,
          legend([
            ["now", "var(--bar)"],
            ["before", "var(--text)"],
          ]),
        )
      : null,
    diff.sources.length
      ? plainTable(
          "Sources that changed",
          [
            ["source", (r) => bdi(r.source_id)],
            ["", (r) => r.state],
            ["episodes kept", (r) => change(r.episodes_kept), 1],
            ["dropped", (r) => signed(r.episodes_dropped), 1],
            ["samples", (r) => change(r.samples), 1],
          ],
          diff.sources,
        )
      : null,
    Object.keys(diff.drops).length
      ? plainTable(
          "Drops that changed",
          [
            ["reason", ([reason]) => code(reason)],
            ["episodes", ([, many]) => signed(many), 1],
          ],
          Object.entries(diff.drops),
        )
      : null,
    episodeChanges(diff),
    others(diff),
  ]);
}

function episodeChanges(diff) {
  const rows = ["added", "removed", "changed"].flatMap((kind) => diff.episodes[kind].map((row) => ({ kind, ...row })));
  if (!rows.length) return null;
  const total = Object.values(diff.episode_counts).reduce((a, b) => a + b, 0);
  return [
    rows.length < total
      ? el("p", { class: "muted" }, "Of " + count(total) + " changes the first of each kind are listed.")
      : null,
    dataTable({
      caption: "Episodes that changed",
      size: rows.length,
      page: 20,
      search: "Search changed episodes",
      columns: [
        { label: "episode", value: (i) => rows[i].upstream_id, search: true },
        { label: "change", value: (i) => rows[i].kind, filter: true },
        { label: "source", value: (i) => rows[i].source_id, filter: true, search: true },
        { label: "before", value: (i) => rows[i].before || (rows[i].kind === "removed" ? rows[i].fate : "") },
        { label: "now", value: (i) => rows[i].after || (rows[i].kind === "removed" ? "" : rows[i].fate), search: true },
        { label: "uid", value: (i) => rows[i].uid.slice(0, 20), mono: true, search: true },
      ],
    }),
  ];
}

const SHOWN = [
  "a",
  "b",
  "equal",
  "sources",
  "episodes",
  "episode_counts",
  "samples",
  "drops",
  "shards",
  "samples_by_source",
  "normalization_changed",
  "recipe_changed",
];

/** What else the diff says, in its own words. */
function others(diff) {
  const names = Object.keys(diff).filter((name) => !SHOWN.includes(name));
  const empty = (value) =>
    value === null || value === false || (typeof value === "object" && !Object.keys(value).length);
  return names
    .filter((name) => !empty(diff[name]))
    .map((name) => {
      const value = diff[name],
        title = name.replaceAll("_", " ");
      const rows = Array.isArray(value)
        ? value
        : typeof value === "object"
          ? Object.entries(value).map(([key, entry]) =>
              entry !== null && typeof entry === "object" && !Array.isArray(entry)
                ? { "": key, ...entry }
                : { "": key, change: entry },
            )
          : null;
      if (!rows || !rows.every((row) => row !== null && typeof row === "object"))
        return el("p", {}, title + ": ", bdi(typeof value === "object" ? JSON.stringify(value) : String(value)));
      const keys = [...new Set(rows.flatMap((row) => Object.keys(row)))];
      const told = (v) =>
        typeof v === "number"
          ? Number.isInteger(v)
            ? count(v)
            : number(v)
          : v === undefined || v === null
            ? "\u2013"
            : bdi(typeof v === "object" ? JSON.stringify(v) : String(v));
      return later(title + " (" + count(rows.length) + ")", () =>
        plainTable(
          title,
          keys.map((key) => [
            key.replaceAll("_", " "),
            (row) => told(row[key]),
            rows.every((row) => typeof row[key] === "number"),
          ]),
          rows.slice(0, 500),
        ),
      );
    });
}
