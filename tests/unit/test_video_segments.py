"""`video_segments`: cut frames are the video's own, times in every unit, facts of the real tables, bad input."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from dataengine import video
from dataengine.convert import Conversion, convert
from dataengine.episode import Media, RawEpisode
from dataengine.errors import BadInput, EpisodeError, SpecError
from dataengine.fixtures.segments_writer import EPIC_ROWS, pictures, write_epic, write_video
from dataengine.formats import files, segments_table
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.formats.segments_text import Span, tracks
from dataengine.formats.segments_video import filled
from dataengine.specs.converter import load_converter
from dataengine.storage import SourceRoot

FORMAT = get_format("video_segments")
EPIC = {**load_converter("epic_kitchens_100_video").format.options, "tables": ["EPIC_100_validation.csv"]}
COLUMNS = {"video": "video", "start": "start", "stop": "stop", "text": "text"}


@pytest.fixture(scope="module")
def epic(tmp_path_factory: pytest.TempPathFactory) -> SourceRoot:
    folder = tmp_path_factory.mktemp("epic")
    write_epic(folder)
    return SourceRoot(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> SourceRoot:
    """A video of 90 frames at 30 Hz, a keyframe every 30."""
    folder = tmp_path_factory.mktemp("clip")
    write_video(folder / "a.mp4", 90, 30)
    return SourceRoot(folder)


def scanned(root: SourceRoot, options: dict[str, Any]) -> tuple[dict[str, EpisodeRef], list[ScanProblem]]:
    found = list(FORMAT.scan(root, None, options))
    refs = {entry.upstream_id: entry for entry in found if isinstance(entry, EpisodeRef)}
    return refs, [entry for entry in found if isinstance(entry, ScanProblem)]


def read(root: SourceRoot, options: dict[str, Any], name: str | None = None) -> RawEpisode:
    refs, problems = scanned(root, options)
    assert not problems
    return FORMAT.read(root, refs[name] if name else next(iter(refs.values())))


def hashes(media: Media) -> list[str]:
    return [hashlib.sha256(image.tobytes()).hexdigest() for _, image in video.frames(media, range(media.frames))]


def whole(root: SourceRoot, path: str) -> list[str]:
    return hashes(video.whole("video", root.read(path)))


def table(root: SourceRoot, rows: list[str], name: str = "t.csv") -> dict[str, Any]:
    (root.path / name).write_text("\n".join(["video,start,stop,text", *rows, ""]))
    return {"tables": [name], "columns": COLUMNS, "videos": ["{video}.mp4"]}


def test_a_segment_off_a_keyframe_holds_the_video_s_own_frames(epic: SourceRoot) -> None:
    made = read(epic, EPIC, "P01_11_1")
    media, original = made.media["video"], whole(epic, "P01/videos/P01_11.MP4")
    assert hashes(media) == original[53:98]  # 1.06 s to 1.96 s at 50 Hz
    assert media.foreign_frames >= 23, "the keyframe before frame 53 is frame 30"
    assert len(set(original)) == len(original), "equal frames could not show a shift"
    assert hashes(media) != original[52:97]
    assert made.arrays["time_ns"][[0, -1]].tolist() == [1_060_000_000, 1_940_000_000]
    assert made.texts == {"text": ('put "knife" down',)}
    assert made.group == "P01"


def test_every_column_is_told_and_gaps_are_named(epic: SourceRoot) -> None:
    told = read(epic, EPIC, "P01_11_1").attributes
    assert told["missing"] == ["narration_timestamp"]
    assert told["segment"]["narration_timestamp"] is None
    assert told["segment"]["all_nouns"] == ["knife", "board:chopping"]
    assert told["segment"]["all_noun_classes"] == [4, 19]
    assert told["segment"]["verb_class"] == 1
    assert told["video_info"]["resolution"] == "1920x1080"
    assert (told["start_s"], told["stop_s"]) == (1.06, 1.96)


def test_the_converter_shows_the_frames(epic: SourceRoot) -> None:
    episode = convert(read(epic, EPIC, "P01_11_1"), Conversion.load("epic_kitchens_100_video"))
    assert (episode.steps, episode.hz) == (45, 50.0)
    assert [view.name for view in episode.views] == ["head"]
    assert [(said.text, said.span) for said in episode.language] == [('put "knife" down', (0, 45))]


@pytest.mark.parametrize(
    ("times", "row", "more"),
    [
        ("seconds", "a,0.5,1.5,x", {}),
        ("clock", "a,00:00:00.5,0:00:01.500,x", {}),
        ("frames", "a,15,44,x", {"first_frame": 0}),
        ("frames", "a,16,45,x", {"first_frame": 1}),
        ("frames", "a,16,46,x", {"first_frame": 1, "stop_frame": "exclusive"}),
    ],
)
def test_every_unit_of_time_takes_the_same_frames(clip: SourceRoot, times: str, row: str, more: dict[str, Any]) -> None:
    made = read(clip, {**table(clip, [row]), "times": times, **more})
    assert hashes(made.media["video"]) == whole(clip, "a.mp4")[15:45]
    assert made.arrays["time_ns"][0] == 500_000_000


def test_seconds_count_on_the_container_s_clock(tmp_path: Path) -> None:
    """Ego4D's and EPIC's files may begin after 0; a segment is not taken from the first frame on."""
    write_video(tmp_path / "plain.mp4", 60, 30)
    with av.open(tmp_path / "plain.mp4") as source, av.open(tmp_path / "a.mp4", "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.pts += round(0.5 / packet.time_base)
                packet.dts += round(0.5 / packet.time_base)
                packet.stream = copy
                target.mux(packet)
    root = SourceRoot(tmp_path)
    made = read(root, table(root, ["a,0.6,1.0,x"]))
    assert abs(int(made.arrays["time_ns"][0]) - 600_000_000) < 1_000_000
    assert hashes(made.media["video"]) == whole(root, "plain.mp4")[3:15]


def test_a_video_s_segments_are_texts_of_its_rows(epic: SourceRoot) -> None:
    made = read(epic, {**EPIC, "unit": "video", "tracks": 2}, "P01_11")
    assert made.texts["text"][:60] == ("take plate",) * 60
    assert set(made.texts["text_2"][:53]) == {""}
    assert set(made.texts["text_2"][53:98]) == {'put "knife" down'}, "it begins before the first one ends"
    assert set(made.texts["text_2"][98:]) == {""}
    assert made.media["video"].frames == len(made.arrays["time_ns"]) == 100
    refs, _ = scanned(epic, {**EPIC, "unit": "video", "tracks": 1})
    with pytest.raises(EpisodeError, match="raise `tracks`") as caught:
        FORMAT.read(epic, refs["P01_11"])
    assert caught.value.reason == "overlapping_text"


def test_without_the_video_there_are_rows_at_its_rate_or_a_reason(tmp_path: Path) -> None:
    write_epic(tmp_path, filmed=False)
    root = SourceRoot(tmp_path)
    refs, problems = scanned(root, EPIC)
    assert not refs
    assert [problem.reason for problem in problems] == ["missing_media"] * 3
    write_video(tmp_path / "P02/videos/P02_03.MP4", 50, 50)
    options = {**EPIC, "media": "optional"}
    absent, present = read(root, options, "P01_11_0"), read(root, options, "P02_03_0")
    assert (absent.attributes["media"], len(absent.media)) == ("absent", 0)
    assert len(absent.arrays["time_ns"]) == 60
    assert (present.attributes["media"], present.media["video"].frames) == ("video", 35)
    assert np.array_equal(
        present.arrays["time_ns"], read(root, {**EPIC, "media": "none"}, "P02_03_0").arrays["time_ns"]
    )


def test_a_neighbour_changes_nothing(tmp_path: Path) -> None:
    write_epic(tmp_path, EPIC_ROWS[:1])
    one = read(SourceRoot(tmp_path), EPIC, "P01_11_0")
    write_epic(tmp_path)
    assert read(SourceRoot(tmp_path), EPIC, "P01_11_0").raw_digest == one.raw_digest


def test_reading_parses_no_table_again_and_loads_no_video_whole(
    epic: SourceRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs, _ = scanned(epic, EPIC)
    before = files._parsed.cache_info().misses

    def refused(self: SourceRoot, relative: str, limit: int = 0) -> bytes:
        raise AssertionError(f"{relative} was read whole")

    monkeypatch.setattr(SourceRoot, "read", refused)
    for ref in refs.values():
        FORMAT.read(epic, ref)
    # The table of videos is read by the first episode, where it was not before.
    assert files._parsed.cache_info().misses - before <= 1


def test_all_real_segments_of_epic_are_read(data: Path) -> None:
    root = SourceRoot(data / "egocentric/epic_kitchens_100")
    options = {**load_converter("epic_kitchens_100").format.options, "tables": ["EPIC_100_validation.csv"]}
    refs, problems = scanned(root, options)
    assert (len(refs), len(problems)) == (9668, 0)
    by_video, _ = scanned(root, {**options, "unit": "video"})
    assert len(by_video) == 138
    found = Counter[str]()
    for ref in by_video.values():
        made = FORMAT.read(root, ref)
        for entry in made.attributes["segments"]:
            row = entry["segment"]
            found["segments"] += 1
            found["no narration time"] += row["narration_timestamp"] is None
            found["nouns"] += len(row["all_nouns"]) == len(row["all_noun_classes"])
            found["frames at 60 Hz"] += abs(row["start_frame"] - entry["start_s"] * 60) < 2
            found["frames at the video's rate"] += (
                abs(row["start_frame"] - entry["start_s"] * made.attributes["declared_fps"]) < 2
            )
        found["without rows"] += len(made.attributes["segments_without_rows"])
    assert found["segments"] == found["nouns"] == found["frames at 60 Hz"] == 9668
    assert found["no narration time"] == 70
    assert found["without rows"] == 0
    assert found["frames at the video's rate"] < 2000, "start_frame is no frame number of the video"


def test_a_real_row_by_hand(data: Path) -> None:
    root = SourceRoot(data / "egocentric/epic_kitchens_100")
    made = read(root, {**load_converter("epic_kitchens_100").format.options, "tables": ["*validation.csv"]}, "P01_11_1")
    assert made.texts["text"] == ("put down plate",)
    assert made.arrays["time_ns"][0] == 1_560_000_000
    assert len(made.arrays["time_ns"]) == 54  # 0.89 s at 59.94 Hz: 53.3, so the 54th row begins before the end
    assert convert(made, Conversion.load("epic_kitchens_100")).hz == pytest.approx(59.94, abs=0.01)


def test_the_real_clip_has_one_keyframe_and_sound_that_is_not_read(data: Path, tmp_path: Path) -> None:
    root = SourceRoot(data / "egocentric/ego4d_clip_lavila")
    made = read(root, {})
    assert made.media["video"].frames == 60
    assert (made.attributes["keyframes"], made.attributes["unread"]) == (1, ["audio"])
    path = next(iter(root.glob("*.mp4")))
    shutil.copy(root.path / path, tmp_path / "a.mp4")
    copy = SourceRoot(tmp_path)
    cut = read(copy, {**table(copy, ["a,1.0,1.5,x"])}).media["video"]
    assert hashes(cut) == hashes(made.media["video"])[30:45]
    assert cut.first_frame == 30, "one keyframe: everything before comes along, and is not shown"
    with av.open(tmp_path / "a.mp4") as source:
        assert source.streams.audio
    assert video.other_streams(io.BytesIO(cut.payload)) == (), "the sound stays behind"


BAD_ROWS = [
    ("a,1.0,0.5,x", "bad_span"),
    ("a,-1,0.5,x", "bad_span"),
    ("a,nan,0.5,x", "bad_value"),
    ("a,1e999,2,x", "bad_value"),
    ("a,zero,0.5,x", "bad_value"),
    ("a,0,4.0,x", "segment_outside_video"),
    ("a,3.5,3.6,x", "segment_outside_video"),
    ("a,0.501,0.502,x", "empty_episode"),
    ("b,0,1,x", "missing_media"),
    (",0,1,x", "bad_value"),
    ("../a,0,1,x", "path_outside_root"),
    ("/etc/passwd,0,1,x", "path_outside_root"),
    ("http://host/a,0,1,x", "missing_media"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS)
def test_a_bad_row_is_a_reason_and_its_neighbour_stays(clip: SourceRoot, row: str, reason: str) -> None:
    refs, problems = scanned(clip, table(clip, [row, "a,0,1,x"], "bad.csv"))
    reasons = [problem.reason for problem in problems]
    good = 0
    for ref in refs.values():
        try:
            FORMAT.read(clip, ref)
            good += 1
        except BadInput as error:
            reasons.append(error.reason)
    assert (reasons, good) == ([reason], 1)


def test_a_stop_a_little_behind_the_end_is_taken(clip: SourceRoot) -> None:
    """P29_05_563 of EPIC-KITCHENS ends 13 ms behind its video."""
    assert read(clip, table(clip, ["a,2.0,3.05,x"])).media["video"].frames == 30


def test_two_rows_of_one_name_are_told(clip: SourceRoot) -> None:
    refs, problems = scanned(clip, table(clip, ["a,0,1,x", "a,0,1,y"], "twice.csv"))
    assert [problem.reason for problem in problems] == ["duplicate_episode"]
    assert len(refs) == 1


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("t.json", '[{"video": "a", "start": 0, "stop": 1, "text": "x"}]', None),
        ("t.jsonl", '{"video": "a", "start": 0, "stop": 1, "text": "x"}\n', None),
        ("t.tsv", "video\tstart\tstop\ttext\na\t0\t1\tx\n", None),
        ("t.json", '{"video": "a"}', "bad_type"),
        ("t.json", "[1]", "bad_type"),
        ("t.json", '[{"video": NaN}]', "json_nan"),
        ("t.csv", "", "empty_file"),
        ("t.csv", "video,start,stop,text\na,0\n", "length_mismatch"),
        ("t.csv", "video,video\n", "duplicate_column"),
    ],
)
def test_tables_of_every_kind(tmp_path: Path, name: str, text: str, reason: str | None) -> None:
    write_video(tmp_path / "a.mp4", 30, 30)
    (tmp_path / name).write_text(text)
    options = {"tables": [name], "columns": COLUMNS, "videos": ["{video}.mp4"]}
    refs, problems = scanned(SourceRoot(tmp_path), options)
    assert [problem.reason for problem in problems] == ([reason] if reason else [])
    assert len(refs) == (0 if reason else 1)


def test_tables_that_are_not_there(tmp_path: Path) -> None:
    """A pattern may find nothing beside one that does (EPIC's training rows); a name is missed."""
    write_epic(tmp_path, filmed=False)
    root, options = SourceRoot(tmp_path), {**EPIC, "media": "none"}
    assert scanned(root, {**options, "tables": ["**/EPIC_100_train.csv", "**/EPIC_100_validation.csv"]})[1] == []
    for tables in (["**/EPIC_100_train.csv"], ["EPIC_100_train.csv", "*_validation.csv"]):
        assert [problem.reason for problem in scanned(root, {**options, "tables": tables})[1]] == ["missing_file"]


def test_rows_under_a_key_of_a_json_object(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 30, 30)
    rows = [{"video": "a", "start": 0.2, "stop": 0.5, "text": "x", "tags": ["b"]}]
    (tmp_path / "t.json").write_text(json.dumps({"version": 1, "rows": rows}))
    options = {"tables": ["t.json"], "columns": COLUMNS, "videos": ["{video}.mp4"], "rows": "rows"}
    assert read(SourceRoot(tmp_path), options).attributes["segment"]["tags"] == ["b"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("['plate']", ["plate"]), ("[]", []), ("['a', \"b's\", 3, -1]", ["a", "b's", 3, -1]), (r"['it\'s']", ["it's"])],
)
def test_lists_written_as_python_does(text: str, wanted: list[str | int]) -> None:
    assert segments_table.literal(text, "x") == wanted


@pytest.mark.parametrize(
    "text", ["plate", "['a'", "[a]", "['a' 'b']", "['a',]", "[__import__('os')]", "[[1]]", "[1.5]"]
)
def test_nothing_is_evaluated(text: str) -> None:
    with pytest.raises(EpisodeError) as caught:
        segments_table.literal(text, "x")
    assert caught.value.reason == "bad_value"


def test_path_templates_are_no_format_strings() -> None:
    assert filled("{p}/v/{v}.MP4", {"p": "P01", "v": 3}) == "P01/v/3.MP4"
    for template in ("{v.__class__}", "{v!r}", "{v:>9}", "{}", "{0}", "{v}}"):
        with pytest.raises(SpecError):
            filled(template, {"v": "x"})
    with pytest.raises(EpisodeError, match="no column 'unknown'"):
        filled("{unknown}", {"v": "x"})


@pytest.mark.parametrize(
    "wrong",
    [{"tables": ["t.csv"]}, {"unit": "frame"}, {"colums": {}}, {"fps": 0}, {**EPIC, "info": None, "media": "none"}],
)
def test_wrong_options_are_the_converter_s_fault(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        list(FORMAT.scan(SourceRoot(tmp_path), None, wrong))


def test_tracks_leave_nothing_out() -> None:
    times = np.arange(10, dtype=np.int64) * 1_000_000_000
    spans = [Span("a", 0, 4, "A"), Span("b", 2, 6, "B"), Span("c", 4, 5, "C"), Span("d", 7.2, 7.4, "D")]
    texts, without = tracks("t", spans, times, 2)
    assert "".join(text or "." for text in texts["t"]) == "AAAAC....."
    assert "".join(text or "." for text in texts["t_2"]) == "..BBBB...."
    assert without == ["d"], "0.2 s between two rows: named, not lost"


@pytest.mark.parametrize("name", ["simulation", "robot", "navigation", "vision_language"])
def test_other_layouts_are_not_claimed(data: Path, name: str) -> None:
    for folder in sorted(path for path in (data / name).iterdir() if path.is_dir()):
        assert FORMAT.detect(SourceRoot(folder), None) is None, folder.name


def test_pictures_differ() -> None:
    assert len({image.tobytes() for image in pictures(120)}) == 120
    assert Fraction(30) == video.index(io.BytesIO(video.encode(pictures(3), 30))).rate


def found_in(folder: Path) -> tuple[dict[str, Any], dict[str, EpisodeRef], list[ScanProblem]]:
    """What detection says of a folder, and what its options select."""
    root = SourceRoot(folder)
    found = FORMAT.detect(root, None)
    assert found is not None
    assert found.layout == "video_table"
    refs, problems = scanned(root, dict(found.options))
    return dict(found.options), refs, problems


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("t.csv", "video;start;end;text\na;0;1;cut, then stir\n", {"delimiter": ";"}),
        ("t.csv", "video\tstart\tend\ttext\na\t0\t1\tcut, then stir\n", {"delimiter": "\t"}),
        ("t.csv", 'Video, Start, End, Description\na, 0, 1, "cut, then stir"\n', {}),
        ("t.csv", '\ufeffvideo,start,end,text\r\na.mp4,0,1,"cut, then stir"\r\n', {"videos": ["{video}"]}),
        ("t.csv", 'video,start,end,text\ra,0,1,"cut, then stir"\r', {}),
        ("t.csv", 'video,start,end,text\na,00:00:00.00,00:00:01,"cut, then stir"\n', {"times": "clock"}),
        ("t.csv", 'video,start,end,text\na,0:00,0:01.00,"cut, then stir"\n', {"times": "minutes"}),
        ("t.csv", 'filename,begin,end,sentence\na,0,1,"cut, then stir"\n', {"times": "seconds"}),
        ("notes/t.csv", 'video,start,end,text\na,0,1,"cut, then stir"\n', {"tables": ["notes/t.csv"]}),
        (
            "t.json",
            '{"v": 1, "rows": [{"video": "a", "start": 0, "end": 1, "text": "cut, then stir"}]}',
            {"rows": "rows"},
        ),
        ("t.json", '[{"video": "a", "start": 0, "end": 1, "text": "cut, then stir"}' + "," + " " * 70_000 + "{}]", {}),
    ],
)
def test_tables_as_people_write_them_are_recognised_with_their_videos(
    clip: SourceRoot, tmp_path: Path, name: str, text: str, told: dict[str, Any]
) -> None:
    (tmp_path / "videos").mkdir()
    at = tmp_path / ("a.mp4" if "a.mp4" in text else "videos/a.mp4")
    shutil.copy(clip.path / "a.mp4", at)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(text.encode())
    options, refs, _ = found_in(tmp_path)
    assert options == {**options, "videos": ["videos/{video}.mp4"], **told}
    made = FORMAT.read(SourceRoot(tmp_path), next(iter(refs.values())))
    assert made.texts["text"] == ("cut, then stir",)
    assert made.media["video"].frames == 30


def test_one_damaged_line_costs_its_own_segment_alone(clip: SourceRoot, tmp_path: Path) -> None:
    shutil.copy(clip.path / "a.mp4", tmp_path / "a.mp4")
    (tmp_path / "t.csv").write_text("video,start,end,text\na,0,1,one\na,1,2\na,2,3,three\n")
    _, refs, problems = found_in(tmp_path)
    assert [made.texts["text"] for made in (FORMAT.read(SourceRoot(tmp_path), ref) for ref in refs.values())] == [
        ("one",),
        ("three",),
    ]
    assert [(entry.upstream_id, entry.reason) for entry in problems] == [("t.csv:row 2", "length_mismatch")]
    (tmp_path / "t.csv").unlink()
    row = '{"video": "a", "start": 0, "end": 1, "text": "one"}'
    (tmp_path / "t.jsonl").write_text(f'{row}\n{{"video": "a", "start": NaN}}\n[1]\n')
    _, refs, problems = found_in(tmp_path)
    assert list(refs) == ["a/0-1"]
    assert [entry.reason for entry in problems] == ["json_nan", "bad_type"]


def test_a_table_without_rows_is_a_problem(clip: SourceRoot, tmp_path: Path) -> None:
    shutil.copy(clip.path / "a.mp4", tmp_path / "a.mp4")
    (tmp_path / "t.csv").write_text("video,start,end,text\n")
    _, refs, problems = found_in(tmp_path)
    assert not refs
    assert [entry.reason for entry in problems] == ["no_episodes"]


def test_videos_alone_none_is_passed_over(clip: SourceRoot, tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv", "b.MOV", "c.ts"):
        shutil.copy(clip.path / "a.mp4", tmp_path / name)
    root = SourceRoot(tmp_path)
    found = FORMAT.detect(root, None)
    assert found is not None
    refs, problems = scanned(root, {})
    assert list(refs) == ["a", "b"]
    assert FORMAT.read(root, refs["b"]).media["video"].frames == 90
    assert {(entry.upstream_id, entry.reason) for entry in problems} == {
        ("a.mp4", "duplicate_episode"),
        ("c.ts", "unsupported_video"),
    }


def test_folders_with_a_table_each_are_data_sets_of_their_own(clip: SourceRoot, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(clip.path / "a.mp4", tmp_path / name / "a.mp4")
        (tmp_path / name / "t.csv").write_text("video,start,end,text\na,0,1,cut\n")
    assert FORMAT.detect(SourceRoot(tmp_path), None) is None
    assert FORMAT.detect(SourceRoot(tmp_path / "one"), None) is not None
