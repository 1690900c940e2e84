"""Documents that others read, beside each manifest: Croissant, an in-toto statement, a dataset card, SHA256SUMS.

All are made of the manifest alone, hold no run facts, and are the same bytes whenever the same release writes them.
They are written before the ref; a version of before there were any gets them from the next build or from
`dataengine documents`. What carries run facts (the statement with builder and times, OpenLineage events) is in `runs/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from dataengine.documents import canonical_json, seal, sha256_bytes
from dataengine.errors import FormatError
from dataengine.mixture.described import CARD, CROISSANT, LIST, NAMES, STATEMENT, SUMS, listed
from dataengine.mixture.store import MixtureStore
from dataengine.provenance.documents.card import card
from dataengine.provenance.documents.croissant import document
from dataengine.provenance.documents.facts import Described
from dataengine.provenance.documents.lineage import events
from dataengine.provenance.documents.statement import statement
from dataengine.specs.records import Manifest


def documents(manifest: Manifest) -> dict[str, bytes]:
    """All documents of a version by name, the sealed list of their digests last."""
    described = Described.of(manifest)
    found = {
        CROISSANT: orjson.dumps(document(described), option=orjson.OPT_INDENT_2) + b"\n",
        CARD: card(described).encode(),
    }
    told = {f"{described.folder}/{name}": sha256_bytes(data) for name, data in found.items()}
    found[STATEMENT] = canonical_json(statement(described, told)) + b"\n"
    told[f"{described.folder}/{STATEMENT}"] = sha256_bytes(found[STATEMENT])
    found[SUMS] = _sums({**described.digests(), **told})
    digests = {name: sha256_bytes(data) for name, data in found.items()}
    return {**found, LIST: seal({"documents": digests, "manifest": described.sha256})}


def write(store: MixtureStore, manifest: Manifest, *, rewrite: bool = False) -> bool:
    """Write a version's documents unless they are all there; True when it wrote. With `rewrite` they are made anew.

    The list is written last and removed first: documents without it are unfinished, and what is unfinished is replaced.
    """
    folder = store.documents(Described.of(manifest).sha256)
    if not rewrite and complete(store, manifest):
        return False
    made = documents(manifest)
    if store.exists(f"{folder}/{LIST}"):
        store.remove(f"{folder}/{LIST}")
    for name, data in made.items():
        place = f"{folder}/{name}"
        if name != LIST and store.exists(place) and sha256_bytes(store.read(place)) != sha256_bytes(data):
            store.remove(place)
        store.publish(place, data)
    return True


def complete(store: MixtureStore, manifest: Manifest) -> bool:
    """Whether all documents and their list lie there; whether they are what they should be is `verify`'s question."""
    sha = Described.of(manifest).sha256
    try:
        found = listed(store, sha)
    except FormatError:
        return False
    return found is not None and all(store.exists(f"{store.documents(sha)}/{name}") for name in NAMES)


def run_documents(manifest: Manifest, run: Mapping[str, Any]) -> dict[str, bytes]:
    """What goes to `runs/` by the end of its name, of run facts with the run's name as `run`."""
    described = Described.of(manifest)
    told = {
        f"{described.folder}/{name}": sha256_bytes(data) for name, data in documents(manifest).items() if name != LIST
    }
    lines = [canonical_json(event) + b"\n" for event in events(described, run)]
    return {
        STATEMENT: canonical_json(statement(described, told, run)) + b"\n",
        "openlineage.ndjson": b"".join(lines),
    }


def _sums(digests: Mapping[str, str]) -> bytes:
    """For `sha256sum -c` in the mixture's folder."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())).encode()
