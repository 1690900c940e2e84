"""The wheel works by itself: installed in an empty environment, it answers and finds its shipped specs."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_wheel_carries_its_specs_and_runs(tmp_path: Path) -> None:
    run = ["uv", "build", "--wheel", "--quiet", "--out-dir", str(tmp_path), str(REPO)]
    subprocess.run(run, check=True, capture_output=True, timeout=300)
    wheel = next(tmp_path.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ("converters", "schemas", "pipelines"):
        shipped = {path.relative_to(REPO).as_posix() for path in (REPO / folder).rglob("*.yaml")}
        assert {f"dataengine/_specs/{name}" for name in shipped} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "converters/", "schemas/"))]
    environment = tmp_path / "venv"
    subprocess.run(["uv", "venv", "--quiet", "--python", "3.12", str(environment)], check=True, timeout=300)
    python = str(environment / "bin" / "python")
    subprocess.run(["uv", "pip", "install", "--quiet", "--python", python, str(wheel)], check=True, timeout=600)
    program = str(environment / "bin" / "dataengine")
    shown = subprocess.run([program, "--help"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "Exit codes" in shown.stdout
    code = (
        "import dataengine, dataengine.documents as d, dataengine.specs.converter as c;"
        "print(dataengine.__file__); print(d.find_spec('converters', 'pusht_lerobot'));"
        "print(c.load_converter('pusht_lerobot').source_id)"
    )
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    module, spec, source = found.stdout.split()
    assert module.startswith(str(environment))
    assert spec.startswith(str(environment))
    assert source
