"""Parquet with pictures in its rows: every column style, bytes as they came, and reasons for what is not."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataengine import images
from dataengine.convert import Conversion, convert
from dataengine.errors import BadInput, SpecError
from dataengine.fixtures.vl_parquet_writer import IMAGE, cauldron_row, write_cauldron
from dataengine.fixtures.vl_writer import square
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.storage import SourceRoot

PNG = images.encode(square("blue", left=False), "png")
ONE = {"bytes": PNG, "path": "a.png"}


def scan(path: Path, **options: object) -> list[EpisodeRef | ScanProblem]:
    return list(get_format("vl_parquet").scan(SourceRoot(path), None, options))


def read(path: Path, ref: object):
    assert isinstance(ref, EpisodeRef), ref
    return get_format("vl_parquet").read(SourceRoot(path), ref)


def said(episode) -> list[tuple[str, list[str]]]:
    return [(m.role, [part.get("text", part["type"]) for part in m.content]) for m in episode.messages]


def write(folder: Path, rows: list[dict], **types: pa.DataType) -> Path:
    table = pa.Table.from_pylist(rows)
    for name, kind in types.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, pa.array([row[name] for row in rows], kind))
    pq.write_table(table, folder / "t.parquet")
    return folder


def reason_of(folder: Path, **options: object) -> str:
    entry = scan(folder, **options)[-1]
    if isinstance(entry, ScanProblem):
        return entry.reason
    try:
        read(folder, entry)
    except BadInput as error:
        return error.reason
    return "none"


def test_the_cauldron(tmp_path):
    write_cauldron(tmp_path)
    found = scan(tmp_path)
    assert [ref.upstream_id for ref in found][4:] == [
        "squares/train-00000-of-00002.parquet#4",
        "squares/train-00001-of-00002.parquet#0",
    ]
    for number in (3, 2, 0, 5):
        episode = convert(read(tmp_path, found[number]), Conversion.load("the_cauldron"))
        row = cauldron_row(number)
        assert [media.payload for media in episode.media.values()] == [one["bytes"] for one in row["images"]]
        first = ["image"] * len(row["images"])
        turns = [(role, [turn[role]]) for turn in row["texts"] for role in ("user", "assistant")]
        assert said(episode) == [("user", [*first, *turns[0][1]]), *turns[1:]]
        assert episode.attributes["sources"] == ["squares"] * len(row["texts"])


def test_other_columns(tmp_path):
    conversation = [{"from": "human", "value": "a<image>b"}, {"from": "gpt", "value": "c"}]
    write(tmp_path, [{"image": ONE, "conversations": conversation, "score": 0.5, "blob": b"x", "id": "k"}])
    (ref,) = scan(tmp_path, id="id")
    assert ref.upstream_id == "t.parquet#k"
    episode = read(tmp_path, ref)
    assert said(episode) == [("user", ["a", "image", "b"]), ("assistant", ["c"])]
    assert episode.attributes == {"score": 0.5, "id": "k", "unread": ["blob"]}
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}]
    write(tmp_path, [{"image": ONE, "messages": messages}])
    assert said(read(tmp_path, scan(tmp_path)[0])) == [("user", ["image", "a"]), ("assistant", ["c"])]
    typed = [{"type": "text", "text": "a"}, {"type": "image", "text": None}, {"type": "text", "text": "b"}]
    messages = [{"role": "user", "content": typed}, {"role": "assistant", "content": typed[:1]}]
    write(tmp_path, [{"images": [ONE], "messages": messages}])
    assert said(read(tmp_path, scan(tmp_path)[0])) == [("user", ["a", "image", "b"]), ("assistant", ["a"])]
    write(tmp_path, [{"jpg": PNG, "txt": "a square"}])  # img2dataset's other output
    assert said(read(tmp_path, scan(tmp_path)[0])) == [
        ("user", ["image"]),
        ("assistant", ["a square"]),
    ]
    write(tmp_path, [{"image": {"bytes": None, "path": "p/a.png"}, "question": "q", "answer": "a"}], image=IMAGE)
    (tmp_path / "p").mkdir()
    (tmp_path / "p/a.png").write_bytes(PNG)
    episode = read(tmp_path, scan(tmp_path)[0])
    assert said(episode) == [("user", ["image", "q"]), ("assistant", ["a"])]
    assert episode.media["image0"].payload == PNG


def test_several_captions(tmp_path):
    """As data sets of captions keep them: the first answers, none is lost, and none at all is told."""
    rows = [{"image": ONE, "caption": ["a square", "ein Quadrat"]}, {"image": ONE, "caption": []}]
    write(tmp_path, rows, image=IMAGE)
    assert get_format("vl_parquet").detect(SourceRoot(tmp_path), None) is not None
    first, second = scan(tmp_path)
    episode = read(tmp_path, first)
    assert said(episode) == [("user", ["image"]), ("assistant", ["a square"])]
    assert episode.attributes["caption"] == ["a square", "ein Quadrat"]
    with pytest.raises(BadInput) as caught:
        read(tmp_path, second)
    assert caught.value.reason == "empty_episode"


def test_no_row_sees_another(tmp_path):
    rows = [{"image": ONE, "caption": f"c{number}"} for number in range(4)]
    write(tmp_path, rows)
    before = read(tmp_path, scan(tmp_path)[1]).raw_digest
    rows[0]["caption"] = rows[2]["caption"] = "other"
    write(tmp_path, rows)
    assert read(tmp_path, scan(tmp_path)[1]).raw_digest == before


TURNS = [{"user": "q", "assistant": "a"}]


@pytest.mark.parametrize(
    ("rows", "types", "reason"),
    [
        ([{"image": ONE, "texts": []}], {"texts": pa.list_(pa.struct([("user", pa.string())]))}, "empty_episode"),
        ([{"image": ONE, "texts": [{"user": "q", "assistant": None}]}], {}, "bad_type"),
        ([{"image": ONE, "texts": [{"user": "<image><image>", "assistant": "a"}]}], {}, "placeholder_mismatch"),
        ([{"image": {"bytes": b"none", "path": None}, "texts": TURNS}], {}, "unsupported_image"),
        ([{"image": {"bytes": None, "path": None}, "texts": TURNS}], {"image": IMAGE}, "missing_media"),
        ([{"image": {"bytes": None, "path": "../a"}, "texts": TURNS}], {"image": IMAGE}, "path_outside_root"),
        ([{"image": ONE, "texts": [{"role": "robot", "content": "a"}]}], {}, "bad_role"),
        ([{"image": ONE, "texts": [{"role": "user", "content": [{"type": "audio"}]}]}], {}, "unsupported_media"),
        ([{"image": ONE, "caption": "a", "x": float("nan")}], {}, "bad_value"),
        ([{"image": ONE, "caption": "a\0"}], {}, "bad_text"),
        ([{"image": ONE, "number": 3}], {}, "unknown_layout"),
        ([{"image": "a.png", "other": 3}], {}, "unknown_layout"),
    ],
)
def test_bad_rows(tmp_path, rows, types, reason):
    assert reason_of(write(tmp_path, rows, **types)) == reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"image": ONE, "caption": " \n"}, "empty_message"),
        ({"image": None, "caption": "a"}, "missing_media"),
        ({"image": None, "question": "q", "answer": "a"}, "missing_media"),
        ({"image": ONE, "conversations": {"from": ["human", "gpt"], "value": ["q"]}}, "length_mismatch"),
    ],
)
def test_rows_that_say_nothing(tmp_path, row, reason):
    write(tmp_path, [row], image=IMAGE)
    assert reason_of(tmp_path) == reason


def test_turns_by_key_and_rows_of_one_picture(tmp_path):
    """Older versions of `datasets` keep a list of objects as one list a key."""
    turns = {"from": ["human", "gpt"], "value": ["<image>Who?", "Me."]}
    write(tmp_path, [{"image": ONE, "conversations": turns}, {"image": ONE, "conversations": turns}])
    first, second = (read(tmp_path, ref) for ref in scan(tmp_path))
    assert said(first) == [("user", ["image", "Who?"]), ("assistant", ["Me."])]
    assert first.group == second.group


def test_bad_files(tmp_path):
    write(tmp_path, [{"image": ONE, "caption": "a", "id": "x"}] * 2)
    assert [entry.reason for entry in scan(tmp_path, id="id")] == ["duplicate_episode"] * 2
    assert reason_of(tmp_path, answer="text") == "unknown_layout"
    data = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(data[:-20])
    assert reason_of(tmp_path) == "unreadable_file"
    pq.write_table(
        pa.table({"image": pa.array([], IMAGE), "caption": pa.array([], pa.string())}), tmp_path / "t.parquet"
    )
    assert reason_of(tmp_path) == "empty_file"
    with pytest.raises(SpecError):
        scan(tmp_path, image=3)


def test_a_bomb_is_not_inflated(tmp_path):
    text = "a" * (4 << 20)
    table = pa.table({"image": pa.array([ONE], IMAGE), "caption": pa.array([text])})
    pq.write_table(table, tmp_path / "t.parquet", compression="zstd", use_dictionary=False, write_statistics=False)
    assert reason_of(tmp_path) == "claimed_size"


def test_robots_are_not_claimed(data, tmp_path):
    write(tmp_path, [{"image": ONE, "text": "a", "episode_index": 0, "frame_index": 0}])
    assert get_format("vl_parquet").detect(SourceRoot(tmp_path), None) is None
    for other in ("robot/lerobot_v21_g1", "robot/lerobot_v30_pusht", "robot/gr00t_v20_picknplace"):
        assert get_format("vl_parquet").detect(SourceRoot(data / other), None) is None
