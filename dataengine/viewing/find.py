"""Which episode of a lake a user means."""

from __future__ import annotations

import re
from typing import Any

from dataengine.errors import SpecError
from dataengine.lake import Lake
from dataengine.lake_rows import Head

_UID = re.compile(r"[0-9a-f]{4,64}")
_KEY = re.compile(r"([0-9a-f]{20})-\d{7,}-\d{3,}")
_FIX = (
    "give a uid or the beginning of it, a sample's key, or SOURCE:EPISODE as `dataengine lake ls` and `audit` name them"
)
MOST = 5


def find(lake: Lake, episode: str) -> Head:
    """The row of an episode by uid or its beginning, a sample's key, or `SOURCE:UPSTREAM_ID` (or converter).

    Raises `SpecError` where there is none or more than one, or where it could not be used when it was ingested.
    """
    found = _heads(lake, _by_uid(episode)) or _heads(lake, _by_name(episode))
    if not found:
        raise SpecError(f"no episode {episode!r} in the lake", where=str(lake.path), fix=_FIX)
    usable = [head for head in found if head.status == "ok"]
    if not usable:
        first = found[0]
        raise SpecError(
            f"the episode could not be used: {first.reason}: {first.what}",
            where=f"{first.source_id}, {first.upstream_id}",
            fix="`dataengine inspect` looks at raw files",
        )
    if len(usable) > 1:
        named = ", ".join(f"{head.uid[:20]} ({head.source_id}:{head.upstream_id})" for head in usable[:MOST])
        more = f" and {len(usable) - MOST:,} more" if len(usable) > MOST else ""
        raise SpecError(f"{len(usable):,} episodes answer to {episode!r}", fix=f"name one: {named}{more}")
    return usable[0]


def _heads(lake: Lake, where: str | None) -> list[Head]:
    return [] if where is None else lake.heads(where=where)


def _by_uid(episode: str) -> str | None:
    key = _KEY.fullmatch(episode)
    prefix = key.group(1) if key else episode
    return f"uid >= '{prefix}' and uid <= '{prefix:g<64}'" if _UID.fullmatch(prefix) else None


def _by_name(episode: str) -> str | None:
    """Source and episode may both hold colons: every one may be the one between them."""
    places = [at for at, sign in enumerate(episode) if sign == ":"]
    pairs = [(_quoted(episode[:at]), _quoted(episode[at + 1 :])) for at in places]
    parts = [f"((source_id = {s} or converter = {s}) and upstream_id = {name})" for s, name in pairs]
    return " or ".join(parts) or None


def _quoted(text: Any) -> str:
    return "'" + str(text).replace("'", "''") + "'"
