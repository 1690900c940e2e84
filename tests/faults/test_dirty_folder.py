"""An output folder, or a lake's folder, that holds something else is refused, with what to do, and stays as it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dataengine.cli.main import app
from dataengine.storage.s3 import S3Backend


def _files(root: Path) -> None:
    (root / "thesis.tex").write_text("mine")


def _hidden(root: Path) -> None:
    (root / ".git").mkdir()
    (root / ".git" / "HEAD").write_text("ref")


def _empty_folders(root: Path) -> None:
    (root / "photos").mkdir()


def _other_tool(root: Path) -> None:
    """Half of what another tool writes: shards by its own names and an index."""
    (root / "shard-000000.tar").write_bytes(b"\0" * 1024)
    (root / "dataset.json").write_text("{}")


def _no_marker(root: Path) -> None:
    """A mixture's own folders without what says whose they are."""
    for name in ("blobs", "refs"):
        (root / name).mkdir()
    (root / "refs" / "v0001").write_text("{}")


def _a_lake(root: Path) -> None:
    (root / "episodes.lance").mkdir()
    (root / "episodes.lance" / "data").write_bytes(b"x")


def _bad_marker(root: Path) -> None:
    (root / "mixture.json").write_text("{}")


def _a_file(root: Path) -> None:
    root.rmdir()
    root.write_text("a file")


DIRT = [_files, _hidden, _empty_folders, _other_tool, _no_marker, _a_lake, _bad_marker, _a_file]


def state(root: Path) -> dict[str, bytes]:
    paths = [root, *sorted(root.rglob("*"))]
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in paths}


def build(recipe: Path, lake: object, out: object, raw: Path) -> tuple[int, str]:
    words = ["build", str(recipe), "--lake", str(lake), "--out", str(out), "--set", f"data={raw}", "--workers", "1"]
    done = CliRunner().invoke(app, words)
    return done.exit_code, done.output


@pytest.mark.parametrize("dirt", DIRT, ids=lambda dirt: dirt.__name__.strip("_"))
def test_a_folder_of_other_files(
    dirt: Callable[[Path], None], small_recipe: Path, pusht_raw: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    dirt(out)
    before = state(out)
    code, told = build(small_recipe, tmp_path / "L", out, pusht_raw)
    assert code == 1, told
    assert "next:" in told, told
    assert state(out) == before, "nothing was touched"
    assert not (tmp_path / "L").exists(), "it is said before anything is read"


@pytest.mark.parametrize("dirt", [_files, _other_tool, _a_file], ids=lambda dirt: dirt.__name__.strip("_"))
def test_a_lake_folder_of_other_files(
    dirt: Callable[[Path], None], small_recipe: Path, pusht_raw: Path, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()
    dirt(lake)
    before = state(lake)
    code, told = build(small_recipe, lake, tmp_path / "M", pusht_raw)
    assert code == 1, told
    assert "next:" in told, told
    assert state(lake) == before


def test_a_prefix_of_other_objects(bucket: str, small_recipe: Path, pusht_raw: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    S3Backend(f"{bucket}/M").create("thesis.tex", mine)
    code, told = build(small_recipe, tmp_path / "L", f"{bucket}/M", pusht_raw)
    assert code == 1, told
    assert "next:" in told, told
    assert S3Backend(f"{bucket}/M").names("") == ["thesis.tex"]
    S3Backend(f"{bucket}/M").remove("thesis.tex")
    shutil.rmtree(tmp_path / "L", ignore_errors=True)
    assert build(small_recipe, tmp_path / "L", f"{bucket}/M", pusht_raw)[0] == 0
