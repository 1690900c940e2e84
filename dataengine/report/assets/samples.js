// Samples of every source: frames, prompt or conversation, curves.

function samples(list) {
  const target = body("samples");
  if (!list.length) return put(target, [el("p", {}, "No samples were put into this report (--samples).")]);
  const entries = [...new Set(list.map((sample) => sample.entry))],
    state = { only: "" },
    holder = el("div");
  const draw = () =>
    fill(
      holder,
      entries
        .filter((entry) => !state.only || entry === state.only)
        .map((entry) => [el("h3", {}, bdi(entry)), list.filter((sample) => sample.entry === entry).map(sampleCard)]),
    );
  put(target, [
    el(
      "div",
      { class: "controls" },
      select(
        "Source",
        [["", "all " + count(entries.length)], ...entries.map((e) => [e, safe(e)])],
        (v) => {
          state.only = v;
          draw();
        },
        "",
      ).node,
    ),
    holder,
  ]);
  draw();
}

function sampleCard(s) {
  const where = [
    bdi(s.upstream_id),
    s.kind === "window" ? ", step " + count(s.step) + " of " + count(s.length) + " at " + number(s.hz) + " Hz" : "",
  ];
  const body_ = [
    el("h4", {}, where),
    el(
      "p",
      { class: "small muted" },
      [s.embodiment, s.control_mode].filter(Boolean).map((text) => [bdi(text), " \u00b7 "]),
      "key ",
      code(s.key),
    ),
  ];
  if (s.kind === "item")
    body_.push(pictures(Object.entries(s.media).map(([name, picture]) => [name, picture])), s.messages.map(turn));
  else {
    body_.push(
      s.prompt === null
        ? el("p", { class: "muted" }, "No instruction.")
        : [el("h4", {}, "Prompt"), el("blockquote", { dir: "auto" }, s.prompt)],
    );
    if (s.views.length) body_.push(el("h4", {}, "Views at this step"), pictures(s.views.map((v) => [v.view, v])));
    if (s.strip.length > 1)
      body_.push(
        el("h4", {}, "Frames of ", bdi(s.strip_view), ", samples of the same segment"),
        pictures(
          s.strip.map((f) => ["step " + count(f.step), f]),
          false,
        ),
      );
    if (!s.views.length) body_.push(el("p", { class: "muted small" }, "This source has no pictures."));
    const note = s.normalized ? " (normalized: the version is baked)" : "";
    body_.push(
      plots("State over the segment" + note, s.state),
      plots(
        "Action chunk from this step on" +
          note +
          (s.padding ? ", " + plural(s.padding, "step") + " of padding left out" : ""),
        s.action,
      ),
    );
  }
  return el("article", { class: "panel sample" }, body_);
}

const pictures = (pairs, sizes = true) =>
  el(
    "ul",
    { class: "strip" },
    pairs.map(([name, p]) =>
      el(
        "li",
        {},
        el(
          "figure",
          {},
          p
            ? el("img", {
                src: "data:image/jpeg;base64," + p.jpeg,
                width: p.width,
                height: p.height,
                loading: "lazy",
                decoding: "async",
                alt: safe(name),
              })
            : el("p", { class: "muted small" }, "no still picture"),
          el(
            "figcaption",
            { class: "small" },
            bdi(name),
            p && sizes ? el("span", { class: "muted" }, " " + p.of[0] + "\u00d7" + p.of[1]) : null,
          ),
        ),
      ),
    ),
  );

const turn = (m) =>
  el(
    "div",
    { class: "turn" + (m.loss ? " trained" : "") },
    el("b", {}, bdi(m.role)),
    m.loss ? el("span", { class: "good small" }, " trained on") : null,
    el(
      "blockquote",
      { dir: "auto" },
      m.parts.map((part) => (part.text !== undefined ? part.text : el("em", {}, "[", bdi(part.media), "] "))),
    ),
  );

function plots(title, list) {
  if (!list.length) return el("p", { class: "muted small" }, title + ": none.");
  return el(
    "div",
    {},
    el("h4", {}, title),
    el(
      "div",
      { class: "plots" },
      list.map((data) => {
        const flat = data.values.flat().filter((v) => v !== null);
        const low = flat.length ? Math.min(...flat) : null,
          high = flat.length ? Math.max(...flat) : null;
        const label =
          title +
          ", " +
          data.slot +
          ", " +
          plural(data.names.length, "channel") +
          ": " +
          number(low) +
          " to " +
          number(high) +
          " " +
          data.unit;
        const told = [bdi(data.slot), " " + data.unit + (data.label ? ", " + data.label : "")];
        return el(
          "figure",
          {},
          el("figcaption", { class: "small" }, told),
          data.names.length > 1 ? legend(data.names.map((name, c) => [name, colour(c)])) : null,
          data.seconds.length === 1
            ? el(
                "p",
                { class: "small" },
                data.names.map((name, c) => [c ? ", " : "", bdi(name), " " + number(data.values[c][0])]),
              )
            : flat.length
              ? canvas(label, (width) => curves(data, width))
              : el("p", { class: "muted small" }, "masked throughout"),
        );
      }),
    ),
    later("Show the numbers", () =>
      list.map((data) =>
        plainTable(
          data.slot + " in " + data.unit,
          [
            ["seconds", (i) => number(data.seconds[i]), 1],
            ...data.names.map((name, c) => [name, (i) => number(data.values[c][i]), 1]),
          ],
          data.seconds.map((_, i) => i),
        ),
      ),
    ),
  );
}
