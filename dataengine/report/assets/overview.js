// The first screen, composition, drops, and terms.

function overview(summary) {
  const t = summary.totals;
  document.getElementById("title").textContent = safe(summary.name + "@" + summary.version);
  document.getElementById("subtitle").textContent = safe(summary.description);
  const tiles = [
    [t.kind === "episode" ? "segments and items" : "samples", count(t.samples)],
    ...(t.draws === null ? [] : [["draws in an epoch", count(t.draws)]]),
    ["episodes kept", count(t.episodes_kept) + " / " + count(t.episodes_in)],
    ["time kept", t.seconds === null ? "not recorded" : duration(t.seconds)],
    ["sources", count(t.sources)],
    ["shards", count(t.shards)],
    ["size", bytes(t.bytes)],
  ];
  put(body("overview"), [
    el(
      "dl",
      { class: "tiles" },
      tiles.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
    ),
    el("div", { class: "answers" }, asked(summary), lost(summary), sane(summary)),
    el("h3", {}, "What to look at"),
    summary.findings.length
      ? el(
          "ul",
          { class: "findings panel" },
          summary.findings.map((finding) =>
            el(
              "li",
              {},
              el("span", { class: "level " + finding.level }, finding.level),
              el(
                "span",
                {},
                bdi(finding.text),
                " ",
                el("a", { href: "#" + finding.section, "aria-label": "show " + finding.section }, "show"),
              ),
            ),
          ),
        )
      : el("p", {}, "Nothing stands out."),
    el(
      "details",
      {},
      el("summary", {}, "Identity"),
      facts([
        ["manifest", code(summary.manifest)],
        ["plan", code(summary.plan_id)],
        ["lake", code(summary.lake_digest)],
        ["schema", code(summary.schema)],
      ]),
    ),
  ]);
}

const code = (text) => el("code", {}, text);

function asked(summary) {
  const off = summary.sources
    .filter((s) => s.planned !== null && s.realized !== null)
    .map((s) => ({ ...s, off: Math.abs(s.realized - s.planned) }))
    .sort((a, b) => b.off - a.off)[0];
  const capped = summary.sources.filter((s) => s.capped).length;
  const say = !off
    ? "The recipe's shares are not known."
    : off.off < 0.01
      ? "Yes: every source is within one point of its planned share" +
        (capped ? "; caps hold " + count(capped) + " of them." : ".")
      : [
          "Furthest from its share: ",
          bdi(off.entry),
          ", " + percent(off.realized) + " of the mixture, " + percent(off.planned) + " planned.",
        ];
  return el(
    "div",
    {},
    el("h3", {}, "Is it what was asked for?"),
    el("p", {}, say),
    el("p", {}, el("a", { href: "#mixture" }, "Composition")),
  );
}

function lost(summary) {
  const t = summary.totals,
    first = summary.drops[0];
  const say = !t.episodes_dropped
    ? "Nothing: all " + count(t.episodes_in) + " episodes are in."
    : [
        plural(t.episodes_dropped, "episode") +
          " of " +
          count(t.episodes_in) +
          " (" +
          percent(t.episodes_dropped / t.episodes_in) +
          "), most for ",
        bdi(first.reason),
        "; " + plural(t.bad_input, "was", "were") + " bad input the recipe does not accept.",
      ];
  return el(
    "div",
    {},
    el("h3", {}, "What was dropped?"),
    el("p", {}, say),
    el("p", {}, el("a", { href: "#drops" }, "Drops by reason")),
  );
}

function sane(summary) {
  const v = summary.values;
  const say = !v.channels
    ? "There are no channels with statistics."
    : [
        plural(v.channels, "channel") +
          " by embodiment, side and form. Most cut off by the clip: " +
          percent(v.worst_cut, 2),
        v.worst ? [" (", bdi(v.worst), ")"] : "",
        "; " + count(v.constant) + " never move.",
      ];
  return el(
    "div",
    {},
    el("h3", {}, "Are the actions sane?"),
    el("p", {}, say),
    el("p", {}, el("a", { href: "#values" }, "Distributions")),
  );
}

const UNITS = { sample: "samples", episode: "episodes", frame: "steps", hour: "hours" };

function mixture(summary) {
  const rows = summary.sources,
    known = rows.some((row) => row.planned !== null);
  const order = [...rows].sort((a, b) => b.realized - a.realized || (a.entry < b.entry ? -1 : 1));
  const shares = order.filter((row, n) => order.findIndex((other) => other.entry === row.entry) === n);
  const columns = [
    ["source", (r) => bdi(r.entry)],
    ["family", (r) => r.family],
    ["embodiment", (r) => r.embodiment || "\u2013"],
    ["by weight", (r) => percent(r.requested), 1],
    ["planned", (r) => percent(r.planned), 1],
    ["realized", (r) => percent(r.realized), 1],
    ["weight", (r) => number(r.weight), 1],
    [
      "cap",
      (r) => (r.cap === null ? "\u2013" : count(r.cap) + " " + UNITS[r.cap_unit] + (r.capped ? "" : " (not reached)")),
      1,
    ],
    ["rate", (r) => number(r.rate), 1],
    ["episodes", (r) => count(r.episodes_kept), 1],
    ["in samples", (r) => count(r.episodes_used), 1],
    ["samples", (r) => count(r.samples), 1],
    ["steps kept", (r) => count(r.kept_steps), 1],
    ["length", (r) => duration(r.seconds), 1],
  ];
  const table = () => plainTable("Sources: what the recipe asks and what became of it", columns, order);
  put(body("mixture"), [
    known
      ? chart(
          "Share of each source, in " + UNITS[summary.unit],
          "Share of each source. " +
            order
              .map(
                (r) =>
                  r.entry +
                  ": " +
                  percent(r.realized) +
                  ", planned " +
                  percent(r.planned) +
                  ", by weight alone " +
                  percent(r.requested),
              )
              .join("; "),
          (width) =>
            bars(
              shares.map((r) => ({ name: r.entry, value: r.realized, mark: r.planned })),
              width,
              { show: (r) => percent(r.value), mark: true, x: { tickFormat: (v) => Math.round(100 * v) + " %" } },
            ),
          null,
          legend([
            ["realized", "var(--bar)"],
            ["planned: weights and groups within the caps", "var(--text)"],
          ]),
        )
      : el("p", {}, "This version's recipe is not readable here: what was asked for is not known."),
    table(),
    parts(summary),
  ]);
}

const PARTS = ["family", "source", "embodiment", "task", "license", "split"];

function parts(summary) {
  const measures = [
    ["samples", "samples"],
    ["episodes", "episodes kept"],
    ["steps", "steps kept"],
    ["seconds", "hours kept"],
  ].filter(([name]) => summary.parts.source.every((part) => part[name] !== null));
  const state = { by: "family", of: "samples" },
    holder = el("div");
  const show = (row) => (state.of === "seconds" ? duration(row.value) : count(row.value));
  const draw = () => {
    const all = summary.parts[state.by]
      .map((part) => ({ name: part.name, value: part[state.of] }))
      .sort((a, b) => b.value - a.value);
    const top = all.slice(0, 20),
      title = "By " + state.by + ", " + measures.find(([name]) => name === state.of)[1];
    const scale = state.of === "seconds" ? { tickFormat: (v) => duration(v) } : { tickFormat: "s" };
    fill(
      holder,
      chart(
        title + (all.length > top.length ? " (the first 20 of " + count(all.length) + ")" : ""),
        title + ": " + top.map((r) => r.name + " " + show(r)).join("; "),
        (width) => bars(top, width, { show, x: scale }),
        () =>
          plainTable(
            title,
            [
              [state.by, (p) => bdi(p.name)],
              ["samples", (p) => count(p.samples), 1],
              ["episodes", (p) => count(p.episodes), 1],
              ["steps", (p) => count(p.steps), 1],
              ["length", (p) => duration(p.seconds), 1],
            ],
            summary.parts[state.by],
          ),
      ),
    );
  };
  const by = select(
    "Composition by",
    PARTS.filter((name) => summary.parts[name]).map((name) => [name, name]),
    (value) => {
      state.by = value;
      draw();
    },
    state.by,
  );
  const of = select(
    "in",
    measures,
    (value) => {
      state.of = value;
      draw();
    },
    state.of,
  );
  draw();
  const missing =
    measures.length < 4
      ? el(
          "p",
          { class: "muted small" },
          "This version's ledger does not tell steps and hours; dataengine report --lake reads them from the lake.",
        )
      : null;
  return [el("h3", {}, "Composition"), el("div", { class: "controls" }, by.node, of.node), missing, holder];
}

function drops(summary) {
  const target = body("drops"),
    rows = summary.drops;
  const came = summary.sources
    .map((s) => ({ name: s.entry, kept: s.episodes_kept, total: s.episodes_in }))
    .sort((a, b) => a.kept / a.total - b.kept / b.total);
  const shortened = summary.sources.filter((s) => s.steps && s.kept_steps !== null && s.kept_steps < s.steps);
  if (!rows.length)
    put(target, [
      el("p", {}, "Nothing was dropped: all " + count(summary.totals.episodes_in) + " episodes are in the version."),
    ]);
  else {
    const reasons = new Map();
    for (const row of rows) reasons.set(row.reason, (reasons.get(row.reason) || 0) + row.episodes);
    const all = [...reasons]
      .map(([name, value]) => ({ name, value }))
      .sort((a, b) => b.value - a.value)
      .slice(0, 20);
    put(target, [
      el(
        "div",
        { class: "two" },
        chart(
          "Episodes dropped, by reason",
          "Dropped by reason: " + all.map((r) => r.name + " " + count(r.value)).join("; "),
          (width) => bars(all, width, { show: (r) => count(r.value), x: { tickFormat: "s" } }),
        ),
        chart(
          "Kept of what came in, by source",
          "Kept by source: " + came.map((r) => r.name + " " + count(r.kept) + " of " + count(r.total)).join("; "),
          (width) => fates(came.slice(0, 25), width),
          null,
          legend([
            ["kept", "var(--bar)"],
            ["dropped", "var(--warnbar)"],
          ]),
        ),
      ),
      plainTable(
        "Dropped episodes by reason, source and step, with an example",
        [
          ["reason", (r) => code(r.reason)],
          ["source", (r) => bdi(r.source)],
          ["by step", (r) => bdi(r.step)],
          ["episodes", (r) => count(r.episodes), 1],
          [
            "kind",
            (r) =>
              r.bad_input
                ? r.accepted
                  ? "bad input, accepted by the recipe"
                  : el("span", { class: "bad" }, "bad input")
                : "filtered",
          ],
          ["example", (r) => [bdi(r.example), el("br"), el("span", { class: "muted small" }, bdi(r.evidence))]],
        ],
        rows,
      ),
    ]);
  }
  if (shortened.length)
    put(target, [
      plainTable(
        "Steps that filters took from episodes that stayed",
        [
          ["source", (s) => bdi(s.entry)],
          ["steps", (s) => count(s.steps), 1],
          ["kept", (s) => count(s.kept_steps), 1],
          ["taken", (s) => percent(1 - s.kept_steps / s.steps), 1],
        ],
        shortened,
      ),
    ]);
}

/** A link where the address is one of the web; else its text. */
const link = (url) =>
  /^https?:\/\//.test(url) ? el("a", { href: url, rel: "noreferrer noopener" }, url) : bdi(url || "\u2013");

function terms(summary) {
  const more = [...new Set(summary.sources.flatMap((s) => Object.keys(s.more)))];
  const unsure = (text) =>
    ["", "unknown", "NOASSERTION", "no"].includes(String(text))
      ? el("span", { class: "warn" }, text || "unknown")
      : bdi(text);
  const plain = (value) =>
    value === null || value === undefined
      ? "\u2013"
      : typeof value === "object"
        ? JSON.stringify(value)
        : String(value);
  put(body("terms"), [
    plainTable(
      "One row a source; what its converter says, \u201cunknown\u201d where nobody said",
      [
        [
          "source",
          (s) => [
            bdi(s.entry),
            s.source_id === s.entry ? null : [el("br"), el("span", { class: "muted small" }, bdi(s.source_id))],
          ],
        ],
        ["samples", (s) => count(s.samples), 1],
        ["licence", (s) => unsure(s.license)],
        ["commercial use", (s) => unsure(s.commercial_ok)],
        ["consent", (s) => unsure(s.consent)],
        ["synthetic", (s) => (s.synthetic ? "yes" : "no")],
        [
          "from",
          (s) => [
            link(s.url),
            el("br"),
            el("span", { class: "muted small" }, "revision ", bdi(s.revision || "unknown")),
          ],
        ],
        ["terms", (s) => link(s.terms_url)],
        ...more.map((name) => [name.replaceAll("_", " "), (s) => bdi(plain(s.more[name]))]),
      ],
      summary.sources,
    ),
  ]);
}
