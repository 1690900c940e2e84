"""Text from sources that nobody vouches for: what may become an instruction, a turn of a conversation, or a name."""

from __future__ import annotations

import re

from dataengine.errors import EpisodeError

MAX_TEXT = 1 << 16
MAX_NAME = 1024
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_UNPRINTED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def check_text(text: str, name: str) -> None:
    """Refuse (`EpisodeError` `bad_text`) a text of more than 65,536 characters or with characters no reader sees.

    Those are control characters other than white space, half surrogate pairs, and the Unicode controls that turn
    the direction of what follows: with them a person reads another text than a model does.
    """
    if len(text) > MAX_TEXT:
        raise EpisodeError("bad_text", f"{name} holds {len(text):,} characters, more than {MAX_TEXT:,}")
    told = _hidden(text)
    if told is not None:
        raise EpisodeError("bad_text", f"{name} holds {told}")


def bad_name(name: str) -> str | None:
    """What is wrong with the name of an episode or file, or None: too long, or characters that do not print."""
    if len(name) > MAX_NAME:
        return f"its name holds {len(name):,} characters, more than {MAX_NAME:,}"
    told = _hidden(name) or ("a line break or tab" if _UNPRINTED.search(name) else None)
    return None if told is None else f"its name holds {told}"


def printable(text: str, limit: int) -> str:
    """The text in one line, with characters that do not print written as escapes, cut at `limit` characters."""
    shown = _UNPRINTED.sub(lambda found: _escaped(found.group()), text[:limit])
    return shown if len(text) <= limit else f"{shown}... ({len(text):,} characters)"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _hidden(text: str) -> str | None:
    for pattern, told in (
        (_CONTROL, "a control character"),
        (_DIRECTION, "a character that turns the direction of text"),
        (_HALF_PAIR, "what is no Unicode"),
    ):
        found = pattern.search(text)
        if found is not None:
            return f"{told}, {_escaped(found.group())} at {found.start()}"
    return None
