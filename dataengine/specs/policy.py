"""What a recipe allows of its sources: licences, commercial use, consent, de-identification."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from dataengine.documents import Strict
from dataengine.specs.source import UNKNOWN, Deidentification, SourceInfo

Judged = Literal["license", "commercial_ok", "consent", "deidentification"]
Pattern = Annotated[str, Field(min_length=1)]
_TOKEN = re.compile(r"\(|\)|[^\s()]+")
_NOT_DONE = ("", UNKNOWN, "no", "not", "none")


def _yes(value: Any) -> Any:
    """YAML reads `yes` as true."""
    return "yes" if value is True else value


class AllowSpec(Strict):
    """What a recipe lets in; what it does not say is let in, but for an unknown licence.

    `licenses` are patterns of SPDX ids: of `A AND B` both must match, of `A OR B` one. `commercial: yes` wants sources
    whose `commercial_ok` is yes. `consent` are patterns of the basis (`not applicable*`). `deidentification: required`
    wants faces and number plates treated, or nobody recorded ("not applicable"). With `unknown: true` what nobody
    knows passes.
    """

    licenses: tuple[Pattern, ...] = ()
    commercial: Annotated[Literal["yes", "any"], BeforeValidator(_yes)] = "any"
    consent: tuple[Pattern, ...] | Literal["any"] = "any"
    deidentification: Literal["required", "any"] = "any"
    unknown: bool = False

    @model_validator(mode="after")
    def _something(self) -> AllowSpec:
        if not self.consent:
            raise ValueError("`consent` lets nobody in: name patterns, or `any`")
        return self


@dataclass(frozen=True)
class Refusal:
    """A fact of a source that the recipe does not allow, and what it wants instead."""

    field: Judged
    value: str
    wanted: str


def refusals(allow: AllowSpec | None, info: SourceInfo) -> Iterator[Refusal]:
    """What a recipe does not allow of a source. Without `allow` that is an unknown licence alone."""
    allow = allow or AllowSpec()
    known = info.license != UNKNOWN
    if not known and not allow.unknown:
        yield Refusal("license", info.license, "a known licence")
    elif known and allow.licenses and not license_allowed(info.license, allow.licenses):
        yield Refusal("license", info.license, ", ".join(allow.licenses))
    if allow.commercial == "yes" and info.commercial_ok not in _with_unknown("yes", allow):
        yield Refusal("commercial_ok", info.commercial_ok, "yes")
    basis = str(info.consent)
    if allow.consent != "any" and not _matches(basis, allow.consent) and not (allow.unknown and basis == UNKNOWN):
        yield Refusal("consent", basis, ", ".join(allow.consent))
    if allow.deidentification == "required" and not _deidentified(info.deidentification, unknown=allow.unknown):
        yield Refusal("deidentification", str(info.deidentification), "faces and plates treated, or nobody recorded")


def _with_unknown(wanted: str, allow: AllowSpec) -> tuple[str, ...]:
    return (wanted, UNKNOWN) if allow.unknown else (wanted,)


def _matches(value: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(value.lower(), pattern.lower()) for pattern in patterns)


def _deidentified(told: str | Deidentification, *, unknown: bool) -> bool:
    parts = (told,) if isinstance(told, str) else (told.faces, told.plates)
    return all(_done(part) or (unknown and part == UNKNOWN) for part in parts)


def _done(told: str) -> bool:
    words = re.findall(r"[a-z]+", told.lower()) or [""]
    return words[:2] == ["not", "applicable"] or words[0] not in _NOT_DONE


def license_allowed(expression: str, patterns: tuple[str, ...]) -> bool:
    """Whether an SPDX expression is allowed: AND needs both sides, OR one. What is no expression counts as one name."""
    tokens = _TOKEN.findall(expression)
    try:
        found, rest = _any_of(tokens, patterns)
    except IndexError:
        return _matches(expression, patterns)
    return found if not rest else _matches(expression, patterns)


def _any_of(tokens: list[str], patterns: tuple[str, ...]) -> tuple[bool, list[str]]:
    found, rest = _all_of(tokens, patterns)
    while rest and rest[0].upper() == "OR":
        more, rest = _all_of(rest[1:], patterns)
        found = found or more
    return found, rest


def _all_of(tokens: list[str], patterns: tuple[str, ...]) -> tuple[bool, list[str]]:
    found, rest = _one(tokens, patterns)
    while rest and rest[0].upper() == "AND":
        more, rest = _one(rest[1:], patterns)
        found = found and more
    return found, rest


def _one(tokens: list[str], patterns: tuple[str, ...]) -> tuple[bool, list[str]]:
    if tokens[0] == "(":
        found, rest = _any_of(tokens[1:], patterns)
        return found, rest[1:] if rest[0] == ")" else rest
    if len(tokens) > 2 and tokens[1].upper() == "WITH":  # an exception only permits more
        return _matches(tokens[0], patterns) or _matches(" ".join(tokens[:3]), patterns), tokens[3:]
    return _matches(tokens[0], patterns), tokens[1:]
