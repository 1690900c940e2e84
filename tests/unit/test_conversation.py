"""Conversation files that are not as they should be: reasons, never tracebacks; and every dialect as it reads."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dataengine import images, video
from dataengine.convert import Conversion, convert
from dataengine.errors import BadInput, SpecError
from dataengine.fixtures.vl_writer import (
    COLOURS,
    row,
    square,
    write_messages,
    write_rows,
    write_sharegpt4v,
    write_squares,
)
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.specs.converter import load_converter
from dataengine.storage import SourceRoot

JPEG = images.encode(square("red", left=True))
PNG = images.encode(square("blue", left=False), "png")


def scan(path, options=None, only=None):
    return list(get_format("conversation").scan(SourceRoot(path), only, options or {}))


def read(path, ref):
    return get_format("conversation").read(SourceRoot(path), ref)


def reasons(found):
    return [(entry.upstream_id, entry.reason) for entry in found if isinstance(entry, ScanProblem)]


def names(found):
    return [entry.upstream_id for entry in found if isinstance(entry, EpisodeRef)]


def parts(episode):
    return [(message.role, message.loss, [dict(part) for part in message.content]) for message in episode.messages]


def text(value):
    return {"type": "text", "text": value}


def one(tmp_path, value, media=None, options=None):
    """Write one row, and read it."""
    write_rows(tmp_path, "rows.json", [value], media)
    (ref,) = scan(tmp_path, options)
    assert isinstance(ref, EpisodeRef), ref
    return read(tmp_path, ref)


def reason_of(tmp_path, value, media=None, options=None):
    with pytest.raises(BadInput) as caught:
        one(tmp_path, value, media, options)
    return caught.value.reason


def test_squares_read_and_convert(tmp_path):
    write_squares(tmp_path, 6)
    found = scan(tmp_path, {"media_roots": ["images"]})
    assert names(found) == [f"squares.json#square-{index}" for index in range(6)]
    converter = load_converter("llava_conversations")
    episode = convert(read(tmp_path, found[5]), Conversion.of(converter))
    assert episode.media["image0"].codec == "png"
    pixels = images.decode(episode.media["image0"].image(0))
    assert tuple(pixels[32, 48]) == COLOURS["green"]
    assert tuple(pixels[32, 16]) == (128, 128, 128)
    assert parts(episode) == [
        ("user", False, [{"type": "image", "media": "image0"}, text("\nWhat does the picture show?")]),
        ("assistant", True, [text("A green square on the right.")]),
    ]


def test_pieces_stay_verbatim_and_in_order(tmp_path):
    turns = [
        {"from": "human", "value": " a <image> b\n<video><image>\n"},
        {"from": "gpt", "value": "c <b> \u00e9\r\n"},
    ]
    clip = video.encode([np.full((32, 32, 3), 90, np.uint8)] * 3, 5)
    value = {"image": ["1.jpg", "2.png"], "video": "v.mp4", "conversations": turns}
    episode = one(tmp_path, value, {"1.jpg": JPEG, "2.png": PNG, "v.mp4": clip})
    assert parts(episode) == [
        (
            "user",
            False,
            [
                text(" a "),
                {"type": "image", "media": "image0"},
                text(" b\n"),
                {"type": "video", "media": "video0"},
                {"type": "image", "media": "image1"},
                text("\n"),
            ],
        ),
        ("assistant", True, [text("c <b> \u00e9\r\n")]),
    ]
    assert {name: media.payload for name, media in episode.media.items()} == {
        "image0": JPEG,
        "video0": clip,
        "image1": PNG,
    }
    assert episode.media["video0"].frames == 3


def test_messages_dialect(tmp_path):
    value = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "<image>What?"},
            {"role": "assistant", "content": "Red."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "And "},
                    {"type": "image"},
                    {"type": "image_url", "image_url": {"url": "c.jpg"}},
                    {"type": "image", "image": "d.png"},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "Blue."}]},
        ],
        "images": ["a.jpg", "b.png"],
        "source": "made up",
    }
    episode = one(tmp_path, value, {"a.jpg": JPEG, "b.png": PNG, "c.jpg": JPEG, "d.png": PNG})
    assert [message.role for message in episode.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [message.loss for message in episode.messages] == [False, False, True, False, True]
    assert parts(episode)[3][2] == [
        text("And "),
        *({"type": "image", "media": f"image{index}"} for index in (1, 2, 3)),
    ]
    assert [episode.media[f"image{index}"].payload for index in range(4)] == [JPEG, PNG, JPEG, PNG]
    assert episode.attributes == {"source": "made up"}


def test_text_only_rows_are_items_and_null_media_are_none(tmp_path):
    episode = one(tmp_path, {**row("Hi?", "Ho."), "image": None, "note": 1})
    assert episode.media == {}
    assert episode.attributes == {"note": 1}
    assert episode.group == "rows.json#0"


MEDIA = {"images/a.jpg": JPEG, "b.jpg": PNG}
OPTIONS = {"media_roots": [".", "images"], "strip_prefix": "demo/"}


@pytest.mark.parametrize(
    ("path", "file"),
    [("a.jpg", "images/a.jpg"), ("demo/a.jpg", "images/a.jpg"), ("b.jpg", "b.jpg"), ("./b.jpg", "b.jpg")],
)
def test_media_are_found_in_the_roots_in_order(tmp_path, path, file):
    episode = one(tmp_path, row("?", "!", path), MEDIA, OPTIONS)
    assert [found.path for found in episode.files] == ["rows.json", file]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("c.jpg", "missing_media"),
        ("", "missing_media"),
        (" ", "missing_media"),
        ("demo/demo/a.jpg", "missing_media"),
        ("https://example.org/a.jpg", "missing_media"),
        ("../a.jpg", "path_outside_root"),
        ("/etc/hostname", "path_outside_root"),
        ("demo//etc/hostname", "path_outside_root"),
        ("images/../b.jpg", "path_outside_root"),
        ("link.jpg", "path_outside_root"),
        ("images", "not_a_regular_file"),
        ("x" * 5000, "unreadable_file"),
        ("rows.json", "unsupported_image"),
        ("cut.jpg", "corrupt_image"),
        ("empty.jpg", "empty_file"),
        ({"path": "b.jpg"}, "bad_type"),
        (7, "bad_type"),
        ([["b.jpg"]], "bad_type"),
        ([None], "bad_type"),
        ("a\0b", "bad_text"),
    ],
)
def test_media_that_cannot_be_used(tmp_path, path, reason):
    outside = tmp_path.parent / f"{tmp_path.name}_outside.jpg"
    outside.write_bytes(JPEG)
    (tmp_path / "link.jpg").symlink_to(outside)
    media = {**MEDIA, "cut.jpg": JPEG[:4], "empty.jpg": b""}
    assert reason_of(tmp_path, row("?", "!", path), media, OPTIONS) == reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"no video", "unsupported_video"), (b"\0\0\0\x18ftypmp42" + bytes(40), "video_unreadable")],
)
def test_videos_that_are_none(tmp_path, data, reason):
    value = {"video": "v.mp4", "conversations": [{"from": "human", "value": "<video>"}, {"from": "gpt", "value": "."}]}
    assert reason_of(tmp_path, value, {"v.mp4": data}) == reason


def turns(*values):
    return [{"from": "human" if index % 2 == 0 else "gpt", "value": value} for index, value in enumerate(values)]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"conversations": "text"}, "bad_type"),
        ({"conversations": None}, "bad_type"),
        ({"conversations": {}}, "bad_type"),
        ({"conversations": []}, "empty_episode"),
        ({"conversations": ["text"]}, "bad_type"),
        ({"conversations": [{"value": "a"}]}, "missing_key"),
        ({"conversations": [{"from": "human"}]}, "missing_key"),
        ({"conversations": [{"from": "human", "value": 5}]}, "bad_type"),
        ({"conversations": [{"from": "human", "value": None}]}, "bad_type"),
        ({"conversations": [{"from": "human", "value": ["a"]}]}, "bad_type"),
        ({"conversations": [{"from": 3, "value": "a"}]}, "bad_type"),
        ({"conversations": [{"from": "narrator", "value": "a"}]}, "bad_role"),
        ({"conversations": [{"from": "human", "value": ""}]}, "empty_message"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "missing_answer"),
        ({"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}, "missing_answer"),
        ({"conversations": turns("a", "<image>"), "image": "a.jpg"}, "unsupported_media"),
        ({"conversations": turns("a", "")}, "empty_message"),
        ({"conversations": turns("a", "b"), "system_prompt": 4}, "bad_type"),
        ({"conversations": turns("a", "b"), "image": "b.jpg"}, "placeholder_mismatch"),
        ({"conversations": turns("<image>", "b")}, "placeholder_mismatch"),
        ({"conversations": turns("<image><image>", "b"), "image": "b.jpg"}, "placeholder_mismatch"),
        ({"conversations": turns("<video>", "b"), "image": "b.jpg"}, "placeholder_mismatch"),
        ({"conversations": turns("a", "b"), "audio": "a.wav"}, "unsupported_media"),
        ({"conversations": turns("a\ud800", "b")}, "bad_text"),
        ({"conversations": turns("a\0", "b")}, "bad_text"),
        ({"conversations": turns("a" * ((1 << 20) + 1), "b")}, "bad_text"),
        ({"conversations": turns("a", "b"), "note": "\ud800"}, "bad_value"),
        ({"conversations": turns("a", "b"), "note": 10**30}, "bad_value"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "bad_role"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "unsupported_media"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "placeholder_mismatch"),
        ({"messages": [{"role": "user", "content": [{"text": "a"}]}]}, "missing_key"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "bad_type"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": 3}]}]}, "bad_type"),
        ({"messages": [{"role": "user", "content": []}]}, "empty_message"),
        ({"image": "b.jpg", "captions": [], "instances": []}, "empty_episode"),
        ({"image": "b.jpg", "captions": "one", "instances": []}, "bad_type"),
        ({"image": "b.jpg", "captions": [5], "instances": []}, "bad_type"),
        ({"image": "b.jpg", "captions": ["a"], "instances": [{"category": "x"}]}, "missing_key"),
        ({"image": "b.jpg", "captions": ["a"], "instances": [{"category": "x", "bbox": [0, 1, 1]}]}, "bad_shape"),
        ({"image": "b.jpg", "captions": ["a"], "instances": [{"category": 1, "bbox": [0, 0, 1, 1]}]}, "bad_type"),
        ({"image": "b.jpg", "captions": ["a"], "instances": {"a": 1}}, "bad_type"),
        ({"image": "b.jpg", "instruction": 1, "output": "a"}, "bad_type"),
        ({"image": "b.jpg", "instruction": "a", "output": ""}, "empty_message"),
        ({"image": ["b.jpg", "b.jpg"], "instruction": "a", "output": "b"}, "placeholder_mismatch"),
        ({"image": None, "instruction": "a", "output": "b"}, "placeholder_mismatch"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, value, reason):
    assert reason_of(tmp_path, value, MEDIA) == reason


@pytest.mark.parametrize("value", ["text", 7, None, [], True, ["conversations"]])
def test_a_row_that_is_no_object(tmp_path, value):
    write_rows(tmp_path, "rows.json", [row("a", "b"), value])
    found = scan(tmp_path)
    assert names(found) == ["rows.json#0"]
    assert reasons(found) == [("rows.json#1", "bad_row")]


GOOD = json.dumps(row("a", "b")).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_file"),
        (b"[]", "empty_file"),
        (b"[" + GOOD, "truncated"),
        (b"[" + GOOD + b",", "json_invalid"),
        (b"[" + GOOD + b"," + GOOD[:-5], "json_invalid"),
        (b"[" + GOOD + b" " + GOOD + b"]", "json_invalid"),
        (b"[" + GOOD + b"] more", "json_invalid"),
        (b"[" + GOOD + b"\xff]", "invalid_utf8"),
        (b"[" * 100_000, "json_too_deep"),
        (b"[1, 2, 3]", "bad_row"),
        (b'[{"a": 1}]', "unknown_layout"),
        (b'{"a": 1}', "unknown_layout"),
        (b'{\n"a": 1}', "json_invalid"),
    ],
)
def test_damaged_lists(tmp_path, data, reason):
    (tmp_path / "rows.json").write_bytes(data)
    assert reasons(scan(tmp_path)) == [("rows.json", reason)]
    assert names(scan(tmp_path)) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (GOOD[:-4], "json_invalid"),
        (b"\xff" + GOOD, "invalid_utf8"),
        (b"[" * 100_000, "json_too_deep"),
        (b"[1]", "bad_row"),
        (b'{"a": 1}', "unknown_layout"),
    ],
)
def test_a_damaged_line_concerns_itself_alone(tmp_path, line, reason):
    (tmp_path / "rows.jsonl").write_bytes(GOOD + b"\n" + line + b"\n\n" + GOOD + b"\n")
    found = scan(tmp_path)
    assert reasons(found) == [("rows.jsonl#1", reason)]
    assert names(found) == ["rows.jsonl#0", "rows.jsonl#2"]
    assert parts(read(tmp_path, found[2]))[1][2] == [text("b")]


@pytest.mark.parametrize("wrap", [lambda data: b"[" + data + b"]", lambda data: data + b"\n"], ids=["json", "jsonl"])
@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (b'"x": NaN', "json_nan"),
        (b'"x": 1, "x": 2', "json_duplicate_key"),
        (b'"x": ' + b"[" * 70 + b"]" * 70, "json_too_deep"),
    ],
)
def test_rows_that_only_strict_json_refuses(tmp_path, wrap, more, reason):
    name = "rows.json" if wrap(b"").startswith(b"[") else "rows.jsonl"
    (tmp_path / name).write_bytes(wrap(GOOD[:-1] + b", " + more + b"}"))
    (ref,) = scan(tmp_path)
    with pytest.raises(BadInput) as caught:
        read(tmp_path, ref)
    assert caught.value.reason == reason


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["plain", "with BOM"])
def test_rows_are_found_by_bytes_in_any_script(tmp_path, name, bom):
    rows = [row("\u4f60\u597d \U0001f600", "\u00fc"), row("second", "\u0434\u0430"), row("third", "x")]
    items = [json.dumps(value, ensure_ascii=False).encode() for value in rows]
    body = b"[ " + b" ,\n ".join(items) + b" ]\n" if name.endswith(".json") else b"\r\n".join(items)
    (tmp_path / name).write_bytes(bom + body)
    found = scan(tmp_path)
    said = [[part["text"] for message in read(tmp_path, ref).messages for part in message.content] for ref in found]
    assert said == [[turn["value"] for turn in value["conversations"]] for value in rows]


def test_a_row_keeps_its_name_when_rows_without_an_id_of_their_own_join_it(tmp_path):
    write_rows(tmp_path, "a.json", [row("q", "a", id="x"), row("q", "b", id="y")])
    write_rows(tmp_path, "b.json", [row("q", "a", id="x"), row("q", "b", id="x")])
    write_rows(tmp_path, "c.json", [row("q", "a", id="x"), row("q", "b")])
    assert names(scan(tmp_path)) == ["a.json#x", "a.json#y", "b.json#0", "b.json#1", "c.json#x", "c.json#1"]


def test_a_neighbour_changes_neither_name_nor_digest(tmp_path):
    rows = [row("q", str(index), f"{index}.jpg") for index in range(3)]
    media = {f"{index}.jpg": JPEG for index in range(4)}
    write_rows(tmp_path / "few", "rows.json", rows, media)
    write_rows(tmp_path / "more", "rows.json", [*rows, row("new", "one")], media)
    few, more = (
        {ref.upstream_id: read(place, ref) for ref in scan(place)} for place in (tmp_path / "few", tmp_path / "more")
    )
    assert {name: episode.raw_digest for name, episode in few.items()}.items() <= {
        name: episode.raw_digest for name, episode in more.items()
    }.items()
    assert len({episode.raw_digest for episode in more.values()}) == 4
    (tmp_path / "few/0.jpg").write_bytes(images.encode(square("green", left=True)))
    again = read(tmp_path / "few", scan(tmp_path / "few")[0])
    assert again.raw_digest != few["rows.json#0"].raw_digest


def test_a_file_changed_after_the_scan_is_refused(tmp_path):
    write_rows(tmp_path, "rows.json", [row("a", "b"), row("c", "d")])
    ref = scan(tmp_path)[1]
    write_rows(tmp_path, "rows.json", [row("a", "longer"), row("c", "d")])
    with pytest.raises(BadInput) as caught:
        read(tmp_path, ref)
    assert caught.value.reason == "changed_during_read"


def questions(count):
    return [{"question_id": index, "image": "b.jpg", "text": f"q{index}"} for index in range(count)]


def answers(count):
    return [{"question_id": index, "text": f"a{index}", "category": "conv"} for index in range(count)]


def test_questions_and_answers_join(tmp_path):
    write_rows(tmp_path, "q.jsonl", questions(3), MEDIA)
    write_rows(tmp_path, "a.jsonl", answers(3)[::-1])
    found = scan(tmp_path)
    assert names(found) == ["q.jsonl#0", "q.jsonl#1", "q.jsonl#2"]
    episode = read(tmp_path, found[1])
    assert parts(episode) == [
        ("user", False, [{"type": "image", "media": "image0"}, text("q1")]),
        ("assistant", True, [text("a1")]),
    ]
    assert episode.attributes == {"question_id": 1, "answer": {"category": "conv"}}
    assert [file.path for file in episode.files] == ["q.jsonl", "a.jsonl", "b.jpg"]


def test_questions_and_answers_that_do_not_pair(tmp_path):
    write_rows(tmp_path, "q.jsonl", [*questions(3), {"question_id": 1, "image": "b.jpg", "text": "again"}])
    write_rows(tmp_path, "a.jsonl", [*answers(1), {"question_id": 9, "text": "to nothing"}])
    found = scan(tmp_path)
    assert names(found) == ["q.jsonl#0"]
    assert reasons(found) == [
        ("q.jsonl#1 (row 1)", "duplicate_episode"),
        ("q.jsonl#2", "missing_answer"),
        ("q.jsonl#1 (row 3)", "duplicate_episode"),
        ("a.jsonl#9", "missing_question"),
    ]


def test_two_answer_files_are_ambiguous_until_one_is_named(tmp_path):
    write_rows(tmp_path, "q.jsonl", questions(1), MEDIA)
    write_rows(tmp_path, "a1.jsonl", answers(1))
    write_rows(tmp_path, "a2.jsonl", answers(1))
    assert [reason for _, reason in reasons(scan(tmp_path))] == ["unpaired_answers"] * 3
    assert names(scan(tmp_path, {"files": ["q.jsonl", "a2.jsonl"]})) == ["q.jsonl#0"]


def test_options(tmp_path):
    write_rows(tmp_path, "a.json", [row("q", "a")])
    write_rows(tmp_path, "b.json", [{"other": 1}])
    assert reasons(scan(tmp_path)) == [("b.json", "unknown_layout")]
    assert names(scan(tmp_path, {"files": ["a.json"]})) == ["a.json#0"]
    assert reasons(scan(tmp_path, {"files": ["a.json", "gone.json"]})) == [("gone.json", "missing_file")]
    assert reasons(scan(tmp_path, {"files": ["../a.json"]})) == [("../a.json", "path_outside_root")]
    for options in ({"media_root": ["images"]}, {"media_roots": "images"}, {"strip_prefix": 4}, {"files": [1]}):
        with pytest.raises(SpecError):
            scan(tmp_path, options)


def test_detection(tmp_path):
    conversations = get_format("conversation")
    write_squares(tmp_path, 2)
    found = conversations.detect(SourceRoot(tmp_path), None)
    assert found.confidence == 0.9
    assert found.options == {"media_roots": [".", "images"]}
    assert conversations.detect(SourceRoot(tmp_path), "squares.json").confidence == 0.9
    assert conversations.detect(SourceRoot(tmp_path / "images"), None) is None
    other = tmp_path / "other"
    write_rows(other, "info.json", [{"codebase_version": "v2.1"}])
    (other / "tasks.jsonl").write_text('{"task_index": 0, "task": "pick"}\n')
    (other / "broken.json").write_text("[{")
    assert conversations.detect(SourceRoot(other), None) is None


def test_shipped_converters_have_names_of_their_own():
    kinds = ("llava_conversations", "llava_evaluation", "qwen_vl_demo")
    converters = [load_converter(name) for name in kinds]
    assert len({converter.source.name for converter in converters}) == 3
    assert {converter.embodiment for converter in converters} == {"none"}
    assert all(converter.items for converter in converters)


def test_pictures_as_data_urls(tmp_path):
    write_messages(tmp_path)
    episodes = [read(tmp_path, ref) for ref in scan(tmp_path)]
    assert episodes[1].media["image0"].payload == (tmp_path / "images/red.png").read_bytes()
    assert parts(episodes[1])[1] == ("user", False, [text("Which colour?"), {"type": "image", "media": "image0"}])
    assert [media.payload for media in episodes[2].media.values()] == [
        (tmp_path / f"images/{colour}.png").read_bytes() for colour in ("red", "blue")
    ]
    assert len({episode.group for episode in episodes}) == 3
    assert convert(episodes[1], Conversion.load("openai_messages")).media["image0"].codec == "png"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("data:image/png;base64,", "unsupported_image"),
        ("data:image/png;base64,a", "bad_value"),
        ("data:image/png;base64,\u00e9", "bad_value"),
        ("data:text/plain;base64,YQ==", "bad_value"),
        ("data:image/png,abc", "bad_value"),
        ("https://example.org/a.png", "missing_media"),
    ],
)
def test_bad_urls(tmp_path, url, reason):
    content = [{"type": "image_url", "image_url": {"url": url}}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}]
    assert reason_of(tmp_path, {"messages": messages}) == reason


def test_one_picture_under_several_placeholders(tmp_path):
    turns = [{"from": "human", "value": "<image>a<image>b"}, {"from": "gpt", "value": "c"}]
    value = {"image": "1.jpg", "conversations": turns}
    assert reason_of(tmp_path, value, {"1.jpg": JPEG}) == "placeholder_mismatch"
    episode = one(tmp_path, value, {"1.jpg": JPEG}, {"repeated": "same"})
    assert [media.payload for media in episode.media.values()] == [JPEG, JPEG]
    assert reason_of(tmp_path, {**value, "image": ["1.jpg", "1.jpg", "1.jpg"]}, None, {"repeated": "same"}) == (
        "placeholder_mismatch"
    )
    with pytest.raises(SpecError):
        scan(tmp_path, {"repeated": True})


def test_layouts_are_told_where_they_can_be(tmp_path, data):
    write_sharegpt4v(tmp_path / "s")
    found = {
        name: get_format("conversation").detect(SourceRoot(path), None).layout
        for name, path in {
            "s": tmp_path / "s",
            "evaluation": data / "vision_language/llava",
            "llava": data / "vision_language/llava_conversations",
        }.items()
    }
    assert found == {"s": "sharegpt4v", "evaluation": "llava_evaluation", "llava": None}
    episode = read(tmp_path / "s", scan(tmp_path / "s", {"media_roots": ["data"]})[1])
    assert parts(convert(episode, Conversion.load("sharegpt4v")))[1] == (
        "assistant",
        True,
        [text("In the image there is a green square on the left.")],
    )
