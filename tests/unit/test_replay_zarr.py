"""Replay buffers: values as the zarr library reads them, and every claim of a store that is not believed."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile

import numpy as np
import pytest
import zarr
from numcodecs import LZ4, Blosc, GZip, Zlib, Zstd
from scipy.spatial.transform import Rotation

from dataengine import images
from dataengine.convert import Conversion, convert
from dataengine.errors import BadInput, SpecError
from dataengine.fixtures.replay_writer import SIDE, fill, pusht_episode, umi_episode, write_pusht, write_umi
from dataengine.formats import archive_zip
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.schema import unified
from dataengine.storage import SourceRoot

FORMAT = get_format("replay_zarr")
STORE = "pusht_cchi_v7_replay.zarr"


@pytest.fixture
def pusht(tmp_path):
    write_pusht(tmp_path)
    return tmp_path


def scan(folder, only=None, **options):
    return list(FORMAT.scan(SourceRoot(folder), only, options))


def read(folder, number=0, **options):
    refs = scan(folder, **options)
    assert all(isinstance(ref, EpisodeRef) for ref in refs), refs
    return FORMAT.read(SourceRoot(folder), refs[number])


def reason(folder):
    """The reason of the first problem, found while scanning or reading the first episode."""
    (first, *_) = scan(folder)
    if isinstance(first, ScanProblem):
        return first.reason
    with pytest.raises(BadInput) as caught:
        FORMAT.read(SourceRoot(folder), first)
    return caught.value.reason


def edit(folder, name, **values):
    path = folder / STORE / name / ".zarray"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def shown(media):
    return np.stack([images.decode(media.image(index)) for index in range(media.frames)])


def slot(array, name):
    found = unified().slot(name)
    places = array.columns(found.start, found.start + found.width)
    return array.values[:, places], array.mask[:, places]


# ---- what is read


def test_values_are_those_the_zarr_library_reads(pusht):
    whole = zarr.open_group(str(pusht / STORE), mode="r")["data"]
    raw = read(pusht, 1)
    assert raw.upstream_id == f"{STORE}#episode_1"
    for name, array in raw.arrays.items():
        np.testing.assert_array_equal(array, whole[name][6:15])
        assert array.dtype == whole[name].dtype
    np.testing.assert_array_equal(shown(raw.media["img"]), whole["img"][6:15])
    assert [file.path for file in raw.files if file.path.endswith("data/action/1.0")]
    assert not [file.path for file in read(pusht).files if file.path.endswith("data/action/1.0")]


def test_jpeg_xl_pictures_of_an_archive(tmp_path):
    write_umi(tmp_path)
    raw = read(tmp_path, 1)
    wanted = umi_episode(9, 1)
    np.testing.assert_array_equal(shown(raw.media["camera0_rgb"]), wanted.pop("camera0_rgb"))
    for name, values in wanted.items():
        np.testing.assert_array_equal(raw.arrays[name], values)
    assert read(tmp_path, 1, pictures="jpeg").media["camera0_rgb"].codec == "jpeg"
    assert read(tmp_path, 1, pictures="jpeg").raw_digest == raw.raw_digest
    with pytest.raises(SpecError):
        scan(tmp_path, pictures="gif")


@pytest.mark.parametrize(
    "codec", [None, Zlib(5), GZip(5), Zstd(3), LZ4(), Blosc("lz4", 5, Blosc.NOSHUFFLE), Blosc("zlib", 5, Blosc.SHUFFLE)]
)
def test_every_codec_gives_the_same_episode(tmp_path, codec):
    fill(str(tmp_path / "a.zarr"), [pusht_episode(5, 0)], {"": codec})
    raw = read(tmp_path)
    for name, values in pusht_episode(5, 0).items():
        if name != "img":
            np.testing.assert_array_equal(raw.arrays[name], values)
    (tmp_path / "b").mkdir()
    fill(str(tmp_path / "b/a.zarr"), [pusht_episode(5, 0)], {"": None})
    assert read(tmp_path / "b").raw_digest == raw.raw_digest


@pytest.mark.parametrize("codec", [None, "blosc", "zstd", "gzip"])
def test_version_3(tmp_path, codec):
    made = {"blosc": zarr.codecs.BloscCodec(), "zstd": zarr.codecs.ZstdCodec(), "gzip": zarr.codecs.GzipCodec()}
    fill(str(tmp_path / "a.zarr"), [pusht_episode(5, 0), pusht_episode(4, 1)], {"": made.get(codec)}, version=3)
    raw = read(tmp_path, 1)
    np.testing.assert_array_equal(raw.arrays["state"], pusht_episode(4, 1)["state"])
    assert FORMAT.detect(SourceRoot(tmp_path), None).layout == "diffusion_policy_zarr"


def test_chunks_across_episodes_and_columns(tmp_path):
    values = np.arange(15 * 4, dtype=np.int32).reshape(15, 4)
    for order in "CF":
        root = zarr.open_group(str(tmp_path / f"{order}.zarr"), mode="w", zarr_format=2)
        made = root.create_array("data/x", shape=(15, 4), chunks=(4, 3), dtype="<i4", order=order, compressors=None)
        made[:] = values
        root.create_array("meta/episode_ends", data=np.array([3, 9, 15]))
    refs = scan(tmp_path)
    assert len(refs) == 6
    for number, (start, stop) in enumerate([(0, 3), (3, 9), (9, 15)] * 2):
        np.testing.assert_array_equal(FORMAT.read(SourceRoot(tmp_path), refs[number]).arrays["x"], values[start:stop])


def test_a_zip_of_a_folder_is_the_same_data(pusht):
    with zipfile.ZipFile(pusht / "pusht.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((pusht / STORE).rglob("*")):
            if path.is_file():
                archive.write(path, f"pusht/{path.relative_to(pusht)}")
    refs = scan(pusht, "pusht.zip")
    assert [ref.upstream_id for ref in refs] == [f"pusht.zip/pusht/{STORE}#episode_{k}" for k in (0, 1)]
    assert [ref.files for ref in refs] == [("pusht.zip",)] * 2
    assert FORMAT.read(SourceRoot(pusht), refs[1]).raw_digest == read(pusht, 1).raw_digest
    assert len(scan(pusht)) == 4


def test_depth_and_other_metadata_are_named(pusht):
    root = zarr.open_group(str(pusht / STORE), mode="a", zarr_format=2)
    root["data"].create_array("camera_depth", data=np.ones((15, 4, 4), np.uint16))
    root["data"].create_array("both_rgb", data=np.ones((15, 2, 4, 4, 3), np.uint8))
    root["meta"].create_array("task", data=np.ones(2))
    assert read(pusht).attributes["unread"] == ["data/both_rgb", "data/camera_depth", "meta/task"]


@pytest.mark.parametrize("version", [2, 3])
def test_groups_that_are_not_read_are_named(tmp_path, version):
    store = zarr.create_group(str(tmp_path / STORE), zarr_format=version)
    data, meta = store.create_group("data"), store.create_group("meta")
    data.create_array("state", data=np.arange(6.0).reshape(3, 2), chunks=(3, 2))
    data.create_group("obs").create_array("deep", data=np.arange(3.0))
    meta.create_array("episode_ends", data=np.array([3]))
    meta.create_group("more")
    raw = read(tmp_path)
    assert list(raw.arrays) == ["state"]
    assert raw.attributes["unread"] == ["data/obs", "meta/more"]


def test_a_missing_chunk_says_what_to_do(tmp_path):
    store = zarr.create_group(str(tmp_path / STORE), zarr_format=3)
    store.create_group("data").create_array("state", data=np.zeros((3, 2)), chunks=(3, 2))
    store.create_group("meta").create_array("episode_ends", data=np.array([3]))
    (ref,) = scan(tmp_path)
    with pytest.raises(BadInput, match="missing_chunks: fill") as caught:
        FORMAT.read(SourceRoot(tmp_path), ref)
    assert caught.value.reason == "missing_chunk"


@pytest.mark.parametrize(
    ("dtype", "fill"), [("float32", 0.0), ("float64", np.nan), ("int16", -7), ("bool", False), ("uint8", 0)]
)
def test_chunks_that_zarr_3_left_out_are_filled_where_the_converter_vouches(tmp_path, dtype, fill):
    store = zarr.create_group(str(tmp_path / STORE), zarr_format=3)
    values = np.full((6, 2), fill, dtype)
    values[0] = 1
    made = store.create_group("data").create_array("state", shape=(6, 2), chunks=(2, 2), dtype=dtype, fill_value=fill)
    made[:] = values
    store.create_group("meta").create_array("episode_ends", data=np.array([3, 6]))
    assert reason(tmp_path) == "missing_chunk"
    first, second = FORMAT.scan(SourceRoot(tmp_path), None, {"missing_chunks": "fill"})
    raws = [FORMAT.read(SourceRoot(tmp_path), ref) for ref in (first, second)]
    assert np.array_equal(np.concatenate([raw.arrays["state"] for raw in raws]), values, equal_nan=dtype[0] == "f")
    assert [raw.attributes["filled"] for raw in raws] == [
        ["data/state/c/1/0"],
        ["data/state/c/1/0", "data/state/c/2/0"],
    ]
    with pytest.raises(SpecError):
        list(FORMAT.scan(SourceRoot(tmp_path), None, {"missing_chunks": "zero"}))


def test_a_neighbour_changes_nothing(tmp_path):
    write_pusht(tmp_path, (6, 9))
    before = read(tmp_path).raw_digest
    shutil.rmtree(tmp_path / STORE)
    write_pusht(tmp_path, (6, 9, 3))
    assert read(tmp_path).raw_digest == before


# ---- converters


def test_umi_acts_by_what_the_next_row_measured(tmp_path):
    write_umi(tmp_path)
    episode = convert(read(tmp_path), Conversion.load("umi_cup"))
    state, _ = slot(episode.state, "eef_pos.right")
    action, known = slot(episode.action, "eef_pos.right")
    kept = known.all(axis=1)
    assert kept[:5].all()
    np.testing.assert_allclose(action[:5], state[1:6])
    np.testing.assert_allclose(state[3], [0.03, 0.2, 0.07], atol=1e-6)
    turned, _ = slot(episode.state, "eef_rot6d.right")
    wanted = Rotation.from_rotvec([0.1, 0.0, 0.06]).as_matrix()
    np.testing.assert_allclose(turned[3], wanted[:, :2].T.ravel(), atol=1e-6)
    gripper, _ = slot(episode.state, "gripper.right")
    np.testing.assert_allclose(gripper[:, 0], (0.08 - 0.002 * np.arange(len(gripper))) / 0.09, atol=1e-6)


def test_pusht_keeps_its_pixels(pusht):
    episode = convert(read(pusht), Conversion.load("diffusion_policy_pusht"))
    np.testing.assert_allclose(episode.state.values[2], [120, 210])
    np.testing.assert_allclose(episode.action.values[2], [140, 230])
    assert episode.hz == 10.0


# ---- what is refused


def test_floats_that_are_no_bytes_are_refused(tmp_path):
    for value in (0.5, 256.0, -1.0, np.nan):
        made = pusht_episode(3, 0)
        made["img"][1, 2, 2, 0] = value
        fill(str(tmp_path / "a.zarr"), [made], {"": None})
        assert reason(tmp_path) == "bad_value"


def test_a_missing_chunk_is_no_fill_value(pusht):
    (pusht / STORE / "data/state/0.0").unlink()
    assert zarr.open_group(str(pusht / STORE), mode="r")["data/state"][0].tolist() == [0] * 5
    assert reason(pusht) == "missing_chunk"


@pytest.mark.parametrize(
    ("name", "change", "wanted"),
    [
        ("data/state", {"compressor": {"id": "pickle"}}, "unsupported_codec"),
        ("data/state", {"compressor": {"id": "imagecodecs_tiff"}}, "unsupported_codec"),
        ("data/state", {"compressor": {"id": "imagecodecs_jpegxl"}}, "unsupported_codec"),
        ("data/state", {"compressor": {"name": "blosc"}}, "bad_type"),
        ("data/state", {"filters": [{"id": "pickle"}]}, "unsupported_codec"),
        ("data/state", {"dtype": "|O", "filters": None}, "object_dtype"),
        ("data/state", {"dtype": [["a", "<f4"]]}, "unsupported_dtype"),
        ("data/state", {"dtype": "<f4096"}, "unsupported_dtype"),
        ("data/state", {"zarr_format": 1}, "bad_value"),
        ("data/state", {"order": "A"}, "bad_value"),
        ("data/state", {"chunks": [0, 5]}, "bad_shape"),
        ("data/state", {"chunks": [5]}, "bad_shape"),
        ("data/state", {"chunks": [1 << 30, 5]}, "claimed_size"),
        ("data/state", {"shape": [15, 1 << 40]}, "claimed_size"),
        ("data/state", {"shape": [15, 1 << 30], "chunks": [1, 1 << 12]}, "claimed_size"),
        ("data/state", {"shape": [16, 5]}, "length_mismatch"),
        ("data/state", {"shape": [15, 6]}, "missing_chunk"),
        ("data/state", {"chunks": [7, 5]}, "corrupt_chunk"),
        ("data/state", {"dtype": "<f8"}, "corrupt_chunk"),
        ("meta/episode_ends", {"shape": [0]}, "empty_file"),
        ("meta/episode_ends", {"shape": [1 << 40]}, "claimed_size"),
        ("meta/episode_ends", {"dtype": "<f8"}, "bad_type"),
        ("meta/episode_ends", {"shape": [1, 2], "chunks": [1, 3]}, "bad_type"),
    ],
)
def test_claims_are_checked(pusht, name, change, wanted):
    edit(pusht, name, **change)
    assert reason(pusht) == wanted


@pytest.mark.parametrize(
    ("ends", "wanted"),
    [([9, 6], "bad_value"), ([-3, 15], "bad_value"), ([6, 14], "length_mismatch"), ([6, 99], "length_mismatch")],
)
def test_ends_that_do_not_fit_are_refused(pusht, ends, wanted):
    zarr.open_group(str(pusht / STORE), mode="a", zarr_format=2)["meta/episode_ends"][:] = ends
    assert reason(pusht) == wanted


def test_an_episode_without_rows_is_told_alone(pusht):
    zarr.open_group(str(pusht / STORE), mode="a", zarr_format=2)["meta/episode_ends"][:] = [15, 15]
    first, second = scan(pusht)
    assert isinstance(first, EpisodeRef)
    assert (second.upstream_id, second.reason) == (f"{STORE}#episode_1", "empty_episode")


@pytest.mark.parametrize("codec", [Blosc(), Zstd(), LZ4(), Zlib(), GZip()])
def test_a_chunk_that_unpacks_to_more_is_refused_before_it_does(tmp_path, codec):
    fill(str(tmp_path / "a.zarr"), [pusht_episode(5, 0)], {"": codec})
    (tmp_path / "a.zarr/data/state/0.0").write_bytes(bytes(codec.encode(np.zeros(1 << 24, np.uint8))))
    assert reason(tmp_path) == "corrupt_chunk"
    (tmp_path / "a.zarr/data/state/0.0").write_bytes(b"\x02\x01")
    assert reason(tmp_path) == "corrupt_chunk"


def test_a_jpeg_xl_of_another_size_is_refused(tmp_path):
    from imagecodecs import jpegxl_encode

    write_umi(tmp_path)
    with zipfile.ZipFile(tmp_path / "dataset.zarr.zip") as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    for picture in (np.zeros((SIDE, SIDE + 1, 3), np.uint8), np.zeros((SIDE, SIDE), np.uint8)):
        members["data/camera0_rgb/2.0.0.0"] = jpegxl_encode(picture)
        with zipfile.ZipFile(tmp_path / "dataset.zarr.zip", "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        assert reason(tmp_path) == "corrupt_chunk"


def test_sharding_is_refused(tmp_path):
    root = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=3)
    root.create_array("data/x", shape=(8, 2), chunks=(2, 2), shards=(4, 2), dtype="f4")[:] = 1
    root.create_array("meta/episode_ends", data=np.array([8]))
    assert reason(tmp_path) == "unsupported_codec"


# ---- archives


def archive(path, *members, **kind):
    with zipfile.ZipFile(path, "w", **kind) as made:
        for name, data in members:
            made.writestr(name, data)


def first_member(folder):
    root = SourceRoot(folder)
    return archive_zip.zip_bytes(root, "a.zip", next(iter(archive_zip.zip_members(root, "a.zip").values())))


def zip_reason(folder):
    with pytest.raises(BadInput) as caught:
        first_member(folder)
    return caught.value.reason


def test_archives_that_are_not_what_they_seem(tmp_path):
    path = tmp_path / "a.zip"
    for name in ("../x", "/x", "a/../../x", "a\\x"):
        archive(path, (name, b"x"))
        assert zip_reason(tmp_path) == "path_outside_root"
    archive(path, ("bomb", bytes(64 << 20)), compression=zipfile.ZIP_DEFLATED)
    assert zip_reason(tmp_path) == "zip_bomb"
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    archive(path, (link, b"/etc/passwd"))
    assert zip_reason(tmp_path) == "link_in_archive"
    with pytest.warns(UserWarning, match="Duplicate"):
        archive(path, ("x", b"1"), ("x", b"2"))
    assert zip_reason(tmp_path) == "duplicate_name"
    with pytest.warns(UserWarning, match="Duplicate"):
        archive(path, ("x", b"same"), ("x", b"same"))
    assert first_member(tmp_path) == b"same"
    archive(path, ("x", b"1"), compression=zipfile.ZIP_BZIP2)
    assert zip_reason(tmp_path) == "unreadable_file"
    path.write_bytes(b"")
    assert zip_reason(tmp_path) == "empty_file"
    path.write_bytes(b"no archive")
    assert zip_reason(tmp_path) == "unreadable_file"
    assert [(entry.unit, entry.reason) for entry in scan(tmp_path, "a.zip")] == [("file", "unreadable_file")]
    assert scan(tmp_path) == []


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_is_what_its_checksum_says(tmp_path, compression):
    data = b"the content of a member " * 4
    archive(tmp_path / "a.zip", ("x", data), compression=compression)
    root = SourceRoot(tmp_path)
    member = archive_zip.zip_members(root, "a.zip")["x"]
    assert archive_zip.zip_bytes(root, "a.zip", member) == data
    whole = bytearray((tmp_path / "a.zip").read_bytes())
    whole[35] ^= 4
    (tmp_path / "a.zip").write_bytes(whole)
    assert zip_reason(tmp_path) == "unreadable_file"


def test_an_archive_without_a_buffer(tmp_path):
    archive(tmp_path / "a.zip", ("x", b"1"))
    assert [(entry.unit, entry.reason) for entry in scan(tmp_path, "a.zip")] == [("file", "missing_key")]
    assert FORMAT.detect(SourceRoot(tmp_path), "a.zip") is None


def test_without_imagecodecs_the_extra_is_named(tmp_path, monkeypatch):
    write_umi(tmp_path)
    (first, *_) = scan(tmp_path)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(SpecError) as caught:
        FORMAT.read(SourceRoot(tmp_path), first)
    assert caught.value.fix == "pip install 'dataengine[umi]'"
