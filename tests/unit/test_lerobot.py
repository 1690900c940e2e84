"""The `lerobot` format against lying metadata, damaged files and odd columns, on layout fixtures."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataengine import images
from dataengine.convert import Conversion, convert
from dataengine.episode import Episode, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.fixtures.lerobot_writer import FixtureEpisode, numbered_frames, write_lerobot
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.formats.lerobot_meta import PathTemplate
from dataengine.specs.converter import load_converter
from dataengine.storage import SourceRoot

CAMERA = "observation.image"
LENGTHS = (17, 25, 9)
DATA_V30 = "data/chunk-000/file-000.parquet"
LISTING = "meta/episodes/chunk-000/file-000.parquet"
CLIP_V30 = f"videos/{CAMERA}/chunk-000/file-000.mp4"


def data_v21(episode: int) -> str:
    return f"data/chunk-000/episode_{episode:06d}.parquet"


def clip_v21(episode: int) -> str:
    return f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4"


def fixture_episodes(lengths: tuple[int, ...] = LENGTHS, *, filmed: bool = True) -> list[FixtureEpisode]:
    found, start = [], 0
    for number, rows in enumerate(lengths):
        values = (np.arange(rows * 2, dtype=np.float32).reshape(rows, 2) + 2 * start) / 8
        frames = numbered_frames(start, rows) if filmed else ()
        found.append(FixtureEpisode(values, values + 1, f"task {number % 2}", frames))
        start += rows
    return found


@pytest.fixture(params=["v2.1", "v3.0"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    write_lerobot(tmp_path, fixture_episodes(), 20, version=request.param, video_key=CAMERA, robot_type="pusht")
    return tmp_path


@pytest.fixture
def v21(tmp_path: Path) -> Path:
    write_lerobot(tmp_path, fixture_episodes(), 20, version="v2.1", video_key=CAMERA, robot_type="pusht")
    return tmp_path


@pytest.fixture
def v30(tmp_path: Path) -> Path:
    write_lerobot(tmp_path, fixture_episodes(), 20, video_key=CAMERA, robot_type="pusht")
    return tmp_path


def scanned(root: Path, **options: Any) -> list[EpisodeRef | ScanProblem]:
    return list(get_format("lerobot").scan(SourceRoot(root), None, options))


def problems(root: Path, **options: Any) -> list[tuple[str, str]]:
    return [(entry.upstream_id, entry.reason) for entry in scanned(root, **options) if isinstance(entry, ScanProblem)]


def read(root: Path, episode: int, **options: Any) -> RawEpisode:
    for entry in scanned(root, **options):
        if isinstance(entry, EpisodeRef) and entry.upstream_id == f"episode_{episode:06d}":
            return get_format("lerobot").read(SourceRoot(root), entry)
    raise AssertionError(f"episode {episode} has no ref")


def converted(root: Path, episode: int) -> Episode:
    return convert(read(root, episode), Conversion.of(load_converter("pusht_lerobot")))


def reason(action: Callable[[], Any]) -> str:
    with pytest.raises(BadInput) as caught:
        action()
    return caught.value.reason


def edit_info(root: Path, **change: Any) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def edit_table(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    table = change(pq.read_table(path))
    pq.write_table(table, path)


def replaced(name: str, values: Any) -> Callable[[pa.Table], pa.Table]:
    """Put `values` in the place of a column, or add it."""

    def change(table: pa.Table) -> pa.Table:
        column = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
        at = table.schema.get_field_index(name)
        return table.append_column(name, column) if at < 0 else table.set_column(at, name, column)

    return change


# --- what metadata declares ------------------------------------------------------------------------------------


def test_missing_episodes_are_told_and_a_subset_is_declared(v21: Path) -> None:
    (v21 / data_v21(1)).unlink()
    assert problems(v21) == [("episode_000001", "missing_file")]
    assert [entry.upstream_id for entry in scanned(v21, subset=True)] == ["episode_000000", "episode_000002"]
    for episode in (0, 2):
        (v21 / data_v21(episode)).unlink()
    assert reason(lambda: scanned(v21, subset=True)) == "missing_file"


def test_a_missing_shared_file_is_told_for_every_episode(v30: Path) -> None:
    (v30 / DATA_V30).unlink()
    assert problems(v30) == [(f"episode_{episode:06d}", "missing_file") for episode in range(3)]


def test_undeclared_files_are_told(both: Path) -> None:
    extra = both / ("data/chunk-000/file-001.parquet" if (both / DATA_V30).exists() else data_v21(7))
    extra.write_bytes(b"PAR1")
    assert problems(both, subset=True) == [(extra.relative_to(both).as_posix(), "undeclared_file")]


def test_wrong_totals_are_told(both: Path) -> None:
    edit_info(both, total_episodes=4)
    assert problems(both) == [("meta/info.json", "count_mismatch")]
    assert problems(both, subset=True) == []


def test_an_episode_declared_twice_is_dropped_whole(both: Path) -> None:
    lines = both / "meta/episodes.jsonl"
    if lines.exists():
        lines.write_text(lines.read_text() + lines.read_text().splitlines()[1])
    else:
        edit_table(both / LISTING, lambda table: pa.concat_tables([table, table.slice(1, 1)]))
    assert problems(both, subset=True) == [("episode_000001", "duplicate_episode")] * 2


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "json_invalid"),
        ('{"episode_index": 3, "length": NaN}', "json_nan"),
        ('{"episode_index": -3, "length": 4}', "missing_key"),
        ('{"episode_index": 3}', "missing_key"),
        ("[]", "missing_key"),
    ],
)
def test_a_bad_line_costs_one_episode(v21: Path, line: str, why: str) -> None:
    path = v21 / "meta/episodes.jsonl"
    path.write_text(line + "\n" + path.read_text())
    assert problems(v21, subset=True) == [("meta/episodes.jsonl:1", why)]
    assert read(v21, 2, subset=True).arrays["action"].shape == (9, 2)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("../../etc/{episode_index:06d}", "path_outside_root"),
        ("/etc/{episode_index:06d}", "path_outside_root"),
        ("", "path_outside_root"),
        ("data/{episode_index.__class__}", "bad_path_template"),
        ("data/{0}/{episode_index:06d}", "bad_path_template"),
        ("data/{episode_index!r}", "bad_path_template"),
        ("data/{episode_index:>99999999}", "bad_path_template"),
        ("data/{video_key:06d}", "bad_path_template"),
        ("data/**/{episode_index:06d}", "bad_path_template"),
        ("data/{episode_index:06d}\0", "bad_path_template"),
        ("data/%s{{episode_index:06d}}", "bad_path_template"),
    ],
)
def test_hostile_templates_open_nothing(both: Path, template: str, why: str) -> None:
    edit_info(both, data_path=template)
    assert reason(lambda: scanned(both)) == why
    edit_info(both, data_path="data/a.parquet", video_path=template)
    assert reason(lambda: scanned(both)) == why


@pytest.mark.parametrize(("key", "why"), [("../../x", "bad_path_template"), ("..", "path_outside_root")])
def test_hostile_camera_names_open_nothing(v21: Path, key: str, why: str) -> None:
    info = json.loads((v21 / "meta/info.json").read_text())
    edit_info(v21, features=info["features"] | {key: info["features"][CAMERA]})
    assert reason(lambda: scanned(v21)) == why


def test_a_template_is_filled_by_whitelist() -> None:
    template = PathTemplate("videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4")
    assert (
        template.fill({"episode_chunk": 2, "episode_index": 2041}, "a.b") == "videos/chunk-002/a.b/episode_002041.mp4"
    )
    assert template.glob() == "videos/chunk-*/*/episode_*.mp4"
    assert reason(lambda: template.fill({"file_index": 1})) == "bad_path_template"


def test_a_link_out_of_the_folder_is_a_problem(v21: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.mp4"
    outside.write_bytes((v21 / clip_v21(1)).read_bytes())
    (v21 / clip_v21(1)).unlink()
    (v21 / clip_v21(1)).symlink_to(outside)
    assert problems(v21, subset=True) == [("episode_000001", "path_outside_root")]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"codebase_version": None}, "missing_key"),
        ({"codebase_version": "v1.6"}, "unsupported_version"),
        ({"fps": 0}, "bad_rate"),
        ({"fps": True}, "bad_rate"),
        ({"features": {}}, "missing_key"),
        ({"features": {"action": {"dtype": "float32", "shape": [-1]}}}, "json_invalid"),
        ({"features": {"action": {"dtype": "float32", "shape": [2], "names": [10**30]}}}, "json_invalid"),
        ({"features": {"action": {"dtype": "float32", "shape": [2], "names": ["\ud800"]}}}, "json_invalid"),
        ({"chunks_size": 0}, "json_invalid"),
        ({"data_path": None}, "missing_key"),
        ({"data_path": 7}, "json_invalid"),
    ],
)
def test_an_impossible_info_is_refused(v21: Path, change: Mapping[str, Any], why: str) -> None:
    edit_info(v21, **change)
    assert reason(lambda: scanned(v21)) == why


def test_wrong_options_are_named(v21: Path) -> None:
    with pytest.raises(SpecError, match="episodes"):
        scanned(v21, episodes=[1])
    with pytest.raises(SpecError):
        scanned(v21, subset="yes")


def test_paths_that_info_gets_wrong_can_be_given(v21: Path) -> None:
    (v21 / "videos").rename(v21 / "video")
    assert read(v21, 0).media == {}
    assert read(v21, 0).attributes["absent_media"] == [CAMERA]
    assert reason(lambda: converted(v21, 0)) == "missing_stream"
    given = "video/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    assert read(v21, 0, video_path=given).media[CAMERA].frames == 17


def test_a_lerobot_like_folder_is_detected_but_not_read(data: Path) -> None:
    root = SourceRoot(data / "robot/lerobot_broken_omx")
    found = get_format("lerobot").detect(root, None)
    assert found is not None
    assert found.confidence < 0.5
    assert "codebase_version" in found.evidence[0]
    assert reason(lambda: scanned(root.path)) == "missing_key"


def test_detection_survives_bad_json(v21: Path) -> None:
    lerobot, root = get_format("lerobot"), SourceRoot(v21)
    assert lerobot.detect(root, "README.md") is None
    for text, least in (("{", 0.2), ("[]", 0.2), ('{"codebase_version": "v2.1"}', 0.5)):
        (v21 / "meta/info.json").write_text(text)
        found = lerobot.detect(root, None)
        assert found is not None
        assert found.confidence == least


def test_a_single_file_is_no_data_set(v21: Path) -> None:
    root = SourceRoot(v21)
    assert reason(lambda: list(get_format("lerobot").scan(root, data_v21(0), {}))) == "not_a_folder"


# --- rows ------------------------------------------------------------------------------------------------------


def test_rows_texts_and_attributes(both: Path) -> None:
    raw = read(both, 1)
    expected = fixture_episodes()[1]
    np.testing.assert_array_equal(raw.arrays["observation.state"], expected.state)
    np.testing.assert_array_equal(raw.arrays["action"], expected.action)
    assert raw.arrays["action"].dtype == np.float32
    assert raw.arrays["index"].tolist() == list(range(17, 42))
    assert raw.texts["task"] == ("task 1",) * 25
    about = raw.attributes["info"]
    assert about["fps"] == 20.0
    assert about["features"]["action"] == {"dtype": "float32", "shape": [2], "names": ["motor_0", "motor_1"]}
    assert "total_frames" not in json.dumps(raw.attributes)


def test_identity_does_not_depend_on_neighbours(both: Path) -> None:
    before = [read(both, episode).raw_digest for episode in (0, 1)]
    if (both / LISTING).exists():
        edit_table(both / LISTING, lambda table: table.slice(0, 2))
        edit_table(both / DATA_V30, lambda table: table.slice(0, 42))
    else:
        lines = (both / "meta/episodes.jsonl").read_text().splitlines(keepends=True)
        (both / "meta/episodes.jsonl").write_text("".join(lines[:2]))
        (both / data_v21(2)).unlink()
    edit_info(both, total_episodes=2, total_frames=42, splits={"train": "0:2"})
    assert problems(both) == []
    assert [read(both, episode).raw_digest for episode in (0, 1)] == before


def test_identity_depends_on_what_an_episode_says(both: Path) -> None:
    before = read(both, 0).raw_digest
    info = json.loads((both / "meta/info.json").read_text())
    renamed = info["features"]["action"] | {"names": ["y", "x"]}
    edit_info(both, features=info["features"] | {"action": renamed})
    assert read(both, 0).raw_digest != before
    edit_info(both, features=info["features"])
    assert read(both, 0).raw_digest == before


def test_only_the_row_groups_of_the_episode_are_read(v30: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []
    original = pq.ParquetFile.read_row_groups

    def spy(self: pq.ParquetFile, groups: list[int], *args: Any, **options: Any) -> pa.Table:
        if "action" in self.schema_arrow.names and options["columns"] is None:
            asked.append(groups)
        return original(self, groups, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", spy)
    read(v30, 1)
    assert asked == [[1]]
    edit_table(v30 / DATA_V30, lambda table: table)  # one row group for all
    np.testing.assert_array_equal(read(v30, 1).arrays["action"], fixture_episodes()[1].action)
    assert asked == [[1], [0]]


def test_nan_stays(both: Path) -> None:
    path = both / (DATA_V30 if (both / DATA_V30).exists() else data_v21(0))
    flat = np.concatenate([episode.action for episode in fixture_episodes()]).reshape(-1)
    flat = flat[: 2 * pq.read_metadata(path).num_rows].copy()
    flat[5] = np.nan
    edit_table(path, replaced("action", pa.FixedSizeListArray.from_arrays(pa.array(flat), 2)))
    episode = converted(both, 0)
    assert episode.action is not None
    assert np.argwhere(np.isnan(episode.action.values)).tolist() == [[2, 1]]
    assert episode.action.mask.all()


def _vectors(rows: list[Any]) -> pa.Array:
    return pa.array(rows, pa.list_(pa.float32()))


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("action", _vectors([[1.0, 2.0]] * 8 + [[1.0]]), "ragged_column"),
        ("action", _vectors([[1.0, 2.0]] * 8 + [None]), "null_values"),
        ("action", _vectors([[1.0, 2.0]] * 8 + [[None, 1.0]]), "null_values"),
        ("action", _vectors([[1.0, 2.0, 3.0]] * 9), "wrong_dimension"),
        ("action", pa.array([1.0] * 9), "wrong_dimension"),
        ("timestamp", pa.array([None] + [1.0] * 8), "null_values"),
        ("frame_index", [0, 1, 2, 3, 4, 6, 7, 8, 9], "rows_out_of_order"),
        ("frame_index", [0, 2, 1, 3, 4, 5, 6, 7, 8], "rows_out_of_order"),
        ("task_index", [5] * 9, "missing_task"),
        ("episode_index", [2] * 8 + [3], "wrong_episode"),
        ("episode_index", [1] * 9, "wrong_episode"),
        ("episode_index", ["2"] * 9, "bad_dtype"),
        ("task", ["words"] * 9, "name_conflict"),
        (CAMERA, [{"bytes": images.encode(np.zeros((8, 8, 3), np.uint8))}] * 9, "name_conflict"),
    ],
)
def test_odd_columns_are_refused(v21: Path, name: str, values: Any, why: str) -> None:
    edit_table(v21 / data_v21(2), replaced(name, values))
    assert reason(lambda: read(v21, 2)) == why
    assert read(v21, 1).arrays["action"].shape == (25, 2)


def test_scattered_rows_are_refused(v30: Path) -> None:
    edit_table(v30 / DATA_V30, replaced("episode_index", [0] * 16 + [1] + [0] + [1] * 24 + [2] * 9))
    assert reason(lambda: read(v30, 0)) == "rows_out_of_order"
    assert reason(lambda: read(v30, 1)) == "rows_out_of_order"
    assert read(v30, 2).arrays["action"].shape == (9, 2)


def test_matrices_strings_and_other_columns(v21: Path) -> None:
    poses = np.arange(9 * 16, dtype=np.float64).reshape(9, 4, 4)
    path = v21 / data_v21(2)
    edit_table(path, replaced("pose", pa.array(poses.tolist(), pa.list_(pa.list_(pa.float64())))))
    edit_table(path, replaced("done", [False] * 8 + [True]))
    edit_table(path, replaced("note", [f"step {row}" for row in range(9)]))
    edit_table(path, replaced("when", pa.array([0] * 9, pa.timestamp("ns"))))
    raw = read(v21, 2)
    np.testing.assert_array_equal(raw.arrays["pose"], poses)
    assert raw.arrays["done"].tolist() == [False] * 8 + [True]
    assert raw.texts["note"][8] == "step 8"
    assert raw.attributes["skipped_columns"] == ["when"]


def test_a_missing_column_is_told_where_it_is_needed(both: Path) -> None:
    path = both / (DATA_V30 if (both / DATA_V30).exists() else data_v21(0))
    edit_table(path, lambda table: table.drop_columns(["action"]))
    assert "action" not in read(both, 0).arrays
    assert reason(lambda: converted(both, 0)) == "missing_stream"


def test_a_shared_file_needs_its_episode_index(v30: Path) -> None:
    edit_table(v30 / DATA_V30, lambda table: table.drop_columns(["episode_index"]))
    assert reason(lambda: read(v30, 0)) == "missing_key"


def test_a_file_of_its_own_needs_no_index_columns(v21: Path) -> None:
    edit_table(v21 / data_v21(0), lambda table: table.drop_columns(["episode_index", "frame_index", "index"]))
    np.testing.assert_array_equal(read(v21, 0).arrays["action"], fixture_episodes()[0].action)


def test_lengths_are_compared(both: Path) -> None:
    if (both / LISTING).exists():
        edit_table(both / LISTING, replaced("length", [17, 24, 9]))
    else:
        edit_table(both / data_v21(1), lambda table: table.slice(0, 24))
    assert reason(lambda: read(both, 1)) == "length_mismatch"
    assert read(both, 0).arrays["action"].shape == (17, 2)


def test_an_empty_episode_is_refused(both: Path) -> None:
    if (both / LISTING).exists():
        edit_table(both / LISTING, replaced("length", [17, 25, 0]))
        edit_table(both / DATA_V30, lambda table: table.slice(0, 42))
    else:
        lines = (both / "meta/episodes.jsonl").read_text()
        (both / "meta/episodes.jsonl").write_text(lines.replace('"length": 9', '"length": 0'))
        edit_table(both / data_v21(2), lambda table: table.slice(0, 0))
    assert reason(lambda: read(both, 2)) == "empty_episode"


@pytest.mark.parametrize(("keep", "why"), [(0, "empty_file"), (0.5, "unreadable_file"), (0.99, "unreadable_file")])
def test_truncated_parquet(both: Path, keep: float, why: str) -> None:
    path = both / (DATA_V30 if (both / DATA_V30).exists() else data_v21(0))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    assert reason(lambda: read(both, 0)) == why


def test_flips_in_a_footer_never_end_the_process(v30: Path) -> None:
    """pyarrow aborts, and does not raise, when some damaged metadata is asked for: the reader never asks for it."""
    data = (v30 / DATA_V30).read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    chance = random.Random(3)
    told = set()
    for _ in range(250):
        damaged = bytearray(data)
        damaged[chance.randrange(footer, len(data) - 8)] ^= 1 << chance.randrange(8)
        (v30 / DATA_V30).write_bytes(damaged)
        try:
            read(v30, 1)
        except BadInput as error:
            told.add(error.reason)
    assert "unreadable_file" in told


@pytest.mark.parametrize("name", ["meta/tasks.parquet", LISTING])
def test_truncated_metadata(v30: Path, name: str) -> None:
    (v30 / name).write_bytes((v30 / name).read_bytes()[:-20])
    assert reason(lambda: read(v30, 0)) == "unreadable_file"


@pytest.mark.parametrize(
    ("text", "why"),
    [('{"task_index": 0, "task": "\\ud800"}', "json_invalid"), ("{}", "json_invalid"), ("", "empty_file")],
)
def test_bad_task_texts(v21: Path, text: str, why: str) -> None:
    (v21 / "meta/tasks.jsonl").write_text(text)
    assert reason(lambda: read(v21, 0)) == why


def test_tasks_that_the_listing_does_not_give(both: Path) -> None:
    assert set(read(both, 1).texts["task"]) == {"task 1"}
    listing = both / "meta/episodes.jsonl"
    if listing.exists():
        rows = [json.loads(line) for line in listing.read_text().splitlines()]
        rows[1]["tasks"], rows[0]["tasks"] = ["another"], ["more", *rows[0]["tasks"]]
        listing.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path = next(both.glob("meta/episodes/*/*.parquet"))
        tasks = pq.read_table(path)["tasks"].to_pylist()
        tasks[1], tasks[0] = ["another"], ["more", *tasks[0]]
        edit_table(path, replaced("tasks", pa.array(tasks, pa.list_(pa.string()))))
    assert reason(lambda: read(both, 1)) == "task_mismatch"
    assert set(read(both, 0).texts["task"]) == {"task 0"}


def test_two_texts_for_one_task(v21: Path) -> None:
    with (v21 / "meta/tasks.jsonl").open("a") as file:
        file.write('{"task_index": 1, "task": "other"}\n')
    assert reason(lambda: read(v21, 0)) == "duplicate_task"


def test_task_texts_in_an_unnamed_pandas_index(v30: Path) -> None:
    edit_table(v30 / "meta/tasks.parquet", lambda table: table.rename_columns(["task_index", "__index_level_0__"]))
    assert set(read(v30, 1).texts["task"]) == {"task 1"}
    edit_table(v30 / "meta/tasks.parquet", lambda table: table.rename_columns(["task_index", "words"]))
    assert reason(lambda: read(v30, 1)) == "missing_key"


# --- images in the parquet file --------------------------------------------------------------------------------


def _pictures(sizes: list[int]) -> list[Any]:
    return [
        {"bytes": images.encode(np.full((size, 8, 3), row * 9, np.uint8), "png"), "path": f"{row}.png"}
        for row, size in enumerate(sizes)
    ]


def test_embedded_images_keep_their_bytes(v21: Path) -> None:
    pictures = _pictures([8] * 9)
    edit_table(v21 / data_v21(2), replaced("observation.images.wrist", pictures))
    media = read(v21, 2).media["observation.images.wrist"]
    assert (media.kind, media.codec, media.frames, media.height, media.width) == ("images", "png", 9, 8, 8)
    assert [media.image(row) for row in range(9)] == [picture["bytes"] for picture in pictures]


@pytest.mark.parametrize(
    ("pictures", "why"),
    [
        (_pictures([8] * 8 + [9]), "mixed_images"),
        ([*_pictures([8] * 8), {"bytes": None, "path": "/etc/passwd"}], "missing_media"),
        ([*_pictures([8] * 8), {"bytes": b"GIF89a", "path": None}], "unsupported_image"),
    ],
)
def test_bad_embedded_images(v21: Path, pictures: list[Any], why: str) -> None:
    edit_table(v21 / data_v21(2), replaced("observation.images.wrist", pictures))
    assert reason(lambda: read(v21, 2)) == why


def test_bad_input_keeps_its_kind(v21: Path) -> None:
    """A file that cannot be read is a `FormatError`, an episode that cannot be used an `EpisodeError`."""
    edit_table(v21 / data_v21(0), replaced("task_index", [5] * 17))
    with pytest.raises(EpisodeError):
        read(v21, 0)
    (v21 / data_v21(1)).write_bytes(b"PAR1")
    with pytest.raises(FormatError):
        read(v21, 1)
