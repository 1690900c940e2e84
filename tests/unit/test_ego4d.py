"""`ego4d`: Goal-Step's facts on all real videos, narrations and their tags, cut frames, bad input."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dataengine import video
from dataengine.convert import Conversion, convert
from dataengine.episode import Media, RawEpisode
from dataengine.errors import BadInput, SpecError
from dataengine.fixtures.segments_writer import GOALSTEP_UID, NARRATED_UIDS, write_goalstep, write_narrations
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.specs.converter import load_converter
from dataengine.storage import SourceRoot

FORMAT = get_format("ego4d")
STEPS = {"kind": "ego4d_goalstep", "unit": "segment", "tracks": 2}
NARRATED = load_converter("ego4d_narrations").format.options


@pytest.fixture
def goalstep(tmp_path: Path) -> SourceRoot:
    write_goalstep(tmp_path)
    return SourceRoot(tmp_path)


@pytest.fixture
def narrated(tmp_path: Path) -> SourceRoot:
    write_narrations(tmp_path)
    return SourceRoot(tmp_path)


def scanned(root: SourceRoot, options: Mapping[str, Any]) -> tuple[dict[str, EpisodeRef], list[str]]:
    found = list(FORMAT.scan(root, None, options))
    refs = {entry.upstream_id: entry for entry in found if isinstance(entry, EpisodeRef)}
    return refs, [entry.reason for entry in found if isinstance(entry, ScanProblem)]


def read(root: SourceRoot, options: Mapping[str, Any], name: str) -> RawEpisode:
    return FORMAT.read(root, scanned(root, options)[0][name])


def hashes(media: Media) -> list[str]:
    return [hashlib.sha256(image.tobytes()).hexdigest() for _, image in video.frames(media, range(media.frames))]


def test_all_134_real_videos_with_their_odd_facts(data: Path) -> None:
    """Every figure counted apart from the reader, in the JSON itself."""
    root = SourceRoot(data / "egocentric/ego4d_goalstep")
    refs, problems = scanned(root, {**load_converter("ego4d_goalstep").format.options, "fps": 5})
    assert (len(refs), problems) == (134, [])
    found = Counter[str]()
    texts = 0
    for ref in refs.values():
        made = FORMAT.read(root, ref)
        for name, value in made.attributes["counts"].items():
            for inner, count in value.items() if isinstance(value, dict) else ((name, value),):
                found[f"{name} {inner}" if isinstance(value, dict) else name] += count
        texts += sum(len(set(made.texts[stream]) - {""}) > 0 for stream in ("goal", "step"))
    video_list = json.loads((root.path / "goalstep_valid.json").read_text())["videos"]
    steps = [step for entry in video_list for step in entry["segments"]]
    subs = [(step, sub) for step in steps for sub in step["segments"]]
    assert found["steps"] == len(steps) == 3349
    assert found["substeps"] == len(subs) == 4347
    outside = [max(step["start_time"] - sub["start_time"], sub["end_time"] - step["end_time"]) for step, sub in subs]
    assert found["substeps_outside_their_step"] == sum(amount > 0 for amount in outside) == 261
    assert sum(amount > 0.01 for amount in outside) == 223
    assert found["steps_that_overlap_the_next"] == 60
    assert found["steps_outside_the_video"] == 31
    assert (found["step_relevance irrelevant"], found["step_relevance unsure"]) == (450, 87)
    assert (found["substep_relevance irrelevant"], found["substep_relevance unsure"]) == (106, 45)
    assert found["step_relevance not said"] == 1
    assert texts == 2 * 134


def test_every_real_step_can_be_an_episode_of_its_own(data: Path) -> None:
    root = SourceRoot(data / "egocentric/ego4d_goalstep")
    refs, problems = scanned(root, {**STEPS, "media": "none"})
    assert (len(refs), problems) == (3349, [])
    first = FORMAT.read(root, refs["c2d06df7-5d3a-4116-9edb-f1c81a4f669b/step_000"])
    assert set(first.texts["step"]) == {"Kneads the dough with the mixer."}
    assert first.arrays["time_ns"][0] == 2_946_610_000
    assert len(first.arrays["time_ns"]) == 1118  # 40.19131 - 2.94661 s at 30 Hz: 1117.3
    assert first.group == "c2d06df7-5d3a-4116-9edb-f1c81a4f669b"


def test_a_step_is_cut_out_of_its_video(goalstep: SourceRoot) -> None:
    made = read(goalstep, STEPS, f"{GOALSTEP_UID}/step_001")
    original = hashes(video.whole("video", goalstep.read(f"full_scale/{GOALSTEP_UID}.mp4")))
    assert hashes(made.media["video"]) == original[33:57]  # 1.1 s to 1.9 s at 30 Hz
    assert made.attributes["counts"]["substeps_outside_their_step"] == 1
    assert made.attributes["step"]["is_relevant"] == "irrelevant"
    assert [bool(text) for text in made.texts["substep"]] == [True] * 12 + [False] * 12  # 0.9 s to 1.5 s


def test_a_video_with_its_overlapping_steps(goalstep: SourceRoot) -> None:
    options = load_converter("ego4d_goalstep_video").format.options
    made = read(goalstep, options, GOALSTEP_UID)
    assert set(made.texts["step"][3:36]) == {"Boils the water."}
    assert set(made.texts["step_2"][33:57]) == {"Talks."}
    assert made.attributes["counts"]["steps_that_overlap_the_next"] == 1
    episode = convert(made, Conversion.load("ego4d_goalstep_video"))
    spans = {said.text: said.span for said in episode.language}
    assert spans["Makes tea"] == (0, 60)
    assert spans["Talks."] == (33, 57)
    assert spans["Fills the kettle."] == (6, 18)


def test_narrations_without_their_tags(narrated: SourceRoot) -> None:
    refs, problems = scanned(narrated, NARRATED)
    assert problems == []
    made = [FORMAT.read(narrated, ref) for ref in refs.values()]
    told = [(one.texts["narration"][0], one.attributes["who"]) for one in made]
    assert told == [
        ("C picks up a knife", "camera_wearer"),
        ("A man X looks around", "other"),
        ("C cuts #unsure", "camera_wearer"),
        ("c puts the knife down", "camera_wearer"),
        ("C walks", "camera_wearer"),
    ]
    assert made[0].texts["verbatim"] == ("#C C picks up a knife",)
    assert (made[0].arrays["time_ns"][0], made[0].media["video"].frames) == (0, 45)  # 0.5 s - 1 s is before the start
    assert (made[1].arrays["time_ns"][0], made[1].media["video"].frames) == (500_000_000, 60)
    assert made[1].attributes["window_s"] == [1.0, 1.0]
    original = hashes(video.whole("video", narrated.read(f"full_scale/{NARRATED_UIDS[0]}.mp4")))
    assert hashes(made[1].media["video"]) == original[15:75]
    assert {one.group for one in made} == set(NARRATED_UIDS)


def test_a_narrated_video_as_a_whole(narrated: SourceRoot) -> None:
    made = read(narrated, {"kind": "ego4d_narrations", "unit": "video"}, NARRATED_UIDS[0])
    assert set(made.texts["summary"]) == {"#Summary C cooks"}
    assert made.texts["narration"][0] == "C picks up a knife"
    assert made.texts["narration_2"][20] == "A man X looks around"
    assert made.attributes["segments_without_rows"] == []


def test_videos_that_are_not_there(tmp_path: Path) -> None:
    write_goalstep(tmp_path, filmed=False)
    assert scanned(SourceRoot(tmp_path), STEPS) == ({}, ["missing_media"])
    made = read(SourceRoot(tmp_path), {**STEPS, "media": "optional"}, f"{GOALSTEP_UID}/step_000")
    assert (len(made.arrays["time_ns"]), made.media, made.attributes["media"]) == (33, {}, "absent")


def _damaged(change: str, body: dict[str, Any]) -> object:
    record = body["videos"][0]
    step = record["segments"][0]
    changes: dict[str, Any] = {
        "no list": lambda: body.update(videos={}),
        "no uid": lambda: record.update(video_uid=3, segments=[]),
        "twice": lambda: body["videos"].append(record),
        "no steps": lambda: record.update(segments=[]),
        "steps are text": lambda: record.update(segments="none"),
        "backwards": lambda: step.update(start_time=3.0),
        "no time": lambda: step.pop("end_time"),
        "no description": lambda: step.update(step_description=None),
        "surrogate": lambda: step.update(step_description="\ud800"),
        "outside": lambda: step.update(start_time=100.0, end_time=200.0),
        "number of 70 bits": lambda: step.update(annotator=1 << 70),
    }
    changes[change]()
    return body


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("no list", "bad_type"),
        ("no uid", "empty_episode"),
        ("twice", "duplicate_episode"),
        ("no steps", "empty_episode"),
        ("steps are text", "bad_type"),
        ("backwards", "bad_span"),
        ("no time", "missing_key"),
        ("no description", "bad_type"),
        ("surrogate", "bad_text"),
        ("outside", "segment_outside_video"),
        ("number of 70 bits", "bad_value"),
    ],
)
def test_damage_is_a_reason(goalstep: SourceRoot, change: str, reason: str) -> None:
    path = goalstep.path / "goalstep_valid.json"
    path.write_text(json.dumps(_damaged(change, json.loads(path.read_text()))))
    root = SourceRoot(goalstep.path)
    refs, reasons = scanned(root, STEPS)
    for ref in refs.values():
        try:
            FORMAT.read(root, ref)
        except BadInput as error:
            reasons.append(error.reason)
    assert reason in reasons


def test_no_annotations_and_wrong_options(tmp_path: Path) -> None:
    assert scanned(SourceRoot(tmp_path), STEPS) == ({}, ["missing_file"])
    for wrong in ({}, {"kind": "ego4d_moments"}, {**STEPS, "window_s": [0, 0]}, {**STEPS, "fps": -1}):
        with pytest.raises(SpecError):
            list(FORMAT.scan(SourceRoot(tmp_path), None, wrong))


def test_a_damaged_narration_or_step_is_its_own_affair(narrated: SourceRoot, tmp_path: Path) -> None:
    path = narrated.path / "narration.json"
    body = json.loads(path.read_text())
    uid = next(uid for uid, record in body.items() if len(record.get("narration_pass_1", {}).get("narrations", [])) > 1)
    body[uid]["narration_pass_1"]["narrations"][0]["timestamp_sec"] = None
    path.write_text(json.dumps(body))
    root = SourceRoot(narrated.path)
    refs, _ = scanned(root, NARRATED)
    with pytest.raises(BadInput, match="timestamp_sec is null"):
        FORMAT.read(root, refs[f"{uid}/narration_pass_1/00000"])
    assert FORMAT.read(root, refs[f"{uid}/narration_pass_1/00001"]).texts["narration"]
    folder = tmp_path / "steps"
    folder.mkdir()
    write_goalstep(folder)
    path = folder / "goalstep_valid.json"
    body = json.loads(path.read_text())
    body["videos"][0]["segments"][0]["end_time"] = -1
    path.write_text(json.dumps(body))
    root = SourceRoot(folder)
    refs, _ = scanned(root, STEPS)
    uid = body["videos"][0]["video_uid"]
    with pytest.raises(BadInput, match="step_000 goes from"):
        FORMAT.read(root, refs[f"{uid}/step_000"])
    assert FORMAT.read(root, refs[f"{uid}/step_001"]).texts["goal"]


def test_a_video_that_is_no_record_is_a_problem(narrated: SourceRoot) -> None:
    path = narrated.path / "narration.json"
    body = {"version": "v2", **json.loads(path.read_text()), "lost": None, "odd": []}
    path.write_text(json.dumps(body))
    whole, problems = scanned(SourceRoot(narrated.path), NARRATED)
    assert problems.count("bad_type") == 2
    path.write_text(json.dumps({"version": "v2", "videos": {name: body[name] for name in body if name != "version"}}))
    assert scanned(SourceRoot(narrated.path), NARRATED) == (whole, problems)


def test_narrations_in_one_list_say_the_same(narrated: SourceRoot, tmp_path: Path) -> None:
    """Version 2's file of all narrations, with its own names of the same facts."""
    path = narrated.path / "narration.json"
    two = json.loads(path.read_text())
    one: dict[str, Any] = {}
    for uid, record in two.items():
        rounds = [record[name] for name in ("narration_pass_1", "narration_pass_2") if name in record]
        said = [entry for each in rounds for entry in each.get("narrations", [])]
        long = [entry for each in rounds for entry in each.get("summaries", [])]
        one[uid] = {
            "narrations": [{"time": entry["timestamp_sec"], "text": entry["narration_text"]} for entry in said],
            "summaries": [
                {"start_time": entry["start_sec"], "end_time": entry["end_sec"], "text": entry["summary_text"]}
                for entry in long
            ],
        }
    wanted = [FORMAT.read(narrated, ref) for ref in scanned(narrated, NARRATED)[0].values()]
    (narrated.path / "all_narrations_redacted.json").write_text(json.dumps({"version": "2.0", "videos": one}))
    assert len(scanned(SourceRoot(narrated.path), NARRATED)[0]) == len(wanted), "the file of two passes comes first"
    path.unlink()
    root = SourceRoot(narrated.path)
    found = FORMAT.detect(root, None)
    assert found is not None
    assert found.layout == "ego4d_narrations"
    made = [FORMAT.read(root, ref) for ref in scanned(root, NARRATED)[0].values()]
    assert [raw.texts for raw in made] == [raw.texts for raw in wanted]
    assert [raw.media["video"].digest for raw in made] == [raw.media["video"].digest for raw in wanted]
    assert made[0].upstream_id.endswith("/all/00000")
    whole = {**NARRATED, "unit": "video"}
    assert any("summary" in FORMAT.read(root, ref).texts for ref in scanned(root, whole)[0].values())
