"""The two tasks of a build: survey a range of episodes (verdicts and statistics), and make one shard.

Both are pure in what they name: the same task gives the same bytes in any process, in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataengine.documents import seal, sha256_json
from dataengine.embodiment import Card
from dataengine.episode import Episode
from dataengine.errors import BadInput, StorageError
from dataengine.lake import Lake
from dataengine.lake_rows import Head
from dataengine.mixture.store import MixtureStore, index_name, shard_name, task_name
from dataengine.normalization.statistics import Statistics
from dataengine.plan import ShardTask, Unit, choose_split, chosen_windows, keyed_hash, source_of
from dataengine.shards import index
from dataengine.shards.samples import (
    SampleSpec,
    WindowEncoder,
    encoder_versions,
    item_sample,
    target_size,
    windows_in,
)
from dataengine.shards.tar import Sample, TarWriter
from dataengine.specs.recipe import Recipe, RecipeSource
from dataengine.specs.records import TaskRecord, UnitInput
from dataengine.transforms.quality import Drop, Require, non_finite, recipe_filters

DEFAULT_REQUIRE = Require(("view", "language"))
JSON_BYTES = 3072
JPEG_BYTES_PER_PIXEL = 0.25


@dataclass(frozen=True)
class Verdict:
    """What the survey found of one episode. `bad_input` tells unusable data from a filter's choice.

    `relaxed` is the reason for which the default requirement (a view and a language) would have dropped a kept one.
    """

    uid: str
    split: str
    windows: int
    sample_bytes: int
    drop: Drop | None = None
    step: str = ""
    bad_input: bool = False
    relaxed: str = ""


def split_of(head: Head, source: RecipeSource, recipe: Recipe) -> str:
    """The split of an episode: pinned by the source, else by hash of its group."""
    if source.split == "train":
        return "train"
    return choose_split(head.group or head.uid, recipe.split.valid, recipe.seed)


def survey(task: dict[str, Any]) -> dict[str, Any]:
    """Filter a range of episodes and count the statistics of the kept ones in train. Decodes no media."""
    recipe: Recipe = task["recipe"]
    reader = Lake(Path(task["lake"])).reader(task["uids"], task["snapshot"])
    statistics = Statistics()
    verdicts = []
    for uid in task["uids"]:
        head = reader.heads[uid]
        source = source_of(recipe, head.converter)
        episode = reader.episode(uid, media=False)
        verdict = _judge(episode, head, source, recipe)
        verdicts.append(verdict)
        if verdict.drop is None and verdict.split == "train" and not episode.messages:
            _count(statistics, episode, recipe, source)
    return {"verdicts": verdicts, "statistics": statistics.to_bytes()}


def _judge(episode: Episode, head: Head, source: RecipeSource, recipe: Recipe) -> Verdict:
    window = recipe.window_for(source)
    windows = 1 if episode.messages else windows_in(episode.steps, window.stride)
    size = _estimate(episode, head, recipe, source)
    split = split_of(head, source, recipe)
    for step in recipe_filters(recipe, source):
        drop = step.verdict(episode)
        if drop is not None:
            return Verdict(head.uid, split, windows, size, drop, step.name)
    drop = non_finite(episode.state, "state") or non_finite(episode.action, "action")
    if drop is not None:
        return Verdict(head.uid, split, windows, size, drop, "engine", bad_input=True)
    usual = DEFAULT_REQUIRE.verdict(episode)
    return Verdict(head.uid, split, windows, size, relaxed=usual.reason if usual is not None else "")


def _count(statistics: Statistics, episode: Episode, recipe: Recipe, source: RecipeSource) -> None:
    statistics.add_episode(
        episode_uid=episode.uid,
        embodiment=episode.embodiment,
        control_mode=episode.control_mode,
        converter=episode.converter,
        state=episode.state,
        action=episode.action,
        state_frames=_side(episode.frames, "state"),
        action_frames=_side(episode.frames, "action"),
        native_units=episode.native_units,
        hz=episode.hz,
        horizon=recipe.window_for(source).chunk.horizon(episode.hz),
        representations=recipe.normalization.representations,
    )


def _side(frames: Mapping[str, str], side: str) -> dict[str, str]:
    return {key.removeprefix(f"{side}/"): frame for key, frame in frames.items() if key.startswith(f"{side}/")}


def _estimate(episode: Episode, head: Head, recipe: Recipe, source: RecipeSource) -> int:
    """Bytes of one sample, roughly: decides only when a bucket is overfull."""
    if episode.messages:
        return JSON_BYTES + sum(info.size for info in head.media)
    window = recipe.window_for(source)
    total = float(JSON_BYTES)
    for info in head.media:
        height, width = target_size(recipe.images, info.height, info.width)
        untouched = info.kind == "images" and (height, width) == (info.height, info.width)
        frame = info.size / max(info.frames, 1) if untouched else height * width * JPEG_BYTES_PER_PIXEL
        total += frame * window.history
    for slots, rows in (
        (episode.state, window.history),
        (episode.action, window.chunk.horizon(episode.hz)),
    ):
        total += 0 if slots is None else rows * len(slots.channels) * 5 + 2048
    return round(total)


def task_digest(task: ShardTask, recipe: Recipe, heads: Mapping[str, Head]) -> str:
    """What decides a shard's bytes: its ordered inputs, how they become samples, and the encoders."""
    converters = sorted({unit.converter for unit in task.units})
    return sha256_json(
        {
            "units": [_unit_digest(unit, heads[unit.uid]) for unit in task.units],
            "specs": {
                name: {
                    "window": recipe.window_for(source_of(recipe, name)).canonical(),
                    "cards": sorted({heads[unit.uid].card.digest() for unit in _of(task, name)}),
                }
                for name in converters
            },
            "images": recipe.images.canonical(),
            "seed": recipe.seed,
            "encoders": encoder_versions(),
        }
    )


def _of(task: ShardTask, converter: str) -> list[Unit]:
    return [unit for unit in task.units if unit.converter == converter]


def _unit_digest(unit: Unit, head: Head) -> list[Any]:
    media = sorted(info.payload_sha256 for info in head.media)
    return [unit.uid, head.conversion_digest, media, unit.start, unit.stop, unit.count]


def build_shard(payload: dict[str, Any]) -> dict[str, Any]:
    """Make one shard: read each segment once, encode, write the tar and its index, then the task record."""
    task: ShardTask = payload["task"]
    recipe: Recipe = payload["recipe"]
    store = MixtureStore(Path(payload["store"]))
    reader = Lake(Path(payload["lake"])).reader(sorted({unit.uid for unit in task.units}), payload["snapshot"])
    samples: list[Sample] = []
    inputs: list[UnitInput] = []
    held: Episode | None = None
    for unit in task.units:
        if held is None or held.uid != unit.uid:
            held = reader.episode(unit.uid)
        made = _encode(held, unit, recipe, reader.heads[unit.uid].card)
        samples += made
        inputs.append(
            UnitInput(uid=unit.uid, source_id=held.source_id, start=unit.start, stop=unit.stop, samples=len(made))
        )
    samples.sort(key=lambda sample: keyed_hash(recipe.seed, "order", sample.key))
    record = _write(store, payload["digest"], task.split, samples, tuple(inputs))
    return {"record": record}


def _encode(episode: Episode, unit: Unit, recipe: Recipe, card: Card) -> list[Sample]:
    source = source_of(recipe, unit.converter)
    chosen = chosen_windows(unit, recipe.seed)
    try:
        if episode.messages:
            return [item_sample(episode, repeat) for _, repeat in chosen]
        window = recipe.window_for(source)
        spec = SampleSpec(window, recipe.images, card)
        steps = sorted({number * window.stride for number, _ in chosen})
        encoder = WindowEncoder(episode, spec, steps)
        return [encoder.sample(number * window.stride, repeat) for number, repeat in chosen]
    except BadInput as error:  # the door checked every frame at ingest: this is damage, not bad input
        raise StorageError(
            f"an episode of the lake no longer decodes: {error.what}",
            where=f"{episode.source_id}, episode {episode.upstream_id} ({episode.uid})",
            fix="the lake is damaged: remove the episode with `lake rm` and ingest it again",
        ) from error


def _write(
    store: MixtureStore, digest: str, split: str, samples: Sequence[Sample], inputs: tuple[UnitInput, ...]
) -> TaskRecord:
    with store.writer("shard") as staged:
        writer = TarWriter(staged)
        for sample in samples:
            writer.add(sample)
        writer.close()
        entries = index.dump(writer.index)
        with store.writer("index") as beside:
            beside.write(entries)
            beside.publish(index_name(staged.sha256))
            index_sha = beside.sha256
        staged.publish(shard_name(staged.sha256))
        record = TaskRecord(
            task_digest=digest,
            split=split,
            sha256=staged.sha256,
            bytes=staged.bytes,
            samples=len(samples),
            index_sha256=index_sha,
            index_bytes=len(entries),
            inputs=inputs,
        )
    store.publish(task_name(digest), seal(record.canonical()))
    return record
