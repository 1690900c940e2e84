"""The house keeps its shape: imports point downward, no format imports another, heavy libraries have one door."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "dataengine"
LEVELS = [
    {"errors"},
    {"credentials", "documents"},
    {"schema", "storage", "plugins"},
    {"camera", "containers", "episode", "embodiment", "geometry", "timeline", "images", "thumbnails", "video"},
    {"transforms", "normalization", "evidence", "formats", "fixtures", "layouts", "shards", "specs"},
    {"catalogue", "convert", "plan", "schedule", "shuffle", "weights", "lake_rows", "inspection", "reading", "sources"},
    {"engine", "lake"},
    {"ingest", "relabel", "mixture", "provenance", "report", "loader", "verification", "viewing"},
    {"api"},
    {"demo"},
    {"cli"},
]
DOORS = {
    "av": {"video"},
    "boto3": {"storage"},
    "botocore": {"storage"},
    "fsspec": {"storage"},
    "simplejpeg": {"images"},
    "PIL": {"images"},
    "ray": {"engine"},
    "lance": {"lake", "formats", "fixtures"},
    "array_record": {"formats", "fixtures"},
    "h5py": {"formats", "fixtures"},
    "scipy": {"geometry"},
    "msgpack": {"formats"},
    "numcodecs": {"formats", "fixtures"},
    "imagecodecs": {"formats", "fixtures"},
    "zarr": {"fixtures"},
    "mcap": {"fixtures"},
    "rosbags": {"formats", "fixtures"},
    "webdataset": set(),
    "torch": {"loader"},
    "typer": {"cli"},
    "rich": {"cli"},
    "urllib3": {"relabel"},
    "rerun": {"viewing"},
    "duckdb": {"provenance"},
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "testing" not in path.parts)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Every module a file imports, deferred imports included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in names if is_module(name)]
            found += modules if len(modules) == len(names) else [node.module, *modules]
    return found


def is_module(name: str) -> bool:
    """Whether a dotted name is a module of this package, so that `from package import module` needs that one alone."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def level(name: str) -> int:
    return next(number for number, names in enumerate(LEVELS) if name in names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path: Path) -> None:
    own = room(path)
    if own in ("__init__", "testing"):
        return
    for name in imports(path):
        parts = name.split(".")
        if (
            parts[0] == "dataengine"
            and len(parts) > 1
            and (PACKAGE / parts[1]).with_suffix(".py").exists() | (PACKAGE / parts[1]).is_dir()
        ):
            assert level(parts[1]) <= level(own), f"{own} imports {name}, which is above it"
            assert parts[1] != "testing", f"{own} imports the test suites"
        if parts[0] in DOORS:
            assert own in DOORS[parts[0]], f"{parts[0]} has one door, {own} is not it"


def test_no_format_imports_another() -> None:
    points = entry_points(group="dataengine.formats")
    own = [point.module for point in points if point.module.startswith("dataengine.formats.")]
    shipped = {module.removeprefix("dataengine.formats.") for module in own}
    assert {"lerobot", "rlds", "robomimic"} <= shipped
    for path in (PACKAGE / "formats").glob("*.py"):
        for name in imports(path):
            other = name.removeprefix("dataengine.formats.").split(".")[0]
            if name.startswith("dataengine.formats.") and other in shipped:
                kin = path.stem == other or path.stem.startswith(f"{other}_")
                assert kin, f"{path.name} imports {other}"


def test_modules_have_no_circle() -> None:
    graph = {}
    for path in MODULES:
        name = ".".join(("dataengine", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        graph[name] = {found for found in imports(path) if found.startswith("dataengine")}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"circle: {' -> '.join([*trail, name])}"
        if name not in done:
            for other in sorted(graph[name] & graph.keys() - {name}):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_training_imports_stay_light() -> None:
    heavy = "ray lance av h5py typer duckdb torch pyarrow"
    code = f"import sys, dataengine.loader; print([n for n in '{heavy}'.split() if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_local_builds_and_help_do_not_import_ray() -> None:
    code = "import sys, dataengine.api, dataengine.cli.main; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
