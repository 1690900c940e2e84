"""VLN-CE files that are not as they should be: reasons, never tracebacks."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from dataengine.convert import Conversion, convert
from dataengine.errors import EpisodeError, SpecError
from dataengine.fixtures import vlnce_writer
from dataengine.fixtures.vlnce_writer import FORWARD, LEFT, STOP
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.storage import SourceRoot
from dataengine.transforms.navigation import habitat_discrete, start_heading, to_habitat_world

ACTIONS = [FORWARD, LEFT, FORWARD, STOP]


@pytest.fixture
def entries():
    return [vlnce_writer.episode(number, ACTIONS, instruction=f"Walk {number}.") for number in (3, 1, 2)]


def scan(path, only=None, options=None):
    return list(get_format("vlnce").scan(SourceRoot(path), only, options or {}))


def read(path, ref):
    return get_format("vlnce").read(SourceRoot(path), ref)


def reasons(found):
    return [(entry.upstream_id, entry.reason) for entry in found if isinstance(entry, ScanProblem)]


def names(found):
    return [entry.upstream_id for entry in found if isinstance(entry, EpisodeRef)]


def test_reads_what_was_written(tmp_path, entries):
    vlnce_writer.write_split(tmp_path, "train", entries)
    refs = scan(tmp_path)
    assert names(refs) == ["train/3", "train/1", "train/2"]
    episode = read(tmp_path, refs[1])
    assert episode.texts == {"instruction": ("Walk 1.",)}
    assert episode.group == "mp3d/empty/empty.glb"
    assert episode.arrays["actions"].tolist() == ACTIONS
    assert episode.arrays["actions"].dtype == np.int64
    np.testing.assert_array_equal(episode.arrays["start_position"], [1, 0, 2])
    assert {name: array.shape for name, array in episode.arrays.items()} == {
        "actions": (4,),
        "locations": (3, 3),
        "start_position": (3,),
        "start_rotation": (4,),
        "reference_path": (2, 3),
        "goal_positions": (1, 3),
    }
    assert episode.attributes == {
        "scene_id": "mp3d/empty/empty.glb",
        "trajectory_id": 1,
        "goal_radius_m": [3.0],
        "geodesic_distance_m": 0.5,
    }
    assert [file.path for file in episode.files] == ["train/train.json.gz", "train/train_gt.json.gz"]


def test_a_neighbour_changes_neither_name_nor_digest(tmp_path, entries):
    vlnce_writer.write_split(tmp_path / "few", "train", entries[:2])
    vlnce_writer.write_split(tmp_path / "more", "train", [vlnce_writer.episode(9, [STOP]), *entries])
    few = {ref.upstream_id: read(tmp_path / "few", ref).raw_digest for ref in scan(tmp_path / "few")}
    more = {ref.upstream_id: read(tmp_path / "more", ref).raw_digest for ref in scan(tmp_path / "more")}
    assert few.items() <= more.items()
    assert len(set(more.values())) == 4


def test_the_digest_sees_both_halves_and_the_text(tmp_path, entries):
    told, truth = entries[0]
    variants = [
        (told, truth),
        ({**told, "start_rotation": [0.0, 1.0, 0.0, 0.0]}, truth),
        (told, {**truth, "actions": [FORWARD, LEFT, LEFT, STOP]}),
        ({**told, "instruction": {"instruction_text": "Other."}}, truth),
    ]
    digests = set()
    for number, entry in enumerate(variants):
        place = tmp_path / str(number)
        vlnce_writer.write_split(place, "train", [entry])
        digests.add(read(place, scan(place)[0]).raw_digest)
    assert len(digests) == 4
    tokens = {**told, "instruction": {**told["instruction"], "instruction_tokens": [1, 2]}}
    vlnce_writer.write_split(tmp_path / "tokens", "train", [(tokens, truth)])
    assert read(tmp_path / "tokens", scan(tmp_path / "tokens")[0]).raw_digest in digests


def test_one_file_or_one_split_can_be_named(tmp_path, entries):
    vlnce_writer.write_split(tmp_path, "train", entries[:1])
    vlnce_writer.write_split(tmp_path, "val", entries[1:])
    assert names(scan(tmp_path / "val", "val.json.gz")) == ["val/1", "val/2"]
    assert names(scan(tmp_path, options={"splits": ["train"]})) == ["train/3"]
    with pytest.raises(SpecError, match="did you mean 'splits'"):
        scan(tmp_path, options={"split": ["train"]})
    with pytest.raises(SpecError, match="list of texts"):
        scan(tmp_path, options={"splits": "train"})


def test_files_beside_the_splits_are_not_splits(tmp_path, entries):
    vlnce_writer.write_split(tmp_path, "train", entries)
    vlnce_writer.write_gz(tmp_path / "embeddings.json.gz", [[0.0]])
    assert reasons(scan(tmp_path)) == []


def test_halves_without_each_other(tmp_path, entries):
    place = vlnce_writer.write_split(tmp_path, "train", entries)
    told = json.loads(gzip.decompress((place / "train.json.gz").read_bytes()))
    truth = json.loads(gzip.decompress((place / "train_gt.json.gz").read_bytes()))
    told["episodes"] = [told["episodes"][0], told["episodes"][1]]
    del truth["1"]
    vlnce_writer.write_gz(place / "train.json.gz", told)
    vlnce_writer.write_gz(place / "train_gt.json.gz", truth)
    found = scan(tmp_path)
    assert names(found) == ["train/3"]
    assert reasons(found) == [("train/1", "missing_ground_truth"), ("train/2", "missing_episode")]


def test_a_split_without_its_other_file(tmp_path, entries):
    place = vlnce_writer.write_split(tmp_path, "test", entries)
    (place / "test_gt.json.gz").unlink()
    assert reasons(scan(tmp_path)) == [("test/test.json.gz", "missing_ground_truth")]
    assert get_format("vlnce").detect(SourceRoot(tmp_path), None) is None
    place = vlnce_writer.write_split(tmp_path, "test", entries)
    (place / "test.json.gz").unlink()
    assert reasons(scan(tmp_path)) == [("test/test_gt.json.gz", "missing_file")]


def test_repeated_ids_are_dropped_all(tmp_path, entries):
    vlnce_writer.write_split(tmp_path, "train", [*entries, entries[0]])
    found = scan(tmp_path)
    assert names(found) == ["train/1", "train/2"]
    assert reasons(found) == [
        ("train/3 (1 of 2)", "duplicate_episode"),
        ("train/3 (2 of 2)", "duplicate_episode"),
    ]


def test_two_folders_with_one_split(tmp_path, entries):
    vlnce_writer.write_split(tmp_path / "v1-2", "train", entries)
    vlnce_writer.write_split(tmp_path / "v1-3", "train", entries)
    assert [reason for _, reason in reasons(scan(tmp_path))] == ["duplicate_split"] * 2


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("train.json.gz", b"", "empty_file"),
        ("train_gt.json.gz", b"", "empty_file"),
        ("train.json.gz", b"{}", "unreadable_file"),
        ("train.json.gz", gzip.compress(b'{"episodes": []}', mtime=0)[:-9], "truncated"),
        ("train.json.gz", gzip.compress(b'{"episodes": [', mtime=0)[:], "json_invalid"),
        ("train.json.gz", gzip.compress(b'{"episodes": 4}', mtime=0), "missing_key"),
        ("train.json.gz", gzip.compress(b"[]", mtime=0), "bad_type"),
        ("train_gt.json.gz", gzip.compress(b"[]", mtime=0), "bad_type"),
        ("train_gt.json.gz", gzip.compress(b'{"1": {}, "1": {}}', mtime=0), "json_duplicate_key"),
        ("train_gt.json.gz", gzip.compress(b'{"1": {"locations": [NaN]}}', mtime=0), "json_nan"),
        ("train_gt.json.gz", gzip.compress(b"[" * 200_000, mtime=0), "json_too_deep"),
        ("train_gt.json.gz", gzip.compress(b'{"1": ' + b"[" * 80 + b"]" * 80 + b"}", mtime=0), "json_too_deep"),
        ("train_gt.json.gz", gzip.compress(b'{"\xff": 1}', mtime=0), "invalid_utf8"),
        ("train_gt.json.gz", gzip.compress(b" " * (64 << 20), mtime=0), "gzip_bomb"),
    ],
)
def test_damaged_files_have_reasons(tmp_path, entries, name, data, reason):
    place = vlnce_writer.write_split(tmp_path, "train", entries)
    (place / name).write_bytes(data)
    found = scan(tmp_path)
    assert names(found) == []
    assert reasons(found) == [(f"train/{name}", reason)]


def test_a_flipped_bit_is_seen_by_the_checksum(tmp_path, entries):
    place = vlnce_writer.write_split(tmp_path, "train", entries)
    data = bytearray((place / "train.json.gz").read_bytes())
    data[-6] ^= 1
    (place / "train.json.gz").write_bytes(data)
    assert reasons(scan(tmp_path)) == [("train/train.json.gz", "unreadable_file")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("text", "bad_type"),
        (None, "bad_type"),
        ({}, "missing_key"),
        ({"episode_id": None}, "bad_type"),
        ({"episode_id": True}, "bad_type"),
        ({"episode_id": 1.5}, "bad_type"),
        ({"episode_id": 10**30}, "bad_value"),
    ],
)
def test_rows_without_a_usable_id(tmp_path, entries, row, reason):
    vlnce_writer.write_split(tmp_path, "train", entries)
    told = [entry for entry, _ in entries]
    vlnce_writer.write_gz(tmp_path / "train/train.json.gz", {"episodes": [row, *told]})
    found = scan(tmp_path)
    assert reasons(found) == [("train/row 0", reason)]
    assert len(names(found)) == 3


HUGE = "a number beyond every float"
WRONG = [HUGE, None, 7, "text", {}, [], [None], [[1, 2]], [["a", "b", "c"]], [[1, 2, True]], [[1, 2, 10**30]]]


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize(
    "place",
    [
        "start_position",
        "start_rotation",
        "reference_path",
        "instruction",
        "instruction_text",
        "scene_id",
        "trajectory_id",
        "goals",
        "info",
        "actions",
        "locations",
        "truth",
    ],
)
def test_wrong_types_everywhere_have_reasons(tmp_path, place, value):
    """Every field replaced by what it is not: a reason at the door or in the conversion, never another error."""
    told, truth = vlnce_writer.episode(1, ACTIONS)
    whole: object = truth
    if place in ("actions", "locations"):
        truth[place] = value
    elif place == "truth":
        whole = value
    elif place == "instruction_text":
        told["instruction"][place] = value
    else:
        told[place] = value
    vlnce_writer.write_split(tmp_path, "train", [(told, whole)])
    for path in (tmp_path / "train").iterdir():
        text = gzip.decompress(path.read_bytes()).decode()
        path.write_bytes(gzip.compress(text.replace(json.dumps(HUGE), "1e400").encode()))
    legal = {"scene_id": "text", "instruction_text": "text", "info": {}, "goals": []}
    if place == "trajectory_id" and value in (7, "text"):
        legal["trajectory_id"] = value  # a number in R2R, a text in RxR
    legal |= {"reference_path": [], "actions": []}
    (ref,) = scan(tmp_path)
    if (place in legal and legal[place] == value) or (value is None and place in ("goals", "info", "reference_path")):
        read(tmp_path, ref)
        return
    with pytest.raises(EpisodeError) as caught:
        read(tmp_path, ref)
    assert caught.value.reason in {"bad_type", "bad_shape", "bad_value", "missing_key", "length_mismatch"}


def test_what_upstream_leaves_out_or_null(tmp_path):
    told, truth = vlnce_writer.episode(1, ACTIONS)
    told = {**told, "goals": None, "info": None}
    del told["reference_path"]
    vlnce_writer.write_split(tmp_path, "train", [(told, truth)])
    (ref,) = scan(tmp_path)
    assert set(read(tmp_path, ref).arrays) == {"actions", "locations", "start_position", "start_rotation"}


def test_contradictions_have_reasons(tmp_path):
    """A count that is not the locations', an instruction that says nothing, none at all."""
    entries = [vlnce_writer.episode(number, ACTIONS) for number in range(3)]
    entries[0][1]["forward_steps"] = 99
    entries[1][0]["instruction"]["instruction_text"] = " \n"
    del entries[2][0]["instruction"]
    vlnce_writer.write_split(tmp_path, "train", entries)
    found = []
    for ref in scan(tmp_path):
        with pytest.raises(EpisodeError) as caught:
            read(tmp_path, ref)
        found.append(caught.value.reason)
    assert found == ["length_mismatch", "bad_text", "missing_key"]


def test_a_number_beyond_every_float_is_not_taken_for_null(tmp_path):
    told, truth = vlnce_writer.episode(1, ACTIONS)
    told["info"] = {"metrics": [{"nDTW": HUGE}]}
    vlnce_writer.write_split(tmp_path, "train", [(told, truth)])
    path = tmp_path / "train/train.json.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(json.dumps(HUGE).encode(), b"-1e400")))
    (ref,) = scan(tmp_path)
    with pytest.raises(EpisodeError) as caught:
        read(tmp_path, ref)
    assert caught.value.reason == "bad_value"


def test_a_place_far_away_in_a_long_walk_is_told(tmp_path):
    told, truth = vlnce_writer.episode(1, [FORWARD] * 30 + [STOP])
    truth["locations"][12][0] += 100.0
    vlnce_writer.write_split(tmp_path, "train", [(told, truth)])
    (ref,) = scan(tmp_path)
    with pytest.raises(EpisodeError) as caught:
        convert(read(tmp_path, ref), Conversion.load("vlnce_r2r"))
    assert caught.value.reason == "step_too_long"


@pytest.mark.parametrize(
    ("text", "reason"),
    [("\ud800", "bad_value"), ("a\0b", "bad_text"), ("x" * ((1 << 20) + 1), "bad_text")],
    ids=["surrogate", "nul", "long"],
)
def test_texts_that_are_none(tmp_path, text, reason):
    vlnce_writer.write_split(tmp_path, "train", [vlnce_writer.episode(1, ACTIONS, instruction=text)])
    (ref,) = scan(tmp_path)
    with pytest.raises(EpisodeError) as caught:
        read(tmp_path, ref)
    assert caught.value.reason == reason


def test_a_file_changed_after_the_scan_is_read_as_it_is_now(tmp_path, entries):
    vlnce_writer.write_split(tmp_path, "train", entries)
    ref = scan(tmp_path)[0]
    before = read(tmp_path, ref)
    vlnce_writer.write_split(tmp_path, "train", [vlnce_writer.episode(3, [STOP])])
    after = read(tmp_path, ref)
    assert after.arrays["actions"].tolist() == [STOP]
    assert after.raw_digest != before.raw_digest
    assert after.files != before.files
    vlnce_writer.write_split(tmp_path, "train", entries[1:])
    with pytest.raises(EpisodeError) as caught:
        read(tmp_path, ref)
    assert caught.value.reason == "missing_key"


class TestRxr:
    @pytest.fixture
    def rxr(self, tmp_path):
        return vlnce_writer.write_rxr(tmp_path)

    def test_reads_roles_languages_and_words(self, rxr):
        refs = scan(rxr)
        assert names(refs) == [f"val_seen_follower/{60301 + n}" for n in range(3)] + [
            f"val_seen_guide/{1 + n}" for n in range(3)
        ]
        assert get_format("vlnce").detect(SourceRoot(rxr), None).layout == "vlnce_rxr"
        hindi = read(rxr, refs[4])
        assert hindi.texts["language"] == ("hi-IN",)
        assert hindi.texts["instruction"] == ("आगे चलो और रुको",)
        assert hindi.texts["timed_instruction"] == ("आगे", "चलो", "और", "रुको")
        np.testing.assert_allclose(hindi.arrays["timed_instruction"], [[0, 0.4], [0.5, 0.9], [1, 1.4], [1.5, 1.9]])
        assert {key: hindi.attributes[key] for key in ("language", "instruction_id", "annotator_id", "role")} == {
            "language": "hi-IN",
            "instruction_id": "0",
            "annotator_id": "7",
            "role": "guide",
        }
        follower = read(rxr, refs[0])
        assert "trajectory_id" not in follower.attributes
        assert follower.attributes["metrics"] == {"ndtw": 1.0, "sr": 1.0}

    @pytest.mark.parametrize(
        ("options", "count"),
        [
            ({"languages": ["en-IN"]}, 2),
            ({"languages": ["hi-IN", "te-IN"], "roles": ["guide"]}, 2),
            ({"languages": ["en-US"]}, 0),
            ({"splits": ["val_seen"]}, 6),
            ({"splits": ["val_seen_guide"]}, 3),
            ({"splits": ["train"]}, 0),
        ],
    )
    def test_selects(self, rxr, options, count):
        found = scan(rxr, options=options)
        assert len(names(found)) == count
        assert reasons(found) == []

    def test_a_language_that_is_not_told_is_a_problem(self, tmp_path, entries):
        vlnce_writer.write_split(tmp_path, "train", entries[:1])
        assert reasons(scan(tmp_path, options={"languages": ["en-IN"]})) == [("train/3", "missing_key")]

    def test_a_split_without_ground_truth_is_told(self, rxr):
        (rxr / "test_challenge").mkdir()
        (rxr / "val_seen/val_seen_guide.json.gz").rename(rxr / "test_challenge/test_challenge_guide.json.gz")
        assert ("test_challenge/test_challenge_guide.json.gz", "missing_ground_truth") in reasons(scan(rxr))

    def test_a_word_without_its_time_is_named(self, tmp_path):
        told, truth = vlnce_writer.rxr_episode(1, [STOP], instruction="Stop here.")
        del told["instruction"]["timed_instruction"][1]["end_time"]
        vlnce_writer.write_split(tmp_path, "train_guide", [(told, truth)])
        episode = read(tmp_path, scan(tmp_path)[0])
        assert episode.attributes["unread"] == ["timed_instruction: its times"]
        assert "timed_instruction" not in episode.arrays

    def test_looks_and_turns_become_poses(self, rxr):
        """Start at (1, 0, 2) heading 90 degrees: forward, left 30, forward, look up, stop; then a mirrored copy."""
        conversion = Conversion.load("rxr_ce")
        episode = convert(read(rxr, scan(rxr)[3]), conversion)
        width = len(episode.state.channels)
        position, yaw = episode.state.values[:, :3], episode.state.values[:, width - 1]
        leap = [0.25 + 0.25 * np.cos(np.pi / 6), 0.125, 0]
        np.testing.assert_allclose(position, [[0, 0, 0], [0.25, 0, 0], [0.25, 0, 0], leap, leap], atol=1e-6)
        np.testing.assert_allclose(np.degrees(yaw), [0, 0, 30, 30, 30], atol=1e-4)
        assert episode.native_action["ids"].tolist() == [FORWARD, LEFT, FORWARD, vlnce_writer.LOOK_UP, STOP]
        assert [spoken.text for spoken in episode.language] == ["Walk on and look up."]
        walk = [vlnce_writer.RIGHT, FORWARD, FORWARD, STOP]
        told, truth = vlnce_writer.rxr_episode(9, walk)
        truth["actions"] = [LEFT, *walk[1:]]  # a sign flipped: the body looks 60 degrees off where it walks
        vlnce_writer.write_split(rxr / "flipped", "train_guide", [(told, truth)])
        with pytest.raises(EpisodeError, match=r"60\.0 degrees off"):
            convert(read(rxr / "flipped", scan(rxr / "flipped")[0]), conversion)

    def test_a_published_episode_walks_where_it_looks(self):
        """Start, actions and first and last locations of one episode of RxR_VLNCE_v0 train, as printed in public."""
        start = [0.25628501176834106, 3.8914501667022705, -16.086700439453125]
        found = habitat_discrete(
            Conversion.load("rxr_ce").converter.derive[0].model_copy(update={"positions": "integrated"}),
            {"actions": np.array([2, 2, 2, 2, 2, 1, 1, 3, 1, 1, 2, 1, 3, 1, 2, 1, 3, 1, 1, 0])},
        )
        heading = start_heading(np.array([-0.0, 0.967659801213298, -0.0, -0.2522588137525439]))
        walked = to_habitat_world(found["derived/next_position"], heading) + start
        np.testing.assert_allclose(walked[5], [0.2596777081489563, 3.8914501667022705, -16.33667755126953], atol=1e-5)
        np.testing.assert_allclose(walked[-1], [0.9094890356063843, 3.8914501667022705, -18.160560607910156], atol=1e-4)
