"""Tars of pictures and texts: WebDataset's, and img2dataset's with their sidecars.

A sample is the neighbouring members of one key: the name up to the first dot behind the last slash (webdataset,
src/webdataset/tariterators.py, base_plus_ext; extensions in lower case). img2dataset (img2dataset/writer.py and
downloader.py at 95523bc7) writes `00000.tar` of jpg (or another codec), txt and json, `00000.parquet` with one row a
URL, failed ones too, and `00000_stats.json`. Members are read in place, nothing is extracted.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar

from dataengine.documents import load_json, sha256_bytes
from dataengine.episode import RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError
from dataengine.formats import fields
from dataengine.formats.archive import TAR_SUFFIXES, Member, is_tar, tar_bytes, tar_members
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options, option_names
from dataengine.formats.files import gzip_data, json_file, text_of
from dataengine.formats.items import ItemBuilder, text_option
from dataengine.formats.parquet import opened
from dataengine.storage import SourceRoot

OPTIONS = ("files", "image", "text", "label", "labels", "record", "caption_key", "question")
MAX_MEMBER = 1 << 28
MAX_EXTENSIONS = 64
_IMAGES = ("jpg", "jpeg", "png", "webp")
_TEXTS = ("txt", "text", "caption")
_RECORDS = {"mp", "msgpack"}
_DETECTED_MEMBERS = 64
_DETECTED_FILES = 8
_PACKED = ".gz"


@dataclass(frozen=True)
class _Sample:
    """Members of one key by extension; `problem` (reason, what) where they make none."""

    key: str
    members: Mapping[str, Member]
    problem: tuple[str, str] | None = None


class ImageTextTarFormat:
    """WebDataset tars whose samples are items.

    Options: `files`, the tars (default every .tar, .tar.gz and .tgz); extensions by what they hold, each a list, the
    first present one counts: `image` (jpg, jpeg, png, webp), `text` (txt, text, caption), `label` (cls) a class number,
    `record` (none by default) msgpack or JSON that is the text itself, as JSON; `.gz` behind an extension is inflated.
    `labels`: names of the classes by number. `caption_key`: the text is this key of the sample's `json` instead.
    `question`: a text behind the picture.
    """

    name: ClassVar[str] = "image_text_tar"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "WebDataset and img2dataset tars: pictures with texts or classes, or texts alone"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "img2dataset_tar",
            "vision_language",
            "img2dataset: 00000.tar of jpg, txt and json with 00000.parquet and 00000_stats.json",
            "layout fixture",
            2,
            "img2dataset/writer.py and downloader.py, rom1504/img2dataset at 95523bc7",
        ),
        Layout(
            "webdataset_tar",
            "vision_language",
            "WebDataset tars, plain or gzip: png/cls, txt.gz, msgpack",
            "real files",
            4,
            "vision_language/webdataset: sample.tgz, testgz.tar, compressed.tar, mpdata.tar (webdataset/webdataset)",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A tar whose first samples hold a picture, a text or a class; records where a tar holds nothing else."""
        told, layout, sure = list[str](), "webdataset_tar", 0.6
        options: dict[str, Any] = {}
        for path in _files(root, only, ())[:_DETECTED_FILES]:
            try:
                samples = _samples(tar_members(root, path)[:_DETECTED_MEMBERS])
            except BadInput:
                continue
            found = {_bare(extension) for sample in samples for extension in sample.members}
            known, records = found & {*_IMAGES, *_TEXTS, "cls"}, sorted(found & _RECORDS)
            if not known and not records:
                continue
            if not known:
                options["record"] = sorted({*options.get("record", ()), *records})
            if root.exists(f"{_stem(path)}_stats.json"):
                layout, sure = "img2dataset_tar", 0.9
            elif {"json", "txt"} <= found and layout == "webdataset_tar" and not told:
                layout = "img2dataset_tar"
            told.append(f"{path}: samples with {', '.join(sorted(found)[:8])}")
        return Detection(self.name, sure, tuple(told), options, layout) if told else None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """One ref a sample, in the order of tars and members; only headers are read (a gzip tar is inflated)."""
        check_options(options, OPTIONS, self.name)
        asked = _asked(options)
        for path in _files(root, only, option_names(options, "files", ())):
            try:
                samples = _samples(tar_members(root, path))
                _check_sidecars(root, path, samples)
            except BadInput as error:
                yield ScanProblem("file", path, error.reason, error.what)
                continue
            if not samples:
                yield ScanProblem("file", path, "empty_file", "it holds no member")
            digest = root.describe(path).sha256
            pictured = any(_member(sample.members, asked["image"]) for sample in samples)
            for sample in samples:
                upstream = f"{path}#{sample.key}"
                problem = sample.problem or _why_none(sample, asked, pictured)
                if problem is not None:
                    yield ScanProblem("episode", upstream, *problem)
                    continue
                places = {extension: [m.name, m.offset, m.size] for extension, m in sample.members.items()}
                locator = {"key": sample.key, "members": places, "sha256": digest, **asked}
                yield EpisodeRef(upstream, locator, (path,))

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One sample: `image0` with its bytes untouched, and its text."""
        (path,), asked = ref.files, ref.locator
        with root.unchanged(path):
            if root.describe(path).sha256 != asked["sha256"]:
                raise FormatError("changed_during_read", f"{path} changed since it was scanned", where=path)
            held = {}
            for extension, (name, offset, size) in asked["members"].items():
                if size > MAX_MEMBER:
                    raise EpisodeError("claimed_size", f"{name[:80]} holds {size} bytes", where=path)
                held[extension] = tar_bytes(root, path, Member(name, offset, size))
            item = ItemBuilder(root, ref.upstream_id)
            item.use(path)
        for extension in sorted(held):
            item.digest.add_bytes(extension, sha256_bytes(held[extension]).encode())
        try:
            _fill(item, held, asked)
        except FormatError as error:
            raise EpisodeError(error.reason, error.what, where=path) from None
        return item.episode()


def _asked(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "image": list(option_names(options, "image", _IMAGES)),
        "text": list(option_names(options, "text", _TEXTS)),
        "label": list(option_names(options, "label", ("cls",))),
        "record": list(option_names(options, "record", ())),
        "labels": list(option_names(options, "labels", ())),
        "caption_key": text_option(options, "caption_key"),
        "question": text_option(options, "question"),
    }


def _files(root: SourceRoot, only: str | None, wanted: Sequence[str]) -> list[str]:
    if only is not None:
        return [only] if is_tar(only) else []
    if wanted:
        return [str(PurePosixPath(path)) for path in wanted]
    return sorted({path for suffix in TAR_SUFFIXES for path in root.glob(f"**/*{suffix}")})


def _stem(path: str) -> str:
    return next(path.removesuffix(suffix) for suffix in TAR_SUFFIXES if path.endswith(suffix))


def _bare(extension: str) -> str:
    return extension.removesuffix(_PACKED)


def _samples(members: Sequence[Member]) -> list[_Sample]:
    """Members as samples; a key that comes back later is a problem of its own, and so is an extension twice."""
    grouped: list[tuple[str, list[tuple[str, Member]]]] = []
    for member in members:
        folder, slash, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        key = f"{folder}{slash}{stem}"
        if not grouped or grouped[-1][0] != key:
            grouped.append((key, []))
        grouped[-1][1].append((extension.lower(), member))
    seen: set[str] = set()
    found = []
    for key, held in grouped:
        names = [extension for extension, _ in held]
        problem = None
        if key in seen:
            problem = "duplicate_episode", f"the key {key[:80]!r} comes back after other samples"
        elif len(set(names)) != len(names) or len(names) > MAX_EXTENSIONS:
            problem = "duplicate_name", f"the sample holds {len(names)} members, some of one extension"
        elif not key.rpartition("/")[2] or "" in names:
            problem = "unknown_name", f"{held[0][1].name[:80]!r} has no key, or no extension"
        seen.add(key)
        found.append(_Sample(key, dict(held), problem))
    return found


def _why_none(sample: _Sample, asked: Mapping[str, Any], pictured: bool) -> tuple[str, str] | None:
    """Why a sample is no item by its extensions alone; `pictured`: whether any sample of its tar has a picture."""
    names = sample.members
    if pictured and {"json", "txt"} <= names.keys() and not _member(names, asked["image"]):
        return "missing_media", "it has img2dataset's json and txt, and no picture as the others have"
    says = any(_member(names, asked[kind]) for kind in ("text", "label", "record"))
    if says or (asked["caption_key"] is not None and _member(names, ("json",))):
        return None
    return "no_text", f"none of its members ({', '.join(sorted(names)[:8])}) is a text, a class or a record"


def _member(names: Mapping[str, Any], extensions: Sequence[str]) -> str | None:
    """The first extension that a sample has, packed or not."""
    return next((name for ext in extensions for name in (ext, ext + _PACKED) if name in names), None)


def _check_sidecars(root: SourceRoot, path: str, samples: Sequence[_Sample]) -> None:
    """Compare an img2dataset tar with its statistics and its table, where they are there: `count_mismatch`."""
    stats, table = f"{_stem(path)}_stats.json", f"{_stem(path)}.parquet"
    if not root.exists(stats):
        return
    told = json_file(root, stats)
    count = told.get("successes") if isinstance(told, dict) else None
    if count != len(samples):
        raise FormatError("count_mismatch", f"{stats} tells of {count} pictures, {path} holds {len(samples)}")
    if not root.exists(table):
        return
    with opened(root, table) as file:
        if not {"key", "status"} <= set(file.schema_arrow.names):
            return
        columns = file.read(columns=["key", "status"]).to_pydict()
    keys = {str(key) for key, status in zip(columns["key"], columns["status"], strict=True) if status == "success"}
    if keys != {sample.key for sample in samples}:
        raise FormatError("count_mismatch", f"{table} lists {len(keys)} pictures, other keys than {path} holds")


def _fill(item: ItemBuilder, held: Mapping[str, bytes], asked: Mapping[str, Any]) -> None:
    """The messages of a sample: the picture and the question, and what is said of it; without a picture, a text."""
    image = _member(held, asked["image"])
    shown = None if image is None else item.held(_unpacked(held, image), f"{asked['key']}.{image}"[:200])
    used = {image, "json"}
    item.attributes["key"] = asked["key"]
    meta = None
    if "json" in held:
        meta = load_json(held["json"], f"{asked['key']}.json")
        item.digested("json", meta)
        item.attributes["json"] = meta
    said, name = _said(item, held, asked, meta)
    unread = sorted(held.keys() - {*used, name})
    if unread:
        item.attributes["unread"] = unread
    if shown is not None or asked["question"] is not None:
        item.say("user", shown, asked["question"])
    item.say("assistant", said)


def _said(item: ItemBuilder, held: Mapping[str, bytes], asked: Mapping[str, Any], meta: Any) -> tuple[str, str | None]:
    """The text of a sample, and the extension it was taken from."""
    if asked["caption_key"] is not None:
        caption = fields.member(fields.as_object(meta, "the json member"), asked["caption_key"], "the json member")
        return fields.as_text(caption, asked["caption_key"]), None
    if (name := _member(held, asked["text"])) is not None:
        return fields.as_text(text_of(_unpacked(held, name), name), name), name
    if (name := _member(held, asked["label"])) is not None:
        return _class(item, _unpacked(held, name), asked["labels"]), name
    name = _member(held, asked["record"])
    if name is None:
        raise EpisodeError("no_text", "the sample holds no text")
    data = _unpacked(held, name)
    value = load_json(data, name) if _bare(name) == "json" else _msgpack(data, name)
    item.attributes["record"] = value
    return fields.as_text(fields.canonical(value, name).decode(), name), name


def _class(item: ItemBuilder, data: bytes, labels: Sequence[str]) -> str:
    digits = data.strip()
    if not digits or len(digits) > 9 or digits.strip(b"0123456789"):
        raise EpisodeError("bad_value", f"{data[:20]!r} is no class number")
    number = int(digits)
    item.attributes["label"] = number
    if not labels:
        return str(number)
    if number >= len(labels):
        raise EpisodeError("bad_value", f"the class {number} has no name, {len(labels)} are named")
    return labels[number]


def _unpacked(held: Mapping[str, bytes], name: str) -> bytes:
    return gzip_data(held[name], name) if name.endswith(_PACKED) else held[name]


def _msgpack(data: bytes, where: str) -> Any:
    """A msgpack value as plain JSON values; extension types and bytes have none."""
    import msgpack

    unpacker = msgpack.Unpacker(
        io.BytesIO(data), raw=False, strict_map_key=True, max_buffer_size=MAX_MEMBER, ext_hook=_refused
    )
    try:
        value = unpacker.unpack()
        if unpacker.tell() != len(data):
            raise EpisodeError("bad_value", f"{where} goes on behind its value")
        json.dumps(value, allow_nan=False)
    except (msgpack.exceptions.UnpackException, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise EpisodeError("bad_value", f"{where} is no msgpack of plain values: {str(error)[:120]}") from None
    return value


def _refused(code: int, data: bytes) -> Any:  # noqa: ARG001 - msgpack calls it so
    raise ValueError(f"the extension type {code}")
