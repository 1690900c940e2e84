"""A listing finds what `Path.glob` finds: on folders made by chance, with files, links, pipes and odd names."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataengine import api
from dataengine.errors import FormatError
from dataengine.fixtures.hdf5_log_writer import write_arm
from dataengine.fixtures.table_log_writer import write_csv_log
from dataengine.formats.files import ending
from dataengine.storage import SourceRoot
from dataengine.storage.listing import Listing, translated, walk

NAMES = st.sampled_from(["a", "b", "ab", "a.json", "b.json", ".hidden", "x[1]", "ab.hdf5", "\u00e9", "a\nb"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
GROUPS = ["[ab]*", "[!a]*", "x[[]1]", "*[[]*", "[a-z].json", "[", "x[]1[]"]
PARTS = st.sampled_from(["*", "a", "a*", "?", "*.json", ".*", *GROUPS])
PATTERNS = st.lists(PARTS | st.just("**"), max_size=3).flatmap(lambda up: PARTS.map(lambda last: "/".join([*up, last])))


@pytest.fixture(scope="module")
def made() -> dict[frozenset[str], Path]:
    return {}


@given(paths=st.frozensets(PATHS, max_size=12), pattern=PATTERNS)
def test_a_pattern_finds_what_glob_finds(
    tmp_path_factory: pytest.TempPathFactory, made: dict[frozenset[str], Path], paths: frozenset[str], pattern: str
) -> None:
    if paths not in made:
        made[paths] = tmp_path_factory.mktemp("tree")
        for path in sorted(paths, key=len, reverse=True):
            target = made[paths] / path
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(b"x")
    root = made[paths]
    expected = {path.relative_to(root).as_posix() for path in root.glob(pattern)}
    found = [path for path, _ in Listing(walk(root)).matches(pattern)]
    assert sorted(found) == sorted(expected)
    files = sorted(path for path in expected if (root / path).is_file())
    assert SourceRoot(root).glob(pattern) == files
    with (listed := SourceRoot(root)).listed():
        assert listed.glob(pattern) == files
    everything = {path.relative_to(root).as_posix() for path in root.glob("**/*")}
    assert {path for path in everything if translated(pattern).fullmatch(path)} == expected


def kinds(root: Path) -> SourceRoot:
    """A root with what is no regular file in it: links of all sorts, a pipe, a folder with a file's name."""
    inside = root / "data" / "deep"
    inside.mkdir(parents=True)
    (inside / "one.json").write_text("{}")
    (root / "data" / "folder.json").mkdir()
    (root / "data" / "to_file.json").symlink_to(inside / "one.json")
    (root / "data" / "away.json").symlink_to(root.parent / "secret.json")
    (root.parent / "secret.json").write_text("{}")
    os.mkfifo(root / "data" / "pipe.json")
    return SourceRoot(root)


@pytest.mark.parametrize("pattern", ["**/*.json", "data/*.json", "*/*.json"])
def test_what_is_no_regular_file_is_told_with_a_listing_and_without(tmp_path: Path, pattern: str) -> None:
    plain = kinds(tmp_path / "root")
    listed = SourceRoot(plain.path)
    with listed.listed():
        found = listed.glob(pattern)
    assert found == plain.glob(pattern)
    assert found == ["data/deep/one.json"] * (pattern == "**/*.json") + ["data/to_file.json"]
    told = {path: reason for path, (reason, _) in listed.refused.items()}
    assert told == {path: reason for path, (reason, _) in plain.refused.items()}
    assert told == {
        "data/folder.json": "not_a_regular_file",
        "data/pipe.json": "not_a_regular_file",
        "data/away.json": "path_outside_root",
    }


def test_links_to_folders_are_found_as_glob_finds_them(tmp_path: Path) -> None:
    root = kinds(tmp_path / "root")
    (root.path / "linked").symlink_to(root.path / "data" / "deep")
    (root.path / "out").symlink_to(tmp_path)
    with root.listed():
        assert root.glob("*/*.json") == ["data/to_file.json", "linked/one.json"]
        assert root.glob("**/one.json") == ["data/deep/one.json"]
        assert root.files() == ["data/deep/one.json", "data/to_file.json"]
    assert {name: root.refused.get(name, (None,))[0] for name in ("linked", "out")} == {
        "linked": None,
        "out": "path_outside_root",
    }


def test_a_listing_ends_with_its_block(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    root = SourceRoot(tmp_path)
    with root.listed():
        assert root.glob("*") == ["a"]
        (tmp_path / "b").write_text("b")
        with root.listed():
            assert root.files() == root.glob("*") == ["a"]
        (tmp_path / "a").unlink()
        assert root.glob("*") == ["a"]
        assert root.exists("a")
        with pytest.raises(FormatError, match="a does not exist"):
            root.size("a")
        with pytest.raises(FormatError, match="a does not exist"):
            root.read("a")
    assert not root.exists("a")
    assert root.glob("*") == root.files() == ["b"]


def test_a_pattern_is_translated_part_by_part() -> None:
    assert translated("**/a[[]b].*").fullmatch("x/y/a[b].json")
    assert not translated("a*").fullmatch("a/b")
    assert not re.fullmatch(translated("a[!b]c"), "a/c")


def test_suffixes_in_capitals_are_found(tmp_path: Path) -> None:
    for name in ("a.hdf5", "b.HDF5", "c/d.Hdf5", "e.h5", "f.hdf5x", "hdf5"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert ending(SourceRoot(tmp_path), (".hdf5", ".h5")) == ["a.hdf5", "b.HDF5", "c/d.Hdf5", "e.h5"]


@pytest.mark.parametrize(("suffix", "reader"), [(".h5", "hdf5_episodes"), (".csv", "table_episodes")])
def test_a_log_in_capitals_is_read(tmp_path: Path, suffix: str, reader: str) -> None:
    if suffix == ".h5":
        write_arm(tmp_path)
    else:
        write_csv_log(tmp_path)
    before = api.inspect(tmp_path, format_name=reader)
    one = next(tmp_path.glob(f"*{suffix}"))
    one.rename(one.with_suffix(suffix.upper()))
    after = api.inspect(tmp_path, format_name=reader)
    assert (after.found, after.read) == (before.found, before.read) == (2, 2)
