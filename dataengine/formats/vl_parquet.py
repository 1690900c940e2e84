"""Parquet whose rows are items: encoded pictures in the row, beside texts, turns, or a question and its answer.

A picture is what the library `datasets` stores for its feature Image: `struct<bytes: binary, path: string>` (or a list
of them, or plain bytes). Turns: `texts` of {user, assistant} as in the_cauldron (pytorch.org/torchtune,
`the_cauldron_dataset`), `conversations` of {from, value}, `messages` of {role, content}. A row group is read at a time,
with the columns that are used alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from dataengine.episode import RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError
from dataengine.formats import fields
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options, option_names
from dataengine.formats.conversation_rows import parse
from dataengine.formats.items import ItemBuilder, media_options, text_option
from dataengine.formats.parquet import opened
from dataengine.storage import SourceRoot

COLUMNS = ("image", "turns", "question", "answer", "id")
OPTIONS = ("files", *COLUMNS, "media_roots", "strip_prefix")
MAX_GROUP_ROWS = 1 << 20
MAX_GROUP_BYTES = 2 << 30
MAX_RATIO = 200
_DETECTED_FILES = 8
_KNOWN: dict[str, tuple[str, ...]] = {
    "image": ("images", "image", "jpg", "png", "webp"),
    "turns": ("texts", "conversations", "messages", "conversation"),
    "answer": ("answer", "caption", "captions", "text", "txt"),
    "question": ("question", "prompt"),
}
_STEPS = {"episode_index", "frame_index"}


class VlParquetFormat:
    """Rows of Parquet files as items.

    Options: `files` (default every `.parquet`); the names of columns: `image` (default the first of images, image, jpg,
    png, webp), `turns` (texts, conversations, messages, conversation), or `answer` (answer, caption, captions, text,
    txt; of a list of texts the first answers, and all are kept) with `question` (question, prompt; may be absent);
    `id`, a column that names the row (default its number in the file);
    `media_roots` and `strip_prefix` for pictures that a row names by path alone (see `items`).
    """

    name: ClassVar[str] = "vl_parquet"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "Parquet with pictures in its rows, beside turns, captions, or questions and answers"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "vl_parquet",
            "vision_language",
            "Parquet of image struct<bytes, path> (or a list) and texts, conversations, messages, or captions",
            "writer library",
            2,
            "pyarrow 26.0.1; columns as torchtune's the_cauldron_dataset names them",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A Parquet file with a column of pictures and one of texts, and none of a robot's steps."""
        for path in _files(root, only, ())[:_DETECTED_FILES]:
            try:
                with opened(root, path) as file:
                    schema = file.schema_arrow
            except BadInput:
                continue
            plan = _plan(schema, {})
            if isinstance(plan, dict) and not _STEPS & set(schema.names):
                told = f"{path}: columns {', '.join(sorted(set(plan.values())))}"
                return Detection(self.name, 0.8, (told,), layout="vl_parquet")
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """One ref a row; only the files' footers are read (and the column `id`, where it is asked for)."""
        check_options(options, OPTIONS, self.name)
        asked, places = {name: text_option(options, name) for name in COLUMNS}, media_options(options)
        for path in _files(root, only, option_names(options, "files", ())):
            try:
                with opened(root, path) as file:
                    plan = _plan(file.schema_arrow, asked)
                    if isinstance(plan, str):
                        raise FormatError("unknown_layout", plan, where=path)
                    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                    names = _names(file, plan, sum(sizes), path)
                digest = root.describe(path).sha256
            except BadInput as error:
                yield ScanProblem("file", path, error.reason, error.what)
                continue
            if not names:
                yield ScanProblem("file", path, "empty_file", "it holds no row")
            number = 0
            for group, size in enumerate(sizes):
                for row in range(size):
                    name = names[number]
                    number += 1
                    if name is None:
                        what = f"the id of row {number - 1} is no text or number, or stands twice"
                        yield ScanProblem("episode", f"{path}#row {number - 1}", "duplicate_episode", what)
                        continue
                    locator = {**places, "columns": plan, "group": group, "row": row, "sha256": digest}
                    yield EpisodeRef(f"{path}#{name}", locator, (path,))

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One row: its pictures with their bytes untouched, and its turns."""
        (path,), asked = ref.files, ref.locator
        with root.unchanged(path):
            item = ItemBuilder(root, ref.upstream_id, asked)
            item.use(path)
            if item.files[0].sha256 != asked["sha256"]:
                raise FormatError("changed_during_read", f"{path} changed since it was scanned", where=path)
            table, unread = _group(
                root.path, path, asked["sha256"], asked["group"], tuple(sorted(asked["columns"].items()))
            )
        try:
            (row,) = table.slice(asked["row"], 1).to_pylist()
        except (UnicodeDecodeError, pa.ArrowException, ValueError, OverflowError) as error:
            raise EpisodeError("invalid_utf8", f"the row holds a text that is none: {error}", where=path) from None
        pictures = _pictures(row.pop(asked["columns"]["image"], None)) if "image" in asked["columns"] else []
        if any(isinstance(value, float) and not math.isfinite(value) for value in row.values()):
            raise EpisodeError("bad_value", "the row holds a number that is not finite", where=path)
        item.digested("row", row)
        _say(item, row, pictures, asked["columns"])
        if unread:
            item.attributes["unread"] = list(unread)
        # Rows about one picture stay on one side of a split.
        first = next(iter(item.media.values()), None)
        return item.episode(group=None if first is None else f"picture {first.digest}")


def _files(root: SourceRoot, only: str | None, wanted: Sequence[str]) -> list[str]:
    if only is not None:
        return [only] if only.endswith(".parquet") else []
    return [str(PurePosixPath(path)) for path in wanted] if wanted else root.glob("**/*.parquet")


def _plan(schema: pa.Schema, asked: Mapping[str, str | None]) -> dict[str, str] | str:
    """Columns by what they hold, or why these columns make no item."""
    for name, column in asked.items():
        if column is not None and column not in schema.names:
            return f"there is no column {column!r} (for {name}), only {', '.join(schema.names[:20])}"
    plan = {name: column for name, column in asked.items() if column is not None}
    if "image" not in plan:
        found = [name for name in _KNOWN["image"] if name in schema.names and _is_image(schema.field(name).type)]
        plan |= {"image": found[0]} if found else {}
    elif not _is_image(schema.field(plan["image"]).type):
        return f"the column {plan['image']!r} is {schema.field(plan['image']).type}, no picture"
    if "turns" not in plan and "answer" not in plan:
        found = [name for name in _KNOWN["turns"] if name in schema.names and _is_turns(schema.field(name).type)]
        plan |= {"turns": found[0]} if found else {}
    if "turns" not in plan:
        for kind in ("answer", "question"):
            fits = _is_answer if kind == "answer" else _is_text
            found = [name for name in _KNOWN[kind] if name in schema.names and fits(schema.field(name).type)]
            plan |= {kind: found[0]} if found and kind not in plan else {}
        if "answer" not in plan:
            return f"no column of {', '.join(schema.names[:20])} holds turns or a text"
    return plan if "image" in plan or asked else "no column holds pictures"


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        return {kind.field(i).name for i in range(kind.num_fields)} >= {"bytes"}
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_turns(kind: pa.DataType) -> bool:
    """A list of turns, or (older versions of `datasets`) one list a key of them."""
    if pa.types.is_struct(kind):
        inner = [kind.field(i) for i in range(kind.num_fields)]
        return len(inner) > 1 and all(pa.types.is_list(one.type) and _is_text(one.type.value_type) for one in inner)
    return bool((pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_struct(kind.value_type))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_answer(kind: pa.DataType) -> bool:
    """A text, or several of which each would do."""
    return _is_text(kind) or ((pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_text(kind.value_type))


def _is_plain(kind: pa.DataType) -> bool:
    return bool(_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _names(file: pq.ParquetFile, plan: Mapping[str, str], rows: int, path: str) -> list[str | None]:
    """A name a row: its number, or its value in the column `id` (None for one that is no name or stands twice)."""
    if "id" not in plan:
        return [str(number) for number in range(rows)]
    values = file.read(columns=[plan["id"]]).column(0).to_pylist()
    if len(values) != rows:
        raise FormatError("length_mismatch", f"{path}: {len(values)} ids for {rows} rows", where=path)
    names = [str(value) if isinstance(value, str | int) and value != "" else None for value in values]
    times: dict[str | None, int] = {}
    for name in names:
        times[name] = times.get(name, 0) + 1
    return [name if times[name] == 1 else None for name in names]


@lru_cache(maxsize=2)
def _group(
    folder: Path,
    path: str,
    sha256: str,  # noqa: ARG001 - part of the key
    group: int,
    columns: tuple[tuple[str, str], ...],
) -> tuple[pa.Table, tuple[str, ...]]:
    """A row group with the columns that are used and the plain ones; names of the others. Kept for the next row."""
    used = {column for _, column in columns}
    with opened(SourceRoot(folder), path) as file:
        kept = [field.name for field in file.schema_arrow if field.name in used or _is_plain(field.type)]
        told = file.metadata.row_group(group)
        places = [told.column(i) for i in range(told.num_columns)]
        chosen = [place for place in places if place.path_in_schema.split(".")[0] in kept]
        size = sum(place.total_uncompressed_size for place in chosen)
        packed = sum(place.total_compressed_size for place in chosen)
        if told.num_rows > MAX_GROUP_ROWS or size > MAX_GROUP_BYTES or size > MAX_RATIO * packed + MAX_GROUP_ROWS:
            what = f"the row group {group} claims {told.num_rows} rows in {size} bytes, packed in {packed}"
            raise FormatError("claimed_size", what, where=path)
        table = file.read_row_group(group, columns=kept)
        unread = tuple(sorted(set(file.schema_arrow.names) - set(kept)))
    if table.num_rows != told.num_rows or table.nbytes > MAX_GROUP_BYTES:
        raise FormatError("length_mismatch", f"{path}: {table.num_rows} rows of {told.num_rows}", where=path)
    return table, unread


def _pictures(value: Any) -> list[Mapping[str, Any]]:
    """The pictures of a row as {bytes, path}."""
    found = value if isinstance(value, list) else [value]
    return [one if isinstance(one, dict) else {"bytes": one} for one in found if one is not None]


def _say(
    item: ItemBuilder, row: dict[str, Any], pictures: Sequence[Mapping[str, Any]], columns: Mapping[str, str]
) -> None:
    """The messages: pictures at their placeholders, or all before the first text of the user."""
    turns = _turns(row, columns)
    if not turns:
        raise EpisodeError("empty_episode", "the row holds no turn")
    texts = [turn.get("value") for turn in turns]
    if pictures and not any("<image>" in text for text in texts if isinstance(text, str)):
        first = next((turn for turn in turns if turn.get("from") in ("human", "user")), None)
        if first is None:
            turns = [{"from": "human", "value": "<image>" * len(pictures)}, *turns]
        else:
            first["value"] = "<image>" * len(pictures) + fields.as_text(first.get("value"), "the first text")
    dialogue = parse({"conversations": turns, "image": [str(number) for number in range(len(pictures))]})
    if not pictures and "image" in columns and "turns" not in columns:
        raise EpisodeError("missing_media", "the row has no picture: its text alone means nothing")
    for number, message in enumerate(dialogue.messages):
        if all(part["type"] == "text" and not part["text"].strip() for part in message.content):
            raise EpisodeError("empty_message", f"message {number} ({message.role}) says nothing")
    for medium in dialogue.media:
        _show(item, pictures[int(medium.path)])
    item.messages = list(dialogue.messages)
    used = {columns.get(name) for name in ("turns", "question", "answer")}
    item.attributes |= {name: value for name, value in row.items() if name not in used}
    if "turns" not in columns and isinstance(row[columns["answer"]], list):
        item.attributes[columns["answer"]] = _answers(row, columns["answer"])
    sources = [turn["source"] for turn in turns if isinstance(turn.get("source"), str)]
    if sources:
        item.attributes["sources"] = sources


def _turns(row: Mapping[str, Any], columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row's turns as {from, value}."""
    if "turns" not in columns:
        asked = row[columns["question"]] if "question" in columns else None
        said = _answers(row, columns["answer"])[0]
        answer = {"from": "gpt", "value": said}
        return [answer] if asked is None else [{"from": "human", "value": asked}, answer]
    made: list[dict[str, Any]] = []
    for number, value in enumerate(_listed(row[columns["turns"]], columns["turns"])):
        turn = fields.as_object(value, f"turn {number}")
        if {"user", "assistant"} <= turn.keys():
            made += [
                {"from": "human", "value": turn["user"], "source": turn.get("source")},
                {"from": "gpt", "value": turn["assistant"]},
            ]
        elif {"role", "content"} <= turn.keys():
            made.append({"from": turn["role"], "value": _content(turn["content"])})
        else:
            made.append({"from": turn.get("from"), "value": turn.get("value")})
    return made


def _listed(value: Any, name: str) -> list[Any]:
    """Turns as a list, also where one list a key holds them."""
    if not isinstance(value, dict):
        return fields.as_list(value, name)
    parts = {key: fields.as_list(part, f"{name}.{key}") for key, part in value.items()}
    lengths = {key: len(part) for key, part in parts.items()}
    if len(set(lengths.values())) > 1:
        raise EpisodeError("length_mismatch", f"{name}: {lengths}")
    return [dict(zip(parts, turn, strict=True)) for turn in zip(*parts.values(), strict=True)]


def _answers(row: Mapping[str, Any], column: str) -> list[str]:
    """The text of a column, or its texts; `empty_episode` for none."""
    found = row[column] if isinstance(row[column], list) else [row[column]]
    if not found:
        raise EpisodeError("empty_episode", f"{column} is a list of no texts")
    return [fields.as_text(text, column) for text in found]


def _content(value: Any) -> Any:
    """A message's content: a text, or typed parts as one text with a placeholder for each picture."""
    if not isinstance(value, list):
        return value
    said = []
    for number, part in enumerate(value):
        found = fields.as_object(part, f"part {number}")
        kind = found.get("type")
        if kind == "text":
            said.append(fields.as_text(found.get("text"), f"part {number}: text"))
        elif kind == "image":
            said.append("<image>")
        else:
            raise EpisodeError("unsupported_media", f"part {number} is of the type {str(kind)[:40]!r}")
    return "".join(said)


def _show(item: ItemBuilder, one: Mapping[str, Any]) -> None:
    """Take a picture by its bytes, or by its path where the row holds no bytes."""
    data, path = one.get("bytes"), one.get("path")
    name = f"image{len(item.media)}"
    if isinstance(data, bytes):
        item.held(data, str(path)[:200])
    elif isinstance(path, str):
        item.find([path])
    else:
        raise EpisodeError("missing_media", f"{name} has neither bytes nor a file")
