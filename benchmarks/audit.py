"""How long an audit takes: one shard of a mixture of 1,000, and queries over a million episodes.

    python benchmarks/audit.py [--episodes 1000000] [--shards 1000]

Writes the manifest, ledger and shard records of such a version into a temporary store, through the functions that a
build writes them with; shards and indexes are left out, nothing asked here reads them. Each question is the whole
process of the command line, the best of three, with its CPU seconds and the seconds of the question itself beside it
(what is far apart was waiting for other work of the machine). Exits with 1 over the limits: 1 s for a shard, 5 s for a
query over all episodes.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from dataengine.documents import sha256_bytes
from dataengine.mixture import rows
from dataengine.mixture.store import MixtureStore
from dataengine.provenance.ask import Question, ask
from dataengine.specs.records import Manifest, Pins, ShardEntry, SourceSummary

PROGRAM = str(Path(sys.executable).parent / "dataengine")
SOURCES, LICENSES, DROPPED = 12, ("MIT", "Apache-2.0", "CC-BY-4.0", "LicenseRef-terms"), 0.03
SHARD_SECONDS, QUERY_SECONDS = 1.0, 5.0
STEPS = [
    {"kind": "filter", "name": "min_steps", "version": 1, "parameters": {"steps": 2}},
    {"kind": "keep", "name": "idle", "version": 2, "parameters": {"threshold": 0.01, "views": ["a", "b"]}},
]
QUESTIONS = (
    ("one shard, as a table", ("--shard", "500"), SHARD_SECONDS),
    ("one shard, as JSON", ("--shard", "500", "--json"), SHARD_SECONDS),
    (
        "drops by source and reason",
        ("--sql", "SELECT source_id, reason, count(*) FROM drops GROUP BY ALL"),
        QUERY_SECONDS,
    ),
    (
        "episodes and hours by licence",
        (
            "--sql",
            (
                "SELECT license, count(*), sum(seconds) / 3600 FROM episodes JOIN sources USING (source_id, converter)"
                " WHERE status = 'kept' GROUP BY license ORDER BY license"
            ),
        ),
        QUERY_SECONDS,
    ),
    (
        "the ten longest tasks' shards",
        (
            "--sql",
            (
                "SELECT e.task, count(DISTINCT i.shard), sum(i.samples) FROM inputs i JOIN episodes e USING (uid)"
                " GROUP BY e.task ORDER BY sum(e.kept_steps) DESC LIMIT 10"
            ),
        ),
        QUERY_SECONDS,
    ),
    ("shards under a licence", ("--license", "MIT", "--csv"), QUERY_SECONDS),
    ("one episode", ("--episode", "{uid}"), QUERY_SECONDS),
)


def texts(words: list[str], numbers: np.ndarray) -> pa.Array:
    return pa.array(words, pa.string()).take(pa.array(numbers))


def ledger_of(episodes: int) -> pa.Table:
    """Episodes of sources of unequal size, some dropped; sorted by source, upstream id and uid."""
    chance = np.random.default_rng(7)
    source = np.sort(chance.zipf(1.5, episodes) % SOURCES)
    uids = chance.bytes(32 * episodes).hex()
    dropped = chance.random(episodes) < DROPPED
    steps = chance.integers(20, 600, episodes)
    names = [f"source_{number:02d}" for number in range(SOURCES)]
    columns = {
        "unit": texts(["episode"], np.zeros(episodes, np.int64)),
        "source_id": texts(names, source),
        "converter": texts(names, source),
        "upstream_id": pa.array([f"chunk-{n // 1000:04d}/episode_{n:07d}" for n in range(episodes)]),
        "uid": pa.array([uids[at : at + 64] for at in range(0, len(uids), 64)]),
        "status": texts(["kept", "dropped"], dropped.astype(np.int64)),
        "reason": texts(["", "too_short", "no_view"], np.where(dropped, 1 + source % 2, 0)),
        "step": texts(["", "min_steps"], dropped.astype(np.int64)),
        "evidence": texts(["", "1 step, 2 are needed"], dropped.astype(np.int64)),
        "bad_input": pa.array(np.zeros(episodes, np.bool_)),
        "accepted": pa.array(np.zeros(episodes, np.bool_)),
        "split": texts(["train", "valid"], (chance.random(episodes) < 0.02).astype(np.int64)),
        "samples": pa.array(np.where(dropped, 0, steps)),
        "entry": texts(names, source),
        "task": texts([f"do task {n}" for n in range(5000)], chance.integers(0, 5000, episodes)),
        "steps": pa.array(steps),
        "kept_steps": pa.array(np.where(dropped, 0, steps)),
        "seconds": pa.array(steps / 10.0),
    }
    return pa.table(columns, schema=rows.LEDGER)


def records_of(ledger: pa.Table, shards: list[ShardEntry]) -> pa.Table:
    """Every kept episode whole in one shard, sorted by shard and uid."""
    kept = ledger.filter(pa.array(ledger["status"].to_numpy() == "kept"))
    where = np.random.default_rng(8).integers(0, len(shards), kept.num_rows)
    order = np.lexsort((kept["uid"].to_numpy(), where))
    kept, shard = kept.take(pa.array(order)), where[order]
    columns = {
        "shard": pa.array(shard),
        "sha256": texts([entry.sha256 for entry in shards], shard),
        "split": texts([entry.split for entry in shards], shard),
        "task_digest": texts([entry.task_digest for entry in shards], shard),
        "start": pa.array(np.zeros(len(shard), np.int64)),
        "stop": kept["steps"],
    }
    columns |= {name: kept[name] for name in rows.RECORDS.names if name not in columns}
    return pa.table({name: columns[name] for name in rows.RECORDS.names}, schema=rows.RECORDS)


def summary(number: int, episodes: int, dropped: int, samples: int) -> SourceSummary:
    name = f"source_{number:02d}"
    return SourceSummary(
        source_id=name,
        converter=name,
        family="robot",
        license=LICENSES[number % len(LICENSES)],
        url=f"https://example.org/{name}",
        revision="1",
        terms_url="unknown",
        consent="unknown",
        commercial_ok="unknown",
        synthetic=False,
        episodes_in=episodes,
        episodes_kept=episodes - dropped,
        episodes_dropped=dropped,
        samples=samples,
    )


def write(folder: Path, episodes: int, shards: int) -> tuple[dict[str, int], str]:
    """A version of that size. Returns the bytes of its documents, and the uid of an episode."""
    store = MixtureStore(folder, create=True)
    ledger = ledger_of(episodes)
    digests = [sha256_bytes(b"%d" % number) for number in range(shards)]
    entries = [
        ShardEntry(sha256=d, bytes=1 << 28, samples=1000, split="train", bucket=str(n), task_digest=d, index_sha256=d)
        for n, d in enumerate(digests)
    ]
    data = {
        "ledger.parquet": rows.parquet(ledger),
        "shard_records.parquet": rows.parquet(records_of(ledger, entries), rows.RECORD_GROUP),
        "normalization.json": b"{}",
    }
    source = np.array([name[-2:] for name in ledger["source_id"].to_pylist()], np.int64)
    dropped, samples = ledger["status"].to_numpy() == "dropped", ledger["samples"].to_numpy()
    counted = [(n, source == n) for n in range(SOURCES)]
    sources = tuple(summary(n, int(m.sum()), int((m & dropped).sum()), int(samples[m].sum())) for n, m in counted)
    manifest = Manifest(
        name="generated",
        plan_id="0" * 64,
        recipe={},
        lake_digest="0" * 64,
        schema_version="v1",
        pins=Pins(rates={s.converter: 1.0 for s in sources}, scale=1.0, buckets={"train": shards}),
        shards=tuple(entries),
        sources=sources,
        drops={"too_short": int(dropped.sum())},
        bad_input=0,
        normalization_sha256=sha256_bytes(data["normalization.json"]),
        ledger_sha256=sha256_bytes(data["ledger.parquet"]),
        shard_records_sha256=sha256_bytes(data["shard_records.parquet"]),
        made={"conversions": [], "steps": {s.converter: STEPS for s in sources}, "encoders": {}},
    )
    store.commit(manifest, "v0001")
    sha = store.manifest_sha("v0001")
    for name, content in data.items():
        store.publish(f"{store.documents(sha)}/{name}", content)
    sizes = {name: len(content) for name, content in data.items()}
    return {**sizes, "manifest": store.size(f"manifests/{sha}.json") or 0}, ledger["uid"][episodes // 3].as_py()


def best(address: str, arguments: tuple[str, ...]) -> tuple[float, float]:
    """Seconds and CPU seconds of the whole process, the least of three."""
    spent, worked = [], []
    for _ in range(3):
        started, before = time.perf_counter(), cpu()
        subprocess.run([PROGRAM, "audit", address, *arguments], check=True, stdout=subprocess.DEVNULL)
        spent.append(time.perf_counter() - started)
        worked.append(cpu() - before)
    return min(spent), min(worked)


def cpu() -> float:
    """CPU seconds of the processes that ended so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def inner(address: str, arguments: tuple[str, ...]) -> float:
    """Seconds of the question itself, imports done."""
    kind, value = arguments[0].removeprefix("--"), arguments[1]
    question = Question(**{kind: int(value) if kind == "shard" else value})
    spent = []
    for _ in range(2):
        started = time.perf_counter()
        ask(address, question)
        spent.append(time.perf_counter() - started)
    return min(spent)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=1_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dataengine-audit-") as folder:
        address = str(Path(folder) / "M")
        sizes, uid = write(Path(address), given.episodes, given.shards)
        told = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items())
        print(f"{given.episodes:,} episodes in {given.shards:,} shards: {told}")
        print(f"{'question':<34} {'process s':>9} {'CPU s':>6} {'itself s':>9} {'limit s':>8}")
        slow = 0
        for name, arguments, limit in QUESTIONS:
            asked = tuple(uid if part == "{uid}" else part for part in arguments)
            whole, worked = best(address, asked)
            slow += whole > limit
            print(f"{name:<34} {whole:>9.2f} {worked:>6.2f} {inner(address, asked):>9.2f} {limit:>8.1f}")
        used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"most memory of a process: {used / 1024:,.0f} MB")
    print("within the limits" if not slow else f"{slow} over the limit")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
