"""Statistics against each other: `normalization.json` is what the recipe makes of `statistics.bin`.

So a range or a mean that was changed is found even where every digest was written anew to fit. Both changed alike is
found from the lake alone. Frozen statistics (`normalization: {reuse: ...}`) are known where they are the document of
a version of this mixture, or were written by `build` without being frozen themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from dataengine.documents import canonical_json, sha256_bytes
from dataengine.errors import DataEngineError
from dataengine.mixture.recheck import Difference, compared
from dataengine.normalization.document import reused
from dataengine.normalization.scaling import DOCUMENT_VERSION
from dataengine.normalization.statistics import Statistics
from dataengine.specs.recipe import Recipe
from dataengine.specs.records import Manifest

_DAMAGED = (KeyError, TypeError, ValueError, IndexError, AttributeError)
Frozen = Mapping[str, bytes]
"""The `normalization.json` of other versions by digest."""


def check_figures(
    manifest: Manifest, normalization: bytes, statistics: bytes, frozen: Frozen
) -> list[tuple[str, str, str]]:
    """(file, reason, what) of everything that does not fit; files by their own names."""
    try:
        document = orjson.loads(normalization)
        if document["normalization"] != DOCUMENT_VERSION:
            return []  # of a release that worded it otherwise
        computed = _computed(manifest, document, statistics, frozen)
    except DataEngineError as error:
        return [("statistics.bin", "statistics_damaged", f"no document can be made of it: {error.what}")]
    except _DAMAGED as error:
        return [("normalization.json", "statistics_damaged", f"it does not fit together: {error!r}")]
    if computed is None or canonical_json(computed) == normalization:
        return []
    pairs = [Difference(*pair) for pair in compared("", document, orjson.loads(canonical_json(computed)))]
    found = [pair for pair in pairs if pair.stored != pair.computed]
    told = [(f"{pair.where}: {pair.name} is {_short(pair.stored)}, not {_short(pair.computed)}") for pair in found]
    return [("normalization.json", "statistics_mismatch", what) for what in told or ["its bytes are not canonical"]]


def _short(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."


def _computed(manifest: Manifest, document: dict[str, Any], data: bytes, frozen: Frozen) -> dict[str, Any] | None:
    """The document that the recipe makes of the population; None where frozen statistics are not at hand."""
    spec, statistics = Recipe.parse(dict(manifest.recipe), "the version's recipe").normalization, _read(data)
    said = document.get("reuse")
    if (said is None) != (spec.reuse is None):
        raise KeyError("reuse")
    if said is None:
        return statistics.document(spec)
    if spec.reuse is not None and spec.reuse.sha256 not in (None, said["sha256"]):
        raise ValueError(f"the recipe reuses {spec.reuse.sha256}")
    original = _original(document, said["sha256"], frozen)
    return None if original is None else reused(statistics.groups, spec, original, said["sha256"])


def _read(data: bytes) -> Statistics:
    return Statistics.from_bytes(data)


def _original(document: dict[str, Any], sha256: str, frozen: Frozen) -> dict[str, Any] | None:
    """The document that was frozen: another version's, or this one without what reusing it added."""
    if sha256 in frozen:
        other: dict[str, Any] = orjson.loads(frozen[sha256])
        return other
    bare = _without_seen({name: value for name, value in document.items() if name != "reuse"})
    return bare if sha256_bytes(canonical_json(bare)) == sha256 else None


def _without_seen(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_seen(item) for name, item in value.items() if name != "seen"}
    return [_without_seen(item) for item in value] if isinstance(value, list) else value
