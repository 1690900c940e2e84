"""Plans N episodes of a generated catalogue with the code that plans a build, and prints what it took.

    python benchmarks/planning.py                        # 10,000,000 episodes
    python benchmarks/planning.py --episodes 1000000 --json

The episodes are twenty data sets of unlike sizes, 200 steps each on average (log-normal, median 120) at 10 Hz with two
views, weighed as n^0.43; a shard is at most 512 MB. The plan runs in a process of its own, whose peak is VmHWM. Not in
it: reading the lake and running a recipe's steps over it, which a build spreads over its workers. It fails (exit 1)
above 4 GB or 10 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

LIMIT_BYTES = 4 << 30
LIMIT_SECONDS = 600
SETS = 20
EVIDENCE = dict.fromkeys(("episodes", "steps", "hz", "views"), "estimate: made up")


def measure(episodes: int) -> dict[str, object]:
    """The plan, in this process."""
    from dataengine.catalogue import expand
    from dataengine.mixture.forecast import made, told
    from dataengine.specs.catalogue import CatalogueSpec

    started, used = time.perf_counter(), time.process_time()
    catalogue = expand(CatalogueSpec.parse(spec(episodes), "benchmark"))
    seconds = {"expand the catalogue": time.perf_counter() - started}
    recipe = plan_recipe(episodes)
    plan, stages = made(recipe, catalogue)
    seconds |= stages
    clock = time.perf_counter()
    found = told(recipe, catalogue, plan, stages)
    seconds["count"] = time.perf_counter() - clock
    return {
        "episodes": len(catalogue),
        "steps": int(catalogue.steps.sum()),
        "hours": round(sum(line.hours for line in found.sources)),
        "units": len(plan.tasks.row),
        "samples": found.samples,
        "shards": len(plan.tasks),
        "planned_terabytes": round(found.bytes / 1e12, 2),
        "worst_share": max(abs(line.realized - line.requested) for line in found.sources),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "total_seconds": round(sum(seconds.values()), 1),
        "cpu_seconds": round(time.process_time() - used, 1),
        "peak_bytes": peak(),
    }


def spec(episodes: int) -> dict[str, object]:
    parts = [1 / (number + 1) for number in range(SETS)]
    counts = [max(1, round(episodes * part / sum(parts))) for part in parts]
    counts[0] += episodes - sum(counts)
    fields = {"family": "robot", "url": "-", "hz": 10, "steps": {"mean": 200, "median": 120, "max": 4000}}
    views = {"front": [224, 224], "wrist": [224, 224]}
    return {
        "name": "benchmark",
        "sources": [
            {"converter": f"set{number:02}", "episodes": count, "views": views, "evidence": EVIDENCE, **fields}
            for number, count in enumerate(counts)
        ],
    }


def plan_recipe(episodes: int):  # type: ignore[no-untyped-def]
    from dataengine.specs.recipe import Recipe

    return Recipe.parse(
        {
            "name": "benchmark",
            "sources": [{"converter": f"set{number:02}"} for number in range(SETS)],
            "mix": {"weights": "power", "alpha": 0.43, "unit": "frame"},
            "split": {"valid": 0.01},
            "shards": {"buckets": {"train": max(16, episodes // 100), "valid": 64}, "max_bytes": 512 << 20},
        },
        "benchmark",
    )


def peak() -> int:
    """VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=10_000_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.episodes)))
        return 0
    line = [sys.executable, __file__, "--child", "--episodes", str(given.episodes)]
    found = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
    found["bytes_per_episode"] = round(found["peak_bytes"] / found["episodes"])
    found["load_average"] = os.getloadavg()[0]
    within = found["peak_bytes"] <= LIMIT_BYTES and found["total_seconds"] <= LIMIT_SECONDS
    if given.json:
        print(json.dumps(found | {"within": within}, indent=2))
        return 0 if within else 1
    print(f"{found['episodes']:,} episodes, {found['steps']:,} steps, {found['hours']:,} hours; one core")
    for name, value in found["seconds"].items():
        print(f"  {name:<22} {value:8.1f} s")
    print(f"  {'in all':<22} {found['total_seconds']:8.1f} s   (limit {LIMIT_SECONDS} s);"
          f" {found['cpu_seconds']:.1f} s of CPU")  # fmt: skip
    print(f"  peak memory            {found['peak_bytes'] / 2**30:8.2f} GiB (limit {LIMIT_BYTES / 2**30:.0f} GiB),"
          f" {found['bytes_per_episode']} bytes an episode")  # fmt: skip
    print(f"  {found['units']:,} segments, {found['samples']:,} samples, {found['shards']:,} shards,"
          f" {found['planned_terabytes']} TB; worst share off by {found['worst_share']:.4%}")  # fmt: skip
    print(f"  load average of the machine: {found['load_average']:.1f}")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
