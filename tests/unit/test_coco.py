"""COCO files: values by hand and as pycocotools reads them, and reasons for what is not as it should be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dataengine import images
from dataengine.convert import Conversion, convert
from dataengine.errors import BadInput, EpisodeError, SpecError
from dataengine.fixtures.coco_writer import LEFT, SIZE, runs_of_box, write_coco
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.formats.coco_tables import mask_of, runs_of
from dataengine.storage import SourceRoot
from dataengine.transforms.vision_steps import RenderGrounding

FILES = {kind: f"annotations/{kind}_val2017.json" for kind in ("instances", "captions", "person_keypoints")}


def scan(path: Path, **options: object) -> list[EpisodeRef | ScanProblem]:
    return list(get_format("coco").scan(SourceRoot(path), None, options))


def read(path: Path, ref: object):
    assert isinstance(ref, EpisodeRef), ref
    return get_format("coco").read(SourceRoot(path), ref)


def said(episode) -> list[tuple[str, list[str]]]:
    return [(m.role, [part.get("text", part["type"]) for part in m.content]) for m in episode.messages]


def changed(folder: Path, kind: str, change) -> None:
    path = folder / FILES[kind]
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def problem_of(tmp_path: Path, kind: str, change) -> str:
    """The reason of the first thing that goes wrong once `change` was applied to a file of that kind."""
    changed(write_coco(tmp_path / "d"), kind, change)
    for entry in scan(tmp_path / "d", files=[FILES[kind]]):
        if isinstance(entry, ScanProblem):
            return entry.reason
        try:
            read(tmp_path / "d", entry)
        except BadInput as error:
            return error.reason
    return "none"


def test_captions(tmp_path):
    write_coco(tmp_path)
    found = scan(tmp_path, kind="captions")
    episode = read(tmp_path, found[1])
    assert episode.upstream_id == f"{FILES['captions']}#239"
    assert said(episode) == [("user", ["image"]), ("assistant", ["A green square on the right."])]
    assert episode.attributes["captions"] == ["A green square on the right.", "Grey, with a green square."]
    assert episode.media["image0"].payload == (tmp_path / "val2017/000000000239.jpg").read_bytes()
    each = scan(tmp_path, kind="captions", per="caption")
    assert len(each) == 6
    assert said(read(tmp_path, each[3]))[1] == ("assistant", ["Grey, with a green square."])


def test_boxes_lie_where_the_squares_are(tmp_path):
    """The boxes of the picture's own square, found in its pixels: a swap of axes or corners would miss it."""
    write_coco(tmp_path)
    for ref in scan(tmp_path, kind="instances"):
        episode = read(tmp_path, ref)
        pixels = images.decode(episode.media["image0"].image(0)).astype(int)
        inside = np.argwhere(np.abs(pixels - 128).max(axis=2) > 40)
        top, left = inside.min(axis=0)
        bottom, right = inside.max(axis=0) + 1
        (entry,) = episode.attributes["boxes"]["items"]
        assert entry["xyxy"] == pytest.approx([left, top, right, bottom], abs=1)


def test_detection_is_grounded_text_that_steps_rewrite(tmp_path):
    write_coco(tmp_path)
    episode = read(tmp_path, scan(tmp_path, kind="instances", question="What is there?")[0])
    assert said(episode) == [("user", ["image", "What is there?"]), ("assistant", ["person [8, 16, 24, 48]"])]
    assert [entry["label"] for entry in episode.attributes["crowds"]["items"]] == ["dog"]
    converted = convert(episode, Conversion.load("coco_detection"))
    rewritten = RenderGrounding("qwen3_vl", source="px").relabel(converted)
    assert rewritten.messages[1].content[0]["text"] == 'person {"bbox_2d": [125, 250, 375, 750]}'
    labels = read(tmp_path, scan(tmp_path, kind="instances", answer="labels")[0])
    listed = RenderGrounding("qwen3_vl", question="Where?").relabel(convert(labels, Conversion.load("coco_detection")))
    assert listed.messages[1].content[0]["text"] == "person"
    assert '"label": "person"' in listed.messages[3].content[0]["text"]


def test_masks_are_those_of_pycocotools(tmp_path):
    from pycocotools import mask

    truth = np.zeros((48, 64), np.uint8, order="F")
    truth[12:36, 40:56] = 1
    truth[0:5, 0:3] = 1
    packed = mask.encode(truth)
    for counts in (packed["counts"].decode(), None):
        runs = (
            runs_of({"size": [48, 64], "counts": counts}, (64, 48), "x")
            if counts
            else runs_of(
                {"size": [48, 64], "counts": [0, 5, 43, 5, 43, 5, 1831, *[24, 24] * 15, 24, 396]}, (64, 48), "x"
            )
        )
        assert np.array_equal(mask_of(runs, (64, 48)), truth)
        assert sum(runs[1::2]) == mask.area(packed) == 399
    rng = np.random.default_rng(5)
    for _ in range(50):
        size = tuple(int(side) for side in rng.integers(1, 70, 2))
        truth = np.asfortranarray((rng.random(size) < rng.random()).astype(np.uint8))
        counts = mask.encode(truth)["counts"].decode()
        assert np.array_equal(
            mask_of(runs_of({"size": list(size), "counts": counts}, size[::-1], "x"), size[::-1]), truth
        )
    runs = runs_of_box(LEFT)
    x, y, width, height = LEFT
    rectangle = np.zeros((SIZE, SIZE), bool)
    rectangle[y : y + height, x : x + width] = True
    assert np.array_equal(mask_of(runs, (SIZE, SIZE)), rectangle)


@pytest.mark.parametrize("counts", ["", "~", "0", "PPPPPPPPPPPPPPPPPP", [1, 2], [-1, 4097], [2.5], "é", None])
def test_bad_runs(counts):
    with pytest.raises(EpisodeError):
        runs_of({"size": [64, 64], "counts": counts}, (64, 64), "x")


def test_keypoints(tmp_path):
    write_coco(tmp_path)
    episode = read(tmp_path, scan(tmp_path, kind="keypoints")[1])
    (entry,) = episode.attributes["keypoints"]["items"]
    assert entry["names"] == ["nose", "left_eye"]
    assert entry["xyv"] == [[48, 20, 2], [0, 0, 0]]


def _annotation(**more):
    return lambda value: value["annotations"][0].update(more)


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("instances", _annotation(bbox=[1, 2, -3, 4]), "bad_value"),
        ("instances", _annotation(bbox=[9000, 2, 3, 4]), "bad_value"),
        ("instances", _annotation(bbox=[1, 1e30, 3, 4]), "bad_value"),
        ("instances", _annotation(bbox=[-9, 2, 3, 4]), "bad_value"),
        ("instances", _annotation(bbox=[1, 2, 3]), "bad_shape"),
        ("instances", _annotation(bbox=["1", 2, 3, 4]), "bad_type"),
        ("instances", _annotation(bbox=[1e999, 2, 3, 4]), "json_nan"),
        ("instances", _annotation(category_id=2), "unknown_category"),
        ("instances", _annotation(image_id=5), "missing_image"),
        ("instances", _annotation(id=901), "duplicate_episode"),
        ("instances", _annotation(segmentation=[[1, 2, 3, 4]]), "bad_shape"),
        ("instances", _annotation(segmentation={"size": [64, 63], "counts": [64 * 64]}), "bad_shape"),
        ("instances", _annotation(segmentation={"size": [64, 64], "counts": [64]}), "bad_value"),
        ("instances", _annotation(iscrowd=1), "no_annotation"),
        ("instances", lambda v: v["images"][0].update(width=65), "size_mismatch"),
        ("instances", lambda v: v["images"][0].update(id="139"), "bad_row"),
        ("instances", lambda v: v["images"].append(v["images"][0]), "duplicate_episode"),
        ("instances", lambda v: v["images"][0].update(file_name="../../secret.jpg"), "path_outside_root"),
        ("instances", lambda v: v["images"][0].update(file_name="none.jpg"), "missing_media"),
        ("instances", lambda v: v.pop("images"), "unknown_layout"),
        ("captions", _annotation(caption=5), "bad_type"),
        ("captions", _annotation(caption=""), "empty_message"),
        ("captions", lambda v: v.update(annotations=v["annotations"][2:]), "no_annotation"),
        ("person_keypoints", _annotation(keypoints=[1, 2, 3]), "length_mismatch"),
        ("person_keypoints", _annotation(keypoints=[1, 2, 3, 1, 2, 0]), "bad_value"),
    ],
)
def test_bad_files_are_told(tmp_path, kind, change, reason):
    assert problem_of(tmp_path, kind, change) == reason


def test_a_neighbour_changes_no_digest(tmp_path):
    write_coco(tmp_path)
    before = read(tmp_path, scan(tmp_path, kind="captions")[0]).raw_digest
    changed(tmp_path, "captions", lambda v: v["annotations"][2].update(caption="other"))
    assert read(tmp_path, scan(tmp_path, kind="captions")[0]).raw_digest == before


def test_optional_media_and_wrong_options(tmp_path):
    write_coco(tmp_path)
    (tmp_path / "val2017/000000000139.jpg").unlink()
    episode = read(tmp_path, scan(tmp_path, kind="captions", media="optional", question="Describe it.")[0])
    assert said(episode)[0] == ("user", ["Describe it."])
    assert episode.attributes["missing_media"] == ["000000000139.jpg"]
    for options in ({"kind": "stuff"}, {"per": "box"}, {"answer": 1}, {"question": 4}, {"media": "no"}, {"x": 1}):
        with pytest.raises(SpecError):
            scan(tmp_path, **options)


def test_detects_its_own_alone(tmp_path, data):
    detection = get_format("coco").detect(SourceRoot(write_coco(tmp_path / "c")), None)
    assert detection is not None
    assert detection.layout == "coco_json"
    for other in ("vision_language", "navigation/vlnce_r2r", "egocentric"):
        assert get_format("coco").detect(SourceRoot(data / other), None) is None
