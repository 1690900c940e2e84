"""Planning: every window is given out as its rate says, and a change touches only what it must."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dataengine.plan import Candidate, Unit, chosen_windows, make_tasks
from dataengine.specs.recipe import Recipe
from dataengine.specs.records import Pins

RECIPE = Recipe.parse(
    {
        "name": "r",
        "sources": [{"converter": "a"}, {"converter": "b", "weight": 0.5}, {"converter": "c", "cap": 100}],
        "shards": {"buckets": {"train": 8, "valid": 2}, "segment": 16},
    },
    "test",
)
PINS = Pins(rates={"a": 1.0, "b": 0.5, "c": 2.5}, scale=1.0, buckets={"train": 8, "valid": 2})
episodes = st.lists(
    st.tuples(st.integers(0, 10**6), st.sampled_from("abc"), st.sampled_from(["train", "valid"]), st.integers(1, 90)),
    unique_by=lambda entry: entry[0],
    max_size=30,
)


def candidates(entries: list[tuple[int, str, str, int]]) -> list[Candidate]:
    return [Candidate(f"{uid:064x}", name, split, windows, 1000) for uid, name, split, windows in entries]


def by_unit(tasks: list) -> dict[tuple[str, int], tuple[str, str]]:
    return {(unit.uid, unit.start): (task.split, task.bucket) for task in tasks for unit in task.units}


@given(episodes)
def test_each_unit_is_in_one_task_and_order_does_not_matter(entries: list) -> None:
    found = make_tasks(RECIPE, candidates(entries), PINS)
    again = make_tasks(RECIPE, reversed(candidates(entries)), PINS)
    assert found == again
    units = [unit for task in found for unit in task.units]
    assert len({(unit.uid, unit.start) for unit in units}) == len(units)
    for candidate in candidates(entries):
        own = sorted((u for u in units if u.uid == candidate.uid), key=lambda u: u.start)
        starts = range(0, candidate.windows, 16)
        assert {unit.start for unit in own} <= set(starts)
        assert all(unit.stop == min(unit.start + 16, candidate.windows) for unit in own)
        rate = PINS.rates[candidate.source]
        assert all(abs(unit.count - (unit.stop - unit.start) * rate) < 1 for unit in own)
        if rate == 1:
            assert [unit.count for unit in own] == [unit.stop - unit.start for unit in own]
    assert all(list(task.units) == sorted(task.units, key=lambda u: (u.uid, u.start)) for task in found)


@given(episodes)
def test_a_shard_holds_of_each_source_what_its_rate_says(entries: list) -> None:
    """To less than one sample, by all its units: those that give nothing stand in no task, so buckets are counted."""
    whole = {(c.uid, start): c for c in candidates(entries) for start in range(0, c.windows, 16)}
    ones = make_tasks(RECIPE, candidates(entries), Pins(rates=dict.fromkeys("abc", 1.0), scale=1, buckets=PINS.buckets))
    place = by_unit(ones)
    found = make_tasks(RECIPE, candidates(entries), PINS)
    for task in ones:
        for name in "abc":
            own = [key for key in whole if place[key] == (task.split, task.bucket) and whole[key].source == name]
            asked = PINS.rates[name] * sum(min(16, whole[uid, start].windows - start) for uid, start in own)
            given = sum(u.count for t in found for u in t.units if (u.uid, u.start) in set(own))
            assert abs(given - asked) < 1


@given(episodes, st.integers(1, 60))
@settings(max_examples=60)
def test_adding_an_episode_changes_only_the_tasks_that_hold_it(entries: list, windows: int) -> None:
    new = Candidate("f" * 64, "a", "train", windows, 1000)
    before = {(task.split, task.bucket): task for task in make_tasks(RECIPE, candidates(entries), PINS)}
    after = {(t.split, t.bucket): t for t in make_tasks(RECIPE, [*candidates(entries), new], PINS)}
    changed = [key for key, task in after.items() if before.get(key) != task]
    assert changed == [key for key, task in after.items() if any(unit.uid == new.uid for unit in task.units)]


@given(st.integers(1, 40), st.integers(1, 200), st.integers(0, 2**32))
def test_chosen_windows_hold_each_window_as_often_as_the_count_says(windows: int, count: int, seed: int) -> None:
    unit = Unit("a" * 64, "a", 32, 32 + windows, count, 0)
    chosen = chosen_windows(unit, seed)
    assert len(chosen) == len(set(chosen)) == count
    assert chosen == sorted(chosen)
    times = [sum(1 for window, _ in chosen if window == 32 + n) for n in range(windows)]
    assert set(times) <= {count // windows, -(-count // windows)}
    assert {repeat for _, repeat in chosen} == set(range(-(-count // windows)))


def test_realized_share_is_the_rate_over_many_windows() -> None:
    many = [Candidate(f"{number:064x}", "b", "train", 200, 10) for number in range(1000)]
    total = sum(unit.count for task in make_tasks(RECIPE, many, PINS) for unit in task.units)
    assert abs(total - 100_000) <= PINS.buckets["train"]


def test_an_overfull_bucket_splits_and_only_itself_changes() -> None:
    few = [Candidate(f"{number:064x}", "a", "train", 16, 1000) for number in range(200)]
    small = RECIPE.model_copy(update={"shards": RECIPE.shards.model_copy(update={"max_bytes": 16 * 1000 * 24})})
    whole, split = make_tasks(RECIPE, few, PINS), make_tasks(small, few, PINS)
    assert all(sum(unit.bytes for unit in task.units) <= 16 * 1000 * 24 for task in split)
    untouched = {task.bucket: task for task in split if "." not in task.bucket}
    assert untouched
    assert any("." in task.bucket for task in split)
    assert {bucket: task for bucket, task in ((t.bucket, t) for t in whole) if bucket in untouched} == untouched
    parents = {bucket.partition(".")[0] for _, bucket in by_unit(split).values()}
    assert parents == {task.bucket for task in whole}
