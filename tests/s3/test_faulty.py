"""Lake and mixture on an S3 of which 15 % of the answers are spoiled; and what uploads in parts leave behind.

By default with one seed. `DATAENGINE_ALL_FAULTS=1 uv run pytest -n0 -s tests/s3/test_faulty.py` tries ten, and
prints the faults and the time against the same way without faults.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from dataengine import api
from dataengine.lake import Lake, lake_digest
from dataengine.lake.tables import MEDIA_TABLE, open_table
from dataengine.mixture.store import MixtureStore
from dataengine.storage.s3 import S3Backend, client

ALL = bool(os.environ.get("DATAENGINE_ALL_FAULTS"))
SHARE = 0.15
TIMES = 3.0
NAMED = ("blobs/", "tasks/", "manifests/", "refs/", "runs/", "mixture.json")


def digests(lake: object, out: object) -> tuple[str, list[str], str]:
    """What a build made: lake digest, shard digests, content digest."""
    store = MixtureStore(str(out))
    manifest = store.manifest(store.resolve(None))[1]
    lake_rows = lake_digest(Lake(str(lake)).heads())
    return lake_rows, [shard.sha256 for shard in manifest.shards], manifest.content_digest()


@pytest.mark.slow
def test_ingest_and_build_through_faults(
    faulty: Callable[[int, float], Any], tmp_path: Path, small_recipe: Path, pusht_raw: Path
) -> None:
    def built(seed: int, share: float) -> tuple[Any, float, str]:
        proxy = faulty(seed, share)
        root = f"s3://bucket/{os.urandom(6).hex()}"
        started = time.monotonic()
        lake, out = Path(f"{root}/L"), Path(f"{root}/M")
        api.build(str(small_recipe), lake, out, parameters={"data": str(pusht_raw)}, workers=1)
        return proxy, time.monotonic() - started, root

    parameters = {"data": str(pusht_raw)}
    api.build(str(small_recipe), tmp_path / "L", tmp_path / "M", parameters=parameters, workers=1)
    expected = digests(tmp_path / "L", tmp_path / "M")
    ratios, twice = [], 0
    for seed in range(10) if ALL else [0]:
        calm = built(seed, 0.0)[1]  # just before, as the machine may have other work
        proxy, seconds, root = built(seed, SHARE)
        ratios.append(seconds / calm)
        print(f"seed {seed}: {seconds / calm:.1f} times the time without faults, faults {proxy.counts}")
        assert sum(proxy.counts.values()) > 20
        faulty(0, 0.0)  # looked at without faults
        assert digests(f"{root}/L", f"{root}/M") == expected, f"seed {seed}"
        assert api.verify(f"{root}/M").problems == [], f"seed {seed}: nothing partial is to be seen"
        names = S3Backend(f"{root}/M").names("")
        assert [name for name in names if not name.startswith(NAMED)] == [], f"seed {seed}"
        assert S3Backend(root).uploads() == {}, f"seed {seed}"
        media = open_table(f"{root}/L", MEDIA_TABLE).to_table(columns=["media_id"])["media_id"].to_pylist()
        twice += len(media) - len(set(media))
    told = f"time {mean(ratios):.1f} times that without faults, at most {max(ratios):.1f}"
    print(f"{len(ratios)} seeds: {told}; the same digests, no uploads left, {twice} streams appended twice")
    if ALL:
        assert mean(ratios) <= TIMES


UPLOAD = """
import sys
import numpy as np, pyarrow as pa
from dataengine.lake import tables
rows = pa.table({"x": pa.array([np.random.default_rng(0).bytes(60 << 20)], pa.large_binary())})
print("begin", flush=True)
tables.write(rows, sys.argv[1], "media.lance", "create")
"""


@pytest.mark.slow
def test_uploads_in_parts_that_were_killed_are_given_up(bucket: str) -> None:
    """Lance writes large files in parts: a writer that was killed leaves some, which nobody sees and which cost."""
    backend = S3Backend(f"{bucket}/L")
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", UPLOAD, f"{bucket}/L"], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        until = time.monotonic() + 30
        while not backend.uploads() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if backend.uploads():
            break
    left = backend.uploads()
    assert left, "an upload was killed on the way"
    other = client().create_multipart_upload(Bucket="bucket", Key=f"{backend.prefix}-other/x")["UploadId"]
    assert backend.abort_uploads() == 0, "young ones may be at work"
    assert backend.abort_uploads(0.0) == len(left)
    assert backend.uploads() == {}
    assert [upload for _, upload in S3Backend(f"{bucket}/L-other").uploads()] == [other], "a neighbour's stays"
    assert S3Backend(f"{bucket}/L-other").abort_uploads(0.0) == 1
    print(f"{len(left)} uploads of a killed writer given up")
