"""The record of a source: facts and terms, and every file with sha256 and size.

A YAML file that people read and correct; the files of a large source stand in a JSON-lines file beside it. The record's
digest covers the facts and the files, not when they were fetched. A list as `sha256sum` writes it serves as a record
of files alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import orjson
import yaml
from pydantic import Field, model_validator

from dataengine.convert import Conversion
from dataengine.credentials import refuse_credentials
from dataengine.documents import Strict, canonical_json, load_yaml, sha256_bytes, sha256_json
from dataengine.errors import ConflictError, EpisodeError, FormatError, SpecError
from dataengine.specs.source import SourceInfo
from dataengine.storage import SourceFile
from dataengine.storage.local import explained

INLINE_FILES = 500
INLINE_BYTES = 200_000
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COREUTILS = re.compile(r"(\\?)([0-9A-Fa-f]{64}) [ *](.+)")
_BSD = re.compile(r"(\\?)SHA256 \((.+)\) = ([0-9A-Fa-f]{64})")


class _FileFacts(Strict):
    path: str = Field(min_length=1)
    sha256: str = Field(pattern=_SHA256.pattern)
    bytes: int = Field(ge=0)


class _FilesBeside(Strict):
    list: str = Field(pattern=r"^[^/\\]+$")
    sha256: str = Field(pattern=_SHA256.pattern)
    count: int = Field(ge=0)
    bytes: int = Field(ge=0)


class _Document(Strict):
    """A record as it is written."""

    format: Literal[1] = 1
    source: SourceInfo
    exclude: tuple[str, ...] = ()
    files: tuple[_FileFacts, ...] | _FilesBeside

    @model_validator(mode="after")
    def _told(self) -> _Document:
        self.source.check()
        if self.source.record_sha256:
            raise ValueError("source.record_sha256: it is computed from the record, and does not stand in it")
        return self


@dataclass(frozen=True)
class SourceRecord:
    """Facts of a source and its files by path. `info` is None where there is a list of digests alone.

    `exclude` are patterns of paths that are no part of the source (a download tool's own files). `own` are the local
    paths of the record's files, which are no part of it either. A size of -1 is not known.
    """

    info: SourceInfo | None
    files: Mapping[str, SourceFile]
    exclude: tuple[str, ...] = ()
    own: tuple[Path, ...] = field(default=(), compare=False)

    @property
    def digest(self) -> str:
        """sha256 over the facts and the files: the same wherever and whenever they are fetched."""
        listed = sorted([file.path, file.sha256] for file in self.files.values())
        stated = None if self.info is None else self.info.stated()
        return sha256_json({"source": stated, "files": sha256_json(listed)})

    @property
    def bytes(self) -> int:
        """Bytes of all files whose size is known."""
        return sum(max(0, file.bytes) for file in self.files.values())

    def excludes(self, name: str) -> bool:
        """Whether a path is none of the source's."""
        return any(fnmatchcase(name, pattern) for pattern in self.exclude)

    def stated_for(self, conversion: Conversion) -> Conversion:
        """The conversion with this record's facts; what it makes of raw bytes, and so its digest, stays."""
        own = conversion.converter.source
        info = self.info if self.info is not None else own
        if info.name != own.name:
            raise SpecError(
                f"the record is of {info.name!r}, and {conversion.converter.name} reads {own.name!r}",
                fix="name the converter's own record, or correct `source.name`",
            )
        told = info.model_copy(update={"record_sha256": self.digest})
        return replace(conversion, converter=conversion.converter.model_copy(update={"source": told}))

    def check_read(self, files: Iterable[SourceFile]) -> EpisodeError | None:
        """Why an episode that was read from these files is not of the recorded source; None where it is."""
        for file in files:
            known = self.files.get(file.path)
            if known is None:
                return undeclared(file.path)
            if known.sha256 != file.sha256:
                return changed(file.path, known.sha256, file.sha256)
        return None


def changed(name: str, recorded: str, found: str) -> EpisodeError:
    """A file that is another one than the record's."""
    what = f"{name} is not the file of the source record: sha256 {found[:16]}..., recorded {recorded[:16]}..."
    return EpisodeError("digest_mismatch", what, fix="fetch it again, or record the source anew")


def undeclared(name: str) -> EpisodeError:
    """A file that the record does not name."""
    return EpisodeError(
        "undeclared_file",
        f"{name} is not in the source record",
        fix="take it away, record the source anew, or name it in the record's `exclude`",
    )


def load_record(path: Path) -> SourceRecord:
    """A record's YAML with the list beside it, or a list of digests as `sha256sum` writes it."""
    if path.suffix not in (".yaml", ".yml"):
        files = {file.path: file for file in read_sums(path)}
        return SourceRecord(None, files, own=(path.resolve(),))
    text = load_yaml(path)
    refuse_credentials(text, str(path))
    document = _Document.parse(text, str(path))
    if isinstance(document.files, _FilesBeside):
        beside = path.parent / document.files.list
        entries = list(_listed(beside, document.files))
        own: tuple[Path, ...] = (path.resolve(), beside.resolve())
    else:
        entries = [SourceFile(entry.path, entry.sha256, entry.bytes) for entry in document.files]
        own = (path.resolve(),)
    return SourceRecord(document.source, _unique(entries, str(path)), document.exclude, own)


def _unique(entries: Iterable[SourceFile], where: str) -> dict[str, SourceFile]:
    found: dict[str, SourceFile] = {}
    for file in entries:
        if file.path in found and found[file.path].sha256 != file.sha256:
            raise SpecError(f"{file.path} stands twice, with two digests", where=where, fix="correct the list")
        found[file.path] = file
    return found


def _listed(path: Path, told: _FilesBeside) -> Iterator[SourceFile]:
    data = _bytes(path)
    if sha256_bytes(data) != told.sha256:
        what = "the list of files is not the one that the record was written with"
        raise FormatError("digest_mismatch", what, where=str(path), fix="restore it, or record the source anew")
    for line in data.splitlines():
        entry = _FileFacts.parse(orjson.loads(line), str(path))
        yield SourceFile(entry.path, entry.sha256, entry.bytes)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SpecError(f"cannot read: {error.strerror}", where=str(path), fix="check the path") from None


def read_sums(path: Path) -> list[SourceFile]:
    """The files of a list as `sha256sum` (or BSD's `shasum --tag`) writes it; sizes are -1."""
    try:
        lines = _bytes(path).decode().splitlines()
    except UnicodeDecodeError:
        raise SpecError("neither a record nor a list of digests", where=str(path), fix="check the path") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        plain, tagged = _COREUTILS.fullmatch(line), _BSD.fullmatch(line)
        if plain is not None:
            escaped, digest, name = plain.groups()
        elif tagged is not None:
            escaped, name, digest = tagged.groups()
        else:
            fix = "write `SHA256  PATH`, as sha256sum does; a record ends in .yaml"
            raise SpecError("no digest and path", where=f"{path}, line {number}", fix=fix)
        if escaped:
            name = re.sub(r"\\([\\nr])", lambda match: {"\\": "\\", "n": "\n", "r": "\r"}[match.group(1)], name)
        found.append(SourceFile(name.removeprefix("./"), digest.lower(), -1))
    return list(_unique(found, str(path)).values())


def add(record: SourceRecord, out: Path, *, replace_old: bool = False) -> list[Path]:
    """Write a record; returns the files that were written. One that stands there is a `ConflictError`."""
    if out.suffix not in (".yaml", ".yml"):
        raise SpecError(f"a record is a YAML file, not {out.name!r}", fix="name it NAME.yaml")
    if out.exists() and not replace_old:
        raise ConflictError("the record exists", where=str(out), fix="give another name, or --replace to hash again")
    files = sorted(record.files.values(), key=lambda file: file.path)
    document: dict[str, Any] = {"format": 1, "source": _source_document(record)}
    if record.exclude:
        document["exclude"] = list(record.exclude)
    written = []
    rows = [{"path": file.path, "sha256": file.sha256, "bytes": file.bytes} for file in files]
    if len(rows) <= INLINE_FILES and sum(len(file.path) for file in files) <= INLINE_BYTES:
        document["files"] = rows
    else:
        beside = out.with_suffix(".files.jsonl")
        data = b"".join(canonical_json(row) + b"\n" for row in rows)
        _write(beside, data)
        listed = {"list": beside.name, "sha256": sha256_bytes(data), "count": len(rows), "bytes": record.bytes}
        document["files"] = listed
        written.append(beside)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
    _write(out, text.encode())
    return [out, *written]


def _write(path: Path, data: bytes) -> None:
    """All of it or nothing: over what stands there, too."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with explained(path):
            partial.write_bytes(data)
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _source_document(record: SourceRecord) -> dict[str, Any]:
    """The facts in the order of the fields, unknown ones too, so that they are seen and can be filled in."""
    if record.info is None:
        raise SpecError("a list of digests says nothing of its source", fix="name a converter")
    return record.info.model_dump(mode="json", exclude={"record_sha256"})
