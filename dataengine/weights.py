"""Weights to rates: how many samples each source gives, from its weight, its size and its group.

A source offers some windows; its rate is how often each is taken: its weight (`multiplier`), or its weight by its size
(`absolute`). Else targets t come from the recipe: the weight itself (`share`) or weight * n^alpha (`power`; alpha 1 is
proportional to size, 0.43 is pi0's), n the source's size in the recipe's unit; in a group they are shares of the
group's. Then rate_i = s * t_i / n_i, so that the sources stand to each other as their targets in that unit, with one s
for all by which the mixture has `mix.samples` samples, or as many as all sources offer within their caps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dataengine.specs.recipe import GroupSpec, MixUnit, Recipe, RecipeSource, StageSpec
from dataengine.specs.records import Pins


@dataclass(frozen=True)
class Offer:
    """What a source's kept episodes hold: windows (`samples`, as its steps weigh them), episodes, steps, seconds.

    `items` says that its samples are items of vision-language data, `bytes` estimates what they take.
    """

    samples: int = 0
    episodes: int = 0
    frames: int = 0
    seconds: float = 0.0
    items: bool = False
    bytes: int = 0

    def size(self, unit: MixUnit) -> float:
        """The size in a unit."""
        return {
            "sample": float(self.samples),
            "episode": float(self.episodes),
            "frame": float(self.frames),
            "hour": self.seconds / 3600.0,
        }[unit]


def resolve_pins(recipe: Recipe, offered: Mapping[str, Offer], earlier: Pins | None, earlier_recipe: object) -> Pins:
    """Rates by converter from weights, groups and caps.

    Sources of an earlier version whose weighing has not changed keep their pinned rate, and new ones join at its scale.
    """
    kept = _inherited(recipe, earlier, earlier_recipe)
    targets = target_weights(recipe, offered)
    scale = earlier.scale if earlier is not None and kept else _scale(recipe, offered, targets)
    rates = {}
    for source in recipe.sources:
        name = source.entry
        rates[name] = kept[name] if name in kept else _rate(recipe, source, offered.get(name, Offer()), targets, scale)
    if recipe.mix.mode == "scheduled":
        buckets, names = _own_buckets(recipe, offered, earlier), tuple(source.entry for source in recipe.sources)
        return Pins(rates=rates, scale=float(f"{scale:.9g}"), buckets=buckets, sources=names)
    return Pins(rates=rates, scale=float(f"{scale:.9g}"), buckets=dict(recipe.shards.buckets))


def _own_buckets(recipe: Recipe, offered: Mapping[str, Offer], earlier: Pins | None) -> dict[str, int]:
    """Bucket counts by `split/source`: the recipe's shared out by size, at least one each; pinned ones stay."""
    whole = sum(offer.bytes for offer in offered.values()) or 1
    standing = earlier.buckets if earlier is not None and earlier.sources else {}
    found = {}
    for split, count in recipe.shards.buckets.items():
        for source in recipe.sources:
            name = f"{split}/{source.entry}"
            part = offered.get(source.entry, Offer()).bytes / whole
            found[name] = standing.get(name) or max(1, round(count * part))
    return found


def drawn(
    recipe: Recipe, pins: Pins, offered: Mapping[str, Offer], samples: Mapping[str, int]
) -> dict[str, Any] | None:
    """The schedule of a scheduled mix: draws of an epoch, and by stage each source's share of them; None when baked.

    `samples` lie in the train shards. A source is drawn `rate` times as often as it has samples; a stage with weights
    of its own resolves them as the recipe's are, and has its `part` of the draws.
    """
    if recipe.mix.mode == "baked":
        return None
    draws = round(sum(pins.rates[name] * count for name, count in samples.items()))
    stages = recipe.mix.stages or (None,)
    whole = sum(stage.part for stage in stages if stage is not None) or 1.0
    listed = []
    left = draws
    for number, stage in enumerate(stages):
        rates = pins.rates if stage is None else resolve_pins(in_stage(recipe, stage), offered, None, None).rates
        weights = {name: rates[name] * count for name, count in samples.items()}
        total = sum(weights.values()) or 1.0
        last = number == len(stages) - 1
        own = left if last or stage is None else round(draws * stage.part / whole)
        left -= own
        shares = {name: float(f"{weight / total:.12g}") for name, weight in sorted(weights.items()) if weight}
        listed.append({"name": "main" if stage is None else stage.name, "draws": own, "shares": shares})
    return {"draws": draws, "stages": listed}


def _rate(recipe: Recipe, source: RecipeSource, have: Offer, targets: Mapping[str, float], scale: float) -> float:
    size = have.size(recipe.mix.unit)
    rate = source.weight
    if size and recipe.mix.weights != "multiplier":
        rate = (source.weight if recipe.mix.weights == "absolute" else scale * targets[source.entry]) / size
    if recipe.mix.max_repeats is not None:
        rate = min(rate, recipe.mix.max_repeats)
    if source.cap is not None and have.size(source.cap_unit) * rate > source.cap:
        rate = source.cap / have.size(source.cap_unit)
    return float(f"{rate:.9g}")


def _scale(recipe: Recipe, offered: Mapping[str, Offer], targets: Mapping[str, float]) -> float:
    """The s by which the mixture has `mix.samples` samples, else as many as its sources offer within their caps."""
    within = (_within_cap(source, offered.get(source.entry, Offer())) for source in recipe.sources)
    total = float(recipe.mix.samples or sum(within))
    weighted = sum(
        target * offered[name].samples / offered[name].size(recipe.mix.unit)
        for name, target in targets.items()
        if offered.get(name, Offer()).size(recipe.mix.unit)
    )
    return total / weighted if weighted else 1.0


def _within_cap(source: RecipeSource, have: Offer) -> float:
    """Samples that a source offers at rate 1, or that its cap leaves of them."""
    size = have.size(source.cap_unit)
    if source.cap is None or size <= source.cap:
        return float(have.samples)
    return have.samples * source.cap / size


def target_weights(recipe: Recipe, offered: Mapping[str, Offer]) -> dict[str, float]:
    """How the sources stand to each other by the recipe, in its unit; a source that offers nothing takes no share."""
    own = {}
    for source in recipe.sources:
        size = offered.get(source.entry, Offer()).size(recipe.mix.unit)
        grows = recipe.mix.weights == "power"
        own[source.entry] = (source.weight * size**recipe.mix.alpha if grows else source.weight) if size else 0.0
    if recipe.mix.vision_language is not None:
        return _halved(own, {name for name in own if offered.get(name, Offer()).items}, recipe.mix.vision_language)
    if not recipe.mix.groups:
        return own
    result = dict.fromkeys(own, 0.0)
    _share_out(recipe.mix.groups, 1.0, own, result)
    return result


def _halved(own: Mapping[str, float], items: set[str], part: float) -> dict[str, float]:
    """`part` of the whole to the vision-language sources and the rest to the others, where there are both."""
    talk, act = sum(own[name] for name in items), sum(own[name] for name in own if name not in items)
    if not (talk and act):
        return dict(own)
    return {n: weight * (part / talk if n in items else (1 - part) / act) for n, weight in own.items()}


def _share_out(groups: Iterable[GroupSpec], whole: float, own: Mapping[str, float], result: dict[str, float]) -> None:
    """Give each group its part of `whole`, and within it each source and inner group theirs."""
    present = [group for group in groups if any(own[name] for name in group.all_sources())]
    total = sum(group.weight for group in present)
    for group in present:
        part = whole * group.weight / total
        if group.groups:
            _share_out(group.groups, part, own, result)
        else:
            members = sum(own[name] for name in group.sources)
            for name in group.sources:
                result[name] = part * own[name] / members


def in_stage(recipe: Recipe, stage: StageSpec) -> Recipe:
    """The recipe with a stage's weights and groups."""
    sources = tuple(s.model_copy(update={"weight": stage.weights.get(s.entry, s.weight)}) for s in recipe.sources)
    mix = recipe.mix.model_copy(update={"groups": stage.groups or recipe.mix.groups, "stages": ()})
    return recipe.model_copy(update={"sources": sources, "mix": mix})


def _inherited(recipe: Recipe, earlier: Pins | None, earlier_recipe: object) -> dict[str, float]:
    if earlier is None or not isinstance(earlier_recipe, Mapping):
        return {}
    sources = earlier_recipe.get("sources", ())
    before = {entry.get("name") or entry["converter"]: _weighing(entry) for entry in sources}
    now = {source.entry: _weighing(source.canonical()) for source in recipe.sources}
    mix = earlier_recipe.get("mix")
    if not isinstance(mix, Mapping) or _without(mix, before.keys() - now.keys()) != recipe.resolved()["mix"]:
        return {}
    return {name: rate for name, rate in earlier.rates.items() if name in now and before.get(name) == now[name]}


def _without(mix: Mapping[str, Any], gone: Collection[str]) -> dict[str, Any]:
    """A mix whose groups and stages do not name sources that are gone: what is left keeps its rates."""
    groups = list(_groups_without(mix.get("groups", ()), gone))
    found = {**mix, "groups": groups}
    if "stages" in mix:
        found["stages"] = [
            {
                **stage,
                "weights": {name: weight for name, weight in stage["weights"].items() if name not in gone},
                "groups": list(_groups_without(stage["groups"], gone)),
            }
            for stage in mix["stages"]
        ]
    return found


def _groups_without(groups: Iterable[Mapping[str, Any]], gone: Collection[str]) -> Iterator[dict[str, Any]]:
    for group in groups:
        sources = [name for name in group["sources"] if name not in gone]
        inner = list(_groups_without(group["groups"], gone))
        if sources or inner:
            yield {**group, "sources": sources, "groups": inner}


def _weighing(source: Mapping[str, object]) -> tuple[object, ...]:
    return source.get("weight"), source.get("cap"), source.get("cap_unit"), source.get("window")


def shares(
    recipe: Recipe, offered: Mapping[str, Offer], samples: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """(requested, realized) share of each source, in the recipe's unit.

    Requested is what weights and groups ask for, caps apart; realized is what the plan's samples amount to.
    """
    unit = recipe.mix.unit
    wanted = target_weights(recipe, offered)
    if recipe.mix.weights == "multiplier":
        sizes = {name: offered.get(name, Offer()).size(unit) for name in wanted}
        wanted = {source.entry: source.weight * sizes[source.entry] for source in recipe.sources}
    got = {
        name: samples.get(name, 0) * offer.size(unit) / offer.samples if offer.samples else 0.0
        for name, offer in offered.items()
    }
    asked, made = sum(wanted.values()) or 1.0, sum(got.values()) or 1.0
    return {name: (weight / asked, got.get(name, 0.0) / made) for name, weight in wanted.items()}
