"""Whether the files at hand are the recorded ones: hashed in parallel, compared by path."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from dataengine.errors import EpisodeError, FormatError
from dataengine.sources.record import SourceRecord, changed, undeclared
from dataengine.storage import SourceFile, SourceRoot

THREADS = 8
Progress = Callable[[int, int], None]


@dataclass
class Differences:
    """How the files at hand differ from the record: paths, sorted. `refused` are links and special files.

    `changed` holds (recorded, found) sha256 by path.
    """

    files: int = 0
    bytes: int = 0
    missing: list[str] = field(default_factory=list)
    changed: dict[str, tuple[str, str]] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Whether every recorded file is there as it was, and nothing else."""
        return not (self.missing or self.changed or self.extra or self.refused)

    def errors(self) -> dict[str, EpisodeError]:
        """Why each of these files cannot be used, by path."""
        found = {name: changed(name, *digests) for name, digests in self.changed.items()}
        found |= {name: undeclared(name) for name in self.extra}
        what = "{} is in the source record, and not here"
        missing = (EpisodeError("missing_file", what.format(name), fix="fetch it again") for name in self.missing)
        return found | dict(zip(self.missing, missing, strict=True))


def source_files(root: SourceRoot, only: str | None, record: SourceRecord) -> tuple[list[str], dict[str, str]]:
    """The files of a source, and why others are none: all below its root, or the one.

    The record's own files and what it excludes are left out.
    """
    if only is not None:
        return [only], {}
    searched = SourceRoot(root.path)  # what this search refuses is none of the format's concern
    names = searched.glob("**/*")
    refused = {
        name: what
        for name, (reason, what) in searched.refused.items()
        if not record.excludes(name) and not (reason == "not_a_regular_file" and (root.path / name).is_dir())
    }
    own = {path.relative_to(root.path).as_posix() for path in record.own if path.is_relative_to(root.path)}
    return [name for name in names if name not in own and not record.excludes(name)], refused


def hashed_files(
    root: SourceRoot, names: Iterable[str], progress: Progress | None = None
) -> tuple[dict[str, SourceFile], dict[str, FormatError]]:
    """The files with digest and size, and why others cannot be read. Threads: hashing holds no lock."""
    listed = list(names)
    found: dict[str, SourceFile] = {}
    refused: dict[str, FormatError] = {}

    def describe(name: str) -> SourceFile | FormatError:
        try:
            return root.describe(name)
        except FormatError as error:
            return error
        except OSError as error:
            return FormatError("unreadable_file", f"cannot read {name}: {error.strerror}", where=name)

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for done, (name, result) in enumerate(zip(listed, pool.map(describe, listed), strict=True), start=1):
            if isinstance(result, FormatError):
                refused[name] = result
            else:
                found[name] = result
            if progress is not None:
                progress(done, len(listed))
    return found, refused


def compare(
    record: SourceRecord, root: SourceRoot, only: str | None = None, progress: Progress | None = None
) -> Differences:
    """Hash what is at hand and compare it with the record; with `only` that file alone."""
    names, told = source_files(root, only, record)
    found, unreadable = hashed_files(root, names, progress)
    expected: Mapping[str, SourceFile] = record.files
    if only is not None:
        expected = {name: file for name, file in record.files.items() if name == only}
    told |= {name: error.what for name, error in unreadable.items()}
    return Differences(
        files=len(found),
        bytes=sum(file.bytes for file in found.values()),
        missing=sorted(set(expected) - set(found) - set(told)),
        changed={
            name: (expected[name].sha256, file.sha256)
            for name, file in sorted(found.items())
            if name in expected and expected[name].sha256 != file.sha256
        },
        extra=sorted(set(found) - set(expected)),
        refused=dict(sorted(told.items())),
    )
