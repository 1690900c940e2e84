"""What a format is. A format knows ONE on-disk layout and nothing of units, frames or slots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from dataengine.documents import unknown_name
from dataengine.episode import RawEpisode
from dataengine.errors import SpecError
from dataengine.plugins import FORMATS, load
from dataengine.storage import SourceRoot


@dataclass(frozen=True)
class EpisodeRef:
    """Where one episode lies: `locator` is plain JSON that `read` understands; `files` are what it will read.

    `hint` is what `scan` knows for free (a declared length, a task), for progress only, never trusted.
    """

    upstream_id: str
    locator: Mapping[str, Any]
    files: tuple[str, ...]
    hint: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScanProblem:
    """Something `scan` could not turn into a ref: a whole file (`unit` "file") or one episode of it.

    It becomes one row of the drop ledger, with `upstream_id` naming file and episode.
    """

    unit: Literal["episode", "file"]
    upstream_id: str
    reason: str
    what: str


@dataclass(frozen=True)
class Detection:
    """Why a folder or file is believed to be of a format; `confidence` 0..1 orders rivals."""

    format: str
    confidence: float
    evidence: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


class Format(Protocol):
    """A reader of one layout. Stateless; constructed without arguments; named by its entry point.

    Raises `FormatError` for a file and `EpisodeError` for an episode that cannot be used, each with a reason code;
    never another exception for bad data, never a value that was trimmed, padded or guessed.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    summary: ClassVar[str]

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """Evidence that the root (or its one file `only`) is of this layout, read cheaply; None if not."""
        ...

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every episode in a stable order, without reading their content. `options` come from the converter."""
        ...

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """Read one episode. Its digest covers the raw bytes that were consumed."""
        ...


def check_options(options: Mapping[str, Any], known: Iterable[str], format: str) -> None:
    """A converter's `format.options` hold only what the format knows; anything else is a `SpecError`."""
    for name in options:
        if name not in set(known):
            raise unknown_name(f"option of the format {format}", name, known)


def option_names(options: Mapping[str, Any], name: str, default: Sequence[str]) -> tuple[str, ...]:
    """An option that is a list of texts, or its default; another type is a `SpecError`."""
    found = options.get(name, default)
    if not isinstance(found, list | tuple) or not all(isinstance(item, str) for item in found):
        raise SpecError(f"the option `{name}` is a list of texts, not {found!r}", fix="correct `format.options`")
    return tuple(found)


def get_format(name: str) -> Format:
    """The format called `name`, shipped or from a plugin."""
    made: Format = load(FORMATS, name)()
    return made
