"""Which files below a path belong to episodes, which are other, and which folders are data sets of their own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from dataengine import plugins
from dataengine.errors import BadInput, DataEngineError, SpecError
from dataengine.formats.base import Detection, EpisodeRef, ScanProblem, get_format
from dataengine.inspection.found import Other, Place
from dataengine.inspection.kinds import kind_of
from dataengine.storage import SourceRoot

MAX_FILES = 100_000
_DIGITS = re.compile(r"\d+")
MAX_OTHERS = 2_000
MAX_DEPTH = 8
COVERED = 0.5
"""A format whose episodes hold this share of a folder's bytes speaks for the folder."""
GENERIC = 0.2
"""Below this a reader of anybody's files takes what no format of a name knows."""
STRONG, SURE = 0.7, 0.5
"""A claim counts beside the best one when its confidence is this share of the best's, and at least `SURE`."""
ALIKE = 20
"""Folders whose files are called alike that are looked into: runs of one recorder are thousands."""
APART = 0.02
"""Of a folder's bytes, how much a second format must hold that the first does not, to be a data set beside it."""


def detect(root: SourceRoot, only: str | None) -> list[Detection]:
    """Every format that claims the path, the most confident first."""
    found = []
    with root.listed():
        for name in plugins.names(plugins.FORMATS):
            try:
                detection = get_format(name).detect(root, only)
            except BadInput:
                detection = None
            if detection is not None:
                found.append(detection)
    return sorted(found, key=lambda detection: (-detection.confidence, detection.format))


def entries(root: SourceRoot, only: str | None, best: Detection) -> Iterator[EpisodeRef | ScanProblem]:
    """What a format's `scan` finds; a file that stops it is a problem like others."""
    try:
        yield from get_format(best.format).scan(root, only, best.options)
    except BadInput as error:
        yield ScanProblem("file", error.where or only or ".", error.reason, error.what)
    except SpecError as error:  # an option without a default: a converter gives it
        told = f"{error.what}; {error.fix}" if error.fix else error.what
        yield ScanProblem("file", only or ".", "missing_option", told)


def all_files(root: SourceRoot) -> list[str]:
    """Every regular file below the root, at most 100,000 of them."""
    return root.files()[:MAX_FILES]


def other_files(root: SourceRoot, files: Sequence[str], used: set[str]) -> list[Other]:
    """The files that no episode is read from, named by what they are; the first 2,000."""
    rest = [path for path in files if path not in used]
    named = [Other(path, kind_of(root, path)) for path in rest[:MAX_OTHERS]]
    if len(rest) > MAX_OTHERS:
        named.append(Other("...", f"and {len(rest) - MAX_OTHERS:,} more"))
    return named


def data_sets(root: SourceRoot, claims: Sequence[Detection]) -> tuple[list[Place], list[Other]] | None:
    """The data sets below a folder that holds several, with what else lies there; None where it is one itself."""
    files = all_files(root)
    if not _is_collection(root, files, claims):
        return None
    places: list[Place] = []
    others: list[Other] = []
    _collect(root, "", files, places, others, MAX_DEPTH)
    return (places, others) if places else None


def _is_collection(root: SourceRoot, files: Sequence[str], claims: Sequence[Detection], depth: int = MAX_DEPTH) -> bool:
    """Whether folders below are data sets of their own.

    So it is where no format claims the whole, where two do that hold different files, or where the one that does holds
    few of the bytes (or takes whatever nobody knows) and a folder somewhere below is another format's.
    """
    folders = _by_folder(files)
    if not claims or not folders:
        return bool(folders)
    if claims[0].confidence < GENERIC:
        return any(_holds_another(root, *folder, claims[0], depth) for folder in _unlike(folders))
    sizes = {path: root.size(path) for path in files}
    total = sum(sizes.values())
    strong = [claim for claim in claims if claim.confidence >= _strong(claims[0]) or claim is claims[0]]
    used = [{file for entry in entries(root, None, claim) for file in _files_of(entry)} for claim in strong]
    for mine in used[1:]:
        if sum(sizes.get(path, 0) for path in mine - used[0]) >= APART * total:
            return True
    if sum(sizes.get(path, 0) for path in used[0]) >= COVERED * total:
        return False
    return any(_holds_another(root, *folder, claims[0], depth) for folder in _unlike(folders))


def _by_folder(files: Sequence[str]) -> dict[str, list[str]]:
    """The files of each folder directly below, by their paths from there; folders sorted."""
    found: dict[str, list[str]] = {}
    for path in files:
        name, slash, inner = path.partition("/")
        if slash:
            found.setdefault(name, []).append(inner)
    return dict(sorted(found.items()))


def _unlike(folders: Mapping[str, list[str]]) -> Iterator[tuple[str, list[str]]]:
    """Folders with their files; of those whose files are called alike but for numbers (runs), the first ones."""
    seen: Counter[frozenset[str]] = Counter()
    for name, inner in folders.items():
        shape = frozenset(_DIGITS.sub("0", path) for path in inner)
        seen[shape] += 1
        if seen[shape] <= ALIKE:
            yield name, inner


def _strong(best: Detection) -> float:
    return max(SURE, STRONG * best.confidence)


def _holds_another(root: SourceRoot, name: str, inner: Sequence[str], best: Detection, depth: int) -> bool:
    """Whether the folder `name` with the files `inner`, or one below it, is strongly another format's than `best`'s."""
    folder = SourceRoot(root.path / name)
    found = detect(folder, None)
    if any(claim.format != best.format and claim.confidence >= _strong(best) for claim in found[:1]):
        return True
    known = any(claim.confidence >= GENERIC for claim in found)
    deeper = _unlike(_by_folder(inner))
    return not known and depth > 0 and any(_holds_another(folder, *each, best, depth - 1) for each in deeper)


def _files_of(entry: EpisodeRef | ScanProblem) -> tuple[str, ...]:
    if isinstance(entry, EpisodeRef):
        return entry.files
    return (entry.upstream_id.partition("#")[0],)


def _collect(
    root: SourceRoot, prefix: str, files: Sequence[str], places: list[Place], others: list[Other], depth: int
) -> None:
    """Look into each folder directly below `prefix`, and at the files that lie there."""
    for name, inner in _by_folder(files).items():
        folder = SourceRoot(root.path / name)
        claims = detect(folder, None)
        if claims and (depth == 0 or not _is_collection(folder, inner, claims)):
            places.append(_place(folder, None, f"{prefix}{name}", claims[0]))
            used = {file for entry in entries(folder, None, claims[0]) for file in _files_of(entry)}
            others += [Other(f"{prefix}{name}/{o.path}", o.kind) for o in other_files(folder, inner, used)]
        elif depth:
            _collect(folder, f"{prefix}{name}/", inner, places, others, depth - 1)
    for path in (path for path in files if "/" not in path):
        claims = detect(root, path)
        if claims:
            places.append(_place(root, path, f"{prefix}{path}", claims[0]))
        elif len(others) < MAX_OTHERS:
            others.append(Other(f"{prefix}{path}", kind_of(root, path)))


def _place(root: SourceRoot, only: str | None, name: str, claim: Detection) -> Place:
    found, problems = 0, 0
    try:
        for entry in entries(root, only, claim):
            found, problems = (found + 1, problems) if isinstance(entry, EpisodeRef) else (found, problems + 1)
    except DataEngineError:  # such as a library that is not installed
        problems += 1
    return Place(str(PurePosixPath(name)), claim.format, claim.layout, found, problems)
