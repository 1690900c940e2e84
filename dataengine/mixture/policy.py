"""Whether a recipe allows the facts of its sources, and what was let in all the same, by whom and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataengine.errors import PolicyError, SpecError
from dataengine.mixture.roster import Roster
from dataengine.specs.policy import Refusal, refusals
from dataengine.specs.recipe import Recipe
from dataengine.specs.source import UNKNOWN, Consent, SourceInfo

MAX_TOLD = 20
BY_LICENSE = "--allow-unknown-license"
BY_POLICY = "--override-policy"


@dataclass(frozen=True)
class Overrides:
    """What the command line lets in although the recipe does not: everything, for a reason; unknown licences."""

    reason: str | None = None
    unknown_license: bool = False

    def __post_init__(self) -> None:
        if self.reason is not None and not self.reason.strip():
            raise SpecError(f"{BY_POLICY}: the reason is blank", fix="say why; the version keeps it")

    def of(self, recipe: Recipe, entry: str, refusal: Refusal) -> tuple[str, str] | None:
        """(who, why) lets this in; None when nobody does."""
        said = next((source.override for source in recipe.sources if source.entry == entry), "")
        if said:
            return "recipe", said
        if self.unknown_license and refusal.field == "license" and refusal.value == UNKNOWN:
            return BY_LICENSE, BY_LICENSE
        return (BY_POLICY, self.reason) if self.reason is not None else None


def facts_of(roster: Roster) -> list[tuple[str, SourceInfo]]:
    """The recipe's source and the facts of all rows that can be used, each pair once."""
    pairs = np.unique(np.stack([roster.entry[roster.usable], roster.kind[roster.usable]], axis=1), axis=0)
    return [(roster.entries[entry], roster.kinds[kind].source) for entry, kind in pairs.tolist()]


def judged(recipe: Recipe, facts: Iterable[tuple[str, SourceInfo]], overrides: Overrides) -> Mapping[str, Any] | None:
    """What the manifest says of the policy: what was allowed, and what was let in otherwise. None: nothing to say.

    What is not allowed and not overridden is a `PolicyError` that names every source and fact.
    """
    let_in: list[dict[str, str]] = []
    refused: list[str] = []
    for entry, info in sorted(facts, key=lambda pair: (pair[0], pair[1].name)):
        for refusal in refusals(recipe.allow, info):
            found = overrides.of(recipe, entry, refusal)
            told = {"source": entry, "source_id": info.name, **vars(refusal)}
            if found is None:
                refused.append(f"{entry}: {refusal.field} is {refusal.value}; allowed: {refusal.wanted}")
            elif (entered := {**told, "by": found[0], "reason": found[1]}) not in let_in:
                let_in.append(entered)
    if refused:
        raise _error(sorted(set(refused)))
    if recipe.allow is None and not let_in:
        return None
    return {"allow": recipe.allow.canonical() if recipe.allow is not None else None, "overrides": let_in}


def _error(lines: list[str]) -> PolicyError:
    count = "1 fact" if len(lines) == 1 else f"{len(lines):,} facts"
    listed = "".join(f"\n  {line}" for line in lines[:MAX_TOLD])
    if len(lines) > MAX_TOLD:
        listed += f"\n  ... and {len(lines) - MAX_TOLD:,} more"
    unknown = any("license is unknown" in line for line in lines)
    fix = "leave the sources out, complete their facts, widen the recipe's `allow`, or say why they may be in:"
    fix += f" `override: REASON` at the source in the recipe, or {BY_POLICY} REASON"
    fix += f"; {BY_LICENSE} lets unknown licences in" if unknown else ""
    return PolicyError(f"the recipe does not allow {count} of its sources:{listed}", fix=fix)


_FACTS = ("url", "revision", "terms_url", "creator", "citation", "usage", "collection", "personal_information")


def stated_together(infos: Sequence[SourceInfo]) -> dict[str, Any]:
    """What a version says of one source: where its rows tell different facts, all of them; of licences the union."""
    told = {name: _joined([getattr(info, name) for info in infos], "; ") for name in _FACTS}
    licenses = [info.license for info in infos]
    several = len(set(licenses)) > 1
    told["license"] = _joined([f"({text})" if several and " " in text else text for text in licenses], " AND ")
    for name in ("license_evidence", "consent", "deidentification"):
        told[name] = _joined([str(getattr(info, name)) for info in infos], "; ")
    contacts = [info.consent.withdrawal_contact for info in infos if isinstance(info.consent, Consent)]
    commercial = {info.commercial_ok for info in infos}
    recorded = any(info.record_sha256 for info in infos)
    return {
        **told,
        "withdrawal_contact": _joined(contacts or [UNKNOWN], "; "),
        "commercial_ok": next(word for word in ("no", UNKNOWN, "yes") if word in commercial),
        "synthetic": all(info.synthetic for info in infos),
        "tags": tuple(sorted({tag for info in infos for tag in info.tags})),
        "record_sha256": _joined([info.record_sha256 or "-" for info in infos], " ") if recorded else "",
    }


def _joined(texts: Sequence[str], between: str) -> str:
    """The texts, each once, sorted."""
    return between.join(sorted(set(texts)))
