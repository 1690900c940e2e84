"""Care of a lake: look-ups by index, and a collection that loses nothing whatever runs beside it."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest

from dataengine import api
from dataengine.convert import Conversion
from dataengine.episode import Episode
from dataengine.errors import ConflictError, StorageError
from dataengine.lake import Lake, Snapshot, care, core, tables
from dataengine.lake_rows import EPISODES, MEDIA
from dataengine.storage import Store
from dataengine.storage.leases import LEASE_SECONDS, lease, live

ROWS = 20_000


def name(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def row(uid: str) -> dict[str, Any]:
    """An episode's row with nothing in it but a uid and a kilobyte of noise."""
    empty = {field.name: "" for field in EPISODES if field.type == pa.string() and not field.nullable}
    noise = {"slots": bytes.fromhex(uid) * 32, "steps": 1, "hz": 1.0, "media": "[]", "meta": "{}"}
    return {**empty, "uid": uid, "status": "ok", **noise}


def stream(uid: str) -> dict[str, Any]:
    return {
        "media_id": name(int(uid[:8], 16)),
        "uid": uid,
        "payload_sha256": uid,
        "bytes": 64,
        "payload": os.urandom(64),
    }


@pytest.fixture
def lake(tmp_path: Path, pusht_raw: Path) -> Lake:
    api.ingest(pusht_raw, "pusht_lerobot", tmp_path / "L", workers=1)
    return Lake(tmp_path / "L")


def episodes_of(lake: Lake) -> tuple[Conversion, list[Episode]]:
    reader = lake.reader([head.uid for head in lake.heads()], native=True)
    return Conversion.load("pusht_lerobot", None), [reader.episode(uid) for uid in reader.heads]


def test_look_ups_do_not_scan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake = Lake(tmp_path / "L", create=True)
    uids = [name(number) for number in range(ROWS)]
    for start in range(0, ROWS, 4000):
        part = uids[start : start + 4000]
        tables.write(pa.Table.from_pylist(list(map(row, part)), schema=EPISODES), lake.path, "episodes.lance", "append")
        tables.write(pa.Table.from_pylist(list(map(stream, part)), schema=MEDIA), lake.path, "media.lance", "append")
    asked = uids[:: ROWS // 40]

    def measured() -> list[tuple[float, int]]:
        found = []
        for table, key, names in (
            ("episodes.lance", "uid", asked),
            ("media.lance", "media_id", [stream(uid)["media_id"] for uid in asked]),
        ):
            dataset = tables.open_table(lake.path, table)
            list(tables.lookup(dataset, key, names[:1], [key]))
            dataset.io_stats_incremental()
            started = time.perf_counter()
            for one in names:
                assert len(list(tables.lookup(dataset, key, [one], [key]))) == 1
            found.append(((time.perf_counter() - started) / len(names), dataset.io_stats_incremental().read_bytes))
        return found

    before = measured()
    assert care.tend(lake) == ["episodes.lance", "media.lance"]
    after = measured()
    with capsys.disabled():
        for (table, column), (slow, much), (quick, little) in zip(care.INDEXED, before, after, strict=True):
            print(
                f"\n{ROWS:,} rows, {column}: {slow * 1e3:.2f} ms and {much / len(asked) / 1e3:,.0f} kB a look-up"
                f" without an index, {quick * 1e3:.2f} ms and {little / len(asked) / 1e3:,.0f} kB with one",
                end="",
            )
            assert little < much / 4
            plan = (
                tables.open_table(lake.path, table).scanner(columns=[column], filter=f"{column} = 'a'").explain_plan()
            )
            assert "ScalarIndexQuery" in plan
    assert care.tend(lake) == []
    more = [name(-number) for number in range(1, 2400)]
    tables.write(pa.Table.from_pylist(list(map(row, more)), schema=EPISODES), lake.path, "episodes.lance", "append")
    assert care.tend(lake) == ["episodes.lance"]
    assert care.tend(lake) == []
    assert len(list(tables.lookup(lake._episodes(), "uid", [uids[7], more[7]], ["uid"]))) == 2


def test_an_ingest_makes_the_index(tmp_path: Path, pusht_raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(care, "INDEX_ROWS", 3)
    api.ingest(pusht_raw, "pusht_lerobot", tmp_path / "L", workers=1)
    lake = Lake(tmp_path / "L")
    assert {index.name for index in lake._episodes().describe_indices()} == {"by_uid"}
    assert {index.name for index in lake._media().describe_indices()} == {"by_media_id"}
    assert len(lake.reader([head.uid for head in lake.heads()]).heads) == 6


def test_writers_at_once_write_each_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an index, and while it is made: by its index Lance's merge lets two writers insert the same uid."""
    monkeypatch.setattr(care, "INDEX_ROWS", 0)
    for turn in range(2):
        lake = Lake(tmp_path / f"L{turn}", create=True)
        base, fresh = [name(number) for number in range(60)], [name(number) for number in range(100, 140)]
        lake._merge(pa.Table.from_pylist(list(map(row, base)), schema=EPISODES))
        care.tend(lake)
        begin, told = threading.Barrier(5), []

        def write(
            number: int,
            place: str = lake.path,
            begin: threading.Barrier = begin,
            told: list[BaseException] = told,
            uids: tuple[str, ...] = (*fresh, *base[:20]),
        ) -> None:
            begin.wait()
            listed = uids if number % 2 else uids[::-1]
            try:
                for start in range(0, len(listed), 20):
                    part = pa.Table.from_pylist(list(map(row, listed[start : start + 20])), schema=EPISODES)
                    tables.retried(lambda part=part: Lake(place)._merge(part))  # type: ignore[misc]
            except StorageError as error:
                told.append(error)

        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for writer in writers:
            writer.start()
        begin.wait()
        care.tend(lake)
        for writer in writers:
            writer.join()
        assert told == []
        uids = lake._episodes().to_table(columns=["uid"])["uid"].to_pylist()
        assert sorted(uids) == sorted([*base, *fresh])


def orphan(lake: Lake, number: int) -> str:
    """A stream that no episode references, as an interrupted ingest leaves it."""
    made = stream(name(number))
    tables.write(pa.Table.from_pylist([made], schema=MEDIA), lake.path, "media.lance", "append")
    return str(made["media_id"])


def test_a_collection_takes_what_nothing_needs(lake: Lake) -> None:
    ids = {orphan(lake, 1), orphan(lake, 2)}
    looked = api.lake_gc(Path(lake.path), grace_seconds=0)
    assert (looked.media_rows, looked.media_bytes, looked.removed) == (2, 128, False)
    assert lake._present_media(sorted(ids)) == ids
    assert api.lake_gc(Path(lake.path), delete=True).media_rows == 0  # too young
    assert lake._present_media(sorted(ids)) == ids
    found = api.lake_gc(Path(lake.path), delete=True, grace_seconds=0)
    assert (found.media_rows, found.removed) == (2, True)
    assert lake._present_media(sorted(ids)) == set()
    assert [len(lake._episodes().versions()), len(lake._media().versions())] == [1, 1]
    assert len(list(lake.reader([head.uid for head in lake.heads()])._places)) == 6


def test_old_rows_by_the_grace_period(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there a grace period ago goes; what came later stays."""
    old = orphan(lake, 1)
    time.sleep(1.1)
    young = orphan(lake, 2)
    found = api.lake_gc(Path(lake.path), delete=True, grace_seconds=1.0)
    assert found.media_rows == 1
    assert lake._present_media([old, young]) == {young}


def test_streams_of_an_ingest_in_flight_survive(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any lease: the collection strikes between the streams of a commit and its rows."""
    conversion, episodes = episodes_of(lake)
    lake.delete([episode.uid for episode in episodes])
    merge, struck = Lake._merge, []

    def strike(self: Lake, table: pa.Table) -> Any:
        struck.append(care.remove_orphans(self, care._orphans(self, 0.0))[0])
        return merge(self, table)

    monkeypatch.setattr(Lake, "_merge", strike)
    lake.commit(conversion, episodes, ())
    assert struck[0] == 6
    reader = lake.reader([episode.uid for episode in episodes])
    assert [len(reader.episode(uid).media) for uid in reader.heads] == [1] * 6


def test_a_row_that_comes_in_between_gets_its_stream_back(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any lease: the rows are committed after the collection's last look, before its removal."""
    conversion, episodes = episodes_of(lake)
    lake.delete([episode.uid for episode in episodes])
    lake._append_media([r for episode in episodes for r in core.media_rows(episode)])
    deleted = tables.delete

    def late(place: str, table: str, key: str, names: list[str]) -> None:
        monkeypatch.setattr(tables, "delete", deleted)
        lake.commit(conversion, episodes, ())
        deleted(place, table, key, names)

    orphans = care._orphans(lake, 0.0)
    assert len(orphans) == 6
    monkeypatch.setattr(tables, "delete", late)
    assert care.remove_orphans(lake, orphans) == (0, 0)
    reader = lake.reader([episode.uid for episode in episodes])
    assert [len(reader.episode(uid).media) for uid in reader.heads] == [1] * 6


def test_live_work_is_not_disturbed(lake: Lake, pusht_raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for work in (lake.ingesting, lake.reading):
        with work(), pytest.raises(ConflictError, match="at work"):
            api.lake_gc(Path(lake.path), delete=True, grace_seconds=0)
    with lake.caring(), pytest.raises(ConflictError, match="at work"):
        api.lake_gc(Path(lake.path), delete=True, grace_seconds=0)
    done: list[Any] = []
    with lake.caring():
        ingest = threading.Thread(
            target=lambda: done.append(api.ingest(pusht_raw, "pusht_lerobot", Path(lake.path), workers=1))
        )
        ingest.start()
        ingest.join(1.0)
        assert ingest.is_alive()
        assert not done
    ingest.join(60)
    assert done[0].unchanged == 6
    assert lake.care.names("leases") == []


def test_forget_and_ingests_wait_for_each_other_in_turn(lake: Lake, pusht_raw: Path) -> None:
    """An ingest at work is waited for by a forget, and an ingest that comes then waits for the forget: no deadlock."""
    done: list[str] = []
    gone = lake.heads()[0].uid

    def forget() -> None:
        api.forget(Path(lake.path), reason="test", episodes=[gone])
        done.append("forget")

    def ingest() -> None:
        report = api.ingest(pusht_raw, "pusht_lerobot", Path(lake.path), workers=1)
        done.append(f"ingest without {len(report.forgotten)}")

    threads = [threading.Thread(target=forget), threading.Thread(target=ingest)]
    with lake.ingesting():
        for thread in threads:
            thread.start()
            time.sleep(0.5)
        assert done == []
        assert lake.forgotten() == 1  # the tombstone holds at once
    for thread in threads:
        thread.join(60)
    assert done == ["forget", "ingest without 1"]


def test_the_lease_of_a_killed_process_ends(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with lease(store, "leases", "ingest"):
        (held,) = live(store, "leases", "ingest")
        past = time.time() - LEASE_SECONDS - 1
        os.utime(tmp_path / held, (past, past))
        assert live(store, "leases", "ingest") == []
        assert not (tmp_path / held).exists()


def test_kept_snapshots_stay(lake: Lake, make_pusht: Callable[..., Path], tmp_path: Path) -> None:
    first, heads = lake.snapshot(), lake.heads()
    lake.keep("mixture-v1", first)
    lake.keep("mixture-v1", first)
    api.ingest(make_pusht(tmp_path / "more", [50]), "pusht_lerobot", Path(lake.path), workers=1)
    found = api.lake_gc(Path(lake.path), delete=True, grace_seconds=0)
    assert found.kept_versions == 1
    assert lake.kept() == {"mixture-v1": first}
    assert lake.heads(first) == heads
    assert lake.reader([heads[0].uid], first).episode(heads[0].uid).steps == 24
    lake.release("mixture-v1")
    lake.release("mixture-v1")
    api.lake_gc(Path(lake.path), delete=True, grace_seconds=0)
    with pytest.raises((OSError, ValueError)):
        lake.heads(first)
    with pytest.raises(StorageError, match="cannot be kept"):
        lake.keep("mixture-v1", Snapshot(first.episodes, first.media))
    assert len(lake.heads()) == 7


def test_fragments_are_merged(lake: Lake, make_pusht: Callable[..., Path], tmp_path: Path) -> None:
    for seed in range(60, 63):
        api.ingest(make_pusht(tmp_path / f"raw{seed}", [seed]), "pusht_lerobot", Path(lake.path), workers=1)
    payloads = {head.uid: lake.reader([head.uid]).episode(head.uid).media for head in lake.heads()}
    assert api.lake_gc(Path(lake.path), grace_seconds=0).small_fragments >= 6
    api.lake_gc(Path(lake.path), delete=True, grace_seconds=0)
    assert [len(dataset.get_fragments()) for dataset in (lake._episodes(), lake._media())] == [1, 1]
    reader = lake.reader(sorted(payloads))
    for uid, media in payloads.items():
        got = reader.episode(uid).media
        assert {key: item.payload for key, item in got.items()} == {key: item.payload for key, item in media.items()}


def test_a_lake_with_care_is_a_lake(tmp_path: Path) -> None:
    Store(tmp_path / "L/care").publish("leases/x.json", b"{}")
    Lake(tmp_path / "L", create=True)
    assert isinstance(lance.dataset(str(tmp_path / "L/media.lance")).version, int)
