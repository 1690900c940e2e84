"""The `rlds` format keeps every promise of a format, on Octo's Bridge sample and on a layout fixture in shards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from dataengine import images
from dataengine.fixtures.rlds_writer import RldsEpisode, write_rlds
from dataengine.testing.formats import FormatConformance


class TestBridge(FormatConformance):
    """25 clips in one file; the declared `val` split has no file, so it is not asked for."""

    format_name = "rlds"
    options: ClassVar[Mapping[str, Any]] = {"splits": ["train"]}

    @pytest.fixture
    def sample(self, data: Path) -> Path:
        return data / "robot/rlds_octo_bridge"


class TestShards(FormatConformance):
    """A layout fixture: two splits of three files each."""

    format_name = "rlds"
    trials = 60

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Path:
        def episode(number: int) -> RldsEpisode:
            rows = 3 + number
            values = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2) + number
            picture = np.full((8, 10, 3), number * 9, np.uint8)
            steps = {
                "action": values,
                "observation/state": values + 0.5,
                "observation/image": [images.encode(picture + row) for row in range(rows)],
                "language_instruction": [f"task {number}"] * rows,
            }
            return RldsEpisode(steps, {"number": number, "weight": 0.5})

        write_rlds(
            tmp_path / "sample", "toy", {"train": [episode(k) for k in range(7)], "val": [episode(9)] * 3}, shards=3
        )
        return tmp_path / "sample"
