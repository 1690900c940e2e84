"""Fixtures that all tests share: where the real data lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("DATAENGINE_DATA", REPO.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data. Without it the test skips; in CI that is a failure."""
    if not DATA.is_dir():
        reason = f"the real data is not at {DATA} (set DATAENGINE_DATA)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return DATA
