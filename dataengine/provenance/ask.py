"""The questions of an audit behind one door. At most one is asked at a time; none gives the overview."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from dataengine.errors import SpecError
from dataengine.mixture.store import MixtureStore, split_address
from dataengine.provenance import audit, questions, samples
from dataengine.provenance.version import Version


@dataclass(frozen=True)
class Question:
    """What is asked of a version; `code` is asked of the whole mixture."""

    shard: int | None = None
    sample: str | None = None
    episode: str | None = None
    source: str | None = None
    license: str | None = None
    step: str | None = None
    code: str | None = None
    drops: bool = False
    sql: str | None = None

    @property
    def kind(self) -> str:
        """The name of what is asked; two at once are a `SpecError`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        asked = [name for name, value in values.items() if value is not None and value is not False]
        if len(asked) > 1:
            named = " and ".join(f"--{name}" for name in asked)
            raise SpecError(f"{named} do not go together", fix="give one of them, or join views by --sql")
        return asked[0] if asked else "overview"


def ask(address: str, question: Question) -> dict[str, Any]:
    """The answer as plain values."""
    kind = question.kind
    if question.code is not None:
        return questions.code(MixtureStore(split_address(address)[0]), question.code)
    version = Version.open(address)
    if question.shard is not None:
        return audit.shard(version, question.shard)
    if question.sql is not None:
        from dataengine.provenance.sql import query

        return query(version, question.sql)
    if kind == "overview":
        return audit.overview(version)
    if kind == "drops":
        return audit.drops(version)
    answers = {
        "sample": samples.sample,
        "episode": audit.episode,
        "source": questions.source,
        "license": questions.license_of,
        "step": questions.step,
    }
    return answers[kind](version, str(getattr(question, kind)))
