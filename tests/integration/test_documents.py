"""Documents that others read: valid for their own libraries, readable through them, checked, bare of the machine.

OpenLineage's events are rebuilt from the classes that its library generates out of its schema. With
`DATAENGINE_OPENLINEAGE_SPEC=FOLDER pytest -n0 tests/integration/test_documents.py -k lineage` they are checked against
the schema itself too; FOLDER is `spec/` of a checkout of https://github.com/OpenLineage/OpenLineage. `-s` prints the
measured times.
"""

from __future__ import annotations

import getpass
import importlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from google.protobuf import json_format
from huggingface_hub import DatasetCard, DatasetCardData
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from openlineage.client import event_v2
from openlineage.client.serde import Serde
from PIL import Image
from typer.testing import CliRunner

from dataengine import api
from dataengine.cli.main import app
from dataengine.loader import open_mixture
from dataengine.mixture import ledger as ledgers
from dataengine.mixture.described import LIST, NAMES
from dataengine.mixture.store import MixtureStore
from dataengine.provenance import documents
from dataengine.provenance.documents.card import hub_license, size_category
from dataengine.provenance.documents.facts import license_url
from dataengine.specs.records import Manifest, ShardEntry, SourceSummary

REPO = Path(__file__).resolve().parents[2]
CANARY = "canary-documents-91fe"
REAL = """
name: real
sources:
  - {converter: bridge_octo, path: "${data}/robot/rlds_octo_bridge", split: train, cap: 40}
  - converter: qwen_vl_demo
    path: ${data}/vision_language/qwen_vl_finetune_demo
    split: train
    accept: [missing_media]
window: {chunk: {steps: 8}}
shards: {buckets: {train: 2}, segment: 8}
normalization: {representations: [absolute]}
"""
KINDS = {  # the library's module and class of every facet that is written
    "version": "dataset_version_dataset.DatasetVersionDatasetFacet",
    "dataSource": "datasource_dataset.DatasourceDatasetFacet",
    "schema": "schema_dataset.SchemaDatasetFacet",
    "lifecycleStateChange": "lifecycle_state_change_dataset.LifecycleStateChangeDatasetFacet",
    "documentation": "documentation_dataset.DocumentationDatasetFacet",
    "outputStatistics": "output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet",
    "jobType": "job_type_job.JobTypeJobFacet",
    "processing_engine": "processing_engine_run.ProcessingEngineRunFacet",
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, small_recipe: Path, pusht_raw: Path) -> tuple[Path, Path, Path]:
    """The lake, the mixture and the raw data of six fixture episodes."""
    root = tmp_path_factory.mktemp("documents")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATAENGINE_TEST_SECRET", CANARY)
        parameters = {"data": str(pusht_raw)}
        api.build(str(small_recipe), root / "L", root / "M", engine="local", workers=1, parameters=parameters)
    return root / "L", root / "M", pusht_raw


@pytest.fixture(scope="module")
def made(parts: tuple[Path, Path, Path]) -> Path:
    return parts[1]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A mixture of real files: windows with pictures, and conversations."""
    root = tmp_path_factory.mktemp("real")
    (root / "real.yaml").write_text(REAL)
    recipe = str(root / "real.yaml")
    api.build(recipe, root / "L", root / "M", engine="local", workers=1, parameters={"data": str(data)})
    return root / "M"


@pytest.fixture(scope="module")
def croissants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """mlcroissant with a cache of its own, which the environment names, and without the net."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROISSANT_CACHE", str(tmp_path_factory.mktemp("croissant")))

        def refused(*_: Any, **__: Any) -> None:
            raise AssertionError("nothing may ask the net")

        patch.setattr(socket.socket, "connect", refused)
        yield importlib.import_module("mlcroissant")


def folder_of(mixture: Path) -> Path:
    (found,) = mixture.glob("manifests/*.d")
    return found


def version_of(mixture: Path) -> Manifest:
    store = MixtureStore(mixture)
    return store.manifest(store.resolve(None))[1]


def opened(croissants: Any, mixture: Path) -> Any:
    """The data set that a mixture's Croissant describes."""
    with warnings.catch_warnings():  # rdflib warns of itself
        warnings.simplefilter("ignore", DeprecationWarning)
        return croissants.Dataset(folder_of(mixture) / "croissant.json")


def records(dataset: Any, name: str) -> list[dict[str, Any]]:
    """The records of a set by the last part of each field's name; text as text."""
    with warnings.catch_warnings():  # it unpacks without naming a filter, and leaves pictures' files to the collector
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", ResourceWarning)
        rows = list(dataset.records(name))
    return [
        {key.rpartition("/")[2]: value.decode() if isinstance(value, bytes) else value for key, value in row.items()}
        for row in rows
    ]


def compare_with_the_loader(mixture: Path, croissants: Any, split: str) -> int:
    """Every sample that Croissant gives of a split is the one that our loader gives, pictures included."""
    dataset = opened(croissants, mixture)
    assert not dataset.metadata.ctx.issues.errors
    found = {row["key"]: row for row in records(dataset, f"{split}-samples")}
    pictures = {(row["key"], row["view"]): row["image"] for row in records(dataset, f"{split}-images")}
    ours = open_mixture(str(mixture), split=split)
    assert len(found) == len(ours)
    seen = 0
    for place in range(len(ours)):
        raw = ours.raw(place)
        facts = json.loads(raw["json"])
        row = found[facts["key"]]
        told = json.loads(row["document"])
        assert told == facts
        assert row["episode"] == told["episode_uid"][:20]
        assert ours[place].prompt == (told["prompt"]["text"] if facts["kind"] == "window" else None)
        for name, data in raw.items():
            if name.endswith((".jpg", ".png")):
                theirs = np.asarray(pictures.pop((facts["key"], name.rpartition(".")[0])).convert("RGB"))
                assert np.array_equal(theirs, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
                seen += 1
    assert not pictures
    return seen


def test_croissant_is_read_as_the_loader_reads(made: Path, croissants: Any) -> None:
    assert compare_with_the_loader(made, croissants, "train") > 0
    assert compare_with_the_loader(made, croissants, "valid") > 0


def test_croissant_of_real_files(real: Path, croissants: Any) -> None:
    assert compare_with_the_loader(real, croissants, "train") >= 40
    text = (folder_of(real) / "croissant.json").read_text()
    based = {node["identifier"]: node for node in json.loads(text)["isBasedOn"]}
    assert len(based) == 2
    assert all(value not in ("", None) for node in based.values() for value in node.values())


def test_segments_are_described(
    parts: tuple[Path, Path, Path], small_recipe: Path, croissants: Any, tmp_path: Path
) -> None:
    recipe = yaml.safe_load(small_recipe.read_text())
    recipe |= {"samples": {"kind": "episode"}, "mix": {"mode": "scheduled"}}
    (tmp_path / "segments.yaml").write_text(yaml.safe_dump(recipe))
    parameters = {"data": str(parts[2])}
    out = tmp_path / "M"
    api.build(str(tmp_path / "segments.yaml"), parts[0], out, engine="local", workers=1, parameters=parameters)
    dataset = opened(croissants, out)
    shards = [shard for shard in version_of(out).shards if shard.split == "train"]
    rows = records(dataset, "train-samples")
    assert len(rows) == sum(shard.samples for shard in shards)
    assert all(row["key"].endswith("-seg") for row in rows)
    pictures = 0
    for shard in shards:
        with tarfile.open(out / f"blobs/sha256/{shard.sha256[:2]}/{shard.sha256}.tar") as tar:
            pictures += sum(name.endswith(".jpg") for name in tar.getnames())
    assert len(records(dataset, "train-images")) == pictures > 4 * 24
    assert "is a segment of an episode" in dataset.metadata.description
    (_, complete) = events_of(out)
    assert rebuilt(complete) == complete


def test_croissant_says_what_is_known(made: Path, croissants: Any) -> None:
    metadata = opened(croissants, made).metadata
    assert metadata.ctx.is_v1_1()
    warned = metadata.ctx.issues.report()
    assert warned.count("\n  -") == 1, warned
    assert "datePublished" in warned, "when a version is published, its publisher says"
    assert metadata.license == ["https://spdx.org/licenses/Apache-2.0"]
    assert metadata.data_biases == ["unknown: nobody has assessed the sources for biases"]
    (people,) = metadata.personal_sensitive_information
    assert "consent not applicable, no person is recorded" in people
    assert metadata.data_social_impact == "unknown"
    files = {item.id: item for item in metadata.distribution if hasattr(item, "sha256")}
    for shard in version_of(made).shards:
        file = files[f"{shard.sha256}.tar"]
        assert (file.sha256, file.content_size) == (shard.sha256, f"{shard.bytes} B")
        assert (folder_of(made) / file.content_url).stat().st_size == shard.bytes


def test_croissant_reads_the_ledger(made: Path, croissants: Any) -> None:
    dataset = opened(croissants, made)
    for name, file in (("episodes", "ledger.parquet"), ("segments", "shard_records.parquet")):
        ours = ledgers.read_parquet((folder_of(made) / file).read_bytes())
        theirs = records(dataset, name)
        assert len(theirs) == len(ours) > 0
        assert all(row[key] == other[key] for row, other in zip(theirs, ours, strict=True) for key in row)


def test_a_moved_mixture_is_read_and_a_damaged_shard_is_not(made: Path, croissants: Any, tmp_path: Path) -> None:
    moved = shutil.copytree(made, tmp_path / "elsewhere" / "M")
    assert len(records(opened(croissants, moved), "train-samples")) == 96
    shard = next(s for s in version_of(made).shards if s.split == "train")
    blob = moved / f"blobs/sha256/{shard.sha256[:2]}/{shard.sha256}.tar"
    blob.write_bytes(b"x" + blob.read_bytes()[1:])
    with pytest.raises(Exception, match=r"[Hh]ash|streaming|sequential"):
        records(opened(croissants, moved), "train-samples")


def test_sha256sum_checks_every_file(made: Path, tmp_path: Path) -> None:
    out = shutil.copytree(made, tmp_path / "M")
    sums = (folder_of(out) / "SHA256SUMS").relative_to(out)

    def checked() -> subprocess.CompletedProcess[str]:
        command = ["sha256sum", "-c", "--strict", str(sums)]
        return subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)

    done = checked()
    assert done.returncode == 0, done.stderr
    told = {line.removesuffix(": OK") for line in done.stdout.splitlines()}
    there = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    left = {name for name in there - told if not name.startswith(("tasks/", "runs/", "refs/", "leases/", "staging/"))}
    assert left == {"mixture.json", str(sums), f"{sums.parent}/{LIST}"}
    assert told <= there
    (folder_of(out) / "ledger.parquet").write_bytes(b"")
    assert checked().returncode == 1


def statement_of(line: bytes) -> dict[str, Any]:
    """A statement, checked by the classes generated from in-toto's and SLSA's definitions: unknown fields fail."""
    document: dict[str, Any] = json.loads(line)
    parsed = json_format.Parse(line, statement_pb2.Statement())
    Statement.copy_from_pb(parsed).validate()
    predicate = json_format.ParseDict(document["predicate"], provenance_pb2.Provenance())
    assert predicate.build_definition.build_type
    assert predicate.run_details.builder.id
    return document


def test_the_statement_is_in_toto_and_slsa(made: Path, real: Path) -> None:
    (line,) = (folder_of(made) / "provenance.intoto.jsonl").read_bytes().splitlines()
    document = statement_of(line)
    assert document["predicateType"] == "https://slsa.dev/provenance/v1"
    for subject in document["subject"]:
        name = made / subject["name"]
        assert subprocess.check_output(["sha256sum", name], text=True).split()[0] == subject["digest"]["sha256"]
    named = {subject["name"] for subject in document["subject"]}
    assert {f"{p.relative_to(made)}" for p in made.glob("blobs/**/*.*")} <= named
    definition = document["predicate"]["buildDefinition"]
    manifest = version_of(made)
    assert definition["externalParameters"]["recipe"] == manifest.recipe
    sources = [entry for entry in definition["resolvedDependencies"] if entry["name"].startswith("source:")]
    assert [(entry["uri"], entry["annotations"]["license"]) for entry in sources] == [
        ("https://github.com/huggingface/gym-pusht", "Apache-2.0")
    ]
    (line,) = (folder_of(real) / "provenance.intoto.jsonl").read_bytes().splitlines()
    others = statement_of(line)["predicate"]["buildDefinition"]["resolvedDependencies"]
    commits = {entry["name"]: entry["digest"] for entry in others if entry["name"].startswith("source:bridge")}
    assert list(commits.values()) == [{"gitCommit": "241fb3514b7c40957a86d869fecb7c7fc353f540"}]
    assert document["predicate"]["runDetails"] == {"builder": {"id": "urn:dataengine:builder:1"}}


def test_run_facts_are_in_runs_alone(made: Path) -> None:
    (run,) = made.glob("runs/*.json")
    facts = json.loads(run.read_bytes())["body"]
    (line,) = run.with_name(f"{run.stem}.provenance.intoto.jsonl").read_bytes().splitlines()
    details = statement_of(line)["predicate"]["runDetails"]
    assert details["metadata"] == {
        "invocationId": run.stem,
        "startedOn": facts["started_at"],
        "finishedOn": facts["finished_at"],
    }
    assert details["builder"]["version"]["dataengine"] == facts["code"]["version"]
    for name in (*NAMES, LIST):
        data = (folder_of(made) / name).read_bytes()
        assert facts["started_at"][:10].encode() not in data, f"{name} holds a clock"


def rebuilt(event: dict[str, Any]) -> dict[str, Any]:
    """The event made anew of the library's own classes."""

    def facets(found: dict[str, Any]) -> dict[str, Any]:
        made = {}
        for name, body in found.items():
            module, kind = KINDS[name].split(".")
            own = {key: value for key, value in body.items() if key not in ("_producer", "_schemaURL")}
            generated = importlib.import_module(f"openlineage.client.generated.{module}")
            if name == "schema":
                own = {"fields": [generated.SchemaDatasetFacetFields(**field) for field in own["fields"]]}
            if name == "lifecycleStateChange":
                own = {name: generated.LifecycleStateChange(own[name])}
            made[name] = getattr(generated, kind)(**own, producer=body["_producer"])
        return made

    inputs = [
        event_v2.InputDataset(
            i["namespace"], i["name"], facets=facets(i["facets"]), inputFacets=facets(i["inputFacets"])
        )
        for i in event["inputs"]
    ]
    outputs = [
        event_v2.OutputDataset(
            o["namespace"], o["name"], facets=facets(o["facets"]), outputFacets=facets(o["outputFacets"])
        )
        for o in event["outputs"]
    ]
    job, run = event["job"], event["run"]
    again = event_v2.RunEvent(
        eventType=event_v2.RunState(event["eventType"]),
        eventTime=event["eventTime"],
        run=event_v2.Run(run["runId"], facets=facets(run["facets"])),
        job=event_v2.Job(job["namespace"], job["name"], facets=facets(job["facets"])),
        inputs=inputs,
        outputs=outputs,
        producer=event["producer"],
    )
    plain: dict[str, Any] = json.loads(json.dumps(Serde.to_dict(again)))
    for output in plain["outputs"]:  # an empty list of inner fields says nothing
        for entry in output["facets"]["schema"]["fields"]:
            entry.pop("fields", None)
    return plain


def events_of(mixture: Path) -> list[dict[str, Any]]:
    (file,) = mixture.glob("runs/*.openlineage.ndjson")
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def test_lineage_events_are_the_library_s(made: Path) -> None:
    start, complete = events = events_of(made)
    assert [event["eventType"] for event in events] == ["START", "COMPLETE"]
    assert uuid.UUID(start["run"]["runId"]) == uuid.UUID(complete["run"]["runId"])
    assert start["eventTime"] < complete["eventTime"]
    for event in events:
        assert rebuilt(event) == event
    (output,) = complete["outputs"]
    manifest = version_of(made)
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == manifest.samples == 144
    assert output["facets"]["version"]["datasetVersion"] == folder_of(made).stem
    assert output["facets"]["lifecycleStateChange"]["lifecycleStateChange"] == "CREATE"


@pytest.mark.skipif("DATAENGINE_OPENLINEAGE_SPEC" not in os.environ, reason="needs OpenLineage's spec folder")
def test_lineage_events_fit_the_schema(made: Path) -> None:
    import jsonschema
    from referencing import Registry, Resource

    spec = Path(os.environ["DATAENGINE_OPENLINEAGE_SPEC"])
    schemas = [json.loads(p.read_bytes()) for p in [spec / "OpenLineage.json", *sorted(spec.glob("facets/*.json"))]]
    resources = [(schema["$id"], Resource.from_contents(schema)) for schema in schemas if "$id" in schema]
    registry: Any = Registry().with_resources(resources)

    def check(document: dict[str, Any], address: str) -> None:
        validator = jsonschema.Draft202012Validator({"$ref": address}, registry=registry)
        validator.validate(document)

    facets = 0
    for event in events_of(made):
        check(event, event["schemaURL"])
        nodes = [event["run"], event["job"], *event["inputs"], *event["outputs"]]
        for node in nodes:
            for place in ("facets", "inputFacets", "outputFacets"):
                for body in node.get(place, {}).values():
                    check(body, body["_schemaURL"])
                    facets += 1
    assert facets > 10


def test_the_card_is_the_hub_s(made: Path, real: Path) -> None:
    card = DatasetCard.load(folder_of(made) / "dataset_card.md")
    assert isinstance(card.data, DatasetCardData)
    head = card.data.to_dict()
    assert head["license"] == ["apache-2.0"]
    assert head["size_categories"] == ["n<1K"]
    assert head["task_categories"] == ["robotics"]
    files = {entry["split"]: entry["path"] for entry in head["configs"][0]["data_files"]}
    assert {split: len(paths) for split, paths in files.items()} == {"train": 6, "valid": 2}
    assert all((made / path).is_file() for paths in files.values() for path in paths)
    for title in ("Splits", "Sources", "Restrictions", "Dropped", "Load"):
        assert f"## {title}\n" in card.text
    both = DatasetCard.load(folder_of(real) / "dataset_card.md")
    assert both.data.to_dict()["task_categories"] == ["robotics", "image-text-to-text"]
    assert "| missing_media | 1 |" in both.text


@pytest.mark.parametrize(
    ("samples", "word"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**7, "10M<n<100M"), (10**12, "100B<n<1T")]
)
def test_sizes_are_the_hub_s_words(samples: int, word: str) -> None:
    assert size_category(samples) == word


def test_licences_are_said_in_each_vocabulary() -> None:
    assert license_url("CC-BY-4.0") == "https://spdx.org/licenses/CC-BY-4.0"
    for name in ("LicenseRef-EgoDex", "Apache-2.0 AND LicenseRef-COCO-terms", "unknown"):
        assert license_url(name) == name
    assert [hub_license(n) for n in ("MIT", "LicenseRef-x", "unknown")] == ["mit", "other", "unknown"]


def test_same_version_same_bytes(
    parts: tuple[Path, Path, Path], small_recipe: Path, tmp_path: Path, content: Callable[[Path], dict[str, str]]
) -> None:
    lake, made, raw = parts
    api.build(str(small_recipe), lake, tmp_path / "M", engine="local", workers=2, parameters={"data": str(raw)})
    assert content(tmp_path / "M") == content(made)
    before = content(made)
    assert api.documents(str(made), rewrite=True)["written"]
    assert content(made) == before


def test_nothing_of_the_machine_is_in_any(parts: tuple[Path, Path, Path], real: Path, data: Path) -> None:
    lake, made, raw = parts
    words = [str(made), str(made.parent), str(lake), str(raw), str(real), str(data), str(REPO), str(Path.cwd())]
    words += [socket.gethostname(), CANARY, "/tmp/", sys.prefix]
    user = getpass.getuser()
    words += [f"/{user}/", f'"{user}"', f"{user}@"]
    files = [path for m in (made, real) for path in (*folder_of(m).iterdir(), *m.glob("runs/*"))]
    assert len(files) >= 2 * (len(NAMES) + 5)
    for path in files:
        plain = path.read_bytes()
        assert [word for word in words if len(word) > 3 and word.encode() in plain] == [], path.name


def test_what_would_grant_access_is_left_out() -> None:
    manifest = large(1, url="https://me:secret99@host.example/x?token=abcdef123", consent="ask | <b>me</b>\nnow")
    for name, data in documents.documents(manifest).items():
        assert b"secret99" not in data, name
        assert b"abcdef123" not in data, name
    card = documents.documents(manifest)["dataset_card.md"].decode()
    assert "ask \\| &lt;b>me&lt;/b> now" in card


def problems(mixture: Path) -> dict[str, tuple[str, str]]:
    return {Path(p.file).name: (p.reason, f"{p.what}: {p.fix}") for p in api.verify(str(mixture)).problems}


def test_verify_names_every_damaged_document(made: Path, tmp_path: Path) -> None:
    out = shutil.copytree(made, tmp_path / "M")
    chance = np.random.default_rng(1)
    places = [*(folder_of(out) / name for name in (*NAMES, LIST)), *out.glob("runs/*.*j*son*")]
    assert len(places) == 8
    for path in places:
        clean = path.read_bytes()
        for _ in range(4):
            damaged = bytearray(clean)
            damaged[chance.integers(len(damaged))] ^= 1 << int(chance.integers(8))
            path.write_bytes(damaged)
            assert path.name in problems(out)
        path.write_bytes(clean[:-1])
        reason, what = problems(out)[path.name]
        assert reason == "digest_mismatch", (path, reason)
        assert path.parent.name == "runs" or "dataengine documents" in what
        path.write_bytes(clean)
    assert not problems(out)
    (folder_of(out) / "note.txt").write_text("by hand")
    assert problems(out)["note.txt"][0] == "unknown_file"


def test_a_missing_document_is_told_and_written_anew(made: Path, tmp_path: Path) -> None:
    out = shutil.copytree(made, tmp_path / "M")
    for name in (*NAMES, LIST):
        clean = (folder_of(out) / name).read_bytes()
        (folder_of(out) / name).unlink()
        assert problems(out)[name][0] == "missing_file"
        assert api.documents(str(out))["written"]
        assert (folder_of(out) / name).read_bytes() == clean
        assert not problems(out)
    (folder_of(out) / "dataset_card.md").write_text("mine")
    done = CliRunner().invoke(app, ["documents", str(out), "--rewrite"])
    assert done.exit_code == 0
    assert not problems(out)


def test_versions_of_before_have_none_until_asked(
    parts: tuple[Path, Path, Path], small_recipe: Path, tmp_path: Path, content: Callable[[Path], dict[str, str]]
) -> None:
    lake, made, raw = parts
    out = shutil.copytree(made, tmp_path / "M")
    for path in [*(folder_of(out) / name for name in (*NAMES, LIST)), *out.glob("runs/*.*.*")]:
        path.unlink()
    assert not problems(out), "a version without documents is whole"
    done = api.build(str(small_recipe), lake, out, engine="local", workers=1, parameters={"data": str(raw)})
    assert not done.report.created
    assert content(out) == content(made)


def test_a_stopped_writing_is_finished(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = shutil.copytree(made, tmp_path / "M")
    manifest = version_of(out)
    publish = MixtureStore.publish
    for stop in range(len(NAMES) + 1):
        left = stop

        def stopped(self: MixtureStore, name: str, data: bytes) -> bool:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            return publish(self, name, data)

        (folder_of(out) / "croissant.json").write_text("of another release")
        monkeypatch.setattr(MixtureStore, "publish", stopped)
        with pytest.raises(KeyboardInterrupt):
            documents.write(MixtureStore(out), manifest, rewrite=True)
        monkeypatch.undo()
        assert problems(out)
        assert documents.write(MixtureStore(out), manifest)
        assert not problems(out)
        assert not documents.write(MixtureStore(out), manifest)


def test_gc_keeps_them(made: Path, tmp_path: Path, content: Callable[[Path], dict[str, str]]) -> None:
    out = shutil.copytree(made, tmp_path / "M")
    api.gc(out, delete=True)
    assert content(out) == content(made)


def large(shards: int, url: str = "https://example.org/data", consent: str = "unknown") -> Manifest:
    """A version of many shards, its digests made up."""
    entries = [
        ShardEntry(
            sha256=f"{n:064x}",
            bytes=1 << 28,
            samples=100,
            split="valid" if n % 10 == 0 else "train",
            bucket=str(n),
            task_digest=f"{n:064x}",
            index_sha256=f"{n:064x}",
        )
        for n in range(shards)
    ]
    source = SourceSummary(
        source_id="generated",
        converter="generated",
        family="robot",
        license="MIT",
        url=url,
        revision="1",
        terms_url="unknown",
        consent=consent,
        commercial_ok="unknown",
        synthetic=True,
        episodes_in=100_000,
        episodes_kept=100_000,
        episodes_dropped=0,
        samples=100 * shards,
    )
    return Manifest(
        name="large",
        plan_id="0" * 64,
        recipe={"name": "large"},
        lake_digest="0" * 64,
        schema_version="unified.v1",
        pins={"rates": {}, "scale": 1.0, "buckets": {}},
        shards=tuple(entries),
        sources=(source,),
        drops={},
        bad_input=0,
        normalization_sha256="1" * 64,
        ledger_sha256="2" * 64,
        shard_records_sha256="3" * 64,
    )


def test_a_thousand_shards_in_no_time() -> None:
    manifest = large(1000)
    started = time.perf_counter()
    found = documents.documents(manifest)
    taken = time.perf_counter() - started
    sizes = {name: len(data) for name, data in found.items()}
    print(f"documents of 1,000 shards and 100,000 episodes: {taken:.3f} s, bytes {sizes}")
    assert taken < 2
    assert max(sizes.values()) < 2_000_000
    assert yaml.safe_load(found["dataset_card.md"].decode().split("---\n")[1])["size_categories"] == ["100K<n<1M"]
    assert not re.search(rb"NaN|null", found["croissant.json"])
