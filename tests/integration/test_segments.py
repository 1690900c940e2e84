"""Versions of segments against versions of windows: what the loader cuts out is what a build of windows holds.

The same sources, one of each family, are built once as segments and once for every choice of chunk, stride, history
and prompt as windows; steps narrow the episodes, bound them and count stops thrice. Members must agree to the byte,
and what is decoded of them bit for bit, in every representation.
"""

from __future__ import annotations

import io
import multiprocessing
import pickle
import shutil
import tarfile
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import yaml

from dataengine import api
from dataengine.errors import FormatError, SpecError
from dataengine.loader import Example, MixtureDataset, open_mixture
from dataengine.loader.segment import Segment
from dataengine.specs.recipe import Recipe, load_recipe
from dataengine.transforms.representation import REPRESENTATIONS

SOURCES: tuple[dict[str, Any], ...] = (
    {"converter": "bridge_octo", "path": "{data}/robot/rlds_octo_bridge", "steps": [{"name": "drop_last", "steps": 2}]},
    {
        "converter": "unitree_g1_inspire",
        "path": "{data}/robot/lerobot_v21_g1",
        "where": "steps < 300",
        "images": {"size": [48, 64]},
        "steps": [{"name": "idle", "slots": {"arm_joint": 0.01}, "min_run": 3}],
    },
    {
        "converter": "pusht_lerobot",
        "path": "{data}/robot/lerobot_v30_pusht",
        "steps": [{"name": "drop_first", "steps": 3}],
    },
    {"converter": "hot3d_aria", "path": "{data}/egocentric/hot3d", "require": []},
    {
        "converter": "vlnce_r2r",
        "path": "{data}/navigation/vlnce_r2r/R2R_VLNCE_v1-3_preprocessed/val_seen",
        "where": "steps < 36",
        "require": ["language"],
        "steps": [{"name": "oversample_stop", "times": 3, "before": 2}],
    },
    {"converter": "qwen_vl_demo", "path": "{data}/vision_language/qwen_vl_finetune_demo", "require": []},
)
DEFAULT: dict[str, Any] = {"window": {"chunk": {"steps": 8}, "stride": 2, "history": 2}, "prompt": {"form": "qwen_vla"}}
CHOICES: dict[str, dict[str, Any]] = {
    "as the recipe says": {},
    "long and many": {"window": {"chunk": {"seconds": 3.0}, "stride": 3, "history": 5}, "prompt": {"choose": "sample"}},
    "one step": {"window": {"chunk": {"steps": 1}, "stride": 7, "history": 1}, "prompt": {"form": "pi0"}},
    "as far as it goes": {"window": {"chunk": {"steps": 96}, "stride": 11, "history": 17}, "prompt": {}},
}
SHARED = {
    "name": "cut",
    "seed": 3,
    "shards": {"buckets": {"train": 2, "valid": 1}, "segment": 40},
    "normalization": {"representations": list(REPRESENTATIONS)},
    "guard": None,
}
SEGMENTS = {"samples": {"kind": "episode", "after": 96}, "mix": {"mode": "scheduled"}}


def recipe(data: Path, **given: Any) -> dict[str, Any]:
    sources = [{**source, "split": "train", "path": source["path"].format(data=data)} for source in SOURCES]
    return {**SHARED, **DEFAULT, "sources": sources, **given}


class Built:
    """One lake, and what is built of it."""

    def __init__(self, root: Path, data: Path) -> None:
        self.root, self.data = root, data
        self.made: dict[str, Path] = {}

    def mixture(self, name: str, **given: Any) -> Path:
        if name not in self.made:
            self.made[name] = self.root / name.replace(" ", "_")
            self.build(self.made[name], **given)
        return self.made[name]

    def build(self, out: Path, **given: Any) -> Any:
        path = self.root / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe(self.data, **given)))
        return api.build(str(path), self.root / "L", out, engine="local", workers=1).report

    @property
    def segments(self) -> Path:
        return self.mixture("segments", **SEGMENTS)

    def windows(self, name: str) -> Path:
        choice = CHOICES[name]
        prompt = {**DEFAULT["prompt"], **choice.get("prompt", {})}
        return self.mixture(name, window=choice.get("window", DEFAULT["window"]), prompt=prompt)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Built:
    return Built(tmp_path_factory.mktemp("segments"), data)


def raws(ds: MixtureDataset) -> dict[str, dict[str, bytes]]:
    found = (ds.raw(place) for place in range(len(ds)))
    return {orjson.loads(members["json"])["key"]: members for members in found}


def by_key(ds: MixtureDataset) -> dict[str, int]:
    return {key: place for place, key in enumerate(raws(ds))}


def same(one: Example, two: Example) -> None:
    """Every field, bit for bit."""
    for entry in fields(Example):
        a, b = getattr(one, entry.name), getattr(two, entry.name)
        if isinstance(a, np.ndarray):
            assert (a.dtype, a.shape) == (b.dtype, b.shape), entry.name
            assert a.tobytes() == b.tobytes(), entry.name
        elif entry.name == "images":
            assert a.keys() == b.keys()
            assert all(np.array_equal(a[name], b[name]) for name in a)
        else:
            assert a == b, entry.name


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOICES)
def test_a_window_of_a_segment_is_a_window(built: Built, name: str) -> None:
    windows = open_mixture(built.windows(name), normalize=False)
    cut = open_mixture(built.segments, normalize=False, **CHOICES[name])
    expected, found = raws(windows), raws(cut)
    assert len(found) == len(cut), "keys differ"
    assert found.keys() == expected.keys()
    for key, members in found.items():
        assert list(members.items()) == list(expected[key].items()), key
    sources = {orjson.loads(members["json"])["converter"] for members in found.values()}
    assert sources == {source["converter"] for source in SOURCES}
    print(f"{name}: {len(found):,} samples of {len(sources)} sources are equal, members and order")


@pytest.mark.slow
@pytest.mark.parametrize("form", REPRESENTATIONS)
def test_examples_are_equal_in_every_representation(built: Built, form: str) -> None:
    """Normalized too: with the recipe's own window the statistics are of the same values."""
    name = "as the recipe says"
    for normalize in (True, False):
        windows = open_mixture(built.windows(name), representation=form, normalize=normalize, views=("front",))
        cut = open_mixture(built.segments, representation=form, normalize=normalize, views=("front",))
        expected, found = by_key(windows), by_key(cut)
        keys = sorted(found)[::3]
        pairs = zip(
            cut.examples([found[key] for key in keys]), windows.examples([expected[key] for key in keys]), strict=True
        )
        for one, two in pairs:
            same(one, two)


@pytest.mark.slow
def test_pictures_and_batches_are_equal(built: Built) -> None:
    name = "long and many"
    windows = open_mixture(built.windows(name), normalize=False, image_size=(32, 32))
    cut = open_mixture(built.segments, normalize=False, image_size=(32, 32), **CHOICES[name])
    expected, found = by_key(windows), by_key(cut)
    keys = sorted(found)[::5]
    places, others = [found[key] for key in keys], [expected[key] for key in keys]
    for one, two in zip(cut.examples(places), windows.examples(others), strict=True):
        same(one, two)
    assert any(".m4" in name for example in cut.examples(places) for name in example.images)
    one, two = cut.collate(cut.examples(places)), windows.collate(windows.examples(others))
    assert one.keys == two.keys
    assert one.images.keys() == two.images.keys()
    np.testing.assert_array_equal(one.action, two.action)


@pytest.mark.slow
def test_steps_count_as_often_as_the_recipe_says(built: Built) -> None:
    """Nothing starts where steps took it; a stop counts three times."""
    cut = open_mixture(built.segments, views=(), window={"stride": 1})
    repeats: dict[tuple[str, str], dict[int, int]] = {}
    for place in range(len(cut)):
        facts = cut[place].facts
        if facts["kind"] == "window":
            own = repeats.setdefault((facts["converter"], facts["episode_uid"]), {})
            own[facts["step"]] = own.get(facts["step"], 0) + 1
            if facts["converter"] == "bridge_octo":
                assert facts["stop"] == facts["episode_length"] - 2 > facts["step"]
            if facts["converter"] == "pusht_lerobot":
                assert facts["step"] >= 3
    thrice = {key: [step for step, times in own.items() if times == 3] for key, own in repeats.items()}
    for (converter, _), steps in thrice.items():
        assert bool(steps) == (converter == "vlnce_r2r"), converter
    taken = {key: set(range(min(own), max(own))) - own.keys() for key, own in repeats.items()}
    assert any(gap for (converter, _), gap in taken.items() if converter == "unitree_g1_inspire"), "nothing was idle"


@pytest.mark.slow
def test_a_schedule_draws_windows_of_segments(built: Built) -> None:
    weights = {source["converter"]: float(source["converter"] == "pusht_lerobot") for source in SOURCES}
    cut = open_mixture(built.segments, views=(), weights=weights, window={"stride": 4})
    drawn = [cut[place].facts for place in list(cut.order(seed=1))[:60]]
    assert {facts["converter"] for facts in drawn} == {"pusht_lerobot"}
    assert all(facts["step"] % 4 == 0 for facts in drawn)
    items = open_mixture(built.segments, kinds=("item",))
    assert {example.kind for example in items} == {"item"}
    assert len(items) + len(open_mixture(built.segments, kinds=("window",))) == len(open_mixture(built.segments))


def read_in_worker(ds: MixtureDataset) -> list[tuple[str, bytes]]:
    return [(example.key, example.action.tobytes()) for example in ds.examples(range(12))]


@pytest.mark.slow
def test_a_spawned_process_reads_the_same(built: Built) -> None:
    ds = open_mixture(built.segments, normalize=False)
    here = read_in_worker(ds)
    assert len(pickle.dumps(ds)) < 30_000 + 48 * len(ds), "neither indexes nor segments travel"
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(read_in_worker, ds).result() == here


@pytest.mark.slow
def test_what_segments_do_not_hold_is_refused(built: Built) -> None:
    with pytest.raises(SpecError, match=r"a chunk of 97 steps is longer .* 96"):
        open_mixture(built.segments, window={"chunk": {"steps": 97}})
    with pytest.raises(SpecError, match=r"a history of 18 steps needs 17 .* holds 16"):
        open_mixture(built.segments, window={"history": 18})
    with pytest.raises(SpecError, match="after: 120}"):
        open_mixture(built.segments, window={"chunk": {"seconds": 4.0}})
    with pytest.raises(SpecError, match="no_such_form"):
        open_mixture(built.segments, prompt="no_such_form")
    with pytest.raises(SpecError, match="stride"):
        open_mixture(built.segments, window={"stride": 0})
    windows = built.windows("as the recipe says")
    for asked in ({"window": {"stride": 1}}, {"prompt": "pi0"}):
        with pytest.raises(SpecError, match="kind: episode"):
            open_mixture(windows, **asked)


@pytest.mark.slow
def test_the_loader_s_choices_build_nothing_again(built: Built) -> None:
    """Another window and another prompt make another version of the same shards."""
    before = {path.name for path in built.segments.rglob("*.tar")}
    changed = {"window": {"chunk": {"steps": 20}, "stride": 5}, "prompt": {"form": "pi0", "choose": "sample"}}
    report = built.build(built.segments, **SEGMENTS, **changed)
    assert (report.created, report.tasks_executed) == (True, 0)
    assert {path.name for path in built.segments.rglob("*.tar")} == before
    example = open_mixture(built.segments)[0]
    assert example.facts["prompt"]["form"] == "pi0@1"
    assert open_mixture(f"{built.segments}@v0001")[0].facts["prompt"]["form"] == "qwen_vla@1"
    report = built.build(built.segments, **{**SEGMENTS, "samples": {"kind": "episode", "after": 97}})
    assert report.tasks_executed > 0


@pytest.mark.slow
def test_verify_and_rebuild(built: Built, tmp_path: Path) -> None:
    assert api.verify(str(built.segments)).problems == []
    for number in (0, 3):
        assert api.rebuild(f"{built.segments}@v0001", number, built.root / "L").equal
    shutil.copytree(built.segments, tmp_path / "M")
    shard = Path(api.urls(f"{tmp_path / 'M'}@v0001")[0])
    beside = shard.with_suffix(".idx")
    assert b'"starts":[[' in beside.read_bytes()
    beside.write_bytes(beside.read_bytes().replace(b'"starts":[[', b'"starts":[[1', 1))
    assert "index_damaged" in {problem.reason for problem in api.verify(str(tmp_path / "M")).problems}
    with pytest.raises(FormatError, match="index"):
        open_mixture(f"{tmp_path / 'M'}@v0001")


@pytest.mark.slow
def test_each_thing_lies_in_the_shards_once(built: Built) -> None:
    """Bytes pass through untouched, no frame is stored twice in a segment, and only margins repeat."""
    frames: dict[str, list[str]] = {}
    rows, steps = 0, 0
    for path in map(Path, api.urls(f"{built.segments}@v0001")):
        with tarfile.open(path) as tar:
            names = tar.getnames()
            assert len(names) == len(set(names))
            for name in names:
                key, _, extension = name.partition(".")
                if extension == "json" and key.endswith("-seg"):
                    facts = orjson.loads(tar.extractfile(name).read())  # type: ignore[union-attr]
                    assert facts["kind"] == "segment"
                    rows += facts["rows"][1] - facts["rows"][0]
                    steps += sum(stop - start for start, stop, _ in facts["starts"])
                elif extension.endswith("jpg") and key.endswith("-seg"):
                    frames.setdefault(key, []).append(extension)
    assert rows < 3 * steps
    for key, listed in frames.items():
        numbers = [int(extension.split(".")[1]) for extension in listed]
        assert numbers == sorted(numbers), key


@pytest.mark.slow
def test_stock_webdataset_reads_segments(built: Built) -> None:
    wds = pytest.importorskip("webdataset")
    shards = api.urls(f"{built.segments}@v0001")[:6]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        found = list(wds.WebDataset(shards, shardshuffle=False).decode("rgb"))
    segments = [sample for sample in found if sample["json"]["kind"] == "segment"]
    assert segments
    for sample in segments:
        low, high = sample["json"]["rows"]
        assert len(sample["times.npy"]) == high - low
        assert all(pixels.ndim == 3 for name, pixels in sample.items() if name.endswith("jpg"))


# --- damage ---


def spoiled(members: Mapping[str, bytes], name: str, data: bytes | None) -> dict[str, bytes]:
    found = {key: value for key, value in members.items() if key != name}
    return found if data is None else {**found, name: data}


def packed(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.slow
def test_a_damaged_segment_names_shard_and_key(built: Built) -> None:
    ds = open_mixture(f"{built.segments}@v0001", kinds=("window",))
    place = next(place for place in range(len(ds)) if ds[place].images)
    segment = ds._stored._reader._segment(ds._stored._places.window_of(place).sample)[0]  # type: ignore[attr-defined]
    members = ds._stored._reader._shards.members(  # type: ignore[attr-defined]
        segment.placed, [name for name in segment.placed.members if not name.endswith(".jpg")]
    )
    view, facts = next(iter(segment.views)), orjson.loads(members["json"])
    arrays = {name: np.load(io.BytesIO(data)) for name, data in members.items() if name.endswith(".npy")}

    def without(**given: Any) -> bytes:
        return orjson.dumps({name: value for name, value in {**facts, **given}.items() if value is not None})

    damages = {
        "JSON": [("json", None), ("json", b"{"), ("json", without(key="x")), ("json", without(kind="window"))],
        "facts": [
            ("json", without(**{name: None}))
            for name in ("rows", "starts", "bounds", "stops", "views", "language", "hz", "channels", "episode_uid")
        ],
        "numbers": [
            ("json", without(rows=[0, 1])),
            ("json", without(bounds=[])),
            ("json", without(stops=[1])),
            ("json", without(starts=[[0, 9999, 1]])),
            ("json", without(language=[{"text": 1}])),
        ],
        "arrays": [
            *((name, None) for name in arrays),
            *((name, packed(array[:-1])) for name, array in arrays.items()),
            *((name, packed(array.astype(np.int16))) for name, array in arrays.items() if array.dtype != np.float64),
            *((name, data[:-1]) for name, data in members.items() if name in arrays),
        ],
    }
    for listed in damages.values():
        for name, data in listed:
            with pytest.raises(FormatError) as error:
                Segment.parse(segment.placed, spoiled(members, name, data))
            assert segment.placed.key in str(error.value)
            assert "blobs/sha256/" in str(error.value)
    print(f"{sum(map(len, damages.values()))} damages of a segment are all seen")
    gone = {name: at for name, at in segment.placed.members.items() if not name.startswith(f"{view}.0")}
    less = Segment.parse(segment.placed._replace(members=gone), members)
    how = ds._stored._reader._segment(ds._stored._places.window_of(place).sample)[1]  # type: ignore[attr-defined]
    with pytest.raises(FormatError, match=f"frame .* of {view}"):
        less.pictures(facts["starts"][0][0], how, None)


@pytest.mark.slow
def test_a_damaged_picture_names_shard_and_segment(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(built.segments, tmp_path / "M")
    ds = open_mixture(f"{tmp_path / 'M'}@v0001", kinds=("window",))
    place = next(place for place in range(len(ds)) if ds[place].images)
    segment = ds._stored._reader._segment(ds._stored._places.window_of(place).sample)[0]  # type: ignore[attr-defined]
    path = tmp_path / "M" / segment.placed.shard
    data = bytearray(path.read_bytes())
    for name, (offset, size) in segment.placed.members.items():
        if name.endswith(".jpg"):
            data[offset : offset + size] = bytes(size)
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(FormatError, match=segment.placed.key) as error:
        open_mixture(f"{tmp_path / 'M'}@v0001", kinds=("window",))[place]
    assert segment.placed.shard in str(error.value)


# --- the recipe ---


def test_the_recipe_says_what_goes_together(data: Path) -> None:
    def parsed(**given: Any) -> Recipe:
        return Recipe.parse(recipe(data, **given), "recipe")

    with pytest.raises(SpecError, match="mode: scheduled"):
        parsed(samples={"kind": "episode"})
    with pytest.raises(SpecError, match="leave out `bake`"):
        parsed(**SEGMENTS, normalization={"bake": "absolute"})
    with pytest.raises(SpecError, match="after"):
        parsed(**{**SEGMENTS, "samples": {"kind": "episode", "after": 0}})
    assert parsed(
        samples={"kind": "episode", "before": {"seconds": 0.5}, "after": 7}, mix=SEGMENTS["mix"]
    ).samples.margins(10.0) == (5, 7)


def test_recipes_of_windows_resolve_as_before(small_recipe: Path) -> None:
    resolved = load_recipe(str(small_recipe), {"data": "x"}).resolved()
    assert "samples" not in resolved


def test_the_manifest_holds_the_prompt_form(data: Path) -> None:
    """A version's prompts do not change with a later release's forms."""
    resolved = Recipe.parse(recipe(data, **SEGMENTS), "recipe").resolved()
    assert resolved["prompt"]["form"]["name"] == "qwen_vla"
    assert resolved["prompt"]["form"]["parts"]
