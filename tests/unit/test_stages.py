"""Mix modes and stages of a recipe: what is said, what is refused, and that digests of recipes without them stay."""

from __future__ import annotations

from typing import Any

import pytest

from dataengine.errors import SpecError
from dataengine.specs.recipe import MixSpec, Recipe
from dataengine.weights import in_stage

SOURCES = [{"converter": "bridge_octo", "weight": 2}, {"converter": "vlnce_r2r"}]
STAGES = [
    {"name": "robot", "part": 3, "weights": {"vlnce_r2r": 0}},
    {"name": "both", "weights": {"bridge_octo": 5}},
]


def recipe(**mix: Any) -> Recipe:
    return Recipe.parse({"name": "small", "sources": SOURCES, "mix": mix}, "small.yaml")


def test_a_stage_weighs_the_sources_anew() -> None:
    made = recipe(mode="scheduled", weights="share", stages=STAGES)
    weights = [{source.entry: source.weight for source in in_stage(made, stage).sources} for stage in made.mix.stages]
    assert weights == [{"bridge_octo": 2, "vlnce_r2r": 0}, {"bridge_octo": 5, "vlnce_r2r": 1}]
    assert [stage.part for stage in made.mix.stages] == [3, 1]
    assert in_stage(made, made.mix.stages[0]).mix.stages == ()
    assert [stage["name"] for stage in made.resolved()["mix"]["stages"]] == ["robot", "both"]


def test_a_stage_has_groups_of_its_own() -> None:
    groups = [
        {"name": "robot", "weight": 1, "sources": ["bridge_octo"]},
        {"name": "walk", "weight": 4, "sources": ["vlnce_r2r"]},
    ]
    made = recipe(mode="scheduled", weights="share", stages=[{"name": "one"}, {"name": "two", "groups": groups}])
    assert [len(in_stage(made, stage).mix.groups) for stage in made.mix.stages] == [0, 2]
    with pytest.raises(SpecError, match="'vlnce_r2r' is in no group"):
        recipe(mode="scheduled", weights="share", stages=[{"name": "two", "groups": groups[:1]}])
    with pytest.raises(SpecError, match="go with `weights: share`"):
        recipe(mode="scheduled", stages=[{"name": "two", "groups": groups}])


@pytest.mark.parametrize(
    ("mix", "told"),
    [
        ({"stages": STAGES}, "shards of a baked mixture hold one mixture"),
        ({"mode": "shuffled"}, "mix.mode"),
        ({"mode": "scheduled", "stages": [STAGES[0], STAGES[0]]}, "the stage 'robot' stands twice"),
        ({"mode": "scheduled", "stages": [{"name": "x", "weights": {"nobody": 1}}]}, "weighs 'nobody'"),
        ({"mode": "scheduled", "stages": [{"name": "x", "weights": {"vlnce_r2r": -1}}]}, "weights.vlnce_r2r"),
        ({"mode": "scheduled", "stages": [{"name": "x", "part": 0}]}, "part"),
        (
            {"mode": "scheduled", "stages": [{"name": "x", "weights": {"bridge_octo": 0, "vlnce_r2r": 0}}]},
            "draws from no source",
        ),
    ],
)
def test_what_is_no_mix_is_refused(mix: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        recipe(**mix)


def test_a_recipe_without_stages_keeps_its_digest() -> None:
    assert "stages" not in recipe().resolved()["mix"]
    assert recipe().resolved()["mix"]["mode"] == "baked"
    assert "stages" in MixSpec.model_json_schema()["properties"]
