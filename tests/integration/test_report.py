"""The report: one page that opens from disk in a headless Chromium, says what the version says, and cannot be hijacked.

Chromium is Debian's, or the one that DATAENGINE_CHROMIUM names. `-s` prints the measured times.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from typer.testing import CliRunner

from dataengine import api, demo
from dataengine.cli.main import app
from dataengine.documents import sha256_bytes
from dataengine.loader import open_mixture
from dataengine.mixture import ledger as ledgers
from dataengine.mixture.statistics import stored
from dataengine.mixture.store import MixtureStore
from dataengine.normalization.normalizer import Normalizer
from dataengine.report import distributions
from dataengine.report.data import Document, collect
from dataengine.report.page import page
from dataengine.report.version import Version
from dataengine.specs.records import Manifest, ShardEntry

REPO = Path(__file__).resolve().parents[2]
FAMILIES = {"robot", "simulation", "egocentric", "navigation", "vision_language"}
DARK, LIGHT = "rgb(16, 19, 23)", "rgb(246, 247, 249)"
SLACK = 5  # of a measured time, for a machine that does other things too


@dataclass
class Seen:
    """A page, and all that it did that a report must not do."""

    page: Page
    faults: list[str] = field(default_factory=list)


Open = Callable[..., AbstractContextManager[Seen]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = (
        os.environ.get("DATAENGINE_CHROMIUM"),
        *map(shutil.which, ("chromium", "chromium-browser", "google-chrome")),
    )
    program = next(filter(None, names), None)
    if program is None:
        reason = "no Chromium: apt-get install chromium, or set DATAENGINE_CHROMIUM"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def opened(browser: Browser) -> Open:
    """Open a file as a reader does; at the end there must have been no console message, no error and no request."""

    @contextmanager
    def go(file: Path, *, scheme: str = "light", width: int = 1280, anchor: str = "") -> Iterator[Seen]:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        seen = Seen(context.new_page())
        seen.page.on("console", lambda message: seen.faults.append(f"console {message.type}: {message.text}"))
        seen.page.on("pageerror", lambda error: seen.faults.append(f"error: {error}"))
        seen.page.on("dialog", lambda dialog: seen.faults.append(f"dialog: {dialog.message}"))
        seen.page.on("request", lambda request: seen.faults.append(request.url) if outside(request.url) else None)
        seen.page.goto(f"{file.as_uri()}{anchor}")
        seen.page.wait_for_selector("html[data-ready]", timeout=20_000)
        yield seen
        context.close()
        assert seen.faults == []

    return go


def outside(url: str) -> bool:
    return not url.startswith(("file:", "data:"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's mixture, and a second version without one of its sources."""
    root = tmp_path_factory.mktemp("demo") / "d"
    found = demo.run(root, lambda *_: None, engine="local")
    text = (root / "recipe.yaml").read_text()
    gone = re.search(r"  - converter: converters/demo_corridors.yaml\n(    .*\n)+", text)
    assert gone is not None
    other = root / "fewer.yaml"
    other.write_text(text.replace(gone.group(), ""))
    api.build(str(other), root / "lake", root / "mixture", engine="local", parameters={"data": str(root / "raw")})
    assert found.version == "v0001"
    return root / "mixture"


@pytest.fixture(scope="module")
def shown(made: Path) -> Path:
    """The first version's page."""
    return api.report(f"{made}@v0001", out=made.parent / "report.html")


@pytest.fixture(scope="module")
def truth(made: Path) -> dict[str, Any]:
    return api.audit(f"{made}@v0001")


def table(seen: Page, caption: str) -> list[dict[str, str]]:
    """The rows of a table on the page, by column title."""
    return seen.evaluate(
        """(caption) => {
          const own = [...document.querySelectorAll("table")].find((t) => t.caption.textContent.startsWith(caption));
          const names = [...own.tHead.rows[0].cells].map((cell) => cell.innerText.replace(/[▲▼]/g, "").trim());
          return [...own.tBodies[0].rows].map((row) =>
            Object.fromEntries([...row.cells].map((cell, n) => [names[n], cell.innerText.trim()])));
        }""",
        caption,
    )


DRAWN = """() => [...document.querySelectorAll("#mixture .canvas")].every((canvas) => canvas.hasChildNodes())"""
"""Charts are drawn once they come near the screen, and move what is below them: a click then misses it."""


def figure(text: str) -> int:
    return int(text.replace(",", ""))


def rows_shown(seen: Page, section: str) -> int:
    """How many rows a table's status line tells of."""
    return figure(seen.locator(f"#{section} [role=status]").first.inner_text().split()[0])


def filtered(seen: Page, section: str, text: str) -> float:
    """Search in a section's table; the milliseconds its script took."""
    box = seen.locator(f"#{section} .datatable").first
    box.evaluate("node => delete node.dataset.ms")
    box.locator("input[type=search]").fill(text)
    seen.wait_for_function("s => document.querySelector(`#${s} .datatable`).dataset.ms", arg=section)
    return float(box.get_attribute("data-ms") or "nan")


def test_it_says_what_the_audit_says(opened: Open, shown: Path, truth: dict[str, Any]) -> None:
    with opened(shown) as seen:
        rows = {row["source"]: row for row in table(seen.page, "Sources: what the recipe asks")}
        assert set(rows) == {source["converter"] for source in truth["sources"]}
        for source in truth["sources"]:
            row = rows[source["converter"]]
            assert figure(row["samples"]) == source["samples"]
            assert figure(row["episodes"]) == source["episodes_kept"]
            share = 100 * source["samples"] / truth["samples"]
            assert row["realized"] == f"{share:.1f} %"
        assert {row["family"] for row in rows.values()} == FAMILIES
        tiles = seen.page.locator("#overview .tiles").inner_text()
        assert f"{truth['samples']:,}" in tiles
        drops = table(seen.page, "Dropped episodes")
        assert sum(figure(row["episodes"]) for row in drops) == sum(truth["drops"].values()) == 1
        assert drops[0]["reason"] in truth["drops"]
        assert drops[0]["kind"] == "bad input"
        assert "problem" in seen.page.locator("#overview .findings").inner_text()
        terms = {row["source"].split("\n")[0]: row for row in table(seen.page, "One row a source; what its converter")}
        for source in truth["sources"]:
            assert terms[source["converter"]]["licence"] == source["license"]
            assert terms[source["converter"]]["consent"] == source["consent"]


def test_composition_is_offered_by_every_part(opened: Open, shown: Path, truth: dict[str, Any]) -> None:
    by_family: dict[str, int] = {}
    for source in truth["sources"]:
        by_family[source["family"]] = by_family.get(source["family"], 0) + source["samples"]
    with opened(shown) as seen:
        by, of = (seen.page.locator("#mixture select").nth(number) for number in (0, 1))
        assert by.locator("option").all_inner_texts() == ["family", "source", "embodiment", "task", "license", "split"]
        assert of.locator("option").all_inner_texts() == ["samples", "episodes kept", "steps kept", "hours kept"]
        for name in by.locator("option").all_inner_texts():
            by.select_option(name)
            numbers = seen.page.locator("#mixture details").last.locator("summary")
            numbers.scroll_into_view_if_needed()
            seen.page.wait_for_function(DRAWN)
            numbers.click()
            seen.page.locator("#mixture details table").wait_for()
            listed = {row[name]: figure(row["samples"]) for row in table(seen.page, f"By {name}, samples")}
            assert sum(listed.values()) == truth["samples"]
            if name == "family":
                assert listed == by_family


def test_every_source_shows_samples(opened: Open, shown: Path, made: Path, truth: dict[str, Any]) -> None:
    with opened(shown) as seen:
        box = seen.page.locator("#samples select")
        for source in truth["sources"]:
            box.select_option(source["converter"])
            cards = seen.page.locator("#samples article")
            assert cards.count() == 2
            text = cards.first.inner_text()
            for picture in cards.locator("img").all():
                picture.scroll_into_view_if_needed()
                picture.evaluate("node => node.decode()")
                assert picture.evaluate("node => node.naturalWidth") >= 8
                assert picture.get_attribute("alt")
            if source["family"] == "vision_language":
                assert "trained on" in text
                assert cards.locator("img").count() >= 2
            else:
                assert "Action chunk" in text
                cards.locator(".plots .canvas").first.scroll_into_view_if_needed()
                seen.page.wait_for_selector("#samples .plots svg path", state="attached")
            if source["family"] in ("robot", "simulation"):
                assert "Please predict the next" in text
                assert cards.locator("img").count() >= 4, "a strip of frames"


def test_curves_are_the_samples_own(made: Path) -> None:
    """State and action in the document are what the shard holds at that key."""
    version = Version.read(*versioned(made, "v0001"))
    document = collect(version, None, 1, lambda *_: None)
    windows = [sample for sample in document.samples if sample["kind"] == "window"]
    assert len(windows) >= 4
    splits = [open_mixture(f"{made}@v0001", split=split, normalize=False) for split in ("train", "valid")]
    every = {example.key: example for split in splits for example in split}
    for sample in windows:
        example = every[sample["key"]]
        for curve in sample["action"]:
            slot = distributions.unified().slot(curve["slot"])
            own = [c for c in range(slot.start, slot.stop) if c in example.facts["channels"]["action"]]
            for channel, values in zip(own, curve["values"], strict=True):
                there = example.action_mask[:, channel]
                assert [value is not None for value in values] == there.tolist()
                kept = [value for value in values if value is not None]
                np.testing.assert_allclose(kept, example.action[there, channel], rtol=1e-4, atol=1e-12)


def versioned(folder: Path, name: str) -> tuple[MixtureStore, str]:
    return MixtureStore(folder), name


def test_shards_are_searched_filtered_sorted_and_opened(
    opened: Open, shown: Path, made: Path, truth: dict[str, Any]
) -> None:
    shards = truth["shards"]
    with opened(shown) as seen:
        part = seen.page.locator("#shards")
        assert rows_shown(seen.page, "shards") == len(shards)
        wanted = shards[3]
        filtered(seen.page, "shards", wanted["sha256"][:12])
        assert [row["shard"] for row in table(seen.page, "Shards;")] == ["shard 3"]
        filtered(seen.page, "shards", "no such shard")
        assert rows_shown(seen.page, "shards") == 0
        filtered(seen.page, "shards", "")
        part.locator("select").first.select_option("valid")
        assert rows_shown(seen.page, "shards") == sum(shard["split"] == "valid" for shard in shards) > 0
        part.locator("select").first.select_option(index=0)
        for down, mark in ((True, "descending"), (False, "ascending")):
            part.get_by_role("button", name="samples").click()
            assert part.locator("th").nth(2).get_attribute("aria-sort") == mark
            counts = [figure(row["samples"]) for row in table(seen.page, "Shards;")]
            assert counts == sorted((shard["samples"] for shard in shards), reverse=down)[: len(counts)]
        part.get_by_role("button", name="shard 3", exact=True).click()
        check_record(seen.page, wanted, api.audit(f"{made}@v0001", shard=3))
        seen.page.screenshot(path=made.parent / "shard.png")
        seen.page.keyboard.press("Escape")
        assert not seen.page.locator("dialog").is_visible()
        assert seen.page.evaluate("document.activeElement.textContent") == "shard 3"


def check_record(seen: Page, shard: dict[str, Any], audited: dict[str, Any]) -> None:
    """The dialog holds what the audit of the shard says."""
    dialog = seen.locator("dialog[open]")
    text = dialog.inner_text()
    for name in ("sha256", "task_digest", "path"):
        assert shard[name] in text
    assert audited["plan_id"] in text
    assert f"licences\n{', '.join(audited['licenses'])}" in text
    listed = table(seen, "Segments of episodes")
    expected = [
        (row["upstream_id"], row["start"], row["stop"], row["samples"], row["uid"][:20]) for row in audited["inputs"]
    ]
    assert listed
    found = [
        (row["episode"], figure(row["from step"]), figure(row["to"]), figure(row["samples"]), row["uid"])
        for row in listed
    ]
    assert found == expected[: len(found)]
    assert figure(dialog.locator("[role=status]").inner_text().split()[0]) == len(expected)


def test_an_address_opens_a_record_and_records_lead_on(opened: Open, shown: Path, made: Path) -> None:
    with opened(shown, anchor="#shard=0") as seen:
        dialog = seen.page.locator("dialog[open]")
        assert dialog.locator("h2").inner_text() == "Shard 0"
        first = table(seen.page, "Segments of episodes")[0]
        dialog.locator(".datatable button.open").first.click()
        episode = api.audit(f"{made}@v0001", episode=first["uid"])
        text = dialog.inner_text()
        assert dialog.locator("h2").inner_text() == f"Episode {episode['upstream_id']}"
        assert episode["license"] in text
        assert len(table(seen.page, "Where it went")) == len(episode["shards"])
        dialog.get_by_role("button", name="shard 0").first.click()
        assert dialog.locator("h2").inner_text() == "Shard 0"


def test_the_dropped_episode_tells_why(opened: Open, shown: Path, made: Path) -> None:
    dropped = api.audit(f"{made}@v0001", drops=True)["dropped"][0]
    with opened(shown) as seen:
        filtered(seen.page, "episodes", "dropped:")
        assert [row["episode"] for row in table(seen.page, "Episodes and what")] == [dropped["upstream_id"]]
        seen.page.locator("#episodes tbody tr").click()
        text = seen.page.locator("dialog[open]").inner_text()
        assert dropped["reason"] in text
        assert dropped["evidence"].split("\n")[0][:60] in text


def test_channels_show_before_and_after(opened: Open, shown: Path) -> None:
    with opened(shown) as seen:
        rows = table(seen.page, "Channels,")
        assert rows
        cut = [float(row["cut off"].removesuffix(" %")) for row in rows if row["cut off"].endswith("%")]
        assert cut == sorted(cut, reverse=True)
        seen.page.locator("#values tbody tr button").nth(1).click()
        card = seen.page.locator("#values .card.chosen")
        assert card.count() == 1
        card.locator("svg").nth(1).wait_for()
        assert card.locator("svg").count() == 2
        assert rows[1]["channel"] in card.inner_text().replace("\n", " ")


def test_normalized_values_are_the_loader_s(made: Path) -> None:
    """Histograms are of what `Normalizer` gives, and the shares outside are counted right."""
    store, name = versioned(made, "v0001")
    found = stored(store, name)
    normalizer, checked = Normalizer.from_document(found.document), 0
    for group, entries in found.document["groups"].items():
        key = (entries["embodiment"], entries["control_mode"], entries["converter"] or "")
        for item in entries["action"]["absolute"]:
            if item["low"] is None or (item["slot"] == "native") != bool(entries["converter"]):
                continue
            span = item["max"] - item["min"] or 1.0
            values = np.linspace(item["min"] - span, item["max"] + span, 41)
            channel, mask = np.array([item["channel"]], np.int16), np.ones((41, 1), np.bool_)
            expected = normalizer.forward(key, "action", "absolute", values[:, None], channel, mask)[:, 0]
            np.testing.assert_allclose(distributions.normalized(item, values), expected, rtol=1e-12, err_msg=group)
            checked += 1
    assert checked > 10
    for row in distributions.channels(found):
        if row["after"] is not None:
            assert sum(row["after"]["counts"]) == sum(row["before"]["counts"]) == row["n"]
            assert (row["cut"] or 0) <= (row["outside"] if row["outside"] is not None else 1) + 1e-9


def test_shares_outside_are_counted_by_hand() -> None:
    """A hundred values 0..99, a range 10..89 and a clip of 1.25: 20 outside, those beyond +-1.25 cut."""
    from dataengine.normalization.bins import Bins

    bins = Bins()
    bins.add(np.arange(100, dtype=np.float32))
    item = {"low": 10.0, "high": 89.0, "method": "quantile", "clip": 1.25}
    assert distributions._outside(item, bins) == 0.20
    after = distributions._after(item, bins)
    assert after is not None
    assert (after["low"], after["high"]) == (-1.25, 1.25)
    # (v - 49.5) / 39.5 <= -1.25 for v <= 0.125: one value lies there, and one on the other side
    scaled = np.clip((np.arange(100) - 49.5) / 39.5, -1.25, 1.25)
    assert after["counts"] == np.histogram(scaled, 24, (-1.25, 1.25))[0].tolist()


def test_two_versions_are_compared(opened: Open, made: Path, tmp_path: Path) -> None:
    file = api.report(f"{made}@v0002", compare="v0001", out=tmp_path / "c.html")
    expected = api.diff(f"{made}@v0001", f"{made}@v0002")
    with opened(file) as seen:
        section = seen.page.locator("#compare")
        assert "v0001 → " in section.inner_text()
        gone = {row["source"]: row for row in table(seen.page, "Sources that changed")}
        assert {row["source_id"] for row in expected["sources"]} == set(gone)
        assert any(row["change"] == "removed" for row in gone.values())
        assert rows_of(seen.page, "Episodes that changed") == sum(expected["counts"].values()) > 0
        assert "sources.demo_corridors" in {row["field"] for row in table(seen.page, "What the recipe says")}
        assert seen.page.locator("#nav a").nth(1).inner_text() == "Changes"
        seen.page.screenshot(path=made.parent / "compare.png")
    same = api.report(f"{made}@v0001", compare="v0001", out=tmp_path / "s.html", samples=0)
    with opened(same) as seen:
        assert "The two versions are equal" in seen.page.locator("#compare").inner_text()


def rows_of(seen: Page, caption: str) -> int:
    text = (
        seen.locator(".datatable", has=seen.locator("caption", has_text=caption)).locator("[role=status]").inner_text()
    )
    return figure(text.split()[0])


CONTRAST = """() => {
  const parse = (text) => {
    const found = text.match(/[\\d.]+/g).map(Number);
    return found.length < 4 ? [...found, 1] : found;
  };
  const line = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * line(r / 255) + 0.7152 * line(g / 255) + 0.0722 * line(b / 255);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255, 1];
  };
  const found = [];
  let seen = 0;
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.getClientRects().length || node.closest("noscript, script, option, :disabled")) continue;
    const style = getComputedStyle(node), svg = node instanceof SVGElement;
    const text = light(parse(svg ? style.fill : style.color));
    const back = light(ground(svg ? node.ownerSVGElement.parentElement : node));
    const ratio = (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
    seen += 1;
    if (ratio < 4.5) found.push(`${node.tagName} ${node.textContent.slice(0, 40)} ${ratio.toFixed(2)}`);
  }
  return { seen, found };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_aa(opened: Open, shown: Path, scheme: str) -> None:
    with opened(shown, scheme=scheme) as seen:
        for part in ("mixture", "drops", "values", "samples"):
            seen.page.locator(f"#{part}").evaluate("node => node.scrollIntoView()")
            seen.page.wait_for_timeout(250)
        seen.page.locator("#shards tbody button").first.click()
        result = seen.page.evaluate(CONTRAST)
        assert result["seen"] > 300
        assert result["found"] == []


def test_dark_and_light(opened: Open, shown: Path, made: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    for scheme, expected in (("light", LIGHT), ("dark", DARK)):
        with opened(shown, scheme=scheme) as seen:
            assert seen.page.evaluate(ground) == expected
            seen.page.screenshot(path=made.parent / f"{scheme}.png")
            for choice, colour in (("dark", DARK), ("light", LIGHT), ("auto", expected)):
                seen.page.get_by_label("Theme").select_option(choice)
                assert seen.page.evaluate(ground) == colour


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_needs_no_sideways_scroll(opened: Open, shown: Path, made: Path, width: int) -> None:
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    with opened(shown, width=width) as seen:
        for part in ("mixture", "drops", "values", "samples", "terms", "shards", "episodes"):
            seen.page.locator(f"#{part}").evaluate("node => node.scrollIntoView()")
            seen.page.wait_for_timeout(120)
        assert seen.page.evaluate(wide) == 0
        seen.page.locator("#shards tbody button").first.click()
        dialog = seen.page.locator("dialog[open]")
        assert dialog.evaluate("node => node.scrollWidth - node.clientWidth") == 0
        box = dialog.bounding_box()
        assert box is not None
        assert 0 <= box["x"] <= box["x"] + box["width"] <= width
        seen.page.screenshot(path=made.parent / f"phone{width}.png")


def test_a_keyboard_is_enough(opened: Open, shown: Path) -> None:
    active = "document.activeElement.className + ' ' + document.activeElement.textContent.slice(0, 30)"
    with opened(shown) as seen:
        press = seen.page.keyboard.press
        press("Tab")
        assert "Skip to the content" in seen.page.evaluate(active)
        press("Tab")
        assert seen.page.evaluate("document.activeElement.id") == "theme"
        for _ in range(8):
            press("Tab")
        assert seen.page.evaluate("document.activeElement.closest('nav') !== null")
        seen.page.locator("#shards input[type=search]").focus()
        for _ in range(5):  # three filters, then the table's own scroll, then the first column's title
            press("Tab")
        assert "shard" in seen.page.evaluate(active)
        press("Enter")
        assert seen.page.locator("#shards th").first.get_attribute("aria-sort") == "ascending"
        seen.page.locator("#shards tbody button").first.focus()
        press("Enter")
        assert seen.page.locator("dialog[open]").is_visible()
        for _ in range(30):
            press("Tab")
            assert seen.page.evaluate(
                "document.activeElement === document.body || document.activeElement.closest('dialog') !== null"
            ), "focus stays in the record"
        press("Escape")
        assert not seen.page.locator("dialog").is_visible()


def test_parts_have_names(opened: Open, shown: Path) -> None:
    """Labels for every control, words for every chart, captions for every table, one h1, no id twice."""
    with opened(shown) as seen:
        for part in ("mixture", "drops", "values", "samples"):
            seen.page.locator(f"#{part}").evaluate("node => node.scrollIntoView()")
            seen.page.wait_for_timeout(200)
        missing = seen.page.evaluate(
            """() => [
              ...[...document.querySelectorAll("input, select")].filter((n) => !n.labels.length),
              ...[...document.querySelectorAll("main .canvas > svg")].filter(
                (n) => n.getAttribute("role") !== "img" || n.getAttribute("aria-label").length < 12),
              ...[...document.querySelectorAll("table")].filter(
                (n) => !n.caption || [...n.tHead.querySelectorAll("th")].some((th) => th.scope !== "col")),
              ...[...document.querySelectorAll("main section")].filter(
                (n) => !document.getElementById(n.getAttribute("aria-labelledby"))),
              ...[...document.querySelectorAll("img")].filter((n) => !n.alt),
            ].map((n) => n.outerHTML.slice(0, 120))"""
        )
        assert missing == []
        assert seen.page.locator("main .canvas > svg").count() > 10
        assert seen.page.locator("h1").count() == 1
        ids = seen.page.evaluate("[...document.querySelectorAll('[id]')].map((n) => n.id)")
        assert len(ids) == len(set(ids))


def test_the_same_version_gives_the_same_page(made: Path, shown: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(made, tmp_path / "elsewhere" / "M")
    again = api.report(f"{copied}@v0001", out=tmp_path / "again.html")
    assert again.read_bytes() == shown.read_bytes()


def test_nothing_of_the_machine_is_in_it(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-5fb1e0")
    file = api.report(f"{made}@v0002", compare="v0001", out=tmp_path / "c.html")
    data = file.read_bytes()
    document = collect(Version.read(*versioned(made, "v0002")), None, 2, lambda *_: None)
    plain = orjson.dumps([document.summary, document.tables, document.samples])
    data += plain
    secrets = [str(made), str(made.parent), str(tmp_path), str(REPO), socket.gethostname(), "canary-5fb1e0"]
    secrets += [f"/{name}/" for name in ("root", "home") if name == getpass.getuser()]
    assert [secret for secret in secrets if len(secret) > 3 and secret.encode() in data] == []
    assert not re.search(rb"\b20\d\d-\d\d-\d\d[T ]\d\d:", plain), "no clock"


def test_the_scripts_put_no_text_into_markup() -> None:
    assets = REPO / "dataengine" / "report" / "assets"
    for file in [*assets.glob("*.js"), assets / "body.html"]:
        text = file.read_text()
        for way in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "srcdoc",
        ):
            assert way not in text, f"{file.name}: {way}"
        assert text.isascii(), "what does not show is written by its number"


VENDORED = {  # npm, as they were published
    "d3.min.js": "912111098ea99503a6f4967361d2bbdc9dbf58cf9c678c8e27e5b02d1a07f0c1",
    "plot.min.js": "4358086467740777dd788d6b27a95cebdbaefdd50c730a3060117073bd7134cb",
}


def test_the_libraries_are_the_published_ones() -> None:
    folder = REPO / "dataengine" / "report" / "assets" / "vendor"
    assert {path.name: sha256_bytes(path.read_bytes()) for path in folder.glob("*.js")} == VENDORED
    assert not any("</script" in path.read_text() for path in folder.glob("*.js"))


EVIL = (
    "<script>window.pwned = 1</script>",
    "</script><script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "\"'><svg onload=window.pwned=1>",
    "--></noscript><iframe srcdoc='<script>parent.pwned=1</script>'>",
    "javascript:window.pwned=1",
    "safe \u202eelif.exe\u202c \u2066x\u2069 \u200b\u0007 & &lt;b&gt;",
)


def enlarge(made: Path, root: Path, shards: int, episodes: int) -> Path:
    """A version with so many shards and episodes, without the shards' files, with hostile texts all over."""
    source = MixtureStore(made)
    sha, manifest = source.manifest("v0001")
    rows = ledgers.read_parquet(source.read(f"{source.documents(sha)}/ledger.parquet"))
    kinds = [row for row in rows if row["status"] == "kept"][:: max(1, len(rows) // 12)]
    made_rows, records = [], []
    counts = [0] * shards
    for number in range(episodes):
        like = kinds[number % len(kinds)]
        uid, dropped = sha256_bytes(b"%d" % number), number % 11 == 10
        row = {**like, "uid": uid, "upstream_id": f"chunk-{number // 1000:03d}/episode_{number:06d}.parquet"}
        row |= {"samples": 0 if dropped else 20, "steps": 120, "kept_steps": 0 if dropped else 100 + number % 20}
        row |= {"seconds": 0.0 if dropped else 10.0, "task": f"task number {number % 400}"}
        if dropped:
            evidence = f"{number % 7} steps"
            row |= {
                "status": "dropped",
                "reason": ("too_short", "jump")[number % 2],
                "step": "length",
                "evidence": evidence,
            }
        if number < len(EVIL):
            row |= {"upstream_id": EVIL[number], "task": EVIL[number], "step": EVIL[number]}
        made_rows.append(row)
        if not dropped:
            shard = int(uid[:8], 16) % shards
            counts[shard] += 20
            records.append(
                {"shard": shard, "uid": uid, "source_id": row["source_id"], "start": 0, "stop": 100, "samples": 20}
            )
    made_rows.sort(key=lambda row: (row["source_id"], row["upstream_id"], row["uid"]))
    listed = [
        ShardEntry(
            sha256=sha256_bytes(b"shard %d" % number),
            bytes=1_000_000 + number,
            samples=count,
            split="train" if number % 20 else "valid",
            bucket=f"{number:05d}",
            task_digest=sha256_bytes(b"task %d" % number),
            index_sha256=sha256_bytes(b"index"),
        )
        for number, count in enumerate(counts)
    ]
    for record in sorted(records, key=lambda record: record["shard"]):
        entry = listed[record["shard"]]
        record |= {"sha256": entry.sha256, "split": entry.split, "task_digest": entry.task_digest}
    records.sort(key=lambda record: record["shard"])
    return committed(source, sha, manifest, root, made_rows, records, listed)


def committed(
    source: MixtureStore,
    sha: str,
    manifest: Manifest,
    root: Path,
    rows: Sequence[dict[str, Any]],
    records: Sequence[dict[str, Any]],
    shards: Sequence[ShardEntry],
) -> Path:
    folder = source.documents(sha)
    documents = {
        "normalization.json": source.read(f"{folder}/normalization.json"),
        "statistics.bin": source.read(f"{folder}/statistics.bin"),
        "ledger.parquet": ledgers.parquet(pa.Table.from_pylist(list(rows))),
        "shard_records.parquet": ledgers.parquet(pa.Table.from_pylist(list(records))),
    }
    hostile = [
        entry.model_copy(update={"license": EVIL[n % 7], "url": EVIL[(n + 5) % 7], "consent": EVIL[(n + 2) % 7]})
        for n, entry in enumerate(manifest.sources)
    ]
    new = manifest.model_copy(
        update={
            "shards": tuple(shards),
            "sources": tuple(hostile),
            "ledger_sha256": sha256_bytes(documents["ledger.parquet"]),
            "shard_records_sha256": sha256_bytes(documents["shard_records.parquet"]),
            "recipe": {**manifest.recipe, "description": EVIL[1]},
        }
    )
    target = MixtureStore(root, create=True)
    target.commit(new, "large")
    for name, data in documents.items():
        target.publish(f"{target.documents(target.manifest_sha('large'))}/{name}", data)
    return root


@pytest.fixture(scope="module")
def large(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = enlarge(made, tmp_path_factory.mktemp("large") / "M", 1000, 100_000)
    since = time.monotonic()
    file = api.report(f"{root}@large", out=root.parent / "large.html", samples=0)
    print(
        f"\n1,000 shards, 100,000 episodes: written in {time.monotonic() - since:.1f} s,"
        f" {file.stat().st_size / 1e6:.2f} MB"
    )
    return file


@pytest.mark.slow
def test_a_large_version_is_quick(opened: Open, large: Path) -> None:
    assert large.stat().st_size < 5e6
    since = time.monotonic()
    with opened(large) as seen:
        spent = time.monotonic() - since
        print(f"\nopened in {spent:.2f} s")
        assert spent < 2 * SLACK
        assert rows_shown(seen.page, "shards") == 1000
        assert rows_shown(seen.page, "episodes") == 100_000
        times = {
            text: filtered(seen.page, "episodes", text) for text in ("episode_04", "task number 17 jump", "dropped")
        }
        times["shards"] = filtered(seen.page, "shards", "mit")
        seen.page.locator("#episodes th button").first.click()
        times["sort"] = float(seen.page.locator("#episodes .datatable").get_attribute("data-ms") or "nan")
        print("ms: " + ", ".join(f"{name} {spent:.0f}" for name, spent in times.items()))
        assert max(times.values()) < 100 * SLACK
        filtered(seen.page, "episodes", "episode_04")
        assert rows_shown(seen.page, "episodes") == 10_000
        assert len(table(seen.page, "Episodes and what")) == 50, "page by page"
        filtered(seen.page, "shards", "")
        since = time.monotonic()
        seen.page.locator("#shards tbody button").first.click()
        print(f"a shard's record in {1000 * (time.monotonic() - since):.0f} ms")


@pytest.mark.slow
def test_hostile_texts_stay_texts(opened: Open, large: Path) -> None:
    data = large.read_text()
    head = data[: data.index("<style>")]
    assert "pwned" not in head
    assert data.count("</script>") == data.count("<script"), "no text ends a data block"
    blocks = re.findall(r'<script type="application/json" id="\w+">(.*?)</script>', data, re.S)
    assert len(blocks) == 2
    assert not re.search("[<>&\u202a-\u202e\u2066-\u2069\u200b]", "".join(blocks))
    with opened(large) as seen:
        for text in EVIL:
            word = text.split()[0].replace("safe", "elif")
            filtered(seen.page, "episodes", word)
            found = [row["episode"] for row in table(seen.page, "Episodes and what")]
            assert any(visible(text) in row for row in found), text
        seen.page.locator("#episodes tbody button").first.click()
        assert "⟨U+202E⟩elif.exe" in seen.page.locator("dialog[open]").inner_text()
        seen.page.keyboard.press("Escape")
        seen.page.locator("#mixture select").first.select_option("license")
        seen.page.wait_for_timeout(300)
        assert seen.page.evaluate("window.pwned") is None
        assert seen.page.locator("iframe, main script, main svg[onload], img[src=x]").count() == 0
        addresses = seen.page.evaluate("[...document.querySelectorAll('a')].map((a) => a.getAttribute('href'))")
        assert not [address for address in addresses if not re.match(r"#|https?://", address)]


def visible(text: str) -> str:
    """As the page shows it."""
    hidden = re.sub("[\u0007\u200b\u202a-\u202e\u2066-\u2069]", lambda found: f"⟨U+{ord(found.group()):04X}⟩", text)
    return re.sub(r"\s+", " ", hidden)


def test_the_policy_lets_nothing_else_run(opened: Open, shown: Path, tmp_path: Path, browser: Browser) -> None:
    """A script that somehow came into the page would not run, and nothing would be fetched."""
    text = shown.read_text()
    spoiled = tmp_path / "spoiled.html"
    planted = "<script>window.pwned = 1</script><img src='http://127.0.0.1:9/x.png'></body>"
    spoiled.write_text(text.replace("</body>", planted))
    context = browser.new_context()
    seen, asked = context.new_page(), []
    seen.on("response", lambda response: asked.append(response.url) if outside(response.url) else None)
    seen.goto(spoiled.as_uri())
    seen.wait_for_selector("html[data-ready]")
    assert seen.evaluate("window.pwned") is None
    assert asked == []
    context.close()


def test_early_versions_say_what_they_do_not_know(opened: Open, made: Path, tmp_path: Path) -> None:
    """A ledger without tasks and steps: the page says so, and a lake tells steps and hours."""
    store, name = versioned(made, "v0001")
    sha, manifest = store.manifest(name)
    new = ("entry", "task", "steps", "kept_steps", "seconds")
    rows = ledgers.read_parquet(store.read(f"{store.documents(sha)}/ledger.parquet"))
    rows = [{key: value for key, value in row.items() if key not in new} for row in rows]
    records = ledgers.read_parquet(store.read(f"{store.documents(sha)}/shard_records.parquet"))
    root = committed(store, sha, manifest, tmp_path / "M", rows, records, manifest.shards)
    plain = document_of(root, None)
    assert plain.summary["totals"]["seconds"] is None
    assert "task" not in plain.summary["parts"]
    with opened(api.report(f"{root}@large", out=tmp_path / "e.html", samples=0)) as seen:
        assert "not recorded" in seen.page.locator("#overview .tiles").inner_text()
        assert "--lake" in seen.page.locator("#mixture").inner_text()
    with opened(api.report(f"{root}@large", out=tmp_path / "l.html", samples=0, lake=made.parent / "lake")) as seen:
        assert "not recorded" not in seen.page.locator("#overview .tiles").inner_text()


def document_of(root: Path, other: Version | None) -> Document:
    return collect(Version.read(*versioned(root, "large")), other, 0, lambda *_: None)


def test_requested_and_planned_shares_by_hand(made: Path) -> None:
    """Rate 1 for all: every share is the source's windows over all of them."""
    document = collect(Version.read(*versioned(made, "v0001")), None, 0, lambda *_: None)
    sources, whole = document.summary["sources"], document.summary["totals"]["samples"]
    for source in sources:
        if source["rate"] == 1:
            assert source["realized"] == pytest.approx(source["samples"] / whole, rel=1e-5)
    for name in ("requested", "planned", "realized"):
        assert sum(source[name] for source in sources) == pytest.approx(1, abs=1e-4)
    assert page(document) == page(document)


def test_segments_and_scheduled_mixes_are_shown(opened: Open, made: Path, tmp_path: Path) -> None:
    """Shards of one source with whole segments: windows are cut for the page, shares are those of an epoch's draws."""
    text = (made.parent / "recipe.yaml").read_text()
    text += "mix: {mode: scheduled, weights: share, samples: 200}\nsamples: {kind: episode}\n"
    recipe = made.parent / "scheduled.yaml"
    recipe.write_text(text)
    raw = {"data": str(made.parent / "raw")}
    api.build(str(recipe), made.parent / "lake", tmp_path / "M", engine="local", parameters=raw)
    store, name = versioned(tmp_path / "M", "v0001")
    document = collect(Version.read(store, name), None, 2, lambda *_: None)
    sources = document.summary["sources"]
    schedule = store.manifest(name)[1].schedule
    assert schedule is not None
    assert document.summary["totals"]["draws"] == schedule["draws"] > 100
    for source in sources:
        share = schedule["stages"][0]["shares"][source["entry"]]
        assert source["realized"] == pytest.approx(share, rel=1e-4)
        assert source["planned"] == pytest.approx(share, abs=1e-3)
        assert source["requested"] == pytest.approx(1 / len(sources), rel=1e-4)
    keys = [sample["key"] for sample in document.samples]
    assert len(set(keys)) == len(keys) == 2 * len(sources)
    with opened(api.report(str(tmp_path / "M"), out=tmp_path / "s.html", samples=1)) as seen:
        assert "draws in an epoch" in seen.page.locator("#overview .tiles").inner_text()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--samples", "99"], 2, "give 0 to 20"),
        (["--compare", "v0009"], 2, "v0009"),
        (["--out", "."], 1, "name a file"),
    ],
)
def test_mistakes_are_told(made: Path, arguments: list[str], code: int, said: str) -> None:
    done = CliRunner().invoke(app, ["report", str(made), *arguments])
    assert done.exit_code == code, done.output
    assert said in done.output


def test_the_command_writes_the_file_it_names(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["report", f"{made}@v0001", "--samples", "0"])
    assert done.exit_code == 0, done.output
    (file,) = tmp_path.iterdir()
    assert file.name in done.output
    assert file.name.endswith("-v0001.html")


@pytest.mark.slow
def test_the_real_five_families(opened: Open, five_families: Path, tmp_path: Path) -> None:
    """`pipelines/five_families.yaml` on the real files."""
    mixture = str(five_families / "M")
    file = api.report(mixture, out=tmp_path / "real.html")
    truth = api.audit(mixture)
    with opened(file) as seen:
        rows = {row["source"]: row for row in table(seen.page, "Sources: what the recipe asks")}
        for source in truth["sources"]:
            assert figure(rows[source["converter"]]["samples"]) == source["samples"]
        assert {row["family"] for row in rows.values()} == FAMILIES
        capped = rows["vlnce_r2r"]
        assert capped["cap"] == "400 samples"
        wanted, got = (float(capped[name].removesuffix(" %")) for name in ("planned", "realized"))
        assert abs(wanted - got) < 2
        drops = table(seen.page, "Dropped episodes")
        assert sum(figure(row["episodes"]) for row in drops) == 85 + 260 + 1
        assert {row["kind"] for row in drops} == {"bad input, accepted by the recipe"}
        cards = seen.page.locator("#samples h3")
        assert set(cards.all_inner_texts()) == {s["converter"] for s in truth["sources"] if s["samples"]}
        seen.page.locator("#shards tbody button").first.click()
        check_record(seen.page, truth["shards"][0], api.audit(mixture, shard=0))
