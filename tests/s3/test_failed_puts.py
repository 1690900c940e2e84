"""One write to S3 fails for good, whatever the clients try: the command says so, and run again it makes the same.

By default some of the writes are tried. `DATAENGINE_ALL_FAULTS=1 uv run pytest -n0 -s tests/s3/test_failed_puts.py`
fails every PUT of a build and every write of an ingest (Lance's own client), each in three ways; about ten minutes.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dataengine import api
from dataengine.errors import StorageError
from dataengine.lake import Lake, lake_digest
from dataengine.mixture.store import MixtureStore
from dataengine.storage import Store

ALL = bool(os.environ.get("DATAENGINE_ALL_FAULTS"))
WAYS = ("507", "500", "reset")


def chosen(total: int) -> list[tuple[int, str]]:
    """(N, way) to try: each N in each way, or a few spread over both."""
    if ALL:
        return [(nth, how) for nth in range(1, total + 1) for how in WAYS]
    places = (1, total // 2, total)
    return [(nth, WAYS[number % 3]) for number, nth in enumerate(places)]


def failing(action: Any) -> StorageError | None:
    """What a command said when it failed; None when it did not."""
    try:
        action()
    except StorageError as error:
        found = error
    else:
        return None
    assert "next:" in str(found)
    assert "127.0.0.1" not in str(found), "no endpoint in an error"
    return found


def content(out: str) -> list[str]:
    store = MixtureStore(out)
    return [store.manifest(version)[1].content_digest() for version in store.versions()]


@pytest.mark.slow
def test_any_put_of_a_build(doomed: Any, tmp_path: Path, small_recipe: Path, pusht_raw: Path) -> None:
    parameters = {"data": str(pusht_raw)}
    api.build(str(small_recipe), tmp_path / "L", tmp_path / "M", parameters=parameters, workers=1)
    expected = content(str(tmp_path / "M"))

    def build(out: str) -> None:
        api.build(str(small_recipe), tmp_path / "L", Path(out), parameters=parameters, workers=1)

    root = f"s3://bucket/{os.urandom(6).hex()}"
    doomed.doom(0, "")
    build(f"{root}/count")
    total = doomed.writes
    assert total > 20
    told: Counter[str] = Counter()
    for nth, how in chosen(total):
        out, where = f"{root}/{nth}-{how}", f"PUT {nth} of {total} fails with {how}"
        doomed.doom(nth, how)
        error = failing(lambda out=out: build(out))
        assert doomed.hits, where
        assert error is not None, where
        told[error.what.partition(" (")[0]] += 1
        doomed.doom(0, "")
        if Store(out).names("refs"):
            assert api.verify(f"{out}@v0001").problems == [], where
        build(out)
        assert content(out) == expected, where
        assert api.verify(out).problems == [], where
    print(f"{sum(told.values())} failures over {total} PUTs of a build, each told {dict(told)}, the same version after")


@pytest.mark.slow
def test_any_write_of_the_lake(doomed: Any, tmp_path: Path, pusht_raw: Path) -> None:
    api.ingest(pusht_raw, "pusht_lerobot", tmp_path / "L", workers=1)
    expected = lake_digest(Lake(tmp_path / "L").heads())
    root = f"s3://bucket/{os.urandom(6).hex()}"

    def ingest(lake: str) -> None:
        api.ingest(pusht_raw, "pusht_lerobot", Path(lake), workers=1)

    doomed.doom(0, "")
    ingest(f"{root}/count")
    total = doomed.writes
    assert total > 8
    failed = 0
    for nth, how in chosen(total):
        lake, where = f"{root}/{nth}-{how}", f"write {nth} of {total} fails with {how}"
        doomed.doom(nth, how)
        failed += failing(lambda lake=lake: ingest(lake)) is not None
        assert doomed.hits, where
        doomed.doom(0, "")
        if Lake.at(lake):
            assert len(Lake(lake).heads()) in (0, 6), f"{where}: old state or new"
        ingest(lake)
        assert lake_digest(Lake(lake).heads()) == expected, where
    tried = len(chosen(total))
    print(f"{failed} of {tried} failed writes of an ingest were told, the rest made up for; the same lake each time")
    assert failed >= tried // 2
