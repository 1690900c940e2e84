"""The documents beside a manifest that others read: their names, and the sealed list of their digests.

They are made of the manifest alone and say nothing that it does not, so they are no part of it: another release may
word them anew, and the version stays the same. `documents.json` lists their digests and is written last.
"""

from __future__ import annotations

from dataengine.documents import sha256_bytes, unseal
from dataengine.errors import BadInput, FormatError
from dataengine.mixture.store import MixtureStore

LIST = "documents.json"
CROISSANT = "croissant.json"
CARD = "dataset_card.md"
STATEMENT = "provenance.intoto.jsonl"
SUMS = "SHA256SUMS"
NAMES = (CROISSANT, CARD, STATEMENT, SUMS)
FIX = "`dataengine documents M@V --rewrite` writes it anew"
GONE = "remove it: it tells of one run, and nothing depends on it"


def listed(store: MixtureStore, manifest_sha: str) -> dict[str, str] | None:
    """Digests of a manifest's documents by name; None where none were written. A damaged list is a `FormatError`."""
    name = f"{store.documents(manifest_sha)}/{LIST}"
    if not store.exists(name):
        return None
    body = unseal(store.read(name), name)
    found = body.get("documents")
    if body.get("manifest") != manifest_sha or not isinstance(found, dict):
        raise FormatError("digest_mismatch", "not the list of this manifest's documents", where=name, fix=FIX)
    return found


def check_document(store: MixtureStore, name: str, manifest_sha: str) -> None:
    """One of `NAMES`, or the list itself, is what was written; else a `BadInput` that says what to do."""
    try:
        found = listed(store, manifest_sha)
    except FormatError as error:
        raise BadInput(error.reason, "the list of documents is damaged", where=name, fix=FIX) from None
    own = name.rpartition("/")[2]
    if own == LIST or found is None:  # an unfinished list is told once, of the version
        return
    if own not in found:
        raise BadInput("unknown_file", f"{LIST} does not list the document", where=name, fix=FIX)
    if sha256_bytes(store.read(name)) != found[own]:
        raise BadInput("digest_mismatch", f"the document is not what {LIST} lists", where=name, fix=FIX)


def unfinished(store: MixtureStore, manifest_sha: str) -> list[str]:
    """The documents of a version that a stopped writing or a hand left out. Versions without any are fine."""
    folder = store.documents(manifest_sha)
    there = [store.exists(f"{folder}/{name}") for name in NAMES]
    if not store.exists(f"{folder}/{LIST}"):
        return [f"{folder}/{LIST}"] if any(there) else []
    return [f"{folder}/{name}" for name, found in zip(NAMES, there, strict=True) if not found]


def check_run_document(store: MixtureStore, name: str) -> None:
    """A document in `runs/` has the digest that the facts of its run hold; else a `BadInput`."""
    own = name.rpartition("/")[2]
    facts = f"runs/{own.partition('.')[0]}.json"
    try:
        found = unseal(store.read(facts), facts).get("documents") if store.exists(facts) else None
    except FormatError:
        raise BadInput("digest_mismatch", f"the facts of its run are damaged: {facts}", where=name, fix=GONE) from None
    if not isinstance(found, dict) or own not in found:
        raise BadInput("unknown_file", f"{facts} names no such document", where=name, fix="remove it")
    if sha256_bytes(store.read(name)) != found[own]:
        raise BadInput("digest_mismatch", "not the document of its run", where=name, fix=GONE)
