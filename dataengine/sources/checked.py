"""An ingest held against a source record: what may be read, and what was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dataengine.episode import Episode, Failure
from dataengine.errors import EpisodeError
from dataengine.formats.base import EpisodeRef
from dataengine.reading import failure
from dataengine.sources.record import SourceRecord


@dataclass(frozen=True)
class Checked:
    """A source record, and why files at hand are not the recorded ones, by path."""

    record: SourceRecord
    wrong: Mapping[str, EpisodeError]

    def sound(self, refs: Sequence[EpisodeRef], failures: Sequence[Failure]) -> tuple[list[EpisodeRef], list[Failure]]:
        """The refs whose files are as recorded, and the failures with those of the others.

        A file that no ref names is a failure of its own, in place of what a format says of it.
        """
        kept, found, told = [], list(failures), set()
        for ref in refs:
            names = [name for name in ref.files if name in self.wrong]
            told |= set(names)
            if names:
                found.append(failure("episode", ref.upstream_id, self.wrong[names[0]]))
            else:
                kept.append(ref)
        alone = self.wrong.keys() - told
        found = [entry for entry in found if entry.unit != "file" or entry.upstream_id not in alone]
        return kept, found + [failure("file", name, self.wrong[name]) for name in sorted(alone)]

    def read(self, episode: Episode) -> Episode | Failure:
        """An episode that was read from recorded bytes, or why it was not."""
        error = self.record.check_read(episode.files)
        return episode if error is None else failure("episode", episode.upstream_id, error)
