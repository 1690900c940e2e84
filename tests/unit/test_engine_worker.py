"""What a worker on another machine looks at before its first task, and whose temporary files are removed when."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from dataengine.engine import worker
from dataengine.engine.worker import Sight, versions, work
from dataengine.errors import DataEngineError, SpecError, StorageError
from dataengine.mixture.store import STAGING_SECONDS, MixtureStore
from dataengine.storage import Store, staged_by, staged_name


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path.cwd())  # a worker goes where the driver is
    monkeypatch.setattr(worker, "_seen", set())
    monkeypatch.setattr(worker, "LOOK_SECONDS", 0.2)


def here(task: dict[str, Any]) -> dict[str, Any]:
    if "error" in task:
        raise StorageError("no", where="there")
    return {**task, "cwd": str(Path.cwd())}


def done(sight: Sight, **task: Any) -> dict[str, Any] | DataEngineError:
    result: dict[str, Any] | DataEngineError = pickle.loads(work(pickle.dumps((here, task)), sight))
    return result


@pytest.fixture
def sight(tmp_path: Path) -> Sight:
    (tmp_path / "lake" / "episodes").mkdir(parents=True)
    Store(tmp_path / "M").publish("staging/note", b"1")
    return Sight(str(tmp_path / "M"), "staging/note", [str(tmp_path / "lake")], versions(), str(tmp_path))


def test_a_task_runs_where_all_is_seen_in_the_driver_s_folder(
    sight: Sight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    assert done(sight, number=1) == {"number": 1, "cwd": str(tmp_path)}
    (tmp_path / "M" / "staging" / "note").unlink()
    assert done(sight, number=2) == {"number": 2, "cwd": str(tmp_path)}, "it looks once a process"


def test_an_error_comes_back_as_it_is(sight: Sight) -> None:
    error = done(sight, error=True)
    assert isinstance(error, StorageError)
    assert (error.what, error.where) == ("no", "there")


@pytest.mark.parametrize("missing", ["lake/episodes", "M/staging/note"])
def test_what_is_not_seen_is_told(sight: Sight, tmp_path: Path, missing: str) -> None:
    gone = tmp_path / missing
    gone.rmdir() if gone.is_dir() else gone.unlink()
    error = done(sight)
    assert isinstance(error, StorageError)
    assert "does not see what the driver sees" in error.what
    assert error.where == str(tmp_path / missing.split("/", maxsplit=1)[0])
    assert "docs/cluster.md" in str(error)


def test_other_versions_are_told(sight: Sight) -> None:
    other = {**versions(), "av": "1.0", "arch": "riscv"}
    error = done(Sight(sight.place, sight.note, sight.folders, other))
    assert isinstance(error, SpecError)
    assert f"av {versions()['av']} for 1.0" in error.what
    assert "arch" in error.what
    assert "numpy" not in error.what


def test_staging_of_other_hosts_stays_for_a_day(tmp_path: Path) -> None:
    store = MixtureStore(tmp_path / "M", create=True)
    label, host, _, random = staged_name("shard").split(".")
    assert (label, staged_by(staged_name("x"))) == ("shard", os.getpid())
    own, dead = f"shard.{host}.{os.getpid()}.{random}", f"shard.{host}.4194304.{random}"
    elsewhere, old = f"shard.0badcafe.4194304.{random}", f"shard.0badcafe.17.{random}"
    staging = tmp_path / "M" / "staging"
    staging.mkdir(exist_ok=True)
    for name in (own, dead, elsewhere, old):
        (staging / name).write_bytes(b"")
    passed = (staging / old).stat().st_mtime - STAGING_SECONDS - 60
    os.utime(staging / old, (passed, passed))
    store.clean_staging()
    assert sorted(path.name for path in staging.iterdir()) == sorted([own, elsewhere])
