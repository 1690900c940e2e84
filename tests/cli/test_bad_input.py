"""Broken data, from the command line: a reason, the file and the episode; the rest goes on; repaired is as good as new."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from dataengine.cli.main import app

from bad_inputs import CASES, LAYOUTS, Case, Layout


class Workbench:
    """A folder with raw data, a lake and a mixture, and the commands on them."""

    def __init__(self, root: Path, layout: Layout) -> None:
        self.root, self.layout = root, layout
        self.raw, self.lake, self.out = root / "raw", root / "L", root / "M"

    def run(self, *words: object) -> tuple[int, Any]:
        """Exit code and the JSON document; anything else on standard output, or a traceback, fails."""
        done = CliRunner().invoke(app, [str(word) for word in (*words, "--json")])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, json.loads(done.stdout) if done.stdout else done.stderr

    def ingest(self, *words: object) -> tuple[int, Any]:
        converter = self.layout.converter
        return self.run("ingest", self.raw, "--converter", converter, "--lake", self.lake, "--workers", 1, *words)

    def build(
        self, accept: Sequence[str] = (), path: Path | None = None, filters: Sequence[str] = ()
    ) -> tuple[int, Any]:
        source = {"converter": self.layout.converter, "accept": list(accept)}
        recipe = {
            "name": "small",
            "sources": [{**source, "path": str(path)} if path else source],
            "require": list(self.layout.require),
            "filters": [{"name": name} for name in filters],
            "window": {"chunk": {"steps": 2}},
            "split": {"valid": 0.0},
            "shards": {"buckets": {"train": 1}},
            "normalization": {"representations": ["absolute"]},
        }
        (self.root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return self.run("build", self.root / "recipe.yaml", "--lake", self.lake, "--out", self.out, "--engine", "local")

    def source(self) -> dict[str, Any]:
        """The one source of the latest version; in = kept + dropped, and the drops are those of the ledger."""
        code, found = self.run("audit", self.out)
        assert code == 0
        (source,) = found["sources"]
        assert source["episodes_in"] == source["episodes_kept"] + source["episodes_dropped"]
        assert sum(found["drops"].values()) == source["episodes_dropped"]
        return {**source, "drops": found["drops"]}


Bench = Callable[[str], Workbench]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every data set, unbroken."""
    root = tmp_path_factory.mktemp("good")
    for name, layout in LAYOUTS.items():
        (root / name).mkdir()
        layout.make(root / name)
    return root


@pytest.fixture
def bench(good: Path, tmp_path: Path) -> Bench:
    def make(layout: str) -> Workbench:
        made = Workbench(tmp_path, LAYOUTS[layout])
        shutil.rmtree(made.raw, ignore_errors=True)
        shutil.copytree(good / layout, made.raw)
        return made

    return make


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.layout}: {case.name}")
def test_one_defect_from_ingest_to_repair(case: Case, bench: Bench) -> None:
    desk = bench(case.layout)
    case.spoil(desk.raw)
    code, told = desk.ingest()
    assert code == 3
    assert told["added"] == case.left
    assert told["scanned"] == told["added"] + told["dropped"] == told["added"] + len(told["failures"])
    met = [f for f in told["failures"] if f["reason"] == case.reason and f["upstream_id"].startswith(case.unit)]
    assert met, told["failures"]
    assert case.file in f"{met[0]['upstream_id']} {met[0]['what']}"
    assert str(desk.root) not in json.dumps(told["failures"]), "a path of this machine"
    assert max(len(f["what"]) + len(f["upstream_id"]) for f in told["failures"]) < 3500
    assert desk.ingest()[1]["added"] == 0

    reasons = set(told["reasons"])
    assert desk.build()[0] == 3
    source = desk.source()
    assert (source["episodes_kept"], source["drops"]) == (case.left, told["reasons"])
    code, checked = desk.run("verify", desk.out)
    assert (code, checked["ok"]) == (0, True)
    assert desk.build(accept=sorted(reasons))[0] == 0
    assert desk.build(accept=sorted(reasons - {case.reason}))[0] == 3

    desk = bench(case.layout)
    code, told = desk.ingest()
    assert (code, told["failures"], told["standing"]) == (0, [], [])
    assert told["added"] + case.left == desk.layout.episodes
    assert desk.build()[0] == 0
    source = desk.source()
    assert (source["episodes_kept"], source["drops"]) == (desk.layout.episodes, {})
