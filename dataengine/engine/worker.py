"""What a worker on another machine does: look whether it sees what the driver sees, then run one task.

Knows nothing of the scheduler that starts it.
"""

from __future__ import annotations

import os
import pickle
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from dataengine.engine.base import Result
from dataengine.errors import DataEngineError, SpecError, StorageError
from dataengine.shards.samples import encoder_versions
from dataengine.storage import Store

LOOK_SECONDS = 5.0  # a shared file system may show a new file some seconds late
_seen: set[str] = set()


@dataclass(frozen=True)
class Sight:
    """What a worker must see: `note` in the store at `place`, and `folders`; and the versions it must have.

    Fields are empty where nothing is asked, as on a scheduler that has this machine alone. Relative paths of a task are
    relative to `cwd`, the driver's.
    """

    place: str = ""
    note: str = ""
    folders: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""


def versions() -> dict[str, str]:
    """What must be the same everywhere, so that any worker makes the same bytes."""
    return {"dataengine": version("dataengine"), "numpy": version("numpy"), **encoder_versions()}


def work(packed: bytes, sight: Sight) -> bytes:
    """Run a pickled (function, task). Returns the pickled result, or the pickled `DataEngineError` that it raised."""
    try:
        _look(sight)
        function, task = pickle.loads(packed)  # noqa: S301 - made by our own driver
        result: Result | DataEngineError = function(task)
    except DataEngineError as error:  # the scheduler would wrap it; the driver raises it as it is
        result = error
    return pickle.dumps(result)


def _look(sight: Sight) -> None:
    """Compare what this process sees with what it must see, once a process."""
    if sight.note in _seen:
        return
    own = versions() if sight.versions else {}
    other = sorted(name for name in sight.versions if own.get(name) != sight.versions[name])
    if other:
        told = ", ".join(f"{name} {own.get(name)} for {sight.versions[name]}" for name in other)
        raise SpecError(
            f"the worker on {platform.node()} has other versions than the driver: {told}",
            fix="install the same dataengine and dependencies on every node (docs/cluster.md)",
        )
    deadline = time.monotonic() + LOOK_SECONDS
    while (missing := _missing(sight)) is not None:
        if time.monotonic() > deadline:
            raise StorageError(
                f"the worker on {platform.node()} does not see what the driver sees",
                where=missing,
                fix="lay lake and mixture on S3 or on a file system that every node has at the same path, or build with"
                " --engine local (docs/cluster.md)",
            )
        time.sleep(LOOK_SECONDS / 20)
    if sight.cwd and Path(sight.cwd).is_dir():
        os.chdir(sight.cwd)
    _seen.add(sight.note)


def _missing(sight: Sight) -> str | None:
    for folder in sight.folders:
        if not Path(folder).is_dir() or next(Path(folder).iterdir(), None) is None:
            return folder
    if not sight.place:
        return None
    store = Store(sight.place)
    try:
        return None if store.exists(sight.note) else store.address
    except StorageError as error:
        raise StorageError(
            f"the worker on {platform.node()} cannot read what the driver wrote: {error.what}",
            where=error.where or store.address,
            fix="give the workers the same credentials and endpoint as the driver (docs/cluster.md)",
        ) from error
