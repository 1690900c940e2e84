"""VITRA files that are not as they should be: a pickle that is a program runs nothing and is refused; the traps."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from dataengine import video
from dataengine.convert import Conversion, convert
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.formats.unpickle import read_object_npy
from dataengine.specs.converter import load_converter
from dataengine.storage import SourceRoot

ROWS = 4
NAME = "Made_up_ep_000000"
HEADER = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"


def hand(seen=1):
    """A hand that moves 1 cm a frame along x, its wrist unturned, its points 1 cm further along y each."""
    wrist = np.stack([0.1 + 0.01 * np.arange(ROWS), np.zeros(ROWS), np.full(ROWS, 0.5)], axis=1)
    joints = wrist[:, None] + np.stack([np.zeros(21), 0.01 * np.arange(21), np.zeros(21)], axis=1)
    eye = np.tile(np.eye(3), (ROWS, 1, 1))
    return {
        "beta": np.zeros(10),
        "global_orient_camspace": eye,
        "global_orient_worldspace": eye.copy(),
        "hand_pose": np.tile(np.eye(3), (ROWS, 15, 1, 1)),
        "transl_camspace": wrist.copy(),
        "transl_worldspace": wrist,
        "kept_frames": np.full(ROWS, seen),
        "joints_camspace": joints.astype(np.float32),
        "joints_worldspace": joints,
    }


def episode(first=0):
    return {
        "extrinsics": np.tile(np.eye(4), (ROWS, 1, 1)),
        "intrinsics": np.array([[100.0, 0, 32], [0, 100, 24], [0, 0, 1]]),
        "video_decode_frame": np.arange(first, first + ROWS),
        "video_name": "clip",
        "avg_speed": np.float64(0.01),
        "anno_type": "right",
        "text": {"right": [("Take the cup.", (0, np.int64(ROWS)))], "left": [("Hold.", (0, 0))]},
        "text_rephrase": {"right": [(["Pick up the cup"], (0, ROWS))], "left": []},
        "right": hand(),
        "left": hand(0),
    }


def write(folder: Path, made, name=NAME, frames=ROWS):
    np.save(folder / f"{name}.npy", np.array(made, dtype=object), allow_pickle=True)
    if frames:
        picture = [np.full((48, 64, 3), 25 * index, np.uint8) for index in range(frames)]
        (folder / "clip.mp4").write_bytes(video.encode(picture, 30))
    return folder


def scan(folder, options=None):
    return list(get_format("vitra").scan(SourceRoot(folder), None, options or {}))


def read(folder, options=None):
    (ref,) = scan(folder, options)
    assert isinstance(ref, EpisodeRef), ref
    return get_format("vitra").read(SourceRoot(folder), ref)


def reason(folder, options=None):
    with pytest.raises(BadInput) as caught:
        read(folder, options)
    return caught.value.reason


def pickled(value, protocol=4):
    """A file that holds `value` as the only entry of an object array, in any protocol."""
    stream = io.BytesIO()
    np.save(stream, np.array(None, dtype=object), allow_pickle=True)
    cell = np.empty((), object)
    cell[()] = value
    return HEADER + pickle.dumps(cell, protocol=protocol)


# ---- what is read


def test_reads_what_was_written(tmp_path):
    raw = read(write(tmp_path, episode()))
    assert raw.upstream_id == NAME
    assert raw.group == "clip"
    assert raw.texts == {"text/primary": ("Take the cup.",) * ROWS, "text/other": ("",) * ROWS}
    assert raw.arrays["right/joints_camspace"].dtype == np.float32
    assert raw.arrays["left/kept_frames"].tolist() == [0] * ROWS
    np.testing.assert_array_equal(raw.arrays["right/joints_worldspace"], hand()["joints_worldspace"])
    assert raw.arrays["frame_time_ns"].tolist() == [0, 33333333, 66666667, 100000000]
    assert raw.media["video"].frames == ROWS
    assert raw.attributes["intrinsics"]["size_wh"] == [64.0, 48.0]
    assert raw.attributes["avg_speed"] == 0.01
    assert [file.path for file in raw.files] == [f"{NAME}.npy", "clip.mp4"]


@pytest.mark.parametrize("protocol", [3, 4])
def test_what_numpy_writes_is_read_without_unpickling(protocol):
    value = {"a": np.arange(6, dtype=">i2").reshape(2, 3, order="F"), "b": {"c": np.float32(1.5), "d": [(1, "x")]}}
    found = read_object_npy(pickled(value, protocol), "x")
    np.testing.assert_array_equal(found["a"], value["a"])
    assert found["a"].dtype == np.dtype(">i2")
    assert found["b"] == {"c": 1.5, "d": [(1, "x")]}


def test_a_hidden_hand_is_masked_and_its_filler_is_not_used(tmp_path):
    made = episode()
    made["right"]["kept_frames"] = np.array([1, 1, 0, 1])
    made["right"]["global_orient_worldspace"][2] = 0.0  # no rotation at all, where nothing was seen
    found = convert(read(write(tmp_path, made)), Conversion.of(load_converter("vitra_ego4d")))
    wrist, tips = found.state.columns(7, 16), found.state.columns(39, 54)
    for columns in (wrist, tips):
        assert found.state.mask[:, columns].all(axis=1).tolist() == [True, True, False, True]
        assert found.action.mask[:, found.action.columns(7, 16)].all(axis=1).tolist() == [True, False, True, False]
    assert not found.state.mask[:, found.state.columns(71, 118)].any()
    # Thumb, index, middle, ring, little tip are joints 4, 8, 12, 16, 20; a point k lies k centimetres along y.
    expected = [0.01 * joint if axis == 1 else 0 for joint in (4, 8, 12, 16, 20) for axis in range(3)]
    np.testing.assert_allclose(found.state.values[0, tips], expected, atol=1e-7)
    assert [text.text for text in found.language] == ["Take the cup."]


def test_frames_are_counted_in_the_full_video(tmp_path):
    raw = read(write(tmp_path, episode(first=3), frames=9))
    shown = dict(video.frames(raw.media["video"], range(ROWS)))
    assert [int(shown[index].mean() / 25 + 0.5) for index in range(ROWS)] == [3, 4, 5, 6]
    assert raw.arrays["frame_time_ns"][0] == 0


def test_a_clip_is_not_taken_for_the_full_video(tmp_path):
    write(tmp_path, episode(first=100), frames=ROWS)
    assert reason(tmp_path) == "frame_count_mismatch"
    assert read(tmp_path, {"video": "clip"}).media["video"].frames == ROWS
    write(tmp_path, episode(first=100), frames=ROWS + 1)
    assert reason(tmp_path, {"video": "clip"}) == "frame_count_mismatch"


def test_metadata_alone(tmp_path):
    write(tmp_path, episode(), frames=0)
    assert reason(tmp_path) == "missing_media"
    raw = read(tmp_path, {"video": "none"})
    assert raw.media == {}
    assert "frame_time_ns" not in raw.arrays


def test_options_are_checked(tmp_path):
    for options in ({"video": "half"}, {"videos": []}, {"video_roots": "here"}):
        with pytest.raises(SpecError):
            scan(write(tmp_path, episode()), options)


def test_one_name_in_two_folders_and_other_npy_files(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, episode())
    np.save(tmp_path / "numbers.npy", np.arange(3))
    (tmp_path / "empty.npy").write_bytes(b"")
    found = {entry.upstream_id: entry.reason for entry in scan(tmp_path) if isinstance(entry, ScanProblem)}
    assert found == {
        f"b/{NAME}.npy": "duplicate_episode",
        "numbers.npy": "not_an_object",
        "empty.npy": "empty_file",
    }


# ---- what is refused


def without(key):
    def change(made):
        del made[key]

    return change


def put(key, value):
    def change(made):
        place = made
        *path, last = key.split("/")
        for part in path:
            place = place[part]
        place[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (without("extrinsics"), "missing_key"),
        (without("left"), "missing_key"),
        (without("video_name"), "missing_key"),
        (put("right", [1]), "bad_type"),
        (put("right/joints_worldspace", np.zeros((ROWS, 20, 3))), "bad_shape"),
        (put("right/joints_worldspace", np.zeros((ROWS + 1, 21, 3))), "bad_shape"),
        (put("right/hand_pose", "none"), "bad_type"),
        (put("right/kept_frames", np.full(ROWS, 2)), "bad_value"),
        (put("left/kept_frames", [1, 0, 1]), "bad_shape"),
        (put("extrinsics", np.zeros((0, 4, 4))), "empty_episode"),
        (put("extrinsics", np.zeros((ROWS, 3, 4))), "bad_shape"),
        (put("video_decode_frame", np.array([0, 1, 3, 4])), "bad_value"),
        (put("video_decode_frame", np.array([-1, 0, 1, 2])), "bad_value"),
        (put("video_decode_frame", [0, 1, 2, "3"]), "bad_type"),
        (put("video_name", "../clip"), "bad_value"),
        (put("video_name", 3), "bad_type"),
        (put("video_name", "other"), "missing_media"),
        (put("anno_type", "both"), "bad_value"),
        (put("text/right", [("a", (0, ROWS + 1))]), "bad_span"),
        (put("text/right", [("a", (3, 2))]), "bad_span"),
        (put("text/right", [("a", (0, 3)), ("b", (2, 4))]), "overlapping_text"),
        (put("text/right", [("a", 3)]), "bad_type"),
        (put("text/right", [("a\0b", (0, 1))]), "bad_text"),
        (put("text", None), "bad_type"),
        (put("intrinsics", np.array([[100.0, 0, 24], [0, 100, 32], [0, 0, 1]])), "aspect_mismatch"),
        (put("intrinsics", np.full((3, 3), np.nan)), "aspect_mismatch"),
    ],
)
def test_what_is_not_an_episode_has_a_reason(tmp_path, change, expected):
    made = episode()
    change(made)
    assert reason(write(tmp_path, made)) == expected


def test_extrinsics_that_are_no_rigid_motion(tmp_path):
    made = episode()
    made["extrinsics"][1, :3, :3] *= 2
    with pytest.raises(EpisodeError) as caught:
        convert(read(write(tmp_path, made)), Conversion.of(load_converter("vitra_ego4d")))
    assert caught.value.reason == "bad_rotation"


# ---- pickles that are programs


class Payload:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self._path = str(path)

    def __reduce__(self):
        return os.system, (f"touch {self._path}",)


class Stateful:
    def __setstate__(self, state):
        raise AssertionError("a state was set")

    def __getstate__(self):
        return {"a": 1}


def payloads(path):
    deep = {"right": {"beta": Payload(path)}}
    return {
        "a call": Payload(path),
        "a call deep inside": deep,
        "an object": Stateful(),
        "a class": Path,
        "a function": os.system,
        "a set": {1, 2},
        "complex": np.complex64(1),
        "object scalars": np.array([Payload(path)], dtype=object),
        "a path": Path("/"),
        "a structured array": np.zeros(2, [("a", "f4")]),
        "dates": np.zeros(2, "datetime64[s]"),
    }


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", list(payloads("")))
def test_a_program_is_refused_and_nothing_runs(tmp_path, name, protocol):
    mark = tmp_path / "ran"
    data = pickled(payloads(mark)[name], protocol)
    with pytest.raises(FormatError) as caught:
        read_object_npy(data, "x.npy")
    assert caught.value.reason in ("unsafe_pickle", "unreadable_file")
    if "call" in name or name in ("an object", "a class", "a function"):
        assert caught.value.reason == "unsafe_pickle"
    assert not mark.exists()


HAND_WRITTEN = {
    "a state for a name": b"\x80\x04cnumpy\nndarray\n}b.",
    "attributes of a name": b"\x80\x04cnumpy\nndarray\nN}\x8c\x01a\x8c\x01bs\x86b.",
    "a call of an array": b"\x80\x04cnumpy\nndarray\n)R.",
    "a new object": b"\x80\x04cnumpy\nndarray\n)\x81.",
    "builtins": b"\x80\x04cbuiltins\neval\n\x8c\x011\x85R.",
    "a name from the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "an extension": b"\x80\x04\x82\x01.",
    "a persistent name": b"\x80\x04\x8c\x01aQ.",
    "an instance": b"(ios\nsystem\n.",
    "a buffer": b"\x80\x05\x97.",
    "a name with spaces": b"\x80\x04cnumpy core\nndarray\n.",
}


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_hand_written_programs(name):
    with pytest.raises(FormatError) as caught:
        read_object_npy(HEADER + HAND_WRITTEN[name], "x")
    assert caught.value.reason == "unsafe_pickle"


def test_a_program_in_a_file_is_a_reason_of_the_ledger(tmp_path):
    (tmp_path / f"{NAME}.npy").write_bytes(pickled(Payload(tmp_path / "ran")))
    assert reason(tmp_path) == "unsafe_pickle"
    assert not (tmp_path / "ran").exists()


BOMBS = {
    "a memo at two billion": b"\x80\x04Nr\xff\xff\xff\x7f.",
    "bytes of eight TiB": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 43) + b"x.",
    "a bytearray of eight TiB": b"\x80\x05\x96" + struct.pack("<Q", 1 << 43) + b"x.",
    "a frame of eight TiB": b"\x80\x04\x95" + struct.pack("<Q", 1 << 43) + b"N.",
    "two million opcodes": b"\x80\x04" + b"N0" * (1 << 20) + b"N.",
    "lists of lists": b"\x80\x04]\x94" + b"".join(b"]\x94(" + b"h%c" % i * 50 + b"e" for i in range(200)) + b".",
}


TWICE = b"N" + b"q\x00h\x00\x86" * 200
"""A tuple of the one before, twice, two hundred times: whoever prints or compares it never ends."""
DEEP = b"N" + b"\x85" * 100_000
for told, nested in (("doubled", TWICE), ("deep", DEEP)):
    BOMBS |= {
        f"a {told} name": b"\x80\x04" + nested + b"\x8c\x01a\x93.",
        f"a {told} type": b"\x80\x04cnumpy\ndtype\n" + nested + b"\x85R.",
        f"a {told} shape": b"\x80\x04cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        b"(K\x01" + nested + b"\x85cnumpy\ndtype\n\x8c\x02f8\x85R\x89C\x00tb.",
        f"a {told} key": b"\x80\x04}" + nested + b"Ns.",
    }


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_neither_time_nor_memory(name):
    tracemalloc.start()
    with pytest.raises(FormatError):
        read_object_npy(HEADER + BOMBS[name], "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def test_a_dict_used_a_million_times_is_looked_into_once():
    inner = {str(k): k for k in range(30)}
    for _ in range(6):
        inner = {str(k): inner for k in range(30)}
    found = read_object_npy(pickled(inner), "x")
    assert found["3"]["4"] is found["5"]["4"]


def test_fields_that_never_end_are_not_printed(tmp_path):
    twice = None
    for _ in range(26):
        twice = (twice, twice)
    for field in ("anno_type", "video_name", "text", "right", "extrinsics", "video_decode_frame"):
        made = episode()
        made[field] = twice
        assert reason(write(tmp_path, made)) == "bad_type"
    for wrong in ([twice], [(twice, (0, 1))], [("a", twice)], [("a", (twice, 1))]):
        made = episode()
        made["text"]["right"] = wrong
        assert reason(write(tmp_path, made)) == "bad_type"


@pytest.mark.parametrize("cut", [0, 1, 6, 9, 60, 128, 129, 131, 200, 1000, -1])
def test_a_cut_file_has_a_reason(tmp_path, cut):
    whole = pickled(episode())
    with pytest.raises(FormatError) as caught:
        read_object_npy(whole[:cut], "x")
    assert caught.value.reason in ("truncated", "unreadable_file")
    if cut >= 129 or cut == -1:
        assert caught.value.reason == "truncated"


def test_flipped_bits_never_crash(tmp_path):
    """3,000 single-bit flips: values may change (the digest of the file says so), nothing else escapes."""
    whole, chance = bytearray(pickled(episode(), 3)), random.Random(5)
    reasons = set()
    for _ in range(3000):
        at, bit = chance.randrange(len(whole)), 1 << chance.randrange(8)
        whole[at] ^= bit
        try:
            read_object_npy(bytes(whole), "x")
        except FormatError as error:
            reasons.add(error.reason)
        whole[at] ^= bit
    assert reasons <= {"unsafe_pickle", "truncated", "unreadable_file", "not_an_object", "pickle_too_large"}
    assert {"unsafe_pickle", "unreadable_file"} <= reasons


def test_bytes_behind_the_end_are_refused():
    with pytest.raises(FormatError) as caught:
        read_object_npy(pickled({}) + b"N.", "x")
    assert caught.value.reason == "unreadable_file"


def test_a_seen_hand_with_a_number_that_is_none_is_a_reason(tmp_path):
    made = episode()
    made["right"]["joints_camspace"][2, 7, 1] = np.nan
    write(tmp_path, made)
    with pytest.raises(EpisodeError, match="right/joints_camspace of row 2 is not finite") as caught:
        read(tmp_path)
    assert caught.value.reason == "bad_value"


def test_fillers_of_a_hidden_hand_may_be_anything(tmp_path):
    made = episode()
    made["left"]["joints_worldspace"][:] = np.nan
    write(tmp_path, made)
    assert np.isnan(read(tmp_path).arrays["left/joints_worldspace"]).all()


def test_what_is_not_read_is_named(tmp_path):
    made = {**episode(), "depth": np.zeros(3)}
    made["left"]["wrist"] = np.zeros(3)
    write(tmp_path, made)
    assert read(tmp_path).attributes["unread"] == ["depth", "left/wrist"]
