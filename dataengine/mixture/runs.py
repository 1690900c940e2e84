"""Run facts: when and with what code a version was built. Beside the manifest, never inside; no host, user or path."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dataengine.documents import seal, sha256_bytes
from dataengine.mixture.build import BuildReport
from dataengine.mixture.store import MixtureStore

_PACKAGES = ("dataengine", "av", "numpy", "pillow", "pyarrow", "pylance", "ray", "simplejpeg")


def record(
    store: MixtureStore,
    report: BuildReport,
    engine: str,
    started: datetime,
    stages: Mapping[str, float],
    workers: int | None,
) -> str:
    """Write the facts of one run; returns the file's name below the mixture. `stages` are seconds."""
    finished = datetime.now(UTC)
    facts = {
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
    name = f"runs/{started:%Y%m%dT%H%M%S}-{os.urandom(4).hex()}.json"
    store.publish(name, seal(facts))
    return name


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
