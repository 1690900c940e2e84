"""Ingest: scan a source, read and convert its episodes in workers, commit them to the lake in batches.

Everything that cannot be used becomes a failure row with a reason; the rest goes on. An ingest can be interrupted
and run again: what is in the lake with the same conversion is recognised by its raw digest and not written twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataengine.convert import Conversion
from dataengine.engine.base import Engine
from dataengine.episode import Episode
from dataengine.errors import FormatError
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.lake import Lake
from dataengine.lake_rows import Failure
from dataengine.reading import read_chunk
from dataengine.specs.converter import Converter
from dataengine.storage import SourceRoot, root_and_files

CHUNK_REFS = 32
CHUNK_BYTES = 32 << 20
BATCH_EPISODES = 512
BATCH_BYTES = 64 << 20
Progress = Callable[[int, int], None]


@dataclass
class IngestReport:
    """What an ingest did. `failures` are (unit, upstream id, reason, what)."""

    source_id: str
    converter: str
    scanned: int = 0
    added: int = 0
    reconverted: int = 0
    unchanged: int = 0
    failures: list[Failure] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.added or self.reconverted)


def ingest(
    path: Path,
    conversion: Conversion,
    lake: Lake | None,
    engine: Engine,
    progress: Progress | None = None,
) -> IngestReport:
    """Bring the source at `path` into `lake`; without a lake (dry run) everything is read and nothing written."""
    converter = conversion.converter
    root, only = root_and_files(path)
    report = IngestReport(converter.source_id, converter.name)
    refs = _scan(root, only, converter, report)
    report.scanned = len(refs) + len(report.failures)
    known = lake.known(converter.source_id) if lake is not None else {}
    batch = _Batch(lake, conversion, report)
    read_well: set[str] = set()
    for done, outcome in enumerate(_outcomes(root, conversion, refs, known, engine), start=1):
        if isinstance(outcome, Failure):
            report.failures.append(outcome)
        elif isinstance(outcome, Episode):
            batch.add(outcome)
            read_well.add(outcome.upstream_id)
        else:
            report.unchanged += 1
            read_well.add(outcome)
        if progress is not None:
            progress(done, len(refs))
    batch.flush()
    report.failures.sort(key=lambda failure: (failure.upstream_id, failure.reason))
    if lake is not None:
        _commit_failures(lake, conversion, report, refs, read_well)
    return report


def _scan(root: SourceRoot, only: str | None, converter: Converter, report: IngestReport) -> list[EpisodeRef]:
    refs: dict[str, EpisodeRef] = {}
    try:
        for entry in get_format(converter.format.name).scan(root, only, converter.format.options):
            if isinstance(entry, ScanProblem):
                report.failures.append(Failure(entry.unit, entry.upstream_id, entry.reason, entry.what))
            elif entry.upstream_id in refs:
                what = "two episodes of the source have the same id"
                report.failures.append(Failure("episode", entry.upstream_id, "duplicate_upstream_id", what))
            else:
                refs[entry.upstream_id] = entry
    except FormatError as error:
        report.failures.append(Failure("file", error.where or only or ".", error.reason, error.what))
    if not refs and not report.failures:
        report.failures.append(
            Failure("file", only or ".", "no_episodes", f"no {converter.format.name} episode is here")
        )
    return list(refs.values())


def _chunks(root: SourceRoot, refs: Sequence[EpisodeRef]) -> Iterator[list[EpisodeRef]]:
    """Neighbouring refs in chunks that a worker reads at once: bounded in number and in bytes of distinct files."""
    chunk: list[EpisodeRef] = []
    files: dict[str, int] = {}
    for ref in refs:
        fresh = {name: _size(root, name) for name in ref.files if name not in files}
        if chunk and (len(chunk) >= CHUNK_REFS or sum(files.values()) + sum(fresh.values()) > CHUNK_BYTES):
            yield chunk
            chunk, files = [], {}
            fresh = {name: _size(root, name) for name in ref.files}
        chunk.append(ref)
        files |= fresh
    if chunk:
        yield chunk


def _size(root: SourceRoot, name: str) -> int:
    try:
        return root.size(name)
    except FormatError:
        return 0


def _outcomes(
    root: SourceRoot,
    conversion: Conversion,
    refs: Sequence[EpisodeRef],
    known: Mapping[str, list[tuple[str, str]]],
    engine: Engine,
) -> Iterator[Episode | Failure | str]:
    """What became of each ref. A chunk that kills its worker is tried again ref by ref, so only the culprit falls."""
    chunks = list(_chunks(root, refs))
    while chunks:
        again: list[list[EpisodeRef]] = []
        tasks = [_task(root, conversion, chunk, known) for chunk in chunks]
        for index, result in engine.run(read_chunk, tasks):
            chunk = chunks[index]
            if result is not None:
                yield from result["outcomes"]
            elif len(chunk) > 1:
                again.extend([ref] for ref in chunk)
            else:
                what = "reading it killed the worker process three times"
                yield Failure("episode", chunk[0].upstream_id, "reader_crashed", what)
        chunks = again


def _task(
    root: SourceRoot,
    conversion: Conversion,
    chunk: list[EpisodeRef],
    known: Mapping[str, list[tuple[str, str]]],
) -> dict[str, Any]:
    present = [uid for ref in chunk for uid, digest in known.get(ref.upstream_id, ()) if digest == conversion.digest]
    return {"root": root.path, "conversion": conversion, "refs": chunk, "present": present}


class _Batch:
    """Episodes on their way into the lake, committed when they are many or large."""

    def __init__(self, lake: Lake | None, conversion: Conversion, report: IngestReport) -> None:
        self._lake, self._conversion, self._report = lake, conversion, report
        self._episodes: list[Episode] = []
        self._bytes = 0

    def add(self, episode: Episode) -> None:
        self._episodes.append(episode)
        self._bytes += sum(len(media.payload) for media in episode.media.values())
        if len(self._episodes) >= BATCH_EPISODES or self._bytes >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._episodes and self._lake is None:
            self._report.added += len(self._episodes)
        elif self._episodes and self._lake is not None:
            counts = self._lake.commit(self._conversion, self._episodes, ())
            self._report.added += counts.added
            self._report.reconverted += counts.updated
        self._episodes, self._bytes = [], 0


def _commit_failures(
    lake: Lake, conversion: Conversion, report: IngestReport, refs: Sequence[EpisodeRef], read_well: set[str]
) -> None:
    """Failures become rows, unless the lake holds a good copy of the episode; rows of what is well now are removed."""
    converter = conversion.converter
    failed = {failure.upstream_id for failure in report.failures}
    files = {name for ref in refs for name in ref.files}
    lake.clear_failures(converter.source_id, (read_well | files | {"."}) - failed)
    good = lake.known(converter.source_id)
    fresh = [failure for failure in report.failures if failure.upstream_id not in good]
    standing = {
        (head.upstream_id, head.reason, head.what, head.conversion_digest)
        for head in lake.failures(converter.source_id)
    }
    lake.commit(
        conversion,
        (),
        # an unchanged source makes no commit
        [f for f in fresh if (f.upstream_id, f.reason, f.what, conversion.digest) not in standing],
    )
