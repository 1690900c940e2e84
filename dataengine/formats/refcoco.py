"""RefCOCO, RefCOCO+, RefCOCOg: phrases that mean one object of a picture, and files of such phrases alone.

Layout (lichengunc/refer at e3bbaa30, `refer.py`): a folder with `refs(unc).p` (a pickle; the name in brackets says who
split it) and `instances.json` in COCO's layout, whose boxes are x, y, width, height in pixels. A ref's own `file_name`
is not used, as upstream says. The pickle is interpreted, never run. Files of expressions hold `predictions` [{sent,
ref_id}], without boxes or pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, ClassVar

from dataengine.documents import load_json
from dataengine.episode import RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.formats import fields
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options
from dataengine.formats.coco_tables import Tables, box_of, category_of, parse_tables, size_of
from dataengine.formats.files import cached
from dataengine.formats.items import MEDIA_OPTIONS, ItemBuilder, media_options
from dataengine.formats.unpickle import read_pickle
from dataengine.storage import SourceRoot

OPTIONS = ("layout", "splits", *MEDIA_OPTIONS)
MAX_PICKLE = 1 << 30
MAX_OPCODES = 1 << 26
SLACK = 0.1
"""How much of the picture's side the box may lie outside of it."""
_INSTANCES = "instances.json"
_ROOTS = (".", "images", "images/mscoco/images/train2014")
Refs = tuple[tuple[str, Mapping[str, Any] | None, str], ...]


class RefcocoFormat:
    """Referring expressions.

    Options: `layout`, refcoco or refcoco_expressions (default both); `splits`, a list (train, val, test, testA, testB;
    default all); `media_roots`, `strip_prefix`, `media` (see `items`).
    """

    name: ClassVar[str] = "refcoco"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "RefCOCO, RefCOCO+, RefCOCOg: phrases for one object of a picture, split by ref"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "refcoco",
            "vision_language",
            "RefCOCO family: refs(SPLITBY).p with instances.json",
            "layout fixture",
            4,
            "refer.py and README.md of lichengunc/refer at e3bbaa30",
        ),
        Layout(
            "refcoco_expressions",
            "vision_language",
            "Files of referring expressions without boxes",
            "real files",
            2,
            "vision_language/refcoco_expressions",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """`refs(*).p` beside `instances.json`, or a JSON of `predictions`."""
        for path in _pickles(root, only):
            if root.exists(_beside(path)):
                return Detection(self.name, 0.95, (path, _beside(path)), layout="refcoco")
        for path in _expressions(root, only):
            with root.open(path) as file:
                head = file.read(512).lstrip()
            if head.startswith(b"{") and b'"predictions"' in head and b'"ref_id"' in head:
                return Detection(
                    self.name, 0.9, (f"{path}: predictions with sent and ref_id",), {}, "refcoco_expressions"
                )
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """One ref a sentence, in the order of files and refs."""
        check_options(options, OPTIONS, self.name)
        layout, splits = options.get("layout"), options.get("splits", ())
        if layout not in (None, *(known.name for known in self.layouts)):
            raise SpecError(f"the option `layout` is refcoco or refcoco_expressions, not {layout!r}", fix="correct it")
        if not isinstance(splits, list | tuple) or not all(isinstance(split, str) for split in splits):
            raise SpecError(f"the option `splits` is a list of texts, not {splits!r}", fix="correct `format.options`")
        asked = media_options(options, _ROOTS)
        if layout in (None, "refcoco"):
            for path in _pickles(root, only):
                yield from self._of_pickle(root, path, splits, asked)
        if layout in (None, "refcoco_expressions"):
            for path in _expressions(root, only):
                yield from self._of_json(root, path, asked, told=layout is not None or only is not None)

    def _of_pickle(
        self, root: SourceRoot, path: str, splits: Sequence[str], asked: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        try:
            refs = cached(root, path, parse_refs)
            tables = cached(root, _beside(path), parse_tables)
        except BadInput as error:
            yield ScanProblem("file", path, error.reason, error.what)
            return
        digests = [root.describe(name).sha256 for name in (path, _beside(path))]
        by_id = {row["id"]: image for image, rows in tables.annotations.items() for row in rows}
        for number, (key, ref, problem) in enumerate(refs):
            if ref is None:
                yield ScanProblem("episode", f"{path}#{key}", *problem.split(": ", 1))
            elif not splits or ref["split"] in splits:
                image = by_id.get(ref["ann_id"])
                if image is None:
                    what = f"{_beside(path)} has no annotation {ref['ann_id']}"
                    yield ScanProblem("episode", f"{path}#{key}", "missing_annotation", what)
                    continue
                for sentence in range(len(ref["sentences"])):
                    locator = {**asked, "place": [number, sentence], "image": image, "sha256": digests}
                    yield EpisodeRef(f"{path}#{key}/{sentence}", locator, (path, _beside(path)))

    def _of_json(
        self, root: SourceRoot, path: str, asked: Mapping[str, Any], *, told: bool
    ) -> Iterator[EpisodeRef | ScanProblem]:
        try:
            rows = cached(root, path, parse_expressions)
        except BadInput as error:
            if told or error.reason != "unknown_layout":
                yield ScanProblem("file", path, error.reason, error.what)
            return
        digest = root.describe(path).sha256
        for number, (key, row) in enumerate(rows):
            if row is None:
                yield ScanProblem("episode", f"{path}#{key}", "bad_row", "the row has no text `sent`, or no `ref_id`")
            else:
                yield EpisodeRef(f"{path}#{key}", {**asked, "place": [number], "sha256": [digest]}, (path,))

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One phrase with its box and picture; an expression without them is a text alone."""
        place = ref.locator["place"]
        with root.unchanged(*ref.files):
            item = ItemBuilder(root, ref.upstream_id, ref.locator)
            item.use(*ref.files)
            if [file.sha256 for file in item.files] != ref.locator["sha256"]:
                raise FormatError("changed_during_read", f"{ref.files[0]} changed since it was scanned")
            if len(place) == 1:
                row = cached(root, ref.files[0], parse_expressions)[place[0]][1]
                return _expression(item, fields.as_object(row, "the row"))
            found = cached(root, ref.files[0], parse_refs)[place[0]][1]
            tables = cached(root, ref.files[1], parse_tables)
        return _referred(item, fields.as_object(found, "the ref"), place[1], tables, ref.locator["image"])


def _pickles(root: SourceRoot, only: str | None) -> list[str]:
    if only is not None:
        return [only] if only.startswith("refs(") and only.endswith(").p") else []
    return [path for path in root.glob("**/refs(*.p") if path.endswith(").p")]


def _beside(path: str) -> str:
    return str(PurePosixPath(path).parent / _INSTANCES)


def _expressions(root: SourceRoot, only: str | None) -> list[str]:
    if only is not None:
        return [only] if only.endswith(".json") else []
    return [path for path in root.glob("**/*.json") if not path.endswith(_INSTANCES)]


def parse_refs(data: bytes, where: str) -> Refs:
    """The refs of a pickle as (id, ref, problem), ref None where it cannot be used (for `files.cached`).

    Raises `FormatError` as `unpickle.read_pickle` does, `unknown_layout`, `file_too_large`.
    """
    if len(data) > MAX_PICKLE:
        raise FormatError("file_too_large", f"{where} holds {len(data)} bytes", where=where)
    value = read_pickle(data, where, most=MAX_OPCODES)
    if not isinstance(value, list) or not value:
        raise FormatError("unknown_layout", f"{where} holds no list of refs", where=where)
    found: list[tuple[str, Mapping[str, Any] | None, str]] = []
    for number, ref in enumerate(value):
        try:
            made = _checked(ref)
            found.append((str(made["ref_id"]), made, ""))
        except EpisodeError as error:
            found.append((f"row {number}", None, f"{error.reason}: {error.what}"))
    times = Counter(key for key, _, _ in found)
    twice = "duplicate_episode: its ref_id stands more than once"
    return tuple(
        one if times[one[0]] == 1 else (f"{one[0]} (row {number})", None, twice) for number, one in enumerate(found)
    )


def _checked(ref: Any) -> Mapping[str, Any]:
    """A ref with the keys that upstream names, flat and of the right types; others are named in `unread`.

    Nothing is taken over unseen: what a pickle holds may contain itself many times over.
    """
    found = fields.as_object(ref, "the ref")
    ids = ("ref_id", "ann_id", "image_id", "category_id")
    made: dict[str, Any] = {key: fields.as_whole(fields.member(found, key, "the ref"), key) for key in ids}
    made["split"] = fields.as_text(fields.member(found, "split", "the ref"), "split")
    sentences = fields.as_list(fields.member(found, "sentences", "the ref"), "sentences")
    if not sentences:
        raise EpisodeError("empty_episode", "the ref has no sentence")
    made["sentences"] = [_sentence(sentence) for sentence in sentences]
    raw = ["sentences/raw"] if any("raw" in sentence for sentence in sentences) else []
    made["unread"] = sorted([*raw, *(str(key)[:80] for key in found.keys() - {*made, "sent_ids"})])
    return made


def _sentence(value: Any) -> dict[str, Any]:
    """One sentence. A text of Python 2 is bytes of an encoding that nothing names, so it must be ASCII."""
    sentence = fields.as_object(value, "a sentence")
    text = fields.as_text(fields.member(sentence, "sent", "a sentence"), "sent")
    tokens = [fields.as_text(token, "a token") for token in fields.as_list(sentence.get("tokens", []), "tokens")]
    if not text.isascii() or not all(token.isascii() for token in tokens):
        raise EpisodeError("bad_text", f"the sentence {text[:60]!r} is not ASCII")
    sent_id = fields.as_whole(fields.member(sentence, "sent_id", "a sentence"), "sent_id")
    return {"sent": text, "sent_id": sent_id, "tokens": tokens}


def parse_expressions(data: bytes, where: str) -> tuple[tuple[str, Mapping[str, Any] | None], ...]:
    """The rows of `predictions` by ref_id (with the row's number where an id stands twice); None for a bad row."""
    value = load_json(data, where)
    rows = value.get("predictions") if isinstance(value, dict) else None
    if not isinstance(rows, list) or not any(
        isinstance(row, dict) and {"sent", "ref_id"} <= row.keys() for row in rows
    ):
        raise FormatError("unknown_layout", f"{where} has no list `predictions` of sent and ref_id", where=where)
    good = [
        isinstance(row, dict) and isinstance(row.get("sent"), str) and type(row.get("ref_id")) is int for row in rows
    ]
    times = Counter(row["ref_id"] for row, usable in zip(rows, good, strict=True) if usable)
    found: list[tuple[str, Mapping[str, Any] | None]] = []
    for number, (row, usable) in enumerate(zip(rows, good, strict=True)):
        if not usable:
            found.append((f"row {number}", None))
        else:
            key = str(row["ref_id"])
            found.append((key if times[row["ref_id"]] == 1 else f"{key}@{number}", row))
    return tuple(found)


def _expression(item: ItemBuilder, row: Mapping[str, Any]) -> RawEpisode:
    item.digested("row", row)
    item.attributes["ref_id"] = row["ref_id"]
    item.say("assistant", fields.as_text(row["sent"], "sent"))
    return item.episode(group=f"ref {row['ref_id']}")


def _referred(item: ItemBuilder, ref: Mapping[str, Any], sentence: int, tables: Tables, image: int) -> RawEpisode:
    """The user shows the picture and says the phrase, the box answers, in pixels."""
    (row,) = (row for row in tables.annotations[image] if row["id"] == ref["ann_id"])
    about = tables.images[image]
    if ref["image_id"] != image:
        raise EpisodeError("bad_value", f"the ref is about image {ref['image_id']}, its annotation about {image}")
    said = {key: value for key, value in ref.items() if key != "sentences"}
    spoken = ref["sentences"][sentence]
    for name, value in (("ref", said), ("sentence", spoken), ("annotation", row), ("image", about)):
        item.digested(name, value)
    if not spoken["sent"].strip():
        raise EpisodeError("empty_message", f"the sentence {spoken['sent_id']} is empty")
    size = size_of(about)
    box = box_of(row, size, "the annotation")
    if any(edge > side * (1 + SLACK) for edge, side in zip(box[2:], size, strict=True)) or min(box) < -SLACK * max(
        size
    ):
        raise EpisodeError("bad_value", f"the annotation: its box {box} leaves the picture of {size[0]} x {size[1]}")
    name = fields.as_text(fields.member(about, "file_name", "the image"), "file_name")
    shown = item.find([name])
    for medium in item.media.values():
        if (medium.width, medium.height) != size:
            raise EpisodeError("size_mismatch", f"the box is of {size}, the picture {medium.width, medium.height}")
    entry = {"label": spoken["sent"], "xyxy": box}
    item.attributes |= {
        "ref": {key: value for key, value in said.items() if key != "unread"},
        "sentence": spoken,
        "unread": said["unread"],
        "category": category_of(row, tables, "the annotation"),
        "boxes": {"unit": "px", "size_wh": list(size), "items": [entry]},
    }
    item.say("user", shown, spoken["sent"])
    item.say("assistant", f"[{', '.join(f'{value:.2f}'.rstrip('0').rstrip('.') for value in box)}]")
    return item.episode(group=name)
