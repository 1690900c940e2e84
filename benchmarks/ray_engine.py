"""What the Ray engine costs for a task that does nothing, on clusters of 1, 2 and 4 nodes on this machine.

    python benchmarks/ray_engine.py                       5,000 tasks for each number of nodes
    python benchmarks/ray_engine.py --tasks 100000 --nodes 1

Prints tasks a second, the driver's memory before the run and at most in it, what lies in the object stores, and how
many tasks were made ahead of their results. `payload` is what each task carries; a task is made when it is sent. Nodes
on one machine share its CPUs: more of them show what a node costs, not how a cluster grows. The last row is the same
work as one row a task of Ray Data, the way not taken.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STORE_BYTES = 100 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")


class Tasks:
    def __init__(self, count: int, payload: int) -> None:
        self.count, self.payload, self.made = count, payload, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        self.made += 1
        return {"number": index, "payload": os.urandom(self.payload)}


def nothing(task: dict[str, Any]) -> dict[str, Any]:
    return {"number": task["number"]}


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE >> 20


def drive(count: int, payload: int) -> dict[str, float]:
    """Runs in a process of its own, which joins the cluster of RAY_ADDRESS."""
    import ray

    from dataengine.engine.ray import RayEngine

    engine, tasks = RayEngine(), Tasks(count, payload)
    for _ in engine.run(nothing, Tasks(64, 0)):  # workers start
        pass
    before = most = resident()
    stored = ahead = 0
    whole = ray.cluster_resources()["object_store_memory"]
    started = time.monotonic()
    for done, _ in enumerate(engine.run(nothing, tasks), start=1):
        ahead = max(ahead, tasks.made - done)
        if done % max(count // 50, 1) == 0:
            most = max(most, resident())
            stored = max(stored, whole - ray.available_resources().get("object_store_memory", whole))
    seconds = time.monotonic() - started
    engine.close()
    return {"rate": count / seconds, "before": before, "most": most, "stored": stored / (1 << 20), "ahead": ahead}


def drive_data(count: int) -> dict[str, float]:
    import ray
    import ray.data

    ray.init(log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    before, started = resident(), time.monotonic()
    rows = ray.data.range(count, override_num_blocks=count).map_batches(lambda batch: batch, batch_size=1)
    most = before
    for _ in rows.iter_rows():
        most = max(most, resident())
    return {"rate": count / (time.monotonic() - started), "before": before, "most": most, "stored": 0, "ahead": 0}


def measured(address: str, *arguments: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--drive", *arguments]
    environment = {**os.environ, "RAY_ADDRESS": address}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def show(nodes: int, engine: str, count: int, payload: int, found: dict[str, float]) -> None:
    print(
        f"{nodes:>5} {engine:<9} {count:>8,} {payload >> 10:>8,} kB {found['rate']:>9,.0f}/s"
        f" {found['before']:>7,.0f} MB {found['most']:>7,.0f} MB {found['stored']:>7,.1f} MB {found['ahead']:>6,.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--drive", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        kind, *numbers = given.drive
        found = drive(*map(int, numbers)) if kind == "engine" else drive_data(*map(int, numbers))
        print(json.dumps(found))
        return
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    from ray.cluster_utils import Cluster

    print(f"{os.cpu_count()} CPUs; each node is told of one")
    print("nodes engine       tasks     payload      tasks     driver at most  in stores  ahead")
    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    for nodes in given.nodes:
        cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        try:
            for _ in range(nodes - 1):
                cluster.add_node(**node)
            for count, payload in ((given.tasks, 0), (max(given.tasks // 10, 1), 256 << 10)):
                found = measured(cluster.address, "engine", str(count), str(payload))
                show(nodes, "ray", count, payload, found)
            if nodes == given.nodes[-1]:
                count = min(given.tasks, 1000)
                show(nodes, "Ray Data", count, 0, measured(cluster.address, "data", str(count)))
        finally:
            cluster.shutdown()


if __name__ == "__main__":
    main()
