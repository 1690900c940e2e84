"""Audit: every question of a version against the samples, the ledger and the raw files themselves."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from dataengine import api
from dataengine.cli.main import app
from dataengine.documents import seal
from dataengine.errors import SpecError
from dataengine.lake import Lake
from dataengine.mixture import rows
from dataengine.provenance import samples as sampling
from dataengine.provenance import sql
from dataengine.provenance.version import Version, terms
from dataengine.provenance.views import SCHEMAS

REPO = Path(__file__).resolve().parents[2]
RECIPE = """
name: audited
sources:
  - {name: kept, converter: pusht_lerobot, path: "${data}"}
window: {chunk: {steps: 8}}
filters: [{name: min_steps, steps: 2}, {name: no_nan}]
split: {valid: 0.2}
shards: {buckets: {train: 6, valid: 2}, segment: 8}
normalization: {representations: [absolute]}
"""
SEED, CHOSEN = 20, 100


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def told(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_pusht: Callable[..., Path]) -> dict[str, Path]:
    """Six episodes, one with a NaN that a filter drops."""
    root = tmp_path_factory.mktemp("audit")
    raw = make_pusht(root / "raw", range(6), spoil=3)
    recipe = root / "audited.yaml"
    recipe.write_text(RECIPE)
    api.build(str(recipe), root / "L", root / "M", engine="local", workers=1, parameters={"data": str(raw)})
    return {"root": root, "raw": raw, "recipe": recipe, "L": root / "L", "M": root / "M"}


def in_shards(mixture: Path) -> dict[str, dict[str, Any]]:
    """Every sample as the tars hold it, read with Python's own tarfile: its JSON, its shard, digests of its members."""
    found: dict[str, dict[str, Any]] = {}
    for number, url in enumerate(api.urls(str(mixture))):
        with tarfile.open(url) as opened:
            for entry in opened:
                key, _, extension = entry.name.partition(".")
                data = opened.extractfile(entry).read()  # type: ignore[union-attr]
                own = found.setdefault(key, {"shard": number, "members": {}})
                own["members"][extension] = hashlib.sha256(data).hexdigest()
                if extension == "json":
                    own["json"] = json.loads(data)
    return found


def test_a_shard_says_all_that_made_it(made: dict[str, Path]) -> None:
    truth = in_shards(made["M"])
    for number, entry in enumerate(api.audit(str(made["M"]))["shards"]):
        found = told("audit", made["M"], "--shard", number)
        own = {key: sample for key, sample in truth.items() if sample["shard"] == number}
        assert (
            found["sha256"] == hashlib.sha256((made["M"] / found["path"]).read_bytes()).hexdigest() == entry["sha256"]
        )
        drawn: Counter[str] = Counter()
        for row in found["inputs"]:
            drawn[row["uid"]] += row["samples"]
        assert drawn == Counter(sample["json"]["episode_uid"] for sample in own.values())
        for key, sample in own.items():
            step = int(key.split("-")[1])
            holding = [
                row
                for row in found["inputs"]
                if row["uid"] == sample["json"]["episode_uid"] and row["start"] <= step < row["stop"]
            ]
            assert [row["upstream_id"] for row in holding] == [sample["json"]["upstream_id"]]
        assert sum(found["sources"].values()) == len(own) == found["samples"]
        assert found["licenses"] == found["terms"]["licenses"] == ["Apache-2.0"]
        assert [step["name"] for step in found["steps"]["kept"]] == ["require", "min_steps", "no_nan"]
        assert found["steps"]["kept"][1]["parameters"] == {"steps": 2}
        assert {row["converter"] for row in found["conversions"]} == {"pusht_lerobot"}
        assert {row["entry"] for row in found["inputs"]} == {"kept"}


def test_a_sample_leads_to_its_shard_episode_and_licence(made: dict[str, Path]) -> None:
    for key, sample in list(in_shards(made["M"]).items())[::17]:
        found = told("audit", made["M"], "--sample", key)
        assert (found["shard"]["shard"], found["episode"]["uid"]) == (sample["shard"], sample["json"]["episode_uid"])
        assert found["source"]["license"] == "Apache-2.0"
        assert {entry["name"] for entry in found["members"]} == {f"{key}.{name}" for name in sample["members"]}
        text = run("audit", made["M"], "--sample", key).output
        assert "Apache-2.0" in text
        assert sample["json"]["upstream_id"] in text


@pytest.mark.parametrize("key", ["nonsense", "0" * 20 + "-0000000-000", "../../etc/passwd", ""])
def test_a_key_that_is_none_is_said_so(made: dict[str, Path], key: str) -> None:
    for question in ("--sample", "--trace"):
        result = run("audit", made["M"], question, key)
        assert result.exit_code == 2, result.output


def test_questions_by_source_licence_step_and_code(made: dict[str, Path]) -> None:
    whole = told("audit", made["M"])
    shards = {row["shard"]: row["samples"] for row in whole["shards"]}
    (source,) = whole["sources"]
    for name in ("kept", "pusht_lerobot", source["source_id"]):
        found = told("audit", made["M"], "--source", name)
        assert {row["shard"]: row["samples"] for row in found["shards"]} == shards
        assert found["sources"][0]["episodes_dropped"] == 1
        assert sum(row["episodes"] for row in found["drops"]) == 1
    found = told("audit", made["M"], "--license", "Apache-2.0")
    assert {row["shard"]: row["samples"] for row in found["shards"]} == shards
    found = told("audit", made["M"], "--step", "min_steps")
    assert [(row["entry"], row["version"], row["parameters"]) for row in found["runs"]] == [("kept", 1, {"steps": 2})]
    assert {row["shard"] for row in found["shards"]} == set(shards)
    facts = next(iter((made["M"] / "runs").glob("*.json")))
    ran = json.loads(facts.read_text())["body"]["code"]
    for name in (ran["version"], *([ran["commit"][:8]] if "commit" in ran else [])):
        found = told("audit", made["M"], "--code", name)
        assert found["versions"] == ["v0001"]
        assert {row["sha256"] for row in found["shards"]} == {row["sha256"] for row in whole["shards"]}
        assert all(row["new"] for row in found["shards"])
    (dropped,) = told("audit", made["M"], "--drops")["dropped"]
    assert dropped["step"] == "no_nan"
    found = told("audit", made["M"], "--step", "no_nan")
    assert [row["uid"] for row in found["dropped"]] == [dropped["uid"]]
    assert found["drops"] == [{"entry": "kept", "reason": dropped["reason"], "episodes": 1}]


def test_code_tells_what_each_build_added(made: dict[str, Path], tmp_path: Path, make_pusht: Any) -> None:
    out = shutil.copytree(made["M"], tmp_path / "M")
    lake = shutil.copytree(made["L"], tmp_path / "L")
    for path in (out / "runs").glob("*.json"):
        body = json.loads(path.read_text())["body"]
        body["code"] = {"version": "0.0.9", "commit": "feed" * 10}
        body.pop("documents", None)
        path.write_bytes(seal(body))
    raw = make_pusht(tmp_path / "raw", range(6, 8))
    recipe = made["recipe"]
    api.build(str(recipe), lake, out, engine="local", workers=1, parameters={"data": str(raw)})
    old, new = told("audit", out, "--code", "feedfeed"), told("audit", out, "--code", "0.1.0")
    assert (old["versions"], new["versions"]) == (["v0001"], ["v0002"])
    first = {row["sha256"] for row in old["shards"]}
    assert {row["sha256"] for row in new["shards"] if not row["new"]} == {r["sha256"] for r in new["shards"]} & first
    assert any(row["new"] for row in new["shards"])
    assert run("audit", out, "--code", "beef1234").exit_code == 2


@pytest.mark.parametrize(
    ("question", "hint"),
    [
        (["--source", "pusht_lerobo"], "did you mean 'pusht_lerobot'"),
        (["--license", "apache-2.0"], "Apache-2.0"),
        (["--step", "min_step"], "did you mean 'min_steps'"),
        (["--shard", "1", "--drops"], "--shard and --drops do not go together"),
        (["--trace", "k", "--drops"], "do not go together"),
        (["--lake", "L"], "go with --trace"),
        (["--shard", "-1"], "no shard -1"),
        (["--json", "--csv"], "do not go together"),
    ],
)
def test_mistakes_are_explained(made: dict[str, Path], question: list[str], hint: str) -> None:
    result = run("audit", made["M"], *question)
    assert result.exit_code == 2
    assert hint in result.output


@pytest.mark.parametrize(
    "question",
    [[], ["--shard", "0"], ["--source", "kept"], ["--license", "Apache-2.0"], ["--step", "no_nan"], ["--drops"],
     ["--code", "0.1.0"], ["--episode", "{uid}"], ["--sample", "{key}"], ["--trace", "{key}"],
     ["--sql", "SELECT * FROM episodes ORDER BY uid"]],
)  # fmt: skip
def test_every_answer_as_table_json_and_csv(made: dict[str, Path], question: list[str]) -> None:
    key, sample = next(iter(in_shards(made["M"]).items()))
    asked = [part.format(uid=sample["json"]["episode_uid"][:12], key=key) for part in question]
    assert run("audit", made["M"], *asked).exit_code == 0
    assert isinstance(told("audit", made["M"], *asked), dict)
    result = run("audit", made["M"], *asked, "--csv")
    assert result.exit_code == 0, result.output
    table = list(csv.reader(io.StringIO(result.stdout)))
    assert len(table) >= 2
    assert len({len(row) for row in table}) == 1


def test_views_agree_with_the_shards(made: dict[str, Path]) -> None:
    truth = in_shards(made["M"])
    found = api.audit(str(made["M"]), sql="SELECT key, shard, uid, step, repeat FROM samples")
    said = {row[0]: tuple(row[1:]) for row in found["rows"]}
    wanted = {
        key: (sample["shard"], sample["json"]["episode_uid"], int(key.split("-")[1]), int(key.split("-")[2]))
        for key, sample in truth.items()
    }
    assert said == wanted
    counts = "SELECT status, count(*), sum(samples)::INT FROM episodes GROUP BY 1 ORDER BY 1"
    assert api.audit(str(made["M"]), sql=counts)["rows"] == [["dropped", 1, 0], ["kept", 5, len(truth)]]
    one = "SELECT count(*), count(DISTINCT uid) FROM episodes"
    assert api.audit(str(made["M"]), sql=one)["rows"] == [[6, 6]], "exactly one row an episode"
    drop = "SELECT upstream_id, reason FROM drops"
    whole = api.audit(str(made["M"]), drops=True)["dropped"]
    assert api.audit(str(made["M"]), sql=drop)["rows"] == [[whole[0]["upstream_id"], whole[0]["reason"]]]
    shards = api.audit(str(made["M"]), sql="SELECT shard, samples, episodes, licenses FROM shards ORDER BY shard")
    for number, samples, episodes, licenses in shards["rows"]:
        own = [sample for sample in truth.values() if sample["shard"] == number]
        assert (samples, licenses) == (len(own), ["Apache-2.0"])
        assert episodes == len({sample["json"]["episode_uid"] for sample in own})
    joined = "SELECT count(*) FROM samples JOIN episodes USING (uid) JOIN sources USING (source_id, converter)"
    assert api.audit(str(made["M"]), sql=joined)["rows"] == [[len(truth)]]
    steps = "SELECT name, version, parameters, dropped FROM steps WHERE name = 'min_steps'"
    assert api.audit(str(made["M"]), sql=steps)["rows"] == [["min_steps", 1, '{"steps":2}', 0]]


def test_every_column_is_described() -> None:
    text = (REPO / "docs" / "audit.md").read_text()
    for name, schema in SCHEMAS.items():
        part = text.partition(f"### `{name}`\n")[2].partition("\n##")[0]
        cells = part if name == "drops" else "\n".join(line.split("|")[1] for line in part.splitlines() if "|" in line)
        assert set(re.findall(r"`(\w+)`", cells)) >= set(schema.names), name


def test_samples_are_read_only_when_they_are_asked_for(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Version) -> None:
        raise AssertionError("the indexes were read")

    monkeypatch.setattr("dataengine.provenance.views.sample_table", refuse)
    for query in (
        "SELECT sum(samples) AS samples FROM shards",
        "SELECT e.samples FROM episodes e JOIN sources USING (source_id)",
        "WITH samples AS (SELECT 1 AS n) SELECT n FROM samples",
    ):
        assert api.audit(str(made["M"]), sql=query)["rows"]
    with pytest.raises(AssertionError):
        api.audit(str(made["M"]), sql="SELECT * FROM Samples")


@pytest.mark.parametrize("view", sorted(SCHEMAS))
def test_views_describe_themselves(made: dict[str, Path], view: str) -> None:
    found = api.audit(str(made["M"]), sql=f"DESCRIBE {view}")
    assert [row[0] for row in found["rows"]] == SCHEMAS[view].names


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_text('{secret}')",
        "SELECT * FROM read_blob('{secret}')",
        "SELECT * FROM read_csv('{secret}', header = false)",
        "SELECT * FROM '{secret}'",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM sniff_csv('{secret}')",
        "SELECT * FROM parquet_metadata('{secret}')",
        "SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')",
        "SELECT content FROM shards, read_text('{secret}')",
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "COPY shards FROM '{secret}'",
        "EXPORT DATABASE '{folder}/out'",
        "ATTACH '{folder}/out.db' AS other",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "RESET enable_external_access",
        "PRAGMA enable_profiling",
        "CREATE TABLE t AS SELECT 1",
        "INSERT INTO shards VALUES (1)",
        "DROP VIEW shards",
        "CALL pragma_version()",
        "SELECT 1; COPY (SELECT 1) TO '{folder}/out.csv'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{folder}/out.csv'",
        "SELECT * FROM read_parquet('s3://bucket/key')",
        "SELECT * FROM 'https://example.org/x.csv'",
        "SELECT getenv('HOME')",
        "SELECT * FROM version",
        "",
        "--",
        "SELECT",
        "SELECT * FROM shards; --",
        "SELECT '" + "x" * 100_001 + "'",
    ],
)
def test_a_query_reaches_nothing_but_the_views(made: dict[str, Path], tmp_path: Path, query: str) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("canary-in-a-file")
    asked = query.replace("{secret}", str(secret)).replace("{folder}", str(tmp_path))
    if query == "SELECT * FROM shards; --":
        assert api.audit(str(made["M"]), sql=asked)["rows"]
        return
    result = run("audit", made["M"], "--sql", asked)
    assert result.exit_code == 2, result.output
    assert "canary-in-a-file" not in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.txt"]
    assert "episodes(unit, source_id" in result.output or len(asked) > 100_000


def test_too_many_rows_and_odd_values(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "MAX_ROWS", 1000)
    monkeypatch.setattr(sql, "_BATCH", 500)
    with pytest.raises(SpecError, match="more than 1,000 rows"):
        api.audit(str(made["M"]), sql="SELECT * FROM range(100000000000)")
    odd = "SELECT 'nan'::FLOAT, 1.50::DECIMAL(5,2), 7::HUGEINT, 'a'::BLOB, [1, NULL], {'a': DATE '2020-01-02'}, NULL"
    assert api.audit(str(made["M"]), sql=odd)["rows"] == [[None, 1.5, 7, "61", [1, None], {"a": "2020-01-02"}, None]]


def test_terms_are_the_strictest(made: dict[str, Path]) -> None:
    (source,) = Version.open(str(made["M"])).manifest.sources
    words = {"yes": ("yes",), "unknown": ("yes", "unknown"), "no": ("yes", "no", "unknown")}
    for strictest, given in words.items():
        found = terms(source.model_copy(update={"commercial_ok": word, "license": word}) for word in given)
        assert (found["commercial_ok"], found["licenses"]) == (strictest, sorted(given))


def test_records_of_before_are_joined(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions whose shard records have no converter, entry and upstream id answer the same."""
    asked: list[dict[str, Any]] = [{}, {"shard": 0}, {"source": "kept"}, {"sql": "SELECT * FROM inputs"}]
    before = [api.audit(str(made["M"]), **question) for question in asked]
    late = ("converter", "entry", "upstream_id")
    read, shard = rows.read_table, rows.read_shard

    def without(table: Any) -> Any:
        is_records = (
            "task_digest" in table.schema.names or "start" in table.schema.names or "shard" in table.schema.names
        )
        return table.drop_columns([n for n in late if n in table.schema.names]) if is_records else table

    monkeypatch.setattr("dataengine.provenance.version.read_table", lambda *given: without(read(*given)))
    monkeypatch.setattr("dataengine.provenance.version.read_shard", lambda *given: without(shard(*given)))
    assert [api.audit(str(made["M"]), **question) for question in asked] == before


def test_one_shard_is_read_out_of_many_row_groups(made: dict[str, Path]) -> None:
    version = Version.open(str(made["M"]))
    table = version.records()
    data = rows.parquet(table, 3)
    for number in range(-1, len(version.manifest.shards) + 1):
        expected = [row for row in table.to_pylist() if row["shard"] == number]
        assert rows.read_shard(data, number).to_pylist() == expected


# Trace


def test_a_trace_ends_at_the_source_files(made: dict[str, Path]) -> None:
    truth = in_shards(made["M"])
    for key, sample in list(truth.items())[::23]:
        found = told("audit", made["M"], "--trace", key, "--lake", made["L"], "--raw", made["raw"])
        assert {entry["name"]: entry["sha256"] for entry in found["members"]} == sample["members"]
        assert found["episode"]["uid"] == found["lake"]["uid"] == sample["json"]["episode_uid"]
        assert found["lake"]["conversion_digest"] == found["conversions"][0]["conversion_digest"]
        assert found["files"]
        for file in found["files"]:
            data = (made["raw"] / file["path"]).read_bytes()
            assert (file["sha256"], file["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
            assert file["found"] == "bytes match"
        (picture,) = [entry for entry in found["members"] if entry["name"].endswith(".jpg")]
        assert picture["origin"].startswith("re-encoded by simplejpeg")
        assert found["source"]["license"] == "Apache-2.0"
        assert found["ok"]
    text = run("audit", made["M"], "--trace", key, "--lake", made["L"]).output
    assert all(file["sha256"] in text and file["path"] in text for file in found["files"])
    alone = told("audit", made["M"], "--trace", key)
    assert (alone["lake"], alone["files"], alone["ok"]) == (None, None, True)


def test_a_changed_source_file_is_found(made: dict[str, Path], tmp_path: Path) -> None:
    key = next(iter(in_shards(made["M"])))
    raw = shutil.copytree(made["raw"], tmp_path / "raw")
    file = api.trace(str(made["M"]), key, lake=made["L"])["files"][0]["path"]
    data = bytearray((raw / file).read_bytes())
    data[len(data) // 2] ^= 1
    (raw / file).write_bytes(data)
    result = run("audit", made["M"], "--trace", key, "--lake", made["L"], "--raw", raw)
    assert result.exit_code == 1
    assert f"does not fit: {file}: sha256 is" in result.output
    (raw / file).unlink()
    result = run("audit", made["M"], "--trace", key, "--lake", made["L"], "--raw", raw)
    assert result.exit_code == 1
    assert f"{file}: cannot be read again: missing_file" in result.output


def test_a_damaged_shard_and_another_lake_are_found(made: dict[str, Path], tmp_path: Path, make_pusht: Any) -> None:
    out = shutil.copytree(made["M"], tmp_path / "M")
    key, sample = next(iter(in_shards(out).items()))
    path = Path(api.urls(str(out))[sample["shard"]])
    data = bytearray(path.read_bytes())
    data[-2000] ^= 1
    path.write_bytes(data)
    found = api.trace(str(out), key)
    assert not found["ok"]
    assert "does not have the digest" in found["problems"][0]["what"]
    other = tmp_path / "L"
    api.ingest(make_pusht(tmp_path / "raw", range(10, 12)), "pusht_lerobot", other, workers=1)
    found = api.trace(str(made["M"]), key, lake=other)
    assert [problem["where"] for problem in found["problems"]] == ["lake"]


def test_raw_alone_is_not_enough(made: dict[str, Path]) -> None:
    with pytest.raises(SpecError, match="--raw needs --lake"):
        api.trace(str(made["M"]), next(iter(in_shards(made["M"]))), raw=made["raw"])


def test_a_window_that_the_loader_cuts_leads_to_its_segment(made: dict[str, Path], tmp_path: Path) -> None:
    recipe = tmp_path / "segments.yaml"
    recipe.write_text(made["recipe"].read_text() + "samples: {kind: episode}\nmix: {mode: scheduled}\n")
    out = tmp_path / "M"
    api.build(str(recipe), made["L"], out, engine="local", workers=1, parameters={"data": str(made["raw"])})
    keys = [
        row[0] for row in api.audit(str(out), sql="SELECT key FROM samples WHERE step = 8 AND repeat IS NULL")["rows"]
    ]
    assert keys
    assert all(key.endswith("-0000008-seg") for key in keys)
    for key in (keys[0], f"{keys[0][:20]}-0000011-000"):
        found = api.trace(str(out), key, lake=made["L"], raw=made["raw"])
        assert (found["stored_as"], found["ok"]) == (keys[0], True)


# The real files


@pytest.fixture(scope="module")
def real(five_families: Path, data: Path) -> dict[str, Any]:
    root, recipe = five_families, REPO / "pipelines" / "five_families.yaml"
    listed = yaml.safe_load(recipe.read_text())["sources"]
    raw = {entry["converter"]: Path(entry["path"].replace("${data}", str(data))) for entry in listed}
    return {"L": root / "L", "M": root / "M", "raw": raw}


PLAIN = {"bridge_octo", "llava_conversations", "qwen_vl_demo"}
"""Their pictures (and videos) stand in the source files as they are."""


@pytest.mark.slow
def test_rebuild_and_trace_agree_for_a_hundred_samples(real: dict[str, Any]) -> None:
    """Of 100 samples, and one of every source beside them: the chain to the raw files holds, and the shard comes out of
    the lake bit for bit."""
    address = str(real["M"])
    table = sampling.sample_table(Version.open(address))
    chosen = random.Random(SEED).sample(sorted(table["key"].to_pylist()), CHOSEN)
    firsts = api.audit(address, sql="SELECT min(key) FROM samples GROUP BY source ORDER BY 1")["rows"]
    chosen += [key for (key,) in firsts if key not in chosen]
    truth, origins, files = in_shards(real["M"]), Counter[str](), Counter[str]()
    shards: dict[int, list[dict[str, Any]]] = {}
    for key in chosen:
        first = api.trace(address, key, lake=real["L"])
        raw = real["raw"][first["episode"]["converter"]]
        found = api.trace(address, key, lake=real["L"], raw=raw)
        assert found["problems"] == [], key
        assert {entry["name"]: entry["sha256"] for entry in found["members"]} == truth[key]["members"]
        assert all(file["found"] == "bytes match" for file in found["files"])
        pictures = [entry for entry in found["members"] if entry["name"].endswith((".jpg", ".png", ".mp4"))]
        for entry in pictures:
            untouched = entry["origin"] == "bytes of the lake"
            origins[f"{found['episode']['converter']}: {entry.get('source', 're-encoded')}"] += 1
            if untouched and entry["source"] == "bytes match":
                source = raw / entry["file"] if raw.is_dir() else raw
                with source.open("rb") as file:
                    file.seek(entry["offset"])
                    assert hashlib.sha256(file.read(entry["bytes"])).hexdigest() == entry["sha256"]
            elif untouched:
                assert found["episode"]["converter"] not in PLAIN
        shards.setdefault(found["shard"]["shard"], []).append(found)
        files.update(file["path"] for file in found["files"])
    for number, traced in sorted(shards.items()):
        result = run("rebuild", address, "--shard", number, "--lake", real["L"], "--check", "--json")
        assert result.exit_code == 0, result.output
        rebuilt = json.loads(result.stdout)
        assert rebuilt["equal"]
        assert {found["shard"]["sha256"] for found in traced} == {rebuilt["rebuilt_sha256"]}
        inputs = {(r["uid"], r["start"]): r["upstream_id"] for r in api.audit(address, shard=number)["inputs"]}
        for found in traced:
            assert inputs[found["episode"]["uid"], found["task"]["segment"]["start"]] == found["episode"]["upstream_id"]
    assert {name.partition(":")[0] for name in origins if name.endswith("bytes match")} >= PLAIN
    print(
        f"{len(chosen)} samples of {len(shards)} shards and {len(files)} source files: {dict(sorted(origins.items()))}"
    )


@pytest.mark.slow
def test_a_planted_picture_is_told_from_its_source(real: dict[str, Any], tmp_path: Path) -> None:
    """One bit of a Bridge picture, in the raw file alone: file and picture no longer match, and the trace fails."""
    query = "SELECT min(key) FROM samples WHERE source LIKE 'bridge%'"
    ((key,),) = api.audit(str(real["M"]), sql=query)["rows"]
    raw = shutil.copytree(real["raw"]["bridge_octo"], tmp_path / "raw")
    before = api.trace(str(real["M"]), key, lake=real["L"], raw=raw)
    picture = next(entry for entry in before["members"] if entry.get("source") == "bytes match")
    path = raw / picture["file"]
    data = bytearray(path.read_bytes())
    data[picture["offset"] + picture["bytes"] // 2] ^= 4
    path.write_bytes(data)
    after = api.trace(str(real["M"]), key, lake=real["L"], raw=raw)
    assert [problem["where"] for problem in after["problems"]] == [picture["file"]]
    again = next(entry for entry in after["members"] if entry["name"] == picture["name"])
    assert again["source"] != "bytes match"
    assert len(Lake(real["L"]).heads(where=f"uid = '{before['episode']['uid']}'")) == 1


@pytest.mark.slow
def test_a_planted_picture_in_a_shard_is_told_from_the_lake(real: dict[str, Any], tmp_path: Path) -> None:
    """One bit of a picture that goes through untouched, in the shard alone."""
    out = shutil.copytree(real["M"], tmp_path / "M")
    ((key,),) = api.audit(str(out), sql="SELECT min(key) FROM samples WHERE source LIKE 'bridge%'")["rows"]
    before = api.trace(str(out), key, lake=real["L"])
    place = next(member for member in sampling.find_sample(Version.open(str(out)), key).members if "jpg" in member.name)
    path = out / before["shard"]["path"]
    data = bytearray(path.read_bytes())
    data[place.offset + place.size // 2] ^= 4
    path.write_bytes(data)
    after = api.trace(str(out), key, lake=real["L"])
    assert {problem["where"] for problem in after["problems"]} == {before["shard"]["path"], place.name}
    (told_of,) = [entry for entry in after["members"] if entry.get("origin") == "differs"]
    assert place.name == f"{key}.{told_of['name']}"
    result = run("audit", out, "--trace", key, "--lake", real["L"])
    assert result.exit_code == 1
