"""Answers of models, by the digest of the question: `<lake>/relabel/<two digits>/<key>.json`.

An entry is written once and whole. It holds the question without endpoint and key, the answer, and a digest over both;
the date stands outside of that digest. An entry that does not match its digest is removed and asked for again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any

import orjson

from dataengine.documents import canonical_json, sha256_json
from dataengine.errors import ConflictError, StorageError
from dataengine.storage import Place, Store, remote
from dataengine.transforms.llm import Answer, Question

FOLDER = "relabel"


class AnswerCache:
    """The cache of one lake. Any number of processes may read and write it at once."""

    def __init__(self, lake: Place) -> None:
        self._store = Store(f"{remote(lake) or lake}/{FOLDER}")
        self.damaged = 0

    def get(self, question: Question) -> Answer | None:
        """The stored answer, or None. A damaged entry is removed, counted in `damaged`, and counts as absent."""
        name = _name(question.key)
        data = self._read(name)
        if data is None:
            return None
        answer = _answer(data, question)
        if answer is None:
            self.damaged += 1
            if self._read(name) == data:  # else another process has put a good one there meanwhile
                self._store.remove(name)
        return answer

    def _read(self, name: str) -> bytes | None:
        try:
            return self._store.read(name) if self._store.exists(name) else None
        except StorageError:
            if self._store.exists(name):
                raise
            return None  # another process has just removed a damaged one

    def about(self, digests: Collection[str], texts: Collection[str]) -> list[str]:
        """Names of the answers to questions that show frames of one of these streams, or quote one of these texts."""
        found = []
        for name in self._store.files():
            try:
                question = orjson.loads(self._store.read(name))["body"]["question"]
                shown, said = {frame[0] for frame in question["frames"]}, question["texts"]
            except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
                found.append(name)  # a damaged entry is asked for again anyway
                continue
            if not shown.isdisjoint(digests) or any(text in texts for text in said):
                found.append(name)
        return found

    def remove(self, names: Iterable[str]) -> None:
        """Remove entries by the names that `about` gave."""
        for name in names:
            self._store.remove(name)

    def put(self, question: Question, answer: Answer) -> Answer:
        """Store an answer. Where another process was quicker its answer is returned: all use the same."""
        body = {
            "key": question.key,
            "question": question.document(),
            "prompt": question.prompt,
            "answer": asdict(answer),
        }
        document = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "body": body, "sha256": sha256_json(body)}
        try:
            self._store.publish(_name(question.key), canonical_json(document))
        except ConflictError:
            standing = self.get(question)
            return standing if standing is not None else self.put(question, answer)
        return answer


def _name(key: str) -> str:
    return f"{key[:2]}/{key}.json"


def _answer(data: bytes, question: Question) -> Answer | None:
    """The answer of an entry that is whole and is this question's; None for any other bytes."""
    try:
        document: Any = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict) or document.keys() != {"at", "body", "sha256"}:
        return None
    body = document["body"]
    if sha256_json(body) != document["sha256"] or body.get("key") != question.key:
        return None
    answer = body.get("answer")
    if not isinstance(answer, dict) or answer.keys() != {field.name for field in fields(Answer)}:
        return None
    return Answer(**answer)
