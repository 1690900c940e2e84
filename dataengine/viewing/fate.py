"""What a version of a mixture made of an episode: its ledger row, the steps that were kept, the samples cut from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataengine import timeline
from dataengine.episode import Episode
from dataengine.errors import DataEngineError, SpecError
from dataengine.lake import Lake
from dataengine.lake_rows import Head
from dataengine.mixture import ledger as ledgers
from dataengine.mixture.judge import judge
from dataengine.mixture.store import MixtureStore, index_name
from dataengine.plan import source_of
from dataengine.relabel.recipes import ask_models
from dataengine.shards import index as indexes
from dataengine.shards.samples import KEY_UID
from dataengine.specs.recipe import Recipe
from dataengine.viewing.recording import Clock, Ints, Recording

KEPT, STARTS, SAMPLES = "mixture/kept", "mixture/samples", "mixture/keys"


@dataclass(frozen=True)
class Start:
    """A sample, or a segment that the loader cuts samples out of: its key, first step, and shard."""

    key: str
    step: int
    shard: int
    split: str


@dataclass(frozen=True)
class Fate:
    """What became of an episode.

    `weights` [n] say how often a sample that starts at each step counts (0: it was taken out), at `times_ns` [n]; None
    where the steps of the recipe cannot be run again, and `why` tells. Steps are rows of the episode as the recipe's
    steps left it.
    """

    version: str
    kind: str
    row: Mapping[str, Any]
    starts: tuple[Start, ...]
    weights: Ints | None = None
    times_ns: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    why: str = ""

    def facts(self) -> dict[str, Any]:
        row = self.row
        told = {name: row[name] for name in ("status", "reason", "step", "evidence", "split", "entry") if row[name]}
        kept = None if self.weights is None else f"{int((self.weights > 0).sum())} of {len(self.weights)}"
        return {
            "version": self.version,
            **told,
            "kept steps": kept or self.why or None,
            f"{'segments' if self.kind == 'episode' else 'samples'} in shards": len(self.starts),
            "shards": sorted({start.shard for start in self.starts}),
        }


def fate_of(store: MixtureStore, version: str, lake: Lake, episode: Episode, head: Head) -> Fate:
    """The fate of an episode in a version. `SpecError` where the version did not see it."""
    sha, manifest = store.manifest(version)
    recipe = Recipe.parse(dict(manifest.recipe), f"{version} of {manifest.name}")
    folder = store.documents(sha)
    row = _row(store.checked(f"{folder}/ledger.parquet", manifest.ledger_sha256), episode.uid)
    if row is None:
        raise SpecError(
            f"version {version} does not know the episode {episode.uid[:KEY_UID]}",
            where=store.address,
            fix="leave --mixture out, or name a version that was built from this lake",
        )
    records = ledgers.read_table(store.checked(f"{folder}/shard_records.parquet", manifest.shard_records_sha256))
    own = records.filter(pc.equal(records["uid"], episode.uid))
    numbers = sorted(set(own["shard"].to_pylist()))
    starts: list[Start] = []
    for number in numbers:
        shard = manifest.shards[number]
        name = index_name(shard.sha256)
        for key, _ in indexes.parse(store.checked(name, shard.index_sha256), name):
            uid, step, _ = key.rsplit("-", 2)
            if uid == episode.uid[:KEY_UID]:
                starts.append(Start(key, int(step), number, shard.split))
    found = Fate(version, recipe.samples.kind, row, tuple(sorted(starts, key=lambda start: (start.step, start.key))))
    return _judged(found, recipe, lake, episode, head) if row["status"] == "kept" else found


def _row(data: bytes, uid: str) -> dict[str, Any] | None:
    table = ledgers.completed(ledgers.read_table(data))
    rows: list[dict[str, Any]] = table.filter(pc.equal(table["uid"], pa.scalar(uid))).to_pylist()
    return rows[0] if rows else None


def _judged(fate: Fate, recipe: Recipe, lake: Lake, episode: Episode, head: Head) -> Fate:
    """The recipe's steps run again, with the models' answers that the lake holds."""
    entry = fate.row["entry"] or fate.row["converter"]
    source = source_of(recipe, entry)
    try:
        answers, usages = ask_models(recipe, lake, lake.snapshot(), {entry: [episode.uid]}, None)
        if any(usage.to_ask for usage in usages.values()):
            return _told(fate, "not known: the lake no longer holds the models' answers")
        steps = answers.steps(recipe, source)
        if any(step.needs_native for step in steps):
            episode = lake.reader([episode.uid], native=True).episode(episode.uid)
        verdict, outcome = judge(episode, head, source, recipe, steps, fate.row["split"])
    except DataEngineError as error:
        return _told(fate, f"not known: {error.what}")
    if verdict.drop is not None:
        return _told(fate, f"not known: the recipe's steps drop the episode now ({verdict.drop.reason})")
    if verdict.kept != fate.row["kept_steps"]:
        told = f"the ledger has {fate.row['kept_steps']:,}, the recipe's steps keep {verdict.kept:,} now"
        return _told(fate, f"not known: {told}")
    made = outcome.episode
    weights = np.asarray(outcome.weights, np.int64)
    times = made.times_ns if not made.messages else np.zeros(1, np.int64)
    return Fate(fate.version, fate.kind, fate.row, fate.starts, weights, times)


def _told(fate: Fate, why: str) -> Fate:
    return Fate(fate.version, fate.kind, fate.row, fate.starts, why=why)


def draw(recording: Recording, fate: Fate, clock: Clock) -> list[str]:
    """Which steps were kept and where samples start, over the episode's time. Returns what there is to plot."""
    if not len(clock.times_ns):
        return []
    found: list[str] = []
    times = clock.times_ns
    if fate.row["status"] != "kept":
        recording.scalars(KEPT, clock, np.zeros((len(times), 1)), ["kept: nothing"])
        found.append(KEPT)
    elif fate.weights is not None and len(fate.weights) == len(fate.times_ns):
        times = fate.times_ns
        recording.scalars(KEPT, _clock(times, clock), fate.weights.astype(np.float64)[:, None], ["kept (weight)"])
        found.append(KEPT)
    starts = [start for start in fate.starts if start.step < len(times)]
    if starts:
        counts = np.bincount([start.step for start in starts], minlength=len(times)).astype(np.float64)
        name = "segments that start here" if fate.kind == "episode" else "samples that start here"
        recording.scalars(STARTS, _clock(times, clock), counts[:, None], [name], pale=True)
        at = _clock(times[[start.step for start in starts]], clock)
        recording.events(SAMPLES, at, [f"{s.key}   (shard {s.shard}, {s.split})" for s in starts])
        found.append(STARTS)
    return found


def _clock(times: Ints, clock: Clock) -> Clock:
    """Times with the nearest of the episode's own steps."""
    if clock.steps is None:
        return Clock(times)
    return Clock(times, clock.steps[timeline.nearest(times, clock.times_ns)])
