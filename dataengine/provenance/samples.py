"""Samples by their keys: which shard holds one, and where in it its members lie."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from dataengine.errors import SpecError
from dataengine.mixture.store import index_name
from dataengine.provenance.audit import episode_row, shard_facts, with_prefix
from dataengine.provenance.version import Version, facts
from dataengine.shards import index as indexes
from dataengine.shards.tar import Member

_KEY = re.compile(r"([0-9a-f]{20})-(\d{7,})-(\d{3,}|seg)")
_COLUMNS = ("shard", "source_id", "converter", "entry", "upstream_id", "start", "stop", "samples")


@dataclass(frozen=True)
class Found:
    """A sample in a shard. `key` is the shard's own: of a segment, where windows are cut by the loader.

    `record` is the shard record of the rows that it is of.
    """

    key: str
    shard: int
    step: int
    members: tuple[Member, ...]
    record: Mapping[str, Any]


def find_sample(version: Version, key: str) -> Found:
    """Where the sample with this key lies; a text that is no key, and one that is not there, are a `SpecError`."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise SpecError(
            f"{key!r} is no sample's key", fix="a key is UID-STEP-REPEAT, as `__key__` and the JSON tell it"
        )
    prefix, step = match.group(1), int(match.group(2))
    rows = with_prefix(version.records(_COLUMNS), prefix).to_pylist()
    for row in rows:
        if not row["start"] <= step < row["stop"]:
            continue
        own = {key, f"{prefix}-{row['start']:07d}-seg"}
        for name, members in _index(version, row["shard"]):
            if name in own:
                return Found(name, row["shard"], step, members, row)
    told = (
        "its episode is in none of its shards" if not rows else "its episode is, but no sample of this step and repeat"
    )
    raise SpecError(f"no sample {key} in version {version.name}: {told}", fix=f"`audit --episode {prefix}` tells more")


def _index(version: Version, number: int) -> list[tuple[str, tuple[Member, ...]]]:
    shard = version.manifest.shards[number]
    name = index_name(shard.sha256)
    return indexes.parse(version.store.checked(name, shard.index_sha256), name)


def sample(version: Version, key: str) -> dict[str, Any]:
    """One sample: its shard, its episode, its source with licence and terms, and the steps that it passed."""
    found = find_sample(version, key)
    row = episode_row(version, found.record["uid"])
    return {
        "mixture": version.manifest.name,
        "version": version.name,
        "plan_id": version.manifest.plan_id,
        "key": key,
        "stored_as": found.key,
        "step": found.step,
        "shard": shard_facts(version, found.shard),
        "members": [{"name": member.name, "bytes": member.size} for member in found.members],
        "episode": row,
        "source": facts(version.known_sources()[row["source_id"], row["converter"]]),
        "steps_run": version.steps([row["entry"]]).get(row["entry"], []),
        "conversions": version.conversions([(row["source_id"], row["converter"])]),
    }


def sample_table(version: Version) -> pa.Table:
    """Every sample of a version, from the indexes of its shards: the one view that reads more than two documents."""
    records = version.records(("shard", "source_id"))
    count = len(version.manifest.shards)
    edges = np.searchsorted(records["shard"].to_numpy(), np.arange(count + 1)).tolist()
    parts = (_shard_samples(version, n, records.slice(edges[n], edges[n + 1] - edges[n])) for n in range(count))
    return pa.concat_tables([SAMPLES.empty_table(), *parts])


SAMPLES = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.int64()),
        ("uid", pa.string()),
        ("step", pa.int64()),
        ("repeat", pa.int64()),
        ("split", pa.string()),
        ("source", pa.string()),
    ]
)


def _shard_samples(version: Version, number: int, own: pa.Table) -> pa.Table:
    """The samples of a shard; `own` are its records."""
    shard = version.manifest.shards[number]
    data = version.store.checked(index_name(shard.sha256), shard.index_sha256)
    keys = [row[0] for row in orjson.loads(data)["samples"]]  # its digest fits: it is what this engine wrote
    prefixes = pc.utf8_slice_codeunits(own["uid"].combine_chunks(), 0, 20)
    parts = [key.rsplit("-", 2) for key in keys]
    places = pc.index_in(pa.array([part[0] for part in parts], pa.string()), value_set=prefixes)
    columns = {
        "key": pa.array(keys, pa.string()),
        "shard": pa.array([number] * len(keys), pa.int64()),
        "uid": own["uid"].take(places),
        "step": pa.array([int(part[1]) for part in parts], pa.int64()),
        "repeat": pa.array([None if part[2] == "seg" else int(part[2]) for part in parts], pa.int64()),
        "split": pa.array([shard.split] * len(keys), pa.string()),
        "source": own["source_id"].take(places),
    }
    return pa.table(columns, schema=SAMPLES)
