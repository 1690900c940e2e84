"""Catalogues of episodes in columns: expanded from what data sets are said to hold, or read from Parquet.

The expansion depends on a data set's name and an episode's number alone: more episodes leave the first ones as they
are, but for the rounding of their lengths. Ten million episodes take some 600 MB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dataengine.documents import canonical_json, sha256_json
from dataengine.errors import FormatError, SpecError
from dataengine.specs.catalogue import CatalogueSpec, DataSet, Grade, load_catalogue_spec

_LAYERS = {"uid": 0, "steps": 4, "group": 6}  # which of an episode's keyed values serve what
_ROUNDS = 8
Words = NDArray[np.uint64]

_KINDS = ("converter", "source_id", "family", "embodiment", "control_mode", "license", "tags", "kind", "views")
COLUMNS = pa.schema(
    [
        ("uid", pa.binary(32)),
        *((name, pa.dictionary(pa.int32(), pa.string())) for name in _KINDS),
        ("group", pa.string()),
        ("steps", pa.int32()),
        ("hz", pa.float64()),
        ("bytes", pa.int64()),
    ]
)
"""One row an episode; `tags` and `views` are JSON, `bytes` is that of all media."""


@dataclass(frozen=True)
class Kind:
    """What the episodes of a data set share. `grade` tells what its counts rest on; null for a list of episodes."""

    converter: str
    source_id: str
    family: str
    embodiment: str
    control_mode: str
    license: str
    tags: tuple[str, ...]
    item: bool
    views: Mapping[str, tuple[int, int]]
    grade: Grade | None = None


@dataclass(frozen=True)
class Catalogue:
    """Episodes by uid.

    Attributes:
        name: the catalogue's, or the file's.
        kinds: the data sets.
        uids: [n, 32] bytes, sorted.
        kind: [n] place in `kinds`.
        steps: [n]
        hz: [n] steps a second; 0 for items.
        bytes: [n] of the media of a step (of the item), as stored; 0 where unknown.
        group: [n] place in `groups`, -1 for an episode that is a group of its own.
        digest: of all that.
    """

    name: str
    kinds: tuple[Kind, ...]
    uids: NDArray[np.uint8]
    kind: NDArray[np.int16]
    steps: NDArray[np.int32]
    hz: NDArray[np.float64]
    bytes: NDArray[np.int32]
    group: NDArray[np.int32]
    groups: Sequence[str]
    digest: str = field(compare=False)

    def __len__(self) -> int:
        return len(self.kind)


def open_catalogue(name: str) -> Catalogue:
    """A shipped catalogue, one in a YAML file, or a Parquet file with one row an episode."""
    return read_parquet(Path(name)) if name.endswith(".parquet") else expand(load_catalogue_spec(name))


def expand(spec: CatalogueSpec) -> Catalogue:
    """Every episode that a catalogue speaks of, made up by name and number."""
    counts = np.array([source.episodes for source in spec.sources], np.int64)
    kind = np.repeat(np.arange(len(counts), dtype=np.int16), counts)
    first = np.empty(len(kind), np.uint64)
    firsts = np.cumsum(counts) - counts
    for source, start in zip(spec.sources, firsts.tolist(), strict=True):
        first[start : start + source.episodes] = _values(source.converter, "uid", 0, np.arange(source.episodes))
    order = np.argsort(first, kind="stable")
    uids = _uids(spec, kind, firsts, order)
    steps = np.concatenate([_steps(source) for source in spec.sources])[order]
    groups: list[str] = []
    group = np.concatenate([_groups(source, groups) for source in spec.sources])[order]
    kind = kind[order]
    return Catalogue(
        name=spec.name,
        kinds=tuple(map(_kind, spec.sources)),
        uids=uids,
        kind=kind,
        steps=steps,
        hz=np.array([source.hz for source in spec.sources], np.float64)[kind],
        bytes=np.array([source.bytes or 0 for source in spec.sources], np.int32)[kind],
        group=group,
        groups=groups,
        digest=sha256_json({"catalogue": spec.canonical()}),
    )


def _kind(source: DataSet) -> Kind:
    return Kind(
        converter=source.converter,
        source_id=source.converter,
        family=source.family,
        embodiment=source.embodiment,
        control_mode=source.control_mode,
        license=source.license,
        tags=source.tags,
        item=source.kind == "item",
        views=source.views,
        grade=source.weakest,
    )


def _values(name: str, layer: str, place: int, numbers: NDArray[np.integer]) -> Words:
    """Keyed 64-bit values of episodes by number (splitmix64, Steele et al. 2014)."""
    text = f"catalogue\0{name}\0{_LAYERS[layer] + place}".encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
    with np.errstate(over="ignore"):
        z = np.uint64(key) + (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)), np.uint64)


def _uids(
    spec: CatalogueSpec, kind: NDArray[np.int16], firsts: NDArray[np.int64], order: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """[n, 32] uids in their order; two data sets' values in the first eight bytes never meet but by accident."""
    words = np.empty((len(order), 4), ">u8")
    sorted_kind = kind[order]
    for number, source in enumerate(spec.sources):
        rows = np.flatnonzero(sorted_kind == number)
        own = order[rows] - firsts[number]
        for place in range(4):
            words[rows, place] = _values(source.converter, "uid", place, own)
    return words.view(np.uint8).reshape(-1, 32)


def _steps(source: DataSet) -> NDArray[np.int32]:
    """[n] lengths: log-normal, clipped, and scaled until their sum is that of the mean."""
    count, lengths = source.episodes, source.steps
    top = float(lengths.max) if lengths.max is not None else np.inf
    if lengths.median is None or lengths.median == lengths.mean:
        spread = np.full(count, lengths.mean)
    else:
        numbers = np.arange(count)
        one, two = ((_values(source.converter, "steps", place, numbers) >> np.uint64(11)) + 0.5 for place in (0, 1))
        normal = np.sqrt(-2 * np.log(one / 2.0**53)) * np.cos(2 * np.pi * two / 2.0**53)  # Box and Muller
        sigma = np.sqrt(2 * np.log(lengths.mean / lengths.median))
        spread = np.clip(lengths.median * np.exp(sigma * normal), 1.0, top)
        for _ in range(_ROUNDS):  # clipping takes from the mean
            spread = np.clip(spread * (lengths.mean / spread.mean()), 1.0, top)
    ends = np.floor(np.cumsum(spread) + 0.5)
    return np.maximum(1, np.diff(ends, prepend=0.0)).astype(np.int32)


def _groups(source: DataSet, names: list[str]) -> NDArray[np.int32]:
    if source.groups is None:
        return np.full(source.episodes, -1, np.int32)
    start = len(names)
    names.extend(f"{source.converter}/{number}" for number in range(source.groups))
    values = _values(source.converter, "group", 0, np.arange(source.episodes))
    return (values % np.uint64(source.groups)).astype(np.int32) + np.int32(start)


def write_parquet(path: Path, batches: Iterable[Sequence[Mapping[str, Any]]]) -> int:
    """Write rows of `COLUMNS` and return how many; a file that is there is a `SpecError`."""
    if path.exists():
        raise SpecError(f"{path} is there already", fix="name another file, or remove it")
    rows = 0
    with pq.ParquetWriter(path, COLUMNS, compression="zstd", store_schema=False) as writer:
        for batch in batches:
            writer.write_table(pa.Table.from_pylist(list(batch), schema=COLUMNS))
            rows += len(batch)
    return rows


def kind_columns(kind: Kind) -> dict[str, str]:
    """The columns that all episodes of a data set share, as text."""
    plain = {name: getattr(kind, name) for name in _KINDS if name not in ("tags", "kind", "views")}
    documents = {"tags": canonical_json(list(kind.tags)), "views": canonical_json(dict(kind.views))}
    texts = {name: data.decode() for name, data in documents.items()}
    return {**plain, **texts, "kind": "item" if kind.item else "trajectory"}


def read_parquet(path: Path) -> Catalogue:
    """A catalogue of one row an episode. A file of other columns is a `FormatError` `missing_key`."""
    where = str(path)
    if not path.is_file():
        raise SpecError(f"no such file: {where}", fix="dataengine catalogue export LAKE FILE.parquet writes one")
    try:
        table = pq.read_table(path, use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise FormatError("unreadable_file", f"not Parquet: {error}", where=where) from None
    missing = sorted(set(COLUMNS.names) - set(table.column_names))
    if missing:
        raise FormatError("missing_key", f"the catalogue has no column {missing[0]!r}", where=where)
    try:
        table = table.select(COLUMNS.names).cast(COLUMNS).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise FormatError("length_mismatch", f"a column is of another type: {error}", where=where) from None
    return _from_table(table, path.stem, where)


def _from_table(table: pa.Table, name: str, where: str) -> Catalogue:
    uids = _bytes32(table["uid"])
    order = np.lexsort(tuple(np.ascontiguousarray(uids).view(">u8").astype(np.uint64)[:, ::-1].T))
    kind, kinds = _kinds(table)
    steps, hz = table["steps"].to_numpy(), table["hz"].to_numpy()
    lengths = np.where(np.array([found.item for found in kinds], np.bool_)[kind], 1, steps)
    per_step = table["bytes"].to_numpy() // np.maximum(lengths, 1)
    groups = table["group"].combine_chunks().dictionary_encode()
    group = groups.indices.fill_null(-1).to_numpy()
    if not (steps >= 0).all() or len(uids) != len(np.unique(uids.view("V32"))):
        raise FormatError("length_mismatch", "negative steps, or a uid that stands twice", where=where)
    digest = hashlib.sha256()
    for column in (uids[order], steps[order], group[order], kind[order]):
        digest.update(np.ascontiguousarray(column).tobytes())
    return Catalogue(
        name=name,
        kinds=kinds,
        uids=uids[order],
        kind=kind[order],
        steps=steps[order],
        hz=hz[order],
        bytes=np.minimum(per_step, np.iinfo(np.int32).max).astype(np.int32)[order],
        group=group[order].astype(np.int32),
        groups=groups.dictionary.to_pylist(),
        digest=digest.hexdigest(),
    )


def _bytes32(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    joined = column.combine_chunks()
    return np.frombuffer(joined.buffers()[1], np.uint8, count=len(joined) * 32, offset=joined.offset * 32).reshape(
        -1, 32
    )


def _kinds(table: pa.Table) -> tuple[NDArray[np.int16], tuple[Kind, ...]]:
    """The data set of each row: rows that agree in all that a data set shares are of one."""
    code = np.zeros(table.num_rows, np.int64)
    for name in _KINDS:
        column = table[name].combine_chunks()
        code = np.unique(code * len(column.dictionary) + column.indices.to_numpy(), return_inverse=True)[1]
    _, first, kind = np.unique(code, return_index=True, return_inverse=True)
    rows = table.select(list(_KINDS)).take(pa.array(first)).to_pylist()
    return kind.astype(np.int16), tuple(map(_kind_of, rows))


def _kind_of(row: Mapping[str, str]) -> Kind:
    return Kind(
        converter=row["converter"],
        source_id=row["source_id"],
        family=row["family"],
        embodiment=row["embodiment"],
        control_mode=row["control_mode"],
        license=row["license"],
        tags=tuple(orjson.loads(row["tags"])),
        item=row["kind"] == "item",
        views={name: (int(size[0]), int(size[1])) for name, size in orjson.loads(row["views"]).items()},
    )
