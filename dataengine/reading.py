"""What an ingest worker does: read and convert a chunk of episodes. Imports no lake, so that workers start quickly."""

from __future__ import annotations

from typing import Any

from dataengine.convert import Conversion, convert, episode_uid
from dataengine.episode import Episode
from dataengine.errors import BadInput
from dataengine.formats.base import EpisodeRef, get_format
from dataengine.lake_rows import Failure
from dataengine.storage import SourceRoot


def read_chunk(task: dict[str, Any]) -> dict[str, Any]:
    """Read and convert refs: per ref an `Episode`, a `Failure`, or the upstream id of one that is already there."""
    root = SourceRoot(task["root"])
    conversion: Conversion = task["conversion"]
    present = set(task["present"])
    return {"outcomes": [_read(root, conversion, ref, present) for ref in task["refs"]]}


def _read(root: SourceRoot, conversion: Conversion, ref: EpisodeRef, present: set[str]) -> Episode | Failure | str:
    spec = conversion.converter
    try:
        raw = get_format(spec.format.name).read(root, ref)
        if episode_uid(spec.source_id, raw.upstream_id, raw.raw_digest) in present:
            return raw.upstream_id
        return convert(raw, conversion)
    except BadInput as error:
        place = ", ".join(dict.fromkeys(filter(None, (error.where, *ref.files[:1]))))
        return Failure("episode", ref.upstream_id, error.reason, f"{error.what} (in {place})" if place else error.what)
