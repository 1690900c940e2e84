"""Select: which rows of the lake a recipe takes in, under which of its sources, and in which split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from dataengine.errors import SpecError
from dataengine.lake import Lake, Snapshot
from dataengine.lake_rows import SELECTABLE, Head
from dataengine.mixture.roster import Roster, RosterBuilder
from dataengine.plan import choose_split
from dataengine.relabel.recipes import Relabelled
from dataengine.specs.recipe import Recipe, RecipeSource, Selection

_COLUMNS = {
    "converters": "converter",
    "sources": "source_id",
    "families": "family",
    "embodiments": "embodiment",
    "control_modes": "control_mode",
}


@dataclass(frozen=True)
class Inputs:
    """The lake as a build sees it: one snapshot, the rows the recipe selects, and their digest.

    `answers` are what models said to the recipe's steps that ask them.
    """

    lake: Lake
    snapshot: Snapshot
    heads: Roster
    digest: str
    answers: Relabelled = field(default_factory=Relabelled)


class Splitter:
    """The split of each row: its source's, or the one it is pinned to, or by hash of its group."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._pinned = {name: split for split, names in recipe.split.pinned.items() for name in names}
        self._seen: set[str] = set()

    def of(self, head: Head, source: RecipeSource) -> str:
        """`train` or `valid`; of the names that a row may be pinned by its uid counts first, its group last."""
        for name in (head.uid, head.upstream_id, head.group) if self._pinned else ():
            if name in self._pinned:
                self._seen.add(name)
                return source.split if source.split != "hash" else self._pinned[name]
        if source.split != "hash":
            return source.split
        return choose_split(head.group or head.uid, self._recipe.split.valid, self._recipe.seed)

    def check(self) -> None:
        """A `SpecError` when a pinned name is no row's."""
        lost = sorted(self._pinned.keys() - self._seen)
        if lost:
            raise SpecError(
                f"{len(lost):,} names in `split.pinned` are no group, upstream id or uid of the recipe's episodes",
                where=lost[0],
                fix="correct them, or take them out",
            )


def select(recipe: Recipe, lake: Lake) -> Inputs:
    """The rows of every source of the recipe; a source without rows is a `SpecError`."""
    snapshot = lake.snapshot()
    builder = RosterBuilder([source.entry for source in recipe.sources])
    splitter = Splitter(recipe)
    for source in recipe.sources:
        count = len(builder)
        for heads in _rows(source, lake, snapshot):
            builder.add(source.entry, heads, lambda head, source=source: splitter.of(head, source))  # type: ignore[misc]
        if len(builder) == count:
            raise _nothing(source, lake, snapshot)
    splitter.check()
    roster = builder.made()
    return Inputs(lake, snapshot, roster, roster.digest())


def vacant(recipe: Recipe, lake: Lake) -> list[str]:
    """The recipe's sources of which the lake shows no row: what they chose was forgotten, or never came in."""
    snapshot = lake.snapshot()
    return [source.entry for source in recipe.sources if not any(map(bool, _rows(source, lake, snapshot)))]


def _rows(source: RecipeSource, lake: Lake, snapshot: Snapshot) -> Iterator[list[Head]]:
    """The rows of a source; with `where` what could not be read stays, so that it is accounted for."""
    clauses = [f"converter = {_quoted(source.converter)}"] if source.converter is not None else []
    if source.select is not None:
        clauses += _exact(source.select)
    chosen = " and ".join(clauses) or None
    if source.where is None:
        for heads in lake.head_batches(snapshot, chosen):
            yield _matching(heads, source.select)
        return
    where = f"(status != 'ok' or ({source.where}))"
    usable = there = False
    try:
        for heads in lake.head_batches(snapshot, f"{chosen} and {where}" if chosen else where):
            found = _matching(heads, source.select)
            usable |= any(head.status == "ok" for head in found)
            yield found
        there = usable or any(map(bool, lake.head_batches(snapshot, chosen)))
    except (OSError, ValueError) as error:
        raise SpecError(
            f"`where` of {source.entry} is no predicate over the lake: {str(error).splitlines()[0][:300]}",
            where=source.where,
            fix=f"its columns: {', '.join(SELECTABLE)}",
        ) from None
    if there and not usable:
        raise SpecError(f"`where` of {source.entry} chooses no episode", where=source.where, fix="loosen it")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _exact(selection: Selection) -> Iterator[str]:
    """What of a selection the lake itself can choose: names without wildcards."""
    for name, column in _COLUMNS.items():
        wanted: tuple[str, ...] = getattr(selection, name)
        if wanted and not any(set(pattern) & set("*?[") for pattern in wanted):
            yield f"{column} in ({', '.join(map(_quoted, wanted))})"


def _matching(heads: list[Head], selection: Selection | None) -> list[Head]:
    return heads if selection is None else [head for head in heads if chosen(head, selection)]


def chosen(head: Head, selection: Selection) -> bool:
    """Whether a selection takes a row."""
    known: dict[str, tuple[str, ...]] = {name: (getattr(head, column),) for name, column in _COLUMNS.items()}
    known |= {"licenses": (head.source.license,), "tags": head.source.tags}
    return all(
        any(fnmatchcase(value, pattern) for value in values for pattern in wanted)
        for name, values in known.items()
        if (wanted := getattr(selection, name))
    )


def _nothing(source: RecipeSource, lake: Lake, snapshot: Snapshot) -> SpecError:
    made = sorted({head.converter for heads in lake.head_batches(snapshot) for head in heads})
    what = f"that converter {source.converter!r} made" if source.converter else f"that {source.entry!r} selects"
    return SpecError(
        f"the lake holds nothing {what}",
        where=str(lake.path),
        fix="ingest the source, or give its `path` in the recipe; the lake holds what"
        f" {', '.join(made) or 'no converter'} made",
    )
