"""Source records: write one, show one, check files against one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from dataengine.api.common import Tell, silent
from dataengine.convert import Conversion
from dataengine.credentials import refuse_credentials
from dataengine.documents import find_spec, spec_files, unknown_name
from dataengine.errors import FormatError, MissingError, SpecError
from dataengine.lake import Lake
from dataengine.sources import Differences, SourceRecord, add, compare, hashed_files, load_record, read_sums
from dataengine.sources.verify import source_files
from dataengine.specs.converter import load_converter
from dataengine.storage import local_source, root_and_files


@dataclass(frozen=True)
class Added:
    """A record that was written. `compared` files were listed upstream, with the digests that they have here."""

    record: SourceRecord
    written: tuple[Path, ...]
    compared: int = 0


def source_add(
    path: Path,
    converter: str,
    out: Path,
    *,
    revision: str | None = None,
    sums: Path | None = None,
    exclude: Sequence[str] = (),
    replace_old: bool = False,
    tell: Tell = silent,
) -> Added:
    """Hash every file of the source at `path` and write its record to `out`.

    Facts come from the converter, or from the record that is replaced, where people may have corrected them. With
    `sums` (as `sha256sum` writes it) files that differ from upstream's digests are a `FormatError`.
    """
    info = Conversion.load(converter).converter.source
    old = load_record(out) if replace_old and out.exists() else None
    if old is not None and old.info is not None:
        if old.info.name != info.name:
            raise SpecError(f"the record is of {old.info.name!r}", where=str(out), fix="give another name")
        info = old.info
    now = datetime.now(UTC).isoformat(timespec="seconds")
    told = {"retrieved_at": now, **({"revision": revision} if revision is not None else {})}
    refuse_credentials(told, "--revision")
    excluded = tuple(exclude) or (old.exclude if old is not None else ())
    own = (out.resolve(), out.with_suffix(".files.jsonl").resolve(), *((sums.resolve(),) if sums is not None else ()))
    record = SourceRecord(info.model_copy(update=told), {}, excluded, own)
    with local_source(path) as local:
        root, only = root_and_files(local)
        names, refused = source_files(root, only, record)
        found, unreadable = hashed_files(root, names, partial(tell, "hash"))
    refused |= {name: error.what for name, error in unreadable.items()}
    if refused:
        raise FormatError(
            "unreadable_file",
            _listed("files cannot be read", [refused[name] for name in sorted(refused)]),
            where=str(path),
            fix="repair them, or leave them out with --exclude",
        )
    if not found:
        raise MissingError(f"there is no file at {path}", fix="check the path")
    compared = _against_upstream(found, sums)
    record = replace(record, files=found)
    return Added(record, tuple(add(record, out, replace_old=replace_old)), compared)


def _against_upstream(found: dict[str, Any], sums: Path | None) -> int:
    """How many files are as upstream lists them; those that are not are a `FormatError`."""
    if sums is None:
        return 0
    listed = read_sums(sums)
    wrong = [file.path for file in listed if file.path not in found or found[file.path].sha256 != file.sha256]
    if wrong:
        what = _listed("files are not as upstream lists them", sorted(wrong))
        raise FormatError("digest_mismatch", what, where=str(sums), fix="fetch them again; nothing was written")
    return len(listed)


def _listed(what: str, names: Sequence[str], limit: int = 20) -> str:
    more = f", and {len(names) - limit:,} more" if len(names) > limit else ""
    return f"{len(names):,} {what}: {'; '.join(names[:limit])}{more}"


def source_show(name: str) -> dict[str, Any]:
    """The facts of a record, of a converter's source, or of a source in a lake (`LAKE:ID`)."""
    path = Path(name)
    if name not in spec_files("converters") and path.is_file() and not _is_converter(path):
        return _of_record(load_record(path))
    lake, colon, source_id = name.rpartition(":")
    if colon and source_id and "/" not in source_id and name not in spec_files("converters"):
        return _of_lake(lake, source_id)
    find_spec("converters", name)
    return {"converter": name, "facts": [load_converter(name).source.model_dump(mode="json")]}


def _is_converter(path: Path) -> bool:
    """Whether a YAML file is a converter's; a record has no family."""
    return path.suffix in (".yaml", ".yml") and any(line.startswith("family:") for line in _lines(path))


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()


def _of_record(record: SourceRecord) -> dict[str, Any]:
    files = sorted(record.files.values(), key=lambda file: file.path)
    facts = record.info.model_dump(mode="json", exclude={"record_sha256"}) if record.info is not None else None
    return {
        "record_sha256": record.digest,
        "facts": [facts] if facts is not None else [],
        "files": [{"path": f.path, "sha256": f.sha256, "bytes": f.bytes if f.bytes >= 0 else None} for f in files],
        "bytes": record.bytes,
        "exclude": list(record.exclude),
    }


def _of_lake(lake: str, source_id: str) -> dict[str, Any]:
    """The facts that a lake's rows of a source tell: once each, with how many rows tell them."""
    facts: dict[str, tuple[Any, int]] = {}
    known: set[str] = set()
    for heads in Lake(Path(lake)).head_batches():
        for head in heads:
            known.add(head.source_id)
            if head.source_id == source_id:
                text = head.source.model_dump_json()
                facts[text] = (head.source, facts.get(text, (None, 0))[1] + 1)
    if not facts:
        raise unknown_name("source", source_id, known)
    return {
        "source_id": source_id,
        "facts": [{**info.model_dump(mode="json"), "rows": count} for _, (info, count) in sorted(facts.items())],
    }


def source_check(record: Path, path: Path, tell: Tell = silent) -> Differences:
    """How the files at `path` differ from a record, or from a list of digests."""
    known = load_record(record)
    with local_source(path) as local:
        root, only = root_and_files(local)
        return compare(known, root, only, partial(tell, "hash"))
