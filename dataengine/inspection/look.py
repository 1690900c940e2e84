"""Inspect: which format a path is of, and what its episodes really hold (read from the data, not from metadata)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from dataengine import plugins
from dataengine.convert import Conversion, convert
from dataengine.documents import spec_files
from dataengine.episode import Episode, RawEpisode
from dataengine.errors import BadInput, SpecError
from dataengine.evidence import RawEvidence, episode_evidence
from dataengine.formats.base import Detection, EpisodeRef, ScanProblem, get_format, layouts_of
from dataengine.inspection.draft import draft
from dataengine.inspection.found import Inspection
from dataengine.inspection.kinds import gathered, kind_of
from dataengine.inspection.places import all_files, data_sets, detect, entries, other_files
from dataengine.inspection.streams import Streams, units_of
from dataengine.inspection.strip import strip
from dataengine.specs.converter import Converter, load_converter
from dataengine.storage import SourceRoot, root_and_files
from dataengine.transforms.language import MAX_NAME, printable

MAX_NEAR = 5
MAX_NAMED = 20
OWN = ("hdf5_episodes", "table_episodes", "video_segments", "rosbag")
"""Formats that take anybody's files: the converter says what is where."""
MAX_CONVERTED = 50
MAX_CONVERTED_BYTES = 512 << 20
"""Episodes that evidence is pooled over: so many, or so many bytes of pictures in all."""
ELSEWHERE = ("missing_file", "not_a_folder", "not_a_recording", "unknown_layout", "no_episodes", "missing_option")
"""What a format says of data that are another's."""
Tell = Callable[[str, int, int], None]


def inspect(
    path: Path,
    *,
    format_name: str | None,
    limit: int,
    tell: Tell,
    converter: str | None = None,
    strip_at: Path | None = None,
    spec_at: Path | None = None,
    shown_as: str | None = None,
) -> Inspection:
    """Detect (or take the given format), scan, and read up to `limit` episodes.

    With a `converter` its format and options are taken, and evidence is gathered on the converted episodes too. A strip
    of frames of the first episode is written to `strip_at`, a converter to edit to `spec_at`. `shown_as` is how the
    path is written in the next command.
    """
    conversion = Conversion.load(converter) if converter is not None else None
    if conversion is not None:
        format_name = conversion.converter.format.name
    root, only = root_and_files(path)
    with root.listed():
        claims = _claims(root, only, format_name)
        if only is None and format_name is None:
            several = data_sets(root, claims)
            if several is not None:
                return _collection(shown_as or str(path), *several)
        if not claims:
            raise _nothing(root, only, path)
        best = claims[0]
        if conversion is not None:
            best = replace(best, options=conversion.converter.format.options)
        result = _opened(str(path), claims)
        look = _Look(root, only, best, conversion)
        look.read(limit, tell, result)
        result.converter = conversion.converter.name if conversion is not None else None
        if conversion is None:
            result.fitting = [name for name in result.converters if _fits(root, only, name, best)]
        _name_units(result, look, conversion)
        if strip_at is not None and look.first is not None:
            result.strip = strip(look.first, conversion.converter if conversion else None, strip_at)
        if spec_at is not None:
            result.spec = draft(look.raws, result, path, spec_at)
        result.next = _next(result, shown_as or str(path), converter)
        return result


def _claims(root: SourceRoot, only: str | None, format_name: str | None) -> list[Detection]:
    claims = detect(root, only)
    if format_name is not None:
        get_format(format_name)
        claims.sort(key=lambda claim: claim.format != format_name)
        if not claims or claims[0].format != format_name:
            claims.insert(0, Detection(format_name, 0.0, ("named by you; the format itself does not recognise it",)))
    return claims


def _opened(path: str, claims: Sequence[Detection]) -> Inspection:
    best = claims[0]
    layouts = {layout.name: layout for layout in layouts_of(best.format)}
    layout = layouts.get(best.layout or "") or (next(iter(layouts.values())) if len(layouts) == 1 else None)
    return Inspection(
        path,
        best.format,
        best.confidence,
        list(best.evidence),
        [claim.format for claim in claims[1:]],
        layout=layout.name if layout else best.layout,
        status=layout.status if layout else None,
        options=dict(best.options),
        converters=[name for name in spec_files("converters") if load_converter(name).format.name == best.format],
    )


def _collection(path: str, places: Any, others: Any) -> Inspection:
    result = Inspection(path, None, 1.0, ["its folders are data sets of their own"], [])
    result.places, result.other_files = places, others
    result.next = f"dataengine inspect {path.rstrip('/')}/{places[0].path}"
    return result


def _nothing(root: SourceRoot, only: str | None, path: Path) -> SpecError:
    near = "".join(f"; {line}" for line in _near(root, only))
    files = [only] if only is not None else all_files(root)
    if not files and not near:
        return SpecError(f"{path} is an empty folder", fix="check the path, and that the data were copied or mounted")
    groups = gathered(files)
    named = "".join(
        f"\n  {printable(name, MAX_NAME)}{f' and {count - 1:,} like it' if count > 1 else ''}: {kind_of(root, name)}"
        for name, count in groups[:MAX_NAMED]
    )
    left = sum(count for _, count in groups[MAX_NAMED:])
    more = f"\n  and {left:,} files more" if left else ""
    return SpecError(
        f"no format recognises {path}{near}{named}{more}",
        fix=f"`dataengine formats` lists what is read, --format NAME asks one reader ({', '.join(OWN)} for your own"
        " logs); another format is a plugin: docs/writing-a-format.md",
    )


def _near(root: SourceRoot, only: str | None) -> list[str]:
    """Files that look like a format's and cannot be read: why a damaged data set is not recognised."""
    found = {at: f"{at}: {reason}: {what}" for at, (reason, what) in sorted(root.refused.items())}
    for name in plugins.names(plugins.FORMATS):
        for entry in islice(entries(root, only, Detection(name, 0.0, ())), MAX_NEAR):
            told = isinstance(entry, ScanProblem) and entry.reason not in ELSEWHERE
            if isinstance(entry, ScanProblem) and told and not _sound(root, entry.upstream_id):
                found.setdefault(entry.upstream_id, f"{name} on {entry.upstream_id}: {entry.reason}: {entry.what}")
    return list(found.values())[:MAX_NEAR]


def _fits(root: SourceRoot, only: str | None, name: str, found: Detection) -> bool:
    """Whether a shipped converter converts the first episode that its own options select.

    One that names none of the tables or columns that were found reads something else of this folder.
    """
    try:
        conversion = Conversion.load(name)
        own = conversion.converter.format.options
        if any(isinstance(value, Mapping) and option not in own for option, value in found.options.items()):
            return False
        source = get_format(conversion.converter.format.name)
        refs = source.scan(root, only, conversion.converter.format.options)
        first = next((entry for entry in refs if not isinstance(entry, ScanProblem)), None)
        return first is not None and convert(source.read(root, first), conversion).steps > 0
    except (BadInput, SpecError):
        return False


def _sound(root: SourceRoot, path: str) -> bool:
    """Whether a file that a format cannot read is whole JSON, so of another kind rather than damaged."""
    return root.exists(path) and kind_of(root, path).startswith(("JSON", "GR00T"))


def _name_units(result: Inspection, look: _Look, conversion: Conversion | None) -> None:
    """Units are known where a converter declares them: the given one, or the only one that fits."""
    spec: Converter | None = conversion.converter if conversion is not None else None
    if spec is None and len(result.fitting) == 1:
        spec = load_converter(result.fitting[0])
    if spec is None:
        return
    result.unit_from = spec.name
    units: dict[str, set[str]] = {}
    for mapping in (*spec.state, *spec.action):
        units.setdefault(mapping.array, set()).add(mapping.unit)
    if spec.time.array is not None and spec.time.unit is not None and spec.time.column is None:
        units.setdefault(spec.time.array, set()).add(spec.time.unit)
    units_of(units, look.streams.found)


def _next(result: Inspection, path: str, converter: str | None) -> str:
    if converter is not None:
        return f"dataengine ingest {path} --converter {converter} --lake LAKE --dry-run"
    if not result.read and not result.fitting:
        return "no episode could be read: see the problems; another reader is chosen with --format NAME"
    if result.spec is not None:
        return f"edit every UNKNOWN in {result.spec}, then: dataengine inspect {path} --converter {result.spec}"
    if len(result.fitting) == 1:
        return f"dataengine inspect {path} --converter {result.fitting[0]}"
    if result.fitting:
        return f"dataengine inspect {path} --converter NAME, with one of {', '.join(result.fitting)}"
    return f"dataengine inspect {path} --spec my_source.yaml"


class _Look:
    """What reading up to a limit of episodes shows: streams, evidence, and the first raw episodes."""

    def __init__(self, root: SourceRoot, only: str | None, best: Detection, conversion: Conversion | None) -> None:
        self._root, self._only, self._best, self._conversion = root, only, best, conversion
        self.streams = Streams()
        self.raws: list[RawEpisode] = []
        self._raw = RawEvidence()
        self._episodes: list[Episode] = []
        self._bytes = 0
        self._used: set[str] = set()

    @property
    def first(self) -> RawEpisode | None:
        return self.raws[0] if self.raws else None

    def read(self, limit: int, tell: Tell, result: Inspection) -> None:
        """Scan all, read up to `limit` episodes, and write what was found into `result`."""
        refs = self._scan(result)
        for done, ref in enumerate(refs[:limit], start=1):
            try:
                self._add(get_format(self._best.format).read(self._root, ref), result)
            except BadInput as error:
                told = f"{error.what}; {error.fix}" if error.fix else error.what
                result.problems.append({"at": ref.upstream_id, "reason": error.reason, "what": told})
            tell("inspect", done, min(limit, len(refs)))
        result.steps, result.frames = self.streams.steps, self.streams.frames
        result.decoded = self.streams.decoded
        result.streams = [self.streams.found[name] for name in sorted(self.streams.found)]
        result.judged = self._raw.episodes if self._conversion is None else len(self._episodes)
        result.verdicts = self._verdicts()
        files = [self._only] if self._only is not None else all_files(self._root)
        result.other_files = other_files(self._root, files, self._used)
        result.files = len(files) - sum(path not in self._used for path in files)

    def _scan(self, result: Inspection) -> list[EpisodeRef]:
        refs = []
        for entry in entries(self._root, self._only, self._best):
            if isinstance(entry, ScanProblem):
                result.problems.append({"at": entry.upstream_id, "reason": entry.reason, "what": entry.what})
            else:
                refs.append(entry)
                self._used.update(entry.files)
        named = {problem["at"] for problem in result.problems}
        for at, (reason, what) in sorted(self._root.refused.items()):
            if at not in named:
                result.problems.append({"at": at, "reason": reason, "what": what})
        result.found = len(refs)
        return refs

    def _add(self, raw: RawEpisode, result: Inspection) -> None:
        self._used.update(file.path for file in raw.files)
        self.streams.add(raw)
        result.read += 1
        result.attributes = result.attributes or dict(raw.attributes)
        unread = raw.attributes.get("unread")
        result.unread = result.unread or ([str(name) for name in unread] if isinstance(unread, list) else [])
        if len(self.raws) < 2:
            self.raws.append(raw)
        if self._conversion is None:
            self._raw.add(raw)
        elif len(self._episodes) < MAX_CONVERTED and (self._bytes < MAX_CONVERTED_BYTES or not self._episodes):
            episode = convert(raw, self._conversion)
            self._bytes += sum(len(media.payload) for media in episode.media.values())
            self._episodes.append(replace(episode, native={}))

    def _verdicts(self) -> list[dict[str, Any]]:
        if self._conversion is None:
            return [verdict.document() for verdict in self._raw.verdicts()]
        found = episode_evidence(self._episodes, self._conversion.converter, card=self._conversion.card)
        return [verdict.document() for verdict in found]
