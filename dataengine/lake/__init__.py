"""The lake: converted episodes, and the care of them."""

from dataengine.lake.core import CommitCounts, Lake, ScratchLake, Snapshot, clean, keep_name, lake_digest, source_filter
from dataengine.lake.reader import LakeReader
from dataengine.lake.tombstones import Forgotten, Tombstone

__all__ = [
    "CommitCounts",
    "Forgotten",
    "Lake",
    "LakeReader",
    "ScratchLake",
    "Snapshot",
    "Tombstone",
    "clean",
    "keep_name",
    "lake_digest",
    "source_filter",
]
