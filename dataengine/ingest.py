"""Ingest: scan a source, read and convert its episodes in workers, commit them to the lake in batches.

Everything that cannot be used becomes a failure row with a reason; the rest goes on. An ingest can be interrupted
and run again: what is in the lake with the same conversion is recognised by its raw digest and not written twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dataengine.convert import Conversion
from dataengine.engine.base import Engine
from dataengine.episode import Episode, Failure
from dataengine.errors import ConflictError, EpisodeError, FormatError
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.lake import Forgotten, Lake, clean
from dataengine.lake.care import tend
from dataengine.lake_rows import Head
from dataengine.reading import failure, read_chunk
from dataengine.sources import SourceRecord, compare
from dataengine.sources.checked import Checked
from dataengine.specs.converter import Converter
from dataengine.storage import SourceRoot, local_source, root_and_files
from dataengine.transforms.language import bad_name

CHUNK_REFS = 32
CHUNK_BYTES = 32 << 20
BATCH_EPISODES = 512
BATCH_BYTES, MOST_BATCH_BYTES = 8 << 20, 64 << 20
"""A commit holds so many bytes of media at first, and more the more were committed: a small ingest stays small in
memory, and a large one does not make a version of the lake of every few episodes."""
ABSENT = ("missing_file", "no_episodes")
Progress = Callable[[int, int], None]
Known = Mapping[str, list[tuple[str, str]]]


@dataclass
class IngestReport:
    """What an ingest did. `standing` names failures of earlier ingests that this one neither met nor settled.

    `forgotten` names episodes that a tombstone keeps out: they are neither added nor failures. `restated` counts rows
    that were there and now tell what the source record says.
    """

    source_id: str
    converter: str
    scanned: int = 0
    added: int = 0
    reconverted: int = 0
    unchanged: int = 0
    failures: list[Failure] = field(default_factory=list)
    standing: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    restated: int = 0

    @property
    def changed(self) -> bool:
        return bool(self.added or self.reconverted)


def ingest(
    path: Path,
    conversion: Conversion,
    lake: Lake | None,
    engine: Engine,
    progress: Progress | None = None,
    *,
    dry_run: bool = False,
    record: SourceRecord | None = None,
    hashing: Progress | None = None,
) -> IngestReport:
    """Bring the source at `path` into `lake`. A dry run reads everything and writes nothing; it needs no lake.

    With a `record` every file is hashed first (`hashing` is told of it): what was read from a file that is not the
    recorded one is a failure, and rows tell the record's facts and digest. A source elsewhere (`s3://`, `hf://`, ...)
    is read through a folder that is thrown away. Raises `ConflictError` when another converter made what the lake holds
    of the source.
    """
    with ExitStack() as stack:
        if lake is not None and not dry_run:
            stack.enter_context(lake.ingesting())
        local = stack.enter_context(local_source(path))
        root, only = root_and_files(local)
        if record is None:
            return _ingest(root, only, conversion, lake, engine, progress, dry_run=dry_run)
        conversion = record.stated_for(conversion)
        checked = Checked(record, compare(record, root, only, hashing).errors())
        return _ingest(root, only, conversion, lake, engine, progress, dry_run=dry_run, checked=checked)


def _ingest(
    root: SourceRoot,
    only: str | None,
    conversion: Conversion,
    lake: Lake | None,
    engine: Engine,
    progress: Progress | None,
    *,
    dry_run: bool,
    checked: Checked | None = None,
) -> IngestReport:
    converter = conversion.converter
    if lake is not None:
        _check_same_converter(lake, converter)
    report = IngestReport(converter.source_id, converter.name)
    refs = _scan(root, only, converter, report)
    if checked is not None:
        refs, report.failures = checked.sound(refs, report.failures)
    report.scanned = len(refs) + len(report.failures)
    known = lake.known(converter.source_id) if lake is not None else {}
    forgotten = lake.tombstones() if lake is not None else Forgotten()
    if converter.source_id in forgotten.sources:
        report.forgotten, report.failures = sorted(ref.upstream_id for ref in refs), []
        return report
    batch = _Batch(None if dry_run else lake, conversion, report, known)
    read_well: set[str] = set()
    for done, found in enumerate(_outcomes(root, conversion, refs, known, engine), start=1):
        read = checked.read(found) if checked is not None and isinstance(found, Episode) else found
        outcome = _cleaned(read, forgotten) if isinstance(read, Episode) else read
        if isinstance(outcome, Failure):
            report.failures.append(outcome)
        elif isinstance(outcome, Episode):
            if forgotten and forgotten.hides(outcome.uid, outcome.source_id):
                report.forgotten.append(outcome.upstream_id)
            else:
                batch.add(outcome)
            read_well.add(outcome.upstream_id)
        else:
            report.unchanged += 1
            read_well.add(outcome)
        if progress is not None:
            progress(done, len(refs))
    batch.flush()
    report.forgotten.sort()
    report.failures.sort(key=lambda failure: (failure.upstream_id, failure.reason))
    if lake is not None:
        fresh = _without_copies(lake, converter.source_id, report)
        if not dry_run:
            well = read_well | {name for ref in refs for name in ref.files}
            _commit_failures(lake, conversion, report, fresh, _Seen(well, root if only is None else None))
            if checked is not None:
                report.restated = lake.restate(conversion, read_well)
            if report.changed:
                tend(lake)
    return report


def _cleaned(episode: Episode, forgotten: Forgotten) -> Episode | Failure:
    """The episode without frames of what was forgotten, or why it cannot be had without them."""
    if forgotten.hides(episode.uid, episode.source_id):
        return episode
    try:
        return clean(episode, forgotten)
    except EpisodeError as error:
        return failure("episode", episode.upstream_id, error)


def _check_same_converter(lake: Lake, converter: Converter) -> None:
    others = lake.converters(converter.source_id) - {converter.name}
    if others:
        other = sorted(others)[0]
        raise ConflictError(
            f"the lake holds the source {converter.source_id!r} as the converter {other!r} made it",
            where=str(lake.path),
            fix=f"give `source.name` in {converter.name!r} a name of its own, or remove the other episodes first:"
            f" dataengine lake rm {other} --lake {lake.path}",
        )


def _scan(root: SourceRoot, only: str | None, converter: Converter, report: IngestReport) -> list[EpisodeRef]:
    """The episodes to read; what cannot be one goes to the report, each unit once."""
    refs: dict[str, EpisodeRef] = {}
    failures: list[Failure] = []
    twice: set[str] = set()
    try:
        for entry in get_format(converter.format.name).scan(root, only, converter.format.options):
            problem = _problem(entry)
            if problem is not None:
                failures.append(problem)
            elif isinstance(entry, EpisodeRef):
                twice |= {entry.upstream_id} & refs.keys()
                refs[entry.upstream_id] = entry
    except FormatError as error:
        failures.append(failure("file", error.where or only or ".", error))
    for name in sorted(twice):
        what = "two episodes of the source have the same id, so neither can be told from the other"
        failures.append(failure("episode", name, EpisodeError("duplicate_upstream_id", what)))
        del refs[name]
    told = {entry.upstream_id for entry in failures} | {name for ref in refs.values() for name in ref.files}
    failures += [failure("file", at, FormatError(*why)) for at, why in sorted(root.refused.items()) if at not in told]
    vacant = only is None and root.is_empty
    if vacant or not (refs or failures):
        what = f"no {converter.format.name} episode is here; " + (
            "the folder is empty" if vacant else "`dataengine inspect` tells what is"
        )
        failures = [failure("file", only or ".", FormatError("no_episodes", what))]
    report.failures += {(entry.unit, entry.upstream_id): entry for entry in reversed(failures)}.values()
    return list(refs.values())


def _problem(entry: EpisodeRef | ScanProblem) -> Failure | None:
    """Why a scan's entry is nothing to read: what the format says, or a name that cannot be stored or shown."""
    if isinstance(entry, ScanProblem):
        return failure(entry.unit, entry.upstream_id, EpisodeError(entry.reason, entry.what))
    for name in (entry.upstream_id, *entry.files):
        told = bad_name(name)
        if told is not None:
            error = EpisodeError("bad_name", told, fix="rename it in the source")
            return failure("episode", entry.upstream_id, error, name if name in entry.files else "")
    return None


def _chunks(root: SourceRoot, refs: Sequence[EpisodeRef]) -> Iterator[list[EpisodeRef]]:
    """Neighbouring refs in chunks that a worker reads at once: bounded in number and in bytes.

    Of a file that holds several episodes each has its share, so that one large file keeps every worker busy and
    nobody holds all of it.
    """
    holders = Counter(name for ref in refs for name in ref.files)
    shares = {name: _size(root, name) / count for name, count in holders.items()}
    chunk: list[EpisodeRef] = []
    taken = 0.0
    for ref in refs:
        share = sum(shares[name] for name in ref.files)
        if chunk and (len(chunk) >= CHUNK_REFS or taken + share > CHUNK_BYTES):
            yield chunk
            chunk, taken = [], 0.0
        chunk.append(ref)
        taken += share
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
    known: Known,
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
                error = EpisodeError("reader_crashed", "reading it killed the worker process three times")
                yield failure("episode", chunk[0].upstream_id, error, ", ".join(chunk[0].files[:1]))
        chunks = again


def _task(
    root: SourceRoot,
    conversion: Conversion,
    chunk: list[EpisodeRef],
    known: Known,
) -> dict[str, Any]:
    present = [uid for ref in chunk for uid, digest in known.get(ref.upstream_id, ()) if digest == conversion.digest]
    return {"root": root.path, "conversion": conversion, "refs": chunk, "present": present}


class _Batch:
    """Episodes on their way into the lake, committed when they are many or large."""

    def __init__(self, lake: Lake | None, conversion: Conversion, report: IngestReport, known: Known) -> None:
        self._lake, self._conversion, self._report = lake, conversion, report
        self._known = {uid for entries in known.values() for uid, _ in entries}
        self._episodes: list[Episode] = []
        self._bytes = self._committed = 0

    def add(self, episode: Episode) -> None:
        self._episodes.append(episode)
        self._bytes += sum(len(media.payload) for media in episode.media.values())
        if len(self._episodes) >= BATCH_EPISODES or self._bytes >= self._most:
            self.flush()

    @property
    def _most(self) -> int:
        return min(max(BATCH_BYTES, self._committed // 8), MOST_BATCH_BYTES)

    def flush(self) -> None:
        if self._episodes and self._lake is None:
            there = sum(episode.uid in self._known for episode in self._episodes)
            self._report.added += len(self._episodes) - there
            self._report.reconverted += there
        elif self._episodes and self._lake is not None:
            counts = self._lake.commit(self._conversion, self._episodes, ())
            self._report.added += counts.added
            self._report.reconverted += counts.updated
        self._committed += self._bytes
        self._episodes, self._bytes = [], 0


@dataclass(frozen=True)
class _Seen:
    """What an ingest saw: the episodes and files that were read, and the folder if the whole of it was searched."""

    well: set[str]
    whole: SourceRoot | None

    def settles(self, head: Head) -> bool:
        """Whether an earlier failure that was not met again is over.

        So is one of an episode that was read; of a file that is there and drew no complaint, or of a place in it
        (`file#row`, `file:line`); and of a file that was missed: the source does without it now.
        """
        if head.status == "quarantined" and head.reason in ABSENT:
            return True
        places = [head.upstream_id, *(head.upstream_id.rpartition(mark)[0] for mark in ("#", ":", " ("))]
        return any(place in self.well or self._there(place) for place in places if place)

    def _there(self, place: str) -> bool:
        return self.whole is not None and self.whole.exists(place)


def _commit_failures(
    lake: Lake, conversion: Conversion, report: IngestReport, fresh: Sequence[Failure], seen: _Seen
) -> None:
    """`fresh` failures become rows; rows of what is well now are removed."""
    source_id = conversion.converter.source_id
    failed = {entry.upstream_id for entry in report.failures}
    before = lake.failures(source_id)
    lake.clear_failures(source_id, [h.upstream_id for h in before if h.upstream_id not in failed and seen.settles(h)])
    standing = lake.failures(source_id)
    report.standing = [head.upstream_id for head in standing if head.upstream_id not in failed]
    rows = {(head.upstream_id, head.reason, head.what, head.conversion_digest) for head in standing}
    lake.commit(
        conversion,
        (),
        # an unchanged source makes no commit
        [f for f in fresh if (f.upstream_id, f.reason, f.what, conversion.digest) not in rows],
    )


def _without_copies(lake: Lake, source_id: str, report: IngestReport) -> list[Failure]:
    """The failures of which the lake has no good copy; the report says of the others that it has."""
    good = lake.known(source_id)
    files = lake.known_files(source_id) if good and any(f.unit == "file" for f in report.failures) else Counter[str]()
    fresh: list[Failure] = []
    for number, entry in enumerate(report.failures):
        count = 1 if entry.upstream_id in good else files[entry.upstream_id]
        if entry.unit == "file" and entry.reason in ABSENT:
            count = count or len(good)
        if not count:
            fresh.append(entry)
            continue
        told = "episode" if count == 1 else f"{count:,} episodes"
        what = f"{entry.what}; the lake keeps the {told} read from it"
        report.failures[number] = replace(entry, what=what)
    return fresh
