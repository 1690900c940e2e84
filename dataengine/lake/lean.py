"""A process of our own without pandas, which nothing here uses."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

import pyarrow as pa


def leave_pandas_out() -> None:
    """Let pyarrow go without pandas until somebody asks it for a data frame.

    pyarrow loads pandas (a quarter of a second, 40 MB) when it makes its first array of a list, to see whether the list
    is a series; where the import fails it asks again only for what needs pandas, as `to_pandas` does
    (`_PandasAPIShim` in pyarrow/pandas-shim.pxi). Only for processes of our own: what is handed a pandas series
    afterwards reads it as any sequence.
    """
    if "pandas" in sys.modules:
        return
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(finder)


class _NoPandas(MetaPathFinder):
    def find_spec(self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None, /) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is left out", name=fullname)
