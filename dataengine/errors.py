"""Every error a user can meet. Each says what is wrong, where, and what to do next.

Bad *data* is a value, not a crash: formats and the converter raise `FormatError` (a whole file) or `EpisodeError`
(one episode) with a stable `reason` code, and the ingest turns them into ledger rows.
"""

from __future__ import annotations


class DataEngineError(Exception):
    """Base of all errors the engine raises on purpose.

    Args:
        what: what is wrong, one sentence.
        where: the file, episode and stream it concerns, as far as known.
        fix: what the reader can do next.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what, where, fix)
        self.what = what
        self.where = where
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.fix)

    def __str__(self) -> str:
        text = self.what
        if self.where:
            text += f"\n  where: {self.where}"
        if self.fix:
            text += f"\n  next:  {self.fix}"
        return text


def _rebuild(kind: type[DataEngineError], what: str, where: str | None, fix: str | None) -> DataEngineError:
    return kind(what, where=where, fix=fix)


class SpecError(DataEngineError):
    """A recipe, converter, card or command line that cannot be used as written."""

    exit_code = 2


class SchemaError(DataEngineError):
    """Values that do not fit the unified schema (unknown slot, wrong width, impossible unit)."""


class BadInput(DataEngineError):
    """Data that cannot be used. `reason` is a stable code, lower_snake_case."""

    def __init__(self, reason: str, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what, where=where, fix=fix)
        self.args = (reason, what, where, fix)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_bad_input, (type(self), self.reason, self.what, self.where, self.fix)


def _rebuild_bad_input(kind: type[BadInput], reason: str, what: str, where: str | None, fix: str | None) -> BadInput:
    return kind(reason, what, where=where, fix=fix)


class FormatError(BadInput):
    """A file that cannot be read as its format: the file is quarantined with `reason`."""


class EpisodeError(BadInput):
    """One episode that cannot be used: it is dropped with `reason`, the rest goes on."""


class StorageError(DataEngineError):
    """The store did not do what was asked: disk full, permission, a blob that does not match its digest."""


class MissingError(StorageError):
    """What the command line names is not there: a path, a lake, a mixture."""

    exit_code = 2


class GuardError(DataEngineError):
    """A recipe's steps would erase what it is there to keep; nothing was built."""


class PolicyError(DataEngineError):
    """Facts of a source that the recipe does not allow: a licence, terms, consent; nothing was built."""


class EndpointError(DataEngineError):
    """The endpoint of a language model cannot be used as it is set up, or does not answer."""


class ConflictError(DataEngineError):
    """Two contents want the same name; nothing was overwritten."""

    exit_code = 4
