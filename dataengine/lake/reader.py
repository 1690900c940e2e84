"""Reading chosen episodes of a lake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dataengine.episode import Episode
from dataengine.errors import StorageError
from dataengine.lake.tables import again, lookup
from dataengine.lake.tombstones import Forgotten
from dataengine.lake_rows import EPISODES, Head, MediaInfo, read_episode


class LakeReader:
    """Rows of chosen episodes, held without media; media payloads are read per episode."""

    def __init__(self, episodes: Any, media: Any, uids: Sequence[str], forgotten: Forgotten, *, native: bool) -> None:
        columns = [name for name in EPISODES.names if native or name != "native"]
        self._media = media
        self._rows = {row["uid"]: row for row in lookup(episodes, "uid", uids, columns)}
        gone = [uid for uid, row in self._rows.items() if forgotten.hides(uid, row["source_id"])]
        if gone:
            raise StorageError(
                f"{len(gone)} episodes have been forgotten meanwhile",
                where="the lake's tombstones",
                fix="run the same command again: what does not hold them is kept",
            )
        missing = set(uids) - self._rows.keys()
        if missing:
            raise StorageError(f"{len(missing)} episodes are not in the lake", where=sorted(missing)[0])
        self.heads = {uid: Head.of(row) for uid, row in self._rows.items()}
        ids = [info.media_id for head in self.heads.values() for info in head.media]
        found = lookup(self._media, "media_id", ids, ["media_id"], with_row_id=True)
        self._places = {row["media_id"]: row["_rowid"] for row in found}

    def whole(self, uid: str) -> bool:
        """Whether all streams of an episode are there."""
        return all(info.media_id in self._places for info in self.heads[uid].media)

    def episode(self, uid: str, *, media: bool = True) -> Episode:
        """One episode; without `media` its streams are left out."""
        infos = self.heads[uid].media if media else ()
        payloads: dict[str, bytes] = {}
        if infos:
            lost = [info for info in infos if info.media_id not in self._places]
            if lost:
                raise StorageError(
                    f"the stream {lost[0].name!r} is not in the lake", where=f"episode {uid}", fix="ingest again"
                )
            payloads = again(lambda: self._payloads(infos))
        return read_episode(self._rows[uid], payloads)

    def _payloads(self, infos: Sequence[MediaInfo]) -> dict[str, bytes]:
        found = {}
        blobs = self._media.take_blobs("payload", ids=[self._places[info.media_id] for info in infos])
        for info, blob in zip(infos, blobs, strict=True):
            with blob:
                found[info.name] = bytes(blob.readall())
        return found
