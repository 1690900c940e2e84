"""The columns of a build hold what its rows and verdicts say, whatever order those come in."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataengine.documents import sha256_bytes, sha256_json
from dataengine.errors import SpecError
from dataengine.mixture.guard import NOT_COUNTED, task_losses
from dataengine.mixture.judge import Verdict
from dataengine.mixture.roster import Roster, RosterBuilder
from dataengine.mixture.verdicts import Verdicts
from dataengine.plan import Candidate, Candidates
from dataengine.transforms.steps import Drop

SOURCE, CARD = SimpleNamespace(license="MIT"), SimpleNamespace()


def row(number: int, converter: str = "c", status: str = "ok") -> Any:
    uid = sha256_json(number)
    return SimpleNamespace(
        uid=uid,
        media_digest=sha256_json([number, "media"]),
        media_bytes=number,
        content=sha256_json([number, "content"]),
        status=status,
        reason=None if status == "ok" else "truncated",
        what=None if status == "ok" else "it ends early",
        source_id=f"s-{converter}",
        upstream_id=f"episode {number}",
        converter=converter,
        family="robot",
        embodiment="e",
        control_mode="m",
        conversion_digest=f"d-{converter}",
        source=SOURCE,
        card=CARD,
    )


def roster(numbers: list[int], entries: tuple[str, ...] = ("a", "b")) -> Roster:
    builder = RosterBuilder(entries)
    for number in numbers:
        builder.add(entries[number % 2], [row(number, "cd"[number % 3 == 0])], lambda _: "train")
    return builder.made()


texts = st.text(max_size=4)
runs = st.none() | st.lists(st.tuples(st.integers(0, 9), st.integers(10, 99), st.integers(1, 5)), max_size=3).map(tuple)
drops = st.none() | st.tuples(texts, texts).map(lambda pair: Drop(*pair))


@st.composite
def verdicts(draw: Any) -> Verdict:
    drop = draw(drops)
    return Verdict(
        uid="",
        split=draw(st.sampled_from(["train", "valid"])),
        windows=draw(st.integers(0, 1000)),
        sample_bytes=draw(st.integers(0, 1 << 40)),
        drop=drop,
        step=draw(texts),
        bad_input=draw(st.booleans()),
        relaxed=draw(texts),
        runs=draw(runs),
        bounds=draw(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=3).map(tuple)),
        content=draw(st.sampled_from(["", "0" * 64, sha256_bytes(b"x")])),
        task=draw(texts),
        total=draw(st.integers(0, 1000)),
        kept=draw(st.integers(0, 1000)),
        seconds=draw(st.floats(0, 1e6)),
        lost=draw(st.dictionaries(texts, st.integers(1, 99), max_size=2)),
    )


@given(st.lists(st.tuples(st.integers(0, 10**6), verdicts()), unique_by=lambda pair: pair[0], max_size=12))
def test_verdicts_come_out_as_they_went_in(pairs: list[tuple[int, Verdict]]) -> None:
    found = roster([number for number, _ in pairs])
    table = Verdicts(found)
    expected = {}
    for number, verdict in pairs:
        own = replace(verdict, uid=sha256_json(number))
        table.put(found.index(own.uid), own)
        expected[own.uid] = own
    assert dict(table) == expected
    kept = [verdict for _, verdict in sorted(expected.items()) if verdict.drop is None]
    assert [found.uid(int(r)) for r in table.kept] == [verdict.uid for verdict in kept]
    listed = [Candidate(v.uid, found[v.uid].entry, v.split, v.windows, v.sample_bytes, v.runs) for v in kept]
    plain, columns = Candidates.of(listed), table.candidates()
    for name in ("uids", "split", "windows", "sample_bytes", "run_stops", "runs", "offered"):
        assert np.array_equal(getattr(plain, name), getattr(columns, name)), name
    assert [plain.names[n] for n in plain.source] == [columns.names[n] for n in columns.source]
    assert columns.offered.tolist() == [0 if c.runs == () else c.offered for c in listed]


@given(st.lists(st.integers(0, 10**6), unique=True, max_size=30), st.randoms())
def test_a_roster_does_not_depend_on_the_order_of_the_lake(numbers: list[int], draw: Any) -> None:
    shuffled = list(numbers)
    draw.shuffle(shuffled)
    one, two = roster(numbers), roster(shuffled)
    assert list(one) == sorted(sha256_json(number) for number in numbers) == list(two)
    assert one.digest() == two.digest()
    for number in numbers:
        found, uid = one[sha256_json(number)], sha256_json(number)
        assert (found.upstream_id, found.entry) == (f"episode {number}", "ab"[number % 2])
        assert found.media_digest == sha256_json([number, "media"])
        assert one.index(uid) == two.index(uid)
        assert found.converter == "cd"[number % 3 == 0]
    assert sha256_json("none") not in one
    some = one.only(np.arange(0, len(numbers), 2))
    assert list(some) == list(one)[::2]


def test_an_episode_that_two_sources_choose_is_refused() -> None:
    builder = RosterBuilder(("a", "b"))
    builder.add("a", [row(1), row(2)], lambda _: "train")
    builder.add("b", [row(2)], lambda _: "train")
    with pytest.raises(SpecError, match="chosen by two sources: a and b"):
        builder.made()


def test_the_guard_does_not_count_what_no_filter_did() -> None:
    found = roster([1, 3])
    table = Verdicts(found)
    for number in (1, 3):
        table.put(
            found.index(sha256_json(number)),
            Verdict(sha256_json(number), "train", 1, 1, Drop("why", ""), "require", task="wipe", total=40),
        )
    assert task_losses(table.tasks(NOT_COUNTED)) == []
    assert [(entry.task, entry.loss) for entry in task_losses(table.tasks(frozenset()))] == [("wipe", 1.0)]
