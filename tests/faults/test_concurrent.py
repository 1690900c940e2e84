"""Many at once: ingests into one lake, builders in one mixture, collections beside builds; on disk and on S3.

One round by default. `DATAENGINE_ALL_FAULTS=1 uv run pytest -n0 -s tests/faults/test_concurrent.py` runs 50 rounds of
builders (30 on disk, 20 on S3), 10 of ingests, and 10 of collections.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dataengine import api
from dataengine.errors import ConflictError
from dataengine.lake import Lake, lake_digest
from dataengine.lake.tables import EPISODES_TABLE, MEDIA_TABLE, open_table
from dataengine.mixture.store import MARKER, MixtureStore
from dataengine.storage import Store

ALL = bool(os.environ.get("DATAENGINE_ALL_FAULTS"))
ROUNDS = {"disk": 30, "s3": 20} if ALL else {"disk": 1, "s3": 1}
FEWER = {"disk": 5, "s3": 5} if ALL else {"disk": 1, "s3": 1}


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    if request.param == "disk":
        return "disk", str(tmp_path / "here")
    return "s3", request.getfixturevalue("bucket")


def _runs(process: int) -> bool:
    """Whether a process is at work; one that ended and was not waited for is not."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def all_end_well(driver: Any, started: list[Any]) -> list[dict[str, Any]]:
    found = []
    for one in started:
        status, told = driver.wait(one)
        assert (status, told["error"]) == (0, None), told
        found.append(told)
    return found


def rows(lake: Path, table: str, key: str) -> list[str]:
    """The keys of a table as they lie there, a key that came twice twice."""
    found: list[str] = open_table(lake, table).to_table(columns=[key])[key].to_pylist()
    return found


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, make_pusht: Callable[..., Path]) -> list[tuple[Path, str]]:
    """Four sources, each with its converter."""
    root = tmp_path_factory.mktemp("sources")
    shipped = Path(api.__file__).parents[2] / "converters" / "simulation" / "pusht_lerobot.yaml"
    found = []
    for number in range(4):
        raw = make_pusht(root / f"raw{number}", range(10 * number, 10 * number + 4))
        converter = root / f"pusht{number}.yaml"
        converter.write_text(shipped.read_text().replace("name: pusht_lerobot\n", f"name: pusht{number}\n"))
        found.append((raw, str(converter)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("same", [True, False], ids=["same_source", "different_sources"])
def test_four_ingests_at_once(
    same: bool, place: tuple[str, str], driver: Any, sources: list[tuple[Path, str]], tmp_path: Path
) -> None:
    chosen = [sources[0]] * 4 if same else sources
    for raw, converter in chosen:
        api.ingest(raw, converter, tmp_path / "serial", workers=1)
    expected = lake_digest(Lake(tmp_path / "serial").heads())
    uids = sorted(head.uid for head in Lake(tmp_path / "serial").heads())
    twice = 0
    for number in range(FEWER[place[0]]):
        lake = Path(f"{place[1]}/L{number}")
        options = {"workers": 1}
        all_end_well(driver, [driver.start("ingest", raw, one, lake, options=options) for raw, one in chosen])
        assert sorted(rows(lake, EPISODES_TABLE, "uid")) == uids, "each row once"
        assert lake_digest(Lake(lake).heads()) == expected
        media = rows(lake, MEDIA_TABLE, "media_id")
        assert set(media) == set(rows(tmp_path / "serial", MEDIA_TABLE, "media_id"))
        twice += len(media) - len(set(media))
        assert len(Lake(lake).reader(uids).episode(uids[0]).media) == 1
    print(f"{place[0]}: {FEWER[place[0]]} rounds of 4 ingests at once, the lake of one after the other each time;")
    print(f"  {twice} streams were appended by two at once: they cost space, and nothing else")


@pytest.mark.slow
def test_eight_builders(
    place: tuple[str, str], driver: Any, undisturbed: Any, small_recipe: Path, pusht_raw: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(small_recipe.read_text().replace("{steps: 8}", "{steps: 4}"))
    made = []
    for number in range(ROUNDS[place[0]]):
        out = Path(f"{place[1]}/M{number}")
        recipes = (small_recipe, other) * 4 if number % 2 == 0 else (small_recipe,) * 8
        options = {"workers": 1, "parameters": {"data": str(pusht_raw)}}
        jobs = [driver.start("build", recipe, undisturbed[0] / "L", out, options=options) for recipe in recipes]
        all_end_well(driver, jobs)
        store = MixtureStore(out)
        contents = [store.manifest(name)[1].content_digest() for name in store.versions()]
        assert len(set(contents)) == len(set(recipes))
        assert all(first != second for first, second in pairwise(contents)), "never twice in a row"
        assert api.verify(str(out)).problems == []
        assert api.gc(out).files == []
        made.append(len(contents))
    print(f"{place[0]}: {len(made)} rounds of 8 builders, {sum(made)} versions, no content twice in a row, nothing bad")


@pytest.mark.slow
def test_collections_beside_builds(
    place: tuple[str, str],
    driver: Any,
    undisturbed: Any,
    small_recipe: Path,
    pusht_raw: Path,
    facts: Any,
    tmp_path: Path,
) -> None:
    """Looks and collections all through a build: refused or before it, and the build has all that it needs."""
    options = {"workers": 1, "parameters": {"data": str(pusht_raw)}}
    told: list[ConflictError] = []
    collected = 0
    for number in range(FEWER[place[0]]):
        out = Path(f"{place[1]}/M{number}")
        builder = driver.start("build", small_recipe, undisturbed[0] / "L", out, options=options)
        while not Store(out).exists(MARKER):
            time.sleep(0.01)
        while _runs(builder[0]):
            api.gc(out)
            try:
                api.gc(out, delete=True)
                collected += 1
            except ConflictError as error:
                told.append(error)
        all_end_well(driver, [builder])
        assert facts(undisturbed[0] / "L", out) == undisturbed[1]
        assert api.gc(out, delete=True).files == []
        assert api.verify(str(out)).problems == []
    assert all("next:" in str(error) and error.exit_code == 4 for error in told)
    print(f"{place[0]}: {len(told)} collections refused beside builds, {collected} before or after; nothing is missing")
    assert told
