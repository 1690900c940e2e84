"""Catalogues: what data sets hold, told before any of them is there. A YAML file in `schemas/catalogues/`.

A recipe is dry-run against one. Every figure says what it rests on: `documented: URL ...` was looked up there,
`recalled: ...` has a known source that was not looked up, `estimate: ...` is neither.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from dataengine.documents import Strict, find_spec, load_yaml
from dataengine.episode import Family

FOLDER = "schemas/catalogues"
Figure = Literal["episodes", "steps", "hz", "views", "bytes"]
Grade = Literal["documented", "recalled", "estimate"]
GRADES: tuple[Grade, ...] = ("documented", "recalled", "estimate")
Size = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]


class Lengths(Strict):
    """Steps of an episode: all alike with `mean` alone, else spread log-normally, and none above `max`.

    The mean of what is expanded is `mean` to less than one step in all episodes together.
    """

    mean: float = Field(gt=0)
    median: float | None = Field(default=None, gt=0)
    max: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Lengths:
        if self.median is not None and self.median > self.mean:
            raise ValueError("a log-normal's `median` is not above its `mean`")
        if self.max is not None and self.max < self.mean:
            raise ValueError("`max` is not below `mean`")
        return self


class DataSet(Strict):
    """What one data set holds.

    `converter` is the name under which a recipe speaks of it, whether that converter is shipped yet or not. A
    `trajectory` has `steps` at `hz` (steps a second) and `views` [height, width]; an `item` is one sample of `bytes`
    (its media, as stored). `bytes` of a trajectory is what a step's views take as stored, where that is known.
    `groups` is how many scenes (or the like) its episodes fall into; null: each is one of its own.
    """

    converter: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    family: Family
    embodiment: str = "unknown"
    control_mode: str = "unknown"
    license: str = "unknown"
    tags: tuple[str, ...] = ()
    url: str
    kind: Literal["trajectory", "item"] = "trajectory"
    episodes: int = Field(ge=1)
    steps: Lengths = Lengths(mean=1)
    hz: float = Field(default=0.0, ge=0)
    views: Mapping[str, Size] = Field(default={})
    bytes: int | None = Field(default=None, ge=0)
    groups: int | None = Field(default=None, ge=1)
    evidence: Mapping[Figure, str]

    @field_validator("steps", mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        return {"mean": value} if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _complete(self) -> DataSet:
        trajectory = self.kind == "trajectory"
        if trajectory and not self.hz:
            raise ValueError(f"{self.converter}: a trajectory has an `hz`")
        if not trajectory and self.bytes is None:
            raise ValueError(f"{self.converter}: an item has `bytes`")
        needed: set[str] = {"episodes", "steps", "hz", "views"} if trajectory else {"episodes", "bytes"}
        needed |= {"bytes"} if self.bytes is not None else set()
        missing = sorted(needed - set(self.evidence))
        if missing:
            raise ValueError(f"{self.converter}: `evidence` says nothing of {missing[0]!r}")
        for figure, text in self.evidence.items():
            grade, _, words = text.partition(": ")
            if grade not in GRADES or not words or (grade == "documented" and not re.search(r"https?://", words)):
                raise ValueError(
                    f"{self.converter}: evidence of {figure!r} is `documented: URL ...`, `recalled: ...` or"
                    " `estimate: ...`"
                )
        return self

    def grade(self, figure: Figure) -> Grade:
        """What a figure rests on."""
        return next(grade for grade in GRADES if self.evidence[figure].startswith(grade))

    @property
    def weakest(self) -> Grade:
        """The weakest of what the counts rest on (episodes, and the steps of a trajectory)."""
        counted: tuple[Figure, ...] = ("episodes", "steps") if self.kind == "trajectory" else ("episodes",)
        return max((self.grade(figure) for figure in counted), key=GRADES.index)


class CatalogueSpec(Strict):
    """A catalogue's data sets."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    version: int = 1
    description: str = ""
    sources: tuple[DataSet, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _once(self) -> CatalogueSpec:
        name, count = Counter(source.converter for source in self.sources).most_common(1)[0]
        if count > 1:
            raise ValueError(f"{name!r} stands twice")
        return self

    def scaled(self, factor: float) -> CatalogueSpec:
        """The same data sets with `factor` times the episodes, at least one each."""
        sources = [
            source.model_copy(update={"episodes": max(1, round(source.episodes * factor))}) for source in self.sources
        ]
        return self.model_copy(update={"sources": tuple(sources)})


def load_catalogue_spec(name: str) -> CatalogueSpec:
    """A shipped catalogue by name, or a YAML file by path."""
    path = find_spec(FOLDER, name)
    return CatalogueSpec.parse(load_yaml(path), str(path))
