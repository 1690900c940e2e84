"""Verify finds every planted damage: 1,000 flipped bits, 200 cuts, and files that are missing, swapped or no files.

Several are planted at once, in files of different kinds; each must be named. `-s` prints how many of each kind were,
and how long a whole check takes. One at a time (minutes):

    DATAENGINE_ALL_FLIPS=1 pytest -n0 -s tests/integration/test_verify_flips.py -k every_flipped
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dataengine import api
from dataengine.documents import seal
from dataengine.mixture.store import MixtureStore
from dataengine.verification import Problem

RECIPE = """
name: small
sources:
  - {converter: pusht_lerobot, path: "${data}"}
window: {chunk: {steps: CHUNK}}
filters: [{name: min_steps, steps: 2}, {name: no_nan}]
split: {valid: 0.2}
shards: {buckets: {train: 2, valid: 1}, segment: 8}
normalization: {representations: [absolute]}
"""
FLIPS, CUTS = 1000, 200
MAX_SECONDS = 0.05  # of one whole check, of this process alone: other work on the machine does not count


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_pusht: Callable[..., Path]) -> Path:
    """Two versions with a tag, run facts, documents, and a lease that a killed build left; the lake beside."""
    folder = tmp_path_factory.mktemp("flips")
    make_pusht(folder / "raw", range(3), rows=8)
    for number, chunk in enumerate((8, 6)):
        recipe = folder / f"recipe{number}.yaml"
        recipe.write_text(RECIPE.replace("CHUNK", str(chunk)))
        api.build(str(recipe), folder / "L", folder / "M", engine="local", workers=1, parameters=parameters(folder))
    api.tag(f"{folder / 'M'}@v0001", "paper")
    api.tag(f"{folder / 'M'}@v0002", "next")
    MixtureStore(folder / "M").publish("leases/build-0123456789abcdef.json", seal({"kind": "build"}))
    assert not problems(folder / "M")
    return folder


def parameters(folder: Path) -> dict[str, str]:
    return {"data": str(folder / "raw")}


def problems(mixture: Path) -> list[Problem]:
    return api.verify(str(mixture)).problems


@pytest.fixture
def mixture(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "M", tmp_path / "M"))


def kind(name: str) -> str:
    """What a file is, for the table and for weighing."""
    path = Path(name)
    if path.parts[0] == "manifests" and len(path.parts) == 3:
        return f"manifests/*.d/{path.name}"
    if path.parts[0] in ("blobs", "runs"):
        return f"{path.parts[0]}/*.{path.name.partition('.')[2]}"
    return path.parts[0] if len(path.parts) == 1 else f"{path.parts[0]}/*"


def names(mixture: Path) -> dict[str, list[str]]:
    """Every file outside staging, by kind."""
    found: dict[str, list[str]] = {}
    for path in sorted(mixture.rglob("*")):
        name = path.relative_to(mixture).as_posix()
        if path.is_file() and not name.startswith("staging/"):
            found.setdefault(kind(name), []).append(name)
    return found


def flipped(data: bytes, chance: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    damaged[int(chance.integers(len(data)))] ^= 1 << int(chance.integers(8))
    return bytes(damaged)


def cut(data: bytes, chance: np.random.Generator) -> bytes:
    """Without the last byte, or without all, or anything between."""
    return data[: int(chance.choice([len(data) - 1, 0, chance.integers(len(data))]))]


def rounds(files: dict[str, list[str]]) -> list[list[str]]:
    """Kinds that are damaged together. What holds the digests of others is damaged apart from them: it is told then,
    and they cannot be."""
    if "DATAENGINE_ALL_FLIPS" in os.environ:
        return [[own] for own in sorted(files)]
    apart = [own for own in files if own in ("manifests/*", "runs/*.json")]
    lists = ["blobs/*.idx", "manifests/*.d/documents.json"]
    return [sorted(files.keys() - {*apart, *lists}), sorted(apart), lists]


@pytest.mark.slow
@pytest.mark.parametrize(("damage", "count", "seed"), [(flipped, FLIPS, 1), (cut, CUTS, 2)], ids=["flips", "cuts"])
def test_every_flipped_bit_and_every_cut_is_found(
    mixture: Path, damage: Callable[[bytes, np.random.Generator], bytes], count: int, seed: int
) -> None:
    files, chance = names(mixture), np.random.default_rng(seed)
    planted, found = Counter[str](), Counter[str]()
    together = rounds(files)
    for number in itertools.count():
        chosen = {own: str(chance.choice(files[own])) for own in together[number % len(together)]}
        clean = {name: (mixture / name).read_bytes() for name in chosen.values()}
        for name, data in clean.items():
            (mixture / name).write_bytes(damage(data, chance))
        told = {problem.file for problem in problems(mixture) if problem.what and problem.fix}
        for own, name in chosen.items():
            planted[own] += 1
            found[own] += name in told
        for name, data in clean.items():
            (mixture / name).write_bytes(data)
        if planted.total() >= count and number % len(together) == len(together) - 1:
            break
    for own in sorted(files):
        print(f"{own:<40} {len(files[own]):>3} files  {planted[own]:>4} planted  {found[own]:>4} found")
    print(f"{'':<40} {sum(map(len, files.values())):>3} files  {planted.total():>4} planted  {found.total():>4} found")
    assert found == planted
    assert planted.total() >= count
    assert not problems(mixture)


def test_a_whole_check_is_quick(made: Path) -> None:
    taken = []
    for _ in range(7):
        begun = time.process_time()
        problems(made / "M")
        taken.append(time.process_time() - begun)
    print(f"best of 7 whole checks: {min(taken) * 1000:.1f} ms")
    assert min(taken) < MAX_SECONDS


# What nothing else tells of: the cache of tasks, what a run wrote, a tag, a lease. (A manifest's are told of.)
OPTIONAL = (
    "tasks/*",
    "runs/*.json",
    "runs/*.openlineage.ndjson",
    "runs/*.provenance.intoto.jsonl",
    "tags/*",
    "leases/*",
)


def test_every_missing_file_is_named_but_what_nothing_depends_on(mixture: Path) -> None:
    for own, listed in names(mixture).items():
        path = mixture / listed[0]
        clean = path.read_bytes()
        path.unlink()
        told = {problem.file for problem in problems(mixture)}
        if own == "runs/*.json":
            run = listed[0].removesuffix("json")
            assert told == {f"{run}openlineage.ndjson", f"{run}provenance.intoto.jsonl"}
        elif own in OPTIONAL:
            assert not told
        else:
            assert listed[0] in told, own
        path.write_bytes(clean)
    assert not problems(mixture)


@pytest.mark.parametrize("what", ["link", "folder", "full folder", "pipe"])
def test_what_is_no_file_is_named(mixture: Path, tmp_path: Path, what: str) -> None:
    for own, listed in names(mixture).items():
        name = listed[-1]
        path, aside = mixture / name, tmp_path / "aside"
        path.rename(aside)
        if what == "link":
            path.symlink_to(aside)
        elif what == "pipe":
            os.mkfifo(path)
        else:
            path.mkdir()
        if what == "full folder":
            (path / "x").write_text("x")
        told = [problem for problem in problems(mixture) if problem.file == name]
        assert told, own
        assert all(problem.fix for problem in told)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        aside.rename(path)
    assert not problems(mixture)


def test_folders_that_are_links_are_named(mixture: Path, tmp_path: Path) -> None:
    for name in ("blobs", "manifests", "tasks", "refs", "tags", "runs", "leases"):
        shutil.move(mixture / name, tmp_path / name)
        (mixture / name).symlink_to(tmp_path / name)
        assert name in {problem.file for problem in problems(mixture)}
        (mixture / name).unlink()
        shutil.move(tmp_path / name, mixture / name)
    assert not problems(mixture)


def test_swapped_files_are_named(mixture: Path) -> None:
    """Two files of a kind, each whole, under each other's name."""
    for own, listed in names(mixture).items():
        if len(listed) < 2:
            continue
        one, two = mixture / listed[0], mixture / listed[1]
        first, second = one.read_bytes(), two.read_bytes()
        if first == second:  # an index that describes another shard as well, statistics of another window
            continue
        one.write_bytes(second)
        two.write_bytes(first)
        told = {problem.file for problem in problems(mixture)}
        assert {listed[0], listed[1]} & told, own
        one.write_bytes(first)
        two.write_bytes(second)
    assert not problems(mixture)


def test_refs_of_before_they_named_themselves_are_held_against_the_runs(mixture: Path) -> None:
    store = MixtureStore(mixture)
    old = {name: seal({"manifest": store.manifest_sha(name)}) for name in ("v0001", "v0002")}
    for name, data in old.items():
        (mixture / "refs" / name).write_bytes(data)
    assert not problems(mixture)
    (mixture / "refs" / "v0001").write_bytes(old["v0002"])
    (mixture / "refs" / "v0002").write_bytes(old["v0001"])
    assert {p.file for p in problems(mixture)} == {"refs/v0001", "refs/v0002"}


@pytest.mark.parametrize(
    "extra",
    [
        "notes.txt", ".hidden", "blobs/x", "blobs/sha256/aa/x.tar", "more/deep/file",
        "blobs/sha256/00/{0}.tar", "blobs/sha256/00/{0}.idx",
        "tasks/{0}.json", "tasks/x.json", "refs/v0009", "tags/x", "runs/x.json", "runs/x.txt", "leases/x",
        "manifests/x.json", "manifests/{0}.json", "manifests/{manifest}.d/x.json", "manifests/x.d/ledger.parquet",
    ],
)  # fmt: skip
def test_every_extra_file_is_named(mixture: Path, extra: str) -> None:
    sha = MixtureStore(mixture).manifest_sha("v0001")
    name = extra.replace("{0}", "0" * 64).replace("{manifest}", sha)
    (mixture / name).parent.mkdir(parents=True, exist_ok=True)
    (mixture / name).write_text("{}")
    told = {problem.file: problem for problem in problems(mixture)}
    assert name in told
    assert told[name].fix


def test_copies_under_another_name_are_named(mixture: Path) -> None:
    for source, target in (("refs/v0002", "refs/v0003"), ("tags/paper", "tags/other")):
        shutil.copy(mixture / source, mixture / target)
        assert [p.file for p in problems(mixture)] == [target]
        (mixture / target).unlink()


def test_what_lies_in_staging_is_nobodys(mixture: Path) -> None:
    (mixture / "staging" / "deep").mkdir(parents=True, exist_ok=True)
    (mixture / "staging" / "deep" / "x").write_text("x")
    (mixture / "staging" / "link").symlink_to("/")
    assert not problems(mixture)


def test_the_advice_mends(mixture: Path, made: Path, content: Callable[[Path], dict[str, str]]) -> None:
    """Following what a problem says leads back to the same bytes."""
    lake, before = made / "L", content(mixture)
    store = MixtureStore(mixture)
    entry = store.manifest("v0001")[1].shards[1]
    for name in (f"blobs/sha256/{entry.sha256[:2]}/{entry.sha256}.{end}" for end in ("tar", "idx")):
        for data in (b"", None):
            if data is None:
                (mixture / name).unlink()
            else:
                (mixture / name).write_bytes(data)
            told = next(p for p in problems(mixture) if p.file == name)
            assert told.fix == f"dataengine rebuild {mixture}@v0001 --shard 1 --lake LAKE --restore"
            assert api.rebuild(f"{mixture}@v0001", 1, lake, restore=True).restored == (name,)
            assert content(mixture) == before
    listed = names(mixture)
    for own in ("tasks/*", "runs/*.openlineage.ndjson", "leases/*"):
        (mixture / listed[own][0]).write_bytes(b"x")
        told = next(p for p in problems(mixture) if p.file == listed[own][0])
        assert told.fix.startswith("remove it")
        (mixture / listed[own][0]).unlink()
        assert not problems(mixture)
    card = next(name for name in listed["manifests/*.d/dataset_card.md"] if store.manifest_sha("v0001") in name)
    (mixture / card).write_bytes(b"x")
    told = next(p for p in problems(mixture) if p.file == card)
    assert f"dataengine documents {mixture}@v0001 --rewrite" in told.fix
    api.documents(f"{mixture}@v0001", rewrite=True)
    assert not problems(mixture)
    for own in ("ledger.parquet", "normalization.json", "shard_records.parquet", "statistics.bin"):
        name = f"manifests/{store.manifest_sha('v0002')}.d/{own}"
        (mixture / name).write_bytes(b"x")
        assert "remove it and build" in next(p for p in problems(mixture) if p.file == name).fix
        (mixture / name).unlink()
        build(made, mixture, None)
        assert not problems(mixture)
    (mixture / "refs" / "v0002").unlink()
    assert "--version v0002" in next(p for p in problems(mixture) if p.file == "refs/v0002").fix
    build(made, mixture, "v0002")
    assert not problems(mixture)
    assert {name: digest for name, digest in before.items() if name in content(mixture)} == content(mixture)


def build(made: Path, mixture: Path, version: str | None) -> None:
    recipe = made / "recipe1.yaml"
    api.build(str(recipe), made / "L", mixture, engine="local", workers=1, parameters=parameters(made), version=version)
