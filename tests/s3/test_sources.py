"""Raw data elsewhere: read from S3 and through fsspec as if they lay here."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from dataengine import api
from dataengine.errors import MissingError, SpecError
from dataengine.lake import Lake, lake_digest
from dataengine.storage import SourceRoot, local_source, root_and_files
from dataengine.storage.listing import translated
from dataengine.storage.s3 import S3Backend


def upload(folder: Path, address: str) -> None:
    backend = S3Backend(address)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            backend.create(path.relative_to(folder).as_posix(), path)


def digest(lake: Path) -> str:
    return lake_digest(Lake(lake).heads())


def test_a_source_on_s3_gives_the_same_lake(bucket: str, pusht_raw: Path, tmp_path: Path) -> None:
    upload(pusht_raw, f"{bucket}/raw/pusht")
    api.ingest(pusht_raw, "pusht_lerobot", tmp_path / "near", workers=1)
    report = api.ingest(Path(f"{bucket}/raw/pusht"), "pusht_lerobot", tmp_path / "far", workers=2)
    assert report.failures == []
    assert digest(tmp_path / "near") == digest(tmp_path / "far")
    found = api.inspect(Path(f"{bucket}/raw/pusht"))
    assert (found.format, found.read) == ("lerobot", 6)
    with pytest.raises(MissingError):
        api.ingest(Path(f"{bucket}/raw/nothing"), "pusht_lerobot", tmp_path / "none", workers=1)


def test_one_file_on_s3(bucket: str, data: Path) -> None:
    demo = next((data / "simulation" / "robosuite_1.5.2_lift").glob("*.hdf5"))
    S3Backend(f"{bucket}/raw").create(demo.name, demo)
    found = api.inspect(Path(f"{bucket}/raw/{demo.name}"))
    assert found.format == "robomimic"
    assert found.read == 3


def test_any_protocol_of_fsspec(pusht_raw: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in sorted(pusht_raw.rglob("*")):
        if path.is_file():
            memory.pipe(f"/src/pusht/{path.relative_to(pusht_raw).as_posix()}", path.read_bytes())
    api.ingest(pusht_raw, "pusht_lerobot", tmp_path / "near", workers=1)
    api.ingest(Path("memory://src/pusht"), "pusht_lerobot", tmp_path / "far", workers=1)
    assert digest(tmp_path / "near") == digest(tmp_path / "far")
    with pytest.raises(SpecError, match="no protocol"):
        api.inspect(Path("nosuch://x/y"))


def test_files_come_when_they_are_read_and_are_checked() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/lazy/a/one.txt", b"1")
    memory.pipe("/lazy/a/two.txt", b"22")
    with local_source(Path("memory://lazy/a")) as folder:
        root, only = root_and_files(folder)
        assert only is None
        assert root.glob("*.txt") == ["one.txt", "two.txt"]
        assert not (folder / "one.txt").exists()
        assert root.size("two.txt") == 2
        assert root.read("two.txt") == b"22"
        assert not (folder / "one.txt").exists()
        memory.pipe("/lazy/a/one.txt", b"other")
        with pytest.raises(Exception, match="changed while it was fetched"):
            root.read("one.txt")
        assert SourceRoot(folder).exists("one.txt")
        assert not root.exists("three.txt")
    assert not folder.exists()


@pytest.mark.parametrize("pattern", ["*", "**/*", "*/*.txt", "**/*.txt", "a/**/x?.txt", "a/b/x1.txt", "**/b/*"])
def test_patterns_mean_what_they_mean_on_disk(pattern: str, tmp_path: Path) -> None:
    names = ["x1.txt", "a/x1.txt", "a/b/x1.txt", "a/b/x22.txt", "a/b/c/x3.txt", "b/y.csv"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    there = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.glob(pattern) if p.is_file())
    assert sorted(name for name in names if translated(pattern).fullmatch(name)) == there
