"""The facts of an upstream data set: identity, licence with evidence, terms, people, and what was done about them."""

from __future__ import annotations

import re
from typing import Any, Literal

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from dataengine.documents import Strict

UNKNOWN = "unknown"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LATER: dict[str, Any] = {
    "tags": [],
    "collection": UNKNOWN,
    "personal_information": UNKNOWN,
    "retrieved_at": UNKNOWN,
    "record_sha256": "",
}
"""Fields that lakes of before did not have: left out where they say nothing."""


class Evidence(Strict):
    """Words that state the licence, and the file they were quoted from with its sha256, where that is at hand."""

    quote: str
    file: str = UNKNOWN
    sha256: str = UNKNOWN

    def __str__(self) -> str:
        told = f" ({self.file}" if self.file != UNKNOWN else ""
        if self.sha256 != UNKNOWN:
            told += f"{', ' if told else ' ('}sha256 {self.sha256}"
        return f"{self.quote}{told}{')' if told else ''}"


class Consent(Strict):
    """What the people who are recorded agreed to, and whom they ask to be taken out."""

    basis: str
    withdrawal_contact: str = UNKNOWN

    def __str__(self) -> str:
        return self.basis


class Deidentification(Strict):
    """What was done to faces, number plates and voices upstream, with what. A claim that is recorded, not checked."""

    faces: str = UNKNOWN
    plates: str = UNKNOWN
    audio: str = UNKNOWN
    tool: str = UNKNOWN
    version: str = UNKNOWN

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {getattr(self, name)}" for name in ("faces", "plates", "audio"))
        if self.tool == UNKNOWN:
            return parts
        return f"{parts} ({self.tool}{'' if self.version == UNKNOWN else f' {self.version}'})"


class SourceInfo(Strict):
    """The upstream data set: identity, licence, terms, consent. What nobody knows is "unknown", never blank.

    `license` is an SPDX expression (`LicenseRef-NAME` for one that SPDX does not list) or "unknown".
    `license_evidence`, `consent` and `deidentification` are a sentence, or the fields of `Evidence`, `Consent` and
    `Deidentification`. `retrieved_at` and `record_sha256` come from a source record, and no conversion's digest holds
    them.
    """

    name: str
    url: str
    revision: str
    license: str
    license_evidence: str | Evidence
    terms_url: str = UNKNOWN
    creator: str = UNKNOWN
    citation: str = UNKNOWN
    usage: str = UNKNOWN
    consent: str | Consent = UNKNOWN
    deidentification: str | Deidentification = UNKNOWN
    synthetic: bool
    commercial_ok: Literal["yes", "no", "unknown"] = "unknown"
    tags: tuple[str, ...] = ()
    collection: str = UNKNOWN
    personal_information: str = UNKNOWN
    retrieved_at: str = UNKNOWN
    record_sha256: str = ""

    def canonical(self) -> Any:
        """Without later fields that say nothing: lakes of before there were any stay current."""
        document = super().canonical()
        return {name: value for name, value in document.items() if name not in _LATER or value != _LATER[name]}

    def stated(self) -> Any:
        """What is stated of the data set, without when it was fetched and by which record."""
        document = self.canonical()
        return {name: value for name, value in document.items() if name not in ("retrieved_at", "record_sha256")}

    def check(self) -> None:
        """A `ValueError` for a blank field, and for a licence that is neither SPDX nor "unknown".

        Not a validator: rows of older lakes are read as they were written.
        """
        blank = sorted(_blank(self.model_dump(exclude={"record_sha256"}), ""))
        if blank:
            raise ValueError(f'{", ".join(blank)}: blank; write "unknown" where nobody knows')
        if self.license != UNKNOWN:
            check_license(self.license)
        given = self.license_evidence.sha256 if isinstance(self.license_evidence, Evidence) else UNKNOWN
        if given != UNKNOWN and not _SHA256.fullmatch(given):
            raise ValueError("license_evidence.sha256: not 64 hexadecimal digits")


def _blank(value: Any, at: str) -> list[str]:
    if isinstance(value, dict):
        return [name for key, item in value.items() for name in _blank(item, f"{at}.{key}" if at else key)]
    if isinstance(value, list | tuple):
        return [name for item in value for name in _blank(item, at)]
    return [at] if isinstance(value, str) and not value.strip() else []


def check_license(text: str) -> None:
    """A `ValueError` unless the text is an SPDX expression in SPDX's own spelling."""
    try:
        spelled = str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        raise ValueError(
            f'license: {text!r} is no SPDX expression; write an id of spdx.org/licenses, LicenseRef-NAME, or "unknown"'
        ) from None
    if spelled != text:
        raise ValueError(f"license: SPDX writes {text!r} as {spelled!r}")
