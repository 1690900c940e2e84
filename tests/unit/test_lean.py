"""pyarrow without pandas: lists become tables, and a data frame is there for whoever asks."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from dataengine.lake.lean import leave_pandas_out

leave_pandas_out()
import pyarrow as pa

table = pa.Table.from_pylist([{"a": 1, "b": "x"}, {"a": None, "b": "y"}])
print("pandas" in sys.modules, table["a"].null_count, sys.meta_path[0].__class__.__name__ == "_NoPandas")
print(table.to_pandas()["b"].tolist(), pa.Table.from_pandas(table.to_pandas()).column_names)
"""


def test_pandas_is_loaded_by_who_asks_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["False 1 False", "['x', 'y'] ['a', 'b']"]
