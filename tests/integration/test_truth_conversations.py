"""Conversation data, converted, against the files read by json alone: what is usable, its messages and its bytes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from dataengine import images, video
from dataengine.convert import Conversion, convert
from dataengine.errors import BadInput
from dataengine.formats.base import EpisodeRef, get_format
from dataengine.specs.converter import load_converter
from dataengine.storage import SourceRoot

ROLES = {"human": "user", "gpt": "assistant"}


def converted(folder, name):
    """Episodes by upstream id, and the reasons of those that cannot be used."""
    converter = load_converter(name)
    conversion = Conversion.of(converter)
    root, conversations = SourceRoot(folder), get_format(converter.format.name)
    episodes, dropped = {}, {}
    for ref in conversations.scan(root, None, converter.format.options):
        assert isinstance(ref, EpisodeRef), ref
        try:
            episodes[ref.upstream_id] = convert(conversations.read(root, ref), conversion)
        except BadInput as error:
            dropped[ref.upstream_id] = error
    return episodes, dropped


def listed(row, key):
    value = row.get(key, [])
    return value if isinstance(value, list) else [value]


def flattened(messages):
    """Messages as role, loss and the text with placeholders, the way the source writes them."""
    marks = {"image": "<image>", "video": "<video>"}
    return [
        (message.role, message.loss, "".join(marks.get(part["type"], part.get("text")) for part in message.content))
        for message in messages
    ]


def expected_messages(row):
    turns = [(ROLES[turn["from"]], turn["from"] == "gpt", turn["value"]) for turn in row["conversations"]]
    prompt = row.get("system_prompt")
    return ([("system", False, prompt)] if prompt else []) + turns


def check_item(episode, row, media_paths):
    """The messages as the row has them, and every medium the very bytes of its file."""
    assert flattened(episode.messages) == expected_messages(row)
    referenced = [part["media"] for message in episode.messages for part in message.content if "media" in part]
    assert sorted(referenced) == sorted(episode.media)
    assert len(episode.media) == len(media_paths)
    for name, path in media_paths.items():
        data = path.read_bytes()
        assert episode.media[name].payload == data
        assert episode.media[name].digest == hashlib.sha256(data).hexdigest()
    assert {Path(file.path).name for file in episode.files} >= {path.name for path in media_paths.values()}
    assert episode.family == "vision_language"
    assert episode.steps == 1
    assert episode.state is episode.action is None


class TestLlavaConversations:
    """94 rows in seven files; most list media that are not there."""

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, data):
        return data / "vision_language/llava_conversations"

    @pytest.fixture(scope="class")
    @classmethod
    def rows(cls, folder):
        return {
            f"{path.name}#{number}": row
            for path in sorted(folder.glob("*.json"))
            for number, row in enumerate(json.loads(path.read_text()))
        }

    @pytest.fixture(scope="class")
    @classmethod
    def found(cls, folder):
        return converted(folder, "llava_conversations")

    @staticmethod
    def media(folder, row):
        paths = {f"image{i}": folder / "images" / name for i, name in enumerate(listed(row, "image"))}
        return paths | {f"video{i}": folder / "videos" / name for i, name in enumerate(listed(row, "video"))}

    def test_what_is_usable(self, folder, rows, found):
        episodes, dropped = found
        assert len(rows) == 94
        present = {name for name, row in rows.items() if all(map(Path.is_file, self.media(folder, row).values()))}
        assert len(present) == 9
        assert episodes.keys() == present
        assert dropped.keys() == rows.keys() - present
        assert Counter(error.reason for error in dropped.values()) == {"missing_media": 85}
        assert Counter(name.split("#")[0] for name in episodes) == {
            "multi_images.json": 1,
            "single_image.json": 2,
            "single_image_has_text_only.json": 4,
            "video.json": 2,
        }
        for name, error in dropped.items():
            absent = [path.name for path in self.media(folder, rows[name]).values() if not path.is_file()]
            assert absent[0] in error.what

    def test_the_bytes_say_what_an_image_is_not_its_name(self, folder, found):
        """soccer1.jpg is a PNG and soccer2.jpg a WebP: kept as they are, and called what they are."""
        media = found[0]["multi_images.json#0"].media
        assert (folder / "images/soccer1.jpg").read_bytes()[1:4] == b"PNG"
        webp = (folder / "images/soccer2.jpg").read_bytes()
        assert webp[:4] + webp[8:12] == b"RIFFWEBP"
        assert [media[f"image{index}"].codec for index in (0, 1)] == ["png", "webp"]
        assert (media["image0"].height, media["image0"].width) == (912, 1368)

    def test_messages_and_bytes(self, folder, rows, found):
        for name, episode in found[0].items():
            check_item(episode, rows[name], self.media(folder, rows[name]))

    def test_by_hand(self, found):
        """Row 0 of video.json has its video in the first question and its image in the second."""
        episode = found[0]["video.json#0"]
        assert [message.role for message in episode.messages] == ["system", "user", "assistant", "user", "assistant"]
        assert [message.loss for message in episode.messages] == [False, False, True, False, True]
        assert list(map(dict, episode.messages[1].content)) == [
            {"type": "video", "media": "video0"},
            {"type": "text", "text": "What is this video about?"},
        ]
        assert list(map(dict, episode.messages[3].content)) == [
            {"type": "image", "media": "image0"},
            {"type": "text", "text": "What does this image show?"},
        ]
        assert episode.messages[2].content[0]["text"].startswith("This video is likely a teaser")
        image = episode.media["image0"]
        assert (image.codec, image.height, image.width) == ("jpeg", 1080, 1080)
        text_only = found[0]["single_image_has_text_only.json#2"]
        assert text_only.media == {}
        assert flattened(text_only.messages) == [
            ("user", False, "What is the capital of France?"),
            ("assistant", True, "The capital of France is Paris."),
        ]

    def test_items_with_one_picture_share_a_group(self, found):
        episodes = found[0]
        groups = {name: episode.group for name, episode in episodes.items()}
        assert groups["single_image.json#0"] == groups["single_image_has_text_only.json#0"]
        assert groups["single_image.json#0"] != groups["single_image.json#1"]
        texts = [groups[f"single_image_has_text_only.json#{row}"] for row in (2, 3)]
        assert len(set(texts)) == 2
        same = episodes["single_image.json#0"], episodes["single_image_has_text_only.json#0"]
        assert same[0].content_digest == same[1].content_digest
        assert same[0].uid != same[1].uid

    @pytest.mark.parametrize("mistake", ["swapped roles", "lost system prompt", "other bytes", "no loss", "order"])
    def test_a_planted_mistake_is_found(self, folder, rows, found, mistake):
        name = "video.json#0"
        good = found[0][name]
        messages, media = list(good.messages), dict(good.media)
        if mistake == "swapped roles":
            messages[1] = replace(messages[1], role="assistant")
        elif mistake == "lost system prompt":
            del messages[0]
        elif mistake == "other bytes":
            media["image0"] = replace(media["image0"], payload=media["image0"].payload[:-1])
        elif mistake == "no loss":
            messages[2] = replace(messages[2], loss=False)
        else:
            messages[1] = replace(messages[1], content=messages[1].content[::-1])
        with pytest.raises(AssertionError):
            check_item(replace(good, messages=tuple(messages), media=media), rows[name], self.media(folder, rows[name]))


class TestQwenDemo:
    """Image paths start with demo/, video paths lack their folder, one of three videos is absent."""

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, data):
        return data / "vision_language/qwen_vl_finetune_demo"

    @pytest.fixture(scope="class")
    @classmethod
    def found(cls, folder):
        return converted(folder, "qwen_vl_demo")

    def test_what_is_usable(self, found):
        episodes, dropped = found
        assert sorted(episodes) == [
            *(f"single_images.json#{row}" for row in range(3)),
            *(f"video.json#{row}" for row in (1, 2)),
        ]
        assert {name: error.reason for name, error in dropped.items()} == {"video.json#0": "missing_media"}
        assert "v_7bUu05RIksU.mp4" in dropped["video.json#0"].what

    def test_messages_and_bytes(self, folder, found):
        for name, episode in found[0].items():
            file, number = name.split("#")
            row = json.loads((folder / file).read_text())[int(number)]
            paths = {"image0": folder / row["image"].removeprefix("demo/")} if "image" in row else {}
            if "video" in row:
                paths["video0"] = folder / "videos" / row["video"]
            check_item(episode, row, paths)

    def test_a_placeholder_may_stand_last_and_newlines_stay(self, found):
        content = found[0]["single_images.json#2"].messages[0].content
        assert list(map(dict, content)) == [
            {"type": "text", "text": "In which year the value was 51?\n"},
            {"type": "image", "media": "image0"},
        ]
        content = found[0]["video.json#2"].messages[0].content
        assert content[1]["text"] == "\nWhat is the main activity happening in the video?"

    def test_media_decode(self, found):
        image = found[0]["single_images.json#0"].media["image0"]
        assert image.codec == "png"
        assert images.decode(image.image(0)).shape == (image.height, image.width, 3)
        clip = found[0]["video.json#1"].media["video0"]
        (_, frame), (_, last) = video.frames(clip, [0, clip.frames - 1])
        assert frame.shape == last.shape == (clip.height, clip.width, 3)


class TestLlavaEvaluation:
    """Four files in three layouts; their COCO images are not there, so nothing is usable and nothing is text-only."""

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, data):
        return data / "vision_language/llava"

    def test_every_item_lacks_its_image(self, folder):
        episodes, dropped = converted(folder, "llava_evaluation")
        assert episodes == {}
        assert Counter(name.split("#")[0] for name in dropped) == {
            "caps_boxes_coco2014_val_80.jsonl": 80,
            "coco2014_val_gpt4_qa_30x3.jsonl": 90,
            "qa90_questions.jsonl": 90,
        }
        assert {error.reason for error in dropped.values()} == {"missing_media"}
        assert "caps_boxes_coco2014_val_80.jsonl#000000296284" in dropped
        assert "000000296284.jpg" in dropped["caps_boxes_coco2014_val_80.jsonl#000000296284"].what

    def test_with_a_stand_in_image_the_layouts_read_as_they_are(self, folder, tmp_path):
        """One made-up picture under each file's first image name shows how the layouts become messages."""
        for path in folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        firsts = {path.name: json.loads(path.read_text().splitlines()[0]) for path in folder.iterdir()}
        captions, asked = firsts["caps_boxes_coco2014_val_80.jsonl"], firsts["qa90_questions.jsonl"]
        question = firsts["coco2014_val_gpt4_qa_30x3.jsonl"]
        picture = images.encode(images.decode(_PIXEL), "jpeg")
        (tmp_path / "images").mkdir()
        for row in (captions, asked, question):
            (tmp_path / "images" / row["image"]).write_bytes(picture)
        episodes, _ = converted(tmp_path, "llava_evaluation")
        first = episodes["caps_boxes_coco2014_val_80.jsonl#000000296284"]
        assert flattened(first.messages) == [("user", False, "<image>"), ("assistant", True, captions["captions"][0])]
        joined = episodes["qa90_questions.jsonl#0"]
        answer = json.loads((folder / "qa90_gpt4_answer.jsonl").read_text().splitlines()[0])
        assert flattened(joined.messages) == [
            ("user", False, "<image>" + asked["text"]),
            ("assistant", True, answer["text"]),
        ]
        assert {file.path for file in joined.files} >= {"qa90_questions.jsonl", "qa90_gpt4_answer.jsonl"}
        single = episodes["coco2014_val_gpt4_qa_30x3.jsonl#0"]
        assert flattened(single.messages) == [
            ("user", False, "<image>" + question["instruction"]),
            ("assistant", True, question["output"]),
        ]
        # Three questions a picture: each answered, all in one group.
        assert len({episodes[f"qa90_questions.jsonl#{number}"].group for number in range(3)}) == 1

    def test_boxes_are_fractions(self, folder, tmp_path):
        root = SourceRoot(tmp_path)
        rows = (folder / "caps_boxes_coco2014_val_80.jsonl").read_text().splitlines()
        (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
        for row in rows:
            (tmp_path / json.loads(row)["image"]).write_bytes(_PIXEL)
        conversations, boxes = get_format("conversation"), 0
        for ref, row in zip(conversations.scan(root, None, {}), map(json.loads, rows), strict=True):
            attributes = conversations.read(root, ref).attributes
            assert attributes["captions"] == row["captions"]
            assert attributes["boxes"]["unit"] == "frac"
            expected = [{"label": item["category"], "xyxy": item["bbox"]} for item in row["instances"]]
            assert attributes["boxes"]["items"] == expected
            for x0, y0, x1, y1 in (item["xyxy"] for item in attributes["boxes"]["items"]):
                assert 0 <= x0 < x1 <= 1
                assert 0 <= y0 < y1 <= 1
                boxes += 1
        assert boxes == 476


_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
