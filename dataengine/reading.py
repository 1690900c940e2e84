"""What an ingest worker does: read and convert a chunk of episodes. Imports no lake, so that workers start quickly."""

from __future__ import annotations

from typing import Any, Literal

from dataengine.convert import Conversion, convert, episode_uid
from dataengine.credentials import redacted
from dataengine.documents import sha256_bytes
from dataengine.episode import Episode, Failure
from dataengine.errors import BadInput
from dataengine.formats.base import EpisodeRef, get_format
from dataengine.storage import SourceRoot
from dataengine.transforms.language import MAX_NAME, printable

MAX_WHAT = 2000


def prepare(format_name: str) -> None:
    """Load what a format needs, before the first chunk comes."""
    get_format(format_name)


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
        return failure("episode", ref.upstream_id, error, place)


def failure(unit: Literal["episode", "file"], name: str, error: BadInput, place: str = "") -> Failure:
    """A failure whose texts can be stored and printed, whatever the source calls its files: one line, not endless."""
    what = f"{error.what} (in {place})" if place else error.what
    what += f"; {error.fix}" if error.fix else ""
    shown = printable(name, MAX_NAME)
    if shown != name:
        shown += f" [{sha256_bytes(name.encode(errors='surrogatepass'))[:8]}]"
    return Failure(unit, shown, error.reason, printable(redacted(what), MAX_WHAT))
