"""What `inspect` says, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from dataengine.inspection.kinds import gathered


@dataclass
class Stream:
    """One stream as found: how many episodes have it, element type, shape behind the time axis, rate in Hz.

    `steps` counts rows, frames or texts that were really read. Of pictures, `decoded` counts those that were decoded
    (all, up to the bound that `Inspection` tells). `gaps` counts steps of the stream's clock that are over 1.5 times
    the usual one, `backwards` those of 0 or less. `unit` is what a converter declares (its name in `unit_from`).
    """

    name: str
    kind: str
    dtype: str
    shape: list[int]
    episodes: int = 0
    steps: int = 0
    rate_hz: float | None = None
    low: float | None = None
    high: float | None = None
    not_finite: int = 0
    varies: bool = False
    gaps: int | None = None
    backwards: int | None = None
    decoded: int | None = None
    unit: str | None = None


@dataclass
class Other:
    """A file that no episode of the format is read from, and what it is by its own bytes."""

    path: str
    kind: str


@dataclass
class Place:
    """A data set below a folder of several: where, of which format and layout, how many episodes and problems."""

    path: str
    format: str
    layout: str | None
    episodes: int
    problems: int


@dataclass
class Inspection:
    """What `inspect` says. `read` of `found` episodes were read; problems name file and episode.

    `frames` counts the pictures of the read episodes, of which `decoded` were decoded. `verdicts` (check, where,
    status, says, fix, figures) rest on `judged` episodes: of the raw streams, or of what a `converter` makes of them.
    `fitting` are the shipped converters that convert the first episode. `others` could read it too. `files` of all
    below the path belong to episodes; the rest is named in `other_files`. `places` are the data sets of a folder that
    holds several, and then nothing else is filled.
    """

    path: str
    format: str | None
    confidence: float
    evidence: list[str]
    others: list[str]
    layout: str | None = None
    status: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    converters: list[str] = field(default_factory=list)
    found: int = 0
    read: int = 0
    steps: int = 0
    frames: int = 0
    decoded: int = 0
    streams: list[Stream] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    problems: list[dict[str, str]] = field(default_factory=list)
    converter: str | None = None
    unit_from: str | None = None
    fitting: list[str] = field(default_factory=list)
    judged: int = 0
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    files: int = 0
    other_files: list[Other] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    strip: str | None = None
    spec: str | None = None
    next: str = ""

    def document(self) -> dict[str, Any]:
        return asdict(self)

    def others_gathered(self) -> list[tuple[str, str, int]]:
        """Path, kind and number of the other files; more than three of one folder, ending and kind are one entry."""
        kinds = {other.path: other.kind for other in self.other_files}
        return [(path, kinds[path], count) for path, count in gathered(list(kinds), kinds)]
