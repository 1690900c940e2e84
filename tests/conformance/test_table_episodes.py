"""The format `table_episodes` keeps every promise of a format, on tables that Python's csv and pyarrow wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from dataengine.fixtures.table_log_writer import (
    write_csv_log,
    write_csv_table,
    write_json_log,
    write_npy_log,
    write_parquet_log,
)
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


class TestJson(FormatConformance):
    format_name = "table_episodes"
    layout: ClassVar[str] = "json_log"
    options: ClassVar[dict[str, Any]] = {"images": {"front": "front/*.jpg"}}
    trials = 10

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Path:
        return write_json_log(tmp_path / "sample")


class TestJsonThatNamesPictures(TestJson):
    layout = None
    options: ClassVar[dict[str, Any]] = {"images": {"front": {"column": "picture"}}}


class TestNpy(FormatConformance):
    format_name = "table_episodes"
    layout: ClassVar[str] = "npy_log"
    options: ClassVar[dict[str, Any]] = {"folders": "*"}
    trials = 10

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Path:
        return write_npy_log(tmp_path / "sample")


class TestManyInOne(FormatConformance):
    format_name = "table_episodes"
    layout: ClassVar[str] = "csv_log"
    options: ClassVar[dict[str, Any]] = {"episodes": "episode_index", "videos": {"video": "video/{episode}.mp4"}}
    trials = 10

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Path:
        return write_csv_table(tmp_path / "sample")
