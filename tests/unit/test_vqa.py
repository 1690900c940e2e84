"""Question-answering files: counts and values of the real samples, joins, and reasons for what is not as it should."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataengine import images
from dataengine.convert import Conversion, convert
from dataengine.errors import BadInput, SpecError
from dataengine.fixtures.vl_writer import square
from dataengine.fixtures.vqa_writer import write_flickr30k, write_refcoco
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.formats.unpickle import read_pickle
from dataengine.storage import SourceRoot
from dataengine.transforms.vision_steps import RenderGrounding

JPEG = images.encode(square("red", left=True))
REFS = "refcoco/refs(unc).p"


def scan(path: Path, name: str = "vqa", **options: object) -> list[EpisodeRef | ScanProblem]:
    return list(get_format(name).scan(SourceRoot(path), None, options))


def read(path: Path, ref: object, name: str = "vqa"):
    assert isinstance(ref, EpisodeRef), ref
    return get_format(name).read(SourceRoot(path), ref)


def said(episode) -> list[tuple[str, list[str]]]:
    return [(m.role, [part.get("text", part["type"]) for part in m.content]) for m in episode.messages]


def reasons(path: Path, name: str = "vqa", **options: object) -> Counter[str]:
    """What became of every entry: "read", or the reason why not."""
    found: Counter[str] = Counter()
    for entry in scan(path, name, **options):
        if isinstance(entry, ScanProblem):
            found[entry.reason] += 1
            continue
        try:
            found["read" if read(path, entry, name).messages else "nothing"] += 1
        except BadInput as error:
            found[error.reason] += 1
    return found


@pytest.mark.parametrize(
    ("converter", "expected"),
    [
        ("vqav2", {"read": 3}),
        ("visual_genome_qa", {"read": 8}),
        ("gqa", {"missing_media": 2}),
        ("nlvr2", {"missing_media": 8}),
        ("snli_ve", {"read": 16}),
        ("flickr30k", {"read": 1}),
    ],
)
def test_counts_of_the_real_samples(data, converter, expected):
    options = Conversion.load(converter).converter.format.options
    assert reasons(data / "vision_language/vqa_vg_gqa", **options) == expected


def test_every_expression_is_read(data):
    root = data / "vision_language/refcoco_expressions"
    entries = scan(root, "refcoco")
    counts = Counter(entry.upstream_id.partition("#")[0] for entry in entries if isinstance(entry, EpisodeRef))
    assert counts == {"sample_expressions_testA.json": 1984, "sample_expressions_testB.json": 1824}
    assert len(entries) == 3808
    truth = json.loads((root / "sample_expressions_testB.json").read_text())["predictions"]
    for number in (0, 9, 1823):
        episode = read(root, entries[1984 + number], "refcoco")
        assert said(episode) == [("assistant", [truth[number]["sent"]])]
        assert episode.attributes == {"ref_id": truth[number]["ref_id"]}


def test_vqav2_is_joined_by_question_id(data):
    root = data / "vision_language/vqa_vg_gqa"
    found = scan(root, layout="vqav2", media_roots=["images/vqav2"])
    episode = convert(read(root, found[1]), Conversion.load("vqav2"))
    assert said(episode)[0] == ("user", ["image", "What position is this man playing?"])
    annotations = json.loads((root / "vqav2/annotations.json").read_text())["annotations"]
    (own,) = (entry for entry in annotations if entry["question_id"] == 458752001)
    times = Counter(entry["answer"] for entry in own["answers"])
    assert said(episode)[1] == ("assistant", [times.most_common(1)[0][0]])
    assert len(episode.attributes["answers"]) == 10
    assert episode.media["image0"].payload == (root / "images/vqav2/COCO_train2014_000000458752.jpg").read_bytes()


def _vqav2(folder: Path, questions, annotations, **about):
    (folder / "000000000007.jpg").write_bytes(JPEG)
    (folder / "q.json").write_text(json.dumps({"questions": questions, **about}))
    (folder / "a.json").write_text(json.dumps({"annotations": annotations}))
    return folder


QUESTION = {"image_id": 7, "question": "What?", "question_id": 1}
ANSWERS = {"question_id": 1, "answers": [{"answer": "b"}, {"answer": "a"}, {"answer": "a"}, {"answer": "b"}]}


@pytest.mark.parametrize(
    ("questions", "annotations", "expected"),
    [
        ([QUESTION], [ANSWERS], "b"),
        ([QUESTION], [{**ANSWERS, "multiple_choice_answer": "c"}], "c"),
        ([QUESTION], [{**ANSWERS, "image_id": 8}], "bad_value"),
        ([QUESTION], [{**ANSWERS, "answers": []}], "missing_answer"),
        ([QUESTION], [{**ANSWERS, "answers": [{"answer": 4}]}], "bad_type"),
        ([QUESTION], [{**ANSWERS, "question_id": 2}], "missing_answer"),
        ([QUESTION, QUESTION], [ANSWERS], "duplicate_episode"),
        ([QUESTION], [ANSWERS, ANSWERS], "missing_answer"),
        ([{**QUESTION, "image_id": "7"}], [ANSWERS], "bad_type"),
        ([{**QUESTION, "image_id": 9}], [ANSWERS], "missing_media"),
        ([{"question": "What?"}], [ANSWERS], "bad_row"),
    ],
)
def test_vqav2_rows(tmp_path, questions, annotations, expected):
    entry = scan(_vqav2(tmp_path, questions, annotations))[0]
    try:
        told = entry.reason if isinstance(entry, ScanProblem) else said(read(tmp_path, entry))[1][1][0]
    except BadInput as error:
        told = error.reason
    assert told == expected


def test_answers_without_question_are_told(tmp_path):
    found = scan(_vqav2(tmp_path, [QUESTION], [ANSWERS, {**ANSWERS, "question_id": 2}]))
    assert [entry.reason for entry in found if isinstance(entry, ScanProblem)] == ["missing_question"]
    assert "1 of its 2" in found[-1].what


@pytest.mark.parametrize(("question", "answer"), [(" ", "a"), ("What?", " \n")])
def test_an_empty_question_or_answer_is_no_item(tmp_path, question, answer):
    place = _vqav2(tmp_path, [{**QUESTION, "question": question}], [{**ANSWERS, "multiple_choice_answer": answer}])
    assert reasons(place) == {"empty_message": 1}


def test_large_files_are_told_by_how_they_begin(tmp_path, monkeypatch):
    """Visual Genome's file and most of GQA's are larger than what is parsed to recognise them."""
    monkeypatch.setattr("dataengine.formats.vqa._DETECTED_BYTES", 16)
    written = {
        "visual_genome_qa": [{"id": 1, "qas": [{"question": "a?", "answer": "b", "image_id": 1, "qa_id": 2}]}],
        "gqa": {"7": {"question": "a?", "answer": "b", "imageId": "1"}},
        "vqav2": {"questions": [QUESTION]},
    }
    for layout, value in written.items():
        (tmp_path / "a.json").write_text(json.dumps(value))
        assert get_format("vqa").detect(SourceRoot(tmp_path), None).layout == layout
    (tmp_path / "a.json").write_text(json.dumps({"7": {"question": "a?", "answer": "b"}}))
    assert get_format("vqa").detect(SourceRoot(tmp_path), None) is None


def test_16_bit_gray_is_scaled_and_not_cut_off():
    values = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    np.testing.assert_array_equal(images.decode(buffer.getvalue()), np.repeat((values >> 8)[..., None], 3, axis=2))


def test_two_files_of_answers_are_not_guessed_between(tmp_path):
    _vqav2(tmp_path, [QUESTION], [ANSWERS])
    shutil.copy(tmp_path / "a.json", tmp_path / "b.json")
    assert reasons(tmp_path) == {"unpaired_answers": 1}
    (tmp_path / "q.json").unlink()
    assert reasons(tmp_path) == {"missing_question": 2}


def test_nlvr2_shows_left_before_right(tmp_path):
    row = {"sentence": "The left is red.", "label": "True", "identifier": "dev-850-0-1", "left_url": "x"}
    (tmp_path / "dev").mkdir()
    for side, colour in enumerate(("red", "blue")):
        path = tmp_path / "dev" / f"dev-850-0-img{side}.png"
        path.write_bytes(images.encode(square(colour, left=True), "png"))
    (tmp_path / "dev.json").write_text(json.dumps(row) + "\n" + '{"sentence": \n')
    episode = read(tmp_path, scan(tmp_path)[0])
    assert said(episode) == [("user", ["image", "image", "The left is red."]), ("assistant", ["True"])]
    shown = [images.decode(episode.media[name].image(0))[32, 16].tolist() for name in ("image0", "image1")]
    assert shown == [[220, 40, 40], [40, 80, 220]]
    assert episode.group == "dev-850"
    assert reasons(tmp_path) == {"read": 1, "json_invalid": 1}
    for bad in ({"label": "true"}, {"identifier": "dev-850"}):
        (tmp_path / "dev.json").write_text(json.dumps({**row, **bad}))
        assert reasons(tmp_path) == {"bad_value": 1}
    (tmp_path / "dev.json").write_text(json.dumps(row))
    (tmp_path / "dev/dev-850-0-img1.png").unlink()
    assert reasons(tmp_path, media="optional") == {"missing_media": 1}


def test_gqa_and_visual_genome_objects(tmp_path):
    for name in ("n1.jpg", "4.jpg"):
        (tmp_path / name).write_bytes(JPEG)
    row = {"imageId": "n1", "question": "What?", "answer": "a", "fullAnswer": "It is a."}
    (tmp_path / "g.json").write_text(json.dumps({"201": row, "202": {**row, "answer": None}}))
    thing = {"object_id": 5, "x": 8, "y": 16, "w": 16, "h": 32, "names": ["square"]}
    qa = {"question": "What?", "answer": "A square.", "image_id": 4, "qa_id": 9, "q_objects": [], "a_objects": [thing]}
    (tmp_path / "v.json").write_text(json.dumps([{"id": 4, "qas": [qa, {**qa, "qa_id": 10, "a_objects": [{}]}]}]))
    found = scan(tmp_path)
    assert [entry.upstream_id for entry in found] == ["g.json#201", "g.json#202", "v.json#9", "v.json#10"]
    assert read(tmp_path, found[0]).attributes["fullAnswer"] == "It is a."
    episode = convert(read(tmp_path, found[2]), Conversion.load("visual_genome_qa"))
    told = RenderGrounding("px", question="Where?").relabel(episode)
    assert told.messages[3].content[0]["text"] == "square [8, 16, 24, 48]"
    assert reasons(tmp_path) == {"read": 2, "bad_type": 1, "missing_key": 1}


def test_snli_ve_takes_the_picture_or_the_premise(tmp_path):
    row = {"Flickr30K_ID": "5", "gold_label": "neutral", "pairID": "5#1", "sentence1": "A.", "sentence2": "B."}
    (tmp_path / "s.jsonl").write_text(json.dumps(row))
    assert said(read(tmp_path, scan(tmp_path, media="optional")[0])) == [
        ("user", ["A.\nB."]),
        ("assistant", ["neutral"]),
    ]
    (tmp_path / "5.jpg").write_bytes(JPEG)
    assert said(read(tmp_path, scan(tmp_path)[0]))[0] == ("user", ["image", "B."])
    for label, reason in (("-", "no_label"), ("maybe", "bad_value"), (None, "bad_type")):
        (tmp_path / "s.jsonl").write_text(json.dumps({**row, "gold_label": label}))
        assert reasons(tmp_path) == {reason: 1}


def test_flickr30k_phrases_and_boxes(tmp_path, data):
    write_flickr30k(tmp_path)
    episode = read(tmp_path, scan(tmp_path)[1])
    assert said(episode) == [("user", ["image"]), ("assistant", ["A green square on a grey ground , alone ."])]
    for sentence in episode.attributes["sentences"]:
        for phrase in sentence["phrases"]:
            assert sentence["text"][phrase["start"] :].startswith(phrase["text"])
    (box,) = episode.attributes["boxes"]["items"]
    assert box == {"label": "A green square", "chain": "2", "xyxy": [40, 16, 56, 48]}  # counted from 1 in the file
    pixels = images.decode(episode.media["image0"].image(0)).astype(int)
    inside = np.argwhere(np.abs(pixels - 128).max(axis=2) > 40)
    assert [*inside.min(axis=0)[::-1], *(inside.max(axis=0)[::-1] + 1)] == pytest.approx(box["xyxy"], abs=1)
    assert episode.attributes["without_box"] == ["9"]
    real = data / "vision_language/vqa_vg_gqa"
    told = read(real, scan(real, layout="flickr30k", media_roots=["images/flickr30k"])[0]).attributes
    assert len(told["captions"]) == 5
    assert sum(len(sentence["phrases"]) for sentence in told["sentences"]) == 24
    assert told["sentences"][4]["phrases"][0] == {"chain": "253073", "types": ["other"], "text": "# 8", "start": 0}


@pytest.mark.parametrize(
    ("name", "before", "after", "reason"),
    [
        ("Sentences/1000092795.txt", "[/EN#1/other", "[/EN#1", "bad_text"),
        ("Annotations/1000092795.xml", "<annotation>", "<!DOCTYPE a><annotation>", "xml_invalid"),
        ("Annotations/1000092795.xml", "</annotation>", "", "xml_invalid"),
        ("Annotations/1000092795.xml", "<width>64</width>", "", "missing_key"),
        ("Annotations/1000092795.xml", "<width>64</width>", "<width>65</width>", "size_mismatch"),
        ("Annotations/1000092795.xml", "<xmin>9</xmin>", "<xmin>26</xmin>", "bad_value"),
        ("Annotations/1000092795.xml", "<xmin>9</xmin>", "<xmin>-9</xmin>", "bad_value"),
    ],
)
def test_bad_flickr30k(tmp_path, name, before, after, reason):
    write_flickr30k(tmp_path)
    path = tmp_path / name
    path.write_text(path.read_text().replace(before, after, 1))
    assert reasons(tmp_path) == {"read": 1, reason: 1}


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_refcoco_says_where_the_square_is(tmp_path, protocol):
    write_refcoco(tmp_path, protocol)
    found = scan(tmp_path, "refcoco")
    assert [ref.upstream_id for ref in found] == [f"{REFS}#{ref}/{sent}" for ref in range(3) for sent in range(2)]
    episode = convert(read(tmp_path, found[3], "refcoco"), Conversion.load("refcoco"))
    assert said(episode) == [("user", ["image", "square on the right"]), ("assistant", ["[40, 16, 56, 48]"])]
    pixels = images.decode(episode.media["image0"].image(0)).astype(int)
    inside = np.argwhere(np.abs(pixels - 128).max(axis=2) > 40)
    assert [*inside.min(axis=0)[::-1], *(inside.max(axis=0)[::-1] + 1)] == pytest.approx([40, 16, 56, 48], abs=1)
    told = RenderGrounding("qwen3_vl", source="px").relabel(episode)
    assert told.messages[1].content[0]["text"] == '{"bbox_2d": [625, 250, 875, 750]}'
    assert [ref.upstream_id for ref in scan(tmp_path, "refcoco", splits=["val"])] == [f"{REFS}#1/0", f"{REFS}#1/1"]


@pytest.mark.parametrize(
    "data",
    [
        b"(lp0\n(dp1\nS'sent'\np2\nS'a \\'b\\''\np3\nsS'n'\nI-5\nsS'm'\nL7L\nsg2\nF1.5\nsa.",
        (
            b"\x80\x02]q\x00}q\x01(U\x04sentq\x02U\x05a 'b'q\x03U\x01nJ\xfb\xff\xff\xffU\x01mK\x07uh\x02G?\xf8"
            b"\0\0\0\0\0\0sa."
        ),
    ],
)
def test_pickles_of_python_2(data):
    assert pickle.loads(data) == read_pickle(data, "x") == [{"sent": 1.5, "n": -5, "m": 7}]


class Harm:
    def __reduce__(self):
        return eval, ("1 + 1",)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda refs: refs.append(Harm()), {"unsafe_pickle": 1}),
        (lambda refs: refs.clear(), {"unknown_layout": 1}),
        (lambda refs: refs[0].update(ann_id=5), {"read": 4, "missing_annotation": 1}),
        (lambda refs: refs[0].update(image_id=5), {"read": 4, "bad_value": 2}),
        (lambda refs: refs[0].update(ref_id=1), {"read": 2, "duplicate_episode": 2}),
        (lambda refs: refs[0].pop("split"), {"read": 4, "missing_key": 1}),
        (lambda refs: refs[0].update(sentences=[]), {"read": 4, "empty_episode": 1}),
        (lambda refs: refs[0]["sentences"][0].update(sent="caf\u00e9"), {"read": 4, "bad_text": 1}),
        (lambda refs: refs.append(refs), {"read": 6, "bad_type": 1}),
    ],
)
def test_bad_refs(tmp_path, change, expected):
    write_refcoco(tmp_path)
    refs = pickle.loads((tmp_path / REFS).read_bytes())
    change(refs)
    (tmp_path / REFS).write_bytes(pickle.dumps(refs))
    assert reasons(tmp_path, "refcoco") == expected


def test_wrong_options_and_other_files(tmp_path, data):
    for name, options in (("vqa", {"layout": "coco"}), ("refcoco", {"layout": 1}), ("refcoco", {"splits": "val"})):
        with pytest.raises(SpecError):
            scan(tmp_path, name, **options)
    for other in ("vision_language/llava", "vision_language/llava_conversations", "navigation/r2r_discrete"):
        assert get_format("vqa").detect(SourceRoot(data / other), None) is None
        assert get_format("refcoco").detect(SourceRoot(data / other), None) is None
    (tmp_path / "x.json").write_text('{"a": 1}')
    assert reasons(tmp_path) == {"unknown_layout": 1}
    assert reasons(tmp_path, layout="gqa") == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"bbox": [1.0, 2.0, 900.0, 10.0]}, "bad_value"), ({"sent": "  "}, "empty_message")],
)
def test_a_phrase_that_means_nothing_or_a_box_far_outside(tmp_path, change, reason):
    write_refcoco(tmp_path, 2)
    (path,) = tmp_path.glob("**/instances.json")
    if "bbox" in change:
        told = json.loads(path.read_text())
        for row in told["annotations"]:
            row.update(change)
        path.write_text(json.dumps(told))
    else:
        refs = pickle.loads((path.parent / "refs(unc).p").read_bytes())
        refs[0]["sentences"][0]["sent"] = change["sent"]
        (path.parent / "refs(unc).p").write_bytes(pickle.dumps(refs, 2))
    with pytest.raises(BadInput) as caught:
        read(tmp_path, scan(tmp_path, "refcoco")[0], "refcoco")
    assert caught.value.reason == reason
