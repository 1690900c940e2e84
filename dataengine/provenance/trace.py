"""Trace: the chain from one sample to the source files it came from, every link checked that is at hand.

Sample -> shard -> task -> episode -> row of the lake -> source files -> source record. What does not fit is a problem;
what is not at hand (the lake, the raw files) is left out and said so.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from dataengine import images
from dataengine.documents import sha256_bytes, unseal
from dataengine.episode import Episode, Media
from dataengine.errors import DataEngineError, FormatError, SpecError
from dataengine.lake import Lake, Snapshot, keep_name
from dataengine.lake_rows import Head
from dataengine.mixture.store import shard_name, task_name
from dataengine.plan import source_of
from dataengine.provenance.audit import episode_row, shard_facts
from dataengine.provenance.samples import Found, find_sample
from dataengine.provenance.version import Version, facts
from dataengine.sources import hashed_files
from dataengine.specs.recipe import Recipe
from dataengine.storage import SourceFile, SourceRoot, local_source, root_and_files
from dataengine.storage.local import sha256_file

MATCH, PACKED, DIFFERS = "bytes match", "packed", "differs"
_SAID = ("upstream_id", "source_id", "converter")
_VIEW = re.compile(r"(.+?)(?:\.m?\d+)?\.(\w+)")
_PICTURES = ("jpg", "png")


@dataclass
class Trace:
    """A chain that grows link by link; `problems` are (where, what)."""

    version: Version
    key: str
    problems: list[dict[str, str]] = field(default_factory=list)

    def document(self, lake: Lake | None, raw: Path | None) -> dict[str, Any]:
        """The whole chain as plain values; `ok` when every link that is at hand fits."""
        version, found = self.version, find_sample(self.version, self.key)
        row = episode_row(version, found.record["uid"])
        members = self._members(found)
        self._identity(members, row)
        in_lake = None if lake is None else self._lake(lake, row)
        listed = [_member(name, data) for name, data in members.items()]
        files: list[dict[str, Any]] | None = None
        if in_lake is not None:
            episode = in_lake[1]
            files = [{**vars(file)} for file in episode.files]
            self._from_lake(listed, members, episode, row)
            if raw is not None:
                self._from_raw(raw, files, listed, members)
        made = version.manifest.made or {}
        return {
            "key": self.key,
            "stored_as": found.key,
            "step": found.step,
            "mixture": version.manifest.name,
            "version": version.name,
            "manifest": version.sha256,
            "plan_id": version.manifest.plan_id,
            "shard": shard_facts(version, found.shard),
            "members": listed,
            "task": self._task(found),
            "episode": row,
            "steps": version.steps([row["entry"]]).get(row["entry"], []),
            "conversions": version.conversions([(row["source_id"], row["converter"])]),
            "encoders": dict(made.get("encoders", {})),
            "lake": None if in_lake is None else _head(in_lake[0]),
            "files": files,
            "source": self._source(row, None if in_lake is None else in_lake[0]),
            "problems": self.problems,
            "ok": not self.problems,
        }

    def _tell(self, where: str, what: str) -> None:
        self.problems.append({"where": where, "what": what})

    def _members(self, found: Found) -> dict[str, bytes]:
        """Content by extension, out of the shard, whose own digest is checked."""
        shard = self.version.manifest.shards[found.shard]
        name = shard_name(shard.sha256)
        with self.version.store.local(name) as path:
            if sha256_file(path) != shard.sha256:
                self._tell(name, "the shard does not have the digest that names it: run verify")
            with path.open("rb") as file:
                contents = {}
                for member in found.members:
                    file.seek(member.offset)
                    contents[member.name[len(found.key) + 1 :]] = file.read(member.size)
        return contents

    def _identity(self, members: Mapping[str, bytes], row: Mapping[str, Any]) -> None:
        """The sample's own JSON names the episode that the ledger has."""
        told = _json(members)
        said = {"episode_uid": row["uid"], **{name: row[name] for name in _SAID}}
        for name, wanted in said.items():
            if name in told and told[name] != wanted:
                self._tell(f"{self.key}.json", f"{name} is {told[name]!r}, the ledger has {wanted!r}")

    def _task(self, found: Found) -> dict[str, Any]:
        """The task that made the shard. Its record is a cache, so it may be gone."""
        store, digest = self.version.store, self.version.manifest.shards[found.shard].task_digest
        name, record = task_name(digest), None
        with suppress(DataEngineError):  # `verify` names a damaged one
            record = unseal(store.read(name), name) if store.exists(name) else None
        if record is not None and record.get("sha256") != self.version.manifest.shards[found.shard].sha256:
            self._tell(name, "the task's record names another shard")
        taken = {name: found.record[name] for name in ("start", "stop", "samples")}
        return {"digest": digest, "record": name if record is not None else None, "segment": taken}

    def _lake(self, lake: Lake, row: Mapping[str, Any]) -> tuple[Head, Episode] | None:
        """The episode's row in the lake, as it was for the version where that state is kept."""
        snapshot: Snapshot | None = lake.kept().get(keep_name(self.version.store.address, self.version.sha256))
        heads = lake.heads(snapshot, f"uid = '{row['uid']}'")
        if not heads:
            self._tell("lake", f"it does not hold the episode {row['uid'][:20]}: give the lake it was built from")
            return None
        (head,) = heads
        made = self.version.conversions([(row["source_id"], row["converter"])])
        if made and head.conversion_digest not in {entry["conversion_digest"] for entry in made}:
            self._tell(
                "lake", "the episode was converted anew since: this is not the row that the version was built of"
            )
        return head, lake.reader([head.uid], snapshot).episode(head.uid)

    def _from_lake(
        self, listed: list[dict[str, Any]], members: Mapping[str, bytes], episode: Episode, row: Mapping[str, Any]
    ) -> None:
        """Where each member is from: bytes of the lake's streams as they are, encoded anew, or computed."""
        document = _json(members)
        recipe = Recipe.parse(dict(self.version.manifest.recipe), "the version's recipe")
        for entry in listed:
            origin = _Origin.of(entry["name"], document, episode)
            if origin is None:
                entry["origin"] = "computed from the episode"
                continue
            frame = origin.frame(members[entry["name"]])
            entry["stream"] = origin.media.name
            if frame is not None:
                entry.update(origin="bytes of the lake", frame=frame)
            elif origin.stays(recipe, row["entry"], episode, self.version.steps([row["entry"]])):
                entry["origin"] = DIFFERS
                told = f"the picture should be the bytes of the stream {origin.media.name!r}, and is none of its frames"
                self._tell(f"{self.key}.{entry['name']}", told)
            else:
                entry["origin"] = f"re-encoded by {self._encoder(entry['name'])} from {origin.media.codec}"

    def _encoder(self, name: str) -> str:
        versions = (self.version.manifest.made or {}).get("encoders", {})
        by = {"jpg": "simplejpeg", "png": "pillow"}.get(name.rpartition(".")[2], "dataengine")
        return " ".join(filter(None, (by, versions.get(by, ""))))

    def _from_raw(
        self, raw: Path, files: list[dict[str, Any]], listed: list[dict[str, Any]], members: Mapping[str, bytes]
    ) -> None:
        """Hash the source files again, and look for the bytes that went through untouched."""
        with local_source(raw) as place:
            root, _ = root_and_files(place)
            found, refused = hashed_files(root, [file["path"] for file in files])
            for file in files:
                file["found"] = self._compared(file, found.get(file["path"]), refused.get(file["path"]))
            for entry in listed:
                if "frame" in entry:
                    there = _place(root, [*found], members[entry["name"]])
                    entry["source"] = PACKED if there is None else MATCH
                    entry.update({} if there is None else {"file": there[0], "offset": there[1]})

    def _compared(self, file: Mapping[str, Any], now: SourceFile | None, refused: FormatError | None) -> str:
        if now is not None and now.sha256 == file["sha256"]:
            return MATCH
        if now is None:
            told = refused.reason if refused is not None else "missing_file"
            self._tell(file["path"], f"cannot be read again: {told}")
            return told
        self._tell(file["path"], f"sha256 is {now.sha256}, the episode was read from {file['sha256']}")
        return DIFFERS

    def _source(self, row: Mapping[str, Any], head: Head | None) -> dict[str, Any]:
        """What the version says of the source; when it was fetched, where the lake says so."""
        told = facts(self.version.known_sources()[row["source_id"], row["converter"]])
        return told if head is None else {**told, "retrieved_at": head.source.retrieved_at}


def trace(version: Version, key: str, lake: Lake | None = None, raw: Path | None = None) -> dict[str, Any]:
    """The chain from the sample `key` to its source, as far as lake and raw folder are at hand.

    `raw` is what was ingested: a folder, a file, or an address. Without the lake nothing says which files those are:
    `SpecError`.
    """
    if raw is not None and lake is None:
        raise SpecError("--raw needs --lake: its rows say from which files an episode was read", fix="give both")
    return Trace(version, key).document(lake, raw)


@dataclass(frozen=True)
class _Origin:
    """The stream that a picture or a video of a sample shows, and what the sample says of the view."""

    media: Media
    view: str
    said: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, document: Mapping[str, Any], episode: Episode) -> _Origin | None:
        """None for what is no picture, and where the episode has no such stream."""
        match = _VIEW.fullmatch(name)
        if match is None or match.group(2) not in (*_PICTURES, "mp4"):
            return None
        view = match.group(1)
        said = document.get("views", {}).get(view, {})
        media = episode.media.get(said.get("stream", view))
        return None if media is None else cls(media, view, said)

    def frame(self, data: bytes) -> int | None:
        """Which frame of the stream these bytes are; 0 for a whole video."""
        if self.media.kind == "video":
            return 0 if self.media.payload == data else None
        return next((i for i in range(self.media.frames) if self.media.image(i) == data), None)

    def stays(self, recipe: Recipe, entry: str, episode: Episode, steps: Mapping[str, Sequence[Any]]) -> bool:
        """Whether the recipe leaves the bytes as they are, by what the sample says of the view's size and turn."""
        if self.media.kind == "video" or self.media.codec not in images.EXTENSION:
            return False
        if not self.said:
            return True  # an item's picture
        spec = recipe.images_for(source_of(recipe, entry)).of(self.view)
        size = [self.media.height, self.media.width]
        same = [self.said.get("height"), self.said.get("width")] == self.said.get("original") == size
        kept = spec is not None and (spec.codec == "keep" or spec.codec == self.media.codec == "png")
        plain = all(view.channel_order == "rgb" and not view.rotate for view in episode.views)
        turned = "rotated" in self.said or any(step["name"] == "swap_channels" for step in steps.get(entry, ()))
        return same and kept and plain and not turned


def _json(members: Mapping[str, bytes]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = orjson.loads(members.get("json", b"{}"))
    return found


def _member(name: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "bytes": len(data), "sha256": sha256_bytes(data)}


def _head(head: Head) -> dict[str, Any]:
    names = ("uid", "status", "upstream_id", "conversion_digest", "converter", "content_digest", "embodiment")
    streams = [{"name": info.name, "codec": info.codec, "sha256": info.payload_sha256} for info in head.media]
    card = {"card": head.card.name, "card_version": head.card.version, "card_sha256": head.card.digest()}
    return {**{name: getattr(head, name) for name in names}, **card, "streams": streams}


def _place(root: SourceRoot, names: Sequence[str], data: bytes) -> tuple[str, int] | None:
    """The file, and the offset in it, where these bytes stand."""
    for name in names:
        if root.size(name) < len(data):
            continue
        with root.open(name) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            at = mapped.find(data)
        if at >= 0:
            return name, at
    return None
