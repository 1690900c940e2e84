"""What a reader should look at first: where a version is not what was asked for, lost much, or has odd values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

LEVELS = ("problem", "warning", "note")
SHARE_OFF, SHARE_POINTS = 0.2, 0.01  # a share off by a fifth and by a point is told
MUCH_DROPPED, SOME_DROPPED = 0.5, 0.1
MUCH_CUT = 0.01
_UNKNOWN = ("", "unknown", "NOASSERTION")
_UNITS = {"sample": "samples", "episode": "episodes", "frame": "steps", "hour": "hours"}
Finding = dict[str, str]


def findings(summary: Mapping[str, Any], channels: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Sentences with a level (`problem`, `warning`, `note`) and the page's section that shows more, worst first."""
    found = [
        *_accounting(summary),
        *(finding for source in summary["sources"] for finding in _source(source)),
        *_values(channels),
        *_terms(summary["sources"]),
    ]
    return sorted(found, key=lambda finding: LEVELS.index(finding["level"]))


def _finding(level: str, section: str, text: str) -> Finding:
    return {"level": level, "section": section, "text": text}


def _accounting(summary: Mapping[str, Any]) -> Iterator[Finding]:
    totals = summary["totals"]
    if totals["bad_input"]:
        text = f"{totals['bad_input']:,} dropped for bad input that the recipe does not accept by name"
        yield _finding("problem", "drops", text)
    splits = {part["name"] for part in summary["parts"]["split"] if part["samples"]}
    if splits == {"train"}:
        yield _finding("note", "mixture", "nothing is held out: the version has no valid split")


def _source(source: Mapping[str, Any]) -> Iterator[Finding]:
    name, came, gone = source["entry"], source["episodes_in"], source["episodes_dropped"]
    if not source["samples"] and gone < came:
        yield _finding("warning", "mixture", f"{name} gives no sample")
    planned, got = source["planned"], source["realized"]
    if planned is not None and source["samples"] and _off(planned, got):
        yield _finding("warning", "mixture", f"{name} is {got:.1%} of the mixture, {planned:.1%} was planned")
    wanted = source["requested"]
    if planned is not None and source["capped"] and _off(wanted, got):
        text = f"{name} is {got:.1%} of the mixture: its weight asks for {wanted:.1%},"
        yield _finding("note", "mixture", f"{text} its cap leaves {source['cap']:,g} {_UNITS[source['cap_unit']]}")
    if came and gone / came >= SOME_DROPPED:
        level = "warning" if gone / came >= MUCH_DROPPED else "note"
        yield _finding(level, "drops", f"{name} lost {gone:,} of {came:,} episodes ({gone / came:.0%})")
    total, kept = source["steps"], source["kept_steps"]
    if total and kept is not None and 1 - kept / total >= SOME_DROPPED:
        level = "warning" if 1 - kept / total >= MUCH_DROPPED else "note"
        text = f"filters and steps took {1 - kept / total:.0%} of the steps of {name}'s kept episodes"
        yield _finding(level, "drops", text)


def _off(wanted: float, got: float) -> bool:
    return abs(got - wanted) > max(SHARE_POINTS, SHARE_OFF * wanted)


def _values(channels: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    cut = sorted((row for row in channels if (row["cut"] or 0) >= MUCH_CUT), key=lambda row: -row["cut"])
    if cut:
        worst = cut[0]
        where = f"{worst['group']}, {worst['side']} {worst['slot']} {worst['name']} ({worst['form']})"
        text = f"{len(cut):,} channels have {MUCH_CUT:.0%} or more of their values cut off; most"
        yield _finding("warning", "values", f"{text} {worst['cut']:.1%}: {where}")
    frozen = [row for row in channels if row["class"] == "constant" and row["form"] == "absolute"]
    if frozen:
        slots = sorted({f"{row['group']} {row['slot']}" for row in frozen})
        named = ", ".join(slots[:3]) + (f" and {len(slots) - 3} more" if slots[3:] else "")
        yield _finding("note", "values", f"{len(frozen):,} channels never move: {named}")
    masked = sum(row["class"] == "empty" for row in channels)
    if masked:
        yield _finding("note", "values", f"{masked:,} channels have no value at all (masked throughout)")


def _terms(sources: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    used = [source for source in sources if source["samples"]]
    unknown = [source["entry"] for source in used if source["license"] in _UNKNOWN]
    if unknown:
        yield _finding("warning", "terms", f"licence unknown: {', '.join(unknown)}")
    closed = [source["entry"] for source in used if source["commercial_ok"] == "no"]
    if closed:
        yield _finding("note", "terms", f"no commercial use: {', '.join(closed)}")
    people = [s["entry"] for s in used if s["family"] == "egocentric" and s["consent"] in _UNKNOWN]
    if people:
        yield _finding("warning", "terms", f"people are recorded and their consent is unknown: {', '.join(people)}")
