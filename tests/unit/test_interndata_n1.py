"""InternData-N1: poses of a walk that was written, both versions' files, and trees that are not as they should be."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataengine.camera import project
from dataengine.convert import Conversion, convert
from dataengine.errors import BadInput, EpisodeError, SpecError
from dataengine.fixtures import interndata_writer as writer
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.specs.derive import CarriedCamera
from dataengine.storage import SourceRoot
from dataengine.transforms.navigation import carried_camera

SCENE, TREE = "matterport3d_d435i/sceneA", "replica_zed/office/trajectory_68"
PARQUET = f"{TREE}/data/chunk-000/episode_000000.parquet"


@pytest.fixture
def trees(tmp_path):
    return writer.write_interndata(tmp_path)


def scan(path, **options):
    return list(get_format("interndata_n1").scan(SourceRoot(path), None, options))


def read(path, ref):
    return get_format("interndata_n1").read(SourceRoot(path), ref)


def reasons(found):
    return [(entry.upstream_id, entry.reason) for entry in found if isinstance(entry, ScanProblem)]


def names(found):
    return [entry.upstream_id for entry in found if isinstance(entry, EpisodeRef)]


def test_episodes_and_trees_that_lost_a_file_are_told(trees):
    (trees / f"{SCENE}/data/chunk-000/episode_000001.parquet").unlink()
    (trees / f"{TREE}/meta/info.json").unlink()
    found = scan(trees)
    assert names(found) == [f"{SCENE}/episode_000000"]
    assert reasons(found) == [(f"{SCENE}/episode_000001", "missing_file"), (f"{TREE}/meta/info.json", "missing_file")]


def test_both_versions(trees):
    refs = scan(trees)
    assert names(refs) == [f"{SCENE}/episode_000000", f"{SCENE}/episode_000001", f"{TREE}/episode_000000"]
    one, _, old = (read(trees, ref) for ref in refs)
    assert one.group == SCENE
    assert old.group == "replica_zed/office"
    assert one.texts["instruction"] == ("Go past the sofa.",)
    said = [f"Part {k}. Leave the office." for k in (0, 0, 1)]
    other = [f"Now {k}: Leave the office." for k in (0, 0, 1)]
    whole = {"instruction": ("Leave the office.",)}
    assert old.texts == whole | {"sub_instruction": tuple(said), "revised_sub_instruction": tuple(other)}
    assert old.arrays["action"].shape == (3, 4, 4)
    assert old.arrays["action"].dtype == np.float32
    assert one.attributes == {"fps": 30, "unread": ["observation.images.depth"]}
    assert [one.media["observation.images.rgb"].image(k) for k in (0, 1)] == [writer._picture(0), writer._picture(1)]


def test_the_walk_in_its_own_frame(trees):
    """Half a metre along each heading, which grows by 0.2 rad a row; the camera's tilt is not the agent's."""
    episode = convert(read(trees, scan(trees)[2]), Conversion.load("interndata_n1"))
    yaw = 0.2 * np.arange(3)
    steps = 0.5 * np.stack([np.cos(yaw[:-1]), np.sin(yaw[:-1]), 0 * yaw[:-1]], axis=1)
    place = np.concatenate([[[0, 0, 0]], steps]).cumsum(axis=0)
    np.testing.assert_allclose(episode.state.values[:, :3], place, atol=1e-5)
    np.testing.assert_allclose(episode.state.values[:, 3], yaw, atol=1e-5)
    np.testing.assert_allclose(episode.action.values[:-1], episode.state.values[1:])
    (front,) = episode.views
    assert front.name == "front"
    # A point two metres ahead on the floor, 1.2 m below the camera that looks 0.3 rad down, lies in the middle column
    # of the picture, below its middle by the angle that is left.
    down = np.arctan2(1.2, 2.0) - 0.3
    seen_from = np.linalg.inv(np.array(front.camera.T_parent_camera)) @ [0.0, 2.0, 0.0, 1.0]
    (fractions,), _ = project(front.camera, seen_from[None, :3])
    np.testing.assert_allclose(fractions * [16, 12], [8, 6 + 351.7 * np.tan(down)], atol=1e-3)
    assert [(spoken.level, spoken.span) for spoken in episode.language] == [
        ("episode", (0, 3)),
        ("subtask", (0, 2)),
        ("subtask", (2, 3)),
    ]


def test_a_printed_row_of_the_real_data():
    """Extrinsic and action of a first row as a public description prints them (rounded to three places)."""
    mount = [[1, 0, 0, 0], [0, 0.221, -0.975, 0], [0, 0.975, 0.221, 0.738], [0, 0, 0, 1]]
    pose = [[0.432, -0.199, 0.879, -3.602], [0.902, 0.095, -0.422, 2.020], [0, 0.975, 0.221, 0.738], [0, 0, 0, 1]]
    derive = Conversion.load("interndata_n1").converter.derive[0]
    # Three places are too few for a rotation: the nearest ones.
    arrays = {derive.poses: nearest(pose)[None], derive.mount: nearest(mount)[None]}
    (heading,) = carried_camera(derive, arrays)["derived/carrier_heading"]
    # It looks along -z of the camera, flat on the ground.
    assert heading == pytest.approx(np.arctan2(0.422, -0.879), abs=0.01)


def nearest(matrix):
    made = np.array(matrix, float)
    left, _, right = np.linalg.svd(made[:3, :3])
    made[:3, :3] = left @ right
    return made


@pytest.mark.parametrize(
    ("said", "texts"),
    [
        (["Go.<INSTRUCTION_SEP>Walk."], {"instruction": ("Go.",), "instruction_1": ("Walk.",)}),
        ([{"sum_instruction": "Go."}], {"instruction": ("Go.",)}),
        ([{"sub_instruction": "Go.", "sub_indexes": [1, 1]}], {"sub_instruction": ("", "Go.", "")}),
        ([], {}),
    ],
)
def test_other_ways_to_say_it(trees, said, texts):
    (trees / TREE / "meta/episodes.jsonl").write_text(json.dumps({"episode_index": 0, "tasks": said}))
    if said == []:
        (trees / TREE / "meta/tasks.jsonl").unlink()
    assert read(trees, scan(trees)[2]).texts == texts


def test_axes_swapped_are_noticed(trees):
    """Planted: a world with y up instead of z, and a mount that is the camera's inverse."""
    raw = read(trees, scan(trees)[2])
    turned = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]]) @ raw.arrays["action"]
    spec = CarriedCamera(kind="carried_camera", poses="p", mount="m", ahead="y", evidence="-", status="from_code")
    with pytest.raises(EpisodeError, match="upright"):
        carried_camera(spec, {"p": turned, "m": writer.mount()})
    with pytest.raises(EpisodeError, match="upright"):
        carried_camera(spec, {"p": raw.arrays["action"], "m": np.linalg.inv(writer.mount())})
    heading = carried_camera(spec, {"p": raw.arrays["action"], "m": writer.mount()})["derived/carrier_heading"]
    np.testing.assert_allclose(heading, [1.0, 1.2, 1.4], atol=1e-5)


@pytest.mark.parametrize(
    ("poses", "mount", "reason"),
    [
        (np.zeros((2, 4, 4)), np.eye(4), "bad_rotation"),
        (np.eye(4), np.eye(4), "bad_shape"),
        (np.stack([np.eye(4)] * 2), np.stack([np.eye(4)] * 3), "bad_shape"),
        (np.full((2, 4, 4), np.nan), np.eye(4), "bad_value"),
    ],
)
def test_what_is_no_camera(poses, mount, reason):
    spec = CarriedCamera(kind="carried_camera", poses="p", mount="m", ahead="y", evidence="-", status="from_code")
    with pytest.raises(EpisodeError) as caught:
        carried_camera(spec, {"p": poses, "m": mount})
    assert caught.value.reason == reason


def test_detects_before_lerobot_does(trees, data):
    scene = SourceRoot(trees / SCENE)
    ours = get_format("interndata_n1").detect(scene, None)
    other = get_format("lerobot").detect(scene, None)
    assert ours.layout == "interndata_n1"
    assert other is None or ours.confidence > other.confidence
    for place in ("robot/lerobot_v21_g1", "navigation"):
        assert get_format("interndata_n1").detect(SourceRoot(data / place), None) is None


def test_a_neighbour_changes_neither_name_nor_digest(trees):
    few = {ref.upstream_id: read(trees, ref).raw_digest for ref in scan(trees)}
    writer.write_episode(trees / SCENE, 7, 2, 0.0, named=True)
    more = {ref.upstream_id: read(trees, ref).raw_digest for ref in scan(trees)}
    assert few.items() < more.items()


def _columns(trees, change):
    table = pq.read_table(trees / PARQUET)
    columns = {name: table[name] for name in table.column_names} | change
    pq.write_table(pa.table({name: value for name, value in columns.items() if value is not None}), trees / PARQUET)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"action": None}, "missing_key"),
        ({"action": pa.array(["a"] * 3)}, "bad_type"),
        ({"action": pa.array([[1.0] * 15] * 3)}, "bad_shape"),
        ({"action": pa.array([[1.0] * 16, [1.0] * 16, [1.0]])}, "ragged_column"),
        ({"action": pa.array([[1.0] * 16, [1.0] * 16, None])}, "null_values"),
        ({"action": pa.array([[float("nan")] * 16] * 3)}, "bad_value"),
    ],
)
def test_columns_that_do_not_fit(trees, change, reason):
    _columns(trees, change)
    with pytest.raises(BadInput) as caught:
        read(trees, scan(trees)[2])
    assert caught.value.reason == reason


def test_a_flat_action_is_the_same(trees):
    before = read(trees, scan(trees)[2])
    flat = before.arrays["action"].reshape(3, 16).tolist()
    _columns(trees, {"action": pa.array(flat, pa.list_(pa.float32())), "note": pa.array(["x"] * 3)})
    after = read(trees, scan(trees)[2])
    np.testing.assert_array_equal(after.arrays["action"], before.arrays["action"])
    assert after.raw_digest == before.raw_digest
    assert after.attributes["unread"] == ["note", "observation.images.depth"]


def test_pictures_that_are_missing(trees):
    folder = trees / SCENE / "videos/chunk-000/observation.images.rgb"
    (folder / "episode_000000_000.jpg").unlink()
    for path in folder.glob("episode_000001_*"):
        path.unlink()
    found = scan(trees)
    assert reasons(found) == [(f"{SCENE}/episode_00000{k}", "missing_media") for k in (0, 1)]
    (trees / TREE / "videos/chunk-000/observation.images.rgb/2.jpg").unlink()
    with pytest.raises(BadInput) as caught:
        read(trees, next(entry for entry in scan(trees) if isinstance(entry, EpisodeRef)))
    assert caught.value.reason == "frame_count_mismatch"


def test_other_trees_are_passed_over_and_broken_ones_told(trees):
    info = trees / TREE / "meta/info.json"
    info.write_text(json.dumps({"features": {"action": {"shape": [7]}}}))
    assert len(names(scan(trees))) == 2
    damaged = {"action": {"shape": [4, 5]}, "observation.camera_extrinsic": {"shape": [4, 4]}}
    info.write_text(json.dumps({"features": damaged}))
    assert reasons(scan(trees)) == [(f"{TREE}/meta/info.json", "bad_shape")]
    info.write_text("{")
    assert reasons(scan(trees)) == [(f"{TREE}/meta/info.json", "json_invalid")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"episode_index": 0}\n' * 2, "duplicate_episode"),
        ("[]\n", "bad_type"),
        ('{"episode_index": 0, "tasks": "x"}', "bad_type"),
        ('{"episode_index": 0, "tasks": [7]}', "bad_type"),
        ('{"episode_index": 0, "tasks": [{"sub_instruction": "x"}]}', "missing_key"),
        ('{"episode_index": 0, "tasks": [{"sub_instruction": "x", "sub_indexes": [0, 3]}]}', "bad_value"),
        ('{"episode_index": 0, "tasks": [{"sub_instruction": "x", "sub_indexes": [2, 1]}]}', "bad_value"),
        ('{"episode_index": 0, "tasks": [{"sum_instruction": 7}]}', "bad_type"),
        ("{", "json_invalid"),
    ],
)
def test_episode_lists_that_are_none(trees, text, reason):
    (trees / TREE / "meta/episodes.jsonl").write_text(text)
    with pytest.raises(BadInput) as caught:
        read(trees, scan(trees)[2])
    assert caught.value.reason == reason


class TestVlnCe:
    @pytest.fixture
    def tree(self, tmp_path):
        return writer.write_interndata_ce(tmp_path)

    def test_a_walk_between_cameras(self, tree):
        """Half a metre ahead, then turning left by 0.2 rad a row, in a world with y up that nobody tells."""
        (ref,) = scan(tree)
        raw = read(tree, ref)
        assert get_format("interndata_n1").detect(SourceRoot(tree), None).layout == "interndata_n1_ce"
        assert raw.arrays["action"].reshape(-1).tolist() == [-1, 1, 1]
        assert raw.arrays["goal.125cm_30deg"].tolist() == [[230, 372], [-1, -1], [-1, -1]]
        assert raw.attributes["instructions"] == ["Go past the sofa.", "Walk by the couch."]
        assert set(raw.media) == {f"observation.images.rgb.125cm_{tilt}deg" for tilt in (0, 30)}
        assert raw.attributes["unread"] == [f"observation.images.depth.125cm_{tilt}deg" for tilt in (0, 30)]
        episode = convert(raw, Conversion.load("interndata_n1_ce"))
        one = [0.5, 0, 0]
        two = [0.5 + 0.5 * np.cos(0.2), 0.5 * np.sin(0.2), 0]
        np.testing.assert_allclose(episode.state.values[:, :3], [[0, 0, 0], one, two], atol=1e-5)
        np.testing.assert_allclose(episode.state.values[:, 3], [0, 0.2, 0.4], atol=1e-5)
        assert episode.action.values[:, -1].tolist() == [0, 0, 1]
        assert [view.name for view in episode.views] == ["front", "front_down"]

    def test_other_axes_of_the_camera_walk_backwards(self, tree):
        raw = read(tree, scan(tree)[0])
        spec = Conversion.load("interndata_n1_ce").converter.derive[0]
        turned = raw.arrays["pose.125cm_30deg"] @ np.diag([1.0, -1, -1, 1])
        with pytest.raises(EpisodeError, match="backwards"):
            carried_camera(spec, {spec.poses: turned})

    def test_cameras_are_chosen(self, tree):
        (ref,) = scan(tree, cameras=["125cm_0deg"])
        raw = read(tree, ref)
        assert list(raw.media) == ["observation.images.rgb.125cm_0deg"]
        assert "observation.images.rgb.125cm_30deg" in raw.attributes["unread"]
        assert reasons(scan(tree, cameras=["125cm_0deg", "60cm_15deg"])) == [
            ("r2r/sceneC/episode_000000", "missing_media")
        ]

    def test_a_pose_of_another_shape(self, tree):
        path = tree / "r2r/sceneC/data/chunk-000/episode_000000.parquet"
        table = pq.read_table(path).set_column(1, "pose.125cm_0deg", pa.array([[1.0] * 12] * 3))
        pq.write_table(table, path)
        with pytest.raises(BadInput) as caught:
            read(tree, scan(tree)[0])
        assert caught.value.reason == "bad_shape"

    @pytest.mark.parametrize("change", [{"mount": "m"}, {"tilt_deg": None}, {"ahead": "y"}, {"axes": None}])
    def test_a_mount_is_told_once(self, change):
        spec = Conversion.load("interndata_n1_ce").converter.derive[0]
        with pytest.raises(ValueError, match=r"mount|ahead"):
            CarriedCamera.model_validate(spec.model_dump() | change)


class TestVlnPe:
    @pytest.fixture
    def tree(self, tmp_path):
        return writer.write_interndata_pe(tmp_path)

    def test_a_robot_s_walk(self, tree):
        """The same walk; its info.json speaks of VLN-N1's columns and of 30 Hz, its rows are six a second."""
        assert get_format("interndata_n1").detect(SourceRoot(tree), None).layout == "interndata_n1_pe"
        raw = read(tree, scan(tree)[0])
        assert raw.texts["instruction"] == ("Leave the room.",)
        assert raw.attributes == {
            "instructions": ["Leave the room.", "Go out.", "Walk to the hall."],
            "finish_status": "success",
            "fps": 30,
            "unread": ["observation.images.depth"],
        }
        episode = convert(raw, Conversion.load("interndata_n1_pe"))
        two = [0.5 + 0.5 * np.cos(0.2), 0.5 * np.sin(0.2), 0]
        np.testing.assert_allclose(episode.state.values[:, :3], [[0, 0, 0], [0.5, 0, 0], two], atol=1e-5)
        np.testing.assert_allclose(episode.state.values[:, 3], [0, 0.2, 0.4], atol=1e-5)
        np.testing.assert_allclose(np.diff(episode.times_ns) / 1e9, 1 / 6, atol=1e-6)
        assert raw.media["observation.images.rgb"].frames == 3

    def test_raw_pixels_may_be_kept_as_jpeg(self, tree):
        (ref,) = scan(tree, pictures="jpeg")
        assert read(tree, ref).media["observation.images.rgb"].codec == "jpeg"
        assert read(tree, ref).raw_digest == read(tree, scan(tree)[0]).raw_digest

    @pytest.mark.parametrize(
        ("stack", "reason"),
        [
            (np.zeros((2, 8, 8, 3), np.uint8), "frame_count_mismatch"),
            (np.zeros((3, 8, 8), np.uint8), "bad_shape"),
            (np.zeros((3, 8, 8, 3), np.float32), "bad_shape"),
            (np.array([None] * 3), "object_dtype"),
        ],
    )
    def test_stacks_that_are_none(self, tree, stack, reason):
        np.save(tree / "r2r_aliengo/sceneP/videos/chunk-000/observation.images.rgb/episode_000000.npy", stack)
        with pytest.raises(BadInput) as caught:
            read(tree, scan(tree)[0])
        assert caught.value.reason == reason

    def test_a_converter_reads_its_own_part(self, tree):
        writer.write_interndata(tree)
        writer.write_interndata_ce(tree)
        for name, count in (("interndata_n1", 3), ("interndata_n1_ce", 1), ("interndata_n1_pe", 1)):
            options = {key: v for key, v in Conversion.load(name).converter.format.options.items() if key == "part"}
            found = scan(tree, **options)
            assert len(names(found)) == count
            assert {reason for _, reason in reasons(found)} == {"other_part"}
        with pytest.raises(SpecError, match="n1, ce or pe"):
            scan(tree, part="xx")
