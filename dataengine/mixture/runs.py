"""Run facts: when and with what code a version was built. Beside the manifest, never inside; no host, user or path."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dataengine.documents import seal, sha256_bytes, unseal
from dataengine.errors import DataEngineError
from dataengine.mixture.build import BuildReport
from dataengine.mixture.store import MixtureStore
from dataengine.specs.records import Manifest

Describe = Callable[[Manifest, Mapping[str, Any]], Mapping[str, bytes]]
_PACKAGES = ("dataengine", "av", "numpy", "pillow", "pyarrow", "pylance", "ray", "simplejpeg")


def record(
    store: MixtureStore,
    report: BuildReport,
    engine: str,
    started: datetime,
    stages: Mapping[str, float],
    workers: int | None,
    *,
    describe: Describe | None = None,
) -> str:
    """Write the facts of one run; returns the file's name below the mixture. `stages` are seconds.

    `describe` makes the documents that carry them for others; the facts hold their digests and are written first.
    """
    finished = datetime.now(UTC)
    facts: dict[str, Any] = {
        "version": report.version,
        "manifest": report.manifest_sha256,
        "plan_id": report.plan_id,
        "created": report.created,
        "engine": engine,
        "tasks": report.tasks,
        "tasks_executed": report.tasks_executed,
        "tasks_cached": report.tasks_cached,
        "started_at": started.isoformat(timespec="milliseconds"),
        "finished_at": finished.isoformat(timespec="milliseconds"),
        "workers": workers,
        "stages": dict(stages),
        "samples_made": _made(report),
        "seconds": round((finished - started).total_seconds(), 3),
        "code": code_facts(),
        "packages": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    run = f"{started:%Y%m%dT%H%M%S}-{os.urandom(4).hex()}"
    made = {} if describe is None or report.manifest is None else describe(report.manifest, {**facts, "run": run})
    named = {f"{run}.{name}": data for name, data in made.items()}
    if named:
        facts["documents"] = {name: sha256_bytes(data) for name, data in named.items()}
    store.publish(f"runs/{run}.json", seal(facts))
    for name, data in named.items():
        store.publish(f"runs/{name}", data)
    return f"runs/{run}.json"


def known(store: MixtureStore, manifest: str) -> bool:
    """Whether a run is on record that made or met a manifest."""
    for name in store.names("runs", "*.json"):
        with suppress(DataEngineError):  # `verify` names what is damaged
            if unseal(store.read(name), name).get("manifest") == manifest:
                return True
    return False


def _made(report: BuildReport) -> int:
    """About how many samples the executed tasks made: those of a shard on average."""
    samples = report.manifest.samples if report.manifest is not None else 0
    return round(samples * report.tasks_executed / report.tasks) if report.tasks else 0


def code_facts() -> dict[str, Any]:
    """Commit and digest of uncommitted changes when the package runs from a checkout; else its version alone."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {"version": version("dataengine")}
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "diff", "HEAD")
    return {
        "version": version("dataengine"),
        "commit": commit.strip() if commit else "unknown",
        "dirty_sha256": sha256_bytes(changes.encode()) if changes else None,
    }


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            ["git", "-C", str(root), *arguments],  # noqa: S607 - found on PATH, its absence is fine
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
