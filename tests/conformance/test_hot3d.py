"""The format `hot3d` keeps every promise of a format, on the real recording."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataengine.testing.formats import FormatConformance


class TestHot3d(FormatConformance):
    format_name = "hot3d"
    mutable = "*trajectory*"

    @pytest.fixture
    def sample(self, data: Path) -> Path:
        return data / "egocentric/hot3d/Aria/P0003_c701bd11"
