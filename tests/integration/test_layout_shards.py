"""Versions in another project's layout: shards that a stock reader stacks, equal to the unbaked version's batches."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import webdataset as wds

from dataengine import api
from dataengine.errors import FormatError, SpecError
from dataengine.layouts import Layout
from dataengine.loader import MixtureDataset, open_mixture
from dataengine.loader.arrays import vectors
from dataengine.loader.shards import RawSample
from dataengine.specs.recipe import Recipe, load_recipe

RECIPE = """
name: mixed
sources:
  - {{converter: bridge_octo, split: train, require: [], path: "{data}/robot/rlds_octo_bridge"}}
  - converter: unitree_g1_inspire
    split: train
    path: "{data}/robot/lerobot_v21_g1"
    window: {{chunk: {{steps: 6}}, stride: 60, history: 2}}
window: {{chunk: {{steps: 6}}, stride: 2, history: 2}}
images: {{size: [32, 32], fit: stretch, upscale: true}}
shards: {{buckets: {{train: 2}}, segment: 16}}
"""
VECTORS = ("state", "state_mask", "action", "action_mask", "is_pad", "present", "present_mask")
CASES = {  # layout, what is baked in, and how the unbaked version is opened
    "octo_7": ("octo_7", None, {"normalize": False}),
    "rdt_128": ("rdt_128", None, {"normalize": False}),
    "rdt_128_normalized": ("rdt_128", "absolute", {}),
    "unified_256": ("unified_256", "relative", {"representation": "relative"}),
}


def build(recipe: str, root: Path, name: str) -> api.BuildOutcome:
    path = root / f"{name}.yaml"
    path.write_text(recipe)
    return api.build(str(path), root / "L", root / name, engine="local", workers=1)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, data: Path, from_lake: Callable[[str], str]) -> Path:
    """Bridge (poses and commands) and a G1 (joints): `plain`, and a mixture for each case."""
    root, recipe = tmp_path_factory.mktemp("mixed"), RECIPE.format(data=data)
    build(recipe, root, "plain")
    for name, (layout, baked, _) in CASES.items():
        bake = f"normalization: {{bake: {baked}}}\n" if baked else ""
        build(f"{from_lake(recipe)}layout: {layout}\n{bake}", root, name)
    return root


def stock(mixture: Path, size: int) -> list[dict[str, Any]]:
    """Batches as the unmodified reader makes them, which knows nothing of this project."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        dataset = wds.WebDataset(api.urls(str(mixture), "train"), shardshuffle=False, empty_check=False).decode("rgb8")
        names = ("__key__", *(f"{name}.npy" for name in VECTORS))
        found = list(dataset.to_tuple(*names).batched(size, partial=True))
        del dataset
        gc.collect()
    return [dict(zip(("key", *VECTORS), batch, strict=True)) for batch in found]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [5, 32])
def test_stock_readers_stack_every_batch_of_a_mixed_mixture(mixed: Path, case: str, size: int) -> None:
    layout, _, options = CASES[case]
    plain = {example.key: example for example in open_mixture(mixed / "plain", layout=layout, views=(), **options)}
    widths = {"state": Layout.load(layout).width("state"), "action": Layout.load(layout).width("action")}
    sources, channels, mixed_batches, valid, seen = set(), set(), 0, 0, 0
    for batch in stock(mixed / case, size):
        count = len(batch["key"])
        for name in VECTORS:
            assert isinstance(batch[name], np.ndarray), f"{name} does not stack"
        assert batch["state"].shape == (count, 2, widths["state"])
        assert batch["action"].shape == (count, 6, widths["action"])
        facts = [plain[key].facts for key in batch["key"]]
        mixed_batches += len({fact["converter"] for fact in facts}) == 2
        sources |= {fact["converter"] for fact in facts}
        channels |= {len(fact["channels"]["action"]) for fact in facts}
        for name in VECTORS:
            expected = np.stack([getattr(plain[key], name) for key in batch["key"]])
            np.testing.assert_array_equal(batch[name], expected, err_msg=name)
        valid += int(batch["action_mask"].sum())
        seen += count
    assert sources == {"bridge_octo", "unitree_g1_inspire"}
    assert len(channels) == 2
    assert seen == len(plain) > 100
    assert mixed_batches > 2
    assert valid > 1000


@pytest.mark.parametrize("case", CASES)
def test_our_loader_gives_the_same_batches_and_restores(mixed: Path, case: str) -> None:
    layout, _, options = CASES[case]
    plain = open_mixture(mixed / "plain", layout=layout, **options)
    baked = open_mixture(mixed / case, normalize=options.get("normalize", True))
    assert baked.identity.layout == plain.identity.layout == Layout.load(layout).label
    assert baked.identity.representation == plain.identity.representation
    for one, two in zip(baked.batches(16, seed=1), plain.batches(16, seed=1), strict=True):
        assert one.keys == two.keys
        assert one.prompts == two.prompts
        for name in VECTORS:
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)
        assert one.images.keys() == two.images.keys()
        for view in one.images:
            np.testing.assert_array_equal(one.images[view], two.images[view])
            np.testing.assert_array_equal(one.image_mask[view], two.image_mask[view])
    for place in range(0, len(baked), 29):
        one, two = baked[place], plain[place]
        np.testing.assert_array_equal(
            baked.restore(one.action, one, mask=one.action_mask), plain.restore(two.action, two, mask=two.action_mask)
        )
        np.testing.assert_array_equal(
            baked.observe(one.present, one.facts, mask=one.present_mask)[0],
            plain.observe(two.present, two.facts, mask=two.present_mask)[0],
        )


def test_images_have_the_projects_names(mixed: Path) -> None:
    ds = open_mixture(mixed / "octo_7", normalize=False)
    kinds = set()
    for place in range(len(ds)):
        members, facts = ds.raw(place), ds[place].facts
        shown = {name.rpartition(".")[0] for name in members if name.endswith((".jpg", ".png"))}
        bridge = facts["converter"] == "bridge_octo"
        there = {"image_primary", "image_secondary"} if bridge else {"image_primary"}
        assert {name.partition(".")[0] for name in shown} == there
        assert shown <= {name + end for name in there for end in ("", ".m1")}
        told = {name: view["image"] for name, view in facts["views"].items()}
        expected = {"ext_1": "image_primary", "ext_2": "image_secondary"} if bridge else {"head": "image_primary"}
        assert told == expected
        assert facts["baked"] == {"representation": "absolute", "layout": Layout.load("octo_7").label}
        kinds.add(facts["converter"])
    assert len(kinds) == 2
    found = {
        name for e in open_mixture(mixed / "octo_7", normalize=False, views=("image_secondary",)) for name in e.images
    }
    assert found == {"image_secondary", "image_secondary.m1"}


def test_another_layout_or_form_is_refused(mixed: Path) -> None:
    def refused(name: str, **options: Any) -> str:
        with pytest.raises(SpecError) as caught:
            open_mixture(mixed / name, **options)
        return str(caught.value)

    assert "octo_7@" in refused("octo_7", normalize=False, layout="oxe_7")
    assert "physical values in layout octo_7" in refused("octo_7")
    assert "physical values in layout rdt_128" in refused("rdt_128", layout="rdt_128")
    assert "normalized values in layout rdt_128" in refused("rdt_128_normalized", normalize=False)
    assert "'absolute' actions in layout octo_7" in refused("octo_7", normalize=False, representation="relative")
    same = open_mixture(mixed / "octo_7", normalize=False, layout="octo_7", representation="absolute")
    assert len(same) == len(open_mixture(mixed / "octo_7", normalize=False))


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("layout: octo_7\nnormalization: {bake: absolute}", "layout octo_7 converts numbers"),
        ("layout: rdt_128\nnormalization: {bake: relative}", "layout rdt_128 is not used with 'relative' actions"),
        (
            "layout: unified_256\nnormalization: {bake: absolute, methods: {arm_joint: sincos}}",
            "no place for the cosines",
        ),
        ("layout: octo", "no layout is called 'octo'"),
    ],
)
def test_what_cannot_be_baked_is_refused_before_anything_is_written(
    mixed: Path, data: Path, lines: str, told: str
) -> None:
    with pytest.raises(SpecError, match=told):
        build(RECIPE.format(data=data) + lines + "\n", mixed, "refused")
    assert not (mixed / "refused" / "blobs").exists()


@pytest.mark.parametrize("window", ["{chunk: {seconds: 1}}", "{chunk: {steps: 7}, history: 2}", "{chunk: {steps: 6}}"])
def test_vectors_of_more_than_one_shape_are_refused(data: Path, tmp_path: Path, window: str) -> None:
    text = RECIPE.format(data=data) + "layout: rdt_128\n"
    path = tmp_path / "recipe.yaml"
    path.write_text(text.replace("{chunk: {steps: 6}, stride: 60, history: 2}", window))
    with pytest.raises(SpecError, match="one shape"):
        load_recipe(str(path), {})


def test_a_version_keeps_the_layout_it_was_built_with(tmp_path: Path) -> None:
    """The recipe holds what the layout says, not its name; a layout of one's own comes by `{file: ...}`."""
    own = Layout.load("rdt_128").spec.canonical() | {"name": "mine"}
    (tmp_path / "mine.json").write_bytes(orjson.dumps(own))
    path = tmp_path / "recipe.yaml"
    path.write_text("name: x\nsources: [{converter: a}]\nwindow: {chunk: {steps: 2}}\nlayout: {file: mine.json}\n")
    recipe = load_recipe(str(path), {})
    assert recipe.layout is not None
    assert recipe.layout.name == "mine"
    assert recipe.resolved()["layout"]["state"]["width"] == 128
    assert Recipe.parse(recipe.resolved(), "again") == recipe


def test_damage_is_named(mixed: Path) -> None:
    ds: MixtureDataset = open_mixture(mixed / "octo_7", normalize=False)
    members = ds.raw(0)
    layout = Layout.load("octo_7")
    vectors(RawSample("shard", "key", members), layout)
    for name in VECTORS:
        spoiled = {**members, f"{name}.npy": members["is_pad.npy" if name != "is_pad" else "action.npy"]}
        with pytest.raises(FormatError) as caught:
            vectors(RawSample("shard", "key", spoiled), layout)
        assert caught.value.reason == "sample_damaged"
        with pytest.raises(FormatError, match=f"{name}.npy is missing"):
            vectors(RawSample("shard", "key", {k: v for k, v in members.items() if k != f"{name}.npy"}), layout)
