"""The loader against the shards' own bytes, the sources' files and the statistics."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import re
import shutil
import sys
import tarfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

from dataengine import api, images
from dataengine.errors import FormatError, SpecError, StorageError
from dataengine.loader import Example, MixtureDataset, Permutation, Schedule, collate, open_mixture
from dataengine.loader.codec import make_codec
from dataengine.loader.decode import Decoder
from dataengine.loader.npy import parse_npy
from dataengine.loader.shards import RawSample
from dataengine.mixture.store import MixtureStore, index_name, shard_name
from dataengine.shards.npy import npy
from dataengine.transforms.representation import REPRESENTATIONS

FORMS = REPRESENTATIONS
REAL = """
name: real
sources:
  - {{converter: unitree_g1_inspire, split: train, path: "{data}/robot/lerobot_v21_g1"}}
  - {{converter: pusht_lerobot, split: train, path: "{data}/robot/lerobot_v30_pusht"}}
  - converter: hot3d_aria
    split: train
    require: []
    path: "{data}/egocentric/hot3d"
    window: {{chunk: {{steps: 8}}}}
window: {{chunk: {{steps: 16}}, history: 2}}
images: {{size: [48, 64]}}
shards: {{buckets: {{train: 3, valid: 1}}}}
"""
G1_CHANNELS = [*range(64, 71), *range(7), *range(240, 252)]  # of the 26 columns in the parquet


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, small_recipe: Path, pusht_raw: Path) -> Path:
    """Six PushT fixture episodes of 24 rows, H = 8, statistics for `absolute` only."""
    root = tmp_path_factory.mktemp("small")
    parameters = {"data": str(pusht_raw)}
    api.build(str(small_recipe), root / "L", root / "M", engine="local", workers=1, parameters=parameters)
    return root / "M"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """G1, PushT and HOT3D: every window, all representations."""
    root = tmp_path_factory.mktemp("real")
    recipe = root / "real.yaml"
    recipe.write_text(REAL.format(data=data))
    api.build(str(recipe), root / "L", root / "M", engine="local", workers=1)
    return root / "M"


def physical(real: Path, form: str = "absolute", converter: str | None = None) -> list[Example]:
    ds = open_mixture(real, representation=form, normalize=False, views=())
    return [example for example in ds if converter in (None, example.facts["converter"])]


def document(mixture: Path) -> dict:
    store = MixtureStore(mixture)
    sha, _ = store.manifest(store.resolve(None))
    return orjson.loads(store.read(f"{store.documents(sha)}/normalization.json"))


# --- bytes, order and place ---


def test_every_sample_is_there_with_its_own_bytes(small: Path) -> None:
    """Against tarfile, which knows nothing of the index."""
    store = MixtureStore(small)
    _, manifest = store.manifest("v0001")
    expected: dict[str, dict[str, bytes]] = {}
    for shard in manifest.shards:
        if shard.split == "train":
            with tarfile.open(small / shard_name(shard.sha256)) as tar:
                for member in tar:
                    key, _, extension = member.name.partition(".")
                    expected.setdefault(key, {})[extension] = tar.extractfile(member).read()  # type: ignore[union-attr]
    ds = open_mixture(small)
    assert len(ds) == len(expected) == sum(s.samples for s in manifest.shards if s.split == "train")
    assert [ds[place].key for place in range(len(ds))] == list(expected)
    assert [ds.raw(place) for place in range(len(ds))] == list(expected.values())
    assert [example.key for example in ds] == list(expected)
    assert ds[-1].key == ds[len(ds) - 1].key
    assert not {example.key for example in open_mixture(small, split="valid")} & expected.keys()
    for place in (len(ds), -len(ds) - 1):
        with pytest.raises(IndexError):
            ds[place]


def test_an_example_is_its_members_scattered(small: Path) -> None:
    ds = open_mixture(small, normalize=False)
    for place in (0, 5, len(ds) - 1):
        example, raw = ds[place], ds.raw(place)
        stored = {n: np.load(io.BytesIO(d), allow_pickle=False) for n, d in raw.items() if n.endswith(".npy")}
        mask = stored["action_mask.npy"].astype(bool)
        assert (example.state.shape, example.action.shape) == ((1, 256), (8, 256))
        assert (example.action.dtype, example.state.dtype) == (np.float32, np.float32)
        np.testing.assert_array_equal(example.action[:, [240, 241]], np.where(mask, stored["action.npy"], 0))
        np.testing.assert_array_equal(example.action_mask[:, [240, 241]], mask)
        np.testing.assert_array_equal(example.state[:, [240, 241]], stored["state.npy"])
        np.testing.assert_array_equal(example.is_pad, stored["is_pad.npy"].astype(bool))
        assert not example.action_mask[:, :240].any()
        assert not example.action[~example.action_mask].any()
        np.testing.assert_array_equal(example.present, example.state[-1])
        np.testing.assert_array_equal(example.images["front"], images.decode(raw["front.jpg"]))
        assert example.facts == orjson.loads(raw["json"])
        assert example.prompt == example.facts["prompt"]["text"]
        assert example.prompt.startswith("The robot is pusht.")
    last = next(example for example in ds if example.facts["is_last"])
    assert last.is_pad.tolist() == [False] + [True] * 7
    assert not last.action_mask[1:].any()


def test_one_by_one_and_together_are_the_same(small: Path) -> None:
    ds = open_mixture(small)
    together = ds.examples(range(len(ds)))
    for place, example in enumerate(together):
        alone = ds[place]
        assert alone.key == example.key
        np.testing.assert_array_equal(alone.action, example.action)
        np.testing.assert_array_equal(alone.state, example.state)


def test_more_shards_than_may_be_open(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [example.key for example in open_mixture(small)]
    monkeypatch.setattr("dataengine.loader.shards.MAX_OPEN", 1)
    ds = open_mixture(small)
    order = list(ds.order(seed=1))
    assert [ds[place].key for place in order] == [expected[place] for place in order]


def read_in_worker(ds: MixtureDataset) -> list[tuple[str, bytes]]:
    return [(example.key, example.action.tobytes()) for example in ds.examples(range(12))]


def test_a_spawned_process_reads_the_same(small: Path) -> None:
    ds = open_mixture(small)
    here = read_in_worker(ds)
    assert len(pickle.dumps(ds)) < 100_000, "neither indexes nor mappings travel"
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(read_in_worker, ds).result() == here


@pytest.mark.parametrize("size", [1, 2, 7, 255, 256, 257, 5000])
def test_an_order_is_a_seekable_permutation(size: int) -> None:
    order = Permutation(size, seed=3, epoch=1)
    whole = list(order)
    assert sorted(whole) == list(range(size))
    assert [order[place] for place in range(0, size, 41)] == whole[::41]
    assert order[-1] == whole[-1]
    with pytest.raises(IndexError):
        order[size]
    if size > 100:
        assert list(Permutation(size, 3, 2)) != whole != list(Permutation(size, 4, 1))
        assert np.abs(np.corrcoef(whole, np.arange(size))[0, 1]) < 0.2


def test_an_order_is_the_same_everywhere() -> None:
    """Frozen: a run that resumes with a later release must go on where it stopped."""
    assert list(Permutation(10, seed=0, epoch=0)) == [3, 4, 6, 7, 1, 0, 8, 5, 2, 9]
    assert Permutation(1_000_000_000, seed=1, epoch=2)[123_456_789] == 733_423_870


@pytest.mark.parametrize(("size", "batch", "world"), [(103, 8, 1), (103, 8, 3), (96, 8, 4), (5, 8, 2), (3, 1, 4)])
def test_ranks_are_disjoint_and_complete(size: int, batch: int, world: int) -> None:
    order = Permutation(size, seed=0, epoch=5)
    ranks = [list(Schedule(order, batch, rank=rank, world=world)) for rank in range(world)]
    assert sorted(place for rank in ranks for places in rank for place in places) == list(range(size))
    assert [len(Schedule(order, batch, rank=rank, world=world)) for rank in range(world)] == list(map(len, ranks))
    even = [list(Schedule(order, batch, rank=rank, world=world, drop_last=True)) for rank in range(world)]
    assert {len(rank) for rank in even} == {size // world // batch}
    assert all(len(places) == batch for rank in even for places in rank)
    # what was seen after two batches does not depend on how many ranks saw it
    seen = {place for rank in ranks for places in rank[:2] for place in places}
    assert seen == set(order.take(np.arange(min(size, 2 * batch * world))).tolist())


def test_batches_resume_and_epochs_differ(small: Path) -> None:
    ds = open_mixture(small, views=())
    options = {"seed": 7, "epoch": 2}
    whole = [batch.keys for batch in ds.batches(10, **options)]
    assert sorted(key for keys in whole for key in keys) == sorted(example.key for example in ds)
    assert len(whole) == len(ds.schedule(10, **options)) == -(-len(ds) // 10)
    for start in range(len(whole) + 2):
        assert [batch.keys for batch in ds.batches(10, start=start, **options)] == whole[start:]
    assert [batch.keys for batch in ds.batches(10, seed=7, epoch=3)] != whole
    assert [batch.keys for batch in ds.batches(10, seed=8, epoch=2)] != whole
    assert [batch.keys for batch in ds.batches(10, **options)] == whole
    with pytest.raises(SpecError, match="no schedule"):
        ds.batches(0)
    with pytest.raises(SpecError, match="no schedule"):
        ds.batches(4, rank=2, world=2)


# --- what cannot be opened or read ---


def test_what_is_not_there_is_named(small: Path, tmp_path: Path) -> None:
    assert open_mixture(f"{small}@v0001").identity == open_mixture(small).identity
    with pytest.raises(SpecError, match="v0001"):
        open_mixture(f"{small}@v0009")
    with pytest.raises(StorageError, match="no mixture"):
        open_mixture(tmp_path)
    with pytest.raises(SpecError, match="it has: train, valid"):
        open_mixture(small, split="test")
    with pytest.raises(SpecError, match="it holds: absolute;"):
        open_mixture(small, representation="relative")
    with pytest.raises(SpecError, match="did you mean 'relative'"):
        open_mixture(small, representation="relativ", normalize=False)
    with pytest.raises(SpecError, match="known: front"):
        open_mixture(small, views=("head",))
    with pytest.raises(SpecError, match="image_size"):
        open_mixture(small, image_size=(0, 8))
    with pytest.raises(SpecError, match="known: pad, stretch"):
        open_mixture(small, image_fit="crop")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="known: item, window"):
        open_mixture(small, kinds=("episode",))
    assert open_mixture(small, representation="relative", normalize=False)[0].action_mask.any()
    assert len(open_mixture(small, kinds=("item",))) == 0
    assert len(open_mixture(small, kinds=("window",))) == len(open_mixture(small))


Damage = Callable[[Path, Path, bytes], None]


def flip(shard: Path, member: bytes, offset: int) -> None:
    """Change a byte `offset` behind the start of a member's content, the tar's size unchanged."""
    data = bytearray(shard.read_bytes())
    place = data.index(member) // 512 * 512 + 512 + offset
    data[place] ^= 0x5A
    shard.write_bytes(data)


@pytest.fixture
def damaged(small: Path, tmp_path: Path) -> tuple[Path, Path, Path, str]:
    """A copy to be damaged: mixture, shard and index of its first sample, and that sample's key."""
    copy = tmp_path / "M"
    shutil.copytree(small, copy)
    _, manifest = MixtureStore(copy).manifest("v0001")
    shard = next(entry for entry in manifest.shards if entry.split == "train")
    return copy, copy / shard_name(shard.sha256), copy / index_name(shard.sha256), open_mixture(copy)[0].key


@pytest.mark.parametrize(
    ("member", "offset", "reason"),
    [
        (".json", 0, "sample_damaged"),
        (".action.npy", 3, "sample_damaged"),  # the magic
        (".action.npy", 22, "sample_damaged"),  # the dtype
        (".is_pad.npy", 60, "sample_damaged"),  # the shape
        (".front.jpg", 0, "unsupported_image"),
        (".front.jpg", 4, "corrupt_image"),
    ],
)
def test_a_damaged_member_is_named(
    damaged: tuple[Path, Path, Path, str], member: str, offset: int, reason: str
) -> None:
    mixture, shard, _, key = damaged
    flip(shard, f"{key}{member}".encode(), offset)
    ds = open_mixture(mixture)
    with pytest.raises(FormatError, match=re.escape(f"{shard.name}: {key}")) as caught:
        ds[0]
    assert caught.value.reason == reason
    assert ds[1].key != key
    with pytest.raises(FormatError, match="digest in its name") as caught:
        open_mixture(mixture, verify=True)
    assert caught.value.reason == "digest_mismatch"


def test_another_samples_facts_are_noticed(damaged: tuple[Path, Path, Path, str]) -> None:
    mixture, shard, _, key = damaged
    content = f'"key":"{key}"'.encode()
    shard.write_bytes(shard.read_bytes().replace(content, content[:-2] + b'7"', 1))
    with pytest.raises(FormatError, match="not this sample's") as caught:
        open_mixture(mixture)[0]
    assert caught.value.reason == "sample_damaged"


def test_whole_files_missing_or_short(damaged: tuple[Path, Path, Path, str]) -> None:
    mixture, shard, beside, _ = damaged
    assert len(open_mixture(mixture, verify=True)) > 0
    index = beside.read_bytes()
    beside.write_bytes(index.replace(b"json", b"jsom", 1))
    with pytest.raises(FormatError, match="index") as caught:
        open_mixture(mixture)[0]
    assert caught.value.reason == "index_damaged"
    beside.unlink()
    with pytest.raises(FormatError, match="index is missing"):
        open_mixture(mixture)[0]
    data = shard.read_bytes()
    shard.write_bytes(data[:-512])
    with pytest.raises(FormatError, match="holds") as caught:
        open_mixture(mixture)
    assert caught.value.reason == "truncated"
    shard.write_bytes(data)
    beside.write_bytes(index)
    opened = open_mixture(mixture)
    shard.unlink()
    with pytest.raises(FormatError, match="cannot map"):
        opened[0]
    with pytest.raises(FormatError, match="missing") as caught:
        open_mixture(mixture)
    assert caught.value.reason == "missing_file"


@pytest.mark.parametrize("array", [np.zeros((3, 2), "<f4"), np.ones((0, 5), "u1"), np.arange(4, dtype=">i2")])
def test_npy_parsing_is_numpys(array: np.ndarray) -> None:
    dtype, shape, payload = parse_npy(npy(array), "a", "here")
    np.testing.assert_array_equal(np.frombuffer(payload, dtype).reshape(shape), np.load(io.BytesIO(npy(array))))
    for bad in (npy(array)[:-1] if array.size else b"", b"\x93NUMPY\x02\x00" + npy(array)[8:], b"", b"PK" * 100):
        with pytest.raises(FormatError, match="here"):
            parse_npy(bad, "a", "here")


def test_objects_are_never_unpickled() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], object), allow_pickle=True)
    with pytest.raises(FormatError, match="is no"):
        parse_npy(buffer.getvalue(), "a", "here")


# --- images and batches ---


def test_images_of_chosen_views_in_one_size(real: Path) -> None:
    ds = open_mixture(real, image_size=(32, 40), views=("head",))
    g1 = next(e for e in ds if e.facts["converter"] == "unitree_g1_inspire" and e.facts["step"] > 0)
    assert {name: picture.shape for name, picture in g1.images.items()} == {
        "head": (32, 40, 3),
        "head.m1": (32, 40, 3),
    }
    pusht = next(e for e in ds if e.facts["converter"] == "pusht_lerobot")
    hands = next(e for e in ds if e.facts["converter"] == "hot3d_aria")
    assert pusht.images == hands.images == {}
    batch = ds.collate([pusht, g1, hands])
    assert batch.images["head"].shape == (3, 32, 40, 3)
    assert batch.image_mask["head"].tolist() == [False, True, False]
    np.testing.assert_array_equal(batch.images["head"][1], g1.images["head"])
    assert not batch.images["head"][[0, 2]].any()
    alone = ds.collate([pusht])
    assert (alone.images["head"].shape, alone.image_mask["head"].tolist()) == ((1, 32, 40, 3), [False])


def test_images_of_several_sizes_are_lists(real: Path) -> None:
    ds = open_mixture(real)
    by = {e.facts["converter"]: e for e in ds.examples(range(0, len(ds), 7))}
    batch = collate([by["pusht_lerobot"], by["unitree_g1_inspire"]])
    assert batch.images["front"].shape == (2, 48, 48, 3)  # the only size of this view
    other = Example(**{**vars(by["pusht_lerobot"]), "images": {"front": np.ones((4, 6, 3), np.uint8)}})
    mixed = collate([by["pusht_lerobot"], by["unitree_g1_inspire"], other])
    assert [picture.shape for picture in mixed.images["front"]] == [(48, 48, 3), (0, 0, 3), (4, 6, 3)]
    assert mixed.image_mask["front"].tolist() == [True, False, True]


def test_scaling_keeps_a_picture_in_place() -> None:
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:20, 40:] = (200, 100, 50)  # upper right
    for size in ((20, 40), (60, 60), (7, 13)):
        scaled = images.resize(picture, size)
        assert scaled.shape == (*size, 3)
        assert scaled[0, -1].tolist() == [200, 100, 50]
        assert not scaled[-1].any()
        assert not scaled[0, 0].any()
    padded = images.resize(picture, (60, 60), "pad")  # 30 x 60 in the middle
    assert not padded[:15].any()
    assert not padded[45:].any()
    assert padded[16, -1].tolist() == [200, 100, 50]
    assert padded[:, :28].max() == 0
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    assert images.resize(noise, (16, 16)).std() < 12, "shrinking averages, it does not pick pixels"


def test_batches_of_unlike_sources(real: Path) -> None:
    ds = open_mixture(real, views=())
    by = {e.facts["converter"]: e for e in ds.examples(range(0, len(ds), 7))}
    hands, g1 = by["hot3d_aria"], by["unitree_g1_inspire"]
    one_row = Example(**{**vars(g1), "state": g1.state[-1:], "state_mask": g1.state_mask[-1:]})
    batch = collate([hands, g1, one_row])
    assert batch.action.shape == (3, 16, 256)
    assert batch.state.shape == (3, 2, 256)
    np.testing.assert_array_equal(batch.action[0, :8], hands.action)
    assert not batch.action[0, 8:].any()
    assert not batch.action_mask[0, 8:].any()
    assert batch.is_pad[0].tolist() == [*hands.is_pad.tolist(), *[True] * 8]
    np.testing.assert_array_equal(batch.state[2, -1], g1.state[-1])  # t0 is the last row of all
    assert not batch.state_mask[2, 0].any()
    assert batch["action"] is batch.action
    assert (batch.keys, batch.prompts) == ((hands.key, g1.key, g1.key), (None, g1.prompt, g1.prompt))
    with pytest.raises(KeyError):
        batch["torch"]
    with pytest.raises(SpecError, match="no examples"):
        collate([])


# --- numbers against the sources ---


def test_g1_rows_are_the_parquets(real: Path, data: Path) -> None:
    tables = {
        name: {
            side: np.array(
                pq.read_table(data / f"robot/lerobot_v21_g1/data/chunk-000/{name}.parquet")[column].to_pylist(),
                np.float32,
            )
            for side, column in (("state", "observation.state"), ("action", "action"))
        }
        for name in ("episode_000029", "episode_000030")
    }
    found = physical(real, converter="unitree_g1_inspire")
    assert len(found) == 221 + 277
    for example in found:
        table, step = tables[example.facts["upstream_id"]], example.facts["step"]
        rows = table["action"][step : step + 16]
        np.testing.assert_array_equal(example.action[: len(rows), G1_CHANNELS], rows)
        np.testing.assert_array_equal(example.state[-1, G1_CHANNELS], table["state"][step])
        np.testing.assert_array_equal(example.present[G1_CHANNELS], table["state"][step])
        assert example.is_pad.tolist() == [False] * len(rows) + [True] * (16 - len(rows))
        if step:
            np.testing.assert_array_equal(example.state[0, G1_CHANNELS], table["state"][step - 1])
        else:
            assert not example.state_mask[0].any()


def test_masks_are_the_sources_channels_and_the_rest_is_zero(real: Path) -> None:
    for form in FORMS:
        for normalize in (True, False):
            ds = open_mixture(real, representation=form, normalize=normalize, views=())
            for example in ds:
                channels = example.facts["channels"]["action"]
                assert not np.delete(example.action_mask, channels, axis=1).any()
                assert not example.action[~example.action_mask].any()
                assert not example.state[~example.state_mask].any()
                assert not example.action_mask[example.is_pad].any(), "padding would enter the loss"
                assert np.isfinite(example.action).all()
                if normalize:
                    assert np.abs(example.action).max() <= 1.5
                    assert np.abs(example.state).max() <= 1.5


def test_relative_is_against_the_state_at_t0(real: Path) -> None:
    """G1's joints by hand: minus the state of the same row, not of the history's or the next one."""
    absolute = {example.key: example for example in physical(real, converter="unitree_g1_inspire")}
    for example in physical(real, "relative", "unitree_g1_inspire"):
        whole = absolute[example.key]
        expected = np.where(whole.action_mask, whole.action - whole.state[-1], 0)
        np.testing.assert_allclose(example.action, expected, atol=1e-7)
        np.testing.assert_array_equal(example.present, whole.state[-1])
    for example in physical(real, "delta", "unitree_g1_inspire"):
        whole = absolute[example.key]
        before = np.concatenate([whole.state[-1:], whole.action[:-1]])
        np.testing.assert_allclose(example.action, np.where(whole.action_mask, whole.action - before, 0), atol=1e-7)


def test_hands_relative_to_the_wrist(real: Path) -> None:
    """HOT3D's right wrist by hand: p = R0^T (pt - p0), R = R0^T Rt, rot6d the first two columns."""

    def matrix(rot6d: np.ndarray) -> np.ndarray:
        first, second = rot6d[:3], rot6d[3:]
        return np.stack([first, second, np.cross(first, second)], axis=1)

    absolute = {example.key: example for example in physical(real, converter="hot3d_aria")}
    checked = 0
    for example in physical(real, "relative", "hot3d_aria"):
        whole = absolute[example.key]
        p0, turn = whole.state[-1, 7:10].astype(float), matrix(whole.state[-1, 10:16].astype(float))
        for row in np.flatnonzero(example.action_mask[:, 7:16].all(axis=1)):
            np.testing.assert_allclose(example.action[row, 7:10], turn.T @ (whole.action[row, 7:10] - p0), atol=1e-5)
            expected = turn.T @ matrix(whole.action[row, 10:16].astype(float))
            np.testing.assert_allclose(example.action[row, 10:16], expected.T[:2].ravel(), atol=1e-5)
            checked += 1
    assert checked > 100


@pytest.mark.parametrize("form", FORMS)
def test_restore_is_the_inverse(real: Path, form: str) -> None:
    """Through float32 and back, wherever nothing was clipped, for every source."""
    absolute = {example.key: example for example in physical(real)}
    compared = dict.fromkeys(("unitree_g1_inspire", "pusht_lerobot", "hot3d_aria"), 0)
    ds = open_mixture(real, representation=form, views=())
    for example in ds:
        if np.abs(example.action).max() >= 1.5:
            continue
        truth, mask = absolute[example.key].action, example.action_mask
        back = ds.restore(example.action, example, mask=mask)
        assert back.dtype == np.float32
        scale = 512.0 if example.facts["converter"] == "pusht_lerobot" else 1.0
        np.testing.assert_allclose(back[mask], truth[mask], atol=1e-5 * scale)
        compared[example.facts["converter"]] += int(mask.sum())
        compact = ds.restore(example.action, example, mask=mask, compact=True)
        np.testing.assert_array_equal(compact, back[:, example.facts["channels"]["action"]])
        assert np.isnan(np.delete(back, example.facts["channels"]["action"], axis=1)).all()
    assert compared["unitree_g1_inspire"] > 100_000 / (4 if form == "delta" else 1)
    assert min(compared.values()) > 500


def test_restore_of_a_models_output(real: Path) -> None:
    """Many samples at once, with the facts and a state measured now."""
    ds = open_mixture(real, representation="relative", views=())
    example = next(e for e in ds if e.facts["converter"] == "unitree_g1_inspire" and not e.is_pad.any())
    here = ds.restore(example.action, example)
    several = ds.restore(np.stack([example.action] * 5), example.facts, state=example.present)
    assert several.shape == (5, 16, 256)
    np.testing.assert_array_equal(several, np.broadcast_to(here, several.shape))
    shifted = ds.restore(example.action, example.facts, state=example.present + np.float32(0.5))
    np.testing.assert_allclose((shifted - here)[:, :7], 0.5, atol=1e-6)
    unknown = example.present.copy()
    unknown[3] = np.nan
    found = ds.restore(example.action, example.facts, state=unknown)
    assert np.flatnonzero(np.isnan(found[0, :7])).tolist() == [3], "a target without its state is no number"
    with pytest.raises(SpecError, match="need the state"):
        ds.restore(example.action, example.facts)


def test_a_target_without_its_state_is_masked() -> None:
    """Joint 1 has no state: it is there as an absolute target, and in no other form. Joint 2's action is masked."""
    facts = {
        "key": "a-0-0", "kind": "window", "embodiment": "e", "control_mode": "m", "converter": "c", "native_units": {},
        "frames": {}, "channels": {"state": [0, 1, 2], "action": [0, 1, 2]}, "prompt": {"text": None},
    }  # fmt: skip
    one, mask = np.ones((2, 3), np.uint8), np.ones((4, 3), np.uint8)
    one[1, 1] = mask[2, 2] = 0
    members = {
        "json": orjson.dumps(facts),
        "state.npy": npy(np.array([[7, 7, 7], [1, 2, 3]], np.float32)),
        "state_mask.npy": npy(one),
        "action.npy": npy(np.full((4, 3), 10, np.float32)),
        "action_mask.npy": npy(mask),
        "is_pad.npy": npy(np.array([0, 0, 0, 1], np.uint8)),
    }
    expected = {
        "absolute": ([10, 10, 10], [1, 1, 1], [10, 10, 0], [1, 1, 0]),
        "relative": ([9, 0, 7], [1, 0, 1], [9, 0, 0], [1, 0, 0]),
    }
    for form, (first, first_mask, third, third_mask) in expected.items():
        decoder = Decoder(make_codec(form, None), None, None, "stretch")
        (example,) = decoder.decode([RawSample("shard", "a-0-0", members)])
        assert (example.action[0, :3].tolist(), example.action_mask[0, :3].tolist()) == (first, first_mask)
        assert (example.action[2, :3].tolist(), example.action_mask[2, :3].tolist()) == (third, third_mask)
        assert not example.action_mask[3].any(), "padding is masked even if the shard's mask forgot it"
        assert example.present[:3].tolist() == [1, 0, 3]
        assert example.present_mask[:3].tolist() == [True, False, True]
        back = decoder.codec.restore(example.action, facts, state=example.present, state_mask=example.present_mask)
        np.testing.assert_array_equal(back[0], [10, 10 if form == "absolute" else np.nan, 10])


@pytest.mark.parametrize("change", ["frames", "no mask", "channels", "units"])
def test_facts_that_make_no_sense_are_refused(change: str) -> None:
    facts = {
        "key": "k", "kind": "window", "embodiment": "e", "control_mode": "m", "converter": "c", "native_units": {},
        "frames": {"state/eef_pos.right": "base", "action/eef_pos.right": "base"},
        "channels": {"state": [7, 8, 9], "action": [7, 8, 9]}, "prompt": {"text": None},
    }  # fmt: skip
    rows, mask = npy(np.ones((1, 3), np.float32)), npy(np.ones((1, 3), np.uint8))
    members = {"state.npy": rows, "state_mask.npy": mask, "action.npy": rows, "action_mask.npy": mask}
    members["is_pad.npy"] = npy(np.zeros(1, np.uint8))
    if change == "frames":
        facts["frames"] = {"state/eef_pos.right": "base", "action/eef_pos.right": "world"}
    elif change == "no mask":
        del members["action_mask.npy"]
    elif change == "channels":
        facts["channels"] = {"state": [7, 8, 9], "action": [9, 8, 7]}
    else:
        del facts["native_units"]
    sample = RawSample("shard", "k", {"json": orjson.dumps(facts), **members})
    decoder = Decoder(make_codec("relative", None), None, None, "stretch")
    with pytest.raises(SpecError if change == "frames" else FormatError, match="shard: k"):
        decoder.decode([sample])


@pytest.mark.parametrize("form", FORMS)
def test_statistics_are_of_what_is_loaded(real: Path, form: str) -> None:
    """Lowest, highest and (for what moves) the number of the values before normalization, to the last bit."""
    groups = document(real)["groups"]
    seen: dict[tuple[str, int], list[np.ndarray]] = {}
    for example in physical(real, form):
        facts = example.facts
        for channel in facts["channels"]["action"]:
            parts = [facts["embodiment"], facts["control_mode"], *([facts["converter"]] if channel >= 240 else [])]
            values = example.action[example.action_mask[:, channel], channel]
            seen.setdefault(("/".join(parts), channel), []).append(values)
    entries = {(key, e["channel"]): e for key, group in groups.items() for e in group["action"][form]}
    assert entries.keys() == seen.keys()
    assert len(entries) == 26 + 2 + 18
    for name, entry in entries.items():
        values = np.concatenate(seen[name])
        assert (entry["min"], entry["max"]) == (values.min(), values.max()), name
        if form != "absolute":
            assert entry["n"] == len(values), name


def test_normalization_is_the_documents(real: Path) -> None:
    """2 (a - low) / (high - low) - 1 by hand, for G1's first joint and first finger."""
    groups = document(real)["groups"]
    plain = {example.key: example for example in physical(real, "relative", "unitree_g1_inspire")}
    entries = {
        0: groups["unitree_g1_inspire/joint_position"]["action"]["relative"][0],
        240: groups["unitree_g1_inspire/joint_position/unitree_g1_inspire"]["action"]["relative"][0],
    }
    for example in open_mixture(real, representation="relative", views=()):
        if example.key in plain:
            for channel, entry in entries.items():
                assert entry["channel"] == channel
                raw = plain[example.key].action[:, channel].astype(float)
                scaled = np.clip(2 * (raw - entry["low"]) / (entry["high"] - entry["low"]) - 1, -1.5, 1.5)
                mask = example.action_mask[:, channel]
                np.testing.assert_allclose(example.action[mask, channel], scaled[mask], atol=1e-6)


def test_a_measured_state_is_scaled_as_in_training(real: Path) -> None:
    ds = open_mixture(real, views=())
    plain = {example.key: example for example in physical(real)}
    for example in ds.examples(range(0, len(ds), 11)):
        measured = plain[example.key]
        found, mask = ds.codec.state(measured.state, example.facts, mask=measured.state_mask)
        np.testing.assert_array_equal(found, example.state)
        np.testing.assert_array_equal(mask, example.state_mask)
        nothing = np.full(256, np.nan)
        nothing[example.facts["channels"]["state"][0]] = measured.state[-1, example.facts["channels"]["state"][0]]
        found, mask = ds.codec.state(nothing, example.facts)
        assert mask.sum() == 1
        assert found[mask] == example.state[-1][mask]


def test_a_channel_without_statistics_is_never_restored(real: Path) -> None:
    """Masked in all of training: whatever a model says there is no target."""
    empty = document(real)
    entry = empty["groups"]["unitree_g1_inspire/joint_position"]["action"]["absolute"][2]
    entry |= {"low": None, "high": None, "class": "empty"}
    example = next(e for e in open_mixture(real, views=()) if e.facts["converter"] == "unitree_g1_inspire")
    found = make_codec("absolute", empty).restore(example.action, example.facts)
    assert np.flatnonzero(np.isnan(found[0])).tolist() == [2]


# --- torch ---


def test_without_torch_the_error_says_what_to_do(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "dataengine.loader.torch_dataset", raising=False)
    ds = open_mixture(small)
    with pytest.raises(SpecError, match="pip install torch"):
        ds.torch()
    with pytest.raises(SpecError, match="pip install torch"):
        ds.collate([ds[0]]).torch()


def test_torchs_dataloader_with_spawned_workers(small: Path) -> None:
    torch = pytest.importorskip("torch")
    ds = open_mixture(small, image_size=(32, 32))
    data = ds.torch()
    assert isinstance(data, torch.utils.data.Dataset)
    loader = torch.utils.data.DataLoader(
        data,
        batch_sampler=ds.schedule(8, seed=1),
        collate_fn=data.collate,
        num_workers=2,
        multiprocessing_context="spawn",
    )
    for found, expected in zip(loader, ds.batches(8, seed=1), strict=True):
        assert found["keys"] == expected.keys
        np.testing.assert_array_equal(found["action"].numpy(), expected.action)
        np.testing.assert_array_equal(found["images"]["front"].numpy(), expected.images["front"])
        assert found["action_mask"].dtype == torch.bool
