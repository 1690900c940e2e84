"""The index beside a shard: where every sample's members lie, as canonical JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dataengine.documents import canonical_json, load_json
from dataengine.errors import FormatError
from dataengine.shards.tar import Member

Entries = Sequence[tuple[str, tuple[Member, ...]]]


def dump(entries: Entries, listed: Mapping[str, Mapping[str, Any]] | None = None) -> bytes:
    """Index bytes of a shard: `{"samples": [[key, [[extension, offset, size], ...]], ...]}` in shard order.

    A sample with an entry in `listed` has it as a third element: of a segment, what its windows are counted by.
    """
    said = listed or {}
    rows = [
        [
            key,
            [[member.name[len(key) + 1 :], member.offset, member.size] for member in members],
            *([said[key]] if key in said else []),
        ]
        for key, members in entries
    ]
    return canonical_json({"samples": rows, "version": 1})


def parse(data: bytes, where: str) -> list[tuple[str, tuple[Member, ...]]]:
    """The entries of an index; `FormatError` when it is not one."""
    document = load_json(data, where)
    try:
        return [
            (key, tuple(Member(f"{key}.{extension}", offset, size) for extension, offset, size in members))
            for key, members, *_ in document["samples"]
        ]
    except (KeyError, TypeError, ValueError):
        raise FormatError("index_damaged", "not a shard index", where=where) from None
