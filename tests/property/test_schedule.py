"""The sampling schedule: exact shares, even spread, whole passes across epochs, and the same draws from any place."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataengine.errors import SpecError
from dataengine.loader.order import Schedule
from dataengine.schedule import Draws, MixSchedule, apportion
from dataengine.shuffle import Orders, keys_at

USUAL = settings(deadline=None, max_examples=50)
SHARES = st.one_of(st.just(0.0), st.floats(1e-4, 50, allow_nan=False))


@st.composite
def schedules(draw: st.DrawFn) -> MixSchedule:
    sizes = draw(st.lists(st.integers(1, 600), min_size=1, max_size=9))
    stages = []
    for number in range(draw(st.integers(1, 3))):
        shares = draw(st.lists(SHARES, min_size=len(sizes), max_size=len(sizes)).filter(any))
        stages.append((f"stage{number}", draw(st.integers(1, 3000)), tuple(shares)))
    names = tuple((f"source{number}", size) for number, size in enumerate(sizes))
    return MixSchedule(draw(st.integers(0, 1 << 40)), names, tuple(stages))


def whole(schedule: MixSchedule, epoch: int = 0, start: int = 0) -> Draws:
    made = list(schedule.blocks(epoch, start))
    empty = Draws(np.empty(0, np.int32), np.empty(0, np.int64))
    return Draws(*(np.concatenate(parts) for parts in zip(*(made or [empty]), strict=True)))


def stages_of(schedule: MixSchedule) -> list[slice]:
    edges = np.cumsum([0, *(draws for _, draws, _ in schedule.stages)]).tolist()
    return [slice(*pair) for pair in pairwise(edges)]


@given(schedules(), st.integers(0, 5))
@USUAL
def test_shares_are_exact_in_each_stage(schedule: MixSchedule, epoch: int) -> None:
    found = whole(schedule, epoch)
    assert len(found.sources) == len(found.samples) == len(schedule)
    for number, (where, (_, draws, shares)) in enumerate(zip(stages_of(schedule), schedule.stages, strict=True)):
        counts = np.bincount(found.sources[where], minlength=len(shares))
        assert counts.tolist() == schedule.counts[number].tolist()
        exact = [draws * Fraction(share) / sum(map(Fraction, shares)) for share in shares]
        assert all(abs(count - quota) < 1 for count, quota in zip(counts.tolist(), exact, strict=True))
        assert not any(count for count, share in zip(counts, shares, strict=True) if not share)


@given(schedules(), st.integers(0, 3))
@USUAL
def test_at_every_place_the_shares_are_within_the_bound(schedule: MixSchedule, epoch: int) -> None:
    found = whole(schedule, epoch)
    for number, (where, (_, draws, _)) in enumerate(zip(stages_of(schedule), schedule.stages, strict=True)):
        places = np.arange(1, draws + 1)
        for source, count in enumerate(schedule.counts[number].tolist()):
            had = np.cumsum(found.sources[where] == source)
            assert np.abs(had - count / draws * places).max() < schedule.bound(number)[source] + 1e-6


@given(schedules(), st.integers(1, 6))
@USUAL
def test_no_sample_comes_again_before_each_came_once(schedule: MixSchedule, epochs: int) -> None:
    made = [whole(schedule, epoch) for epoch in range(epochs)]
    sources = np.concatenate([part.sources for part in made])
    samples = np.concatenate([part.samples for part in made])
    for number, (_, size) in enumerate(schedule.sources):
        mine = samples[sources == number]
        for start in range(0, len(mine), size):
            one = mine[start : start + size]
            assert len(np.unique(one)) == len(one)
            assert ((one >= 0) & (one < size)).all()


@given(schedules(), st.integers(0, 4), st.data())
@USUAL
def test_any_place_is_found_alone(schedule: MixSchedule, epoch: int, data: st.DataObject) -> None:
    found = whole(schedule, epoch)
    places = np.array(data.draw(st.lists(st.integers(0, len(schedule) - 1), max_size=40)), np.int64)
    taken = schedule.take(places, epoch)
    np.testing.assert_array_equal(taken.sources, found.sources[places])
    np.testing.assert_array_equal(taken.samples, found.samples[places])
    start = data.draw(st.integers(0, len(schedule)))
    rest = whole(schedule, epoch, start)
    np.testing.assert_array_equal(rest.sources, found.sources[start:])
    np.testing.assert_array_equal(rest.samples, found.samples[start:])
    with pytest.raises(IndexError):
        schedule.take(np.array([len(schedule)]), epoch)


@given(schedules(), st.integers(1, 5), st.integers(1, 64))
@USUAL
def test_ranks_are_a_cut_of_one_order(schedule: MixSchedule, world: int, batch: int) -> None:
    order = _Numbers(schedule)
    ranks = [list(Schedule(order, batch, rank=rank, world=world)) for rank in range(world)]
    together = [place for rank in ranks for places in rank for place in places]
    assert Counter(together) == Counter(order.take(np.arange(len(order))).tolist())
    first = [place for rank in ranks for places in rank[:2] for place in places]
    assert Counter(first) == Counter(order.take(np.arange(min(len(order), 2 * batch * world))).tolist())
    resumed = [list(Schedule(order, batch, start=1, rank=rank, world=world)) for rank in range(world)]
    assert resumed == [rank[1:] for rank in ranks]


class _Numbers:
    """A schedule as an order: source and sample in one number."""

    def __init__(self, schedule: MixSchedule) -> None:
        self._schedule = schedule

    def __len__(self) -> int:
        return len(self._schedule)

    def take(self, places: np.ndarray) -> np.ndarray:
        found = self._schedule.take(places, 3)
        return found.sources * 1_000_000 + found.samples


@given(st.integers(0, 10_000), st.lists(SHARES, min_size=1, max_size=12).filter(any))
@USUAL
def test_apportion_by_hand(total: int, parts: list[float]) -> None:
    counts = apportion(total, parts)
    assert sum(counts) == total
    exact = [total * Fraction(part) / sum(map(Fraction, parts)) for part in parts]
    assert all(abs(count - quota) < 1 for count, quota in zip(counts, exact, strict=True))


def test_apportion_takes_the_largest_remainders() -> None:
    assert apportion(10, [0.5, 0.25, 0.25]) == [5, 3, 2]  # 2.5 and 2.5: the earlier one
    assert apportion(7, [1, 1, 1]) == [3, 2, 2]
    assert apportion(100, [0.334, 0.333, 0.333]) == [34, 33, 33]
    assert apportion(3, [0, 9, 0]) == [0, 3, 0]
    for wrong in ([0.0], [1.0, -1.0], [float("nan")], [float("inf"), 1.0]):
        with pytest.raises(SpecError, match="share out nothing"):
            apportion(5, wrong)


# --- orders ---


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 63, 64, 65, 100, 4095, 4097, 65_537, 1_000_003])
def test_an_order_holds_each_number_once(size: int) -> None:
    keys = keys_at(np.uint64(5), np.arange(2))
    found = Orders(np.array([size, size]), keys).at(np.zeros(2, np.int64), np.array([size, size]))
    for part in (found[:size], found[size:]):
        assert np.bincount(part, minlength=size).tolist() == [1] * size
    if size > 60:
        assert (found[:size] == found[size:]).mean() < 10 / size + 0.05
        assert abs(np.corrcoef(found[:size], np.arange(size))[0, 1]) < 4 / size**0.5
        assert abs(np.corrcoef(np.diff(found[:size]), np.arange(size - 1))[0, 1]) < 4 / size**0.5
        assert np.abs(np.diff(found[:size])).mean() == pytest.approx(size / 3, rel=8 / size**0.5)


@pytest.mark.parametrize("size", [1 << 32, (1 << 32) + 1, 40_000_000_000])
def test_orders_of_billions(size: int) -> None:
    """Beyond 32 bits too, alone or beside small sets, and one to one where it was looked at."""
    keys = keys_at(np.uint64(9), np.arange(3))
    counts = np.array([5, 50_000, 7])
    sizes = np.array([5, size, 7])
    found = Orders(sizes, keys).at(np.array([0, size - 50_000, 0]), counts)
    assert sorted(found[:5].tolist()) == list(range(5))
    assert sorted(found[-7:].tolist()) == list(range(7))
    large = found[5:-7]
    assert len(np.unique(large)) == 50_000
    assert 0 <= large.min() < size * 0.01
    assert size * 0.99 < large.max() < size
    alone = Orders(sizes[1:2], keys[1:2]).at(np.array([size - 50_000]), counts[1:2])
    np.testing.assert_array_equal(alone, large)


def test_all_orders_of_four_come_about_as_often() -> None:
    """24 orders over 24,000 passes: chi-square with 23 degrees of freedom, 49.7 is its 99.9 % point."""
    passes = 24_000
    keys = keys_at(np.uint64(1), np.arange(passes))
    found = Orders(np.full(passes, 4), keys).at(np.zeros(passes, np.int64), np.full(passes, 4)).reshape(passes, 4)
    counts = np.array(list(Counter(map(tuple, found.tolist())).values()))
    assert len(counts) == 24
    assert ((counts - 1000.0) ** 2 / 1000.0).sum() < 49.7


def test_sources_are_shuffled_within_blocks() -> None:
    """Two sources at halves: neighbours agree as often as in a random order, and every place sees both."""
    schedule = MixSchedule(3, (("a", 100_000), ("b", 100_000)), (("all", 256_000, (0.5, 0.5)),))
    sources = whole(schedule).sources
    assert (sources[1:] == sources[:-1]).mean() == pytest.approx(127 / 255, abs=0.005)
    by_place = sources.reshape(1000, 256).mean(axis=0)
    assert np.abs(by_place - 0.5).max() < 5 * 0.5 / 1000**0.5
    assert np.abs(sources.reshape(1000, 256).sum(axis=1) - 128).max() <= 1


def test_every_epoch_and_seed_has_its_order() -> None:
    sources, stages = (("a", 500), ("b", 40)), (("all", 1000, (0.7, 0.3)),)
    made = [whole(MixSchedule(seed, sources, stages), epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    for at, one in enumerate(made):
        for other in made[:at]:
            assert (one.sources != other.sources).mean() > 0.3
            assert (one.samples != other.samples).mean() > 0.9


def test_every_pass_has_its_order() -> None:
    drawn = whole(MixSchedule(0, (("a", 50), ("b", 50)), (("all", 1000, (0.5, 0.5)),)))
    passes = [drawn.samples[drawn.sources == source].reshape(10, 50) for source in (0, 1)]
    every = np.concatenate(passes)
    for at, one in enumerate(every):
        assert all((one == other).mean() < 0.2 for other in every[:at])


def test_rare_sources_come_anywhere() -> None:
    """Thirty sources drawn once in an epoch of a hundred blocks: at places of their own, others in every epoch."""
    sources = (("much", 10**6), *((f"rare{number}", 10) for number in range(30)))
    schedule = MixSchedule(0, sources, (("all", 25_630, (25_600.0, *(1.0,) * 30)),))
    made = [whole(schedule, epoch).sources for epoch in range(20)]
    places = np.array([[np.flatnonzero(found == number)[0] for number in range(1, 31)] for found in made]) / 25_630
    assert np.abs(np.quantile(places, (0.1, 0.25, 0.5, 0.75, 0.9)) - (0.1, 0.25, 0.5, 0.75, 0.9)).max() < 0.08
    for axis in (0, 1):
        assert places.std(axis=axis).min() > 0.15


def test_a_source_goes_on_where_it_stopped() -> None:
    """0.3 times an epoch: four epochs draw each sample once or twice. 2.7 times: 2 or 3 times in one epoch."""
    schedule = MixSchedule(0, (("rare", 1000), ("much", 100)), (("all", 570, (300.0, 270.0)),))
    made = [whole(schedule, epoch) for epoch in range(4)]
    rare = np.concatenate([part.samples[part.sources == 0] for part in made])
    assert sorted(Counter(np.bincount(rare, minlength=1000).tolist()).items()) == [(1, 800), (2, 200)]
    assert len(np.unique(rare[:900])) == 900
    much = np.bincount(made[0].samples[made[0].sources == 1], minlength=100)
    assert Counter(much.tolist()) == {2: 30, 3: 70}


def test_a_schedule_is_the_same_everywhere() -> None:
    """Frozen: a run that resumes with a later release must go on where it stopped."""
    schedule = MixSchedule(
        7,
        (("a", 1000), ("b", 50), ("c", 5_000_000_000)),
        (("first", 4000, (0.5, 0.3, 0.2)), ("last", 900_000_000, (0.1, 0.0, 0.9))),
    )
    taken = schedule.take(np.array([0, 1, 2, 3999, 4000, 123_456_789, 900_003_999]), epoch=2)
    assert taken.sources.tolist() == FROZEN_SOURCES
    assert taken.samples.tolist() == FROZEN_SAMPLES
    assert apportion(4000, (0.5, 0.3, 0.2)) == schedule.counts[0].tolist() == [2000, 1200, 800]


FROZEN_SOURCES = [0, 0, 0, 2, 2, 2, 2]
FROZEN_SAMPLES = [915, 817, 232, 1091514352, 3084433859, 3680233665, 1559985365]


@pytest.mark.parametrize(
    ("sources", "stages", "told"),
    [
        ((), (("all", 5, ()),), "0 sources"),
        ((("a", 5),), (), "0 stages"),
        ((("a", 5),), (("all", 0, (1.0,)),), "0 draws"),
        ((("a", 5),), (("all", 5, (1.0, 1.0)),), "one is due per source"),
        ((("a", 0),), (("all", 5, (1.0,)),), "has no samples"),
        ((("a", 5),), (("all", 5, (0.0,)),), "share out nothing"),
        ((("a", 5),), (("all", 1 << 40, (1.0,)),), "draws"),
    ],
)
def test_what_is_no_schedule_is_refused(sources: tuple, stages: tuple, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        MixSchedule(0, sources, stages)


def test_a_schedule_out_of_a_manifest() -> None:
    document = {"draws": 10, "stages": [{"name": "all", "draws": 10, "shares": {"b": 0.25, "a": 0.75}}]}
    made = MixSchedule.of(document, {"a": 5, "b": 3, "c": 2}, 4)
    assert made == MixSchedule(4, (("a", 5), ("b", 3), ("c", 2)), (("all", 10, (0.75, 0.25, 0.0)),))
    with pytest.raises(SpecError, match="draws from 'b'"):
        MixSchedule.of(document, {"a": 5}, 4)
    with pytest.raises(SpecError, match="epoch -1"):
        made.take(np.array([0]), -1)


# --- machines ---

DIGEST = """
import hashlib
from dataengine.schedule import MixSchedule
sources = (("a", 70_001), ("b", 3), ("c", 5_000_000_000))
schedule = MixSchedule(3, sources, (("x", 100_000, (0.3, 0.3, 0.4)), ("y", 150_000, (0.1, 0.05, 0.4))))
digest = hashlib.sha256()
for drawn in schedule.blocks(4):
    digest.update(drawn.sources.astype("<i4").tobytes() + drawn.samples.astype("<i8").tobytes())
print(digest.hexdigest())
"""


def test_processors_without_vector_instructions_draw_the_same() -> None:
    import numpy._core._multiarray_umath as inner

    there = " ".join(name for name in inner.__cpu_dispatch__ if inner.__cpu_features__.get(name))
    found = set()
    for disabled in ("", there):
        environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": disabled}
        done = subprocess.run(
            [sys.executable, "-c", DIGEST], capture_output=True, text=True, env=environment, check=True
        )
        found.add(done.stdout.strip())
    assert found == {FROZEN_DIGEST}


FROZEN_DIGEST = "75dd7e4997ee4005e20bb96c45fbdcf4fd33495780b1969309ccb0ca12c6041d"


def test_five_million_draws_a_second() -> None:
    """In CPU seconds of one process, the best of five: benchmarks/schedule.py measures more."""
    sources = tuple((f"source{number}", 1000 * 3**number) for number in range(9))
    schedule = MixSchedule(0, sources, (("all", 2_000_000, tuple(size**0.43 for _, size in sources)),))
    speeds = []
    for epoch in range(5):
        start = time.process_time()
        count = sum(len(drawn.samples) for drawn in schedule.blocks(epoch))
        speeds.append(count / (time.process_time() - start))
    print(f"{max(speeds):,.0f} draws a CPU second")
    assert max(speeds) > 5_000_000
