"""Forget and purge: afterwards no byte of an episode lies in any file, and nothing else has changed.

What is searched for is taken from the raw files by readers of this test, and searched for by means of its own: every
file as it lies, every row of every table, every frame that a decoder gets out of a neighbour's stream.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from dataengine import api
from dataengine.cli.main import app
from dataengine.documents import unseal
from dataengine.errors import ConflictError, SpecError, StorageError
from dataengine.fixtures.lerobot_writer import FixtureEpisode, write_lerobot
from dataengine.lake import Lake, care, core, keep_name
from dataengine.lake import forget as forgetting
from dataengine.mixture.store import MixtureStore
from dataengine.relabel.cache import AnswerCache
from dataengine.transforms.llm import Answer, Question, Shown

RECIPE = """
name: forgetful
sources:
  - {converter: pusht_lerobot, path: "${data}"}
window: {chunk: {steps: 4}}
split: {valid: 0.0}
shards: {buckets: {train: 8, valid: 1}, segment: 8}
normalization: {representations: [absolute]}
"""
GONE = 1


def pictures(path: Path, first: int = 0, count: int | None = None) -> list[NDArray[np.uint8]]:
    """Frames of an mp4 as they are coded: one after the other, no scaling, no colours."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray().astype(np.uint8) for frame in container.decode(video=0)]
    return frames[first : None if count is None else first + count]


def coded(data: bytes) -> list[tuple[int, bytes]]:
    """(time, bytes) of every packet of an mp4, in the order of their times."""
    with av.open(io.BytesIO(data)) as container:
        return sorted((packet.pts, bytes(packet)) for packet in container.demux(video=0) if packet.size)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "forgetful.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The real PushT episodes, their one video coded anew with a keyframe every 30 frames: neighbours share GOPs.

    As it came every second frame is a keyframe, and all episodes begin on one.
    """
    root = tmp_path_factory.mktemp("real") / "pusht"
    shutil.copytree(data / "robot/lerobot_v30_pusht", root, copy_function=shutil.copyfile)
    path = root / "videos/observation.image/chunk-000/file-000.mp4"
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    path.unlink()
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=10, options={"g": "30", "crf": "20", "sc_threshold": "0"})
        stream.height, stream.width, stream.pix_fmt = 96, 96, "yuv420p"
        for image in frames:
            target.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        target.mux(stream.encode(None))
    return root


def generated(root: Path, count: int) -> Path:
    """Noisy episodes of odd lengths in one mp4 with a long GOP: every one but the first begins off a keyframe."""
    episodes = []
    for seed in range(count):
        chance = np.random.default_rng(seed)
        rows = 17 + 2 * (seed % 3)
        state = (np.cumsum(chance.normal(0, 4, (rows, 2)), axis=0) + 256).astype(np.float32)
        frames = [chance.integers(0, 255, (96, 96, 3), np.uint8) for _ in range(rows)]
        episodes.append(FixtureEpisode(state, state + 1, f"push the block, way number {seed:04d}", frames))
    write_lerobot(root, episodes, 10, video_key="observation.image", robot_type="pusht", gop=30)
    return root


class Traces:
    """What may not be found of one episode: taken from the raw files, before anything is forgotten."""

    def __init__(self, raw: Path, lake: Path, number: int) -> None:
        heads = sorted(Lake(lake).heads(), key=lambda head: head.upstream_id)
        self.uid = heads[number].uid
        lengths = [head.steps for head in heads]
        first = sum(lengths[:number])
        span = range(first, first + lengths[number])
        packets = coded((raw / "videos/observation.image/chunk-000/file-000.mp4").read_bytes())
        self.packets = [packets[place][1] for place in span if len(packets[place][1]) >= 48]
        assert len(self.packets) > 5
        table = pq.read_table(raw / "data/chunk-000/file-000.parquet")
        rows = np.flatnonzero(np.array(table["episode_index"]) == number)
        assert len(rows) == len(span)
        self.arrays = []
        for name in ("observation.state", "action"):
            column = np.stack(table[name].to_numpy(zero_copy_only=False)).astype(np.float32)
            others = np.delete(column, rows, axis=0).tobytes()
            moves = [column[row : row + 8].tobytes() for row in rows[:-8:5]]
            self.arrays += [part for part in moves if part not in others]  # where nothing moves all are alike
        assert len(self.arrays) > 3

    def pieces(self) -> dict[str, list[bytes]]:
        """The middle 32 bytes of packets, parts of arrays, the uid in every form."""
        return {
            "uid": [self.uid[:20].encode(), bytes.fromhex(self.uid)],
            "packet": [data[len(data) // 2 - 16 : len(data) // 2 + 16] for data in self.packets],
            "array": self.arrays,
        }


def unpacked(path: Path) -> Iterator[bytes]:
    """Every value of every row of a table: a Lance data set at every version it has, or a Parquet file."""
    if path.suffix == ".lance" and path.is_dir():
        for version in lance.dataset(str(path)).versions():
            dataset = lance.dataset(str(path), version=version["version"])
            blobs = [name for name in dataset.schema.names if name == "payload"]
            rows = dataset.to_table(columns=[n for n in dataset.schema.names if n not in blobs], with_row_id=True)
            yield from values(rows)
            for row in rows["_rowid"].to_pylist() if blobs else ():
                yield dataset.take_blobs("payload", ids=[row])[0].readall()
    elif path.suffix == ".parquet":
        yield from values(pq.read_table(path))


def values(table: pa.Table) -> Iterator[bytes]:
    for column in table.columns:
        for value in column.to_pylist():
            yield value if isinstance(value, bytes) else str(value).encode()


def left(roots: Sequence[Path], traces: Traces) -> set[tuple[str, str]]:
    """(kind, file) of everything that is found."""
    found = set()
    for root in roots:
        for path in sorted(root.rglob("*")):
            contents = unpacked(path) if path.is_dir() or path.suffix == ".parquet" else iter(())
            for data in [path.read_bytes()] if path.is_file() else []:
                found |= {(kind, str(path)) for kind, parts in traces.pieces().items() if any(p in data for p in parts)}
            for data in contents:
                found |= {(kind, str(path)) for kind, parts in traces.pieces().items() if any(p in data for p in parts)}
    return found


def own_frames(lake: Path) -> dict[str, list[NDArray[np.uint8]]]:
    """The frames of every episode, decoded from what the lake holds by PyAV alone, by upstream id."""
    opened = Lake(lake)
    found = {}
    for head in opened.heads():
        (media,) = opened.reader([head.uid]).episode(head.uid).media.values()
        with av.open(io.BytesIO(media.payload)) as container:
            frames = [frame.to_ndarray().astype(np.uint8) for frame in container.decode(video=0)]
        found[head.upstream_id] = frames[media.first_frame : media.first_frame + media.frames]
    return found


def shards(mixture: Path) -> dict[str, set[str]]:
    """The uids in each shard of the latest version, by the shard's digest."""
    store = MixtureStore(mixture)
    sha, manifest = store.manifest(store.resolve(None))
    rows = pq.read_table(mixture / f"manifests/{sha}.d/shard_records.parquet").to_pylist()
    found: dict[str, set[str]] = {shard.sha256: set() for shard in manifest.shards}
    for row in rows:
        found[manifest.shards[row["shard"]].sha256].add(row["uid"])
    return found


@pytest.mark.parametrize("kind", ["real", "generated"])
def test_no_byte_is_left(
    kind: str,
    request: pytest.FixtureRequest,
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(care, "INDEX_ROWS", 1)
    raw = request.getfixturevalue("real") if kind == "real" else generated(tmp_path / "raw", 6)
    lake, mixture = tmp_path / "L", tmp_path / "M"
    api.build(str(recipe), lake, mixture, parameters={"data": str(raw)}, workers=1)
    traces, before, frames = Traces(raw, lake, GONE), shards(mixture), own_frames(lake)
    heads = {head.upstream_id: head for head in Lake(lake).heads()}
    gone = heads[f"episode_{GONE:06d}"]
    shared = {uid for uid, head in ((h.uid, h) for h in heads.values()) if head.media[0].foreign_frames}
    assert heads[f"episode_{GONE + 1:06d}"].uid in shared
    assert {kind for kind, _ in left([lake, mixture], traces)} == {"uid", "packet", "array"}

    outcome = api.forget(lake, reason="consent withdrawn", episodes=[gone.uid], mixtures=[mixture], workers=1)
    assert outcome.lake.episodes == 1
    assert len(outcome.lake.neighbours) == len(shared - {gone.uid})
    touched = {sha for sha, uids in before.items() if uids & (shared | {gone.uid})}
    after = shards(mixture)
    assert before.keys() - touched <= after.keys()
    assert not any(gone.uid in uids for uids in after.values())
    assert outcome.mixtures[0].tasks_executed <= len(touched)
    known = Lake(lake)
    assert known.forgotten() == 1
    assert gone.uid not in {head.uid for head in known.heads()}

    indexed = {table: len(list((lake / table / "_indices").iterdir())) for table in ("episodes.lance", "media.lance")}
    assert all(indexed.values())
    known.keep("a-version-elsewhere", known.snapshot())
    looked = api.purge(lake, mixtures=[mixture])
    assert not looked.removed
    assert left([lake, mixture], traces)
    result = api.purge(lake, mixtures=[mixture], delete=True)
    assert result.finds == []
    assert left([lake, mixture], traces) == set()
    assert result.mixtures[0].versions == ["v0001"]
    assert api.verify(str(mixture)).problems == []
    kept = Lake(lake).kept()
    assert kept.keys() == {"a-version-elsewhere", keep_name(str(mixture), MixtureStore(mixture).manifest_sha("v0002"))}
    assert set(kept.values()) == {Lake(lake).snapshot()}
    assert all(len(lance.dataset(str(lake / table)).versions()) == 1 for table in indexed)
    now = own_frames(lake)
    assert now.keys() == frames.keys() - {gone.upstream_id}
    for name in now:
        assert len(now[name]) == len(frames[name])
        assert all(np.array_equal(one, two) for one, two in zip(now[name], frames[name], strict=True))
    assert {(h.uid, h.conversion_digest, h.content_digest, h.content) for h in Lake(lake).heads()} == {
        (h.uid, h.conversion_digest, h.content_digest, h.content) for h in heads.values() if h.uid != gone.uid
    }
    with capsys.disabled():
        print(
            f"\n{kind}: {outcome.mixtures[0].tasks_executed} of {outcome.mixtures[0].tasks} tasks executed,"
            f" {len(before.keys() & after.keys())} of {len(before)} shards as they were;"
            f" {result.files} files searched for {sum(result.probes.values())} probes, {len(result.finds)} found"
        )


def test_a_shard_of_other_episodes_keeps_its_digest(recipe: Path, tmp_path: Path, pusht_raw: Path) -> None:
    lake, mixture = tmp_path / "L", tmp_path / "M"
    api.build(str(recipe), lake, mixture, parameters={"data": str(pusht_raw)}, workers=1)
    before, gone = shards(mixture), Lake(lake).heads()[2]
    touched = {sha for sha, uids in before.items() if gone.uid in uids}
    assert 0 < len(touched) < len(before)
    outcome = api.forget(lake, reason="test", episodes=[gone.uid], mixtures=[mixture], workers=1).mixtures[0]
    assert before.keys() - touched == before.keys() & shards(mixture).keys()
    assert 0 < outcome.tasks_executed <= len(touched)
    assert api.purge(lake, mixtures=[mixture], delete=True).finds == []
    assert before.keys() - touched <= shards(mixture).keys()


def test_without_the_care_of_neighbours_it_is_found(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search of this test and that of the purge both see what a neighbour's stream would keep."""
    raw, lake = generated(tmp_path / "raw", 4), tmp_path / "L"
    api.ingest(raw, "pusht_lerobot", lake, workers=1)
    traces = Traces(raw, lake, GONE)
    monkeypatch.setattr(forgetting, "clean_neighbours", lambda _: [])
    monkeypatch.setattr("dataengine.mixture.purge.clean_neighbours", lambda _: [])
    api.forget(lake, reason="test", episodes=[traces.uid])
    result = api.purge(lake, delete=True)
    assert {kind for find in result.finds for kind in find.kinds} == {"stream"}
    tables = [lake / "episodes.lance", lake / "media.lance"]
    assert {kind for kind, _ in left(tables, traces)} == {"packet"}
    monkeypatch.undo()
    again = api.purge(lake, delete=True)
    assert again.resumed
    assert again.finds == []
    assert left([lake], traces) == set()
    assert not (lake / "care/purging").exists()


def test_a_purge_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, lake = generated(tmp_path / "raw", 4), tmp_path / "L"
    api.ingest(raw, "pusht_lerobot", lake, workers=1)
    traces = Traces(raw, lake, GONE)
    api.forget(lake, reason="test", episodes=[traces.uid])

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr("dataengine.mixture.purge._search", killed)
    with pytest.raises(Killed):
        api.purge(lake, delete=True)
    assert list((lake / "care/purging").iterdir())
    monkeypatch.undo()
    result = api.purge(lake, delete=True)
    assert result.resumed
    assert result.probes["stream"] > 50
    assert result.finds == []
    assert left([lake], traces) == set()


def test_an_ingest_does_not_bring_it_back(tmp_path: Path) -> None:
    raw, lake = generated(tmp_path / "raw", 4), tmp_path / "L"
    api.ingest(raw, "pusht_lerobot", lake, workers=1)
    traces = Traces(raw, lake, GONE)
    api.forget(lake, reason="test", episodes=[traces.uid])
    api.purge(lake, delete=True)
    report = api.ingest(raw, "pusht_lerobot", lake, workers=1)
    assert (report.added, report.unchanged, report.forgotten, report.failures) == (0, 3, ["episode_000001"], [])
    # a neighbour that comes in anew, from the same video, comes without the frames of what was forgotten
    api.lake_remove(lake, [head.uid for head in Lake(lake).heads() if head.upstream_id == "episode_000002"])
    assert api.ingest(raw, "pusht_lerobot", lake, workers=1).added == 1
    assert left([lake], traces) == set()
    done = CliRunner().invoke(app, ["ingest", str(raw), "--converter", "pusht_lerobot", "--lake", str(lake)])
    assert done.exit_code == 0
    assert "1 forgotten and left out" in done.output


def test_a_source_is_forgotten_whole(recipe: Path, tmp_path: Path, pusht_raw: Path) -> None:
    lake, mixture = tmp_path / "L", tmp_path / "M"
    api.build(str(recipe), lake, mixture, parameters={"data": str(pusht_raw)}, workers=1)
    source = Lake(lake).heads()[0].source_id
    looked = api.forget(lake, reason="licence ended", source=source, mixtures=[mixture], dry_run=True)
    assert (looked.lake.episodes, looked.mixtures[0].held) == (6, True)
    assert len(Lake(lake).heads()) == 6
    api.forget(lake, reason="licence ended", source=source)
    assert Lake(lake).heads() == []
    assert Lake(lake).forgotten() == 6
    result = api.purge(lake, mixtures=[mixture], delete=True)
    assert (result.lake.episodes, result.finds, result.mixtures[0].left) == (6, [], [])
    report = api.ingest(pusht_raw, "pusht_lerobot", lake, workers=1)
    assert (report.added, len(report.forgotten)) == (0, 6)


def test_a_source_that_is_emptied_leaves_the_recipe(tmp_path: Path, pusht_raw: Path, data: Path) -> None:
    lake, mixture, both = tmp_path / "L", tmp_path / "M", tmp_path / "both.yaml"
    api.ingest(pusht_raw, "pusht_lerobot", lake, workers=1)
    api.ingest(data / "simulation/robosuite_1.5.2_lift", "robosuite_lift_152", lake, workers=1)
    groups = "[{name: a, weight: 1, sources: [pusht_lerobot]}, {name: b, weight: 1, sources: [robosuite_lift_152]}]"
    both.write_text(
        RECIPE.replace(', path: "${data}"', "").replace("window:", "  - {converter: robosuite_lift_152}\nwindow:")
        + f"mix: {{weights: share, groups: {groups}}}\n"
    )
    api.build(str(both), lake, mixture, workers=1)
    source = next(head.source_id for head in Lake(lake).heads() if head.converter == "pusht_lerobot")
    outcome = api.forget(lake, reason="test", source=source, mixtures=[mixture], workers=1).mixtures[0]
    assert (outcome.version, outcome.left_out, outcome.note) == ("v0002", ["pusht_lerobot"], "")
    manifest = MixtureStore(mixture).manifest("v0002")[1]
    assert [entry["converter"] for entry in manifest.recipe["sources"]] == ["robosuite_lift_152"]
    assert [group["name"] for group in manifest.recipe["mix"]["groups"]] == ["b"]
    result = api.purge(lake, mixtures=[mixture], delete=True)
    assert (result.finds, result.mixtures[0].left) == ([], ["v0002"])


def test_the_receipt_tells_nothing_of_the_episode(tmp_path: Path, pusht_raw: Path) -> None:
    lake = tmp_path / "L"
    api.ingest(pusht_raw, "pusht_lerobot", lake, workers=1)
    gone = Lake(lake).heads()[0]
    api.forget(lake, reason="test", episodes=[gone.uid])
    stones = [path.read_text() for path in (lake / "care/tombstones").iterdir()]
    assert len(stones) == 1
    assert hashlib.sha256(gone.uid.encode()).hexdigest() in stones[0]
    result = api.purge(lake, delete=True)
    data = (lake / "care" / result.receipt).read_bytes()
    body: dict[str, Any] = unseal(data, "receipt")
    assert (body["lake"]["episodes"], body["finds"]) == (1, [])
    assert body["searched"]["files"] == result.files > 5
    for text in (gone.uid, gone.uid[:20], gone.upstream_id, "variant", str(tmp_path)):
        assert text not in data.decode()
    assert api.purge(lake, delete=False).empty


def test_tags_and_live_work_are_refused(recipe: Path, tmp_path: Path, pusht_raw: Path) -> None:
    lake, mixture = tmp_path / "L", tmp_path / "M"
    api.build(str(recipe), lake, mixture, parameters={"data": str(pusht_raw)}, workers=1)
    api.tag(str(mixture), "released")
    api.forget(lake, reason="test", episodes=[Lake(lake).heads()[0].uid], mixtures=[mixture], workers=1)
    with pytest.raises(ConflictError, match="released"):
        api.purge(lake, mixtures=[mixture], delete=True)
    for lease in (Lake(lake).ingesting, Lake(lake).reading):
        with lease(), pytest.raises(ConflictError, match="at work"):
            api.purge(lake, mixtures=[mixture], delete=True, drop_tags=True)
    assert MixtureStore(mixture).versions() == ["v0001", "v0002"]
    result = api.purge(lake, mixtures=[mixture], delete=True, drop_tags=True)
    assert result.finds == []
    assert (MixtureStore(mixture).versions(), MixtureStore(mixture).tags()) == (["v0002"], {})


def test_a_build_that_began_before_does_not_bring_it_back(
    recipe: Path, tmp_path: Path, pusht_raw: Path, make_pusht: Callable[..., Path]
) -> None:
    """Forget while a build runs: it fails, or its version goes with the purge; the latest version is without it."""
    lake, mixture = tmp_path / "L", tmp_path / "M"
    parameters = {"data": str(pusht_raw)}
    api.build(str(recipe), lake, mixture, parameters=parameters, workers=1)
    gone = Lake(lake).heads()[0]
    more = make_pusht(tmp_path / "more", range(9))
    told: list[BaseException] = []
    begun, forgot = threading.Event(), threading.Event()

    def tell(stage: str, _done: int, _total: int) -> None:
        if stage == "shards" and not begun.is_set():
            begun.set()
            forgot.wait(60)

    def build() -> None:
        try:
            api.build(str(recipe), lake, mixture, parameters={"data": str(more)}, workers=1, tell=tell)
        except StorageError as error:
            told.append(error)

    builder = threading.Thread(target=build)
    builder.start()
    assert begun.wait(60)
    with pytest.raises(ConflictError, match="build"):
        api.forget(lake, reason="test", episodes=[gone.uid], mixtures=[mixture], wait_seconds=0.1)
    forgot.set()
    builder.join()
    outcome = api.forget(lake, reason="test", episodes=[gone.uid], mixtures=[mixture], workers=1)
    latest = MixtureStore(mixture).latest()
    assert outcome.mixtures[0].version == latest
    assert not any(gone.uid in uids for uids in shards(mixture).values())
    assert api.purge(lake, mixtures=[mixture], delete=True).finds == []
    api.gc(mixture, delete=True)
    assert api.verify(str(mixture)).problems == []


def test_a_recipe_that_pins_it_is_built_without_the_pin(recipe: Path, tmp_path: Path, pusht_raw: Path) -> None:
    lake, mixture, pinning = tmp_path / "L", tmp_path / "M", tmp_path / "pinning.yaml"
    api.ingest(pusht_raw, "pusht_lerobot", lake, workers=1)
    gone, other = Lake(lake).heads()[:2]
    pins = f"split: {{valid: 0.0, pinned: {{valid: [{gone.uid}, {other.upstream_id}]}}}}"
    pinning.write_text(RECIPE.replace("split: {valid: 0.0}", pins).replace(', path: "${data}"', ""))
    api.build(str(pinning), lake, mixture, workers=1)
    api.forget(lake, reason="test", episodes=[gone.uid], mixtures=[mixture], workers=1)
    store = MixtureStore(mixture)
    assert store.manifest("v0002")[1].recipe["split"]["pinned"] == {"valid": [other.upstream_id]}
    assert api.purge(lake, mixtures=[mixture], delete=True).finds == []


def test_answers_of_models_go(tmp_path: Path, pusht_raw: Path) -> None:
    """Those that show its frames or quote its own text; not those about a text that others have too."""
    lake = tmp_path / "L"
    api.ingest(pusht_raw, "pusht_lerobot", lake, workers=1)
    cache, heads = AnswerCache(lake), Lake(lake).heads()
    kept = []
    for head in heads[:2]:
        episode = Lake(lake).reader([head.uid]).episode(head.uid)
        (view,) = episode.views
        shown = (Shown(view, episode.media[view.media].digest, 3),)
        for text, frames in ((episode.language[0].text, ()), ("", shown), ("what all say", ())):
            question = Question("m", "rewrite it", text, frames, {}, 0)
            cache.put(question, Answer("words about it"))
            kept += [question] if head is heads[1] else []
    api.forget(lake, reason="test", episodes=[heads[0].uid])
    result = api.purge(lake, delete=True)
    assert (result.answers, result.finds) == (2, [])
    assert len(list((lake / "relabel").rglob("*.json"))) == 3
    assert all(cache.get(question) is not None for question in kept)


def test_what_is_not_there_is_told(tmp_path: Path, pusht_raw: Path) -> None:
    lake = tmp_path / "L"
    api.ingest(pusht_raw, "pusht_lerobot", lake, workers=1)
    uid = Lake(lake).heads()[0].uid
    for wrong in ({"source": "other"}, {"episodes": ["0" * 64]}):
        with pytest.raises(SpecError, match="holds nothing of"):
            api.forget(lake, reason="test", **wrong)  # type: ignore[arg-type]
    for nothing in ({}, {"source": "a", "episodes": [uid]}, {"episodes": ["abc"]}):
        with pytest.raises(SpecError):
            api.forget(lake, reason="test", **nothing)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="reason"):
        api.forget(lake, reason=" ", episodes=[uid])
    assert len(Lake(lake).heads()) == 6


def test_the_commands(recipe: Path, tmp_path: Path, pusht_raw: Path) -> None:
    lake, mixture, listed = tmp_path / "L", tmp_path / "M", tmp_path / "list.txt"
    api.build(str(recipe), lake, mixture, parameters={"data": str(pusht_raw)}, workers=1)
    listed.write_text("\n".join(head.uid for head in Lake(lake).heads()[:2]) + "\n")
    run, where = CliRunner().invoke, ["--lake", str(lake), "--mixture", str(mixture)]
    done = run(app, ["forget", *where, "--episode", str(listed), "--reason", "test", "--dry-run"])
    assert "2 episodes and 0 rows of failures would be hidden" in done.output, done.output
    done = run(app, ["forget", *where, "--episode", str(listed), "--reason", "test", "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert "version v0002 in the place of v0001" in done.output
    assert "could be removed" in run(app, ["purge", *where]).output
    done = run(app, ["purge", *where, "--delete", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["lake"]["episodes"] == 2
    assert "nothing is forgotten" in run(app, ["purge", *where]).output
    done = run(app, ["lake", "gc", str(lake), "--grace", "0", "--delete"])
    assert done.exit_code == 0, done.output
    assert "removed" in done.output


def test_pictures_are_pixel_identical_through_the_readers_own_path(tmp_path: Path, real: Path) -> None:
    from dataengine import video

    lake = tmp_path / "L"
    api.ingest(real, "pusht_lerobot", lake, workers=1)
    opened = Lake(lake)
    head = next(head for head in opened.heads() if head.media[0].foreign_frames)
    (media,) = opened.reader([head.uid]).episode(head.uid).media.values()
    made = core.cleaned(media)
    assert (made.first_frame, made.foreign_frames, made.frames, made.digest) == (0, 0, media.frames, media.digest)
    assert made.payload == core.cleaned(media).payload
    for (_, one), (_, two) in zip(
        video.frames(media, range(media.frames)), video.frames(made, range(made.frames)), strict=True
    ):
        assert np.array_equal(one, two)
    assert len(coded(made.payload)) == media.frames
