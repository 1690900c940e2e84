"""A dataset card in the form of the Hugging Face Hub: copied to a repository's root as README.md it is its page.

YAML head: https://huggingface.co/docs/hub/datasets-cards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from dataengine.mixture.store import shard_name
from dataengine.provenance.documents.facts import (
    UNKNOWN,
    Described,
    Source,
    licenses,
    one_line,
    sample_form,
    sources,
    splits,
)

HUB_LICENSES = frozenset(
    {
        *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "mpl-2.0", "unlicense"),
        *("cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0"),
        *("cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nd-4.0"),
        *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0"),
        *("cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
        *("gpl-3.0", "lgpl-3.0", "agpl-3.0"),
        *("pddl", "odbl", "odc-by"),
    }
)
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_LARGER = ((10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B"))
_LARGEST = "100B<n<1T"
_ESCAPES = str.maketrans({**{sign: f"\\{sign}" for sign in "\\|`[]*"}, "<": "&lt;"})


def card(described: Described) -> str:
    """The whole page."""
    found = sources(described.manifest)
    head = yaml.safe_dump(_head(described, found), sort_keys=False, allow_unicode=True, width=1000)
    parts = [
        _summary(described, found),
        _sizes(described),
        _sources(found),
        _restrictions(described, found),
        _drops(described),
        _load(),
    ]
    return f"---\n{head}---\n\n" + "\n".join(parts)


def _head(described: Described, found: Sequence[Source]) -> dict[str, Any]:
    manifest = described.manifest
    families = {source.summary.family for source in found}
    files = [
        {"split": split.name, "path": [shard_name(shard.sha256) for shard in split.shards]}
        for split in splits(manifest)
    ]
    return {
        "pretty_name": manifest.name,
        "license": sorted({hub_license(name) for name in licenses(found)}) or [UNKNOWN],
        "task_categories": [
            *(["robotics"] if families - {"vision_language"} else []),
            *(["image-text-to-text"] if "vision_language" in families else []),
        ],
        "size_categories": [size_category(manifest.samples)],
        "tags": ["webdataset", "vision-language-action", "dataengine"],
        **({"configs": [{"config_name": "default", "data_files": files}]} if files else {}),
    }


def hub_license(name: str) -> str:
    """The Hub's word for an SPDX licence; `other` for what it does not list, `unknown` for what nobody knows."""
    plain = name.lower()
    if plain == UNKNOWN:
        return UNKNOWN
    return plain if plain in HUB_LICENSES else "other"


def size_category(samples: int) -> str:
    """The Hub's word for a number of samples."""
    return next((word for limit, word in (*_SIZES, *_LARGER) if samples < limit), _LARGEST)


def _cell(text: object) -> str:
    return " ".join(str(text).split()).translate(_ESCAPES)


def _table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [list(names), ["---"] * len(names), *([_cell(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _summary(described: Described, found: Sequence[Source]) -> str:
    manifest = described.manifest
    return (
        f"# {_cell(manifest.name)}\n\n"
        f"{manifest.samples:,} samples in {len(manifest.shards):,} WebDataset shards, sources: {len(found)}."
        f" {sample_form(manifest)}\n\n"
        f"Manifest `sha256:{described.sha256}`, plan `{manifest.plan_id}`, schema {_cell(manifest.schema_version)}."
        " Creator and publication date: unknown.\n"
    )


def _sizes(described: Described) -> str:
    rows = [(s.name, f"{s.samples:,}", f"{len(s.shards):,}", f"{s.bytes:,}") for s in splits(described.manifest)]
    return "## Splits\n\n" + _table(("split", "samples", "shards", "bytes"), rows)


def _sources(found: Sequence[Source]) -> str:
    rows = [
        (
            source.label,
            source.summary.family,
            f"{source.summary.samples:,}",
            f"{source.summary.episodes_kept:,} of {source.summary.episodes_in:,}",
            source.text("license"),
            source.text("revision"),
            source.url,
        )
        for source in found
    ]
    names = ("source", "family", "samples", "episodes kept", "licence", "revision", "address")
    cited = [f"- {_cell(s.label)}: {_cell(s.text('creator'))}. {_cell(s.text('citation'))}\n" for s in found]
    return "## Sources\n\n" + _table(names, rows) + "\nCreator and citation:\n\n" + "".join(cited)


def _restrictions(described: Described, found: Sequence[Source]) -> str:
    names = ("source", "licence", "terms", "use", "commercial use", "consent", "de-identification", "synthetic")
    rows = [
        (
            source.label,
            *(source.text(name) for name in ("license", "terms_url", "usage", "commercial_ok", "consent")),
            source.text("deidentification"),
            source.text("synthetic"),
        )
        for source in found
    ]
    said = {source.text("commercial_ok") for source in found}
    strictest = next((word for word in ("no", UNKNOWN, "yes") if word in said), UNKNOWN)
    return (
        "## Restrictions\n\nThe licence of a sample is its source's; what a source states is recorded, not checked."
        f" Commercial use of the whole: {strictest}. Biases: unknown.\n\n{_table(names, rows)}{_overrides(described)}"
    )


def _overrides(described: Described) -> str:
    """What the recipe's policy does not allow and was let in all the same."""
    rows = [
        [one_line(told.get(name)) for name in ("source", "field", "value", "reason")]
        for told in (described.manifest.policy or {}).get("overrides", ())
    ]
    if not rows:
        return ""
    return "\nLet in against the recipe's policy:\n\n" + _table(("source", "field", "value", "reason"), rows)


def _drops(described: Described) -> str:
    rows = [(reason, f"{count:,}") for reason, count in sorted(described.manifest.drops.items())]
    if not rows:
        return "## Dropped\n\nNo episode was dropped.\n"
    told = "Every episode and the evidence: `ledger.parquet` beside the manifest."
    return f"## Dropped\n\n{_table(('reason', 'episodes'), rows)}\n{told}\n"


def _load() -> str:
    return (
        "## Load\n\n"
        "```python\n"
        "from dataengine.loader import open_mixture\n\n"
        'dataset = open_mixture("PATH_OF_THE_MIXTURE", split="train")\n'
        "```\n\n"
        "or with any reader of WebDataset on the shards that the head lists. `sha256sum -c manifests/*.d/SHA256SUMS`\n"
        "in the mixture's folder checks the files, `dataengine verify PATH_OF_THE_MIXTURE` everything.\n"
    )
