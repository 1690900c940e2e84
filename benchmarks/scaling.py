"""What a million hours on a thousand nodes cost: figures measured here, multiplied, and what would break first.

    python benchmarks/scaling.py                            # measures, simulates a commit, prints the table of the docs
    python benchmarks/scaling.py --s3 s3://bucket/prefix    # counts requests too (AWS_* environment; writes there)

Measured on a small build in this process (CPU seconds, so that other load matters little): reading a generated LeRobot
data set of H.264 video, the survey, encoding samples, reading shards back, and the sizes of what is written. Simulated
at size, in a process of its own: plan, task digests and the real commit of --shards shards. The rest is multiplication;
`docs/scaling.md` says what of it to believe.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

EPISODES, ROWS, SIDE = 16, 128, 224
RECIPE = {
    "name": "scaling",
    "sources": [{"converter": "pusht_lerobot"}],
    "filters": [{"name": "min_steps", "steps": 2}, {"name": "no_nan"}],
    "window": {"chunk": {"steps": 16}},
    "images": {"size": [224, 224]},
    "shards": {"buckets": {"train": 4, "valid": 1}, "segment": 128},
    "normalization": {"representations": ["absolute"]},
}
SURVEY_EPISODES = 256  # of one task
DISPATCH = 1000  # tasks that one driver starts a second on Ray: benchmarks/ray_engine.py
PUT_SECOND, GET_SECOND = 3500, 5500  # requests a prefix of a bucket takes a second, as AWS documents
PUT_PRICE, GET_PRICE = 5.0e-6, 4.0e-7  # dollars a request, us-east-1 list prices


@dataclass
class Meter:
    """An engine that runs tasks here, one by one, and adds up their CPU seconds by function."""

    seconds: dict[str, float] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    name: str = "meter"

    def run(self, function: Any, tasks: Sequence[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(len(tasks)):
            task, started = tasks[index], time.process_time()
            result = function(task)
            used = time.process_time() - started
            self.seconds[function.__name__] = self.seconds.get(function.__name__, 0.0) + used
            self.calls[function.__name__] += 1
            yield index, result

    def close(self) -> None:
        """Nothing to stop."""


def small_build(out: str | None) -> dict[str, Any]:
    """CPU seconds and bytes of a build of `EPISODES` episodes; S3 requests by stage where `out` is on S3."""
    from dataengine import api
    from dataengine.lake import Lake
    from dataengine.mixture import build as building
    from dataengine.mixture.select import select
    from dataengine.mixture.store import MixtureStore, shard_name, task_name
    from dataengine.specs.recipe import Recipe

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw(folder / "raw")
        started = spent()
        api.ingest(folder / "raw", "pusht_lerobot", folder / "lake", workers=1)
        ingest = spent() - started
        recipe, lake, meter = Recipe.parse(RECIPE, "scaling"), Lake(folder / "lake"), Meter()
        requests: dict[str, Counter[str]] = {}
        with counted(requests if out else None) as stage:
            stage("open")
            store = MixtureStore(out or str(folder / "mixture"), create=True)
            inputs = select(recipe, lake)
            planned = building.make_plan(recipe, inputs, meter, None, silent)
            stage("shards")
            done = building.execute(recipe, inputs, planned, store, meter, silent)
            stage("commit")
            report = building.commit(recipe, inputs, planned, done, store, None)
        manifest, shards = report.manifest, len(planned.tasks)
        assert manifest is not None
        frames, samples = EPISODES * ROWS, manifest.samples
        records = [store.size(task_name(digest)) or 0 for digest in planned.digests]
        sizes = [store.size(shard_name(entry.sha256)) or 0 for entry in manifest.shards]
        lake_bytes = sum(path.stat().st_size for path in (folder / "lake").rglob("*") if path.is_file())
        raw_bytes = sum(path.stat().st_size for path in (folder / "raw").rglob("*") if path.is_file())
        index = sum(record.index_bytes for record in done.records.values())
        return {
            "frames": frames,
            "samples": samples,
            "shards": shards,
            "ingest_cpu_per_frame": ingest / frames,
            "survey_cpu_per_episode": meter.seconds["survey"] / EPISODES,
            "encode_cpu_per_sample": meter.seconds["build_shard"] / samples,
            "read_back_cpu_per_gb": meter.seconds["check_shard"] / (sum(sizes) / 1e9),
            "bytes_per_sample": sum(sizes) / samples,
            "index_bytes_per_sample": index / samples,
            "record_bytes_per_unit": sum(records) / len(planned.tasks.row),
            "lake_bytes_per_frame": lake_bytes / frames,
            "raw_bytes_per_frame": raw_bytes / frames,
            "requests": {name: dict(found) for name, found in requests.items()},
        }


def spent() -> float:
    """CPU seconds of this process and of the ones it started that ended."""
    return sum(os.times()[:4])


def silent(_stage: str, _done: int, _total: int) -> None:
    """No progress."""


def raw(folder: Path) -> None:
    """A LeRobot data set of one camera: a bright square moves over noise that a codec cannot predict away."""
    from dataengine.fixtures.lerobot_writer import FixtureEpisode, write_lerobot

    episodes = []
    for seed in range(EPISODES):
        chance = np.random.default_rng(seed)
        path = np.cumsum(chance.normal(0, 4, (ROWS + 1, 2)), axis=0).astype(np.float32) + 256
        ground = chance.integers(60, 200, (SIDE // 8, SIDE // 8, 3)).repeat(8, 0).repeat(8, 1)
        frames = []
        for x, y in path[:-1] / 512 * SIDE:
            image = np.clip(ground + chance.integers(-6, 7, ground.shape), 0, 255).astype(np.uint8)
            column, row = int(np.clip(x, 9, SIDE - 9)), int(np.clip(y, 9, SIDE - 9))
            image[row - 9 : row + 9, column - 9 : column + 9] = 250
            frames.append(image)
        episodes.append(FixtureEpisode(path[:-1], path[1:], f"Push the block, variant {seed}", frames))
    write_lerobot(folder, episodes, 10, version="v2.1", video_key="observation.image", robot_type="pusht")


class counted:  # noqa: N801 - a `with` block
    """Counts the requests of this process's S3 client by stage; does nothing for None."""

    def __init__(self, found: dict[str, Counter[str]] | None) -> None:
        self._found, self._stage = found, ""

    def __enter__(self) -> Any:
        if self._found is not None:
            from dataengine.storage import s3

            s3.client().meta.events.register("before-send.s3", self._sent)
        return self._next

    def __exit__(self, *_: object) -> None:
        if self._found is not None:
            from dataengine.storage import s3

            s3.client().meta.events.unregister("before-send.s3", self._sent)

    def _next(self, stage: str) -> None:
        self._stage = stage

    def _sent(self, request: Any, **_: object) -> None:
        assert self._found is not None
        self._found.setdefault(self._stage, Counter())[request.method] += 1


def simulate(shards: int, per_shard: int) -> dict[str, Any]:
    """Plan, digests and the real commit of about `shards` shards of `per_shard` segments each, one an episode."""
    from dataengine.catalogue import expand
    from dataengine.mixture import build as building
    from dataengine.mixture.forecast import made
    from dataengine.mixture.store import MixtureStore
    from dataengine.mixture.tasks import Digests
    from dataengine.specs.catalogue import CatalogueSpec
    from dataengine.specs.recipe import Recipe

    seconds: dict[str, float] = {}

    def lap(name: str, since: float) -> float:
        seconds[name] = round(time.process_time() - since, 2)
        return time.process_time()

    spec = catalogue_spec(shards * per_shard)
    recipe = Recipe.parse({**RECIPE, "shards": {"buckets": {"train": shards, "valid": 64}}}, "scaling")
    clock = time.process_time()
    catalogue = expand(CatalogueSpec.parse(spec, "scaling"))
    plan, _ = made(recipe, catalogue)
    clock = lap("plan", clock)
    roster, verdicts = rows_of(catalogue, plan)
    clock = time.process_time()
    digests = Digests(recipe, roster, verdicts, b"")
    listed = [digests.of(plan.tasks, number) for number in range(len(plan.tasks))]
    clock = lap("task digests", clock)
    done = building.Done(records_of(plan.tasks, listed), plan.tasks.counts.astype(np.int64), len(listed))
    planned = building.Planned(
        verdicts, plan.pins, "0" * 64, plan.tasks, listed, b"{}", b"", offered=plan.offered
    )  # fmt: skip
    inputs = _Inputs(roster)
    with tempfile.TemporaryDirectory() as name:
        store = MixtureStore(Path(name) / "m", create=True)
        clock = time.process_time()
        report = building.commit(recipe, inputs, planned, done, store, None)  # type: ignore[arg-type]
        clock = lap("commit", clock)
        store.manifest(report.version)
        lap("open the version", clock)
        sizes = {path.name: path.stat().st_size for path in (Path(name) / "m/manifests").rglob("*") if path.is_file()}
    manifest = sizes.pop(f"{report.manifest_sha256}.json")
    return {
        "shards": len(plan.tasks),
        "episodes": len(catalogue),
        "segments": len(plan.tasks.row),
        "seconds": seconds,
        "manifest_bytes_per_shard": manifest / len(plan.tasks),
        "ledger_bytes_per_episode": sizes["ledger.parquet"] / len(catalogue),
        "records_bytes_per_segment": sizes["shard_records.parquet"] / len(plan.tasks.row),
        "manifest_mb": round(manifest / 1e6, 1),
        "peak_bytes": peak(),
    }


@dataclass(frozen=True)
class _Inputs:
    """What a commit asks of its inputs."""

    heads: Any
    digest: str = "0" * 64


def catalogue_spec(episodes: int) -> dict[str, Any]:
    evidence = dict.fromkeys(("episodes", "steps", "hz", "views"), "estimate: made up")
    source = {"converter": "pusht_lerobot", "family": "simulation", "url": "-", "episodes": episodes, "hz": 10}
    shape = {"steps": {"mean": 100, "median": 90, "max": 128}, "views": {"front": [SIDE, SIDE]}}
    return {"name": "scaling", "sources": [{**source, **shape, "evidence": evidence}]}


def rows_of(catalogue: Any, plan: Any) -> tuple[Any, Any]:
    """Roster and verdicts of a catalogue's episodes, all kept."""
    import pyarrow as pa

    from dataengine.convert import Conversion
    from dataengine.mixture.judge import Verdict
    from dataengine.mixture.roster import Kind, Roster
    from dataengine.mixture.verdicts import Verdicts

    made, count = Conversion.load("pusht_lerobot"), len(catalogue)
    spec = made.converter
    kind = Kind(spec.source_id, spec.name, spec.family, spec.embodiment, spec.control_mode, "0" * 64, spec.source,
                made.card)  # fmt: skip
    found = plan.tasks.candidates
    zeros = np.zeros(count, np.int8)
    upstream = pa.array([f"episode_{number:09d}" for number in range(count)], pa.large_string())
    roster = Roster(
        uids=found.uids, entry=found.source, split=found.split, status=zeros, kind=zeros.astype(np.int32),
        upstream=upstream, media=found.uids[:, ::-1], media_bytes=found.sample_bytes, content=found.uids, told={},
        entries=found.names, kinds=(kind,),
    )  # fmt: skip
    verdicts = Verdicts(roster)
    first = Verdict(roster.uid(0), "train", 1, 1, task="Push the block", total=100, kept=100, seconds=10.0)
    verdicts.put(0, replace(first, step=""))
    verdicts.table[:] = verdicts.table[0]
    verdicts.table["split"], verdicts.table["windows"] = found.split, found.windows
    verdicts.table["sample_bytes"] = found.sample_bytes
    return roster, verdicts


def records_of(tasks: Any, digests: Sequence[str]) -> dict[str, Any]:
    """A record a task, with digests as unlike as real ones."""
    from dataengine.documents import sha256_bytes
    from dataengine.specs.records import TaskRecord

    samples = np.add.reduceat(tasks.counts.astype(np.int64), tasks.edges[:-1]).tolist()
    return {
        digest: TaskRecord(
            task_digest=digest, split=place[0], sha256=sha256_bytes(digest.encode()), bytes=count * 16000,
            samples=count, index_sha256=sha256_bytes(digest[:32].encode()), index_bytes=count * 20, inputs=(),
        )
        for digest, place, count in zip(digests, tasks.places, samples, strict=True)
    }  # fmt: skip


def peak() -> int:
    """VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def table(given: argparse.Namespace, small: dict[str, Any], large: dict[str, Any], plan: dict[str, Any]) -> None:
    """The extrapolation."""
    cores = given.nodes * given.cores
    frames = given.hours * 3600 * given.hz * given.views
    episodes = given.hours * 3600 / given.episode_seconds
    samples = given.hours * 3600 * given.samples_per_second
    stored = samples * small["bytes_per_sample"] * given.views
    shards = stored / given.shard_bytes
    segments = episodes * max(1.0, given.episode_seconds * given.samples_per_second / 128)
    driver = large["peak_bytes"] / large["episodes"] * episodes
    one = 1 / 3600
    ingest = frames * small["ingest_cpu_per_frame"]
    print(f"\n{given.hours:,.0f} hours, {given.nodes:,} nodes of {given.cores} cores: {frames:.3g} frames of"
          f" {given.views} views,\n{episodes:.3g} episodes of {given.episode_seconds} s, {samples:.3g} samples"
          f" ({given.samples_per_second}/s), {stored / 1e12:,.0f} TB in {shards:,.0f} shards of"
          f" {given.shard_bytes / 1e6:.0f} MB")  # fmt: skip
    lines = [
        ("ingest", ingest, given.cores, f"the command's machine; {ingest * one / cores:,.1f} hours on all"),
        ("survey", episodes * small["survey_cpu_per_episode"], cores, "the cluster"),
        ("plan", episodes / plan["episodes"] * plan["cpu_seconds"], 1, "one core"),
        ("task digests", segments / large["segments"] * large["seconds"]["task digests"], 1, "one core"),
        ("encode", samples * given.views * small["encode_cpu_per_sample"], cores, "the cluster"),
        ("read back", stored / 1e9 * small["read_back_cpu_per_gb"], cores, "the cluster"),
        ("commit", max(episodes / large["episodes"], shards / large["shards"]) * large["seconds"]["commit"], 1,
         "one core"),
    ]  # fmt: skip
    print(f"{'stage':<14}{'core hours':>14}{'hours':>14}   on")
    for name, seconds, on, where in lines:
        print(f"{name:<14}{seconds * one:>14,.1f}{seconds * one / on:>14,.2f}   {where}")
    tasks = shards + episodes / SURVEY_EPISODES
    print(f"{'start tasks':<14}{'':>14}{tasks / DISPATCH * one:>14,.2f}   the driver: {tasks:,.0f} at {DISPATCH} a"
          f" second\nmemory of the driver: {driver / 1e9:,.0f} GB, as in the simulation"
          f" ({large['peak_bytes'] / large['episodes']:,.0f} bytes an episode)")  # fmt: skip
    print(f"\nmanifest {shards * large['manifest_bytes_per_shard'] / 1e6:,.0f} MB,"
          f" ledger {episodes * large['ledger_bytes_per_episode'] / 1e9:,.1f} GB,"
          f" shard records {segments * large['records_bytes_per_segment'] / 1e9:,.1f} GB,"
          f" task records {segments * small['record_bytes_per_unit'] / 1e9:,.1f} GB,"
          f" indexes {samples * small['index_bytes_per_sample'] / 1e9:,.1f} GB")  # fmt: skip
    if small["requests"]:
        requests(small, shards, given)


def requests(small: dict[str, Any], shards: float, given: argparse.Namespace) -> None:
    """Requests of the mixture's side, at size."""
    whole = Counter[str]()
    per = small["requests"]["shards"]
    for method, count in per.items():
        whole[method] += round(count / small["shards"] * shards)
    writes = whole["PUT"] + whole["POST"]
    reads = sum(whole.values()) - writes
    told = ", ".join(f"{count / small['shards']:.1f} {method}" for method, count in sorted(per.items()))
    price = writes * PUT_PRICE + reads * GET_PRICE
    print(f"S3 requests a shard: {told}; at size {writes:,.0f} writes and {reads:,.0f} reads, ${price:,.0f};"
          f" at one prefix's limit {writes / PUT_SECOND / 60:,.1f} and {reads / GET_SECOND / 60:,.1f} minutes;"
          f"\n  the driver looks for 32 tasks' records at a time: {shards * given.latency / 32 / 3600:,.2f} hours at"
          f" {given.latency * 1000:.0f} ms each")  # fmt: skip
    print(f"  committing: {dict(small['requests']['commit'])}")


def child(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1e6)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--cores", type=int, default=32)
    parser.add_argument("--hz", type=float, default=10)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--episode-seconds", type=float, default=36)
    parser.add_argument("--samples-per-second", type=float, default=1, help="how densely windows are taken")
    parser.add_argument("--shard-bytes", type=float, default=512 << 20)
    parser.add_argument("--latency", type=float, default=0.01, help="seconds that a request to S3 takes")
    parser.add_argument("--shards", type=int, default=200_000, help="of the simulated commit")
    parser.add_argument("--per-shard", type=int, default=10, help="segments in each of its shards")
    parser.add_argument("--plan-episodes", type=int, default=1_000_000)
    parser.add_argument("--s3", help="a prefix that is free to write to, for counting requests")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child == "simulate":
        print(json.dumps(simulate(given.shards, given.per_shard)))
        return
    small = small_build(given.s3)
    print(f"small build: {EPISODES} episodes, {small['frames']} frames of {SIDE} x {SIDE}, {small['samples']} samples,"
          f" {small['shards']} shards (CPU seconds of one core)")  # fmt: skip
    for name, value in small.items():
        if isinstance(value, float):
            print(f"  {name:<26}{value:>14,.6g}")
    large = child(__file__, "--child", "simulate", "--shards", str(given.shards), "--per-shard", str(given.per_shard))
    print(f"simulated commit: {large['shards']:,} shards, {large['segments']:,} segments,"
          f" {large['episodes']:,} episodes: peak {large['peak_bytes'] / 2**30:.2f} GiB; CPU seconds:"
          f" {large['seconds']}")  # fmt: skip
    print(f"  manifest {large['manifest_mb']} MB ({large['manifest_bytes_per_shard']:.0f} bytes a shard), ledger"
          f" {large['ledger_bytes_per_episode']:.1f} bytes an episode, shard records"
          f" {large['records_bytes_per_segment']:.1f} bytes a segment")  # fmt: skip
    planning = Path(__file__).with_name("planning.py")
    plan = child(str(planning), "--child", "--episodes", str(given.plan_episodes))
    print(f"plan of {plan['episodes']:,} episodes: {plan['cpu_seconds']} CPU seconds,"
          f" {plan['peak_bytes'] / 2**30:.2f} GiB")  # fmt: skip
    table(given, small, large, plan)


if __name__ == "__main__":
    main()
