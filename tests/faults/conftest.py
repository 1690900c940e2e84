"""What the fault suites share: the warm driver, servers, and what an undisturbed run makes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dataengine import api
from dataengine.lake import Lake, lake_digest
from dataengine.storage import backend_of

_HERE = Path(__file__).resolve().parent
_SPEC = importlib.util.spec_from_file_location("fault_servers", _HERE.parent / "s3" / "conftest.py")
assert _SPEC is not None
assert _SPEC.loader is not None
servers = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(servers)
seaweed_port, bucket, faulty = servers.seaweed_port, servers.bucket, servers.faulty

PATIENCE = 120.0


class Driver:
    """Starts jobs in forks of one warm process (see driver.py) and tells how they ended."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._jobs = folder, 0
        self._log = (folder / "driver.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, str(_HERE / "driver.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def _ask(self, document: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(document) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, (self.folder / "driver.log").read_text()[-2000:]
        found: dict[str, Any] = json.loads(answer)
        return found

    def start(self, call: str, *args: object, **spec: Any) -> tuple[int, Path]:
        """Start a job; its process and the folder of its outcome."""
        self._jobs += 1
        folder = Path(spec.pop("folder", self.folder / f"job{self._jobs}"))
        folder.mkdir(exist_ok=True)
        names = [name for name in os.environ if name.startswith("AWS_")]
        env = {name: os.environ[name] for name in names} | spec.pop("env", {})
        document = {"call": call, "args": [str(arg) for arg in args], "folder": str(folder), "env": env, "name": "x"}
        return self._ask({"start": document | spec})["pid"], folder

    def wait(self, started: tuple[int, Path]) -> tuple[int, dict[str, Any]]:
        """(wait status, outcome) of a job; one that was killed has no outcome. What it leaves running is an error."""
        pid, folder = started
        status = int(self._ask({"wait": pid})["status"])
        text = (folder / "outcome.x").read_text()
        until = time.monotonic() + PATIENCE
        while _group_lives(pid):
            assert time.monotonic() < until, f"workers outlive the driver {pid}"
            time.sleep(0.02)
        return status, json.loads(text) if text else {}

    def run(self, call: str, *args: object, **spec: Any) -> tuple[int, dict[str, Any]]:
        """Start and wait."""
        return self.wait(self.start(call, *args, **spec))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._log.close()


def _group_lives(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    found = Driver(tmp_path_factory.mktemp("driver"))
    yield found
    found.close()


Facts = tuple[dict[str, str], str]


def _facts(lake: Path, out: Path) -> Facts:
    """Digest of every file of a mixture's content, on disk or on S3, and the lake's digest."""
    backend = backend_of(out)
    names = [name for name in backend.names("") if name.partition("/")[0] not in ("leases", "runs", "staging")]
    files = {name: hashlib.sha256(backend.read(name)).hexdigest() for name in names}
    return files, lake_digest(Lake(lake).heads())


@pytest.fixture(scope="session")
def facts() -> Callable[[Path, Path], Facts]:
    return _facts


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, small_recipe: Path, pusht_raw: Path) -> tuple[Path, Facts]:
    """A folder with a lake `L` and a mixture `M` that nothing disturbed, and their facts."""
    root = tmp_path_factory.mktemp("undisturbed")
    api.build(str(small_recipe), root / "L", root / "M", workers=1, parameters={"data": str(pusht_raw)})
    return root, _facts(root / "L", root / "M")
