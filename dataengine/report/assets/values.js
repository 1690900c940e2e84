// Distributions of every channel, before and after normalization.

function values(channels) {
  const target = body("values"),
    size = channels.channel ? channels.channel.length : 0;
  if (!size) return put(target, [el("p", {}, "No source of this version has state or action.")]);
  const row = (i) => Object.fromEntries(Object.keys(channels).map((name) => [name, channels[name][i]]));
  const all = Array.from({ length: size }, (_, i) => i),
    cards = el("div", { class: "cards" });
  const forms = [...new Set(channels.form)],
    groups = [...new Set(channels.group)];
  const most = (side) => all.filter((i) => channels.side[i] === side).sort((a, b) => channels.n[b] - channels.n[a])[0];
  const side = most("action") === undefined ? "state" : "action";
  const state = { group: channels.group[most(side)], side, form: "absolute" };

  function draw() {
    const chosen = all.filter(
      (i) =>
        channels.group[i] === state.group &&
        channels.side[i] === state.side &&
        channels.form[i] === (state.side === "state" ? "absolute" : state.form),
    );
    boxes[2].box.disabled = state.side === "state";
    fill(cards, chosen.length ? chosen.map((i) => card(row(i), i)) : el("p", {}, "Nothing of this."));
  }
  const boxes = [
    select(
      "Group (embodiment / control mode)",
      groups.map((g) => [g, safe(g)]),
      (v) => {
        state.group = v;
        draw();
      },
      state.group,
    ),
    select(
      "Side",
      [
        ["state", "state"],
        ["action", "action"],
      ],
      (v) => {
        state.side = v;
        draw();
      },
      state.side,
    ),
    select(
      "Action as",
      forms.map((f) => [f, f]),
      (v) => {
        state.form = v;
        draw();
      },
      state.form,
    ),
  ];
  const show = (i) => {
    Object.assign(state, { group: channels.group[i], side: channels.side[i], form: channels.form[i] });
    boxes.forEach((box, n) => (box.box.value = [state.group, state.side, state.form][n]));
    draw();
    const own = document.getElementById("channel-" + i);
    own.classList.add("chosen");
    own.focus();
    own.scrollIntoView({ block: "center" });
  };
  put(target, [
    el(
      "p",
      {},
      "Every channel is scaled so that its range becomes \u22121 to 1, and what lies further out than the clip is cut off. Values of the train split, each once, whatever the rates.",
    ),
    dataTable({
      caption: "Channels, most cut off first; open one to see its values",
      size,
      open: show,
      page: 10,
      search: "Search channels",
      sort: { column: 6, down: true },
      columns: [
        { label: "channel", value: (i) => channels.slot[i] + " " + channels.name[i], search: true, tight: true },
        {
          label: "group",
          value: (i) => channels.group[i],
          wrap: true,
          wide: true,
          search: true,
          filter: groups.length > 1,
        },
        { label: "side", value: (i) => channels.side[i], filter: true },
        { label: "as", value: (i) => channels.form[i], filter: forms.length > 1 },
        { label: "kind", value: (i) => channels.class[i], filter: true },
        {
          label: "outside range",
          value: (i) => channels.outside[i],
          text: (i) => percent(channels.outside[i], 2),
          numeric: true,
        },
        { label: "cut off", value: (i) => channels.cut[i], text: (i) => percent(channels.cut[i], 2), numeric: true },
        { label: "values", value: (i) => channels.n[i], numeric: true },
        { label: "min", value: (i) => channels.min[i], text: (i) => number(channels.min[i]), numeric: true },
        { label: "max", value: (i) => channels.max[i], text: (i) => number(channels.max[i]), numeric: true },
        { label: "unit", value: (i) => channels.unit[i] },
      ],
    }),
    el("h3", {}, "Before and after normalization"),
    el(
      "div",
      { class: "controls" },
      boxes.map((box) => box.node),
    ),
    legend([
      ["within the range", "var(--bar)"],
      ["beyond it: |value| over 1 after normalization", "var(--warnbar)"],
    ]),
    cards,
  ]);
  draw();
}

function card(r, i) {
  const range = r.low === null ? "no range" : number(r.low) + " \u2026 " + number(r.high) + " " + r.unit;
  const scaled = r.method !== "identity";
  const told = [
    scaled ? r.method : "not scaled",
    r.class,
    scaled && "range " + range,
    "outside " + percent(r.outside, 2),
    "cut off " + percent(r.cut, 2),
  ]
    .filter(Boolean)
    .join(" \u00b7 ");
  const span = "min " + number(r.min) + ", mean " + number(r.mean) + ", max " + number(r.max) + " " + r.unit;
  const small = (title, label, data, options) =>
    el(
      "figure",
      {},
      el("figcaption", {}, title),
      data ? canvas(label, (width) => histogram(data, width, options)) : el("p", { class: "small muted" }, "no values"),
    );
  const name = r.slot + " " + r.name;
  return el(
    "article",
    { class: "card", id: "channel-" + i, tabindex: -1 },
    el("h4", {}, breakable(name)),
    el(
      "div",
      { class: "pair" },
      small("before, " + r.unit, name + " before: " + span, r.before),
      small("after", name + " after normalization: " + told, r.after, r.method === "identity" ? {} : { inside: 1 }),
    ),
    el("p", { class: "small" + (r.cut >= 0.01 ? " warn" : " muted") }, told),
    el(
      "p",
      { class: "small muted" },
      span + ", n " + count(r.n) + (r.excluded ? ", " + count(r.excluded) + " not finite" : ""),
    ),
  );
}
