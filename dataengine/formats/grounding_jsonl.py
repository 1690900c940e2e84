"""JSON Lines with boxes, points and traces beside pictures: RynnBrain's conversations, and plain rows.

What a row becomes is described in `grounding_rows` and `grounding_plain`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, ClassVar

from dataengine.episode import RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.formats import fields
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options, option_names
from dataengine.formats.files import cached
from dataengine.formats.grounding_plain import CORNERS, UNITS, Plain, check_within, plain
from dataengine.formats.grounding_rows import Shown, is_talk, parse_rows, talk
from dataengine.formats.items import MEDIA_OPTIONS, ItemBuilder, media_options, text_option
from dataengine.storage import SourceRoot

KEYS = ("image", "text", "answer", "label", "boxes", "points", "traces")
OPTIONS = ("files", "layout", "thinking", "unit", "corners", "question", *KEYS, *MEDIA_OPTIONS)
_HEAD = 1 << 20
_DETECTED_FILES = 32
_ROOTS = (".", "data")
_REGIONS = ("bbox", "bboxes", "box", "boxes", "point", "points", "trace", "trajectory")
_LAYOUTS = ("rynnbrain_jsonl", "grounding_jsonl")


class GroundingJsonlFormat:
    """Rows with regions.

    Options: `files` (default every `.jsonl` and `.json`); `layout`, rynnbrain_jsonl (the default) or grounding_jsonl;
    `media_roots` (default the root and `data`), `strip_prefix`, `media` (see `items`). Of RynnBrain's rows: `thinking:
    tags` (default: an attribute). Of plain rows: `unit` (px, frac or 0-1000; mandatory), `corners` (xyxy or xywh), and
    the keys of `image` (default image), `text` (the question), `answer`, `label`, `boxes`, `points`, `traces`;
    `question`, a text for rows that have none.
    """

    name: ClassVar[str] = "grounding_jsonl"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "JSON Lines with boxes, points and traces: RynnBrain's conversations, and plain rows"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "rynnbrain_jsonl",
            "vision_language",
            "RynnBrain: conversation rows with regions in tags or by frame",
            "layout fixture",
            5,
            "alibaba-damo-academy/RynnBrain at 24d35c04: rynnbrain-bench/README.md, reasoning/README.md and data",
        ),
        Layout(
            "grounding_jsonl",
            "vision_language",
            "Plain rows: a picture with bbox, point or trace under keys that the converter names",
            "layout fixture",
            3,
            "no one writer: keys, unit and corners are options; the fixture's are bbox, point, trace in pixels",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A file whose first row is one of RynnBrain's, or names a picture and regions."""
        for path in _files(root, only, ())[:_DETECTED_FILES]:
            row = _first(root, path)
            if is_talk(row):
                return Detection(
                    self.name, 0.85, (f"{path}: rows of `conversation` with role and content",), {}, _LAYOUTS[0]
                )
            held = sorted(set(_REGIONS) & row.keys()) if isinstance(row, dict) and "image" in row else []
            if held and not {"annotations", "instances", "conversations", "messages"} & row.keys():
                told = f"{path}: rows with image and {', '.join(held)}; say their unit and keys in the converter"
                return Detection(self.name, 0.4, (told,), {"layout": _LAYOUTS[1]}, _LAYOUTS[1])
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """One ref a row, in the order of files and rows."""
        check_options(options, OPTIONS, self.name)
        asked = _asked(options)
        for path in _files(root, only, option_names(options, "files", ())):
            try:
                rows = cached(root, path, parse_rows)
                digest = root.describe(path).sha256
            except BadInput as error:
                yield ScanProblem("file", path, error.reason, error.what)
                continue
            if not rows:
                yield ScanProblem("file", path, "empty_file", "it holds no row")
            for number, row in enumerate(rows):
                upstream = f"{path}#{row.key}"
                if row.problem is not None:
                    yield ScanProblem("episode", upstream, *row.problem)
                elif asked["layout"] == _LAYOUTS[0] and not is_talk(row.value):
                    what = "the row has no `conversation` of role and content"
                    yield ScanProblem("episode", upstream, "unknown_layout", what)
                else:
                    yield EpisodeRef(upstream, {**asked, "row": number, "sha256": digest}, (path,))

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One row: its media with their bytes untouched, its messages, and regions as attributes."""
        (path,), asked = ref.files, ref.locator
        with root.unchanged(path):
            item = ItemBuilder(root, ref.upstream_id, asked)
            item.use(path)
            if item.files[0].sha256 != asked["sha256"]:
                raise FormatError("changed_during_read", f"{path} changed since it was scanned", where=path)
            row = cached(root, path, parse_rows)[asked["row"]].value
        item.digested("row", row)
        if asked["layout"] == _LAYOUTS[0]:
            return _talked(item, row, keep=asked["thinking"] == "tags")
        return _plain(item, row, asked)


def _files(root: SourceRoot, only: str | None, wanted: Sequence[str]) -> list[str]:
    if only is not None:
        return [only] if only.endswith((".jsonl", ".json")) else []
    if wanted:
        return [str(PurePosixPath(path)) for path in wanted]
    return sorted([*root.glob("**/*.jsonl"), *root.glob("**/*.json")])


def _first(root: SourceRoot, path: str) -> Any:
    """The first row of a file, from its first MiB; None where that does not show it."""
    with root.open(path) as file:
        text = file.read(_HEAD).decode("utf-8-sig", errors="replace").lstrip()
    try:
        value, _ = json.JSONDecoder().raw_decode(text.removeprefix("[").lstrip())
    except (ValueError, RecursionError):
        return None
    return value


def _asked(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as plain JSON; what plain rows need is asked of them alone."""
    choices = {"layout": _LAYOUTS, "thinking": ("attribute", "tags"), "corners": CORNERS}
    asked: dict[str, Any] = {name: options.get(name, known[0]) for name, known in choices.items()}
    for name, known in choices.items():
        if asked[name] not in known:
            raise SpecError(f"the option `{name}` is one of {', '.join(known)}, not {asked[name]!r}", fix="correct it")
    if asked["layout"] == _LAYOUTS[1] and options.get("unit") not in UNITS:
        raise SpecError(
            f"plain rows do not tell their unit: the option `unit` is one of {', '.join(UNITS)}", fix="add it"
        )
    keys = {name: text_option(options, name) for name in KEYS}
    if asked["layout"] == _LAYOUTS[1] and not (keys["boxes"] or keys["points"] or keys["traces"]):
        raise SpecError("plain rows: none of `boxes`, `points`, `traces` names a key", fix="add one")
    keys["image"] = keys["image"] or "image"
    more = {"unit": options.get("unit"), "question": text_option(options, "question")}
    return {**asked, **more, "keys": keys, **media_options(options, _ROOTS)}


def _talked(item: ItemBuilder, row: Mapping[str, Any], *, keep: bool) -> RawEpisode:
    found = talk(row, thinking=keep)
    item.attributes.update(found.attributes)
    paths = []
    for turn in found.turns:
        shown = []
        for part in turn.parts:
            if isinstance(part, Shown):
                paths.append(part.path)
                shown.append(item.find([part.path], part.kind))
            else:
                shown.append({"type": "text", "text": part} if part else None)
        item.say(turn.role, *shown)
    # Items of one video, or of one picture, stay on one side of a split.
    group = str(PurePosixPath(paths[0]).parent) if _is_frame(paths) else paths[0] if paths else None
    return item.episode(group=group)


def _is_frame(paths: Sequence[str]) -> bool:
    """Whether pictures are frames of one video: several of one folder, named by numbers."""
    pure = [PurePosixPath(path) for path in paths]
    return len(pure) > 1 and len({path.parent for path in pure}) == 1 and all(path.stem.isdecimal() for path in pure)


def _plain(item: ItemBuilder, row: Mapping[str, Any], asked: Mapping[str, Any]) -> RawEpisode:
    pictures, question, answer, attributes = plain(
        row, Plain(**asked["keys"], unit=asked["unit"], corners=asked["corners"])
    )
    item.attributes.update(attributes)
    shown = [item.find([path]) for path in pictures]
    for key in ("boxes", "points", "traces"):
        size = attributes.get(key, {}).get("size_wh")
        for medium in item.media.values():
            if size is not None and size != [medium.width, medium.height]:
                what = f"the row says {size}, the picture is {medium.width, medium.height}"
                raise EpisodeError("size_mismatch", what)
    check_within(attributes, asked["unit"], [(medium.width, medium.height) for medium in item.media.values()])
    asks = question if question is not None else asked["question"]
    item.say("user", *shown, asks)
    item.say("assistant", fields.as_text(answer, "the answer"))
    return item.episode(group=pictures[0])
