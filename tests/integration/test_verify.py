"""Verify beyond digests: forged statistics, counts and rows whose digests fit, decoding, and raw files hashed again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from typer.testing import CliRunner

from dataengine import api
from dataengine.cli.main import app
from dataengine.documents import canonical_json, seal, sha256_bytes
from dataengine.errors import DataEngineError, SpecError
from dataengine.mixture import ledger as ledgers
from dataengine.mixture.statistics import stored
from dataengine.mixture.store import MixtureStore, index_name, seal_ref, shard_name
from dataengine.normalization.statistics import Statistics
from dataengine.provenance import documents
from dataengine.shards import index
from dataengine.shards.npy import npy
from dataengine.shards.tar import Sample, TarWriter, group, members
from dataengine.specs.records import Manifest
from dataengine.verification import Problem
from dataengine.verification.report import Advice

DROPPING = "filters: [{name: min_steps, steps: 11}, {name: no_nan}]"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_pusht: Callable[..., Path], small_recipe: Path) -> Path:
    """Raw data, lake and a version of four episodes; one of them is dropped."""
    folder = tmp_path_factory.mktemp("verify")
    make_pusht(folder / "raw", range(4), rows=10, spoil=1)
    shutil.copy(small_recipe, folder / "recipe.yaml")
    built(folder, folder / "M")
    assert not api.verify(str(folder / "M")).problems
    return folder


def built(folder: Path, out: Path, **changes: Any) -> None:
    recipe = folder / f"{out.name}.yaml"
    recipe.write_text(yaml.safe_dump({**yaml.safe_load((folder / "recipe.yaml").read_text()), **changes}))
    api.build(str(recipe), folder / "L", out, engine="local", workers=1, parameters={"data": str(folder / "raw")})


@pytest.fixture
def mixture(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "M", tmp_path / "M"))


def forge(mixture: Path, manifest: dict[str, Any], files: dict[str, bytes], **fields: str) -> str:
    """Replace a version's manifest and files by others with digests that fit, in documents, ref and run facts too."""
    store = MixtureStore(mixture)
    old = store.manifest_sha("v0001")
    for name, field in (*fields.items(),):
        manifest[field] = sha256_bytes(files[name])
    data = canonical_json(manifest)
    sha = sha256_bytes(data)
    folder = mixture / store.documents(sha)
    (mixture / store.documents(old)).rename(folder)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (mixture / f"manifests/{old}.json").unlink()
    (mixture / f"manifests/{sha}.json").write_bytes(data)
    (mixture / "refs/v0001").write_bytes(seal_ref("v0001", sha))
    shutil.rmtree(mixture / "runs")
    documents.write(store, Manifest.parse(json.loads(data), "forged"), rewrite=True)
    return sha


def told(mixture: Path, **options: Any) -> list[Problem]:
    return api.verify(str(mixture), **options).problems


def parts(mixture: Path) -> tuple[dict[str, Any], Path]:
    store = MixtureStore(mixture)
    sha, manifest = store.manifest("v0001")
    return manifest.canonical(), mixture / store.documents(sha)


def shifted_document(document: dict[str, Any]) -> dict[str, Any]:
    entry = next(iter(document["groups"].values()))["state"]["absolute"][0]
    entry["mean"] += 1.0
    return document


def test_a_shifted_mean_with_digests_that_fit_is_found(mixture: Path) -> None:
    manifest, folder = parts(mixture)
    data = canonical_json(shifted_document(orjson.loads((folder / "normalization.json").read_bytes())))
    sha = forge(mixture, manifest, {"normalization.json": data}, **{"normalization.json": "normalization_sha256"})
    problem, *rest = told(mixture)
    assert not rest
    assert problem.file == f"manifests/{sha}.d/normalization.json"
    assert problem.reason == "statistics_mismatch"
    assert "mean is" in problem.what
    assert "copy" in problem.fix


def test_both_statistics_shifted_alike_are_found_from_the_lake(mixture: Path, made: Path) -> None:
    """Moments shifted in statistics.bin, and the document made of them."""
    manifest, folder = parts(mixture)
    found = stored(MixtureStore(mixture), "v0001")
    data = (folder / "statistics.bin").read_bytes()
    statistics = Statistics.from_bytes(data)
    one = next(iter(next(iter(statistics.groups.values())).channels.values()))
    other = Statistics.from_bytes(data)
    mine = next(iter(next(iter(other.groups.values())).channels.values()))
    mine.moments.merge(one.moments)  # every value of the channel twice
    assert found.statistics is not None
    files = {"statistics.bin": other.to_bytes(), "normalization.json": canonical_json(other.document())}
    assert files["statistics.bin"] != data
    fields = {"statistics.bin": "statistics_sha256", "normalization.json": "normalization_sha256"}
    spec = orjson.loads((folder / "normalization.json").read_bytes())
    assert spec.keys() == orjson.loads(files["normalization.json"]).keys()
    forge(mixture, manifest, files, **fields)
    reasons = {problem.reason for problem in told(mixture, lake=made / "L", workers=1)}
    assert "statistics_mismatch" in reasons


def test_the_lake_confirms_what_is_right(made: Path) -> None:
    report = api.verify(str(made / "M"), lake=made / "L", workers=1)
    assert not report.problems
    assert report.recomputed == ["v0001"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m["drops"].update(nan_in_state=7), "count_mismatch"),
        (lambda m: m.update(bad_input=m["bad_input"] + 1), "count_mismatch"),
        (lambda m: m["sources"][0].update(episodes_kept=4, episodes_dropped=0), "count_mismatch"),
        (lambda m: m["sources"][0].update(samples=1), "count_mismatch"),
        (lambda m: m["sources"].clear(), "count_mismatch"),
        (lambda m: m["shards"][0].update(samples=m["shards"][0]["samples"] + 1), "count_mismatch"),
        (lambda m: m["shards"][0].update(split="valid"), "count_mismatch"),
        (lambda m: m["shards"][0].update(task_digest="0" * 64), "count_mismatch"),
        (lambda m: m["shards"].append(m["shards"][0]), "duplicate_shard"),
        (lambda m: m["shards"].pop(), "count_mismatch"),
        (lambda m: m["recipe"].update(seed=99), "plan_mismatch"),
        (lambda m: m["pins"]["rates"].update(pusht_lerobot=0.5), "plan_mismatch"),
        (lambda m: m.update(lake_digest="0" * 64), "plan_mismatch"),
        (lambda m: m.pop("drops"), "manifest_damaged"),
    ],
)
def test_a_forged_manifest_is_found(mixture: Path, change: Callable[[dict[str, Any]], object], reason: str) -> None:
    manifest, _ = parts(mixture)
    change(manifest)
    store = MixtureStore(mixture)
    old, data = store.manifest_sha("v0001"), canonical_json(manifest)
    sha = sha256_bytes(data)
    (mixture / store.documents(old)).rename(mixture / store.documents(sha))
    (mixture / f"manifests/{old}.json").unlink()
    (mixture / f"manifests/{sha}.json").write_bytes(data)
    (mixture / "refs/v0001").write_bytes(seal_ref("v0001", sha))
    shutil.rmtree(mixture / "runs")
    found = [problem for problem in told(mixture) if problem.reason == reason]
    assert found
    assert all(sha in problem.file and problem.fix for problem in found)


def test_a_dropped_row_that_was_made_a_kept_one_is_found(mixture: Path) -> None:
    """With counts and digests of the manifest written to fit."""
    manifest, folder = parts(mixture)
    table = ledgers.read_table((folder / "ledger.parquet").read_bytes())
    assert pc.sum(pc.equal(table["status"], "dropped")).as_py() == 1
    for name, value in (("status", "kept"), ("reason", ""), ("step", ""), ("evidence", "")):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array([value] * len(table)))
    table = table.set_column(
        table.schema.get_field_index("bad_input"), "bad_input", pa.array([False] * len(table), pa.bool_())
    )
    manifest["drops"], manifest["bad_input"] = {}, 0
    manifest["sources"][0].update(episodes_kept=4, episodes_dropped=0)
    sha = forge(mixture, manifest, {"ledger.parquet": ledgers.parquet(table)}, **{"ledger.parquet": "ledger_sha256"})
    found = {(problem.file, problem.reason) for problem in told(mixture)}
    assert found == {(f"manifests/{sha}.d/ledger.parquet", "fate_mismatch")}


@pytest.fixture(scope="module")
def segments(made: Path) -> Path:
    built(made, made / "S", samples={"kind": "episode", "after": 16}, mix={"mode": "scheduled"})
    return made / "S"


def reread(mixture: Path, spoil: Callable[[str, str, bytes], bytes | None]) -> list[Problem]:
    """Rewrite the first shard with members spoiled (None: left out) and all digests to fit; decode everything."""
    store = MixtureStore(mixture)
    manifest, folder = parts(mixture)
    entry = manifest["shards"][0]
    data = (mixture / shard_name(entry["sha256"])).read_bytes()
    with store.writer("shard") as staged:
        writer = TarWriter(staged)
        samples = list(group(members(data)))
        for number, (key, found) in enumerate(samples):
            listed = [(m.name[len(key) + 1 :], data[m.offset : m.offset + m.size]) for m in found]
            made = [
                (name, spoil(name, key, own) if number == min(1, len(samples) - 1) else own) for name, own in listed
            ]
            document = orjson.loads(listed[0][1])
            said = {name: document[name] for name in ("hz", "source", "starts")} if "starts" in document else None
            writer.add(Sample(key, tuple((name, own) for name, own in made if own is not None), said))
        writer.close()
        staged.publish(shard_name(staged.sha256))
        sha, size = staged.sha256, staged.bytes
    beside = index.dump(writer.index, writer.listed)
    (mixture / index_name(sha)).write_bytes(beside)
    records = ledgers.read_table((folder / "shard_records.parquet").read_bytes())
    own = pc.if_else(pc.equal(records["sha256"], entry["sha256"]), sha, records["sha256"])
    records = records.set_column(records.schema.get_field_index("sha256"), "sha256", own)
    entry.update(sha256=sha, bytes=size, index_sha256=sha256_bytes(beside))
    files = {"shard_records.parquet": ledgers.parquet(records)}
    forge(mixture, manifest, files, **{"shard_records.parquet": "shard_records_sha256"})
    assert not told(mixture), "by its digests the version is whole"
    problems = told(mixture, read_data=True)
    assert all(problem.file == shard_name(sha) for problem in problems)
    return problems


def array(change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]], data: bytes) -> bytes:
    import io

    return npy(change(np.load(io.BytesIO(data)).copy()))


def put(value: float) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    def change(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        values.flat[0] = value
        return values

    return change


def fact(data: bytes, **changes: Any) -> bytes:
    document = {**orjson.loads(data), **changes}
    return canonical_json({name: value for name, value in document.items() if value is not None})


SPOILED = [
    ("front.jpg", lambda data: data[: len(data) // 2], "corrupt_image"),
    ("front.jpg", lambda _: None, "missing_media"),
    ("state.npy", lambda data: array(put(np.nan), data), "value_impossible"),
    ("state.npy", lambda data: array(put(1e6), data), "value_impossible"),
    ("action.npy", lambda data: array(put(-1e6), data), "value_impossible"),
    ("action.npy", lambda data: array(lambda a: a[:, :1], data), "sample_damaged"),
    ("action.npy", lambda data: array(lambda a: a.astype(np.float64), data), "sample_damaged"),
    ("action.npy", lambda data: data[:-1], "sample_damaged"),
    ("action_mask.npy", lambda data: array(put(2), data), "sample_damaged"),
    ("is_pad.npy", lambda data: array(put(1), data), "sample_damaged"),
    ("state_mask.npy", lambda _: None, "sample_damaged"),
    ("json", lambda data: fact(data, prompt=None), "sample_damaged"),
    ("json", lambda data: fact(data, prompt={}), "sample_damaged"),
    ("json", lambda data: fact(data, step="4"), "sample_damaged"),
    ("json", lambda data: fact(data, channels={"state": [241, 240], "action": [240, 241]}), "sample_damaged"),
    ("json", lambda data: fact(data, views={"front": {"height": 4, "width": 96}}), "size_mismatch"),
]


@pytest.mark.parametrize(("member", "change", "reason"), SPOILED)
def test_reading_finds_what_digests_cannot(
    mixture: Path, member: str, change: Callable[[bytes], bytes | None], reason: str
) -> None:
    keys = []

    def spoil(name: str, key: str, data: bytes) -> bytes | None:
        keys.append(key)
        return change(data) if name == member else data

    found = reread(mixture, spoil)
    assert [(problem.reason, keys[0] in problem.what) for problem in found] == [(reason, True)], found


@pytest.mark.parametrize(
    ("member", "change"),
    [
        ("front.0000002.jpg", lambda data: data[:100]),
        ("front.0000002.jpg", lambda _: None),
        ("state.npy", lambda data: array(put(np.nan), data)),
        ("state.npy", lambda data: array(put(1e6), data)),
        ("action.npy", lambda data: array(lambda a: a[1:], data)),
        ("times.npy", lambda data: array(lambda a: a.astype(np.float64), data)),
        ("json", lambda data: fact(data, bounds=[])),
    ],
)
def test_reading_finds_damaged_segments(
    segments: Path, tmp_path: Path, member: str, change: Callable[[bytes], bytes | None]
) -> None:
    mixture = Path(shutil.copytree(segments, tmp_path / "S"))
    pictures: list[str] = []

    def spoil(name: str, _: str, data: bytes) -> bytes | None:
        if name.endswith(".jpg"):
            pictures.append(name)
        wanted = name == member if not member.endswith(".jpg") else pictures[2:3] == [name]
        return change(data) if wanted else data

    found = reread(mixture, spoil)
    assert len(found) == 1
    assert "-seg: " in found[0].what


def test_reading_counts_and_takes_a_share(made: Path, segments: Path) -> None:
    store = MixtureStore(made / "M")
    shards = [shard.samples for shard in store.manifest("v0001")[1].shards]
    full = api.verify(str(made / "M"), read_data=True)
    assert (full.decoded, full.problems) == (sum(shards), [])
    few = api.verify(str(made / "M"), read_data=True, subset=0.3, workers=2)
    assert (few.decoded, few.problems) == (sum(-(-3 * count // 10) for count in shards), [])
    least = api.verify(str(made / "M"), read_data=True, subset=1e-9)
    assert least.decoded == len(shards)
    cut = api.verify(str(segments), read_data=True)
    assert cut.problems == []
    assert cut.decoded == store_samples(segments)


def store_samples(mixture: Path) -> int:
    return sum(shard.samples for shard in MixtureStore(mixture).manifest("v0001")[1].shards)


def test_raw_files_are_hashed_again(made: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(made / "raw", tmp_path / "raw"))
    lake, mixture = made / "L", str(made / "M")
    good = api.verify(mixture, lake=lake, sources=[f"pusht_lerobot={raw}"], workers=1)
    assert good.problems == []
    assert good.raw_files >= 8
    assert api.verify(mixture, lake=lake, sources=[str(raw)], workers=1).problems == []
    changed, lost = sorted(raw.rglob("*.parquet"))[:2]
    data = bytearray(changed.read_bytes())
    data[len(data) // 2] ^= 1
    changed.write_bytes(data)
    lost.unlink()
    found = {problem.file: problem for problem in told(Path(mixture), lake=lake, sources=[str(raw)], workers=1)}
    names = {f"pusht_lerobot: {path.relative_to(raw)}": path for path in (changed, lost)}
    assert found.keys() == names.keys()
    assert [found[name].reason for name in names] == ["digest_mismatch", "missing_file"]
    assert all(problem.fix for problem in found.values())
    with pytest.raises(SpecError, match="digests"):
        api.verify(mixture, sources=[f"pusht_lerobot={raw}"])
    with pytest.raises(SpecError, match="unknown source"):
        api.verify(mixture, sources=[f"nobody={raw}"], lake=lake)


def test_raw_files_are_held_against_a_record(made: Path, tmp_path: Path) -> None:
    record, raw = tmp_path / "record.yaml", Path(shutil.copytree(made / "raw", tmp_path / "raw"))
    api.source_add(raw, "pusht_lerobot", record)
    mixture = made / "M"
    assert told(mixture, sources=[f"{record}={raw}"]) == []
    assert told(mixture, sources=[f"{record}={raw}"], lake=made / "L", workers=1) == []
    victim = next(raw.rglob("*.mp4"))
    victim.write_bytes(b"x")
    (problem,) = told(mixture, sources=[f"{record}={raw}"])
    assert problem.file == f"pusht_lerobot: {victim.relative_to(raw)}"
    api.source_add(raw, "pusht_lerobot", record, replace_old=True)
    reasons = {problem.reason for problem in told(mixture, sources=[f"{record}={raw}"], lake=made / "L", workers=1)}
    assert "record_mismatch" in reasons


def test_the_command_says_what_to_do_and_how_it_ended(mixture: Path) -> None:
    run = CliRunner()
    good = run.invoke(app, ["verify", str(mixture), "--read-data", "--subset", "20%"])
    assert (good.exit_code, "everything is as it was written" in good.stdout) == (0, True)
    assert "samples decoded" in good.stdout
    (mixture / "refs" / "v0001").write_bytes(b"{}")
    (mixture / "mixture.json").unlink()
    bad = run.invoke(app, ["verify", str(mixture), "--json"])
    assert bad.exit_code == 1
    document = json.loads(bad.stdout)
    assert document["ok"] is False
    assert {"refs/v0001", "mixture.json"} <= {entry["file"] for entry in document["problems"]}
    assert all(entry.keys() == {"file", "reason", "what", "fix"} for entry in document["problems"])
    assert run.invoke(app, ["verify", str(mixture), "--read-data", "--subset", "0%"]).exit_code == 2
    assert run.invoke(app, ["verify", str(mixture), "--subset", "some"]).exit_code == 2
    assert run.invoke(app, ["verify", str(mixture.parent / "none")]).exit_code == 2


def test_there_is_advice_for_every_file() -> None:
    advice = Advice("M")
    names = [
        "blobs/x/y.tar",
        "manifests/x.json",
        "manifests/x.d/y",
        "refs/v",
        "tags/t",
        "tasks/t",
        "runs/r",
        "leases/l",
    ]
    assert all(advice.of(name) for name in [*names, "mixture.json", "anything"])
    assert issubclass(SpecError, DataEngineError)
    assert seal({})
