"""The index beside a shard: where every sample's members lie, as canonical JSON."""

from __future__ import annotations

from collections.abc import Sequence

from dataengine.documents import canonical_json, load_json
from dataengine.errors import FormatError
from dataengine.shards.tar import Member

Entries = Sequence[tuple[str, tuple[Member, ...]]]


def dump(entries: Entries) -> bytes:
    """Index bytes of a shard: `{"samples": [[key, [[extension, offset, size], ...]], ...]}` in shard order."""
    rows = [
        [key, [[member.name[len(key) + 1 :], member.offset, member.size] for member in members]]
        for key, members in entries
    ]
    return canonical_json({"samples": rows, "version": 1})


def parse(data: bytes, where: str) -> list[tuple[str, tuple[Member, ...]]]:
    """The entries of an index; `FormatError` when it is not one."""
    document = load_json(data, where)
    try:
        return [
            (key, tuple(Member(f"{key}.{extension}", offset, size) for extension, offset, size in members))
            for key, members in document["samples"]
        ]
    except (KeyError, TypeError, ValueError):
        raise FormatError("index_damaged", "not a shard index", where=where) from None
