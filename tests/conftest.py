"""Fixtures that all tests share: where the real data lies."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import typer.testing

from dataengine.fixtures.lerobot_writer import FixtureEpisode, write_lerobot

collect_ignore = ["example_package"]  # a package of its own, whose tests run where it is installed
REPO = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("DATAENGINE_DATA", REPO.parent / "shared" / "data"))

# How long one example takes says more about what else the machine does than about the code.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")
# Typer makes the commands out of their functions anew for each run, which takes longer than most runs.
typer.testing._get_command = functools.cache(typer.testing._get_command)  # type: ignore[attr-defined]

LONG = ("integration", "s3", "faults", "cli")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Folders with long files first: a process that gets one last would work on while the others have nothing left."""
    items.sort(key=lambda item: item.path.relative_to(REPO / "tests").parts[0] not in LONG)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data. Without it the test skips; in CI that is a failure."""
    if not DATA.is_dir():
        reason = f"the real data is not at {DATA} (set DATAENGINE_DATA)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return DATA


MakePusht = Callable[..., Path]


@pytest.fixture(scope="session")
def make_pusht() -> MakePusht:
    """Write a LeRobot v2.1 layout fixture that the shipped PushT converter reads; one seed an episode."""

    def make(root: Path, seeds: Sequence[int], rows: int = 24, spoil: int | None = None) -> Path:
        episodes = []
        for seed in seeds:
            chance = np.random.default_rng(seed)
            path = np.cumsum(chance.normal(0, 4, (rows + 1, 2)), axis=0).astype(np.float32) + 256
            action = path[1:].copy()
            if spoil == seed:
                action[rows // 2, 0] = np.nan
            frames = []
            for x, y in path[:-1]:
                image = np.full((96, 96, 3), 235, np.uint8)
                column, row = int(np.clip(x / 512 * 96, 4, 91)), int(np.clip(y / 512 * 96, 4, 91))
                image[row - 4 : row + 4, column - 4 : column + 4] = (40 + seed % 200, 90, 200)
                frames.append(image)
            episodes.append(FixtureEpisode(path[:-1], action, f"Push the block, variant {seed}", frames))
        write_lerobot(root, episodes, 10, version="v2.1", video_key="observation.image", robot_type="pusht")
        return root

    return make


RECIPE = """
name: small
sources:
  - {converter: pusht_lerobot, path: "${data}"}
window: {chunk: {steps: 8}}
filters: [{name: min_steps, steps: 2}, {name: no_nan}]
split: {valid: 0.2}
shards: {buckets: {train: 6, valid: 2}, segment: 8}
normalization: {representations: [absolute]}
"""


@pytest.fixture(scope="session")
def small_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe over one PushT fixture, `${data}` its folder."""
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def pusht_raw(tmp_path_factory: pytest.TempPathFactory, make_pusht: MakePusht) -> Path:
    """Six fixture episodes."""
    return make_pusht(tmp_path_factory.mktemp("raw") / "pusht", range(6))


def tree(root: Path) -> dict[str, str]:
    """Digest of every file that makes a mixture's content: all but run facts and staging."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] not in ("leases", "runs", "staging")
    }


@pytest.fixture(scope="session")
def content() -> Callable[[Path], dict[str, str]]:
    """The function that digests a mixture's content files."""
    return tree
