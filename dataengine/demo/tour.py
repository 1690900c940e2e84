"""The demo itself: draw, ingest, build, verify, and check that exactly the planted defect was caught."""

from __future__ import annotations

import json
import shlex
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataengine import api
from dataengine.demo import data
from dataengine.errors import StorageError
from dataengine.specs.records import LedgerRow, Manifest, SourceSummary
from dataengine.verification import VerifyReport

Tell = Callable[[str, int, int], None]
LAKE, MIXTURE = "lake", "mixture"
_LOAD = (
    'from dataengine.loader import open_mixture; train = open_mixture({}, split="train", image_size=(96, 96));'
    " print(next(iter(train.batches(8, seed=0, epoch=0))).action.shape)"
)


@dataclass(frozen=True)
class Check:
    """Something that must hold for the demo to have worked, and whether it does."""

    name: str
    ok: bool
    what: str


@dataclass(frozen=True)
class Step:
    """A command to try next, and what it shows."""

    command: str
    shows: str


@dataclass(frozen=True)
class Demo:
    """What became of the demo. `caught` are the drops for bad input; `seconds` the time by stage."""

    out: Path
    engine: str
    version: str
    manifest: Manifest
    caught: tuple[LedgerRow, ...]
    verified: VerifyReport
    checks: tuple[Check, ...]
    seconds: dict[str, float]

    @property
    def ok(self) -> bool:
        """Exactly the planted defect was caught, everything is accounted for, and every file verified."""
        return all(check.ok for check in self.checks)

    @property
    def planted(self) -> data.Defect:
        return data.DEFECT

    @property
    def next_steps(self) -> tuple[Step, ...]:
        """Commands with real paths."""
        mixture, push = self.out / MIXTURE, self.out / data.RAW / "simulation"
        again = ["build", self.out / data.RECIPE, "--set", f"data={self.out / data.RAW}"]
        steps = [
            Step(_command("audit", mixture), "sources with their licences, drops, shards"),
            Step(_command("audit", mixture, "--shard", 0), "which episodes went into a shard"),
            *(
                Step(_command("audit", mixture, "--episode", row.uid[:16]), f"what became of {row.upstream_id}")
                for row in self.caught[:1]
            ),
            Step(_command("verify", mixture), "every byte against its digest"),
            Step(_command("inspect", push), "what lies in a raw folder, the broken episode included"),
            Step(_command("urls", mixture, "--split", "train"), "the shards, for any WebDataset reader"),
            Step(
                shlex.join(["python", "-c", _LOAD.format(json.dumps(str(mixture)))]),
                "a batch to train on: [samples, steps, channels]",
            ),
            Step(
                _command(*again, "--lake", self.out / LAKE, "--out", mixture),
                "the same build again: nothing is done twice (exit code 3 tells of the broken episode)",
            ),
        ]
        return tuple(steps)

    def sources(self) -> list[dict[str, Any]]:
        """One row a source, in the order of the recipe: what it shows, its layout, and its counts."""
        made = {source.source_id: source for source in self.manifest.sources}
        return [
            {"shows": source.shows, "layout": source.layout}
            | {name: getattr(made[source.name], name) for name in _SOURCE}
            for source in data.SOURCES
            if source.name in made
        ]

    def document(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        manifest, verified = self.manifest, self.verified
        return {
            "ok": self.ok,
            "out": str(self.out),
            "mixture": f"{self.out / MIXTURE}@{self.version}",
            "engine": self.engine,
            "planted": asdict(self.planted),
            "caught": [{name: getattr(row, name) for name in _CAUGHT} for row in self.caught],
            "checks": [asdict(check) for check in self.checks],
            "sources": self.sources(),
            "drops": dict(manifest.drops),
            "shards": len(manifest.shards),
            "bytes": sum(shard.bytes for shard in manifest.shards),
            "samples": manifest.samples,
            "verified": {"files": verified.files, "shards": verified.shards, "samples": verified.samples},
            "seconds": {stage: round(spent, 2) for stage, spent in self.seconds.items()},
            "next": [asdict(step) for step in self.next_steps],
        }


_CAUGHT = ("source_id", "upstream_id", "uid", "reason", "evidence")
_SOURCE = ("family", "source_id", "license", "episodes_in", "episodes_kept", "episodes_dropped", "samples")


def run(out: Path | None, tell: Tell, *, engine: api.EngineName = "ray", plant: bool = True) -> Demo:
    """Take five small data sets the whole way in the folder `out`, or in a new temporary one; nothing is deleted.

    A folder that holds something already is a `StorageError`. Without `plant` nothing is broken, so that the demo
    misses the defect it looks for.
    """
    folder = _folder(out)
    clock = _Clock()
    written = data.write_raw(folder, tell)
    if plant:
        data.spoil(folder)
    recipe = data.write_specs(folder)
    clock.lap("draw")
    parameters = {"data": str(folder / data.RAW)}
    built = api.build(str(recipe), folder / LAKE, folder / MIXTURE, engine=engine, parameters=parameters, tell=tell)
    clock.lap("ingest and build")
    version, manifest = built.report.version, built.report.manifest
    if manifest is None:
        raise StorageError("the build left no manifest", where=str(folder / MIXTURE))
    verified = api.verify(f"{folder / MIXTURE}@{version}", tell)
    clock.lap("verify")
    caught = tuple(built.report.bad_input)
    checks = _checks(written, manifest, caught, verified)
    return Demo(folder, built.engine, version, manifest, caught, verified, checks, clock.laps)


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        self.laps[stage], self._since = now - self._since, now


def _folder(out: Path | None) -> Path:
    if out is None:
        return Path(tempfile.mkdtemp(prefix="dataengine-demo-")).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StorageError("the demo writes into a new or an empty folder", where=str(out), fix="name another --out")
    out.mkdir(parents=True, exist_ok=True)
    return out.resolve()


def _checks(
    written: dict[str, int], manifest: Manifest, caught: tuple[LedgerRow, ...], verified: VerifyReport
) -> tuple[Check, ...]:
    by_source = {source.source_id: source for source in manifest.sources}
    total = sum(written.values())
    lost = sorted(name for name, count in written.items() if not _accounted(by_source.get(name), count))
    empty = sorted(name for name in written if name not in by_source or not by_source[name].samples)
    dropped = sum(manifest.drops.values())
    return (
        Check(
            "in = kept + dropped",
            not lost,
            f"not all of {', '.join(lost)} is accounted for" if lost else f"all {total} episodes are accounted for",
        ),
        Check(
            "five families",
            not empty,
            f"no sample of {', '.join(empty)}" if empty else f"{manifest.samples:,} samples, some of each family",
        ),
        _caught(caught, dropped),
        Check(
            "verified",
            not verified.problems,
            "; ".join(f"{entry.file}: {entry.reason}" for entry in verified.problems)
            or f"{verified.files} files are as they were written",
        ),
    )


def _accounted(source: SourceSummary | None, count: int) -> bool:
    return source is not None and source.episodes_in == count == source.episodes_kept + source.episodes_dropped


def _caught(caught: tuple[LedgerRow, ...], dropped: int) -> Check:
    """Whether exactly the planted defect was dropped."""
    planted = (data.DEFECT.source_id, data.DEFECT.upstream_id, data.DEFECT.reason)
    found = [(row.source_id, row.upstream_id, row.reason) for row in caught]
    others = max(dropped - found.count(planted), 0)
    what = f"planted: {_named([planted])}; caught: {_named(found)}"
    if others:
        what += f"; {others} dropped that should have been kept"
    return Check("exactly the planted defect was caught", found == [planted] and dropped == 1, what)


def _named(drops: list[tuple[str, str, str]]) -> str:
    return ", ".join(f"{source} {episode} {reason}" for source, episode, reason in drops) or "nothing"


def _command(*words: object) -> str:
    return shlex.join(["dataengine", *map(str, words)])
