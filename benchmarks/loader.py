"""The loader against stock webdataset on the same tars, in one run: decoded samples a second.

    python benchmarks/loader.py --data DATA             builds a mixture of VLN-CE R2R (no images) in a temporary folder
    python benchmarks/loader.py --data DATA --source pusht   the same of PushT, with a picture in each sample
    python benchmarks/loader.py --mixture M[@VERSION]   measures that one

Stock webdataset reads in order and decodes JSON, arrays and images. The loader's rows do that and more: all but `raw`
scatter into the 256 channels with masks, normalize, and (batches) shuffle over the whole split and collate. The rows of
segments read windows out of a version of the same data with `samples: {kind: episode}`. Each row is the best of
--repeats, taken in turn; CPU seconds are of this process, which is the only one.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import webdataset as wds

from dataengine import api
from dataengine.loader import MixtureDataset, open_mixture
from dataengine.mixture.store import MixtureStore, shard_name, split_address

SOURCES = {
    "vlnce": "{{converter: vlnce_r2r, require: [language], cap: {cap}, path: '{data}/navigation/vlnce_r2r'}}",
    "pusht": "{{converter: pusht_lerobot, split: train, weight: 20, path: '{data}/robot/lerobot_v30_pusht'}}",
}
RECIPE = """
name: loader_benchmark
sources:
  - {source}
window: {{chunk: {{steps: 8}}}}
shards: {{buckets: {{train: 8, valid: 1}}}}
"""
AS_SEGMENTS = """
samples: {kind: episode}
mix: {mode: scheduled}
"""
SHUFFLED = 4096
BATCH = 64
BASE = "webdataset, decoded, in order"


def built(data: Path, folder: Path, source: str, cap: int, *, segments: bool = False) -> str:
    recipe, out = folder / "recipe.yaml", folder / ("S" if segments else "M")
    text = RECIPE.format(source=SOURCES[source].format(data=data, cap=cap))
    recipe.write_text(text + (AS_SEGMENTS if segments else ""))
    api.build(str(recipe), folder / "L", out, engine="local")
    return str(out)


def urls(address: str) -> list[str]:
    root, version = split_address(address)
    store = MixtureStore(root)
    _, manifest = store.manifest(store.resolve(version))
    return [str(root / shard_name(shard.sha256)) for shard in manifest.shards if shard.split == "train"]


def stock(shards: list[str]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        return sum(1 for _ in wds.WebDataset(shards, shardshuffle=False).decode("rgb"))


def scattered(ds: MixtureDataset, read: Callable[[int], object]) -> int:
    """Single reads all over the split, an eighth of it."""
    places = ds.order(seed=1).take(np.arange(max(1, len(ds) // 8))).tolist()
    for place in places:
        read(place)
    return len(places)


def rows(address: str) -> dict[str, Callable[[], int]]:
    shards, ds, relative = urls(address), open_mixture(address), open_mixture(address, representation="relative")
    return {
        BASE: lambda: stock(shards),
        "loader, decoded, in order": lambda: sum(1 for _ in ds),
        f"loader, shuffled batches of {BATCH}": lambda: sum(len(batch) for batch in ds.batches(BATCH)),
        "loader, the same, relative": lambda: sum(len(batch) for batch in relative.batches(BATCH)),
        "loader, decoded, one by one, random": lambda: scattered(ds, ds.__getitem__),
        "loader, raw bytes, one by one, random": lambda: scattered(ds, ds.raw),
    }


def segment_rows(address: str) -> dict[str, Callable[[], int]]:
    ds = open_mixture(address)
    return {
        "segments, decoded, in order": lambda: len([example for example, _ in zip(ds, range(SHUFFLED), strict=False)]),
        f"segments, shuffled batches of {BATCH}": lambda: sum(
            len(batch) for batch, _ in zip(ds.batches(BATCH), range(SHUFFLED // BATCH), strict=False)
        ),
    }


def told_bytes(windows: str, segments: str) -> None:
    """What a sample takes on disk either way."""
    for name, address in (("windows", windows), ("segments", segments)):
        size, count = sum(Path(url).stat().st_size for url in urls(address)), len(open_mixture(address))
        print(f"{name}: {size / 1e6:,.1f} MB for {count:,} samples, {size / count:,.0f} bytes a sample")


def measure(found: dict[str, Callable[[], int]], repeats: int) -> dict[str, tuple[float, float]]:
    """(samples a wall second, samples a CPU second), each the best."""
    best = dict.fromkeys(found, (0.0, 0.0))
    for _ in range(repeats):
        for name, run in found.items():
            wall, cpu = time.perf_counter(), time.process_time()
            count = run()
            speed = count / (time.perf_counter() - wall), count / (time.process_time() - cpu)
            best[name] = max(best[name][0], speed[0]), max(best[name][1], speed[1])
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixture", help="measure this mixture")
    parser.add_argument("--data", type=Path, default=os.environ.get("DATAENGINE_DATA"), help="the folder of real data")
    parser.add_argument("--source", choices=sorted(SOURCES), default="vlnce")
    parser.add_argument("--samples", type=int, default=40_000, help="of the mixture that is built")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.mixture is None and options.data is None:
        parser.error("name a --mixture, or the --data to build one of")
    with tempfile.TemporaryDirectory() as folder:
        given = options.data, Path(folder), options.source, options.samples
        address = options.mixture or built(*given)
        found = rows(address)
        if options.mixture is None:
            segments = built(*given, segments=True)
            told_bytes(address, segments)
            found |= segment_rows(segments)
        best = measure(found, options.repeats)
    wall, cpu = best[BASE]
    print(f"{'':40} {'samples/s':>10} {'times':>7} {'per CPU s':>10} {'times':>7}")
    for name, (by_wall, by_cpu) in best.items():
        print(f"{name:40} {by_wall:10,.0f} {by_wall / wall:7.1f} {by_cpu:10,.0f} {by_cpu / cpu:7.1f}")


if __name__ == "__main__":
    main()
