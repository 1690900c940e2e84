"""Texts in HDF5 files: an instruction, or one text a row.

A helper of formats, not a format.
"""

from __future__ import annotations

import h5py
import numpy as np

from dataengine.errors import EpisodeError, FormatError
from dataengine.formats import hdf5

MAX_TEXTS = 1 << 16


def holds_texts(dataset: h5py.Dataset) -> bool:
    """Whether a data set is a text or a list of texts."""
    return h5py.check_string_dtype(dataset.dtype) is not None and len(dataset.shape or ()) <= 1


def read(name: str, dataset: h5py.Dataset) -> tuple[str, ...]:
    """The texts of a data set, without NULs at their ends.

    Raises `FormatError` `claimed_size` and those of `hdf5.check`, `EpisodeError` `invalid_utf8`.
    """
    if int(dataset.size or 0) > MAX_TEXTS:
        raise FormatError("claimed_size", f"{name} claims {dataset.size} texts")
    hdf5.check(dataset, texts=True)
    found = []
    for value in np.atleast_1d(hdf5.values(dataset)).tolist():
        try:
            found.append(value.rstrip(b"\0").decode("utf-8") if isinstance(value, bytes) else str(value))
        except UnicodeDecodeError:
            raise EpisodeError("invalid_utf8", f"{name} holds a text that is none") from None
    return tuple(found)
