"""HoloAssist: ticks, frames, hands and texts against what was written, and files that are not as they should be."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from dataengine import camera as cameras
from dataengine.convert import Conversion, convert
from dataengine.errors import BadInput, EpisodeError, SpecError
from dataengine.fixtures.holoassist_writer import (
    FIRST_TICK,
    camera,
    events,
    ticks,
    tip_in_wrist,
    wrist,
    write_annotations,
    write_session,
)
from dataengine.formats import holoassist_tables as tables
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.formats.spans import tracks
from dataengine.storage import SourceRoot

NAME = "R007-7July-DSLR"
LEFT = "Hands/Left_sync.txt"
POSE = "Video/Pose_sync.txt"


def scan(folder, **options):
    return list(get_format("holoassist").scan(SourceRoot(folder), None, options))


def read(folder, **options):
    (ref,) = scan(folder, **options)
    assert isinstance(ref, EpisodeRef), ref
    return get_format("holoassist").read(SourceRoot(folder), ref)


def problems(folder, **options):
    return [(entry.upstream_id, entry.reason) for entry in scan(folder, **options) if isinstance(entry, ScanProblem)]


@pytest.fixture
def session(tmp_path) -> Path:
    write_session(tmp_path / NAME)
    write_annotations(tmp_path, {NAME: events(), "another": []})
    return tmp_path


@pytest.fixture(scope="module")
def conversion():
    return Conversion.load("holoassist")


def edit(session, name, change):
    path = session / NAME / "Export_py" / name
    path.write_text(change(path.read_text()))


def test_reads_what_was_written(session):
    raw = read(session)
    assert raw.upstream_id == NAME
    assert raw.arrays["pose/ticks"].tolist() == [ticks(row) for row in range(6)]
    # 1.2 ms behind the frames, and counted in whole ticks: a float would lose the last digits
    assert raw.arrays["pose/time_ns"][0] == 1_200_000
    assert (raw.arrays["pose/time_ns"] == (raw.arrays["pose/ticks"] - FIRST_TICK) * 100).all()
    assert int(float(ticks(1))) != ticks(1)
    np.testing.assert_allclose(raw.arrays["clock_s"], np.arange(6) / 30)
    np.testing.assert_array_equal(raw.arrays["pose/matrix"][3], camera(3))
    np.testing.assert_array_equal(raw.arrays["hands/left/Wrist"][3], wrist("left", 3))
    assert raw.arrays["hands/right/joints_valid"].shape == (6, 26)
    assert raw.arrays["eyes/valid"].all()
    np.testing.assert_allclose(raw.arrays["imu/gyroscope"][0], [0.1, -9.7, 0.2])
    assert raw.media["video"].payload == (session / NAME / "Export_py/Video_pitchshift.mp4").read_bytes()
    assert raw.media["video"].times_ns.tolist() == [(frame * 10_000_000 // 30) * 100 for frame in range(8)]
    assert raw.attributes["intrinsics"]["size"] == [504, 896]
    assert raw.attributes["task_type"] == "gopro"


def test_hands_and_head_in_the_world(session, conversion):
    episode = convert(read(session), conversion)
    state = dict(zip(episode.state.channels.tolist(), episode.state.values.T, strict=True))
    for start, side in ((0, "right"), (64, "left")):
        places = np.stack([state[start + 7 + axis] for axis in range(3)], axis=1)
        np.testing.assert_allclose(places, [wrist(side, row)[:3, 3] for row in range(6)], atol=1e-6)
        column = np.stack([state[start + 10 + axis] for axis in range(3)], axis=1)
        np.testing.assert_allclose(column, [wrist(side, row)[:3, 0] for row in range(6)], atol=1e-6)
        tips = np.stack([state[start + 39 + axis] for axis in range(15)], axis=1)
        expected = np.concatenate([tip_in_wrist(finger) for finger in range(5)])
        np.testing.assert_allclose(tips, np.tile(expected, (6, 1)), atol=1e-6)
    assert not episode.action.mask[5].any()


def test_the_wrists_are_in_the_picture(session, conversion):
    """x forward, y left, z up becomes OpenCV's axes; without that turn nothing is seen."""
    (view,) = convert(read(session), conversion).views
    for side, half in (("left", -1), ("right", 1)):
        local = np.linalg.inv(camera(0)) @ wrist(side, 0)[:, 3]
        seen = (np.linalg.inv(view.camera.parent_pose) @ local)[:3]
        fractions, ahead = cameras.project(view.camera, seen)
        assert cameras.inside(fractions, ahead)
        assert (fractions[0] - 0.5) * half > 0
        assert not cameras.inside(*cameras.project(view.camera, local[:3] * [-1, 1, 1]))


def test_texts_at_their_rows(session, conversion):
    raw = read(session)
    # rows are at 1.2, 34.5, 67.9, 101.2, 134.5 and 167.9 ms
    assert raw.texts["conversation"] == ("Now open the door.",) * 3 + ("", "", "This one?")
    told = [(entry.text, entry.level, entry.span) for entry in convert(raw, conversion).language]
    assert told == [
        ("A student changes the battery of a GoPro.", "episode", (0, 6)),
        ("The student opens the GoPro.", "subtask", (2, 6)),
        ("grab battery_door", "step", (2, 4)),
        ("open small battery_door", "step", (3, 6)),
    ]
    assert raw.texts["fine_2"] == ("", "", "", *["open small battery_door"] * 3)


def test_a_missing_hand_is_masked_and_never_zero(tmp_path, conversion):
    write_session(tmp_path / NAME, hidden={("right", 2)})
    write_annotations(tmp_path, {NAME: events()})
    raw = read(tmp_path)
    assert raw.arrays["hands/right/wrist_valid"].tolist() == [True, True, False, True, True, True]
    assert np.isnan(raw.arrays["hands/right/Wrist"][2]).all()
    episode = convert(raw, conversion)
    right = [*episode.state.columns(7, 16), *episode.state.columns(39, 54)]
    assert episode.state.mask[:, right].all(axis=1).tolist() == [True, True, False, True, True, True]
    assert np.isfinite(episode.state.values).all()


def test_a_joint_that_is_not_valid_takes_only_the_fingertips(session):
    def unset(text):
        lines = text.splitlines()
        row = lines[1].split("\t")
        row[2 + 1 + 26 * 16 + tables.JOINTS.index("RingTip")] = "0"
        return "\n".join([lines[0], "\t".join(row), *lines[2:]]) + "\n"

    edit(session, LEFT, unset)
    raw = read(session)
    assert raw.arrays["hands/left/wrist_valid"].all()
    assert raw.arrays["hands/left/fingertips_valid"].tolist() == [True, False, True, True, True, True]


def test_repeated_samples_are_no_steps(tmp_path, conversion):
    write_session(tmp_path / NAME, repeated=(2,))
    write_annotations(tmp_path, {NAME: events()})
    episode = convert(read(tmp_path), conversion)
    assert episode.steps == 5
    assert episode.notes["merged_rows"] == 1


def test_rows_without_a_frame_are_trimmed(tmp_path, conversion):
    write_session(tmp_path / NAME, rows=9, frames=6)
    write_annotations(tmp_path, {NAME: events()})
    episode = convert(read(tmp_path), conversion)
    assert 5 <= episode.steps <= 7
    assert episode.notes["rows_outside_overlap"] == 9 - episode.steps


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        (LEFT, lambda text: text.replace("\t", " ", 1), "bad_row"),
        (LEFT, lambda text: text.replace("\n", "\n\n", 1), "bad_row"),
        (LEFT, lambda text: text.replace("\t1\t", "\t2\t", 1), "bad_value"),
        (LEFT, lambda text: text.replace("0.4", "x.4", 1), "bad_value"),
        (LEFT, lambda text: text.replace("0.4", "1e999", 1), "bad_value"),
        (LEFT, lambda text: "\n".join(text.splitlines()[:-1]) + "\n", "length_mismatch"),
        (LEFT, lambda text: text.replace("0\t", "7\t", 1), "time_mismatch"),
        (POSE, lambda text: "", "empty_file"),
        (POSE, lambda text: "\n", "empty_stream"),
        (POSE, lambda text: text.replace(str(ticks(2)), f"{ticks(2)}.5"), "bad_timestamp"),
        (POSE, lambda text: text.replace(str(ticks(2)), str(ticks(0) - 5)), "time_not_increasing"),
        (POSE, lambda text: text.replace(str(ticks(2)), "9" * 19), "bad_timestamp"),
        ("Video/VideoMp4Timing.txt", lambda text: text.split("\n", maxsplit=1)[0], "bad_row"),
        ("Video/VideoMp4Timing.txt", lambda text: "\n".join(reversed(text.split())), "bad_timestamp"),
        ("Video/Intrinsics.txt", lambda text: text.rsplit("\t", 1)[0], "bad_row"),
        ("Video/Intrinsics.txt", lambda text: text.replace("896", "0"), "bad_value"),
        ("Eyes/Eyes_sync.txt", lambda text: text.replace("\t", "\t\t", 1), "bad_row"),
        ("Video_pitchshift.mp4", lambda text: "no video", "unsupported_video"),
    ],
)
def test_damaged_files(session, name, change, reason):
    path = session / NAME / "Export_py" / name
    path.write_text(change("" if name.endswith(".mp4") else path.read_text()))
    with pytest.raises(BadInput) as caught:
        read(session)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda told: told.pop(0), "missing_annotation"),
        (lambda told: told.append(told[0]), "duplicate_name"),
        (lambda told: told[0].pop("events"), "missing_key"),
        (lambda told: told[0].pop("video_name"), "missing_key"),
        (lambda told: told[0]["events"][2].pop("start"), "missing_key"),
        (lambda told: told[0]["events"][2].update(end=-1.0), "bad_value"),
        (lambda told: told[0]["events"][2]["attributes"].pop("Action sentence"), "missing_key"),
        (lambda told: told[0]["events"][3]["attributes"].update(Verb=5), "bad_type"),
        (lambda told: told[0].update(events={}), "bad_type"),
    ],
)
def test_wrong_annotations(session, change, reason):
    path = session / "data-annotation-trainval-v1_1.json"
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))
    with pytest.raises(BadInput) as caught:
        read(session)
    assert caught.value.reason == reason


def test_which_files_are_needed(session, tmp_path):
    (session / NAME / "Export_py/Video_pitchshift.mp4").unlink()
    assert problems(session) == [(NAME, "missing_media")]
    assert problems(session, video="compress") == [(NAME, "missing_media")]
    assert not read(session, video="none").media
    (session / NAME / "Export_py" / LEFT).unlink()
    assert problems(session, video="none") == [(NAME, "missing_file")]
    (session / "data-annotation-trainval-v1_1.json").unlink()
    assert problems(session) == [("annotations", "missing_file")]
    for options in ({"video": "maybe"}, {"annotations": 5}, {"annotation": "none"}):
        with pytest.raises(SpecError):
            scan(session, **options)


def test_without_annotations_there_are_no_texts(session, conversion):
    raw = read(session, annotations="none")
    assert raw.texts == {}
    with pytest.raises(EpisodeError) as caught:
        convert(raw, conversion)
    assert caught.value.reason == "missing_stream"


def test_a_neighbour_changes_no_digest(session):
    before = read(session).raw_digest
    write_annotations(session, {NAME: events(), "another": events()})
    assert read(session).raw_digest == before
    write_annotations(session, {NAME: events()[:-1], "another": []})
    assert read(session).raw_digest != before


def test_tracks_lose_nothing():
    spans = [(0, 3, "a"), (1, 2, "b"), (1, 4, "c"), (3, 5, "d"), (9, 12, "e"), (2, 2, "f")]
    assert tracks("t", spans, 5) == {
        "t": ("a", "a", "a", "d", "d"),
        "t_2": ("", "b", "", "", ""),
        "t_3": ("", "c", "c", "c", ""),
    }
    assert tracks("t", [], 2) == {"t": ("", ""), "t_2": ("", "")}


def test_a_session_without_its_poses_is_told(session):
    (session / NAME / "Export_py" / POSE).unlink()
    assert problems(session) == [(NAME, "missing_file")]


def test_a_session_that_is_annotated_twice_costs_no_other(session):
    write_session(session / "z013")
    path = next(session.glob("*annotation*.json"))
    entries = json.loads(path.read_text())
    other = {**entries[0], "video_name": "z013"}
    path.write_text(json.dumps([*entries, entries[0], other]))
    twice, once = scan(session)
    with pytest.raises(EpisodeError, match="more than once"):
        get_format("holoassist").read(SourceRoot(session), twice)
    assert get_format("holoassist").read(SourceRoot(session), once).texts


def test_the_sound_of_the_video_is_named_as_unread(session):
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as made:
        picture, sound = made.add_stream("libx264", rate=30), made.add_stream("aac", rate=48000, layout="mono")
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        for _ in range(8):
            made.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        made.mux(picture.encode(None))
        heard = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        heard.sample_rate = 48000
        made.mux([*sound.encode(heard), *sound.encode(None)])
    (session / NAME / "Export_py/Video_pitchshift.mp4").write_bytes(buffer.getvalue())
    assert "Video_pitchshift.mp4: audio" in read(session).attributes["unread"]
