"""Forgetting in the lake: the tombstone, and neighbours whose stored video holds frames of what is forgotten."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from dataengine.documents import canonical_json, seal, unseal
from dataengine.errors import EpisodeError, SpecError, StorageError
from dataengine.lake import tables
from dataengine.lake.core import Lake, cleaned
from dataengine.lake.tables import BATCH_UIDS, EPISODES_TABLE, quoted, retried
from dataengine.lake.tombstones import Forgotten, Tombstone, digest_of, file_digests
from dataengine.lake_rows import HEAD_COLUMNS, Head, MediaInfo, media_row
from dataengine.storage import SourceFile

CLEANED = "cleaned"


@dataclass(frozen=True)
class Asked:
    """What is to be forgotten: a source, or episodes by uid."""

    source_id: str = ""
    uids: tuple[str, ...] = ()


@dataclass
class Buried:
    """What a tombstone did to a lake. `neighbours` are upstream ids of episodes whose streams were cleaned."""

    episodes: int = 0
    other_rows: int = 0
    tombstone: str = ""
    neighbours: list[str] = field(default_factory=list)
    dry_run: bool = False


def forget(lake: Lake, asked: Asked, reason: str, *, dry_run: bool = False, wait_seconds: float = 600.0) -> Buried:
    """Write a tombstone, then clean the neighbours.

    The tombstone holds from the moment it stands; the cleaning waits for ingests. Running it again goes on where it
    was: what is hidden already is no error.
    """
    chosen = list(_asked(lake, asked))
    _check(lake, asked, [head for head, _ in chosen])
    ok = [(head, files) for head, files in chosen if head.status == "ok"]
    digests = {name for head, files in ok for name in file_digests(head.source_id, files) if head.media}
    result = Buried(len(ok), len(chosen) - len(ok), dry_run=dry_run)
    if dry_run:
        result.neighbours = sorted(head.upstream_id for head in neighbours(lake, future(lake, asked, digests)))
        return result
    if any(not lake.tombstones().hides(head.uid, head.source_id) for head, _ in chosen):
        stone = Tombstone(
            kind="source" if asked.source_id else "episodes",
            source_id=asked.source_id,
            uids=() if asked.source_id else tuple(sorted(digest_of(uid) for uid in asked.uids)),
            files=tuple(sorted(digests)),
            reason=reason,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        result.tombstone = lake.bury(stone)
    with lake.caring(wait_seconds=wait_seconds, builds=False):
        result.neighbours = clean_neighbours(lake)
    return result


def future(lake: Lake, asked: Asked, files: Collection[str] = ()) -> Forgotten:
    """What would be forgotten if this were, too."""
    now = lake.tombstones()
    uids, sources = {digest_of(uid) for uid in asked.uids}, {asked.source_id} - {""}
    return Forgotten(now.uids | uids, now.sources | sources, now.files | set(files))


def _asked(lake: Lake, asked: Asked) -> Iterator[tuple[Head, tuple[SourceFile, ...]]]:
    if asked.source_id:
        yield from _heads_and_files(lake, f"source_id = {quoted(asked.source_id)}")
    for start in range(0, len(asked.uids), BATCH_UIDS):
        listed = ", ".join(map(quoted, asked.uids[start : start + BATCH_UIDS]))
        yield from _heads_and_files(lake, f"uid in ({listed})")


def _check(lake: Lake, asked: Asked, chosen: Sequence[Head]) -> None:
    """What the lake does not hold is refused, unless a tombstone names it already."""
    forgotten = lake.tombstones()
    if asked.source_id:
        lost = [] if chosen or asked.source_id in forgotten.sources else [asked.source_id]
    else:
        there = {head.uid for head in chosen}
        lost = [uid for uid in asked.uids if uid not in there and digest_of(uid) not in forgotten.uids]
    if lost:
        known = sorted({head.source_id for head in lake.heads()})
        raise SpecError(
            f"the lake holds nothing of {lost[0]}" + (f" and {len(lost) - 1:,} others" if len(lost) > 1 else ""),
            where=lake.path,
            fix=f"name a source ({', '.join(known) or 'it holds none'}), or uids as `dataengine audit` prints them",
        )


def _heads_and_files(lake: Lake, where: str | None = None) -> Iterator[tuple[Head, tuple[SourceFile, ...]]]:
    """Rows, hidden ones too, with the files they were read from."""
    for batch in tables.batches(tables.open_table(lake.path, EPISODES_TABLE), HEAD_COLUMNS, where, tables.BATCH_ROWS):
        for row in batch.to_pylist():
            yield Head.of(row), tuple(SourceFile(**file) for file in orjson.loads(row["meta"]).get("files", ()))


def neighbours(lake: Lake, forgotten: Forgotten) -> list[Head]:
    """Episodes in sight whose stored video may hold frames of what is forgotten: cut off a keyframe from a file that
    something forgotten was cut from."""
    found = []
    for head, files in _heads_and_files(lake) if forgotten.files else ():
        if forgotten.hides(head.uid, head.source_id) or not any(info.foreign_frames for info in head.media):
            continue
        if forgotten.shares_video(head.source_id, files):
            found.append(head)
    return sorted(found, key=lambda head: head.uid)


def clean_neighbours(lake: Lake) -> list[str]:
    """Put streams without foreign frames in the place of those that may show what is forgotten; upstream ids."""
    done = []
    for head in neighbours(lake, lake.tombstones()):
        _replace_media(lake, head)
        done.append(head.upstream_id)
    return done


def _replace_media(lake: Lake, head: Head) -> None:
    """New media rows first, then the episode's row, as an ingest does. What it was is noted for the purge."""
    episode = lake.reader([head.uid]).episode(head.uid)
    infos, rows = [], []
    for info in head.media:
        try:
            made = cleaned(episode.media[info.name])
        except EpisodeError as error:
            raise StorageError(
                f"a stream that holds frames of what is forgotten cannot be stored without them: {error.what}",
                where=f"episode {head.uid}",
                fix="forget this episode as well, then run the same command again",
            ) from None
        infos.append(MediaInfo.of(head.uid, made))
        if info.foreign_frames:
            rows.append(media_row(head.uid, made))
            note = {"media_id": info.media_id, "first_frame": info.first_frame, "frames": info.frames}
            lake.care.publish(f"{CLEANED}/{info.media_id}.json", seal(note))
    lake._append_media(rows)  # noqa: SLF001 - of the same package
    text = canonical_json([asdict(info) for info in infos]).decode()
    same = f"uid = {quoted(head.uid)} and conversion_digest = {quoted(head.conversion_digest)}"
    done = retried(lambda: tables.open_table(lake.path, EPISODES_TABLE).update({"media": quoted(text)}, where=same))
    if done["num_rows_updated"] != 1:
        raise StorageError("the episode was converted anew meanwhile", where=head.uid, fix="run the same command again")


def notes(lake: Lake) -> dict[str, dict[str, Any]]:
    """Streams that were cleaned, by the media id they had; `first_frame` and `frames` tell which frames were theirs."""
    found = {}
    for name in lake.care.names(CLEANED, "*.json"):
        note = unseal(lake.care.read(name), lake.care.at(name))
        found[str(note["media_id"])] = note
    return found
