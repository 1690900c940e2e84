"""Source records and what a recipe allows, from the command line to the manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import fsspec
import pytest
import yaml
from typer.testing import CliRunner, Result

from dataengine import api
from dataengine.cli.main import app
from dataengine.documents import load_yaml, spec_files
from dataengine.errors import PolicyError, SpecError
from dataengine.lake import Lake
from dataengine.mixture.store import MixtureStore
from dataengine.sources import load_record
from dataengine.specs.recipe import Recipe

MakePusht = Callable[..., Path]
PARQUET = "data/chunk-000/episode_000003.parquet"
VIDEO = "videos/chunk-000/observation.image/episode_000001.mp4"


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory, pusht_raw: Path) -> Path:
    out = tmp_path_factory.mktemp("record") / "pusht.yaml"
    said = run("source", "add", pusht_raw, "--converter", "pusht_lerobot", "--out", out, "--revision", "abc123").output
    assert "15 files" in said
    assert "unknown, to be filled in where somebody knows: citation" in said
    return out


@pytest.fixture
def raw(tmp_path: Path, pusht_raw: Path) -> Path:
    """A copy of the raw data that a test may spoil."""
    return Path(shutil.copytree(pusht_raw, tmp_path / "raw"))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1
    path.write_bytes(data)


def plain_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def heads(lake: Path) -> list[tuple[str, str, str | None, str]]:
    return sorted((h.upstream_id, h.status, h.reason, h.source.record_sha256) for h in Lake(lake).heads())


def test_a_record_names_every_file(record: Path, pusht_raw: Path) -> None:
    found = load_record(record)
    assert sorted(found.files) == [p.relative_to(pusht_raw).as_posix() for p in plain_files(pusht_raw)]
    assert found.info is not None
    assert found.info.revision == "abc123"
    assert found.info.retrieved_at.endswith("+00:00")
    shown = json.loads(run("source", "show", record, "--json").output)
    assert shown["record_sha256"] == found.digest
    assert len(shown["files"]) == 15
    assert shown["facts"][0]["license"] == "Apache-2.0"
    assert "license                Apache-2.0" in run("source", "show", "pusht_lerobot").output
    assert str(pusht_raw) not in record.read_text()


def test_check_names_what_is_missing_changed_or_extra(record: Path, raw: Path) -> None:
    assert "0 differences" in run("source", "check", record, raw).output
    flip(raw / PARQUET, 100)
    (raw / "meta/tasks.jsonl").unlink()
    (raw / "notes.txt").write_text("mine")
    (raw / "away").symlink_to("/etc")
    found = json.loads(run("source", "check", record, raw, "--json", code=1).output)
    assert (list(found["changed"]), found["missing"], found["extra"]) == (
        [PARQUET],
        ["meta/tasks.jsonl"],
        ["notes.txt"],
    )
    assert list(found["refused"]) == ["away"]
    shown = run("source", "check", record, raw, code=1).output
    assert all(name in shown for name in (PARQUET, "meta/tasks.jsonl", "notes.txt", "away", "4 differences"))


def test_upstream_s_own_list(tmp_path: Path, raw: Path, record: Path) -> None:
    known = load_record(record).files.values()
    (raw / "SHA256SUMS").write_text("".join(f"{file.sha256}  {file.path}\n" for file in known))
    assert "15 files" in run("source", "check", raw / "SHA256SUMS", raw).output, "the list is no file of the source"
    out = tmp_path / "new.yaml"
    command = ("source", "add", raw, "--converter", "pusht_lerobot", "--sums", raw / "SHA256SUMS", "--out", out)
    assert "15 of them are as upstream lists them" in run(*command).output
    run(*command, code=4)
    flip(raw / VIDEO, 500)
    said = run(*command, "--replace", code=1).output
    assert VIDEO in said
    assert "not as upstream lists them" in said
    assert load_record(out).digest, "the record that stood there stays"


def test_a_record_that_is_made_anew_keeps_its_facts(tmp_path: Path, raw: Path) -> None:
    out = raw / "RECORD.yaml"
    run("source", "add", raw, "--converter", "pusht_lerobot", "--out", out)
    document = load_yaml(out)
    document["source"]["citation"] = "Somebody, 2026"
    out.write_text(yaml.safe_dump(document))
    (raw / ".cache").mkdir()
    (raw / ".cache" / "lock").write_text("x")
    run("source", "add", raw, "--converter", "pusht_lerobot", "--out", out, "--replace", "--exclude", ".cache/*")
    found = load_record(out)
    assert found.info is not None
    assert found.info.citation == "Somebody, 2026"
    assert len(found.files) == 15, "neither the record itself nor what is excluded"
    assert "0 differences" in run("source", "check", out, raw).output
    run("ingest", raw, "--converter", "pusht_lerobot", "--lake", tmp_path / "lake", "--record", out)


def test_ingest_leaves_out_what_differs(tmp_path: Path, raw: Path, record: Path) -> None:
    digest = load_record(record).digest
    flip(raw / PARQUET, 100)
    flip(raw / VIDEO, 500)
    (raw / "notes.txt").write_text("mine")
    lake = tmp_path / "lake"
    command = ("ingest", raw, "--converter", "pusht_lerobot", "--lake", lake, "--record", record)
    done = json.loads(run(*command, "--json", code=3).output)
    assert done["reasons"] == {"digest_mismatch": 2, "undeclared_file": 1}
    assert (done["added"], done["scanned"]) == (4, 7)
    assert heads(lake) == [
        ("episode_000000", "ok", None, digest),
        ("episode_000001", "dropped", "digest_mismatch", digest),
        ("episode_000002", "ok", None, digest),
        ("episode_000003", "dropped", "digest_mismatch", digest),
        ("episode_000004", "ok", None, digest),
        ("episode_000005", "ok", None, digest),
        ("notes.txt", "quarantined", "undeclared_file", digest),
    ]
    what = {head.upstream_id: head.what for head in Lake(lake).heads()}
    assert PARQUET in str(what["episode_000003"])
    assert VIDEO in str(what["episode_000001"])


def test_every_flip_is_found(raw: Path, record: Path) -> None:
    """Single flipped bits of Parquet and video pass readers silently; no file with one passes its record."""
    for number, name in enumerate(load_record(record).files):
        whole = (raw / name).read_bytes()
        flip(raw / name, 131 * number + 7)
        assert list(api.source_check(record, raw).changed) == [name]
        (raw / name).write_bytes(whole)


def test_a_shared_file_that_changed_spoils_what_was_read_from_it(tmp_path: Path, raw: Path, record: Path) -> None:
    """The texts of all tasks stand in one file that no episode is named after."""
    tasks = raw / "meta/tasks.jsonl"
    tasks.write_text(tasks.read_text().replace("Push the block, variant 2", "Pull the block, variant 2"))
    report = api.ingest(raw, "pusht_lerobot", tmp_path / "lake", record=record, workers=1)
    assert report.added == 0
    assert {failure.reason for failure in report.failures} == {"digest_mismatch"}


def test_rows_that_were_there_tell_the_record(tmp_path: Path, pusht_raw: Path, record: Path) -> None:
    lake = tmp_path / "lake"
    api.ingest(pusht_raw, "pusht_lerobot", lake, workers=1)
    before = {head.uid: head for head in Lake(lake).heads()}
    report = api.ingest(pusht_raw, "pusht_lerobot", lake, record=record, workers=1)
    assert (report.unchanged, report.restated, report.reconverted) == (6, 6, 0)
    after = {head.uid: head for head in Lake(lake).heads()}
    digest = load_record(record).digest
    assert before.keys() == after.keys()
    for uid, head in after.items():
        assert head.source.record_sha256 == digest
        assert head.source.revision == "abc123"
        assert head.conversion_digest == before[uid].conversion_digest
        assert head.content_digest == before[uid].content_digest
        assert head.content != before[uid].content, "the next build sees that the facts are others"
    assert api.ingest(pusht_raw, "pusht_lerobot", lake, record=record, workers=1).restated == 0
    shown = api.source_show(f"{lake}:pusht_lerobot")
    assert [(facts["rows"], facts["record_sha256"]) for facts in shown["facts"]] == [(6, digest)]
    with pytest.raises(SpecError, match="did you mean 'pusht_lerobot'"):
        api.source_show(f"{lake}:pusht_lerobt")


def test_a_copy_from_before_a_file_changed_stays_and_claims_no_record(tmp_path: Path, raw: Path, record: Path) -> None:
    lake, out = tmp_path / "lake", tmp_path / "out"
    api.ingest(raw, "pusht_lerobot", lake, workers=1)
    flip(raw / PARQUET, 100)
    report = api.ingest(raw, "pusht_lerobot", lake, record=record, workers=1)
    assert [(f.upstream_id, f.reason) for f in report.failures] == [("episode_000003", "digest_mismatch")]
    assert "the lake keeps the episode" in report.failures[0].what
    assert report.restated == 5
    digest = load_record(record).digest
    told = {upstream: recorded for upstream, _, _, recorded in heads(lake)}
    assert told == {f"episode_{number:06d}": "" if number == 3 else digest for number in range(6)}
    manifest = api.build(Recipe.parse(RECIPE, "a test"), lake, out, workers=1).report.manifest
    assert manifest is not None
    (source,) = manifest.sources
    assert source.episodes_kept == 6
    assert (source.license, source.record_sha256) == ("Apache-2.0", f"- {digest}")
    assert source.revision == "abc123; gym-pusht 0.1.8, written by lerobot 0.6.1", "what the rows tell, all of it"


def test_the_record_of_another_source_is_refused(tmp_path: Path, pusht_raw: Path, record: Path) -> None:
    document = load_yaml(record)
    document["source"]["name"] = "another"
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(document))
    with pytest.raises(SpecError, match="the record is of 'another'"):
        api.ingest(pusht_raw, "pusht_lerobot", tmp_path / "lake", record=other)


RECIPE = {
    "name": "small",
    "sources": [{"converter": "pusht_lerobot"}],
    "window": {"chunk": {"steps": 8}},
    "split": {"valid": 0.2},
    "shards": {"buckets": {"train": 2, "valid": 1}, "segment": 8},
    "normalization": {"representations": ["absolute"]},
}


def write_recipe(file: Path, allow: object = None, **source: object) -> Path:
    sources = [{"converter": "pusht_lerobot", **source}]
    file.write_text(yaml.safe_dump({**RECIPE, "sources": sources, **({"allow": allow} if allow else {})}))
    return file


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, pusht_raw: Path, record: Path) -> Path:
    folder = tmp_path_factory.mktemp("lake") / "lake"
    api.ingest(pusht_raw, "pusht_lerobot", folder, record=record, workers=1)
    return folder


def test_a_recipe_s_policy(tmp_path: Path, lake: Path) -> None:
    out, recipe = tmp_path / "out", tmp_path / "small.yaml"
    allowed = {"licenses": ["MIT", "CC-BY-*"], "commercial": "yes", "consent": ["not applicable*"],
               "deidentification": "required"}  # fmt: skip
    build = ("build", write_recipe(recipe, allowed), "--lake", lake, "--out", out)
    for more in ((), ("--dry-run",)):
        said = run(*build, *more, code=1).output
        assert "does not allow 2 facts of its sources" in said
        assert "pusht_lerobot: license is Apache-2.0; allowed: MIT, CC-BY-*" in said
        assert "pusht_lerobot: commercial_ok is unknown; allowed: yes" in said
    assert MixtureStore(out).versions() == []
    run(*build, "--override-policy", " ", code=2)
    done = run(*build, "--override-policy", "cleared by counsel, ticket 7")
    assert "let in by --override-policy: cleared by counsel, ticket 7" in done.output
    manifest = MixtureStore(out).manifest("v0001")[1]
    assert manifest.policy is not None
    assert manifest.policy["allow"]["licenses"] == ["MIT", "CC-BY-*"]
    assert [(o["field"], o["value"], o["by"], o["reason"]) for o in manifest.policy["overrides"]] == [
        ("license", "Apache-2.0", "--override-policy", "cleared by counsel, ticket 7"),
        ("commercial_ok", "unknown", "--override-policy", "cleared by counsel, ticket 7"),
    ]
    assert "v0001 lets in what its recipe does not allow" in run("log", out).output
    run(*build, code=1)
    assert "already built" in run(*build, "--override-policy", "cleared by counsel, ticket 7").output
    assert "version v0002" in run(*build, "--override-policy", "another reason").output

    write_recipe(recipe, allowed, override="the team made it")
    assert "let in by recipe: the team made it" in run(*build).output
    write_recipe(recipe, {**allowed, "licenses": ["Apache-2.0"], "commercial": "any"})
    assert "not allowed" not in run(*build).output
    manifest = MixtureStore(out).manifest("v0004")[1]
    assert manifest.policy == {"allow": {**allowed, "licenses": ["Apache-2.0"], "commercial": "any", "unknown": False},
                               "overrides": []}  # fmt: skip


def test_a_manifest_tells_the_facts(tmp_path: Path, lake: Path, record: Path) -> None:
    out = tmp_path / "out"
    manifest = api.build(Recipe.parse(RECIPE, "a test"), lake, out, workers=1).report.manifest
    assert manifest is not None
    assert manifest.policy is None
    (source,) = manifest.sources
    assert (source.license, source.revision, source.creator) == ("Apache-2.0", "abc123", "generated")
    assert source.deidentification == "not applicable, no person is recorded"
    assert "the licence of the software" in source.license_evidence
    assert source.record_sha256 == load_record(record).digest
    assert api.build(Recipe.parse(RECIPE, "a test"), lake, out, workers=1).report.created is False


def test_corrected_facts_make_a_version_and_no_shard(tmp_path: Path, pusht_raw: Path, record: Path) -> None:
    """A licence that was wrong is corrected in the record: the next version tells it, its shards are the same."""
    lake, out, mine = tmp_path / "lake", tmp_path / "out", tmp_path / "mine.yaml"
    recipe = write_recipe(tmp_path / "small.yaml", path=str(pusht_raw), record="mine.yaml")
    document = load_yaml(record)
    mine.write_text(yaml.safe_dump(document))
    first = api.build(str(recipe), lake, out, workers=1)
    assert api.build(str(recipe), lake, out, workers=1).report.created is False
    document["source"]["license"] = "MIT"
    mine.write_text(yaml.safe_dump(document))
    second = api.build(str(recipe), lake, out, workers=1)
    one, two = first.report.manifest, second.report.manifest
    assert one is not None
    assert two is not None
    assert second.report.version == "v0002"
    assert (one.sources[0].license, two.sources[0].license) == ("Apache-2.0", "MIT")
    assert [shard.sha256 for shard in one.shards] == [shard.sha256 for shard in two.shards]
    assert second.report.tasks_executed == 0
    assert api.verify(str(out)).problems == []


def unlicensed(folder: Path) -> Path:
    document = load_yaml(spec_files("converters")["pusht_lerobot"])
    document["source"]["license"] = "unknown"
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**document, "name": "mine"}))
    return path


def test_an_unknown_licence_fails_before_anything_is_read(tmp_path: Path, pusht_raw: Path) -> None:
    unlicensed(tmp_path)
    recipe, lake, out = tmp_path / "r.yaml", tmp_path / "lake", tmp_path / "out"
    document = {**RECIPE, "sources": [{"converter": "mine.yaml", "path": str(pusht_raw)}]}
    recipe.write_text(yaml.safe_dump(document))
    said = run("build", recipe, "--lake", lake, "--out", out, code=1).output
    assert "mine: license is unknown" in said
    assert "--allow-unknown-license" in said
    assert not lake.exists()
    done = json.loads(run("build", recipe, "--lake", lake, "--out", out, "--allow-unknown-license", "--json").output)
    assert [(o["source"], o["by"]) for o in done["policy"]["overrides"]] == [("mine", "--allow-unknown-license")]
    with pytest.raises(PolicyError):
        api.build(str(recipe), lake, out, workers=1)
    recipe.write_text(yaml.safe_dump({**document, "allow": {"unknown": True}}))
    assert api.build(str(recipe), lake, out, workers=1).exit_code == 0


def test_a_policy_that_says_nothing_changes_no_digest() -> None:
    plain = Recipe.parse(RECIPE, "a test")
    assert {"allow", "override", "record"}.isdisjoint({*plain.resolved(), *plain.resolved()["sources"][0]})
    with pytest.raises(SpecError, match="`record` goes with the `path`"):
        Recipe.parse({**RECIPE, "sources": [{"converter": "pusht_lerobot", "record": "r.yaml"}]}, "a test")


def test_records_on_other_protocols(tmp_path: Path, pusht_raw: Path, record: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in plain_files(pusht_raw):
        memory.pipe(f"/records/pusht/{path.relative_to(pusht_raw).as_posix()}", path.read_bytes())
    far = Path("memory://records/pusht")
    assert api.source_check(record, far).equal
    report = api.ingest(far, "pusht_lerobot", tmp_path / "lake", record=record, workers=1)
    assert (report.added, report.failures) == (6, [])
    memory.pipe(f"/records/pusht/{PARQUET}", (pusht_raw / PARQUET).read_bytes() + b"x")
    assert list(api.source_check(record, far).changed) == [PARQUET]


def test_one_file(tmp_path: Path, data: Path) -> None:
    demo = next((data / "simulation" / "robosuite_1.5.2_lift").glob("*.hdf5"))
    copy = Path(shutil.copy(demo, tmp_path / "demo.hdf5"))
    out, ingest = tmp_path / "lift.yaml", _ingest(tmp_path, copy)
    run("source", "add", copy, "--converter", "robosuite_lift_152", "--out", out)
    assert list(load_record(out).files) == ["demo.hdf5"]
    run(*ingest, "--record", out)
    flip(copy, copy.stat().st_size // 2)
    shutil.rmtree(tmp_path / "lake")
    done = json.loads(run(*ingest, "--record", out, "--json", code=3).output)
    assert set(done["reasons"]) == {"digest_mismatch"}
    assert done["added"] == 0


def _ingest(folder: Path, path: Path) -> Sequence[object]:
    return ("ingest", path, "--converter", "robosuite_lift_152", "--lake", folder / "lake")
