// The difference of two versions.

function compare(diff) {
  const section = document.getElementById("compare"),
    target = body("compare");
  section.hidden = false;
  const said = diff.a.name + "@" + diff.a.version + " \u2192 " + diff.b.name + "@" + diff.b.version;
  put(target, [el("p", {}, bdi(said))]);
  if (diff.equal) return put(target, [el("p", {}, "The two versions are equal: same shards, statistics and ledger.")]);
  const change = (value) => el("span", { class: value > 0 ? "plus" : value < 0 ? "minus" : "" }, signed(value));
  const counts = diff.counts,
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
    recipeChanges(diff),
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
            ["change", (r) => r.state],
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
    taskChanges(diff),
    statisticsChanges(diff),
    episodeChanges(diff),
  ]);
}

function episodeChanges(diff) {
  const rows = ["added", "removed", "changed"].flatMap((kind) => diff.episodes[kind].map((row) => ({ kind, ...row })));
  if (!rows.length) return null;
  const total = Object.values(diff.counts).reduce((a, b) => a + b, 0);
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

/** What the recipe says otherwise: the cause of all the rest. */
function recipeChanges(diff) {
  const plain = (value) =>
    value === null || value === undefined ? "\u2013" : typeof value === "string" ? value : JSON.stringify(value);
  const steps = (diff.steps || []).map((r) => ({
    field: [r.source, r.kind].filter(Boolean).join(" "),
    before: r.state === "removed" ? plain(r.step) : "",
    after: r.state === "removed" ? "" : plain(r.step) + (r.state === "reordered" ? " (reordered)" : ""),
  }));
  const fields = (diff.recipe || []).map((r) => ({ field: r.field, before: plain(r.before), after: plain(r.after) }));
  const rows = [...steps, ...fields];
  if (!rows.length) return null;
  return plainTable(
    "What the recipe says otherwise",
    [
      ["field", (r) => breakable(r.field)],
      ["before", (r) => code(r.before)],
      ["now", (r) => code(r.after)],
    ],
    rows.slice(0, 200),
  );
}

/** Instructions whose episodes gained or lost, the greatest loss first. */
function taskChanges(diff) {
  const rows = diff.tasks || [];
  if (!rows.length) return null;
  const told = (name) => (i) => signed(rows[i][name]);
  return dataTable({
    caption: "Tasks that gained or lost",
    size: rows.length,
    page: 10,
    search: "Search tasks",
    columns: [
      { label: "task", value: (i) => rows[i].task, search: true, wide: true },
      { label: "source", value: (i) => rows[i].source, filter: true, search: true },
      { label: "episodes", value: (i) => rows[i].episodes, text: told("episodes"), numeric: true },
      { label: "steps kept", value: (i) => rows[i].kept_steps, text: told("kept_steps"), numeric: true },
      { label: "samples", value: (i) => rows[i].samples, text: told("samples"), numeric: true },
    ],
  });
}

/** Channels that are scaled otherwise: a policy trained on the one does not read the other. */
function statisticsChanges(diff) {
  const rows = diff.statistics || [];
  if (!rows.length) return null;
  return dataTable({
    caption: "Channels that are scaled otherwise",
    size: rows.length,
    page: 10,
    search: "Search channels",
    columns: [
      {
        label: "slot",
        value: (i) => rows[i].slot,
        text: (i) => rows[i].slot + ", channel " + rows[i].channel,
        search: true,
      },
      { label: "group", value: (i) => rows[i].group, filter: true, search: true, wrap: true, wide: true },
      { label: "side", value: (i) => rows[i].side, filter: true },
      { label: "as", value: (i) => rows[i].representation, filter: true },
      { label: "change", value: (i) => rows[i].state, filter: true },
      {
        label: "mean moved, in old deviations",
        value: (i) => rows[i].shift,
        text: (i) => number(rows[i].shift),
        numeric: true,
      },
      { label: "width times", value: (i) => rows[i].widening, text: (i) => number(rows[i].widening), numeric: true },
    ],
  });
}
