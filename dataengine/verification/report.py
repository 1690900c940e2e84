"""What was checked, what was found, and what to do about each file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from dataengine.mixture import described
from dataengine.mixture.store import MARKER

MAX_NAMED = 100
"""Problems of one kind in one file that are named one by one."""
FROM_COPY = "restore the file from a copy of the mixture"
REMOVE = "remove it: no version needs it"


@dataclass(frozen=True)
class Problem:
    """A file that is not what it should be, why, and what to do. `file` is below the mixture, or `SOURCE: path`."""

    file: str
    reason: str
    what: str
    fix: str


@dataclass
class VerifyReport:
    """What was checked and what was found.

    `decoded` counts samples that `--read-data` decoded, `raw_files` the source files that were hashed again;
    `recomputed` are the versions whose statistics were made again from the lake.
    """

    versions: list[str] = field(default_factory=list)
    files: int = 0
    shards: int = 0
    samples: int = 0
    decoded: int = 0
    raw_files: int = 0
    recomputed: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    _told: set[tuple[str, str, str]] = field(default_factory=set, repr=False)

    def add(self, file: str, reason: str, what: str, fix: str) -> None:
        """Note a problem, once."""
        if (file, reason, what) not in self._told:
            self._told.add((file, reason, what))
            self.problems.append(Problem(file, reason, what, fix))

    def names(self, file: str) -> bool:
        """Whether a problem of this file is noted."""
        return any(told[0] == file for told in self._told)

    def document(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        counts = {name: value for name, value in vars(self).items() if name not in ("problems", "_told")}
        return {**counts, "ok": not self.problems, "problems": [vars(entry) for entry in self.problems]}


@dataclass
class Advice:
    """What to do about a damaged file, by what it is.

    `shards` tells (version, number) of a shard, `refs` the versions of a manifest.
    """

    mixture: str
    shards: dict[str, tuple[str, int]] = field(default_factory=dict)
    refs: dict[str, list[str]] = field(default_factory=dict)

    def know(self, version: str, shards: Mapping[int, str]) -> None:
        """A version, and its shards' digests by number."""
        for number, shard in shards.items():
            self.shards.setdefault(shard, (version, number))

    def of(self, name: str) -> str:
        """What to do about a file that is damaged or missing."""
        path = PurePosixPath(name)
        kind = path.parts[0]
        if kind == "blobs":
            return self._shard(path.stem)
        if kind == "manifests" and len(path.parts) == 2:
            return self._manifest(path.stem)
        if kind == "manifests" and len(path.parts) == 3:
            return self._document(path.parts[1].removesuffix(".d"), path.name)
        if kind == "refs":
            return (
                f"{FROM_COPY}; or write it anew: remove it, and build with the recipe and lake that made it and"
                f" --version {path.name}"
            )
        if kind == "tags":
            return f"remove the file, then set the tag anew: dataengine tag {self.mixture}@VERSION {path.name}"
        if kind == "tasks":
            return "remove it: it is a cache, and the next build makes the task again"
        if kind == "runs":
            return "remove it: it tells of one run, and nothing depends on it"
        if kind == "leases":
            return "remove it, unless a build or a collection is at work"
        if name == MARKER:
            return "copy mixture.json of any other mixture: they are all the same"
        return REMOVE

    def _shard(self, sha: str) -> str:
        if sha not in self.shards:
            return REMOVE + ", and a build that does makes it again"
        version, number = self.shards[sha]
        return f"dataengine rebuild {self.mixture}@{version} --shard {number} --lake LAKE --restore"

    def _manifest(self, sha: str) -> str:
        refs = ", ".join(f"refs/{version}" for version in self.refs.get(sha, ()))
        if not refs:
            return f"{FROM_COPY}, or remove it if no version names it"
        return f"{FROM_COPY}; or remove it and {refs}, and build with the recipe and lake that made it"

    def _document(self, sha: str, name: str) -> str:
        if name in (described.LIST, *described.NAMES):
            return described.FIX.replace("M@V", f"{self.mixture}@{self.refs.get(sha, ['V'])[0]}")
        if name in ("ledger.parquet", "normalization.json", "shard_records.parquet", "statistics.bin"):
            return f"{FROM_COPY}; or, of the latest version, remove it and build with the same recipe and lake"
        return REMOVE
