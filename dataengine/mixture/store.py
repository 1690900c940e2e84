"""A mixture on disk: names, refs and versions (ARCHITECTURE: the commit protocol).

blobs/sha256/ab/<sha256>.tar   shards, immutable, content-addressed, `.idx` beside each
tasks/<task_digest>.json       what a task produced (a cache)
manifests/<sha256>.json        canonical JSON; `<sha256>.d/` holds normalization, ledger and shard records
refs/v0001                     names a manifest: THE commit point
tags/NAME                      names a version; a tag can be moved
leases/                        builds and collections at work
runs/                          run facts
staging/                       temporary
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from dataengine.credentials import refuse_credentials
from dataengine.documents import canonical_json, load_json, seal, sha256_bytes, unseal
from dataengine.errors import ConflictError, FormatError, MissingError, SpecError, StorageError
from dataengine.specs.records import Manifest, TaskRecord
from dataengine.storage import Place, Store, Writers, make_folder, staged_by

MARKER = "mixture.json"
VERSION_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
_NUMBERED = re.compile(r"^v(\d{4,})$")
MAX_RACES = 1000
STAGING_SECONDS = 24 * 3600
_KIND = {"kind": "dataengine mixture", "layout": 1}


def shard_name(sha256: str) -> str:
    """Where a shard lies below the mixture."""
    return f"blobs/sha256/{sha256[:2]}/{sha256}.tar"


def index_name(shard_sha256: str) -> str:
    """Where a shard's index lies: beside it."""
    return f"blobs/sha256/{shard_sha256[:2]}/{shard_sha256}.idx"


def task_name(digest: str) -> str:
    """Where a task's record lies."""
    return f"tasks/{digest}.json"


def seal_ref(version: str, manifest_sha: str) -> bytes:
    """The ref of a version: it names itself, so that one under another name is seen."""
    return seal({"manifest": manifest_sha, "version": version})


class MixtureStore(Store):
    """A mixture's folder, or prefix on S3. `create` makes one; a folder with other files in it is refused.

    With `damaged` the mark is not looked at: for `verify`, which tells of it as of every other file.
    """

    def __init__(
        self, root: Place, *, create: bool = False, writers: Writers = "conditional", damaged: bool = False
    ) -> None:
        super().__init__(root, writers)
        if damaged:
            return
        if self.exists(MARKER):
            _check_mark(self)
        elif not create:
            fix = "check the path, or build it: dataengine build -h"
            raise MissingError(f"there is no mixture at {self.address}", fix=fix)
        else:
            self.check_free(root)
            if self.is_local:
                make_folder(self.root)
            self.publish(MARKER, seal(_KIND))

    @staticmethod
    def check_free(root: Place) -> None:
        """A `StorageError` when the folder holds something else than a mixture."""
        store, fix = Store(root), "name a new or empty folder for --out"
        if store.exists(MARKER):
            _check_mark(store)
            return
        if store.is_local and store.root.exists() and not store.root.is_dir():
            raise StorageError(f"{store.address} is a file, not a folder", fix=fix)
        # another builder may make the mixture between two looks: its mark comes before anything else, and is asked last
        if (store.files() or (store.is_local and _has_folders(store.root))) and not store.exists(MARKER):
            raise StorageError(f"{store.address} holds files that are no mixture", fix=fix)

    def check_writers(self) -> None:
        """Refuse a store that cannot tell two builders apart, unless one builder is promised."""
        if not self.is_local and self.writers == "conditional" and not conditional(self.address):
            raise StorageError(
                f"the store of {self.address} ignores conditional writes: two builders would overwrite each other",
                fix="build with --single-writer, and never two at once",
            )

    def clean_staging(self) -> None:
        """Remove temporary files of processes that are gone: at once those of this host, after a day another's."""
        if not self.is_local:
            return  # what is being written lies on the builder's own disk
        for name in self.names("staging", "*.*.*"):
            process = staged_by(name)  # None: whether another node's process is alive cannot be seen from here
            old = (self.backend.age(name) or 0) > STAGING_SECONDS
            if old if process is None else not _alive(process):
                self.remove(name)

    def versions(self) -> list[str]:
        """Version names: numbered ones in order, then the given names."""
        names = [Path(name).name for name in self.names("refs")]
        return sorted(names, key=lambda name: (not _NUMBERED.match(name), _number(name), name))

    def latest(self) -> str | None:
        """The highest numbered version, else the only named one; None when there is none or no single choice."""
        names = self.versions()
        numbered = [name for name in names if _NUMBERED.match(name)]
        if numbered:
            return numbered[-1]
        return names[0] if len(names) == 1 else None

    def resolve(self, version: str | None) -> str:
        """The version that a name or a tag stands for, the latest for None; an unknown one is a `SpecError`."""
        names = self.versions()
        if version is None:
            latest = self.latest()
            if latest is None:
                fix = f"name one with @VERSION: {', '.join(names)}" if names else "run build again: none was committed"
                raise SpecError(f"the mixture at {self.address} has no latest version", fix=fix)
            return latest
        if version in names:
            return version
        tags = self.tags()
        if version not in tags:
            known = ", ".join([*names, *tags]) or "none"
            raise SpecError(f"no version {version!r} in {self.address}", fix=f"known: {known}")
        return tags[version]

    def tags(self) -> dict[str, str]:
        """Versions by tag, sorted by tag."""
        found = {}
        for name in self.names("tags"):
            version = unseal(self.read(name), self.at(name)).get("version")
            if not isinstance(version, str):
                raise FormatError("digest_mismatch", "the tag names no version", where=self.at(name))
            found[Path(name).name] = version
        return found

    def tag(self, name: str, version: str, *, move: bool) -> None:
        """Let a tag stand for a version. One that stands for another is a `ConflictError`, unless it may `move`."""
        check_version_name(name)
        if name in self.versions() or _NUMBERED.match(name):
            raise SpecError(f"{name!r} is the name of a version", fix="give the tag another name")
        standing = self.tags().get(name)
        if standing is not None and standing != version:
            if not move:
                raise ConflictError(f"tag {name!r} stands for {standing}", where=self.address, fix="--move moves it")
            self.untag(name)
        self.publish(f"tags/{name}", seal({"tag": name, "version": version}))

    def untag(self, name: str) -> None:
        """Remove a tag; an unknown one is a `SpecError`."""
        if name not in self.tags():
            raise SpecError(f"no tag {name!r} in {self.address}", fix=f"known: {', '.join(self.tags()) or 'none'}")
        self.remove(f"tags/{name}")

    def manifest_sha(self, version: str) -> str:
        """The manifest that a version names."""
        name = f"refs/{version}"
        sha = unseal(self.read(name), self.at(name)).get("manifest")
        if not isinstance(sha, str):
            raise FormatError("digest_mismatch", "the ref names no manifest", where=self.at(name))
        return sha

    def manifest(self, version: str) -> tuple[str, Manifest]:
        """(sha256, manifest) of a version, digest checked."""
        sha = self.manifest_sha(version)
        return sha, self.manifest_of(sha)

    def manifest_of(self, sha: str) -> Manifest:
        """The manifest with this digest, which is checked."""
        name = f"manifests/{sha}.json"
        return Manifest.parse(load_json(self.checked(name, sha), name), name)

    def checked(self, name: str, sha256: str) -> bytes:
        """Content of `name`, which must have this digest; else a `FormatError` `digest_mismatch`."""
        data = self.read(name)
        if sha256_bytes(data) != sha256:
            raise FormatError("digest_mismatch", f"{name} does not have the digest it should have", where=self.at(name))
        return data

    def cached_task(self, digest: str) -> TaskRecord | None:
        """A task's record, if it is there, reads well and its blobs stand with the right size."""
        name = task_name(digest)
        if not self.exists(name):
            return None
        try:
            record = TaskRecord.parse(unseal(self.read(name), name), name)
        except (FormatError, SpecError):
            self.remove(name)
            return None
        for blob, size in ((shard_name(record.sha256), record.bytes), (index_name(record.sha256), record.index_bytes)):
            if self.size(blob) != size:
                return None
        return record

    def holds(self, sha: str, manifest: Manifest) -> bool:
        """Whether every shard, index and document of a manifest lies there (with its size; `verify` reads them)."""
        folder = self.documents(sha)
        names = [f"{folder}/{name}" for name in ("normalization.json", "ledger.parquet", "shard_records.parquet")]
        names += [f"{folder}/statistics.bin"] if manifest.statistics_sha256 is not None else []
        names += [index_name(shard.sha256) for shard in manifest.shards]
        sizes = {shard_name(shard.sha256): shard.bytes for shard in manifest.shards}
        return all(map(self.exists, names)) and all(self.size(name) == size for name, size in sizes.items())

    def commit(
        self, manifest: Manifest, version: str | None, describe: Callable[[Manifest], object] | None = None
    ) -> tuple[str, bool]:
        """Publish a manifest and the ref that names it. Returns (version, created).

        `describe` writes the manifest's other documents, between the two. Without a name the next number is taken; a
        version with the same content is found instead of made again.
        A given name that stands for other content is a `ConflictError`.
        """
        content = manifest.content_digest()
        if version is None:
            latest = self.latest()
            if latest is not None and self.manifest(latest)[1].content_digest() == content:
                return latest, False
        elif version in self.versions():
            if self.manifest(version)[1].content_digest() != content:
                raise ConflictError(
                    f"version {version!r} exists with other content", where=self.address, fix="give another name"
                )
            return version, False
        data = canonical_json(manifest.canonical())
        sha = sha256_bytes(data)
        self.publish(f"manifests/{sha}.json", data)
        if describe is not None:
            describe(manifest)
        if version is not None:
            self.publish(f"refs/{version}", seal_ref(version, sha))
            return version, True
        return self._next_ref(sha, content)

    def _next_ref(self, sha: str, content: str) -> tuple[str, bool]:
        """Create the next numbered ref; the one before, if another builder just made it for this content, serves too.

        Between looking at the last version and creating the next one nobody can slip in: the name would be taken.
        """
        for _ in range(MAX_RACES):
            numbered = [name for name in self.versions() if _NUMBERED.match(name)]
            if numbered and self.manifest(numbered[-1])[1].content_digest() == content:
                return numbered[-1], False
            name = f"v{(_number(numbered[-1]) if numbered else 0) + 1:04d}"
            try:
                return name, self.publish(f"refs/{name}", seal_ref(name, sha))
            except ConflictError:
                continue
        raise StorageError("other builders kept taking the next version", where=self.address, fix="build again")

    def documents(self, manifest_sha: str) -> str:
        """The folder of a manifest's documents."""
        return f"manifests/{manifest_sha}.d"


def _check_mark(store: Store) -> None:
    try:
        unseal(store.read(MARKER), store.at(MARKER))
    except FormatError as error:
        fix = "name another folder, or restore the file where this is a mixture of yours: another mixture's is the same"
        raise FormatError(error.reason, error.what, where=error.where, fix=fix) from None


def _has_folders(root: Path) -> bool:
    return root.is_dir() and any(entry.name != "staging" for entry in root.iterdir())


def conditional(address: str) -> bool:
    """Whether a store on S3 refuses a second write under one name."""
    from dataengine.storage.s3 import S3Backend

    return S3Backend(address).conditional()


def check_version_name(version: str | None) -> None:
    """A given version name must be a plain file name."""
    if version is not None and not VERSION_NAME.match(version):
        raise SpecError(f"{version!r} is no version name", fix="use letters, digits, dots, dashes and underscores")


def split_address(address: str) -> tuple[Path, str | None]:
    """`M` or `M@V` into the folder and the version."""
    refuse_credentials(address, "the address of a mixture")
    path, at, version = address.rpartition("@")
    if at and path and "/" not in version:
        return Path(path), version
    return Path(address), None


def _number(name: str) -> int:
    match = _NUMBERED.match(name)
    return int(match.group(1)) if match else 0


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
