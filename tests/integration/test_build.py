"""A mixture from raw files to a version: same bytes whoever builds it, nothing twice, only what changed again."""

from __future__ import annotations

import gc
import io
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
import yaml

from dataengine import api
from dataengine.convert import Conversion
from dataengine.embodiment import load_card
from dataengine.errors import ConflictError, SpecError, StorageError
from dataengine.lake import Lake
from dataengine.mixture.store import MixtureStore
from dataengine.specs.converter import Converter, load_converter

Content = Callable[[Path], dict[str, str]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, small_recipe: Path, pusht_raw: Path) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("built")
    parameters = {"data": str(pusht_raw)}
    outcome = api.build(str(small_recipe), root / "L", root / "M", engine="local", workers=1, parameters=parameters)
    assert outcome.exit_code == 0
    assert outcome.report.created
    return root / "L", root / "M"


def build(small_recipe: Path, raw: Path, lake: Path, out: Path, **options: object) -> api.BuildOutcome:
    options = {"engine": "local", "workers": 1, **options}
    return api.build(str(small_recipe), lake, out, parameters={"data": str(raw)}, **options)  # type: ignore[arg-type]


def stock(urls: list[str], decode: str | None = None) -> list[dict]:
    """All samples by the unmodified reader, which leaves closing its files to the collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        dataset = wds.WebDataset(urls, shardshuffle=False, empty_check=False)
        samples = list(dataset.decode(decode) if decode else dataset)
        del dataset
        gc.collect()
    return samples


def test_again_is_nothing(built: tuple[Path, Path], small_recipe: Path, pusht_raw: Path, content: Content) -> None:
    before, snapshot = content(built[1]), Lake(built[0]).snapshot()
    outcome = build(small_recipe, pusht_raw, *built)
    assert not outcome.report.created
    assert outcome.report.tasks_executed == 0
    assert [entry.unchanged for entry in outcome.ingests] == [6]
    assert content(built[1]) == before
    assert Lake(built[0]).snapshot() == snapshot, "an unchanged source made a commit"


@pytest.mark.parametrize(("workers", "order"), [(1, 3), (2, None), (4, 11)])
def test_workers_and_order_do_not_show(
    built: tuple[Path, Path],
    small_recipe: Path,
    pusht_raw: Path,
    content: Content,
    tmp_path: Path,
    workers: int,
    order: int | None,
) -> None:
    build(small_recipe, pusht_raw, tmp_path / "L", tmp_path / "M", workers=workers, task_order=order)
    assert content(tmp_path / "M") == content(built[1])


@pytest.mark.ray
def test_ray_gives_the_same_bytes(
    built: tuple[Path, Path], small_recipe: Path, pusht_raw: Path, content: Content, tmp_path: Path
) -> None:
    outcome = build(small_recipe, pusht_raw, tmp_path / "L", tmp_path / "M", engine="ray", workers=2)
    assert outcome.engine == "ray"
    assert content(tmp_path / "M") == content(built[1])


def test_in_is_kept_plus_dropped_and_verify_agrees(built: tuple[Path, Path]) -> None:
    found = api.audit(str(built[1]))
    for source in found["sources"]:
        assert source["episodes_in"] == source["episodes_kept"] + source["episodes_dropped"]
    assert found["samples"] == sum(shard["samples"] for shard in found["shards"]) == 6 * 24
    report = api.verify(str(built[1]))
    assert report.problems == []
    assert report.samples == found["samples"]


def test_stock_webdataset_reads_every_sample(built: tuple[Path, Path]) -> None:
    keys = []
    for sample in stock(api.urls(str(built[1])), "pil"):
        keys.append(sample["__key__"])
        assert sample["json"]["key"] == sample["__key__"]
        assert sample["action.npy"].shape == (8, 2)
        view = next(iter(sample["json"]["views"]))
        assert sample[f"{view}.jpg"].size == (96, 96)
    assert len(keys) == len(set(keys)) == 6 * 24


def test_a_window_is_what_the_file_says(built: tuple[Path, Path], pusht_raw: Path) -> None:
    import pyarrow.parquet as pq

    actions = {}
    for path in sorted(pusht_raw.glob("data/chunk-000/*.parquet")):
        actions[path.stem] = np.stack(pq.read_table(path)["action"].to_numpy(zero_copy_only=False))
    seen = 0
    for sample in stock(api.urls(str(built[1]))):
        facts = api_json(sample["json"])
        own = actions[facts["upstream_id"]]
        step = facts["step"]
        action, mask, pad = (
            np.load(io.BytesIO(sample[name])) for name in ("action.npy", "action_mask.npy", "is_pad.npy")
        )
        inside = min(8, len(own) - step)
        np.testing.assert_array_equal(action[:inside], own[step : step + inside])
        np.testing.assert_array_equal(action[inside:], np.repeat(own[-1:], 8 - inside, axis=0))
        assert pad.tolist() == [0] * inside + [1] * (8 - inside)
        assert mask.tolist() == [[1, 1]] * inside + [[0, 0]] * (8 - inside)
        assert facts["is_last"] == (step == len(own) - 1)
        seen += 1
    assert seen == 6 * 24


def api_json(data: bytes) -> dict:
    import json

    return json.loads(data)


def test_adding_an_episode_executes_only_the_tasks_that_hold_it(
    small_recipe: Path, make_pusht: Callable[..., Path], tmp_path: Path
) -> None:
    raw = make_pusht(tmp_path / "six", range(6))
    first = build(small_recipe, raw, tmp_path / "L", tmp_path / "M")
    shutil.rmtree(raw)
    make_pusht(raw, range(7))
    second = build(small_recipe, raw, tmp_path / "L", tmp_path / "M")
    assert [(entry.added, entry.unchanged) for entry in second.ingests] == [(1, 6)]
    new = {h.uid for h in Lake(tmp_path / "L").heads()} - {
        row["uid"]
        for n in range(len(first.report.manifest.shards))
        for row in api.audit(f"{tmp_path / 'M'}@v0001", shard=n)["inputs"]
    }
    assert len(new) == 1
    holding = {entry["shard"] for entry in api.audit(f"{tmp_path / 'M'}@v0002", episode=new.pop())["shards"]}
    assert second.report.tasks_executed == len(holding)
    assert second.report.tasks_executed < second.report.tasks
    changes = api.diff(f"{tmp_path / 'M'}@v0001", f"{tmp_path / 'M'}@v0002")
    assert len(changes["episodes"]["added"]) == 1
    assert changes["samples"] == 24
    assert changes["shards"]["added"] == second.report.tasks_executed


def test_a_filter_drops_with_its_reason_and_bad_input_without_it_is_exit_3(
    small_recipe: Path, make_pusht: Callable[..., Path], tmp_path: Path
) -> None:
    raw = make_pusht(tmp_path / "raw", range(4), spoil=2)
    outcome = build(small_recipe, raw, tmp_path / "L", tmp_path / "M")
    assert outcome.exit_code == 0
    found = api.audit(str(tmp_path / "M"))
    assert found["drops"] == {"non_finite": 1}
    assert found["sources"][0]["episodes_kept"] == 3
    recipe = yaml.safe_load(small_recipe.read_text())
    recipe["filters"] = []
    bare = tmp_path / "bare.yaml"
    bare.write_text(yaml.safe_dump(recipe))
    outcome = build(bare, raw, tmp_path / "L", tmp_path / "M2")
    assert outcome.exit_code == 3
    assert [(row.reason, row.upstream_id) for row in outcome.report.bad_input] == [("non_finite", "episode_000002")]
    recipe["sources"][0]["accept"] = ["non_finite"]
    bare.write_text(yaml.safe_dump(recipe))
    assert build(bare, raw, tmp_path / "L", tmp_path / "M3").exit_code == 0
    for mixture in ("M", "M2", "M3"):
        assert "NaN" not in (next((tmp_path / mixture).glob("manifests/*.d/normalization.json"))).read_text()
        assert api.verify(str(tmp_path / mixture)).problems == []


def corrected(evidence: str) -> Conversion:
    document = load_converter("pusht_lerobot").canonical()
    document["source"]["license_evidence"] = evidence
    return Conversion.of(Converter.parse(document, "test"))


def test_a_corrected_converter_reconverts_exactly_its_episodes(
    small_recipe: Path, pusht_raw: Path, built: tuple[Path, Path], tmp_path: Path
) -> None:
    lake = tmp_path / "L"
    shutil.copytree(built[0], lake)
    before = {head.uid: head.conversion_digest for head in Lake(lake).heads()}
    report = api.ingest(pusht_raw, corrected("read again"), lake, workers=1)
    after = {head.uid: head.conversion_digest for head in Lake(lake).heads()}
    assert (report.reconverted, report.added, report.unchanged) == (6, 0, 0)
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())
    report = api.ingest(pusht_raw, corrected("read again"), lake, workers=1)
    assert (report.reconverted, report.added, report.unchanged) == (0, 0, 6)


def test_three_ingests_at_once_leave_one_copy_of_each(pusht_raw: Path, tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            api.ingest(pusht_raw, "pusht_lerobot", tmp_path / "L", workers=1)
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    heads = Lake(tmp_path / "L").heads()
    assert len(heads) == len({head.uid for head in heads}) == 6


def test_a_given_version_name_is_kept_or_conflicts(
    built: tuple[Path, Path], small_recipe: Path, pusht_raw: Path, tmp_path: Path
) -> None:
    out = tmp_path / "M"
    shutil.copytree(built[1], out)
    named = build(small_recipe, pusht_raw, built[0], out, version="paper")
    assert named.report.version == "paper"
    assert named.report.created
    assert api.diff(f"{out}@v0001", f"{out}@paper")["equal"]
    recipe = yaml.safe_load(small_recipe.read_text())
    recipe["window"]["chunk"]["steps"] = 4
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(recipe))
    with pytest.raises(ConflictError, match="paper"):
        build(other, pusht_raw, built[0], out, version="paper")
    assert MixtureStore(out).versions() == ["v0001", "paper"]
    with pytest.raises(SpecError):
        build(other, pusht_raw, built[0], out, version="../up")


def test_a_dirty_folder_is_refused(
    built: tuple[Path, Path], small_recipe: Path, pusht_raw: Path, tmp_path: Path
) -> None:
    (tmp_path / "M").mkdir()
    (tmp_path / "M" / "thesis.tex").write_text("mine")
    with pytest.raises(StorageError, match="no mixture"):
        build(small_recipe, pusht_raw, built[0], tmp_path / "M")
    assert [path.name for path in (tmp_path / "M").iterdir()] == ["thesis.tex"]


def test_the_same_upstream_id_with_other_content_drops_both(
    small_recipe: Path, make_pusht: Callable[..., Path], tmp_path: Path
) -> None:
    raw = make_pusht(tmp_path / "raw", [1, 2, 3])
    build(small_recipe, raw, tmp_path / "L", tmp_path / "M")
    shutil.rmtree(raw)
    make_pusht(raw, [1, 9, 3])
    outcome = build(small_recipe, raw, tmp_path / "L", tmp_path / "M")
    assert outcome.exit_code == 3
    assert outcome.report.manifest.drops == {"upstream_conflict": 2}
    old = next(row.uid for row in outcome.report.bad_input)
    assert api.lake_remove(tmp_path / "L", [old]) == 1


@pytest.mark.parametrize(
    "victim",
    [
        "blobs/**/*.tar",
        "blobs/**/*.idx",
        "tasks/*",
        "refs/*",
        "manifests/*.json",
        "manifests/*.d/*",
        "runs/*",
        "mixture.json",
    ],
)
def test_verify_sees_every_flipped_bit(built: tuple[Path, Path], tmp_path: Path, victim: str) -> None:
    out = tmp_path / "M"
    shutil.copytree(built[1], out)
    chance = np.random.default_rng(5)
    for path in sorted(out.glob(victim))[:3]:
        clean = path.read_bytes()
        for _ in range(6):
            damaged = bytearray(clean)
            damaged[chance.integers(len(damaged))] ^= 1 << int(chance.integers(8))
            path.write_bytes(damaged)
            assert _problems(out), f"a flipped bit in {path.name} was not seen"
        path.write_bytes(clean[: len(clean) // 2])
        assert _problems(out), f"a cut of {path.name} was not seen"
        path.write_bytes(clean)
    assert not _problems(out)


def _problems(out: Path) -> list[object]:
    try:
        return list(api.verify(str(out)).problems)
    except Exception as error:  # noqa: BLE001 - a refused mixture is seen as well
        return [error]


def test_verify_names_missing_and_foreign_files(built: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "M"
    shutil.copytree(built[1], out)
    lost = next(out.glob("blobs/**/*.tar"))
    lost.unlink()
    (out / "notes.txt").write_text("hello")
    reasons = {(problem.file, problem.reason) for problem in api.verify(str(out)).problems}
    assert (lost.relative_to(out).as_posix(), "missing_file") in reasons
    assert ("notes.txt", "unknown_file") in reasons


def own_converter(folder: Path, tag: str) -> Path:
    """A user's converter with a card of its own beside it, and a recipe that names both by file."""
    folder.mkdir()
    card = load_card("pusht_agent").canonical()
    (folder / "card.yaml").write_text(yaml.safe_dump({**card, "name": "my_body", "robot_tag": tag}))
    document = load_converter("pusht_lerobot").canonical()
    document |= {"name": "mine", "embodiment": "card.yaml", "source": {**document["source"], "name": "my_source"}}
    (folder / "mine.yaml").write_text(yaml.safe_dump(document))
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE_OF_MINE)
    return recipe


RECIPE_OF_MINE = """
name: mine
sources: [{converter: mine.yaml, path: "${data}"}]
window: {chunk: {steps: 4}}
normalization: {representations: [absolute]}
"""


def test_a_users_own_converter_and_card_need_no_shipped_name(pusht_raw: Path, tmp_path: Path, content: Content) -> None:
    one, two = own_converter(tmp_path / "a", "my robot"), own_converter(tmp_path / "b", "my robot")
    build(one, pusht_raw, tmp_path / "L", tmp_path / "M")
    build(two, pusht_raw, tmp_path / "L2", tmp_path / "M2")
    assert content(tmp_path / "M") == content(tmp_path / "M2"), "where a converter's file lies shows in the content"
    facts = [api_json(sample["json"]) for sample in stock(api.urls(str(tmp_path / "M")))]
    assert {(f["converter"], f["source_id"], f["embodiment"]) for f in facts} == {("mine", "my_source", "my_body")}
    assert all(f["prompt"]["text"].startswith("The robot is my robot") for f in facts)
    other = build(own_converter(tmp_path / "c", "another robot"), pusht_raw, tmp_path / "L", tmp_path / "M")
    assert [entry.reconverted for entry in other.ingests] == [6]
    assert other.report.tasks_executed == other.report.tasks
