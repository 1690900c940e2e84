"""What a file is, by its first bytes and its name: for files that no episode is read from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from dataengine import images
from dataengine.errors import BadInput
from dataengine.storage import SourceRoot

HEAD = 1 << 18
_FEW = 3
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", "HDF5 file"),
    (0, b"PAR1", "Parquet table"),
    (0, b"ARROW1", "Arrow file"),
    (0, b"\x93NUMPY", "numpy array"),
    (0, b"\x89MCAP0\r\n", "MCAP recording"),
    (0, b"SQLite format 3\0", "SQLite data base"),
    (0, b"#ROSBAG V2.0", "ROS 1 bag"),
    (0, b"VisionRe", "VRS recording"),
    (4, b"ftyp", "MP4 video"),
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM video"),
    (0, b"PK\x03\x04", "zip archive"),
    (0, b"\x1f\x8b", "gzip file"),
    (257, b"ustar", "tar archive"),
    (0, b"%PDF", "PDF document"),
    (0, b"\x80\x02", "pickle (never run)"),
    (0, b"\x80\x03", "pickle (never run)"),
    (0, b"\x80\x04", "pickle (never run)"),
    (0, b"\x80\x05", "pickle (never run)"),
)
_PAPERS = ("license", "licence", "copying", "notice", "readme", "attribution", "authors", "citation")


def kind_of(root: SourceRoot, path: str) -> str:
    """One line on a file: a data format by its first bytes, a text by its structure, else its size."""
    try:
        size = root.size(path)
        if size == 0:
            return "empty file"
        with root.open(path) as file:
            head = file.read(HEAD)
    except BadInput as error:
        return f"cannot be read: {error.reason}"
    name = PurePosixPath(path).name
    if name.lower().startswith(_PAPERS):
        return "licence, attribution or description (text)"
    for offset, magic, kind in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return kind
    try:
        header = images.sniff(head)
    except BadInput:
        return _text(head, name, size)
    return f"{header.codec.upper()} picture {header.width} x {header.height}"


def gathered(paths: Sequence[str], kinds: Mapping[str, str] | None = None) -> list[tuple[str, int]]:
    """Paths in their order; more than three of one folder, ending and kind stand as the first, with their number."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for path in paths:
        pure = PurePosixPath(path)
        kind = kinds[path] if kinds is not None else ""
        groups.setdefault((str(pure.parent), pure.suffix.lower(), kind), []).append(path)
    found: list[tuple[str, int]] = []
    for inside in groups.values():
        found += [(inside[0], len(inside))] if len(inside) > _FEW else [(path, 1) for path in inside]
    return found


def _text(head: bytes, name: str, size: int) -> str:
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(head) < HEAD or error.start < HEAD - 4:
            return f"binary file of {size:,} bytes"
        text = head[: error.start].decode("utf-8-sig")
    if "\0" in text:
        return f"binary file of {size:,} bytes"
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in (".json", ".jsonl", ".ndjson") or text.lstrip()[:1] in ("{", "["):
        return _json(text, whole=size <= HEAD)
    if suffix in (".csv", ".tsv"):
        header = text.partition("\n")[0].strip()
        return f"table with the columns {_few(header.split(chr(9) if suffix == '.tsv' else ','))}"
    known = {".yaml": "YAML", ".yml": "YAML", ".xml": "XML", ".md": "Markdown text", ".py": "Python source"}
    return known.get(suffix, "text")


def _json(text: str, *, whole: bool) -> str:
    value: Any = None
    try:
        value = json.loads(text) if whole else None
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, Mapping):
        if {"state", "action"} <= set(value) and all(isinstance(part, Mapping) for part in value.values()):
            parts = ", ".join(f"{name} {_few(value[name])}" for name in ("state", "action"))
            return f"GR00T modality.json: slices of {parts}"
        return f"JSON object with the keys {_few(value)}"
    if isinstance(value, list):
        first = value[0] if value else None
        keys = f" with the keys {_few(first)}" if isinstance(first, Mapping) else ""
        return f"JSON list of {len(value):,} entries{keys}"
    try:
        row = json.loads(text.partition("\n")[0])
    except (ValueError, RecursionError):
        return "JSON" if not whole else "text that is no valid JSON"
    keys = f" with the keys {_few(row)}" if isinstance(row, Mapping) else ""
    return f"JSON lines{keys}"


def _few(names: Any, most: int = 8) -> str:
    listed = [str(name)[:40] for name in names]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
