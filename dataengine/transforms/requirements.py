"""Whether an episode is of the source that a converter was made for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dataengine.documents import canonical_json
from dataengine.errors import EpisodeError
from dataengine.specs.requires import Requirement
from dataengine.transforms.fields import attribute

MAX_TOLD = 120


def check_required(requires: Sequence[Requirement], attributes: Mapping[str, Any]) -> None:
    """Raises `EpisodeError` `unexpected_attribute` (with the first difference), or `missing_attribute`."""
    for entry in requires:
        different = _difference(attribute(attributes, entry.attribute), entry.equals, entry.attribute)
        if different is not None:
            at, found, wanted = different
            raise EpisodeError(
                "unexpected_attribute",
                f"{at} is {_told(found)} and not {_told(wanted)}, which the converter was made for",
                fix="a source of another layout needs a converter of its own: copy this one, and change `requires`",
            )


def _difference(found: Any, wanted: Any, at: str) -> tuple[str, Any, Any] | None:
    """Where two values of plain JSON differ first, as (place, found, wanted); 2 and 2.0 do not."""
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        inner = [(str(number), one, other) for number, (one, other) in enumerate(zip(found, wanted, strict=True))]
    elif isinstance(found, Mapping) and isinstance(wanted, Mapping) and found.keys() == wanted.keys():
        inner = [(key, found[key], wanted[key]) for key in sorted(found)]
    else:
        same = found == wanted and isinstance(found, bool) == isinstance(wanted, bool)
        return None if same else (at, found, wanted)
    return next((told for key, one, other in inner if (told := _difference(one, other, f"{at}/{key}"))), None)


def _told(value: Any) -> str:
    text = canonical_json(value).decode()
    return text if len(text) <= MAX_TOLD else f"{text[:MAX_TOLD]}..."
