"""Planning: recipe + verdicts + seed -> shard tasks. Pure: no file, no clock, no randomness but keyed hashes.

The unit is a segment (at most `segment` windows of one episode, or one item). Its hash chooses its bucket; an overfull
bucket splits, and what comes of it is a shard. How many samples a unit gives is decided within its shard: there the
units of a source give together what its rate says, to less than one sample. So adding or removing an episode changes
only the shards that hold it, and over many shards a source's share is that of its rate.

Everything is held in columns: ten million episodes take less than a gigabyte, and samples are never enumerated.
"""

from dataengine.plan.columns import SPLITS, Candidates, Tasks
from dataengine.plan.make import make_tasks, plan_id, source_of
from dataengine.plan.units import (
    Candidate,
    Run,
    ShardTask,
    Unit,
    choose_split,
    chosen_windows,
    clipped,
    keyed_hash,
    runs_of,
    tickets,
)

__all__ = [
    "SPLITS",
    "Candidate",
    "Candidates",
    "Run",
    "ShardTask",
    "Tasks",
    "Unit",
    "choose_split",
    "chosen_windows",
    "clipped",
    "keyed_hash",
    "make_tasks",
    "plan_id",
    "runs_of",
    "source_of",
    "tickets",
]
