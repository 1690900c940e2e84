"""The loader against stock webdataset on the same tars, in one run: decoded samples a second.

    python benchmarks/loader.py --data DATA             builds a mixture of VLN-CE R2R (no images) in a temporary folder
    python benchmarks/loader.py --mixture M[@VERSION]   measures that one

Stock webdataset reads in order and decodes JSON, arrays and images. The loader's rows do that and more: all but `raw`
scatter into the 256 channels with masks, normalize, and (batches) shuffle over the whole split and collate. Each row is
the best of --repeats, taken in turn; CPU seconds are of this process, which is the only one.
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

RECIPE = """
name: loader_benchmark
sources:
  - {{converter: vlnce_r2r, require: [language], cap: {cap}, path: "{data}/navigation/vlnce_r2r"}}
window: {{chunk: {{steps: 8}}}}
shards: {{buckets: {{train: 8, valid: 1}}}}
"""
BATCH = 64
BASE = "webdataset, decoded, in order"


def built(data: Path, folder: Path, cap: int) -> str:
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(data=data, cap=cap))
    api.build(str(recipe), folder / "L", folder / "M", engine="local")
    return str(folder / "M")


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
    parser.add_argument("--samples", type=int, default=40_000, help="of the mixture that is built")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.mixture is None and options.data is None:
        parser.error("name a --mixture, or the --data to build one of")
    with tempfile.TemporaryDirectory() as folder:
        address = options.mixture or built(options.data, Path(folder), options.samples)
        best = measure(rows(address), options.repeats)
    wall, cpu = best[BASE]
    print(f"{'':40} {'samples/s':>10} {'times':>7} {'per CPU s':>10} {'times':>7}")
    for name, (by_wall, by_cpu) in best.items():
        print(f"{name:40} {by_wall:10,.0f} {by_wall / wall:7.1f} {by_cpu:10,.0f} {by_cpu / cpu:7.1f}")


if __name__ == "__main__":
    main()
