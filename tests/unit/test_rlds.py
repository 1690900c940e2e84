"""Bad input and corners of the `rlds` format, on layout fixtures."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine import images
from dataengine.convert import Conversion, convert
from dataengine.episode import RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.fixtures.rlds_writer import RldsEpisode, encode_example, encode_feature, frame, write_rlds
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.formats.rlds_features import assemble, leaves
from dataengine.formats.tfrecord import MAX_RECORD_BYTES, masked_crc, parse_example
from dataengine.specs.converter import load_converter
from dataengine.storage import SourceRoot

ROWS = 4
FILE = "toy/1.0.0/toy-train.tfrecord-00000-of-00001"


def picture(value: int, size: tuple[int, int] = (8, 8)) -> bytes:
    return images.encode(np.full((*size, 3), value, np.uint8))


def bridge(number: int, **changes: Any) -> RldsEpisode:
    """An episode with Bridge's features."""
    values = np.linspace(0, 0.3, ROWS * 7, dtype=np.float32).reshape(ROWS, 7) + number / 100
    steps = {
        "action": values,
        "observation/state": values + 0.1,
        **{f"observation/image_{k}": [picture(20 * k + row) for row in range(ROWS)] for k in range(4)},
        "language_instruction": [f"task {number}"] * ROWS,
    }
    return RldsEpisode(steps | changes, {"file_path": f"clip {number}", "episode_id": number, "has_image_0": False})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three episodes in one file."""
    write_rlds(tmp_path, "toy", {"train": [bridge(k) for k in range(3)]})
    return tmp_path


def scan(folder: Path, **options: Any) -> list[EpisodeRef | ScanProblem]:
    return list(get_format("rlds").scan(SourceRoot(folder), None, options))


def found(folder: Path, **options: Any) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Ids of the refs, and (unit, id, reason) of the problems."""
    entries = scan(folder, **options)
    refs = [entry.upstream_id for entry in entries if isinstance(entry, EpisodeRef)]
    problems = [(e.unit, e.upstream_id, e.reason) for e in entries if isinstance(e, ScanProblem)]
    return refs, problems


def read(folder: Path, number: int = 0) -> RawEpisode:
    ref = scan(folder)[number]
    assert isinstance(ref, EpisodeRef)
    return get_format("rlds").read(SourceRoot(folder), ref)


def reason(folder: Path, number: int = 0) -> str:
    with pytest.raises(BadInput) as error:
        read(folder, number)
    assert isinstance(error.value, EpisodeError)
    return error.value.reason


def offset(folder: Path, number: int) -> int:
    ref = scan(folder)[number]
    assert isinstance(ref, EpisodeRef)
    return int(ref.locator["offset"])


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)


def rewrite(folder: Path, **info: Any) -> None:
    path = folder / "toy/1.0.0/dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | info))


def split(name: str, *lengths: int) -> dict[str, Any]:
    return {"name": name, "shardLengths": [str(length) for length in lengths]}


def test_an_episode(folder: Path) -> None:
    raw = read(folder, 1)
    assert raw.upstream_id == "train-00000#1"
    np.testing.assert_array_equal(raw.arrays["steps/action"], bridge(1).steps["action"])
    assert raw.arrays["steps/action"].dtype == np.float32
    assert raw.arrays["steps/is_first"].tolist() == [True, False, False, False]
    assert raw.arrays["steps/is_last"].dtype == np.bool_
    media = raw.media["steps/observation/image_2"]
    assert [media.image(row) for row in range(ROWS)] == bridge(1).steps["observation/image_2"]
    assert raw.texts == {"steps/language_instruction": ("task 1",) * ROWS}
    assert raw.attributes == {"episode_metadata": {"file_path": "clip 1", "episode_id": 1, "has_image_0": False}}
    assert [file.path for file in raw.files] == [FILE, "toy/1.0.0/features.json"]


def test_a_neighbour_changes_no_digest(folder: Path, tmp_path: Path) -> None:
    write_rlds(tmp_path / "more", "toy", {"train": [bridge(k) for k in range(9)]})
    assert read(folder, 2).raw_digest == read(tmp_path / "more", 2).raw_digest
    assert read(folder, 2).raw_digest != read(folder, 1).raw_digest


def test_the_structure_is_part_of_the_digest(folder: Path) -> None:
    before = read(folder).raw_digest
    path = folder / "toy/1.0.0/features.json"
    path.write_text(path.read_text().replace('"dtype": "int64"', '"dtype": "int32"'))
    assert read(folder).raw_digest != before


def test_several_shards_and_splits(tmp_path: Path) -> None:
    write_rlds(tmp_path, "toy", {"train": [bridge(k) for k in range(5)], "val": [bridge(8), bridge(9)]}, shards=2)
    refs, problems = found(tmp_path)
    train = ["train-00000#0", "train-00000#1", "train-00001#0", "train-00001#1", "train-00001#2"]
    assert (refs, problems) == ([*train, "val-00000#0", "val-00001#0"], [])
    assert found(tmp_path, splits=["val"])[0] == ["val-00000#0", "val-00001#0"]
    assert read(tmp_path, 4).texts["steps/language_instruction"][0] == "task 4"


def test_one_file_by_itself(folder: Path) -> None:
    place = folder / "toy/1.0.0"
    rlds, root = get_format("rlds"), SourceRoot(place)
    name = Path(FILE).name
    assert rlds.detect(root, name) is not None
    assert rlds.detect(root, "features.json") is None
    refs = list(rlds.scan(root, name, {}))
    assert [entry.upstream_id for entry in refs] == [f"train-00000#{k}" for k in range(3)]


def test_a_record_that_is_cut(folder: Path) -> None:
    path, start = folder / FILE, offset(folder, 2)
    path.write_bytes(path.read_bytes()[: start + 100])
    assert found(folder) == (
        ["train-00000#0", "train-00000#1"],
        [("episode", "train-00000#2", "truncated")],
    )
    assert "record 2" in scan(folder)[-1].what  # type: ignore[union-attr]
    assert read(folder, 1).texts["steps/language_instruction"][0] == "task 1"


def test_a_record_that_is_cut_in_its_header_without_declared_lengths(folder: Path) -> None:
    path, start = folder / FILE, offset(folder, 1)
    (folder / "toy/1.0.0/dataset_info.json").unlink()
    path.write_bytes(path.read_bytes()[: start + 5])
    assert found(folder) == (["train-00000#0"], [("episode", "train-00000#1", "truncated")])


def test_a_file_that_ends_between_records(folder: Path) -> None:
    path, start = folder / FILE, offset(folder, 1)
    path.write_bytes(path.read_bytes()[:start])
    lost = [("episode", f"train-00000#{k}", "truncated") for k in (1, 2)]
    assert found(folder) == (["train-00000#0"], lost)


def test_an_absurd_count_is_one_problem(folder: Path) -> None:
    rewrite(folder, splits=[split("train", 10**15)])
    refs, problems = found(folder)
    assert len(refs) == 3
    assert problems == [("file", FILE, "count_mismatch")]


def test_more_records_than_declared(folder: Path) -> None:
    rewrite(folder, splits=[split("train", 2)])
    assert found(folder) == ([f"train-00000#{k}" for k in range(3)], [("file", FILE, "count_mismatch")])


def test_a_split_without_a_file(folder: Path) -> None:
    rewrite(folder, splits=[split("train", 3), split("val", 3)])
    refs, problems = found(folder)
    assert len(refs) == 3
    assert problems == [("file", "toy/1.0.0/*-val.tfrecord-*", "missing_file")]
    assert found(folder, splits=["train"])[1] == []
    detection = get_format("rlds").detect(SourceRoot(folder), None)
    assert detection is not None
    assert detection.options == {"splits": ["train"]}
    assert found(folder, splits=["test"]) == ([], [("file", "toy/1.0.0/*-test.tfrecord-*", "missing_file")])


def test_a_shard_that_is_missing(tmp_path: Path) -> None:
    place = write_rlds(tmp_path, "toy", {"train": [bridge(k) for k in range(4)]}, shards=2)
    (place / "toy-train.tfrecord-00000-of-00002").unlink()
    refs, problems = found(tmp_path)
    assert refs == ["train-00001#0", "train-00001#1"]
    assert problems == [("file", "toy/1.0.0/*-train.tfrecord-00000-of-00002", "missing_file")]


def test_a_count_of_shards_that_the_names_contradict(folder: Path) -> None:
    rewrite(folder, splits=[split("train", 3, 3)])
    refs, problems = found(folder)
    assert len(refs) == 3
    assert problems == [("file", "toy/1.0.0/dataset_info.json", "count_mismatch")]


def test_a_flipped_bit_costs_one_episode(folder: Path) -> None:
    flip(folder / FILE, offset(folder, 1) + 500)
    assert found(folder)[1] == []
    assert reason(folder, 1) == "crc_mismatch"
    assert read(folder, 0).upstream_id == "train-00000#0"
    assert read(folder, 2).upstream_id == "train-00000#2"


@pytest.mark.parametrize("declared", [True, False])
def test_a_flipped_bit_in_a_length_costs_the_rest(folder: Path, declared: bool) -> None:
    flip(folder / FILE, offset(folder, 1))
    if not declared:
        (folder / "toy/1.0.0/dataset_info.json").unlink()
    refs, problems = found(folder)
    assert refs == ["train-00000#0"]
    rest = [("episode", f"train-00000#{k}", "crc_mismatch") for k in (1, 2)]
    assert problems == (rest if declared else [("file", FILE, "crc_mismatch")])


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, MAX_RECORD_BYTES + 1])
def test_an_impossible_length_is_refused(folder: Path, length: int) -> None:
    header = struct.pack("<Q", length)
    (folder / FILE).write_bytes(header + struct.pack("<I", masked_crc(header)) + b"x" * 64)
    refs, problems = found(folder)
    assert refs == []
    assert {entry[2] for entry in problems} == {"record_too_large"}


def test_an_empty_file(folder: Path) -> None:
    (folder / FILE).write_bytes(b"")
    assert found(folder) == ([], [("episode", f"train-00000#{k}", "empty_file") for k in range(3)])


def test_a_file_that_changed_since_the_scan(folder: Path) -> None:
    ref = scan(folder)[0]
    assert isinstance(ref, EpisodeRef)
    (folder / FILE).write_bytes(frame(b"something else"))
    with pytest.raises(EpisodeError) as error:
        get_format("rlds").read(SourceRoot(folder), ref)
    assert error.value.reason == "changed_during_read"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"action": np.zeros((3, 7), np.float32)}, "length_mismatch"),
        ({"action": np.zeros(ROWS * 7 - 1, np.float32)}, "length_mismatch"),
        ({"action": np.zeros((ROWS, 7), np.int64)}, "bad_dtype"),
        ({"is_first": np.array([2, 0, 0, 0])}, "value_out_of_range"),
        ({"observation/image_1": [picture(1)] * 3 + [picture(1, (16, 8))]}, "mixed_image_size"),
        ({"observation/image_1": [picture(1)] * 3 + [b"\xff\xd8\xff cut"]}, "corrupt_image"),
        ({"observation/image_1": [b"GIF89a"] * ROWS}, "unsupported_image"),
        ({"language_instruction": [b"\xff\xfe"] * ROWS}, "invalid_utf8"),
        ({"observation/image_1": [picture(1)] * 3}, "length_mismatch"),
    ],
)
def test_an_episode_that_contradicts_its_structure(folder: Path, changes: Mapping[str, Any], code: str) -> None:
    broken = RldsEpisode(bridge(1).steps | changes, bridge(1).metadata)
    place = write_rlds(folder / "broken", "toy", {"train": [bridge(0), broken]})
    assert place.is_dir()
    assert reason(folder / "broken", 1) == code
    assert read(folder / "broken", 0).upstream_id == "train-00000#0"


def test_an_episode_without_steps(tmp_path: Path) -> None:
    empty = {key: column[:0] for key, column in bridge(0).columns().items()}
    write_rlds(tmp_path, "toy", {"train": [bridge(0), RldsEpisode(empty, bridge(0).metadata)]})
    assert reason(tmp_path, 1) == "empty_episode"


def test_a_feature_that_is_missing(folder: Path) -> None:
    path = folder / "toy/1.0.0/features.json"
    path.write_text(path.read_text().replace('"action"', '"acton"'))
    assert reason(folder) == "missing_key"


def test_nan_goes_through(tmp_path: Path) -> None:
    action = np.array(bridge(0).steps["action"])
    action[2, 0] = action[1, 4] = np.nan
    write_rlds(tmp_path, "toy", {"train": [bridge(0, action=action)]})
    episode = convert(read(tmp_path), Conversion.of(load_converter("bridge_octo")))
    assert episode.action is not None
    found = np.argwhere(np.isnan(episode.action.values)).tolist()
    assert found == [[1, 4], [1, 5], [1, 6], [2, 1]]  # a turn with one unknown angle is unknown as a whole
    assert episode.action.mask.all()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "json_invalid"),
        ("[]", "bad_features"),
        ('{"featuresDict": {}}', "bad_features"),
        ('{"featuresDict": {"features": {"image": {"image": {}}}}}', "missing_key"),
    ],
)
def test_features_that_are_none(folder: Path, text: str, code: str) -> None:
    (folder / "toy/1.0.0/features.json").write_text(text)
    assert get_format("rlds").detect(SourceRoot(folder), None) is None
    with pytest.raises(FormatError) as error:
        scan(folder)
    assert error.value.reason == code


@pytest.mark.parametrize(
    ("info", "code"),
    [
        ({"fileFormat": "riegeli"}, "unsupported_file_format"),
        ({"splits": [{"name": "train", "shardLengths": ["-1"]}]}, "bad_dataset_info"),
        ({"splits": [{"name": "train", "filepathTemplate": "{0.__class__}"}]}, "bad_dataset_info"),
        ({"splits": "train"}, "bad_dataset_info"),
    ],
)
def test_info_that_cannot_be_used_is_told(folder: Path, info: Mapping[str, Any], code: str) -> None:
    rewrite(folder, **info)
    refs, problems = found(folder)
    assert len(refs) == 3
    assert problems[0][2] == code


def test_two_data_sets_are_not_mixed(folder: Path) -> None:
    write_rlds(folder, "other", {"train": [bridge(0)]})
    with pytest.raises(FormatError) as error:
        scan(folder)
    assert error.value.reason == "several_datasets"


@pytest.mark.parametrize("options", [{"split": ["train"]}, {"splits": "train"}])
def test_wrong_options(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        scan(folder, **options)


def _field(number: int, wire: int, data: bytes) -> bytes:
    return bytes([number << 3 | wire, *([len(data)] if wire == 2 else [])]) + data


def test_numbers_that_are_not_packed() -> None:
    floats = b"".join(_field(1, 5, struct.pack("<f", value)) for value in (1.5, -2.0))
    mixed = _field(1, 0, b"\x05") + _field(1, 2, b"\x01\xac\x02") + _field(1, 0, b"\xff" * 9 + b"\x01")
    features = {"f": _field(2, 2, floats), "i": _field(3, 2, mixed), "none": b""}
    unknown = _field(7, 0, b"\x01") + _field(9, 1, b"12345678")
    parsed = parse_example(unknown + encode_example(features) + unknown)
    assert np.asarray(parsed["f"]).tolist() == [1.5, -2.0]
    assert np.asarray(parsed["i"]).tolist() == [5, 1, 300, -1]
    assert parsed["none"] == []


def test_integers_of_every_length() -> None:
    values = np.array([0, 127, 128, -1, 2**62, -(2**63), 2**63 - 1, 16384], np.int64)
    assert np.asarray(parse_example(encode_example({"i": encode_feature(values)}))["i"]).tolist() == values.tolist()


@pytest.mark.parametrize(
    "payload",
    [
        b"\x0a\x05ab",
        b"\x0a",
        b"\x0b\x00",
        b"\x08\x01",
        _field(1, 2, _field(1, 2, _field(1, 2, b"\xff") + _field(2, 2, b""))),
        _field(1, 2, _field(1, 2, _field(1, 2, b"x") + _field(2, 2, _field(2, 2, _field(1, 2, b"123"))))),
        _field(1, 2, _field(1, 2, _field(1, 2, b"x") + _field(2, 2, _field(3, 2, _field(1, 2, b"\x80"))))),
        _field(
            1, 2, _field(1, 2, _field(1, 2, b"x") + _field(2, 2, _field(3, 2, _field(1, 2, b"\xff" * 11 + b"\x01"))))
        ),
        _field(1, 2, _field(1, 2, _field(1, 2, b"x") + _field(2, 2, _field(1, 2, b"") + _field(2, 2, b"\x0a\x00")))),
    ],
)
def test_records_that_are_no_example(payload: bytes) -> None:
    with pytest.raises(EpisodeError) as error:
        parse_example(payload)
    assert error.value.reason == "corrupt_record"


def test_a_name_that_stands_twice() -> None:
    entry = encode_example({"x": encode_feature(np.array([1.0]))})
    with pytest.raises(EpisodeError) as error:
        parse_example(entry + entry)
    assert error.value.reason == "duplicate_key"


def _features(**step: Any) -> Any:
    inner = {"featuresDict": {"features": {"is_first": {"tensor": {"shape": {}, "dtype": "bool"}}, **step}}}
    return {"featuresDict": {"features": {"steps": {"sequence": {"feature": inner, "length": "-1"}}}}}


def test_what_has_no_rows_stays_flat() -> None:
    """Ragged features and undeclared names are kept as they lie, never cut into rows by a guess."""
    structure = leaves(
        _features(
            points={"sequence": {"feature": {"tensor": {"shape": {"dimensions": ["2"]}, "dtype": "float32"}}}},
            cloud={"tensor": {"shape": {"dimensions": ["-1", "3"]}, "dtype": "float32"}},
            sound={"audio": {}},
        ),
        "features.json",
    )
    values = {
        "steps/is_first": np.array([1, 0]),
        "steps/points/ragged_flat_values": np.arange(6, dtype=np.float32),
        "steps/points/ragged_row_lengths_0": np.array([1, 2]),
        "steps/cloud": np.arange(12, dtype=np.float32),
        "steps/sound": [memoryview(b"wave")],
    }
    content = assemble(values, structure)
    assert {name: array.shape for name, array in content.arrays.items()} == {
        "steps/is_first": (2,),
        "steps/points/ragged_flat_values": (6,),
        "steps/points/ragged_row_lengths_0": (2,),
        "steps/cloud": (12,),
    }
    assert content.unread == ["steps/sound"]


@pytest.mark.parametrize(("dtype", "pictures"), [("uint8", 1), (None, 1), ("uint16", 0), ("float32", 0)])
def test_depth_is_no_picture(dtype: str | None, pictures: int) -> None:
    """TFDS stores uint16 depth as PNG, and float32 in the four channels of one."""
    told = {"shape": {"dimensions": ["4", "6", "1"]}, "encodingFormat": "png", **({"dtype": dtype} if dtype else {})}
    png = images.encode(np.zeros((4, 6, 3), np.uint8), "png")
    values = {"steps/is_first": np.array([1, 0]), "steps/depth": [memoryview(png)] * 2}
    content = assemble(values, leaves(_features(depth={"image": told}), "features.json"))
    assert (len(content.media), content.unread) == (pictures, [] if pictures else ["steps/depth"])


def test_integers_keep_their_declared_width() -> None:
    structure = leaves(_features(code={"tensor": {"shape": {"dimensions": ["2"]}, "dtype": "uint8"}}), "features.json")
    values = {"steps/is_first": np.array([1, 0]), "steps/code": np.array([0, 255, 7, 8])}
    code = assemble(values, structure).arrays["steps/code"]
    assert (code.dtype, code.tolist()) == (np.uint8, [[0, 255], [7, 8]])
    with pytest.raises(EpisodeError) as error:
        assemble(values | {"steps/code": np.array([0, 256, 7, 8])}, structure)
    assert error.value.reason == "value_out_of_range"
