"""A build on a lesser CPU gives the same bytes: one with every CPU feature that can be disabled, disabled.

What can be: numpy's dispatched kernels, OpenBLAS's kernels (numpy's and scipy's), the C library's (`exp`, `sin`), the
SIMD of libjpeg-turbo, FFmpeg (decoders and swscale), dav1d and Arrow. What cannot, because the library has no switch:
zlib-ng in Pillow (PNG of the recipe's `codec: png` and of WebP items), x264 in the fixtures (they are written once
here), Lance (the lake, whose bytes enter no digest), SHA-256 (one right answer).
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

RECIPE = """
name: cpu
sources:
  - {{converter: pusht_lerobot, path: "{data}/robot/lerobot_v30_pusht"}}
  - {{converter: bridge_octo, require: [view], path: "{data}/robot/rlds_octo_bridge"}}
  - converter: unitree_g1_inspire
    split: train
    path: "{data}/robot/lerobot_v21_g1"
    window: {{chunk: {{steps: 8}}, stride: 20, history: 2}}
  - {{converter: generated.yaml, path: "{generated}"}}
window: {{chunk: {{steps: 8}}, stride: 2, history: 2}}
images: {{views: {{ext_2: {{size: [40, 40]}}, ext_3: null}}}}
shards: {{buckets: {{train: 6, valid: 2}}, segment: 16}}
normalization: {{representations: [absolute, relative, delta], {bake}}}
{rest}
"""
ENVIRONMENT = {
    "NPY_DISABLE_CPU_FEATURES": " ".join(name for name in __cpu_dispatch__ if __cpu_features__[name]),
    "OPENBLAS_CORETYPE": "Core2",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-FMA,-FMA4,-ERMS",
    "JSIMD_FORCENONE": "1",
    "ARROW_USER_SIMD_LEVEL": "NONE",
}
BUILD = """
import ctypes, json, sys, time
from pathlib import Path

import av

folder, name, *recipes = sys.argv[1:]
plain = name == "plain"
if plain:
    libraries = Path(av.__file__).parent.parent / "av.libs"
    util, dav1d = (ctypes.CDLL(str(next(libraries.glob(f"{name}*")))) for name in ("libavutil", "libdav1d"))
    util.av_force_cpu_flags(0)
    dav1d.dav1d_set_cpu_flags_mask(0)
    flags = util.av_get_cpu_flags()
from dataengine import api, images
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
import numpy as np

picture = np.add.outer(np.arange(480), np.arange(640))[..., None].repeat(3, 2).astype(np.uint8)
images.encode(picture)
start = time.perf_counter()
for _ in range(10):
    images.encode(picture)
jpeg = (time.perf_counter() - start) / 10
for recipe in recipes:
    out = Path(folder, f"{recipe}-{name}")
    outcome = api.build(f"{folder}/{recipe}.yaml", Path(folder, f"lake-{name}"), out, engine="local", workers=1)
print(json.dumps({
    "numpy": [name for name in __cpu_dispatch__ if __cpu_features__[name]],
    "ffmpeg": flags if plain else None,
    "jpeg_ms": jpeg * 1e3,
    "samples": outcome.report.manifest.samples,
    "shards": len(outcome.report.manifest.shards),
}))
"""
CASES = {"physical": ("", ""), "normalized": ("bake: relative", "layout: unified_256")}


def generated(folder: Path, make_pusht: Callable[..., Path]) -> Path:
    """Twelve episodes of a PushT fixture under a converter of its own."""
    from dataengine.documents import find_spec

    text = find_spec("converters", "pusht_lerobot").read_text()
    (folder / "generated.yaml").write_text(text.replace("name: pusht_lerobot", "name: generated"))
    return make_pusht(folder / "generated", range(12))


def built(folder: Path, name: str) -> dict[str, Any]:
    environment = {**os.environ, **(ENVIRONMENT if name == "plain" else {})}
    command = [sys.executable, "-c", BUILD, str(folder), name, *CASES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names the features of x86")
def test_a_lesser_cpu_makes_the_same_bytes(
    tmp_path: Path, data: Path, make_pusht: Callable[..., Path], content: Callable[[Path], dict[str, str]]
) -> None:
    raw = generated(tmp_path, make_pusht)
    for case, (bake, rest) in CASES.items():
        text = RECIPE.format(data=data, generated=raw, bake=bake, rest=rest)
        (tmp_path / f"{case}.yaml").write_text(text)
    full, plain = built(tmp_path, "full"), built(tmp_path, "plain")
    assert plain["numpy"] == []
    assert plain["ffmpeg"] == 0
    told = f"a JPEG takes {full['jpeg_ms']:.2f} ms, without SIMD {plain['jpeg_ms']:.2f} ms"
    print(f"numpy without {' '.join(full['numpy']) or 'what it had none of'}, FFmpeg without any flag; {told}")
    for case in CASES:
        one, two = content(tmp_path / f"{case}-full"), content(tmp_path / f"{case}-plain")
        different = sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))
        print(
            f"{case}: {plain['samples']} samples in {plain['shards']} shards, {len(one)} files, {len(different)} differ"
        )
        assert not different, f"{len(different)} of {len(one)} files: {different[:5]}"
    assert plain["samples"] > 300
