"""Baked versions: the shards hold the numbers that the loader would have made of physical ones, bit for bit."""

from __future__ import annotations

import gc
import io
import pickle
import shutil
import tarfile
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import webdataset as wds

from dataengine import api
from dataengine.documents import sha256_bytes
from dataengine.errors import FormatError, SpecError
from dataengine.loader import Batch, MixtureDataset, open_mixture
from dataengine.mixture.bake import Baker
from dataengine.mixture.store import MixtureStore, shard_name
from dataengine.shards.npy import npy
from dataengine.shards.tar import Sample
from dataengine.specs.normalization import NormalizationSpec
from dataengine.specs.recipe import load_recipe
from dataengine.transforms.representation import REPRESENTATIONS

Content = Callable[[Path], dict[str, str]]
REAL = """
name: real
sources:
  - {{converter: unitree_g1_inspire, split: train, path: "{data}/robot/lerobot_v21_g1"}}
  - {{converter: pusht_lerobot, split: train, path: "{data}/robot/lerobot_v30_pusht"}}
  - {{converter: llava_conversations, split: train, accept: [missing_media],
      path: "{data}/vision_language/llava_conversations"}}
  - converter: robosuite_baxter
    split: train
    require: [state]
    path: "{data}/robot/robosuite_human_demos/BaxterPegInHole"
  - converter: hot3d_aria
    split: train
    require: []
    path: "{data}/egocentric/hot3d"
    window: {{chunk: {{steps: 8}}, stride: 24, history: 2}}
window: {{chunk: {{steps: 16}}, stride: 12, history: 2}}
images: {{size: [32, 32]}}
shards: {{buckets: {{train: 3}}}}
"""
SMALL = """
name: small
sources: [{{converter: pusht_lerobot, path: "{data}"}}]
filters: [{{name: min_steps, steps: 2}}]
window: {{chunk: {{steps: 8}}, history: 2}}
split: {{valid: 0.3}}
shards: {{buckets: {{train: 6, valid: 1}}, segment: 24}}
normalization: {normalization}
"""
TURNS = """
name: turns
sources: [{{converter: unitree_g1_inspire, split: train, path: "{data}/robot/lerobot_v21_g1"}}]
window: {{chunk: {{steps: 6}}, stride: 40}}
images: {{size: [32, 32]}}
shards: {{buckets: {{train: 2}}}}
normalization:
  representations: [absolute, relative]
  per: dataset
  per_step: true
  methods: {{arm_joint: sincos, native: mean_std}}
  override: {{unitree_g1_inspire/joint_position/unitree_g1_inspire: {{251: {{low: 0, high: 1}}}}}}
"""


def build(recipe: str, lake: Path, out: Path, **options: Any) -> api.BuildOutcome:
    path = out.parent / f"{out.name}.yaml"
    path.write_text(recipe)
    return api.build(str(path), lake, out, **{"engine": "local", "workers": 1, **options})


def small(raw: Path, lake: Path, out: Path, normalization: str, **options: Any) -> api.BuildOutcome:
    return build(SMALL.format(data=raw, normalization=normalization), lake, out, **options)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, data: Path, from_lake: Callable[[str], str]) -> Path:
    """Joints, pixels, hand poses, states alone and conversations; `plain`, and one mixture a representation."""
    root = tmp_path_factory.mktemp("real")
    recipe = REAL.format(data=data)
    build(recipe, root / "L", root / "plain")
    for form in REPRESENTATIONS:
        build(f"{from_lake(recipe)}normalization: {{bake: {form}}}\n", root / "L", root / form)
    return root


@pytest.fixture(scope="module")
def pusht(tmp_path_factory: pytest.TempPathFactory, pusht_raw: Path) -> Path:
    """Six fixture episodes in two splits: `plain`, and `relative` baked."""
    root = tmp_path_factory.mktemp("pusht")
    small(pusht_raw, root / "L", root / "plain", "{}")
    small(pusht_raw, root / "L", root / "relative", "{bake: relative}")
    return root


def same(one: Batch, two: Batch) -> None:
    """Every field, arrays bit for bit; the facts but for what says that they are baked."""
    for entry in fields(Batch):
        left, right = getattr(one, entry.name), getattr(two, entry.name)
        if entry.name == "facts":
            left, right = ([{k: v for k, v in f.items() if k != "baked"} for f in found] for found in (left, right))
            assert left == right
        elif isinstance(left, np.ndarray):
            assert (left.dtype, left.shape) == (right.dtype, right.shape), entry.name
            assert left.tobytes() == right.tobytes(), entry.name
        elif entry.name in ("images", "image_mask"):
            assert left.keys() == right.keys()
            assert all(np.array_equal(left[name], right[name]) for name in left)
        else:
            assert left == right, entry.name


def raws(mixture: Path, split: str = "train") -> dict[str, dict[str, bytes]]:
    """Members by key, as tarfile reads them."""
    store, found = MixtureStore(mixture), {}
    for shard in store.manifest(store.resolve(None))[1].shards:
        if shard.split == split:
            with tarfile.open(mixture / shard_name(shard.sha256)) as tar:
                for member in tar:
                    key, _, extension = member.name.partition(".")
                    found.setdefault(key, {})[extension] = tar.extractfile(member).read()  # type: ignore[union-attr]
    return found


def array(members: dict[str, bytes], name: str) -> np.ndarray:
    return np.load(io.BytesIO(members[f"{name}.npy"]), allow_pickle=False)


def normalization(mixture: Path) -> bytes:
    store = MixtureStore(mixture)
    sha, _ = store.manifest(store.resolve(None))
    return store.read(f"{store.documents(sha)}/normalization.json")


# --- the same numbers ---


@pytest.mark.parametrize("form", REPRESENTATIONS)
@pytest.mark.parametrize("size", [1, 7, 64])
def test_batches_are_those_of_the_unbaked_version(real: Path, form: str, size: int) -> None:
    baked = open_mixture(real / form)
    plain = open_mixture(real / "plain", representation=form)
    assert baked.identity.representation == form
    assert len(baked) == len(plain) > 100
    for one, two in zip(baked.batches(size, seed=3), plain.batches(size, seed=3), strict=True):
        same(one, two)
    moved = plain.examples(range(len(plain)))
    assert {example.kind for example in moved} == {"window", "item"}
    assert any(example.action[:, 7:16].any() for example in moved), "poses are among them"
    assert any(not example.state_mask[0].any() and example.state_mask[-1].any() for example in moved), "and history"


@pytest.mark.parametrize("form", REPRESENTATIONS)
def test_restoring_is_the_same(real: Path, form: str) -> None:
    baked = open_mixture(real / form, views=())
    plain = open_mixture(real / "plain", representation=form, views=())
    truth = open_mixture(real / "plain", normalize=False, views=())
    compared = 0
    for place in range(0, len(baked), 3):
        one, two, physical = baked[place], plain[place], truth[place]
        if one.kind == "item" or not one.facts["channels"]["action"]:
            continue
        back = baked.restore(one.action, one, mask=one.action_mask)
        np.testing.assert_array_equal(back, plain.restore(two.action, two, mask=two.action_mask))
        measured = baked.observe(one.present, one.facts, mask=one.present_mask)
        np.testing.assert_array_equal(measured[0], one.state[-1])
        np.testing.assert_array_equal(one.present, physical.present)
        if form == "absolute":
            known = np.isfinite(back) & one.action_mask & (np.abs(one.action) < 1.4)
            np.testing.assert_allclose(back[known], physical.action[known], atol=1e-3, rtol=1e-4)
        compared += 1
    assert compared > 10


def test_shards_hold_normalized_numbers_and_say_so(real: Path) -> None:
    """Worked out from normalization.json by the formula, without the loader."""
    plain, baked = raws(real / "plain"), raws(real / "absolute")
    data = normalization(real / "absolute")
    document = orjson.loads(data)
    assert list(plain) == list(baked)
    seen = 0
    for key, members in baked.items():
        facts = orjson.loads(members["json"])
        if facts["kind"] == "item":
            assert members == plain[key], "items are as they were"
            continue
        assert facts["baked"] == {"representation": "absolute", "normalization": sha256_bytes(data)}
        assert list(members) == ["json", *sorted(name for name in members if name != "json")]
        assert members.keys() - plain[key].keys() == {"present.npy"}
        now = array(plain[key], "state_mask")[-1].astype(bool)
        np.testing.assert_array_equal(array(members, "present"), np.where(now, array(plain[key], "state")[-1], 0))
        for side in ("state", "action") if "action.npy" in members else ("state",):
            group = f"{facts['embodiment']}/{facts['control_mode']}"
            entries = {
                entry["channel"]: entry
                for name in (group, f"{group}/{facts['converter']}")
                for entry in document["groups"].get(name, {}).get(side, {}).get("absolute", [])
            }
            values, mask = array(members, side), array(members, f"{side}_mask").astype(bool)
            assert (values.dtype, array(members, f"{side}_mask").dtype) == (np.float32, np.uint8)
            assert not values[~mask].any()
            if side == "action":
                assert not mask[array(members, "is_pad").astype(bool)].any()
            for column, channel in enumerate(facts["channels"][side]):
                entry = entries[channel]
                given = array(plain[key], side)[:, column].astype(np.float64)
                if entry["low"] is None or entry["high"] == entry["low"]:
                    continue
                scaled = 2 * (given - entry["low"]) / (entry["high"] - entry["low"]) - 1
                bound = np.inf if entry["clip"] is None else entry["clip"]
                expected = np.where(mask[:, column], np.clip(scaled, -bound, bound), 0)
                np.testing.assert_allclose(values[:, column], expected, atol=1e-5, rtol=1e-5)
                seen += 1
    assert seen > 1000


def test_stock_webdataset_reads_normalized_numbers(pusht: Path) -> None:
    """The unmodified reader, which knows nothing of this project."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        dataset = wds.WebDataset(api.urls(str(pusht / "relative"), "train"), shardshuffle=False, empty_check=False)
        samples = list(dataset.decode("rgb8"))
        del dataset
        gc.collect()
    ds = open_mixture(pusht / "plain", representation="relative")
    expected = {example.key: example for example in ds}
    assert {sample["__key__"] for sample in samples} == expected.keys()
    for sample in samples:
        example = expected[sample["__key__"]]
        np.testing.assert_array_equal(sample["action.npy"], example.action[:, [240, 241]])
        np.testing.assert_array_equal(sample["action_mask.npy"], example.action_mask[:, [240, 241]])
        np.testing.assert_array_equal(sample["state.npy"], example.state[:, [240, 241]])
        np.testing.assert_array_equal(sample["present.npy"], example.present[[240, 241]])
        assert sample["front.jpg"].shape == (96, 96, 3)
        assert np.abs(sample["action.npy"]).max() <= 1.5


def test_sines_steps_data_sets_and_overrides(tmp_path: Path, data: Path) -> None:
    recipe = TURNS.format(data=data)
    build(recipe, tmp_path / "L", tmp_path / "plain")
    for form in ("absolute", "relative"):
        build(f"{recipe}  bake: {form}\n", tmp_path / "L", tmp_path / form)
        baked, plain = open_mixture(tmp_path / form), open_mixture(tmp_path / "plain", representation=form)
        for one, two in zip(baked.batches(5), plain.batches(5), strict=True):
            same(one, two)
        example = baked[len(baked) // 2]
        assert example.action_cosine is not None
        back = baked.restore(example.action, example, cosine=example.action_cosine, mask=example.action_mask)
        there = plain[len(baked) // 2]
        expected = plain.restore(there.action, there, cosine=there.action_cosine, mask=there.action_mask)
        np.testing.assert_array_equal(back, expected)
        members = baked.raw(0)
        assert array(members, "action_cosine").shape == array(members, "action").shape == (6, 26)
        arms = np.flatnonzero(np.isin(orjson.loads(members["json"])["channels"]["action"], range(7)))
        mask = array(members, "action_mask").astype(bool)[:, arms]
        ones = array(members, "action")[:, arms] ** 2 + array(members, "action_cosine")[:, arms] ** 2
        np.testing.assert_allclose(ones[mask], 1, atol=1e-6)
        with pytest.raises(SpecError, match="no place for the cosines"):
            open_mixture(tmp_path / form, layout="unified_256")[0]


def test_frozen_statistics(pusht: Path, pusht_raw: Path, tmp_path: Path) -> None:
    frozen = tmp_path / "frozen.json"
    frozen.write_bytes(normalization(pusht / "plain"))
    few = tmp_path / "few"
    choice = f"{{reuse: {frozen}, bake: relative}}"
    done = build(
        SMALL.format(data=pusht_raw, normalization=choice),
        tmp_path / "L",
        few,
    )
    assert done.exit_code == 0
    for one, two in zip(
        open_mixture(few).batches(9), open_mixture(pusht / "plain", representation="relative").batches(9), strict=True
    ):
        same(one, two)
    frozen.unlink()  # the version holds all that it needs
    assert api.rebuild(str(few), 0, tmp_path / "L").equal
    assert not api.stats_check(str(few), tmp_path / "L", workers=1).differences


def test_what_cannot_be_formed_is_masked(pusht: Path) -> None:
    """A joint whose state is masked at t0 has no relative target: 0 and masked, and no present."""
    recipe = load_recipe(str(pusht / "relative.yaml"), {})
    baker = Baker.of(recipe, normalization(pusht / "relative"))
    assert baker is not None
    key, members = next(iter(raws(pusht / "plain").items()))
    mask = array(members, "state_mask")
    assert mask[-1].tolist() == [1, 1]
    mask[-1, 0] = 0
    given = {**members, "state_mask.npy": npy(mask)}
    (made,) = baker.baked([Sample(key, tuple(given.items()))])
    found, before = dict(made.members), raws(pusht / "relative")[key]
    assert not array(found, "action_mask")[:, 0].any()
    assert not array(found, "action")[:, 0].any()
    assert array(found, "present")[0] == array(found, "state")[-1, 0] == 0
    np.testing.assert_array_equal(array(found, "action")[:, 1], array(before, "action")[:, 1])
    assert array(before, "action_mask")[0].all()


# --- how it opens ---


def test_only_what_the_shards_hold_is_given(pusht: Path, real: Path) -> None:
    mixture = pusht / "relative"
    assert open_mixture(mixture).identity == open_mixture(mixture, representation="relative").identity
    assert open_mixture(pusht / "plain").identity.representation == "absolute"
    with pytest.raises(SpecError, match="normalized in 'relative', and clipping lost") as caught:
        open_mixture(mixture, normalize=False)
    assert "normalize=True" in str(caught.value.fix)
    assert "bake: null" in str(caught.value.fix)
    with pytest.raises(SpecError, match="in 'relative', not in 'delta'") as caught:
        open_mixture(mixture, representation="delta")
    assert "representation='relative'" in str(caught.value.fix)
    with pytest.raises(SpecError, match="did you mean 'delta'"):
        open_mixture(mixture, representation="delt")
    with pytest.raises(SpecError, match=r"layout xvla_20 converts numbers .*the shards hold normalized") as caught:
        open_mixture(real / "absolute", layout="xvla_20")
    assert "bake: null" in str(caught.value.fix)
    with pytest.raises(SpecError, match="not used with 'relative'"):
        open_mixture(real / "relative", layout="gr00t_g1")


@pytest.mark.parametrize("layout", ["unified_256", "qwen_vla"])
def test_a_layout_that_moves_numbers_is_filled(real: Path, layout: str) -> None:
    baked = open_mixture(real / "relative", layout=layout, views=())
    plain = open_mixture(real / "plain", representation="relative", layout=layout, views=())
    assert baked.identity.representation == "relative"
    for place in range(0, len(baked), 20):
        one, two = baked[place], plain[place]
        for name in ("state", "state_mask", "action", "action_mask", "present"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        if one.kind == "window" and one.facts["channels"]["action"]:
            np.testing.assert_array_equal(baked.restore(one.action, one), plain.restore(two.action, two))


def test_it_travels_and_takes_subsets(real: Path) -> None:
    ds: MixtureDataset = pickle.loads(pickle.dumps(open_mixture(real / "delta", views=("head",))))
    assert ds[3].key == open_mixture(real / "delta")[3].key
    kinds = [len(open_mixture(real / "delta", kinds=(kind,))) for kind in ("window", "item")]
    assert sum(kinds) == len(ds)
    assert min(kinds) > 0


def test_samples_of_another_version_are_noticed(pusht: Path) -> None:
    baked, plain = (open_mixture(pusht / name, representation="relative") for name in ("relative", "plain"))
    for one, two, name in ((baked, plain, "baked as None"), (plain, baked, "its version as None")):
        (raw,) = two._stored.read([0], None)
        with pytest.raises(FormatError, match=name) as caught:
            one._decoder.decode([raw])
        assert caught.value.reason == "sample_damaged"
    (raw,) = baked._stored.read([0], None)
    for member in ("present.npy", "action.npy"):
        left = {name: data for name, data in raw.members.items() if name != member}
        with pytest.raises(FormatError, match=f"{member} is missing"):
            baked._decoder.decode([raw._replace(members=left)])
    short = {**raw.members, "present.npy": raw.members["is_pad.npy"]}
    with pytest.raises(FormatError, match="present is of type"):
        baked._decoder.decode([raw._replace(members=short)])


# --- builds ---


@pytest.mark.parametrize("options", [{"workers": 2}, {"task_order": 5}])
def test_workers_and_order_do_not_show(
    pusht: Path, pusht_raw: Path, tmp_path: Path, content: Content, options: dict[str, int]
) -> None:
    small(pusht_raw, tmp_path / "L", tmp_path / "M", "{bake: relative}", **options)
    assert content(tmp_path / "M") == content(pusht / "relative")


@pytest.mark.ray
def test_ray_gives_the_same_bytes(pusht: Path, pusht_raw: Path, tmp_path: Path, content: Content) -> None:
    done = small(pusht_raw, tmp_path / "L", tmp_path / "M", "{bake: relative}", engine="ray", workers=2)
    assert done.engine == "ray"
    assert content(tmp_path / "M") == content(pusht / "relative")


def test_tools_work_on_a_baked_version(pusht: Path, real: Path) -> None:
    for mixture, lake in ((pusht / "relative", pusht / "L"), (real / "relative_base", real / "L")):
        report = api.verify(str(mixture))
        assert not report.problems
        shards = MixtureStore(mixture).manifest("v0001")[1].shards
        assert all(api.rebuild(str(mixture), number, lake).equal for number in range(len(shards)))
    checked = api.stats_check(str(pusht / "relative"), pusht / "L", workers=1)
    assert checked.values > 50
    assert not checked.differences
    assert normalization(pusht / "relative") == normalization(pusht / "plain"), "statistics are of physical values"
    told = api.diff(str(pusht / "plain"), str(pusht / "relative"))
    assert (told["samples"], told["normalization_changed"], told["recipe_changed"]) == (0, False, True)
    assert told["shards"]["same"] == 0


def test_again_is_nothing_and_a_killed_build_goes_on(pusht: Path, pusht_raw: Path, tmp_path: Path) -> None:
    shutil.copytree(pusht, tmp_path / "copy")
    lake, mixture = tmp_path / "copy" / "L", tmp_path / "copy" / "relative"
    again = small(pusht_raw, lake, mixture, "{bake: relative}")
    assert (again.report.created, again.report.tasks_executed) == (False, 0)
    ref = MixtureStore(mixture)
    ref.remove("refs/v0001")
    lost = ref.names("tasks")[0]
    ref.remove(lost)
    resumed = small(pusht_raw, lake, mixture, "{bake: relative}")
    assert (resumed.report.created, resumed.report.tasks_executed) == (True, 1)
    found, _, _ = api.plan(str(tmp_path / "copy" / "relative.yaml"), lake, mixture, workers=1)
    assert found.tasks_cached == found.tasks == resumed.report.tasks
    tried = api.try_step(str(tmp_path / "copy" / "relative.yaml"), "min_steps", lake)
    assert (tried.episodes, tried.effects) == (6, {"unchanged": 6})


def test_the_cache_follows_the_form_and_the_population(pusht: Path, pusht_raw: Path, tmp_path: Path) -> None:
    """Unbaked shards do not depend on statistics; baked ones do, so what moves a range rewrites all of them."""
    shutil.copytree(pusht, tmp_path / "copy")
    lake, mixture = tmp_path / "copy" / "L", tmp_path / "copy" / "relative"
    first = MixtureStore(mixture).manifest("v0001")[1]
    other = small(pusht_raw, lake, mixture, "{bake: delta}")
    assert other.report.tasks_executed == other.report.tasks
    assert other.report.version == "v0002"
    assert open_mixture(mixture).identity.representation == "delta"
    assert open_mixture(f"{mixture}@v0001").identity.representation == "relative"
    wider = small(pusht_raw, lake, mixture, "{bake: relative, clip: 3.0}")
    assert wider.report.tasks_executed == wider.report.tasks
    back = small(pusht_raw, lake, mixture, "{bake: relative}")
    assert (back.report.created, back.report.tasks_executed) == (True, 0)
    assert MixtureStore(mixture).manifest(back.report.version)[1].content_digest() == first.content_digest()
    plain = tmp_path / "copy" / "plain"
    assert small(pusht_raw, lake, plain, "{clip: 3.0}").report.tasks_executed == 0
    unbaked = small(pusht_raw, lake, mixture, "{}")
    assert unbaked.report.tasks_executed == unbaked.report.tasks
    assert open_mixture(mixture).identity.representation == "absolute"
    kept = open_mixture(plain)
    for one, two in zip(open_mixture(mixture).batches(16), kept.batches(16), strict=True):
        assert one.facts == two.facts


def test_a_new_episode_rewrites_all_shards(
    make_pusht: Callable[..., Path], tmp_path: Path, pusht: Path, pusht_raw: Path
) -> None:
    shutil.copytree(pusht, tmp_path / "copy")
    lake = tmp_path / "copy" / "L"
    more = make_pusht(tmp_path / "raw", range(7))
    executed = {}
    for name, choice in (("plain", "{}"), ("relative", "{bake: relative}")):
        done = small(more, lake, tmp_path / "copy" / name, choice)
        executed[name] = done.report.tasks_executed, done.report.tasks
    assert executed["plain"][0] == 1
    assert executed["relative"][0] == executed["relative"][1] > 1


def test_values_without_statistics_stop_the_build(
    make_pusht: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All episodes in `valid`: the train split gives no range to bake with."""
    monkeypatch.setattr("dataengine.mixture.select.choose_split", lambda *_: "valid")
    raw = make_pusht(tmp_path / "raw", [1])
    small(raw, tmp_path / "L", tmp_path / "plain", "{}")
    with pytest.raises(SpecError, match="no statistics for"):
        small(raw, tmp_path / "L", tmp_path / "baked", "{bake: true}")
    assert not MixtureStore(tmp_path / "baked").versions()


def test_what_a_recipe_may_say(tmp_path: Path) -> None:
    def spec(**given: Any) -> NormalizationSpec:
        return NormalizationSpec.parse(given, "here")

    assert spec().bake is spec(bake=False).bake is spec(bake=None).bake is None
    assert spec(bake=True).bake == spec(bake="absolute").bake == "absolute"
    with pytest.raises(SpecError, match="add it to `representations`"):
        spec(bake="delta", representations=["absolute"])
    for wrong in ("relativ", 1, 2.5, ["absolute"]):
        with pytest.raises(SpecError, match="bake"):
            spec(bake=wrong)
    path = tmp_path / "r.yaml"
    path.write_text(SMALL.format(data="x", normalization="{}"))
    recipe = load_recipe(str(path), {})
    assert "bake" not in recipe.resolved()["normalization"], "digests of versions from before stay"
    assert Baker.of(recipe, b"") is None
    path.write_text(SMALL.format(data="x", normalization="{bake: true}"))
    assert load_recipe(str(path), {}).resolved()["normalization"]["bake"] == "absolute"
    choices = api.recipe_schema()["$defs"]["NormalizationSpec"]["properties"]["bake"]["anyOf"]
    assert [entry["type"] for entry in choices] == ["string", "boolean", "null"]
