"""The format `hdf5_episodes` keeps every promise of a format, on trees that h5py wrote."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from dataengine.fixtures.hdf5_log_writer import write_arm, write_arm_groups
from dataengine.testing.formats import FormatConformance


class TestFiles(FormatConformance):
    format_name = "hdf5_episodes"
    layout: ClassVar[str] = "hdf5_file"
    trials = 10

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Path:
        return write_arm(tmp_path / "sample")


class TestGroups(FormatConformance):
    format_name = "hdf5_episodes"
    layout: ClassVar[str] = "hdf5_groups"
    trials = 10

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Path:
        return write_arm_groups(tmp_path / "sample")
