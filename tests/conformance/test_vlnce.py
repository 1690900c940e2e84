"""The format `vlnce` keeps every promise of a format, on the real val_seen split."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataengine.testing.formats import FormatConformance


class TestVlnce(FormatConformance):
    format_name = "vlnce"

    @pytest.fixture
    def sample(self, data: Path) -> Path:
        return data / "navigation/vlnce_r2r/R2R_VLNCE_v1-3_preprocessed/val_seen"
