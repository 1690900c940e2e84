"""The prompt of a sample: fields out of card, recipe and data, the instruction out of the texts that cover the step.

Nothing here reads loose text: the body is what the episode's channels show of what the card says the body has, the
rate and the chunk are the episode's and the window's, and the form is a document (`dataengine.specs.prompts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dataengine.documents import sha256_json
from dataengine.embodiment import Card
from dataengine.episode import Episode, Language, SlotArray
from dataengine.schema import unified
from dataengine.specs.prompts import PromptForm, load_form
from dataengine.specs.recipe import PromptSpec

ORIGINAL = "original:"
"""Begins the source of a text that a step has replaced: it stays in the episode and is never chosen for a prompt."""
TEXT_ACTION = "text_action:"
"""Begins the source of a text that says the actions themselves: a target, never an instruction."""
_ARMS = {0: [], 1: ["a single arm"], 2: ["dual arms"]}
_WAIST = ("waist", "lift")
_BASE = ("base_linear", "base_angular", "nav_position", "nav_yaw")


def draw(count: int, seed: int, *parts: str | int) -> int:
    """One of `count` numbers, uniform by the hash of a seed and names."""
    return int(sha256_json([seed, *parts])[:16], 16) % count


def usable(texts: Sequence[Language]) -> list[Language]:
    """The texts that may become an instruction: not blank, not replaced by another, not the actions themselves."""
    return [text for text in texts if text.text.strip() and not text.source.startswith((ORIGINAL, TEXT_ACTION))]


def form_of(spec: PromptSpec) -> PromptForm:
    """The form that a recipe names or holds."""
    return load_form(spec.form) if isinstance(spec.form, str) else spec.form


def choose(covering: Sequence[Language], spec: PromptSpec, seed: int, uid: str, step: int, repeat: int) -> str | None:
    """The instruction of the sample at (`step`, `repeat`) of episode `uid`, or None without a usable text.

    `first` takes the first text of the first level in `spec.levels` that has one. `sample` takes one of all texts of
    those levels by the hash of (seed, uid, step, repeat). Without levels every text counts.
    """
    found = usable(covering)
    if spec.choose == "sample":
        found = [text for text in found if not spec.levels or text.level in spec.levels]
        return found[draw(len(found), seed, "prompt", uid, step, repeat)].text.strip() if found else None
    for level in spec.levels or (None,):
        for text in found:
            if level in (None, text.level):
                return text.text.strip()
    return None


def prompt_facts(
    form: PromptForm, *, robot_tag: str, body: str, hz: float, chunk: int, instruction: str | None
) -> dict[str, Any]:
    """The `prompt` of a sample's JSON: the fields, the form's name and version, and the text (None without one)."""
    fields: dict[str, Any] = {
        "robot_tag": robot_tag,
        "body": body,
        "hz": hz,
        "chunk": chunk,
        "instruction": instruction,
    }
    return {**fields, "form": form.title, "text": form.render(fields)}


def body_phrase(card: Card, episode: Episode) -> str:
    """The body in the prompt's words: `{arms}[, waist][, and mobile base]`.

    A part is named where the card has it and the episode's action (its state, where it has no action) holds an
    unmasked channel of it. Data without any channel of the body (native units alone) are described by the card.
    """
    groups = _present(episode.action if episode.action is not None else episode.state)
    sides = [arm for arm in card.arms if any(arm in found for found in groups.values())]
    waist = card.waist and any(name in groups for name in _WAIST)
    base = card.mobile_base and any(name in groups for name in _BASE)
    if not (sides or waist or base):
        return card_phrase(card)
    return _phrase(len(sides), waist, base)


def card_phrase(card: Card) -> str:
    """The body in the prompt's words as the card alone describes it."""
    return _phrase(len(card.arms), card.waist, card.mobile_base)


def _phrase(arms: int, waist: bool, base: bool) -> str:
    parts = [*_ARMS[arms], *(["waist"] if waist else [])]
    if base:
        parts.append("and mobile base" if parts else "mobile base")
    return ", ".join(parts)


def _present(slots: SlotArray | None) -> Mapping[str, set[str]]:
    """Slot groups with an unmasked channel, and on which sides."""
    found: dict[str, set[str]] = {}
    if slots is not None:
        shown = slots.channels[slots.mask.any(axis=0)]
        for slot in unified().slots_of(shown):
            found.setdefault(slot.group, set()).add(slot.side)
    return found
