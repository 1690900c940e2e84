"""`dataengine view`: what is read back from the recording is what the lake holds.

Needs the Rerun SDK (extra `viz`). No viewer is started. Recordings of real files are compared where those are at hand.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

pytest.importorskip("rerun", reason="the Rerun SDK is not installed: pip install 'dataengine[viz]'")
from rerun.chunk import RrdReader

from dataengine import api, demo, images, video
from dataengine.cli.main import app
from dataengine.episode import Episode, SlotArray
from dataengine.errors import DataEngineError, MissingError, SpecError
from dataengine.lake import Lake
from dataengine.lake_rows import Head
from dataengine.schema import unified
from dataengine.viewing import write as writing

RAW = {
    "bridge_octo": "robot/rlds_octo_bridge",
    "unitree_g1_inspire": "robot/lerobot_v21_g1",
    "pusht_lerobot": "robot/lerobot_v30_pusht",
    "robosuite_lift_152": "simulation/robosuite_1.5.2_lift",
    "hot3d_aria": "egocentric/hot3d",
    "vitra_ego4d": "egocentric/vitra_ego4d_mano",
    "qwen_vl_demo": "vision_language/qwen_vl_finetune_demo",
    "llava_conversations": "vision_language/llava_conversations",
}


class Told:
    """What a recording holds: record batches by entity."""

    def __init__(self, path: Path) -> None:
        reader = RrdReader(path)
        (self.entry,) = reader.recordings()
        self.blueprints = reader.blueprints()
        self.batches: dict[str, list[pa.RecordBatch]] = {}
        for chunk in reader.stream(store=self.entry):
            self.batches.setdefault(chunk.entity_path, []).append(chunk.to_record_batch())

    def column(self, path: str, name: str) -> list[Any]:
        """Cells of a component, all rows; each is a list."""
        return [cell for batch in self._having(path, name) for cell in batch.column(name).to_pylist()]

    def one(self, path: str, name: str) -> Any:
        ((found,),) = self.column(path, name)
        return found

    def times(self, path: str, name: str) -> np.ndarray:
        return self._index(path, name, "time").astype(np.int64)

    def steps(self, path: str, name: str) -> np.ndarray:
        return self._index(path, name, "step")

    def _index(self, path: str, name: str, index: str) -> np.ndarray:
        return np.concatenate([batch.column(index).to_numpy() for batch in self._having(path, name)])

    def _having(self, path: str, name: str) -> list[pa.RecordBatch]:
        found = [batch for batch in self.batches[path] if name in batch.schema.names]
        assert found, f"{path} has no {name}"
        return found

    def content(self) -> list[Any]:
        """Everything, names of chunks and rows included."""
        return [
            (
                path,
                batch.schema.metadata[b"rerun:id"],
                sorted((n, batch.column(n).to_pylist()) for n in batch.schema.names),
            )
            for path, batches in self.batches.items()
            for batch in batches
        ]


def compare(told: Told, episode: Episode) -> None:
    """The recording against the episode, by other means than the writer's."""
    assert told.entry.recording_id == episode.uid
    assert told.entry.application_id == "dataengine"
    assert len(told.blueprints) == 1
    if episode.messages:
        compare_conversation(told, episode)
        return
    for side, slots in (("state", episode.state), ("action", episode.action)):
        compare_side(told, episode, side, slots)
    for view in episode.views:
        compare_view(told, episode, view.name)
    for place, turn, body in (
        ("eef_pos.right", "eef_rot6d.right", "eef_right"),
        ("eef_pos.left", "eef_rot6d.left", "eef_left"),
        ("ego_camera_pos", "ego_camera_rot6d", "head"),
    ):
        compare_pose(told, episode, place, turn, body)
    lines = " ".join(text for (text,) in told.column("/language", "TextDocument:text")) if episode.language else ""
    for text in episode.language:
        assert text.text.split("\n")[0].strip()[:60] in lines
    facts = told.one("/facts", "TextDocument:text")
    assert episode.uid in facts
    assert all(file.sha256 in facts for file in episode.files)


def slot_values(slots: SlotArray | None, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    slot = unified().slot(key)
    if slots is None or not (at := slots.columns(slot.start, slot.stop)).size:
        return None
    return slots.values[:, at].astype(np.float64), slots.mask[:, at]


def compare_side(told: Told, episode: Episode, side: str, slots: SlotArray | None) -> None:
    paths = {path for path in told.batches if path.startswith(f"/{side}/") and not path.endswith("native_action")}
    keys = [] if slots is None else [slot.key for slot in unified().slots_of(slots.channels)]
    assert paths == {f"/{side}/{key.replace('.', '/')}" for key in keys}
    for key in keys:
        path = f"/{side}/{key.replace('.', '/')}"
        values, mask = slot_values(slots, key)  # type: ignore[misc]
        found = np.array(told.column(path, "Scalars:scalars"))
        np.testing.assert_array_equal(found, np.where(mask, values, np.nan), err_msg=path)
        np.testing.assert_array_equal(told.times(path, "Scalars:scalars"), episode.times_ns)
        np.testing.assert_array_equal(told.steps(path, "Scalars:scalars"), np.arange(episode.steps))
        (names,) = told.column(path, "SeriesLines:names")
        unit = unified().slot(key).unit
        told_units = episode.native_units.values() if unit == "native" else [unit]
        assert len(names) == values.shape[1]
        assert all(any(name.endswith(f"[{one}]") for one in told_units) for name in names)


def compare_view(told: Told, episode: Episode, name: str) -> None:
    view = next(view for view in episode.views if view.name == name)
    media = episode.media[view.media]
    (path,) = (path for path in told.batches if path.endswith((f"cameras/{name}", f"camera_{name}")))
    if "EncodedImage:blob" in {n for batch in told.batches[path] for n in batch.schema.names}:
        found = [bytes(blob) for (blob,) in told.column(path, "EncodedImage:blob")]
        np.testing.assert_array_equal(told.times(path, "EncodedImage:blob"), media.times_ns)
        assert len(found) == media.frames
        if media.kind == "images" and view.rotate == 0 and view.channel_order == "rgb":
            assert found == [media.image(row) for row in range(media.frames)]
        return
    assert bytes(told.one(path, "AssetVideo:blob")) == media.payload
    assert not media.foreign_frames
    reference = "VideoFrameReference:timestamp"
    frames = np.array([value for (value,) in told.column(path, reference)], np.int64)
    np.testing.assert_array_equal(told.times(path, reference), media.times_ns)
    # the viewer counts from the stream's beginning in whole units of its time base
    np.testing.assert_allclose(frames - frames[0], video.frame_times(media), atol=2)


def compare_pose(told: Told, episode: Episode, place: str, turn: str, body: str) -> None:
    where, how = slot_values(episode.state, place), slot_values(episode.state, turn)
    if where is None or how is None:
        return
    path = f"/frames/{episode.frames[f'state/{place}']}/{body}"
    known = where[1].all(axis=1) & how[1].all(axis=1)
    if not known.any():
        assert path not in told.batches
        return
    translation = np.array([value for (value,) in told.column(path, "Transform3D:translation")])
    np.testing.assert_allclose(translation, where[0][known], atol=1e-6)
    np.testing.assert_array_equal(told.times(path, "Transform3D:translation"), episode.times_ns[known])
    x, y, z, w = np.array([value for (value,) in told.column(path, "Transform3D:quaternion")]).T
    first = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)], axis=1)
    second = np.stack([2 * (x * y - z * w), 1 - 2 * (x * x + z * z), 2 * (y * z + x * w)], axis=1)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), how[0][known], atol=2e-3)


def compare_conversation(told: Told, episode: Episode) -> None:
    said = told.one("/conversation", "TextDocument:text")
    for message in episode.messages:
        for piece in message.content:
            wanted = piece["text"].strip().split("\n")[0][:60] if piece["type"] == "text" else f"<{piece['media']}>"
            assert wanted in said
    for name, media in episode.media.items():
        if media.kind == "images" and media.codec in ("jpeg", "png"):
            assert bytes(told.one(f"/media/{name}", "EncodedImage:blob")) == media.image(0)
        elif media.kind == "video" and media.codec != "mp4/h264":
            assert len(told.column(f"/media/{name}", "EncodedImage:blob")) == media.frames
        elif media.kind == "video":
            assert bytes(told.one(f"/media/{name}", "AssetVideo:blob")) == media.payload


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> demo.Demo:
    return demo.run(tmp_path_factory.mktemp("demo"), lambda *_: None, engine="local")


@pytest.fixture(scope="module")
def lake(made: demo.Demo) -> Lake:
    return Lake(made.out / "lake")


def heads(lake: Lake) -> dict[str, Head]:
    """One usable episode of each source."""
    return {head.source_id: head for head in reversed(lake.heads(where="status = 'ok'"))}


def episode_of(lake: Lake, head: Head) -> Episode:
    return lake.reader([head.uid]).episode(head.uid)


def viewed(made: demo.Demo, head: Head, folder: Path, *, mixture: bool = False) -> Told:
    address = str(made.out / "mixture") if mixture else None
    return Told(api.view(head.uid, made.out / "lake", out=folder / "e.rrd", mixture=address))


def test_each_family_reads_back_as_the_lake_has_it(made: demo.Demo, lake: Lake, tmp_path: Path) -> None:
    found = heads(lake)
    assert len({head.family for head in found.values()}) == 5
    for head in found.values():
        compare(viewed(made, head, tmp_path, mixture=True), episode_of(lake, head))


@pytest.mark.parametrize("fault", ["shift", "sign", "swap", "mask", "times", "picture"])
def test_the_comparison_sees_planted_faults(made: demo.Demo, lake: Lake, tmp_path: Path, fault: str) -> None:
    head = heads(lake)["demo_arm"]
    episode = episode_of(lake, head)
    state = episode.state
    assert state is not None
    values, mask = state.values, state.mask
    wrong = {
        "shift": {"state": replace(state, values=np.roll(values, 1, axis=0))},
        "sign": {"state": replace(state, values=-values)},
        "swap": {"state": replace(state, values=values[:, [1, 0, *range(2, values.shape[1])]])},
        "mask": {"state": replace(state, mask=np.zeros_like(mask))},
        "times": {"times_ns": episode.times_ns + 1},
        "picture": {"media": {n: replace(m, payload=m.payload[:-1] + b"\0") for n, m in episode.media.items()}},
    }[fault]
    writing.write(replace(episode, **wrong), head, tmp_path / "e.rrd")
    with pytest.raises(AssertionError):
        compare(Told(tmp_path / "e.rrd"), episode)


def test_the_mixture_is_told_as_its_ledger_and_shards_have_it(made: demo.Demo, lake: Lake, tmp_path: Path) -> None:
    keys = {key for url in api.urls(str(made.out / "mixture")) for key in members(Path(url))}
    store, version = api.open_mixture(str(made.out / "mixture"))
    sha, _ = store.manifest(version)
    ledger = pq.read_table(store.root / store.documents(sha) / "ledger.parquet").to_pylist()
    kept_steps = {row["uid"]: row["kept_steps"] for row in ledger}
    for head in heads(lake).values():
        told = viewed(made, head, tmp_path, mixture=True)
        facts = told.one("/facts", "TextDocument:text")
        assert f"version: {made.version}" in facts
        own = {key for key in keys if key.startswith(head.uid[:20])}
        assert f"samples in shards: {len(own)}" in facts
        if head.family == "vision_language":
            continue
        shown = {text.split()[0] for (text,) in told.column("/mixture/keys", "TextLog:text")}
        assert shown == own
        counts = np.array(told.column("/mixture/samples", "Scalars:scalars"))[:, 0]
        wanted = np.bincount([int(key.split("-")[1]) for key in own], minlength=head.steps)
        np.testing.assert_array_equal(counts, wanted)
        kept = np.array(told.column("/mixture/kept", "Scalars:scalars"))[:, 0]
        assert (kept > 0).sum() == kept_steps[head.uid]
        assert (kept[counts > 0] > 0).all()


def test_filters_and_drops_show(made: demo.Demo, lake: Lake, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    (tmp_path / "converters").symlink_to(made.out / "converters")
    recipe.write_text(
        "name: cut\nseed: 1\nsources:\n"
        "  - {converter: converters/demo_arm.yaml}\n"
        "  - {converter: converters/demo_corridors.yaml, require: [language]}\n"
        "filters:\n  - {name: length, max_steps: 40}\nsteps:\n  - {name: drop_first, steps: 3}\n"
        "window: {chunk: {steps: 4}}\nguard: null\n"
    )
    api.build(str(recipe), made.out / "lake", tmp_path / "cut", engine="local")
    for head in heads(lake).values():
        if head.source_id not in ("demo_arm", "demo_corridors"):
            continue
        told = Told(api.view(head.uid, made.out / "lake", out=tmp_path / "e.rrd", mixture=str(tmp_path / "cut")))
        kept = np.array(told.column("/mixture/kept", "Scalars:scalars"))[:, 0]
        facts = told.one("/facts", "TextDocument:text")
        if head.steps > 40:
            assert not kept.any()
            assert "status: dropped" in facts
            assert "reason: too_long" in facts
        else:
            np.testing.assert_array_equal(kept, np.arange(head.steps) >= 3)
            assert f"kept steps: {head.steps - 3} of {head.steps}" in facts


def members(shard: Path) -> set[str]:
    import tarfile

    with tarfile.open(shard) as tar:
        return {Path(name).name.split(".")[0] for name in tar.getnames()}


def test_the_same_episode_gives_the_same_recording(made: demo.Demo, lake: Lake, tmp_path: Path) -> None:
    head = heads(lake)["demo_arm"]
    first = viewed(made, head, tmp_path, mixture=True)
    assert viewed(made, head, tmp_path, mixture=True).content() == first.content()
    assert [entry.name for entry in tmp_path.iterdir()] == ["e.rrd"]


def test_an_episode_is_named_in_several_ways(made: demo.Demo, lake: Lake, tmp_path: Path) -> None:
    head = heads(lake)["demo_corridors"]
    names = [head.uid, head.uid[:16], f"{head.uid[:20]}-0000003-000", f"{head.source_id}:{head.upstream_id}"]
    for name in names:
        assert Told(api.view(name, made.out / "lake", out=tmp_path / "e.rrd")).entry.recording_id == head.uid
    with pytest.raises(SpecError, match="no episode 'nothing'"):
        api.view("nothing", made.out / "lake", out=tmp_path / "n.rrd")
    with pytest.raises(SpecError, match="no episode"):
        api.view("demo_arm:' or 1=1 or 'a'='", made.out / "lake", out=tmp_path / "n.rrd")
    planted = made.planted
    with pytest.raises(SpecError, match=f"could not be used: {planted.reason}"):
        api.view(f"{planted.source_id}:{planted.upstream_id}", made.out / "lake", out=tmp_path / "n.rrd")
    assert not (tmp_path / "n.rrd").exists()


def test_a_turned_view_and_swapped_colours_are_shown_upright(lake: Lake, tmp_path: Path) -> None:
    head = heads(lake)["demo_arm"]
    episode = episode_of(lake, head)
    view = replace(episode.views[0], rotate=90, channel_order="bgr")
    writing.write(replace(episode, views=(view,)), head, tmp_path / "e.rrd")
    told = Told(tmp_path / "e.rrd")
    found = images.decode(bytes(told.column(f"/cameras/{view.name}", "EncodedImage:blob")[3][0]))
    stored = images.decode(episode.media[view.media].image(3))
    np.testing.assert_array_equal(found, np.rot90(stored[..., ::-1]))


def test_frames_of_a_neighbour_stay_in_the_lake(lake: Lake, tmp_path: Path) -> None:
    head = heads(lake)["demo_push"]
    episode = episode_of(lake, head)
    view = episode.views[0]
    whole = episode.media[view.media]
    own = replace(
        whole, first_frame=2, frames=whole.frames - 2, foreign_frames=2, times_ns=whole.times_ns[: whole.frames - 2]
    )
    writing.write(replace(episode, media={view.media: own}), head, tmp_path / "e.rrd")
    told = Told(tmp_path / "e.rrd")
    assert not any("AssetVideo:blob" in b.schema.names for batches in told.batches.values() for b in batches)
    found = [images.decode(bytes(blob)) for (blob,) in told.column(f"/cameras/{view.name}", "EncodedImage:blob")]
    wanted = [pixels for _, pixels in video.frames(own, range(own.frames))]
    assert len(found) == len(wanted)
    worst = max(np.abs(a.astype(int) - b).mean() for a, b in zip(found, wanted, strict=True))
    print(f"decoded frames differ by {worst:.2f} of 255 on average at most")
    assert worst < 4


def test_nothing_is_left_in_the_home_folder(made: demo.Demo, lake: Lake, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    program = [sys.executable, "-m", "dataengine.cli.main", "view", heads(lake)["demo_hands"].uid[:12]]
    environment = {**os.environ, "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home)}
    done = subprocess.run(
        [*program, "--lake", str(made.out / "lake")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("wrote demo_hands-")
    assert list(home.rglob("*")) == []


def test_without_the_sdk_the_error_names_the_install(
    made: demo.Demo, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"pip install 'dataengine\[viz\]'"):
        api.view("abcd", made.out / "lake")


def test_the_command_line_says_what_is_wrong(made: demo.Demo, tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["view", "nobody:here", "--lake", str(made.out / "lake")])
    assert ran.exit_code == 2
    assert "no episode 'nobody:here'" in ran.stderr


def test_help_and_the_interface_do_not_import_rerun() -> None:
    code = "import sys, dataengine.api, dataengine.cli.main; print('rerun' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.fixture(scope="module")
def real(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    folder = tmp_path_factory.mktemp("real") / "lake"
    for converter, where in RAW.items():
        api.ingest(data / where, converter, folder)
    return Lake(folder)


@pytest.mark.parametrize("converter", sorted(RAW))
def test_real_files_read_back_as_the_lake_has_them(real: Lake, tmp_path: Path, converter: str) -> None:
    rows = real.heads(where=f"status = 'ok' and converter = '{converter}'")[:2]
    assert rows
    for head in rows:
        path = api.view(head.uid, Path(real.path), out=tmp_path / "e.rrd")
        compare(Told(path), episode_of(real, head))
        print(f"{converter} {head.upstream_id}: {path.stat().st_size:,} bytes, media {head.media_bytes:,}")


def test_a_calibrated_camera_carries_its_pictures(real: Lake, tmp_path: Path) -> None:
    (head, *_) = real.heads(where="status = 'ok' and converter = 'vitra_ego4d'")
    episode = episode_of(real, head)
    told = Told(api.view(head.uid, Path(real.path), out=tmp_path / "e.rrd"))
    (view,) = episode.views
    camera = view.camera
    assert camera is not None
    assert camera.focal is not None
    assert camera.centre is not None
    assert camera.size is not None
    path = f"/frames/vitra_world/camera_{view.name}"
    media = episode.media[view.media]
    across, down = media.width / camera.size[1], media.height / camera.size[0]
    matrix = np.array(told.one(path, "Pinhole:image_from_camera")).reshape(3, 3).T
    wanted = [
        [camera.focal[0] * across, 0, camera.centre[0] * across],
        [0, camera.focal[1] * down, camera.centre[1] * down],
    ]
    np.testing.assert_allclose(matrix[:2], wanted, rtol=1e-6)
    assert told.one(path, "Pinhole:resolution") == [media.width, media.height]
    tips = told.column("/frames/vitra_world/eef_right/fingertips", "Points3D:positions")
    values, mask = slot_values(episode.state, "fingertips.right")  # type: ignore[misc]
    np.testing.assert_allclose(np.array(tips).reshape(len(tips), 15), values[mask.all(axis=1)], atol=1e-6)


def test_unknown_to_the_version(made: demo.Demo, real: Lake, tmp_path: Path) -> None:
    (head, *_) = real.heads(where="status = 'ok' and converter = 'hot3d_aria'")
    with pytest.raises(DataEngineError, match="does not know the episode"):
        api.view(head.uid, Path(real.path), out=tmp_path / "e.rrd", mixture=str(made.out / "mixture"))
