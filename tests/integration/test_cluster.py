"""Several Ray nodes on one machine: the same bytes, whatever of the cluster is lost on the way.

A step that comes as a plugin kills its worker on one episode, and makes tasks last while a node or the driver is
killed. `python benchmarks/ray_engine.py` measures what the engine costs.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dataengine import api, plugins
from dataengine.engine.ray import RayEngine
from dataengine.errors import SpecError

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PROGRAM = str(Path(sys.executable).parent / "dataengine")
RAY = str(Path(sys.executable).parent / "ray")
STORE_BYTES = 80 << 20
Content = Callable[[Path], dict[str, str]]

STEP = """
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from dataengine.transforms.steps import Filter

@dataclass(frozen=True)
class Fragile(Filter):
    word: str
    name: ClassVar[str] = "fragile"
    version: ClassVar[int] = 1

    def verdict(self, episode):
        slow = Path(os.environ["FRAGILE_SLOW"])
        time.sleep(0.12 if slow.exists() else 0)
        if self.word in episode.language[0].text:
            os.kill(os.getpid(), signal.SIGKILL)
        return None
"""
RECIPE = """
name: fragile
sources: [{converter: pusht_lerobot, path: "${data}"}]
window: {chunk: {steps: 8}}
steps: [{name: fragile, word: "${word}"}]
split: {valid: 0.2}
shards: {buckets: {train: 12, valid: 2}, segment: 8}
normalization: {representations: [absolute]}
"""


# Ray forks when it starts a node, which a process that has imported Lance must not.
CLUSTER = """
import json, os, signal, sys
from ray.cluster_utils import Cluster

usual = {"num_cpus": 1, "object_store_memory": 80 << 20}
health = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
cluster = Cluster(initialize_head=True, head_node_args={**usual, "include_dashboard": False, "_system_config": health})
spare = [cluster.add_node(**usual) for _ in range(2)]
try:
    for line in sys.stdin:
        if line.strip() == "kill":
            node = spare.pop()
            os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        if line.strip() == "replace":
            cluster.remove_node(node, allow_graceful=False)
            spare.append(cluster.add_node(**usual))
        alive = sum(node["Alive"] for node in cluster.global_state.node_table())
        print(json.dumps({"address": cluster.address, "alive": alive}), file=out, flush=True)
finally:
    cluster.shutdown()
"""


@dataclass
class Nodes:
    """A cluster (a process that takes commands), the lake and the raw data that its builds read."""

    cluster: subprocess.Popen[str]
    root: Path
    raw: Path
    address: str = ""

    def ask(self, command: str) -> dict[str, Any]:
        """`count`, `kill` the raylet of a node, `replace` a killed node; returns the address and the nodes alive."""
        assert self.cluster.stdin is not None
        assert self.cluster.stdout is not None
        print(command, file=self.cluster.stdin, flush=True)
        found: dict[str, Any] = json.loads(self.cluster.stdout.readline())
        return found

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "RAY_ADDRESS": self.address}

    @property
    def slow(self) -> Path:
        return Path(os.environ["FRAGILE_SLOW"])

    def command(self, out: Path, word: str = "none", engine: str = "ray", lake: Path | None = None) -> list[str]:
        recipe, lake = str(self.root / "fragile.yaml"), lake or self.root / "L"
        found = [PROGRAM, "build", recipe, "--lake", str(lake), "--out", str(out), "--engine", engine, "--json"]
        return [*found, "--set", f"data={self.raw}", "--set", f"word={word}"]

    def build(self, out: Path, word: str = "none", engine: str = "ray", lake: Path | None = None) -> dict[str, Any]:
        done = subprocess.run(
            [*self.command(out, word, engine, lake), *(["--workers", "1"] if engine == "local" else [])],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=self.environment if engine == "ray" else None,
        )
        assert done.returncode in (0, 3), done.stderr
        return {**json.loads(done.stdout), "code": done.returncode}

    def started(self, out: Path, tasks: int) -> subprocess.Popen[str]:
        """A build on the cluster that has made some tasks and is at others."""
        building = subprocess.Popen(
            self.command(out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment
        )
        deadline = time.monotonic() + 60
        while len(list((out / "tasks").glob("*.json"))) < tasks:
            assert building.poll() is None, building.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return building


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, pusht_raw: Path) -> Iterator[Nodes]:
    """A head and two more nodes of one CPU each, which know the step."""
    root = tmp_path_factory.mktemp("cluster")
    plugin = root / "plugin"
    (plugin / "fragile-1.0.dist-info").mkdir(parents=True)
    (plugin / "fragile_step.py").write_text(STEP)
    (plugin / "fragile-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: fragile\nVersion: 1.0\n")
    points = "[dataengine.transforms]\nfragile = fragile_step:Fragile\n"
    (plugin / "fragile-1.0.dist-info" / "entry_points.txt").write_text(points)
    (root / "fragile.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{plugin}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        patch.setenv("FRAGILE_SLOW", str(root / "slow"))
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        with (root / "cluster.log").open("w") as log:
            cluster = subprocess.Popen(
                [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        found = Nodes(cluster, root, pusht_raw)
        try:
            found.address = found.ask("count")["address"]
            yield found
        finally:
            cluster.communicate(timeout=60)


@pytest.fixture(scope="module")
def undisturbed(nodes: Nodes) -> Path:
    """The mixture as the local engine makes it."""
    nodes.build(nodes.root / "plain", engine="local")
    return nodes.root / "plain"


# --- tasks ---

TASKS = """
import json, os, signal, sys, time
from pathlib import Path
from dataengine.engine.ray import RayEngine

folder = Path(sys.argv[1])

class Lazy:
    def __init__(self, count):
        self.count, self.made = count, 0
    def __len__(self):
        return self.count
    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        self.made += 1
        return {"number": index}

def work(task):
    import ray
    number = task["number"]
    if number in (3, 5):
        notes = len(list((folder / "notes" / "staging").glob(f"attempt-{number}-*")))
        with (folder / f"log-{number}").open("a") as log:
            log.write(json.dumps([ray.get_runtime_context().get_node_id(), notes]) + "\\n")
        if number == 3 or notes == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    if number == 0:
        time.sleep(1.5)
    return {"number": number, "node": ray.get_runtime_context().get_node_id(), "text": "x" * task.get("long", 0)}

engine, tasks = RayEngine(None, folder / "notes"), Lazy(200)
order, results, ahead = [], {}, 0
for index, result in engine.run(work, tasks):
    order.append(index)
    results[index] = result
    ahead = max(ahead, tasks.made - len(order))
engine.close()
print(json.dumps({
    "order": order, "ahead": ahead, "right": all(r is None or r["number"] == i for i, r in results.items()),
    "none": [i for i, r in results.items() if r is None], "nodes": len({r["node"] for r in results.values() if r}),
}))
"""


def test_tasks_that_kill_their_worker_are_tried_on_other_nodes_and_given_up(nodes: Nodes, tmp_path: Path) -> None:
    """Task 3 kills its worker always, 5 once; 0 is slow. The tasks are made as they are sent."""
    script = tmp_path / "driver.py"
    script.write_text(TASKS)
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=nodes.environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert sorted(found["order"]) == list(range(200))
    assert found["right"]
    assert found["none"] == [3]
    assert found["nodes"] == 3
    assert found["order"][0] != 0, "results wait for the first task"
    assert set(found["order"][-2:]) == {3, 5}, "suspects run when the others are done"
    cpus = 3
    assert found["ahead"] <= cpus + 16 + 2, "more tasks were made than are under way"
    attempts = [json.loads(line) for line in (tmp_path / "log-3").read_text().splitlines()]
    assert [notes for _, notes in attempts] == [0, 1, 2], "each lost attempt is noted before the next"
    assert attempts[1][0] != attempts[2][0], "the last attempts were on one node"
    assert len((tmp_path / "log-5").read_text().splitlines()) == 2
    assert not list((tmp_path / "notes").rglob("attempt-*"))


# --- builds ---


def test_a_node_is_lost_in_the_middle(nodes: Nodes, undisturbed: Path, content: Content, tmp_path: Path) -> None:
    nodes.slow.touch()
    building = nodes.started(tmp_path / "M", 2)
    nodes.ask("kill")
    before = len(list((tmp_path / "M" / "tasks").glob("*.json")))
    nodes.slow.unlink()
    out, told = building.communicate(timeout=120)
    assert building.returncode == 0, told
    assert before < json.loads(out)["tasks"], "the build was done before the node was lost"
    assert json.loads(out)["engine"] == "ray"
    assert content(tmp_path / "M") == content(undisturbed)
    assert not api.verify(str(tmp_path / "M")).problems
    assert nodes.ask("replace")["alive"] == 3


def test_a_killed_driver_is_resumed_on_the_same_cluster(
    nodes: Nodes, undisturbed: Path, content: Content, tmp_path: Path
) -> None:
    nodes.slow.touch()
    building = nodes.started(tmp_path / "M", 2)
    building.kill()
    building.communicate()
    nodes.slow.unlink()
    assert not (tmp_path / "M" / "refs").exists()
    resumed = nodes.build(tmp_path / "M")
    assert 0 < resumed["tasks_executed"] <= resumed["tasks"] - 2
    assert content(tmp_path / "M") == content(undisturbed)


class Deadly:
    """The local engine with workers that die of one episode, whatever is with it."""

    name = "deadly"

    def __init__(self, poison: str) -> None:
        self.poison = poison

    def run(self, function: Any, tasks: Any) -> Any:
        for index, task in enumerate(tasks):
            yield index, None if self.poison in task.get("uids", ()) else function(task)

    def close(self) -> None:
        """Nothing to let go of."""


def test_an_episode_that_kills_its_worker_is_dropped(
    nodes: Nodes, undisturbed: Path, content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the step of a recipe: the same drop and the same bytes as where an engine tells that it died."""
    by_ray = nodes.build(tmp_path / "ray", "variant 3")
    assert by_ray["code"] == 3
    (dropped,) = api.audit(str(tmp_path / "ray"), drops=True)["dropped"]
    assert (dropped["upstream_id"], dropped["reason"]) == ("episode_000003", "worker_killed")
    assert api.audit(str(tmp_path / "ray"))["samples"] == 5 * 24
    monkeypatch.syspath_prepend(nodes.root / "plugin")
    monkeypatch.setattr(plugins, "_points", plugins._points.__wrapped__)
    monkeypatch.setattr("dataengine.api.building.chosen_engine", lambda *_: Deadly(dropped["uid"]))
    parameters = {"data": str(nodes.raw), "word": "variant 3"}
    api.build(str(nodes.root / "fragile.yaml"), nodes.root / "L", tmp_path / "told", parameters=parameters)
    assert content(tmp_path / "ray") == content(tmp_path / "told")


# --- what a cluster cannot do ---


def wait_for_nodes(nodes: Nodes, count: int) -> None:
    deadline = time.monotonic() + 60
    while nodes.ask("count")["alive"] < count:
        assert time.monotonic() < deadline, "the node does not join"
        time.sleep(0.2)


def can_hide() -> bool:
    """Whether a process may have mounts of its own, as another machine has."""
    unshare = shutil.which("unshare")
    command = [unshare or "", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"]
    return unshare is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_hide(), reason="needs the right to mount")
def test_a_folder_that_a_node_does_not_see_is_told(nodes: Nodes, undisturbed: Path, tmp_path: Path) -> None:
    """Another node has its own, empty folder where the lake lies."""
    shutil.copytree(nodes.root / "L", tmp_path / "driver" / "L")
    hide = f'mount -t tmpfs none {tmp_path / "driver"} && exec "$@"'
    join = [RAY, "start", f"--address={nodes.address}", "--num-cpus=1", f"--object-store-memory={STORE_BYTES}"]
    blind = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", hide, "node", *join, "--block"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    nodes.slow.touch()  # so that every node gets a task
    try:
        wait_for_nodes(nodes, 4)
        done = subprocess.run(
            nodes.command(tmp_path / "M", lake=tmp_path / "driver" / "L"),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=nodes.environment,
        )
        assert done.returncode == 1, done.stdout
        assert "does not see what the driver sees" in done.stderr
        assert f"where: {tmp_path / 'driver' / 'L'}\n" in done.stderr
        assert "on S3 or on a file system that every node has" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        nodes.slow.unlink()
        os.killpg(blind.pid, signal.SIGTERM)
        blind.wait(30)


def test_a_cluster_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    started = time.monotonic()
    with pytest.raises(SpecError, match=r"the Ray cluster at 127\.0\.0\.1:1 cannot be joined"):
        list(RayEngine().run(len, [{}]))  # type: ignore[arg-type]
    assert time.monotonic() - started < 20
