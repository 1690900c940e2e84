"""Raw files hashed again: whether the files that a version's episodes were read from are still what they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from dataengine.documents import unknown_name
from dataengine.errors import SpecError
from dataengine.lake import Lake
from dataengine.mixture import ledger as ledgers
from dataengine.mixture.store import MixtureStore
from dataengine.sources import SourceRecord, hashed_files, load_record
from dataengine.specs.records import Manifest
from dataengine.storage import local_source, root_and_files
from dataengine.verification.report import VerifyReport

Tell = object
FETCH = "fetch the source again in the recorded revision, or ingest what is there as a new version of the data"
_USAGE = "give SOURCE=FOLDER with --lake, or RECORD=FOLDER"


@dataclass
class Source:
    """Where a source's raw files lie, and its record where there is one."""

    source_id: str
    folders: list[Path] = field(default_factory=list)
    record: SourceRecord | None = None


def parse_sources(given: Sequence[str], known: Sequence[str]) -> list[Source]:
    """`SOURCE=FOLDER`, `RECORD=FOLDER`, `RECORD`, or a folder alone where a version has one source."""
    found: dict[str, Source] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        path = Path(name).expanduser()
        record = load_record(path) if path.suffix in (".yaml", ".yml") and path.is_file() else None
        if record is not None:
            source_id = record.info.name if record.info is not None else ""
            folder = folder if equals else str(path.parent)
        elif equals:
            source_id = name
        elif len(known) == 1:
            source_id, folder = known[0], text
        else:
            raise SpecError(f"of which source are the files at {text}?", where="--sources", fix=_USAGE)
        if source_id not in known:
            raise unknown_name("source", source_id, known)
        source = found.setdefault(source_id, Source(source_id))
        source.folders.append(Path(folder).expanduser())
        source.record = record or source.record
    return list(found.values())


@dataclass
class RawCheck:
    """Hashes the raw files of versions; what it finds goes to `report`."""

    store: MixtureStore
    report: VerifyReport
    lake: Lake | None

    def check(self, sources: Sequence[Source], manifests: Mapping[str, tuple[str, Manifest]], tell: object) -> None:
        """Every file that an episode of the versions was read from, by the lake's rows and by the record."""
        for source in sources:
            digests = self._recorded(source, manifests)
            if self.lake is not None:
                for name, found in self._in_lake(source, manifests).items():
                    self._agree(source, name, digests.get(name), found)
                    digests.setdefault(name, set()).update(found)
            elif source.record is None:
                raise SpecError(f"the digests of {source.source_id}'s files are not known", fix=_USAGE)
            self._hash(source, digests, tell)

    def _recorded(self, source: Source, manifests: Mapping[str, tuple[str, Manifest]]) -> dict[str, set[str]]:
        """The record's digests; versions that were built against another record are a problem."""
        if source.record is None:
            return {}
        for version, (sha, manifest) in manifests.items():
            for summary in manifest.sources:
                if summary.source_id != source.source_id or summary.record_sha256 in ("", source.record.digest):
                    continue
                what = f"{version} was built against another record of {source.source_id}"
                fix = f"give the record with the digest {summary.record_sha256}"
                self.report.add(f"manifests/{sha}.json", "other_record", what, fix)
        return {name: {file.sha256} for name, file in source.record.files.items()}

    def _agree(self, source: Source, name: str, recorded: set[str] | None, found: set[str]) -> None:
        if source.record is None or recorded == found:
            return
        what = "the lake read a file that the record does not name" if recorded is None else "the lake read other bytes"
        self.report.add(f"{source.source_id}: {name}", "record_mismatch", what, "ingest again with --record")

    def _in_lake(self, source: Source, manifests: Mapping[str, tuple[str, Manifest]]) -> dict[str, set[str]]:
        """Digests by path of the files of the versions' episodes."""
        if self.lake is None:
            return {}
        wanted, found, seen = self._uids(source, manifests), dict[str, set[str]](), 0
        for uid, files in self.lake.files_of(source.source_id):
            at = int(np.searchsorted(wanted, uid.encode()))
            if at < len(wanted) and wanted[at] == uid.encode():
                seen += 1
                for file in files:
                    found.setdefault(file.path, set()).add(file.sha256)
        if seen < len(wanted):
            what = f"the lake holds {seen:,} of {len(wanted):,} episodes of the versions: files of the rest are unknown"
            self.report.add(f"{source.source_id}: lake", "missing_episode", what, "give the lake they were built from")
        return found

    def _uids(self, source: Source, manifests: Mapping[str, tuple[str, Manifest]]) -> NDArray[np.bytes_]:
        """[n] the episodes of a source in the versions' ledgers, sorted."""
        parts = [np.zeros(0, "S64")]
        for sha, manifest in manifests.values():
            data = self.store.checked(f"{self.store.documents(sha)}/ledger.parquet", manifest.ledger_sha256)
            table = ledgers.read_table(data, ("unit", "source_id", "uid"))
            own = pc.and_(pc.equal(table["source_id"], source.source_id), pc.equal(table["unit"], "episode"))
            parts.append(np.array(table.filter(own)["uid"].to_numpy(), "S64"))
        return np.unique(np.concatenate(parts))

    def _hash(self, source: Source, digests: Mapping[str, set[str]], tell: object) -> None:
        """A file is as recorded in one of the folders, else a problem."""
        wrong: dict[str, tuple[str, str]] = {}
        good: set[str] = set()
        for folder in source.folders:
            with ExitStack() as stack:
                root, only = root_and_files(stack.enter_context(local_source(folder)))
                names = sorted(digests) if only is None else [only]
                progress = partial(tell, f"hash {source.source_id}") if callable(tell) else None
                found, refused = hashed_files(root, [name for name in names if name not in good], progress)
            self.report.raw_files += len(found)
            good |= {name for name, file in found.items() if file.sha256 in digests.get(name, ())}
            for name in found.keys() - good:
                wrong[name] = "digest_mismatch", "not the bytes that the episodes were read from"
            for name, error in refused.items():
                wrong.setdefault(name, (error.reason, error.what))
        for name, (reason, what) in sorted(wrong.items()):
            if name not in good:
                self.report.add(f"{source.source_id}: {name}", reason, what, FETCH)
