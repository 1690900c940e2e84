"""The lake: converted episodes in two Lance datasets, `episodes` (one row each) and `media` (one row a stream).

Commit order: media first, then episodes by merge-insert on uid. A crash in between leaves media that nobody
references; running the same ingest again uses them, and `dataengine.lake.care` collects what is left. The same uid with
the same conversion is nothing; with another conversion it is an update. Rows that a tombstone names are not seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from dataengine.convert import Conversion
from dataengine.documents import canonical_json, sha256_bytes
from dataengine.episode import Episode, Failure, Media
from dataengine.errors import MissingError, StorageError
from dataengine.lake import tables
from dataengine.lake.reader import LakeReader
from dataengine.lake.tables import BATCH_UIDS, COMMIT_RETRIES, EPISODES_TABLE, MEDIA_TABLE, lookup, quoted, retried
from dataengine.lake.tombstones import Forgotten, Tombstone, Tombstones
from dataengine.lake_rows import EPISODES, HEAD_COLUMNS, MEDIA, Head, episode_row, failure_row, media_rows
from dataengine.storage import Place, SourceFile, Store, make_folder, remote
from dataengine.storage.leases import lease, refuse, wait_for, working

BATCH_HEADS = 4096
PART_BYTES = 4 << 20
UID_BYTES = 32
LEASES = "leases"

SAMPLED_BYTES, SAMPLED_EPISODES = 64 << 20, 4  # of a source: what a dry run keeps to try


@dataclass(frozen=True)
class Snapshot:
    """A state of the lake: the versions of its two datasets."""

    episodes: int
    media: int


@dataclass(frozen=True)
class CommitCounts:
    """What a commit did to the rows."""

    added: int = 0
    updated: int = 0
    forgotten: int = 0


class Lake:
    """A lake at a local folder, or a prefix on S3.

    Opening creates it when `create` is set; otherwise a missing one is an error.
    """

    def __init__(self, path: Place, *, create: bool = False) -> None:
        self.path = remote(path) or str(path)
        self.care = Store(f"{self.path}/{tables.CARE}")
        self._tombstones = Tombstones(self.care)
        if not self.at(path):
            if not create:
                fix = "check the path, or ingest: dataengine ingest -h"
                raise MissingError(f"there is no lake at {self.path}", fix=fix)
            if remote(path) is None:
                make_folder(Path(path))
            if not tables.is_ours(path):
                raise StorageError(f"{self.path} holds other files", fix="name an empty or new folder for the lake")
            tables.create(path, MEDIA_TABLE, MEDIA)
            tables.create(path, EPISODES_TABLE, EPISODES)
        for dataset, schema in ((self._episodes(), EPISODES), (self._media(), MEDIA)):
            if dataset.schema.names != schema.names:
                raise StorageError(
                    f"the lake at {self.path} has the columns of another version of dataengine",
                    fix="ingest the sources into a new lake",
                )

    @staticmethod
    def at(path: Place) -> bool:
        """Whether a whole lake lies there: one whose making was interrupted is none yet."""
        return tables.made(path, EPISODES_TABLE) and tables.made(path, MEDIA_TABLE)

    def _episodes(self, version: int | None = None) -> Any:
        return tables.open_table(self.path, EPISODES_TABLE, version)

    def _media(self, version: int | None = None) -> Any:
        return tables.open_table(self.path, MEDIA_TABLE, version)

    def snapshot(self) -> Snapshot:
        """The current pair of versions: episodes first, whose media were all committed before."""
        episodes = self._episodes().version
        return Snapshot(episodes, self._media().version)

    def heads(self, snapshot: Snapshot | None = None, where: str | None = None) -> list[Head]:
        """Rows without arrays, sorted by uid."""
        found = (head for heads in self.head_batches(snapshot, where) for head in heads)
        return sorted(found, key=lambda head: head.uid)

    def head_batches(self, snapshot: Snapshot | None = None, where: str | None = None) -> Iterator[list[Head]]:
        """The same rows in the lake's own order, a few at a time: for lakes that do not fit into memory."""
        forgotten = self.tombstones()
        for rows in self._rows(list(HEAD_COLUMNS), snapshot, where):
            yield [Head.of(row) for row in rows if not (forgotten and forgotten.hides(row["uid"], row["source_id"]))]

    def _rows(self, columns: list[str], snapshot: Snapshot | None, where: str | None) -> Iterator[list[dict[str, Any]]]:
        """Rows as they are stored, those that a tombstone hides among them."""
        dataset = self._episodes(snapshot.episodes if snapshot else None)
        for batch in tables.batches(dataset, columns, where, BATCH_HEADS):
            yield batch.to_pylist()

    def tombstones(self) -> Forgotten:
        """What the lake's tombstones name, as they are now."""
        return self._tombstones.current()

    def bury(self, stone: Tombstone) -> str:
        """Write a tombstone; from then on nobody sees the rows it names. Returns its name in the care folder."""
        return self._tombstones.write(stone)

    def hidden(self, snapshot: Snapshot | None = None, where: str | None = None) -> list[Head]:
        """Rows that a tombstone hides and that a purge has not removed yet, sorted by uid."""
        forgotten = self.tombstones()
        if not forgotten:
            return []
        rows = (row for rows in self._rows(list(HEAD_COLUMNS), snapshot, where) for row in rows)
        found = (Head.of(row) for row in rows if forgotten.hides(row["uid"], row["source_id"]))
        return sorted(found, key=lambda head: head.uid)

    def forgotten(self, snapshot: Snapshot | None = None, where: str | None = None) -> int:
        """How many rows (that match `where`) are hidden by a tombstone. After a purge they are gone, and count 0."""
        forgotten = self.tombstones()
        if not forgotten:
            return 0
        batches = self._rows(["uid", "source_id"], snapshot, where)
        return sum(forgotten.hides(row["uid"], row["source_id"]) for rows in batches for row in rows)

    def failures(self, source_id: str) -> list[Head]:
        """Rows of a source that could not be used."""
        return self.heads(where=f"status != 'ok' and source_id = {quoted(source_id)}")

    def known(self, source_id: str) -> dict[str, list[tuple[str, str]]]:
        """(uid, conversion digest) of a source's usable episodes by upstream id."""
        found: dict[str, list[tuple[str, str]]] = {}
        for row in self._usable(source_id, ["upstream_id", "conversion_digest"]):
            found.setdefault(row["upstream_id"], []).append((row["uid"], row["conversion_digest"]))
        return found

    def converters(self, source_id: str) -> set[str]:
        """The converters that made what the lake holds of a source."""
        return {row["converter"] for row in self._usable(source_id, ["converter"])}

    def known_files(self, source_id: str) -> Counter[str]:
        """How many usable episodes of a source were read from each of its files."""
        rows = self._usable(source_id, ["meta"])
        return Counter(file["path"] for row in rows for file in orjson.loads(row["meta"])["files"])

    def files_of(self, source_id: str) -> Iterator[tuple[str, tuple[SourceFile, ...]]]:
        """(uid, the files it was read from) of every usable episode of a source."""
        for row in self._usable(source_id, ["meta"]):
            yield row["uid"], tuple(SourceFile(**file) for file in orjson.loads(row["meta"])["files"])

    def _usable(self, source_id: str, columns: list[str]) -> Iterator[dict[str, Any]]:
        forgotten = self.tombstones()
        where = f"status = 'ok' and source_id = {quoted(source_id)}"
        for rows in self._rows(["uid", *columns], None, where):
            yield from (row for row in rows if not (forgotten and forgotten.hides(row["uid"], source_id)))

    def reader(self, uids: Sequence[str], snapshot: Snapshot | None = None, *, native: bool = False) -> LakeReader:
        """Read these episodes; rows and the places of their media are looked up once."""
        episodes = self._episodes(snapshot.episodes if snapshot else None)
        media = self._media(snapshot.media if snapshot else None)
        return LakeReader(episodes, media, uids, self.tombstones(), native=native)

    def commit(self, conversion: Conversion, episodes: Iterable[Episode], failures: Iterable[Failure]) -> CommitCounts:
        """Write media, then merge the episode rows. Failures become rows of their own.

        What a tombstone names is left out and counted; frames of it in the streams of others are left out too.
        """
        converter = conversion.converter
        head = {
            "source_id": converter.source_id,
            "converter": converter.name,
            "family": converter.family,
            "embodiment": converter.embodiment,
            "control_mode": converter.control_mode,
            "conversion_digest": conversion.digest,
            "source": canonical_json(converter.source.canonical()).decode(),
            "card": canonical_json(conversion.card.canonical()).decode(),
        }
        forgotten = self.tombstones()
        given = {episode.uid: episode for episode in episodes}
        kept = {uid: clean(one, forgotten) for uid, one in given.items() if not forgotten.hides(uid, one.source_id)}
        hidden = len(given) - len(kept)
        rows = [episode_row(episode, head) for episode in kept.values()]
        rows += {row["uid"]: row for row in (failure_row(failure, head) for failure in failures)}.values()
        if not rows:
            return CommitCounts(forgotten=hidden)
        media = [row for episode in kept.values() for row in media_rows(episode)]
        self._append_media(media)
        table = pa.Table.from_pylist(rows, schema=EPISODES)
        done = retried(lambda: self._merge(table))
        retried(lambda: self._append_fresh(media))  # a collection may have removed what nothing referenced yet
        return CommitCounts(done["num_inserted_rows"], done["num_updated_rows"], hidden)

    def restate(self, conversion: Conversion, upstream_ids: Iterable[str]) -> int:
        """Let rows of these episodes tell the conversion's facts of the source; nothing else of them changes."""
        converter, wanted = conversion.converter, set(upstream_ids)
        text = quoted(canonical_json(converter.source.canonical()).decode())
        own = f"source_id = {quoted(converter.source_id)} and conversion_digest = {quoted(conversion.digest)}"
        other = f"{own} and source != {text}"
        rows = [row for rows in self._rows(["uid", "upstream_id"], None, other) for row in rows]
        uids = [row["uid"] for row in rows if row["upstream_id"] in wanted]
        parts = [uids[start : start + BATCH_UIDS] for start in range(0, len(uids), BATCH_UIDS)]
        listed = (f"uid in ({', '.join(map(quoted, part))})" for part in parts)
        for where in [other] if rows and len(uids) == len(rows) else listed:
            retried(lambda where=where: self._episodes().update({"source": text}, where))  # type: ignore[misc]
        return len(uids)

    def _merge(self, table: pa.Table) -> Mapping[str, int]:
        merge = self._episodes().merge_insert("uid").when_matched_update_all().when_not_matched_insert_all()
        # With the index Lance does not see that another merge inserted the same uid: rows came twice (220 in 4 rounds).
        merge = merge.use_index(False)
        result: Mapping[str, int] = merge.conflict_retries(COMMIT_RETRIES).execute(table)
        return result

    def _append_media(self, rows: list[dict[str, Any]]) -> None:
        """Append what is not there yet (an interrupted ingest left it)."""
        if rows:
            retried(lambda: self._append_fresh(rows))

    def _append_fresh(self, rows: list[dict[str, Any]]) -> None:
        present = self._present_media([row["media_id"] for row in rows]) if rows else set()
        fresh = [row for row in rows if row["media_id"] not in present]
        if fresh:
            parts = (pa.RecordBatch.from_pylist(part, schema=MEDIA) for part in _parts(fresh))
            tables.write(pa.RecordBatchReader.from_batches(MEDIA, parts), self.path, MEDIA_TABLE, "append")
            pa.default_memory_pool().release_unused()

    def _present_media(self, media_ids: Sequence[str]) -> set[str]:
        return {row["media_id"] for row in lookup(self._media(), "media_id", media_ids, ["media_id"])}

    def clear_failures(self, source_id: str, upstream_ids: Iterable[str]) -> int:
        """Remove failure rows of episodes and files that read well now."""
        gone = sorted(set(upstream_ids))
        for start in range(0, len(gone), BATCH_UIDS):
            names = ", ".join(quoted(name) for name in gone[start : start + BATCH_UIDS])
            where = f"status != 'ok' and source_id = {quoted(source_id)} and upstream_id in ({names})"
            if tables.again(lambda where=where: self._episodes().count_rows(where)):  # type: ignore[misc]
                retried(lambda where=where: self._episodes().delete(where))  # type: ignore[misc]
        return len(gone)

    def remove(self, where: str) -> int:
        """Delete the rows that match, and their media; returns how many rows went."""
        uids = [head.uid for head in self.heads(where=where)]
        self.delete(uids)
        return len(uids)

    def delete(self, uids: Sequence[str]) -> None:
        """Delete the rows of these uids, hidden ones too, and all their media."""
        tables.delete(self.path, EPISODES_TABLE, "uid", uids)
        tables.delete(self.path, MEDIA_TABLE, "uid", uids)

    @contextmanager
    def ingesting(self) -> Iterator[None]:
        """The lease of an ingest: what cares for the lake waits for it, or refuses; a care at work is waited for."""
        with working(self.care, LEASES, "ingest", "care", "a collection or a purge"):
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """The lease of a build: as long as it lasts no version that it may read is removed."""
        with working(self.care, LEASES, "build", "care", "a collection or a purge"):
            yield

    @contextmanager
    def caring(self, *, wait_seconds: float = 0.0, builds: bool = True) -> Iterator[None]:
        """The lease of a collection, a clean-up or a purge: one at a time, and none beside an ingest or (with `builds`)
        a build: after `wait_seconds` a `ConflictError`."""
        if wait_seconds:
            wait_for(self.care, LEASES, "care", "a collection or a purge", wait_seconds=wait_seconds)
        with lease(self.care, LEASES, "care"):
            refuse(self.care, LEASES, "care", "collections or purges are", own=1)
            for kind in ("ingest", "build") if builds else ("ingest",):
                if wait_seconds:
                    wait_for(self.care, LEASES, kind, f"another {kind}", wait_seconds=wait_seconds)
                refuse(self.care, LEASES, kind, f"{kind}s are")
            yield

    def keep(self, name: str, snapshot: Snapshot) -> None:
        """Tag a snapshot in both tables: it stays while a version of a mixture needs it. The same again is nothing.

        A version that is gone (an old one that a purge removed) cannot be kept: `StorageError`.
        """
        for table, version in ((EPISODES_TABLE, snapshot.episodes), (MEDIA_TABLE, snapshot.media)):
            try:
                tables.again(lambda table=table, version=version: self._keep(table, name, version))  # type: ignore[misc]
            except (OSError, ValueError) as error:
                told = tables.refused(error).what
                raise StorageError(f"version {version} of the lake cannot be kept: {told}", where=self.path) from None

    def _keep(self, table: str, name: str, version: int) -> None:
        """Tag a version of one table. After an answer that got lost the tag may be there already, as another's may."""
        tags = tables.open_table(self.path, table).tags
        standing = tags.list().get(name)
        if standing is not None and standing["version"] == version:
            return
        try:
            tags.update(name, version) if standing is not None else tags.create(name, version)
        except ValueError:
            if tables.again(tags.list).get(name, {}).get("version") != version:
                raise

    def release(self, name: str) -> None:
        """Remove the tags of a snapshot; one that is not kept is no error."""
        for table in (EPISODES_TABLE, MEDIA_TABLE):
            tags = tables.open_table(self.path, table).tags
            if name in tags.list():
                try:
                    tags.delete(name)
                except (OSError, ValueError):  # another process released it
                    if name in tags.list():
                        raise

    def kept(self) -> dict[str, Snapshot]:
        """The snapshots that are kept, by name."""
        episodes, media = (
            {name: int(tag["version"]) for name, tag in tables.open_table(self.path, table).tags.list().items()}
            for table in (EPISODES_TABLE, MEDIA_TABLE)
        )
        return {name: Snapshot(version, media[name]) for name, version in sorted(episodes.items()) if name in media}


class ScratchLake(Lake):
    """A lake for one dry run: a copy on write of another, or empty.

    Without `media` the pictures of few of the episodes that are read are kept: `sampled` are their uids.
    """

    def __init__(self, path: Path, of: Place, *, media: bool = False) -> None:
        self._keeps_media = media
        self._room: dict[str, int] = {}
        self.sampled: set[str] = set()
        self._of: Place | None = of if Lake.at(of) else None
        if self._of is not None:
            source = Lake(of)
            taken = source.snapshot()
            tables.clone(source._episodes(taken.episodes), of, path / EPISODES_TABLE)  # noqa: SLF001 - of its own kind
            if media or remote(of) is None:
                tables.clone(source._media(taken.media), of, path / MEDIA_TABLE)  # noqa: SLF001 - as above
        super().__init__(path, create=True)
        if self._of is not None:
            self._tombstones = Tombstones(Store(f"{remote(of) or of}/{tables.CARE}"))

    @contextmanager
    def ingesting(self) -> Iterator[None]:
        yield  # nobody else knows of this lake

    @contextmanager
    def reading(self) -> Iterator[None]:
        yield

    def _append_media(self, rows: list[dict[str, Any]]) -> None:
        if not self._keeps_media:
            rows = [row for row in rows if row["uid"] in self.sampled]
        super()._append_media(rows)

    def commit(self, conversion: Conversion, episodes: Iterable[Episode], failures: Iterable[Failure]) -> CommitCounts:
        """As of every lake; streams beyond the first `SAMPLED_BYTES` of a converter are left out."""
        listed, name = list(episodes), conversion.converter.name
        for episode in listed:
            size = sum(len(media.payload) for media in episode.media.values())
            room = self._room.get(name, SAMPLED_BYTES)
            if size <= room:
                self.sampled.add(episode.uid)
                self._room[name] = room - size - SAMPLED_BYTES // SAMPLED_EPISODES
        return super().commit(conversion, listed, failures)


def _parts(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Rows of media in runs of a few megabytes of payload, so that a batch of them is copied piece by piece."""
    part: list[Mapping[str, Any]] = []
    size = 0
    for row in rows:
        part.append(row)
        size += len(row["payload"] or b"")
        if size >= PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def clean(episode: Episode, forgotten: Forgotten) -> Episode:
    """The episode without frames of others, if some of them may be of what was forgotten.

    An `EpisodeError` `video_unreadable` where its own cannot be stored without loss.
    """
    if not any(media.foreign_frames for media in episode.media.values()):
        return episode
    if not forgotten.shares_video(episode.source_id, episode.files):
        return episode
    return replace(episode, media={name: cleaned(media) for name, media in episode.media.items()})


def cleaned(media: Media) -> Media:
    """A stream without its neighbours' frames; one without any is returned as it is."""
    if not media.foreign_frames:
        return media
    from dataengine.video import without_foreign

    return without_foreign(media)


def keep_name(address: str, manifest: str) -> str:
    """The name under which a version of a mixture keeps its snapshot: digests of where it lies and of what it is."""
    place = remote(address) or str(Path(address).resolve())
    return f"{sha256_bytes(place.encode())[:16]}-{manifest[:32]}"


def lake_digest(heads: Iterable[Head]) -> str:
    """sha256 over the rows sorted by uid of what decides their content: not versions, not row order."""
    rows = sorted(bytes.fromhex(head.uid) + bytes.fromhex(head.content) for head in heads)
    return sha256_bytes(b"".join(row[UID_BYTES:] for row in rows))


def source_filter(names: Iterable[str]) -> str:
    """A filter for rows of the named sources or converters, with the named uids, or failures by the name they tell."""
    listed = ", ".join(quoted(name) for name in names)
    failures = f"(status != 'ok' and upstream_id in ({listed}))"
    return f"source_id in ({listed}) or converter in ({listed}) or uid in ({listed}) or {failures}"
