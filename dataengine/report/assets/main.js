// The page's start: theme, navigation, the small data at once, the large when it is unpacked.

function theme() {
  const box = document.getElementById("theme");
  const stored = (value) => {
    try {
      return value === undefined
        ? localStorage.getItem("dataengine-report-theme")
        : localStorage.setItem("dataengine-report-theme", value);
    } catch {
      return null;
    } // a browser may refuse to keep anything for a file
  };
  const apply = (value) => {
    if (value === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = value;
  };
  const first = stored();
  if (["light", "dark"].includes(first)) box.value = first;
  apply(box.value);
  box.addEventListener("change", () => {
    apply(box.value);
    stored(box.value);
  });
}

function navigation() {
  const names = {
    overview: "Overview",
    compare: "Changes",
    mixture: "Mixture",
    drops: "Drops",
    values: "Values",
    samples: "Samples",
    terms: "Licences",
    shards: "Shards",
    episodes: "Episodes",
  };
  for (const [id, name] of Object.entries(names))
    if (!document.getElementById(id).hidden)
      document.getElementById("nav").append(el("li", {}, el("a", { href: "#" + id }, name)));
}

const block = (id) => document.getElementById(id).textContent;

async function unpacked(id) {
  const packed = Uint8Array.from(atob(block(id)), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

async function start() {
  theme();
  const summary = JSON.parse(block("summary")),
    waiting = unpacked("tables");
  overview(summary);
  if (summary.diff) compare(summary.diff);
  navigation();
  mixture(summary);
  drops(summary);
  terms(summary);
  samples(JSON.parse(block("pictures")));
  const tables = await waiting;
  values(tables.channels);
  const open = records(summary, tables);
  open();
  addEventListener("hashchange", open);
  document.documentElement.dataset.ready = performance.now().toFixed(0);
}

start();
