"""The lake's writes fail, which Lance makes natively: no space, or an error of the device, at any of its writes.

By default some places are tried. `DATAENGINE_ALL_FAULTS=1 uv run pytest -n0 -s tests/faults/test_lake_writes.py` tries
each write of an ingest with each system call and error, and every size of a disk that is too small in steps of 4 KiB.
"""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dataengine import api
from dataengine.lake import Lake, lake_digest

ALL = bool(os.environ.get("DATAENGINE_ALL_FAULTS"))
KINDS = ("write", "link", "mkdir", "create")
WRITES = 4
"""Writes of an ingest: both datasets made, media appended, episodes merged."""
EVERY = [(call, nth, code) for call in KINDS for nth in range(1, WRITES + 1) for code in (errno.ENOSPC, errno.EIO)]
SOME = [
    ("write", 3, errno.ENOSPC),
    ("write", 4, errno.EIO),
    ("link", 3, errno.EIO),
    ("link", 4, errno.ENOSPC),
    ("create", 1, errno.EIO),
]
UNDER_LIMIT = """
import sys
from pathlib import Path
from dataengine import api
from dataengine.errors import StorageError
try:
    api.ingest(Path(sys.argv[1]), "pusht_lerobot", Path(sys.argv[2]), workers=1)
except StorageError as error:
    print(error)
    sys.exit(9)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="system calls are numbered by machine")
def test_a_system_call_of_the_lake_fails(
    driver: Any, pusht_raw: Path, undisturbed: tuple[Path, Any], tmp_path: Path
) -> None:
    counts: Counter[str] = Counter()
    for place, (call, nth, code) in enumerate(EVERY if ALL else SOME):
        lake = tmp_path / f"L{place}"
        refuse = {"call": call, "nth": nth, "code": code}
        options = {"workers": 1}
        status, told = driver.run("ingest", pusht_raw, "pusht_lerobot", lake, refuse=refuse, options=options)
        where = f"{call} {errno.errorcode[code]} at write {nth}"
        assert status == 0, f"{where}: {told}"
        counts["made no such call" if told["error"] is None else "said so"] += 1
        if told["error"] is not None:
            assert told["error"] == "StorageError", f"{where}: {told}"
            assert ("disk is full" in told["what"]) == (code == errno.ENOSPC), f"{where}: {told['what']}"
            assert "next:" in told["what"]
        if Lake.at(lake):
            assert len(Lake(lake).heads()) in (0, 6), f"{where}: old state or new"
        api.ingest(pusht_raw, "pusht_lerobot", lake, workers=1)
        assert lake_digest(Lake(lake).heads()) == undisturbed[1][1], where
    print(f"system calls of the lake refused: {dict(counts)}; run again, the same lake each time")
    assert counts["said so"] >= (12 if ALL else 3)


def _mounts() -> bool:
    done = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.slow
def test_a_disk_that_is_too_small_for_the_lake(pusht_raw: Path, undisturbed: tuple[Path, Any], tmp_path: Path) -> None:
    """True ENOSPC on a file system of a few pages, in a name space of its own."""
    if sys.platform != "linux" or not _mounts():
        pytest.skip("needs a mount in a user name space")
    mount = tmp_path / "small"
    mount.mkdir()
    needed = sum(path.stat().st_size + 4096 for path in (undisturbed[0] / "L").rglob("*")) // 1024 + 8
    sizes = list(range(16, needed, 4 if ALL else needed // 3))
    script = f'mount -t tmpfs -o size=$0k none "{mount}" || exit 99; "$@"; code=$?; cp -r "{mount}/L" "{tmp_path}/L$0"'
    failed = 0
    for size in sizes:
        command = ["unshare", "-rm", "sh", "-c", f"{script} 2>/dev/null; exit $code", str(size), sys.executable, "-c"]
        command += [UNDER_LIMIT, str(pusht_raw), str(mount / "L")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode in (0, 9), f"{size} KiB: {done.stdout}{done.stderr}"
        if done.returncode == 9:
            failed += 1
            assert "the disk is full" in done.stdout, f"{size} KiB: {done.stdout}"
        lake = tmp_path / f"L{size}"
        if Lake.at(lake):
            assert len(Lake(lake).heads()) in (0, 6)
        api.ingest(pusht_raw, "pusht_lerobot", lake, workers=1)
        assert lake_digest(Lake(lake).heads()) == undisturbed[1][1], f"{size} KiB"
    print(
        f"{failed} of {len(sizes)} disks of 16 to {needed} KiB were too small and said so; old state or new each time"
    )
    assert failed >= (10 if ALL else 2)
