"""The secret that opens the store is in no object of it, and in nothing that is printed."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dataengine.cli.main import app
from dataengine.lake import tables
from dataengine.storage.s3 import S3Backend


def test_no_object_holds_the_secret(
    bucket: str, pusht_raw: Path, small_recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    key, secret = (os.environ[f"AWS_{name}"] for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
    lake, out, record = f"{bucket}/lake", f"{bucket}/out", tmp_path / "pusht.yaml"

    def said(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        text = result.output + "".join(capfd.readouterr())
        assert secret not in text
        assert key not in text
        assert result.exit_code == 0, text
        return text

    said("source", "add", pusht_raw, "--converter", "pusht_lerobot", "--out", record)
    said("ingest", pusht_raw, "--converter", "pusht_lerobot", "--lake", lake, "--record", record)
    said("build", small_recipe, "--set", f"data={pusht_raw}", "--lake", lake, "--out", out)
    for command in ("audit", "verify", "log", "urls"):
        said(command, out)
    store = S3Backend(bucket)
    names = store.names("")
    assert len(names) > 20
    for name in names:
        data = store.read(name)
        assert secret.encode() not in data, name
        assert key.encode() not in data, name
        if name.endswith(".parquet"):
            assert secret not in str(pq.read_table(pa.BufferReader(data)).to_pydict()), name
    for table in (tables.EPISODES_TABLE, tables.MEDIA_TABLE):
        assert secret not in str(tables.open_table(lake, table).to_table().to_pydict()), table
    assert secret not in record.read_text()
