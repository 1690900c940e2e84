"""The format `table_episodes` keeps every promise of a format, on tables that Python's csv and pyarrow wrote."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from dataengine.fixtures.table_log_writer import write_csv_log, write_parquet_log
from dataengine.testing.formats import FormatConformance


class TestCsv(FormatConformance):
    format_name = "table_episodes"
    layout: ClassVar[str] = "csv_log"
    trials = 10

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Path:
        return write_csv_log(tmp_path / "sample")


class TestParquet(FormatConformance):
    format_name = "table_episodes"
    layout: ClassVar[str] = "parquet_log"
    trials = 10

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Path:
        return write_parquet_log(tmp_path / "sample")
