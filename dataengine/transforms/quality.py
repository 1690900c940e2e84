"""Filters: an episode in, a verdict out (keep, or drop with a reason code). Registered by name, versioned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Protocol

import numpy as np

from dataengine.episode import Episode, SlotArray
from dataengine.errors import SpecError
from dataengine.plugins import TRANSFORMS, load
from dataengine.schema import unified
from dataengine.specs.recipe import Recipe, RecipeSource


@dataclass(frozen=True)
class Drop:
    """Why an episode is left out: a stable reason code, and the evidence in words."""

    reason: str
    evidence: str


class Filter(Protocol):
    """A frozen dataclass whose fields are its parameters."""

    name: ClassVar[str]
    version: ClassVar[int]

    def verdict(self, episode: Episode) -> Drop | None:
        """None to keep. `episode` carries arrays and texts, no media."""
        ...


def parse_filter(entry: Mapping[str, Any]) -> Filter:
    """A filter from its recipe entry `{name: ..., parameter: ...}`; mistakes are a `SpecError`."""
    given = dict(entry)
    name = given.pop("name", None)
    if not isinstance(name, str):
        raise SpecError("a filter entry needs `name`", where=str(dict(entry)))
    kind: type[Any] = load(TRANSFORMS, name)
    known = {field.name for field in fields(kind)}
    unknown = sorted(given.keys() - known)
    if unknown:
        raise SpecError(f"filter {name!r} has no parameter {unknown[0]!r}", fix=f"known: {', '.join(sorted(known))}")
    try:
        made: Filter = kind(**given)
    except TypeError as error:
        raise SpecError(f"filter {name!r}: {error}", fix=f"its parameters: {', '.join(sorted(known))}") from None
    return made


def recipe_filters(recipe: Recipe, source: RecipeSource) -> tuple[Filter, ...]:
    """What a source's episodes must pass: its requirements, then the recipe's filters, then its own."""
    needed = source.require if source.require is not None else recipe.require
    entries = [{"name": "require", "needs": list(needed)}, *recipe.filters, *source.filters]
    return tuple(parse_filter(entry) for entry in entries)


def describe(entry: Filter) -> dict[str, Any]:
    """Name, version and parameters: what identifies a step in plans and records."""
    return {"name": entry.name, "version": entry.version, "parameters": asdict(entry)}  # type: ignore[call-overload]


def non_finite(slots: SlotArray | None, side: str) -> Drop | None:
    """A drop when an unmasked value is NaN or infinite."""
    if slots is None:
        return None
    bad = ~np.isfinite(slots.values) & slots.mask
    if not bad.any():
        return None
    row, column = (int(found[0]) for found in np.nonzero(bad))
    key = unified().slot_at(int(slots.channels[column])).key
    return Drop("non_finite", f"{side} {key} is not finite at step {row} ({int(bad.sum())} values in all)")


@dataclass(frozen=True)
class NoNan:
    """Drop episodes with a NaN or infinite state or action."""

    name: ClassVar[str] = "no_nan"
    version: ClassVar[int] = 1

    def verdict(self, episode: Episode) -> Drop | None:
        return non_finite(episode.state, "state") or non_finite(episode.action, "action")


@dataclass(frozen=True)
class MinSteps:
    """Drop trajectories of fewer than `steps` steps; VL items pass."""

    steps: int
    name: ClassVar[str] = "min_steps"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 1:
            raise SpecError(f"min_steps: steps must be a whole number from 1, not {self.steps!r}")

    def verdict(self, episode: Episode) -> Drop | None:
        if episode.messages or episode.steps >= self.steps:
            return None
        return Drop("min_steps", f"{episode.steps} steps, at least {self.steps} are wanted")


@dataclass(frozen=True)
class MaxAction:
    """Drop episodes in which a slot's action exceeds a limit: `limits` maps slot groups to magnitudes in SI."""

    limits: Mapping[str, float]
    name: ClassVar[str] = "max_action"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        groups = {slot.group for slot in unified().slots}
        if not isinstance(self.limits, Mapping) or not self.limits:
            raise SpecError("max_action: `limits` maps slot names to magnitudes")
        for group, limit in self.limits.items():
            if group not in groups:
                raise SpecError(f"max_action: unknown slot {group!r}", fix=f"known: {', '.join(sorted(groups))}")
            if isinstance(limit, bool) or not isinstance(limit, int | float) or limit <= 0:
                raise SpecError(f"max_action: the limit of {group} must be positive, not {limit!r}")

    def verdict(self, episode: Episode) -> Drop | None:
        action = episode.action
        for slot in unified().slots_of(action.channels) if action is not None else ():
            limit = self.limits.get(slot.group)
            if limit is None or action is None:
                continue
            columns = action.columns(slot.start, slot.stop)
            large = (np.abs(action.values[:, columns]) > limit) & action.mask[:, columns]
            if large.any():
                row = int(np.flatnonzero(large.any(axis=1))[0])
                value = float(np.abs(action.values[row, columns]).max())
                return Drop("max_action", f"{slot.key} reaches {value:.6g} at step {row}, more than {limit:g}")
        return None


@dataclass(frozen=True)
class Require:
    """Drop trajectories that lack what training needs: `view`, `language`, `state`, `action`. VL items pass."""

    needs: tuple[str, ...]
    name: ClassVar[str] = "require"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", tuple(self.needs))
        unknown = set(self.needs) - {"view", "language", "state", "action"}
        if unknown:
            raise SpecError(f"require: unknown need {sorted(unknown)[0]!r}", fix="known: view, language, state, action")

    def verdict(self, episode: Episode) -> Drop | None:
        if episode.messages:
            return None
        present = {
            "view": bool(episode.views),
            "language": bool(episode.language),
            "state": episode.state is not None and bool(episode.state.mask.any()),
            "action": episode.action is not None and bool(episode.action.mask.any()),
        }
        for need in self.needs:
            if not present[need]:
                return Drop(f"no_{need}", f"the episode has no {need}")
        return None
