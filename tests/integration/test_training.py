"""Training on the real mixture of five families: a small linear policy, its gradient written by hand."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dataengine import api, images
from dataengine.loader import Batch, MixtureDataset, open_mixture

REPO = Path(__file__).resolve().parents[2]
RECIPE = """
name: training
sources:
  - {{converter: unitree_g1_inspire, split: train, cap: 240, path: "{data}/robot/lerobot_v21_g1"}}
  - {{converter: pusht_lerobot, split: train, path: "{data}/robot/lerobot_v30_pusht"}}
  - {{converter: hot3d_aria, split: train, require: [], path: "{data}/egocentric/hot3d"}}
  - converter: vlnce_r2r
    path: "{data}/navigation/vlnce_r2r/R2R_VLNCE_v1-3_preprocessed/val_seen"
    require: [language]
    cap: 240
    window: {{chunk: {{steps: 8}}}}
  - converter: llava_conversations
    path: "{data}/vision_language/llava_conversations"
    split: train
    require: []
    accept: [missing_media]
window: {{chunk: {{steps: 16}}}}
images: {{size: [64, 64]}}
shards: {{buckets: {{train: 4, valid: 1}}}}
"""
WINDOWS = {"unitree_g1_inspire", "pusht_lerobot", "hot3d_aria", "vlnce_r2r"}
HORIZON, BATCH = 16, 48
Weights = NDArray[np.float64]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    root = tmp_path_factory.mktemp("training")
    recipe = root / "training.yaml"
    recipe.write_text(RECIPE.format(data=data))
    outcome = api.build(str(recipe), root / "L", root / "M", engine="local", workers=1)
    assert outcome.exit_code == 0
    return root / "M"


@pytest.fixture(scope="module")
def ds(mixture: Path) -> MixtureDataset:
    return open_mixture(mixture, image_size=(32, 32), views=("head", "front"))


@pytest.fixture(scope="module")
def batches(ds: MixtureDataset) -> list[Batch]:
    """One epoch."""
    return list(ds.batches(BATCH, seed=0))


def features(batch: Batch) -> NDArray[np.float64]:
    """[B, 513]: the state at t0, which of it there is, and 1."""
    state = np.where(batch.state_mask[:, -1], batch.state[:, -1], 0.0)
    return np.concatenate([state, batch.state_mask[:, -1], np.ones((len(batch), 1))], axis=1).astype(np.float64)


def loss_and_gradient(weights: Weights, batch: Batch) -> tuple[float, Weights]:
    """Masked squared error a sample of [B, 513] @ [513, H * 256] against the chunk; its gradient."""
    x = features(batch)
    horizon = batch.action.shape[1]
    predicted = (x @ weights[:, : horizon * 256]).reshape(batch.action.shape)
    error = np.where(batch.action_mask, predicted - batch.action, 0.0)
    gradient = np.zeros_like(weights)
    gradient[:, : horizon * 256] = x.T @ error.reshape(len(batch), -1) / len(batch)
    return float(0.5 * (error**2).sum() / len(batch)), gradient


def fresh() -> Weights:
    return np.zeros((513, HORIZON * 256))


def test_every_family_is_in_the_mixture_and_in_the_batches(ds: MixtureDataset, batches: list[Batch]) -> None:
    seen: Counter[str] = Counter(facts["converter"] for batch in batches for facts in batch.facts)
    assert seen.keys() == WINDOWS | {"llava_conversations"}
    assert min(seen[name] for name in WINDOWS) >= 34
    assert seen["llava_conversations"] == 9
    assert seen.total() == len(ds) == len({key for batch in batches for key in batch.keys})
    mixed = [batch for batch in batches if {"window", "item"} == set(batch.kinds)]
    assert len(mixed) >= 3, "items and windows stand in one batch"
    families = {facts["family"] for facts in mixed[0].facts}
    assert {"robot", "navigation", "vision_language"} <= families


def test_items_keep_their_messages_and_media(batches: list[Batch]) -> None:
    pictures = 0
    for batch in batches:
        for row, kind in enumerate(batch.kinds):
            if kind == "window":
                assert batch.messages[row] == ()
                assert batch.media[row] == {}
                continue
            assert not batch.action_mask[row].any()
            assert not batch.state_mask[row].any()
            assert not batch.action[row].any()
            assert batch.is_pad[row].all()
            assert batch.prompts[row] is None
            turns = batch.messages[row]
            assert {turn["loss"] for turn in turns if turn["role"] == "assistant"} == {True}
            named = [part["media"] for turn in turns for part in turn["content"] if part["type"] != "text"]
            assert set(named) == batch.media[row].keys() == batch.facts[row]["media"].keys()
            for name in named:
                if name.startswith("image"):
                    told = batch.facts[row]["media"][name]
                    assert images.decode(batch.media[row][name]).shape[:2] == (told["height"], told["width"])
                    pictures += 1
    assert pictures >= 3


def test_one_kind_alone(mixture: Path, ds: MixtureDataset) -> None:
    items, windows = (open_mixture(mixture, kinds=(kind,), views=()) for kind in ("item", "window"))
    assert [example.kind for example in items] == ["item"] * 9
    assert {example.kind for example in windows} == {"window"}
    assert len(items) + len(windows) == len(ds)
    assert {items.raw(0)["json"], windows.raw(-1)["json"]} <= {ds.raw(place)["json"] for place in range(len(ds))}
    assert next(items.batches(4)).action.shape == (4, 1, 256)


def test_images_are_there_where_the_mask_says(batches: list[Batch]) -> None:
    shows = {"head": "unitree_g1_inspire", "front": "pusht_lerobot"}
    for batch in batches:
        assert batch.images.keys() == batch.image_mask.keys() == shows.keys()
        for view, converter in shows.items():
            assert batch.images[view].shape == (len(batch), 32, 32, 3)
            expected = [facts["converter"] == converter for facts in batch.facts]
            assert batch.image_mask[view].tolist() == expected
            assert [bool(picture.any()) for picture in batch.images[view]] == expected


def test_the_loss_falls_for_every_source(ds: MixtureDataset, batches: list[Batch]) -> None:
    """By more than half on all together, and on the share of each source."""

    def by_source(weights: Weights) -> dict[str, float]:
        total: dict[str, list[float]] = {}
        for batch in batches:
            x = features(batch) @ weights[:, : batch.action.shape[1] * 256]
            error = np.where(batch.action_mask, x.reshape(batch.action.shape) - batch.action, 0.0)
            for facts, lost in zip(batch.facts, (error**2).sum(axis=(1, 2)), strict=True):
                total.setdefault(facts["converter"], []).append(float(lost))
        return {name: float(np.mean(lost)) for name, lost in total.items()}

    weights = fresh()
    before, losses = by_source(weights), []
    for epoch in range(6):
        for batch in ds.batches(BATCH, seed=0, epoch=epoch):
            loss, gradient = loss_and_gradient(weights, batch)
            weights -= 0.05 * gradient
            losses.append(loss)
    after = by_source(weights)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] / 2
    assert sum(after.values()) < sum(before.values()) / 2
    for name in WINDOWS:
        assert after[name] < before[name] / 2, name
    assert before["llava_conversations"] == after["llava_conversations"] == 0.0


def test_the_gradient_is_the_losss(batches: list[Batch]) -> None:
    """Central differences at weights that matter, and at ones that are masked throughout."""
    batch, chance = batches[0], np.random.default_rng(0)
    weights = chance.normal(0, 0.1, fresh().shape)
    _, gradient = loss_and_gradient(weights, batch)
    live = np.argwhere(np.abs(gradient) > 1e-3)
    for row, column in [*chance.choice(live, 20), (0, 130), (512, 100)]:
        up, down = weights.copy(), weights.copy()
        up[row, column] += 1e-4
        down[row, column] -= 1e-4
        numeric = (loss_and_gradient(up, batch)[0] - loss_and_gradient(down, batch)[0]) / 2e-4
        assert numeric == pytest.approx(gradient[row, column], rel=1e-4, abs=1e-7)
    assert not gradient[:, 130].any(), "no source has a waist"


@pytest.mark.parametrize("junk", [1e6, np.nan])
def test_masked_values_change_nothing(batches: list[Batch], junk: float) -> None:
    weights = np.random.default_rng(1).normal(0, 0.1, fresh().shape)
    for batch in batches[:4]:
        spoilt = replace(
            batch,
            action=np.where(batch.action_mask, batch.action, np.float32(junk)),
            state=np.where(batch.state_mask, batch.state, np.float32(junk)),
        )
        assert not np.array_equal(spoilt.action, batch.action)
        loss, gradient = loss_and_gradient(weights, batch)
        again, same = loss_and_gradient(weights, spoilt)
        assert again == loss
        np.testing.assert_array_equal(same, gradient)


def test_one_unmasked_value_changes_the_loss(batches: list[Batch]) -> None:
    """The other side of the mask: what counts is in the loss, every last bit of it."""
    batch, weights = batches[0], np.random.default_rng(1).normal(0, 0.1, fresh().shape)
    loss, _ = loss_and_gradient(weights, batch)
    for row, step, channel in np.random.default_rng(2).choice(np.argwhere(batch.action_mask), 20):
        action = batch.action.copy()
        action[row, step, channel] += 0.5
        assert loss_and_gradient(weights, replace(batch, action=action))[0] != loss


def test_padding_is_never_in_the_loss(batches: list[Batch]) -> None:
    padded = 0
    for batch in batches:
        assert not batch.action_mask[batch.is_pad].any()
        padded += int(batch.is_pad.sum())
        for row, facts in enumerate(batch.facts):
            if facts["kind"] == "window":
                steps = min(facts["horizon"], facts["episode_length"] - facts["step"])
                assert (~batch.is_pad[row]).sum() == steps
    assert padded > 100


def resumed(ds: MixtureDataset, start: int) -> Iterator[Batch]:
    return ds.batches(BATCH, seed=3, epoch=1, start=start)


def test_a_resumed_run_ends_with_the_same_weights(ds: MixtureDataset) -> None:
    def run(weights: Weights, batches: Iterator[Batch]) -> Weights:
        for batch in batches:
            weights = weights - 0.05 * loss_and_gradient(weights, batch)[1]
        return weights

    total = len(ds.schedule(BATCH, seed=3, epoch=1))
    whole = run(fresh(), resumed(ds, 0))
    half = fresh()
    for _, batch in zip(range(total // 2), resumed(ds, 0), strict=False):
        half = half - 0.05 * loss_and_gradient(half, batch)[1]
    np.testing.assert_array_equal(run(half, resumed(ds, total // 2)), whole)


def test_ranks_together_see_one_epoch(ds: MixtureDataset, batches: list[Batch]) -> None:
    everything = {key for batch in batches for key in batch.keys}
    ranks = [[k for b in ds.batches(16, seed=0, rank=rank, world=3) for k in b.keys] for rank in range(3)]
    assert sorted(key for keys in ranks for key in keys) == sorted(everything)
    assert {key for keys in ranks for key in keys[:16]} == set(batches[0].keys), "the same 48 come first"
    other = [key for batch in ds.batches(BATCH, seed=0, epoch=1) for key in batch.keys]
    assert set(other) == everything
    assert other[:BATCH] != list(batches[0].keys)


def test_torchs_gradient_is_the_same(batches: list[Batch]) -> None:
    torch = pytest.importorskip("torch")
    batch, start = batches[0], np.random.default_rng(1).normal(0, 0.1, fresh().shape)
    loss, gradient = loss_and_gradient(start, batch)
    tensors = batch.torch()
    weights = torch.tensor(start, requires_grad=True)
    x = torch.cat(
        [
            torch.where(tensors["state_mask"][:, -1], tensors["state"][:, -1], 0.0),
            tensors["state_mask"][:, -1],
            torch.ones(len(batch), 1),
        ],
        dim=1,
    ).double()
    error = torch.where(tensors["action_mask"], (x @ weights).reshape(tensors["action"].shape) - tensors["action"], 0.0)
    found = 0.5 * (error**2).sum() / len(batch)
    found.backward()
    assert float(found.detach()) == pytest.approx(loss)
    np.testing.assert_allclose(weights.grad.numpy(), gradient, atol=1e-9)


def test_the_documents_code_runs(mixture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (REPO / "docs" / "loader.md").read_text()
    blocks = re.findall(r"(<!-- needs torch -->\n)?```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 4
    monkeypatch.chdir(mixture.parent)
    names: dict[str, object] = {}
    for needs_torch, code in blocks:
        if not needs_torch or importlib.util.find_spec("torch"):
            exec(compile(code, "docs/loader.md", "exec"), names)
    assert 0.0 < float(str(names["loss"])) < 1.5
