// Shards and episodes, and the record of one.

function records(summary, tables) {
  const s = summary.shards,
    e = tables.episodes,
    inputs = tables.inputs,
    sources = summary.sources;
  const first = [0];
  for (const many of inputs.count) first.push(first[first.length - 1] + many);
  const names = (n) => [...new Set(s.sources[n].map(([source]) => sources[source].entry))];
  const licences = (n) => [...new Set(s.sources[n].map(([source]) => sources[source].license || "unknown"))].sort();
  const dialog = document.getElementById("record");
  document.getElementById("record-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    if (location.hash.startsWith("#shard=") || location.hash.startsWith("#episode="))
      history.replaceState(null, "", location.pathname + location.search);
  });

  function show(title, hash, content) {
    document.getElementById("record-h").textContent = safe(title);
    fill(dialog.querySelector(".body"), content);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    history.replaceState(null, "", hash);
  }

  function shard(n) {
    const own = Array.from({ length: inputs.count[n] }, (_, k) => first[n] + k),
      used = s.sources[n].map(([source, many]) => ({ ...sources[source], many }));
    show("Shard " + n, "#shard=" + n, [
      facts([
        ["sha256", code(s.sha256[n])],
        ["file", code("blobs/sha256/" + s.sha256[n].slice(0, 2) + "/" + s.sha256[n] + ".tar")],
        ["task digest", code(s.task_digest[n])],
        ["plan", code(summary.plan_id)],
        ["split", s.splits[s.split[n]]],
        ["bucket", s.bucket[n]],
        ["samples", count(s.samples[n])],
        ["size", bytes(s.bytes[n])],
        ["licences", bdi(licences(n).join(", "))],
      ]),
      plainTable(
        "Sources",
        [
          ["source", (r) => bdi(r.entry)],
          ["samples", (r) => count(r.many), 1],
          ["licence", (r) => bdi(r.license || "unknown")],
          ["consent", (r) => bdi(r.consent || "unknown")],
          ["commercial use", (r) => bdi(r.commercial_ok)],
          ["revision", (r) => bdi(r.revision)],
        ],
        used,
      ),
      dataTable({
        caption: "Segments of episodes in this shard",
        size: own.length,
        page: 25,
        search: "Search episodes",
        open: (k) => inputs.episode[own[k]] >= 0 && episode(inputs.episode[own[k]]),
        columns: [
          {
            label: "episode",
            value: (k) => (inputs.episode[own[k]] < 0 ? "(not listed)" : e.upstream[inputs.episode[own[k]]]),
            search: true,
          },
          {
            label: "source",
            value: (k) => (inputs.episode[own[k]] < 0 ? "" : sources[e.source[inputs.episode[own[k]]]].entry),
            search: true,
            filter: used.length > 1,
          },
          { label: "from step", value: (k) => inputs.start[own[k]], numeric: true },
          { label: "to", value: (k) => inputs.start[own[k]] + inputs.length[own[k]], numeric: true },
          { label: "samples", value: (k) => inputs.samples[own[k]], numeric: true },
          {
            label: "uid",
            value: (k) => (inputs.episode[own[k]] < 0 ? "" : e.uid[inputs.episode[own[k]]]),
            search: true,
            mono: true,
          },
        ],
      }),
    ]);
  }

  const fate = (i) => (e.reasons[e.reason[i]] ? "dropped: " + e.reasons[e.reason[i]] : "kept");

  function episode(i) {
    const source = sources[e.source[i]],
      where = [];
    for (let n = 0; n < inputs.count.length; n++)
      for (let k = first[n]; k < first[n + 1]; k++) if (inputs.episode[k] === i) where.push({ n, k });
    const bad = e.bad_input.includes(i)
      ? e.accepted.includes(i)
        ? "bad input, accepted by the recipe"
        : "bad input"
      : "";
    show("Episode " + e.upstream[i], "#episode=" + e.uid[i], [
      facts([
        ["uid begins", code(e.uid[i])],
        ["source", bdi(source.entry)],
        ["licence", bdi(source.license || "unknown")],
        ["from", link(source.url)],
        ["revision", bdi(source.revision)],
        ["fate", bdi(fate(i))],
        ["kind of drop", bad],
        ["by step", bdi(e.stages[e.step[i]])],
        ["evidence", bdi(e.evidence[i] || "")],
        ["instruction", bdi(e.tasks[e.task[i]])],
        ["split", e.splits[e.split[i]]],
        ["steps", count(e.steps[i])],
        ["steps kept", count(e.kept_steps[i])],
        ["samples", count(e.samples[i])],
      ]),
      where.length
        ? plainTable(
            "Where it went",
            [
              [
                "shard",
                (r) => el("button", { type: "button", class: "open", onclick: () => shard(r.n) }, "shard " + r.n),
                0,
              ],
              ["from step", (r) => count(inputs.start[r.k]), 1],
              ["to", (r) => count(inputs.start[r.k] + inputs.length[r.k]), 1],
              ["samples", (r) => count(inputs.samples[r.k]), 1],
            ],
            where,
          )
        : el("p", {}, "It is in no shard."),
      el("p", { class: "small muted" }, "The whole uid and more: dataengine audit M --episode ", code(e.uid[i])),
    ]);
  }

  put(body("shards"), [
    dataTable({
      caption: "Shards; open one for its episodes, sources and digests",
      size: s.sha256.length,
      open: shard,
      search: "Search shards (digest, source, licence)",
      page: 25,
      columns: [
        { label: "shard", value: (n) => n, text: (n) => "shard " + n, tight: true },
        { label: "split", value: (n) => s.splits[s.split[n]], filter: true },
        { label: "samples", value: (n) => s.samples[n], numeric: true },
        { label: "size", value: (n) => s.bytes[n], text: (n) => bytes(s.bytes[n]), numeric: true },
        { label: "episodes", value: (n) => inputs.count[n], numeric: true },
        { label: "sources", value: (n) => names(n).length, text: names, wide: true, filter: true, search: true },
        { label: "licences", value: (n) => licences(n).join(), text: licences, wide: true, filter: true, search: true },
        {
          label: "sha256",
          value: (n) => s.sha256[n],
          text: (n) => s.sha256[n].slice(0, 16),
          find: (n) => s.sha256[n],
          mono: true,
        },
        {
          label: "task digest",
          value: (n) => s.task_digest[n],
          text: (n) => s.task_digest[n].slice(0, 16),
          find: (n) => s.task_digest[n],
          mono: true,
        },
      ],
    }),
  ]);
  const many = summary.totals.episodes_in;
  put(body("episodes"), [
    summary.episodes_shown < many
      ? el(
          "p",
          { class: "warn" },
          "Of " +
            count(many) +
            " episodes this page lists " +
            count(summary.episodes_shown) +
            ": those that were dropped, then the first of the others. dataengine audit knows all.",
        )
      : null,
    dataTable({
      caption: "Episodes and what became of them",
      size: e.uid.length,
      open: episode,
      search: "Search episodes (name, instruction, uid)",
      columns: [
        { label: "episode", value: (i) => e.upstream[i], search: true },
        { label: "source", value: (i) => sources[e.source[i]].entry, filter: true, search: true },
        { label: "fate", value: fate, filter: true, search: true },
        e.tasks.some(Boolean) && { label: "instruction", value: (i) => e.tasks[e.task[i]], search: true },
        { label: "split", value: (i) => e.splits[e.split[i]], filter: true },
        e.steps.some((v) => v !== null) && { label: "steps", value: (i) => e.steps[i], numeric: true },
        { label: "samples", value: (i) => e.samples[i], numeric: true },
        { label: "uid", value: (i) => e.uid[i], search: true, mono: true },
      ].filter(Boolean),
    }),
  ]);

  /** Open the record that the address names. */
  return () => {
    const [kind, name] = location.hash.slice(1).split("=");
    if (kind === "shard" && Number(name) >= 0 && Number(name) < s.sha256.length) shard(Number(name));
    else if (kind === "episode" && e.uid.includes(name)) episode(e.uid.indexOf(name));
  };
}
