"""One shard by itself: its digest, its members, the index beside it, and how many samples each episode has."""

from __future__ import annotations

import hashlib
import mmap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from dataengine.errors import BadInput, DataEngineError
from dataengine.mixture.store import index_name, shard_name
from dataengine.shards import index, segments
from dataengine.shards.samples import KEY_UID
from dataengine.shards.tar import Member, group, members
from dataengine.storage import Store, sha256_file


@dataclass(frozen=True)
class ShardFacts:
    """What a whole shard holds: its size in bytes, samples, and the digest of how many each episode has."""

    size: int
    samples: int
    episodes: bytes


def counts_digest(counts: Mapping[str, int]) -> bytes:
    """Stands for samples by episode (the beginning of its uid), so that few bytes a shard are kept."""
    listed = "\n".join(f"{uid} {count}" for uid, count in sorted(counts.items()))
    return hashlib.sha256(listed.encode()).digest()


def check_shard(task: dict[str, Any]) -> dict[str, Any]:
    """Check the shard `sha256` below `store`: `facts`, or None, and `problem`, (file, reason, what), or None."""
    store, sha = Store(task["store"]), task["sha256"]
    name, beside = shard_name(sha), index_name(sha)
    try:
        with store.local(name) as path:
            if sha256_file(path) != sha:
                what = "the shard does not have the digest in its name"
                return {"facts": None, "problem": (name, "digest_mismatch", what)}
            listed = store.read(beside) if store.exists(beside) else b""
            return {"facts": _facts(path, listed, beside), "problem": None}
    except BadInput as error:
        return {"facts": None, "problem": (error.where or name, error.reason, error.what)}
    except DataEngineError as error:
        return {"facts": None, "problem": (name, "unreadable_file", error.what)}
    except OSError as error:
        return {"facts": None, "problem": (name, "unreadable_file", f"cannot read: {error.strerror or error}")}


def _facts(path: Path, listed: bytes, beside: str) -> ShardFacts:
    """Members against the index beside."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        with memoryview(mapped) as view:
            entries = list(group(members(view)))
        said = {key: _check_sample(mapped, key, found) for key, found in entries}
        size = len(mapped)
    if listed != index.dump(entries, {key: facts for key, facts in said.items() if facts is not None}):
        raise BadInput("index_damaged", "the index beside the shard does not describe it", where=beside)
    counts = Counter(key[:KEY_UID] for key, _ in entries)
    return ShardFacts(size, len(entries), counts_digest(counts))


def _check_sample(mapped: mmap.mmap, key: str, found: tuple[Member, ...]) -> dict[str, Any] | None:
    """A sample's JSON is its own; returns what the index must say of it beside its members."""
    first = found[0]
    if first.name != f"{key}.json":
        raise BadInput("sample_damaged", f"sample {key} does not begin with its JSON")
    try:
        document = orjson.loads(mapped[first.offset : first.offset + first.size])
    except orjson.JSONDecodeError:
        raise BadInput("sample_damaged", f"the JSON of sample {key} is unreadable") from None
    if not isinstance(document, dict) or document.get("key") != key:
        raise BadInput("sample_damaged", f"the JSON of sample {key} is another sample's")
    if not str(document.get("episode_uid", "")).startswith(key[:KEY_UID]):
        raise BadInput("sample_damaged", f"the JSON of sample {key} is of another episode")
    return segments.listed(document)
