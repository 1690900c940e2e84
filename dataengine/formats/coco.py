"""COCO: one JSON of images and annotations (captions, instances or keypoints) beside folders of pictures.

An item is one picture with its captions or its boxes. Layout: COCO's format page (cocodataset.org/#format-data); see
`coco_tables`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, ClassVar

from dataengine.episode import RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.formats import fields
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options, option_names
from dataengine.formats.coco_tables import KINDS, Tables, box_of, category_of, parse_tables, segment_of, size_of
from dataengine.formats.files import cached
from dataengine.formats.items import MEDIA_OPTIONS, ItemBuilder, media_options, text_option
from dataengine.storage import SourceRoot

OPTIONS = ("files", "kind", "per", "answer", "question", *MEDIA_OPTIONS)
_HEAD = 1 << 16
_DETECTED_FILES = 32
_CHOICES: dict[str, tuple[str, ...]] = {
    "kind": (*KINDS, "any"),
    "per": ("image", "caption"),
    "answer": ("boxes", "labels"),
}
_DEFAULTS = {"kind": "any", "per": "image", "answer": "boxes"}


class CocoFormat:
    """COCO annotations.

    Options: `files`, the JSON files (default every `.json`); `kind`, captions, instances or keypoints: files of another
    kind are passed over (default any); `per: caption`, one item a caption instead of one a picture; `answer`, boxes
    (labels with `[x, y, x, y]` in pixels, one a line; the default) or labels; `question`, a text behind the picture;
    `media_roots`, `strip_prefix`, `media` (see `items`): pictures are looked up in each of the roots and in its
    folder of the split that the file is named after (`instances_val2017.json`: `val2017/`).
    """

    name: ClassVar[str] = "coco"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "COCO: captions, boxes, masks and keypoints in JSON beside folders of pictures"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "coco_json",
            "vision_language",
            "COCO captions, instances and keypoints: annotations/*.json beside picture folders",
            "layout fixture",
            6,
            "cocodataset.org/#format-data; masks compared with pycocotools 2.0.11",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A JSON object whose first 64 KiB, or last, show COCO's keys."""
        for path in _files(root, only, ())[:_DETECTED_FILES]:
            shown = _shown_keys(root, path)
            if {"images", "annotations"} <= shown and shown & {"image_id", "file_name"}:
                told = f"{path}: an object with images and annotations, {', '.join(sorted(shown))}"
                return Detection(self.name, 0.85, (told,), layout="coco_json")
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """One ref a picture (or a caption), in the order of files and ids; pictures without annotation are told."""
        check_options(options, OPTIONS, self.name)
        chosen = {key: _choice(options, key) for key in _CHOICES}
        asked = {**chosen, "question": text_option(options, "question"), **media_options(options, (".", "images"))}
        for path in _files(root, only, option_names(options, "files", ())):
            try:
                tables = cached(root, path, parse_tables)
            except BadInput as error:
                yield ScanProblem("file", path, error.reason, error.what)
                continue
            if chosen["kind"] not in ("any", tables.kind):
                continue
            for name, reason, what in tables.problems:
                yield ScanProblem("episode", f"{path}#{name}", reason, what)
            yield from _refs(path, tables, asked)

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One picture with what is annotated in it; bytes of the picture untouched."""
        path, asked = ref.files[0], ref.locator
        with root.unchanged(path):
            tables = cached(root, path, parse_tables)
            item = ItemBuilder(root, ref.upstream_id, asked)
            item.use(path)
        image = tables.images.get(asked["image"])
        rows = [row for row in tables.annotations.get(asked["image"], ()) if row["id"] in asked["rows"]]
        if image is None or len(rows) != len(asked["rows"]):
            raise FormatError("changed_during_read", f"{path} changed since it was scanned", where=path)
        item.digested("image", image)
        for row in rows:
            item.digested(f"annotation {row['id']}", row)
        name = fields.as_text(fields.member(image, "file_name", "the image"), "file_name")
        shown = item.find([name], folders=[_split(path)])
        for medium in item.media.values():
            if {"width", "height"} <= image.keys() and size_of(image) != (medium.width, medium.height):
                what = f"the file says {size_of(image)}, the picture is {medium.width, medium.height}"
                raise EpisodeError("size_mismatch", what, where=name[:200])
        item.attributes["image"] = dict(image)
        item.say("user", shown, asked["question"])
        item.say(
            "assistant", _captions(item, rows) if tables.kind == "captions" else _objects(item, rows, tables, asked)
        )
        return item.episode(group=name)


def _choice(options: Mapping[str, Any], key: str) -> str:
    value = options.get(key, _DEFAULTS[key])
    if value not in _CHOICES[key]:
        raise SpecError(f"the option `{key}` is one of {', '.join(_CHOICES[key])}, not {value!r}", fix="correct it")
    return str(value)


def _files(root: SourceRoot, only: str | None, wanted: Sequence[str]) -> list[str]:
    if only is not None:
        return [only] if only.endswith(".json") else []
    return [str(PurePosixPath(path)) for path in wanted] if wanted else root.glob("**/*.json")


def _shown_keys(root: SourceRoot, path: str) -> set[str]:
    with root.open(path) as file:
        head = file.read(_HEAD)
        size = root.size(path)
        file.seek(max(0, size - _HEAD))
        tail = file.read(_HEAD)
    if not head.lstrip().startswith(b"{"):
        return set()
    keys = ("images", "annotations", "categories", "image_id", "file_name", "bbox", "caption", "iscrowd")
    return {key for key in keys if f'"{key}"'.encode() in head or f'"{key}"'.encode() in tail}


def _split(path: str) -> str:
    """The split a file is named after: `person_keypoints_val2017.json` is `val2017`."""
    return PurePosixPath(path).stem.rpartition("_")[2]


def _refs(path: str, tables: Tables, asked: Mapping[str, Any]) -> Iterator[EpisodeRef | ScanProblem]:
    for key in tables.images:
        rows = tables.annotations[key]
        upstream = f"{path}#{key}"
        if not rows:
            yield ScanProblem("episode", upstream, "no_annotation", "nothing is annotated in the picture")
        elif tables.kind == "captions" and asked["per"] == "caption":
            for row in rows:
                yield EpisodeRef(f"{upstream}/{row['id']}", {**asked, "image": key, "rows": [row["id"]]}, (path,))
        else:
            yield EpisodeRef(upstream, {**asked, "image": key, "rows": [row["id"] for row in rows]}, (path,))


def _captions(item: ItemBuilder, rows: Sequence[Mapping[str, Any]]) -> str:
    """The first caption answers; all stand in the attributes."""
    texts = [
        fields.as_text(fields.member(row, "caption", f"annotation {row['id']}"), f"annotation {row['id']}: caption")
        for row in rows
    ]
    item.attributes["captions"] = texts
    return texts[0]


def _objects(item: ItemBuilder, rows: Sequence[Mapping[str, Any]], tables: Tables, asked: Mapping[str, Any]) -> str:
    """The objects as text, and as attributes `boxes`, `crowds`, `segments`, `keypoints`, in pixels of the image.

    Crowds are groups, no objects: they are told apart and not in the answer.
    """
    size = size_of(item.attributes["image"])
    listed: dict[str, list[dict[str, Any]]] = {"boxes": [], "crowds": [], "segments": [], "keypoints": []}
    for row in rows:
        where = f"annotation {row['id']}"
        label, box = category_of(row, tables, where), box_of(row, size, where)
        crowd = fields.as_whole(row.get("iscrowd", 0), f"{where}.iscrowd")
        listed["crowds" if crowd else "boxes"].append({"label": label, "xyxy": box, "id": row["id"]})
        segment = segment_of(row, size, where)
        if segment is not None:
            listed["segments"].append({"label": label, "id": row["id"], **segment})
        if "keypoints" in row:
            listed["keypoints"].append({"label": label, "id": row["id"], **_keypoints(row, tables, where)})
    for key, items in listed.items():
        if items:
            item.attributes[key] = {"unit": "px", "size_wh": list(size), "items": items}
    if not listed["boxes"]:
        raise EpisodeError("no_annotation", "the picture shows crowds alone")
    if asked["answer"] == "labels":
        return ", ".join(entry["label"] for entry in listed["boxes"])
    return "\n".join(f"{entry['label']} [{', '.join(_written(v) for v in entry['xyxy'])}]" for entry in listed["boxes"])


def _written(value: float) -> str:
    """A coordinate with at most two digits behind the point, as COCO's own have."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _keypoints(row: Mapping[str, Any], tables: Tables, where: str) -> dict[str, Any]:
    """Keypoints x, y, v as triples with the names of their category; v 0: not labelled, 1: hidden, 2: visible."""
    points = fields.as_array(row["keypoints"], f"{where}.keypoints", (-1,))
    category = tables.categories[row["category_id"]]
    names = [fields.as_text(name, "a keypoint") for name in fields.as_list(category.get("keypoints"), "keypoints")]
    if len(points) != 3 * len(names):
        raise EpisodeError("length_mismatch", f"{where}: {len(points)} numbers for {len(names)} keypoints")
    triples = points.reshape(-1, 3)
    if not set(triples[:, 2].tolist()) <= {0.0, 1.0, 2.0}:
        raise EpisodeError("bad_value", f"{where}: a keypoint's visibility is neither 0, 1 nor 2")
    return {"names": names, "xyv": triples.tolist()}
