"""Rows with regions: RynnBrain's spellings as read and written anew, plain rows, and reasons for what is not right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dataengine import images, video
from dataengine.convert import Conversion, convert
from dataengine.errors import BadInput, SpecError
from dataengine.fixtures.grounding_writer import VIDEO, write_plain, write_rynnbrain
from dataengine.fixtures.vl_writer import square
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.storage import SourceRoot
from dataengine.transforms.steps import Drop
from dataengine.transforms.vision_steps import MediaTokens, RenderGrounding

JPEG = images.encode(square("red", left=True))
PLAIN = {"layout": "grounding_jsonl", "unit": "px", "boxes": "bbox", "points": "point", "traces": "trace"}


def scan(path: Path, **options: object) -> list[EpisodeRef | ScanProblem]:
    return list(get_format("grounding_jsonl").scan(SourceRoot(path), None, options))


def read(path: Path, ref: object):
    assert isinstance(ref, EpisodeRef), ref
    return get_format("grounding_jsonl").read(SourceRoot(path), ref)


def said(episode) -> list[tuple[str, list[str]]]:
    return [(m.role, [part.get("text", part["type"]) for part in m.content]) for m in episode.messages]


def reason_of(folder: Path, row: object, **options: object) -> str:
    (folder / "rows.jsonl").write_text(row if isinstance(row, str) else json.dumps(row))
    (folder / "a.jpg").write_bytes(JPEG)
    entry = scan(folder, **options)[0]
    if isinstance(entry, ScanProblem):
        return entry.reason
    try:
        read(folder, entry)
    except BadInput as error:
        return error.reason
    return "none"


def talk(*contents: object, **more: object) -> dict[str, object]:
    roles = ("user", "assistant", "user", "assistant")
    return {"conversation": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)], **more}


IMAGE = {"type": "image", "image": "a.jpg"}
ASK = [IMAGE, {"type": "text", "text": "Where?"}]


def test_rynnbrain_rows(tmp_path):
    write_rynnbrain(tmp_path)
    found = [read(tmp_path, ref) for ref in scan(tmp_path)]
    names = ["json/rynnbrain_object.jsonl#3041", *(f"json/rynnbrain_pointing.jsonl#{key}" for key in ("7", "8", "2"))]
    assert [episode.upstream_id for episode in found] == names
    assert [episode.group for episode in found] == [VIDEO, VIDEO, f"{VIDEO}/00000.jpg", f"{VIDEO}/00000.jpg"]
    trajectory = found[1]
    assert said(trajectory) == [
        ("user", ["image"] * 3 + ["Where does the square go?"]),
        ("assistant", ["<trajectory> <frame 2>: (250, 500), (750, 500) </trajectory>"]),
    ]
    assert trajectory.attributes["thinking"] == "It goes to the right."
    assert trajectory.attributes["traces"]["items"][0]["frame"] == 2
    assert said(found[3])[1] == ("assistant", ["<affordance> <frame 0>: (250, 500) </affordance>"])
    tagged = read(tmp_path, scan(tmp_path, thinking="tags")[1])
    assert "".join(said(tagged)[1][1]).startswith("<think>It goes to the right.</think><trajectory>")


def test_its_tags_are_read_and_written_in_other_forms(tmp_path):
    write_rynnbrain(tmp_path)
    conversion = Conversion.load("rynnbrain")
    episodes = [convert(read(tmp_path, ref), conversion) for ref in scan(tmp_path)]
    assert all(MediaTokens().verdict(episode) is None for episode in episodes)
    strict = RenderGrounding("rynnbrain", source="rynnbrain")
    assert strict.relabel(episodes[0]).messages[0].content[2]["text"] == (
        "What colour has the <object> <frame 0>: (125, 250), (375, 750) </object>?"
    )
    grasp = RenderGrounding("px", source="rynnbrain").relabel(episodes[2])
    assert grasp.messages[1].content[0]["text"] == "Grasp it at [16, 32]."
    pixels = images.decode(episodes[2].media["image0"].image(0))
    assert np.abs(pixels[32, 16].astype(int) - (220, 40, 40)).max() < 30  # the point lies on the red square
    assert isinstance(RenderGrounding("qwen3_vl", source="rynnbrain").relabel(episodes[1]), Drop)  # frame_lost


def test_videos_and_frames(tmp_path):
    (tmp_path / "v.mp4").write_bytes(video.encode([np.full((32, 32, 3), 90, np.uint8)] * 3, 5))
    rows = [
        talk([{"type": "video", "video": "v.mp4"}, {"type": "text", "text": "a"}], "b"),
        talk([{"type": "video", "video": '["a.jpg", "a.jpg"]'}, {"type": "text", "text": "a"}], "b"),
    ]
    (tmp_path / "a.jpg").write_bytes(JPEG)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first, second = (read(tmp_path, ref) for ref in scan(tmp_path))
    assert (first.media["video0"].kind, first.media["video0"].frames) == ("video", 3)
    assert said(second) == [("user", ["image", "image", "a"]), ("assistant", ["b"])]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (talk(ASK, "there"), "none"),
        (talk(ASK, [{"frame1": [[1, 2], [3, 4]]}], task_type="trajectory"), "none"),
        (talk(ASK, [{"frame1": [[1, 2], [3, 4]]}]), "unknown_task"),
        (talk(ASK, [{"frame2": [[1, 2]]}]), "bad_region"),
        (talk(ASK, [{"frame0": [[1, 2]]}]), "bad_region"),
        (talk(ASK, [{"frame1": [[1, 1001]]}]), "bad_region"),
        (talk(ASK, [{"frame1": []}]), "bad_region"),
        (talk(ASK, [{"frame1": [[1, 2, 3]]}]), "bad_shape"),
        (talk(ASK, [{"frame1": [[1, 2]]}], task_type="segment"), "bad_region"),
        (talk([{"type": "image", "image": "b.jpg"}], "a"), "missing_media"),
        (talk([{"type": "image", "image": "/etc/passwd"}], "a"), "path_outside_root"),
        (talk([{"type": "audio", "audio": "a"}], "a"), "unsupported_media"),
        (talk([{"type": "image"}], "a"), "missing_key"),
        (talk([{"type": "video", "video": "[1"}], "a"), "bad_type"),
        (talk([{"type": "text", "text": ""}], "a"), "empty_message"),
        ({"conversation": [{"role": "robot", "content": "a"}]}, "bad_role"),
        ({"conversation": []}, "unknown_layout"),
        ('{"conversation": [', "json_invalid"),
        ("[1]", "bad_row"),
        ("", "empty_file"),
        ('{"id": 1, "id": 2}', "json_duplicate_key"),
    ],
)
def test_rynnbrain_rows_that_are_not_right(tmp_path, row, reason):
    assert reason_of(tmp_path, row) == reason


def test_plain_rows(tmp_path):
    write_plain(tmp_path)
    options = Conversion.load("plain_grounding").converter.format.options
    box, point, trace = (read(tmp_path, ref) for ref in scan(tmp_path, **options))
    assert said(box) == [("user", ["image", "Where is the square?"]), ("assistant", ["square [8, 16, 24, 48]"])]
    assert point.attributes["points"] == {
        "unit": "px",
        "items": [{"label": None, "xy": [48, 32]}],
        "size_wh": [64, 64],
    }
    assert said(trace)[1] == ("assistant", ["[[8, 16], [24, 16], [24, 48]]"])
    pixels = images.decode(point.media["image0"].image(0))
    assert np.abs(pixels[32, 48].astype(int) - (40, 80, 220)).max() < 30
    written = RenderGrounding("0-1000", source="px").relabel(convert(box, Conversion.load("plain_grounding")))
    assert written.messages[1].content[0]["text"] == "square [125, 250, 375, 750]"


def test_plain_rows_with_other_forms(tmp_path):
    row = {"image": "a.jpg", "box": [[8, 16, 16, 32], [0, 0, 4, 4]], "names": ["a", "b"]}
    assert reason_of(tmp_path, row, layout="grounding_jsonl", unit="px", boxes="box", corners="xywh") == "none"
    ref = scan(
        tmp_path, layout="grounding_jsonl", unit="px", boxes="box", corners="xywh", label="names", question="Find."
    )
    assert said(read(tmp_path, ref[0])) == [
        ("user", ["image", "Find."]),
        ("assistant", ["a [8, 16, 24, 48]\nb [0, 0, 4, 4]"]),
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"image": "a.jpg"}, "no_annotation"),
        ({"image": "a.jpg", "bbox": [1, 2, 3]}, "bad_shape"),
        ({"image": "a.jpg", "bbox": [3, 2, 1, 4]}, "bad_region"),
        ({"image": "a.jpg", "bbox": "1, 2, 3, 4"}, "bad_type"),
        ({"image": "a.jpg", "point": [1, "2"]}, "bad_type"),
        ({"image": "a.jpg", "trace": [[1, 2], [3]]}, "bad_shape"),
        ({"image": "a.jpg", "point": [1, 2], "width": 65, "height": 64}, "size_mismatch"),
        ({"image": 4, "point": [1, 2]}, "bad_type"),
        ({"point": [1, 2]}, "missing_key"),
    ],
)
def test_plain_rows_that_are_not_right(tmp_path, row, reason):
    assert reason_of(tmp_path, row, **PLAIN) == reason


@pytest.mark.parametrize(
    ("unit", "change", "reason"),
    [
        ("px", {"bbox": [-1, 0, 65, 49]}, "none"),
        ("px", {"bbox": [1, 2, 300, 40]}, "bad_region"),
        ("px", {"point": [5, 90]}, "bad_region"),
        ("px", {"trace": [[1, 2], [-40, 3]]}, "bad_region"),
        ("px", {"bbox": [[1, 2, 3, 4], [1, 2, 3, 400]]}, "bad_region"),
        ("frac", {"bbox": [0.1, 0.2, 1.0, 1.0]}, "none"),
        ("frac", {"bbox": [1, 2, 30, 40]}, "bad_region"),
        ("0-1000", {"bbox": [1, 2, 1000, 1200]}, "bad_region"),
    ],
)
def test_regions_of_another_unit_or_picture(tmp_path, unit, change, reason):
    (tmp_path / "wide.jpg").write_bytes(images.encode(np.zeros((48, 64, 3), np.uint8)))
    row = {"image": "wide.jpg", "question": "Where?", **change}
    assert reason_of(tmp_path, row, **{**PLAIN, "unit": unit, "text": "question"}) == reason


def test_nothing_is_guessed_and_nothing_else_is_claimed(tmp_path, data):
    for options in (
        {"layout": "grounding_jsonl", "boxes": "bbox"},
        {"layout": "grounding_jsonl", "unit": "px"},
        {"layout": "x"},
        {"thinking": True},
    ):
        with pytest.raises(SpecError):
            scan(tmp_path, **options)
    for other in ("vision_language", "navigation/r2r_discrete", "egocentric/hot3d"):
        root = SourceRoot(data / other)
        for path in root.glob("**/*.json*")[:60]:
            assert get_format("grounding_jsonl").detect(root, path) is None, path


def test_a_neighbour_changes_no_digest(tmp_path):
    write_plain(tmp_path)
    before = read(tmp_path, scan(tmp_path, **PLAIN)[0]).raw_digest
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join([lines[0], lines[2]]))
    assert read(tmp_path, scan(tmp_path, **PLAIN)[0]).raw_digest == before
