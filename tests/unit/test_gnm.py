"""GNM's folders and RECON's files: the drive that was written, and files that are not as they should be."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest

from dataengine import images
from dataengine.convert import Conversion, convert
from dataengine.errors import BadInput, SpecError
from dataengine.fixtures import gnm_writer as writer
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.storage import SourceRoot


def scan(name, path, **options):
    return list(get_format(name).scan(SourceRoot(path), None, options))


def read(name, path, ref):
    return get_format(name).read(SourceRoot(path), ref)


def reasons(found):
    return [(entry.upstream_id, entry.reason) for entry in found if isinstance(entry, ScanProblem)]


def driven(rows):
    """The drive in its own frame: half a metre along each heading, which grows by 0.2 rad a row."""
    yaw = 0.2 * np.arange(rows)
    steps = 0.5 * np.stack([np.cos(yaw[:-1]), np.sin(yaw[:-1])], axis=1)
    return np.concatenate([[[0.0, 0.0]], steps]).cumsum(axis=0), yaw


def check_drive(episode, rows):
    place, yaw = driven(rows)
    np.testing.assert_allclose(episode.state.values[:, :2], place, atol=1e-6)
    np.testing.assert_allclose(episode.state.values[:, 2], 0, atol=1e-6)
    np.testing.assert_allclose(episode.state.values[:, 3], yaw, atol=1e-6)
    np.testing.assert_allclose(episode.action.values[:-1], episode.state.values[1:])
    assert episode.action.mask[:, 0].tolist() == [True] * (rows - 1) + [False]
    assert np.diff(episode.times_ns).tolist() == [250_000_000] * (rows - 1)


class TestFolders:
    def test_a_drive(self, tmp_path):
        place = writer.write_gnm(tmp_path)
        refs = scan("gnm", place)
        assert [ref.upstream_id for ref in refs] == ["A_Jackal_Plaza_0", "A_Jackal_Plaza_1"]
        raw = read("gnm", place, refs[0])
        assert raw.group == "A_Jackal_Plaza"
        assert [raw.media["images"].image(number) for number in range(4)] == [writer.picture(n) for n in range(4)]
        np.testing.assert_array_equal(raw.arrays["position"], writer.drive(4, 0.5)["position"])
        for name in ("gnm_recon", "gnm_scand_jackal", "gnm_tartan_drive", "gnm_go_stanford"):
            check_drive(convert(raw, Conversion.load(name)), 4)
        other = read("gnm", place, refs[1])
        assert other.arrays["yaw"].shape == (3, 1)
        check_drive(convert(other, Conversion.load("gnm_recon")), 3)

    def test_names_select_a_robot(self, tmp_path):
        writer.write_gnm(tmp_path)
        writer.write_scand_spot(tmp_path)
        assert len(scan("gnm", tmp_path)) == 3
        assert [ref.upstream_id for ref in scan("gnm", tmp_path, names="*Spot*")] == ["A_Spot_Library_0"]
        with pytest.raises(SpecError, match="pattern"):
            scan("gnm", tmp_path, names=["a"])

    def test_ten_pictures_and_more_are_in_the_order_of_their_numbers(self, tmp_path):
        writer.write_trajectory(tmp_path / "a", writer.drive(12, 0.0), 12)
        (ref,) = scan("gnm", tmp_path)
        assert [path.rpartition("/")[2] for path in ref.files[1:]] == [f"{number}.jpg" for number in range(12)]

    @pytest.mark.parametrize("what", ["gap", "other", "none"])
    def test_pictures_that_are_not_counted_from_zero(self, tmp_path, what):
        place = writer.write_trajectory(tmp_path / "a", writer.drive(3, 0.0), 0 if what == "none" else 3)
        if what == "gap":
            (place / "1.jpg").unlink()
        if what == "other":
            (place / "1.jpg").rename(place / "01.jpg")
        assert reasons(scan("gnm", tmp_path)) == [("a", "missing_media")]

    def test_a_trajectory_that_lost_its_numbers_is_told(self, tmp_path):
        place = writer.write_gnm(tmp_path)
        (place / "A_Jackal_Plaza_0/traj_data.pkl").unlink()
        (place / "elsewhere/maps").mkdir(parents=True)
        (place / "elsewhere/maps/0.jpg").write_bytes(writer.picture(0))
        found = scan("gnm", place)
        assert reasons(found) == [("A_Jackal_Plaza_0", "missing_file")]
        assert [entry.upstream_id for entry in found if isinstance(entry, EpisodeRef)] == ["A_Jackal_Plaza_1"]
        assert len(scan("gnm", place, names="*_1")) == 1

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"position": None}, "missing_key"),
            ({"yaw": [0.0] * 3}, "missing_key"),
            ({"position": np.zeros((2, 2))}, "frame_count_mismatch"),
            ({"position": np.zeros((3, 3))}, "bad_shape"),
            ({"yaw": np.zeros((3, 2))}, "bad_shape"),
            ({"yaw": np.full(3, np.nan)}, "bad_value"),
            ({"yaw": np.zeros(3, int)}, "bad_value"),
            (7, "bad_type"),
        ],
    )
    def test_pickles_that_hold_something_else(self, tmp_path, change, reason):
        data = {**writer.drive(3, 0.0), **change} if isinstance(change, dict) else change
        writer.write_trajectory(tmp_path / "a", data, 3)
        (ref,) = scan("gnm", tmp_path)
        with pytest.raises(BadInput) as caught:
            read("gnm", tmp_path, ref)
        assert caught.value.reason == reason

    def test_a_pickle_that_runs_code_is_refused(self, tmp_path):
        writer.write_gnm(tmp_path)
        path = tmp_path / "A_Jackal_Plaza_0/traj_data.pkl"
        marker = tmp_path / "ran"
        path.write_bytes(pickle.dumps({"position": _Evil(str(marker))}))
        with pytest.raises(BadInput) as caught:
            read("gnm", tmp_path, scan("gnm", tmp_path)[0])
        assert caught.value.reason == "unsafe_pickle"
        assert not marker.exists()

    def test_what_is_no_array_is_named(self, tmp_path):
        writer.write_trajectory(tmp_path / "a", {**writer.drive(2, 0.0), "note": "sunny"}, 2)
        assert read("gnm", tmp_path, scan("gnm", tmp_path)[0]).attributes == {"unread": ["traj_data.pkl: note"]}

    def test_a_picture_of_another_size(self, tmp_path):
        place = writer.write_gnm(tmp_path)
        wide = images.encode(np.zeros((12, 20, 3), np.uint8), "jpeg", 90)
        (place / "A_Jackal_Plaza_0/2.jpg").write_bytes(wide)
        with pytest.raises(BadInput) as caught:
            read("gnm", place, scan("gnm", place)[0])
        assert caught.value.reason == "mixed_pictures"


class _Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


class TestRecon:
    def test_a_drive(self, tmp_path):
        place = writer.write_recon(tmp_path)
        refs = scan("recon", place)
        assert [ref.upstream_id for ref in refs] == [f"jackal_2019-12-19-14-24-48_0_r0{k}" for k in (0, 1)]
        raw = read("recon", place, refs[0])
        assert set(raw.media) == {"images/rgb_left", "images/rgb_right"}
        assert raw.arrays["images/thermal"].shape == (4, 2, 2)
        assert raw.media["images/rgb_left"].image(3) == writer.picture(3)
        check_drive(convert(raw, Conversion.load("recon")), 4)

    def test_files_of_another_structure(self, tmp_path):
        writer.write_recon(tmp_path)
        with h5py.File(tmp_path / "other.hdf5", "w") as file:
            file["data/demo_0/actions"] = np.zeros(3)
        with h5py.File(tmp_path / "part.hdf5", "w") as file:
            file["jackal/position"] = np.zeros((3, 3))
        (tmp_path / "empty.hdf5").write_bytes(b"")
        found = scan("recon", tmp_path)
        assert reasons(found) == [("empty.hdf5", "empty_file"), ("part.hdf5", "missing_key")]
        assert len([entry for entry in found if isinstance(entry, EpisodeRef)]) == 2
        assert get_format("recon").detect(SourceRoot(tmp_path), None).layout == "recon_hdf5"
        only = list(get_format("recon").scan(SourceRoot(tmp_path), "other.hdf5", {}))
        assert reasons(only) == [("other.hdf5", "missing_key")]

    @pytest.mark.parametrize(
        ("name", "value", "reason"),
        [
            ("jackal/yaw", np.zeros(3), "length_mismatch"),
            ("jackal/position", np.zeros((0, 3)), "empty_episode"),
            ("images/rgb_left", np.array([b"GIF89a"] * 4), "corrupt_image"),
            ("images/rgb_right", np.array([writer.picture(0)] * 3), "length_mismatch"),
        ],
    )
    def test_streams_that_do_not_fit(self, tmp_path, name, value, reason):
        place = writer.write_recon(tmp_path)
        with h5py.File(place / "jackal_2019-12-19-14-24-48_0_r00.hdf5", "a") as file:
            del file[name]
            file[name] = value
        with pytest.raises(BadInput) as caught:
            read("recon", place, scan("recon", place)[0])
        assert caught.value.reason == reason
