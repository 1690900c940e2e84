"""The notebooks run from top to bottom, quickly, and are stored without what a run leaves in them."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))
SECONDS = 20
SLACK = 5  # of a measured time, for a machine that does other things too
SAYS = {
    "quickstart": ["v0001", "0 problems", "squared error", "v0001 -> v0002", "eef_step_pos.right"],
    "audit": ["Apache-2.0", "bytes match", "stands in", "problems: []", "digest_mismatch", "equal", "report.html"],
}


def test_the_notebooks_are_those_that_are_named() -> None:
    assert {path.stem for path in BOOKS} == set(SAYS)


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs_and_places(path: Path) -> None:
    text = path.read_text()
    for number, cell in enumerate(json.loads(text)["cells"]):
        assert cell["id"] == f"{path.stem}-{number:02d}"
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
        assert set(cell["metadata"]) == set()
    found = re.findall(r"(?<![\w.$}])/(?:home|root|tmp|Users|work|mnt|data)\b", text)
    assert not found, f"absolute paths: {found}"


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    started = time.monotonic()
    told = run(path, tmp_path)
    spent = time.monotonic() - started
    print(f"{path.stem}: {spent:.1f} s")
    for words in SAYS[path.stem]:
        assert words in told, f"{words!r} is not in:\n{told}"
    assert spent < SECONDS * SLACK
    assert list((tmp_path / "TMPDIR").iterdir()) == [], "the notebook leaves something behind"


def run(path: Path, folder: Path) -> str:
    """Everything that the cells print; an error in one fails the test."""
    book: Any = nbformat.read(path, as_version=4)
    # of the interpreter that runs the tests, whatever kernels a machine has
    client = NotebookClient(
        book,
        timeout=SECONDS * SLACK,
        kernel_name="python3",
        resources={"metadata": {"path": folder}},
    )
    client.execute(env={**os.environ})
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert all(output["output_type"] != "error" for output in outputs)
    return "".join(output.get("text", "") for output in outputs)
