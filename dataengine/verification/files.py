"""Every file by itself: its name says what it is and, for most, what its digest must be."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import orjson

from dataengine.documents import sha256_bytes, unseal
from dataengine.errors import BadInput
from dataengine.mixture import described
from dataengine.mixture.store import MARKER, MixtureStore, index_name, shard_name
from dataengine.specs.records import TaskRecord

_DIGESTS = {
    "ledger.parquet": "ledger_sha256",
    "normalization.json": "normalization_sha256",
    "shard_records.parquet": "shard_records_sha256",
    "statistics.bin": "statistics_sha256",
}
_SEALED = ("leases", "refs", "runs", "tags", "tasks")
_FOLDERS = re.compile(
    r"(blobs(/sha256(/[0-9a-f]{2})?)?|tasks|manifests(/[0-9a-f]{64}\.d)?|refs|tags|leases|runs|staging(/.*)?)"
)
_SHARD = re.compile(r"blobs/sha256/([0-9a-f]{2})/\1[0-9a-f]{62}\.(tar|idx)")


def is_folder(name: str) -> bool:
    """Whether a mixture has such a folder."""
    return _FOLDERS.fullmatch(name) is not None


def is_shard(name: str) -> bool:
    """Whether a file is a shard by its name."""
    return name.endswith(".tar") and _SHARD.fullmatch(name) is not None


@dataclass
class FileCheck:
    """Checks files other than shards; a `BadInput` says what is wrong. `odd` are names that are no regular files."""

    store: MixtureStore
    odd: frozenset[str] = frozenset()
    _documents: dict[str, dict[str, Any] | None] = field(default_factory=dict)

    def check(self, name: str) -> None:
        """One file."""
        path = PurePosixPath(name)
        kind, depth = path.parts[0], len(path.parts)
        if kind == "runs" and depth == 2 and path.suffix != ".json":
            described.check_run_document(self.store, name)
        elif name == MARKER or (kind in _SEALED and depth == 2):
            self._sealed(name, kind, path)
        elif kind == "manifests" and depth == 2 and path.suffix == ".json":
            self.store.checked(name, path.stem)
        elif kind == "manifests" and depth == 3 and is_folder(str(path.parent)):
            self._document(name, path.name, path.parts[1].removesuffix(".d"))
        elif _SHARD.fullmatch(name) and path.suffix == ".idx":
            if not self._there(shard_name(path.stem)):
                raise BadInput("orphan_index", "an index without its shard", where=name)
        else:
            raise BadInput("unknown_file", "no file of a mixture", where=name, fix="remove it")

    def _there(self, name: str) -> bool:
        return name not in self.odd and self.store.exists(name)

    def _sealed(self, name: str, kind: str, path: PurePosixPath) -> None:
        """Whole, and of the name that it lies under."""
        body = unseal(self.store.read(name), name)
        if kind == "tasks":
            self._task(TaskRecord.parse(body, name), name, path)
        elif kind == "refs" and body.get("version", path.name) != path.name:
            raise BadInput("wrong_name", f"the ref is of version {body['version']}", where=name)
        elif kind == "tags" and body.get("tag", path.name) != path.name:
            raise BadInput("wrong_name", f"the tag is {body['tag']!r}", where=name)
        elif kind == "runs":
            foreign = [own for own in body.get("documents", {}) if not own.startswith(f"{path.stem}.")]
            if foreign:
                raise BadInput("wrong_name", f"the facts are of another run: they name {foreign[0]}", where=name)

    def _task(self, record: TaskRecord, name: str, path: PurePosixPath) -> None:
        if record.task_digest != path.stem or path.suffix != ".json":
            raise BadInput("wrong_name", "the record is of another task", where=name)
        if sum(unit.samples for unit in record.inputs) != record.samples:
            raise BadInput("count_mismatch", "its inputs do not add up to its samples", where=name)
        for blob, size in ((shard_name(record.sha256), record.bytes), (index_name(record.sha256), record.index_bytes)):
            if self._there(blob) and self.store.size(blob) != size:
                raise BadInput("count_mismatch", f"{blob} has not the {size} bytes of the record", where=name)

    def _document(self, name: str, own: str, manifest_sha: str) -> None:
        """A manifest's document has the digest that the manifest says (an unfinished commit has no manifest yet)."""
        if manifest_sha not in self._documents:
            self._documents[manifest_sha] = self._digests(manifest_sha)
        digests = self._documents[manifest_sha]
        if digests is None:
            return
        if own in (described.LIST, *described.NAMES):
            described.check_document(self.store, name, manifest_sha)
        elif digests.get(own) is None:
            raise BadInput("unknown_file", "the manifest names no such document", where=name, fix="remove it")
        elif sha256_bytes(self.store.read(name)) != digests[own]:
            raise BadInput("digest_mismatch", "not the document that the manifest names", where=name)

    def _digests(self, sha: str) -> dict[str, Any] | None:
        """Digests of documents by name; None where the manifest is missing or damaged, which is told of itself."""
        name = f"manifests/{sha}.json"
        if not self._there(name):
            return None
        data = self.store.read(name)
        if sha256_bytes(data) != sha:
            return None
        manifest = orjson.loads(data)
        return {own: manifest.get(field_name) for own, field_name in _DIGESTS.items()}
