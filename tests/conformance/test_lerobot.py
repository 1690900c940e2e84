"""The `lerobot` format keeps every promise of a format, on real data of three versions and on layout fixtures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from dataengine.fixtures.lerobot_writer import FixtureEpisode, numbered_frames, write_lerobot
from dataengine.testing.formats import FormatConformance


class TestV21(FormatConformance):
    """Unitree G1: 2 of the 100 declared episodes lie in the folder."""

    format_name = "lerobot"
    options: ClassVar[Mapping[str, Any]] = {"subset": True}

    @pytest.fixture
    def sample(self, data: Path) -> Path:
        return data / "robot/lerobot_v21_g1"


class TestV30(FormatConformance):
    """PushT: three episodes in one parquet and one mp4."""

    format_name = "lerobot"

    @pytest.fixture
    def sample(self, data: Path) -> Path:
        return data / "robot/lerobot_v30_pusht"


class TestV20(FormatConformance):
    """GR00T's v2.0: no frame_index, variable lists, a declared camera that has no files."""

    format_name = "lerobot"
    options: ClassVar[Mapping[str, Any]] = {"subset": True}

    @pytest.fixture
    def sample(self, data: Path) -> Path:
        return data / "robot/gr00t_v20_picknplace"


class TestOffKeyframes(FormatConformance):
    """A layout fixture (v3.0) whose episodes begin between keyframes."""

    format_name = "lerobot"
    trials = 40

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Path:
        episodes, start = [], 0
        for number, rows in enumerate((17, 25, 9)):
            values = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2) + start
            episodes.append(FixtureEpisode(values, values + 0.5, f"task {number}", numbered_frames(start, rows)))
            start += rows
        root = tmp_path / "sample"
        write_lerobot(root, episodes, 20)
        return root
