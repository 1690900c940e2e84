"""The main job on the real files: five families, two engines, the same bytes, everything accounted for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PROGRAM = str(Path(sys.executable).parent / "dataengine")
EPISODES = {  # counted by hand from the files
    "bridge_octo": (25, 25, 250),
    "unitree_g1_inspire": (2, 2, 221 + 277),
    "pusht_lerobot": (3, 3, 160),
    "robosuite_panda_lift": (1, 1, 412),
    "robosuite_panda_stack": (1, 1, 532),
    "robosuite_lift_152": (3, 3, 300),
    "robosuite_baxter": (2, 2, 1382 - 75 + 1138 - 50),
    "hot3d_aria": (1, 1, 34),
    "vlnce_r2r": (778 + 1839, 778 + 1839, 46158 + 105459),
    "llava_conversations": (94, 9, 9),
    "llava_evaluation": (80 + 90 + 90, 0, 0),
    "qwen_vl_demo": (6, 5, 5),
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, cwd=REPO, timeout=600, check=False)


def build(root: Path, data: Path) -> subprocess.CompletedProcess[str]:
    recipe = str(REPO / "pipelines" / "five_families.yaml")
    return run(
        *("build", recipe, "--set", f"data={data}", "--lake", str(root / "L"), "--out", str(root / "M")),
        *("--engine", "ray", "--json"),
    )


@pytest.fixture(scope="module")
def by_ray(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("ray")
    done = build(root, data)
    assert done.returncode == 0, done.stderr
    return root, json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.ray
def test_everything_is_accounted_for(by_ray: tuple[Path, dict]) -> None:
    root, outcome = by_ray
    assert outcome["engine"] == "ray"
    assert outcome["tasks_executed"] == outcome["tasks"] == outcome["shards"] >= 16
    done = run("audit", str(root / "M"), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"mixture", "version", "plan_id", "samples", "shards", "sources", "drops"} <= found.keys()
    counts = {s["converter"]: (s["episodes_in"], s["episodes_kept"]) for s in found["sources"]}
    assert counts == {name: expected[:2] for name, expected in EPISODES.items()}
    assert all(s["episodes_in"] == s["episodes_kept"] + s["episodes_dropped"] for s in found["sources"])
    assert found["drops"] == {"missing_media": 85 + 260 + 1}
    assert {s["family"] for s in found["sources"] if s["samples"]} == {
        *("robot", "simulation", "egocentric", "navigation", "vision_language"),
    }
    samples = {s["converter"]: s["samples"] for s in found["sources"]}
    for name in ("bridge_octo", "unitree_g1_inspire", "pusht_lerobot", "llava_conversations", "qwen_vl_demo"):
        assert samples[name] == EPISODES[name][2], "a source at rate 1 gives every window, every item"
    seen = {n: c for n, c in samples.items() if n not in ("bridge_octo", "unitree_g1_inspire", "pusht_lerobot")}
    pictured = sum(samples.values()) - sum(seen.values())
    assert sum(seen.values()) < pictured, "sources without pictures swamp the others"
    listed = json.loads(run("lake", "ls", "--lake", str(root / "L"), "--json").stdout)
    assert {row["converter"]: (row["episodes"], row["steps"]) for row in listed} == {
        name: expected[1:] for name, expected in EPISODES.items()
    }


@pytest.mark.slow
@pytest.mark.ray
def test_verify_agrees_and_again_is_already_built(by_ray: tuple[Path, dict], data: Path) -> None:
    root, _ = by_ray
    done = run("verify", str(root / "M"), "--json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["ok"] is True
    again = build(root, data)
    assert again.returncode == 0, again.stderr
    outcome = json.loads(again.stdout)
    assert outcome["already_built"] is True
    assert outcome["tasks_executed"] == 0
    assert all(entry["added"] == entry["reconverted"] == 0 for entry in outcome["ingests"])


@pytest.mark.slow
@pytest.mark.ray
def test_another_folder_engine_and_worker_count_give_the_same_bytes(
    by_ray: tuple[Path, dict], five_families: Path, content: Callable[[Path], dict[str, str]]
) -> None:
    assert content(five_families / "M") == content(by_ray[0] / "M")


@pytest.mark.slow
@pytest.mark.ray
def test_no_path_user_or_host_is_in_the_mixture(by_ray: tuple[Path, dict], data: Path) -> None:
    import socket

    root, _ = by_ray
    secrets = [str(data.resolve()), str(root), str(REPO), socket.gethostname()]
    for path in (root / "M").rglob("*"):
        if path.is_file() and path.suffix in (".json", ".parquet", ".idx"):
            text = path.read_bytes()
            assert not [secret for secret in secrets if len(secret) > 3 and secret.encode() in text], path
