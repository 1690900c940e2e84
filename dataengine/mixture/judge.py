"""Verdicts: what a recipe's steps make of one episode, and what that means for the plan."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dataengine.documents import canonical_json
from dataengine.episode import Episode
from dataengine.lake_rows import Head
from dataengine.normalization.statistics import Statistics
from dataengine.plan import Run, runs_of
from dataengine.shards.samples import estimated_frame_bytes, windows_in
from dataengine.specs.recipe import Recipe, RecipeSource
from dataengine.transforms.quality import Require, non_finite
from dataengine.transforms.steps import Drop, Outcome, Step, run_steps

DEFAULT_REQUIRE = Require(("view", "language"))
JSON_BYTES = 3072


@dataclass(frozen=True)
class Verdict:
    """What the survey found of one episode. `bad_input` tells unusable data from a filter's choice.

    `relaxed` is the reason for which the default requirement (a view and a language) would have dropped a kept one.
    `runs` are the windows that may be taken, None for all of them; `bounds` the row ranges that samples must not leave;
    `content` the digest of a relabelled episode, empty for one as the lake holds it. `task` is its first instruction,
    `total` its steps, `kept` how many of them the steps leave (`seconds` long), `lost` what each step took.
    """

    uid: str
    split: str
    windows: int
    sample_bytes: int
    drop: Drop | None = None
    step: str = ""
    bad_input: bool = False
    relaxed: str = ""
    runs: tuple[Run, ...] | None = None
    bounds: tuple[tuple[int, int], ...] = ()
    content: str = ""
    task: str = ""
    total: int = 0
    kept: int = 0
    seconds: float = 0.0
    lost: Mapping[str, int] = field(default_factory=dict)


def judge(
    episode: Episode, head: Head, source: RecipeSource, recipe: Recipe, steps: Sequence[Step], split: str
) -> tuple[Verdict, Outcome]:
    """Run the steps over an episode of a split. The outcome's episode is what samples are made of."""
    found = run_steps(episode, steps)
    made = found.episode
    stride = recipe.window_for(source).stride
    windows = 1 if made.messages else windows_in(made.steps, stride)
    verdict = Verdict(
        uid=head.uid,
        split=split,
        windows=windows,
        sample_bytes=_estimate(made, head, recipe, source),
        drop=found.drop,
        step=found.step,
        task=episode.language[0].text if episode.language else "",
        total=made.steps,
        lost=dict(found.lost),
    )
    drop = None if found.drop is not None else non_finite(made.state, "state") or non_finite(made.action, "action")
    if drop is not None:
        return replace(verdict, drop=drop, step="engine", bad_input=True), found
    if found.drop is not None:
        return verdict, found
    usual = DEFAULT_REQUIRE.verdict(made)
    weights, kept = found.weights[::stride], int((found.weights > 0).sum())
    return replace(
        verdict,
        relaxed=usual.reason if usual is not None else "",
        runs=None if made.messages or (weights == 1).all() else runs_of(weights),
        bounds=() if made.messages else _bounds(found),
        content=content_digest(made) if found.changed else "",
        kept=kept,
        seconds=round(kept / made.hz, 6) if made.hz else 0.0,
    ), found


def _bounds(found: Outcome) -> tuple[tuple[int, int], ...]:
    """The ranges that samples must not leave, where they are not the whole episode."""
    rows = len(found.weights)
    pairs = set(zip(found.first.tolist(), found.stop.tolist(), strict=True)) - {(0, rows)}
    return tuple(sorted(pairs))


def count(statistics: Statistics, episode: Episode, outcome: Outcome, recipe: Recipe, source: RecipeSource) -> None:
    """Add a kept episode of the train split to the population: its kept steps, each once."""
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
        starts=outcome.weights > 0,
        stop=outcome.stop,
    )


def _side(frames: Mapping[str, str], side: str) -> dict[str, str]:
    return {key.removeprefix(f"{side}/"): frame for key, frame in frames.items() if key.startswith(f"{side}/")}


def _estimate(episode: Episode, head: Head, recipe: Recipe, source: RecipeSource) -> int:
    """Bytes of one sample, of a segment those of one step, roughly: decides only when a bucket is overfull."""
    if episode.messages:
        return JSON_BYTES + sum(info.size for info in head.media)
    once = recipe.samples.kind == "episode"  # a segment holds every row and frame once
    window = recipe.window_for(source)
    history, horizon = (1, 1) if once else (window.history, window.chunk.horizon(episode.hz))
    total = 0.0 if once else float(JSON_BYTES)
    for info in head.media:
        shown = [view.name for view in episode.views if view.media == info.name]
        total += estimated_frame_bytes(recipe.images_for(source), shown, info) * history
    for slots, rows in ((episode.state, history), (episode.action, horizon)):
        total += 0 if slots is None else rows * len(slots.channels) * 5 + (0 if once else 2048)
    return round(total)


def content_digest(episode: Episode) -> str:
    """sha256 over what of an episode enters its samples, media payloads apart: equal results are one content."""
    digest = hashlib.sha256(np.ascontiguousarray(episode.times_ns).tobytes())
    for slots in (episode.state, episode.action):
        digest.update(b"none" if slots is None else b"slots")
        for part in () if slots is None else (slots.channels, slots.values, slots.mask):
            digest.update(np.ascontiguousarray(part).tobytes())
    digest.update(
        canonical_json(
            {
                "hz": episode.hz,
                "control_mode": episode.control_mode,
                "labels": dict(episode.labels),
                "frames": dict(episode.frames),
                "native_units": dict(episode.native_units),
                "views": [vars(view) for view in episode.views],
                "language": [vars(text) for text in episode.language],
                "messages": [[m.role, [dict(part) for part in m.content], m.loss] for m in episode.messages],
                "native_action": _plain(episode.native_action),
                "attributes": dict(episode.attributes) if episode.messages else {},
                "notes": dict(episode.notes),
            }
        )
    )
    return digest.hexdigest()


def _plain(value: Mapping[str, object]) -> dict[str, object]:
    return {key: item.tolist() if isinstance(item, np.ndarray) else item for key, item in value.items()}
