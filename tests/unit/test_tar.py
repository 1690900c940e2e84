"""Shards are plain ustar files that any reader takes, and damage in them is seen."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataengine.errors import FormatError, StorageError
from dataengine.shards import index
from dataengine.shards.tar import Sample, TarWriter, group, header, members
from dataengine.storage import Store

SAMPLES = [
    Sample("a-0000000-000", (("json", b"{}"), ("head.jpg", b"x" * 700))),
    Sample("b-0000001-000", (("json", b'{"k":1}'), ("head.m1.jpg", b""), ("state.npy", b"y" * 512))),
]


def write(root: Path, samples: list[Sample]) -> tuple[bytes, TarWriter]:
    store = Store(root)
    with store.writer("t") as staged:
        writer = TarWriter(staged)
        for sample in samples:
            writer.add(sample)
        writer.close()
        staged.publish("out.tar")
    return store.read("out.tar"), writer


def test_tarfile_reads_what_was_written(tmp_path: Path) -> None:
    data, _ = write(tmp_path, SAMPLES)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = archive.getmembers()
        assert [entry.name for entry in found] == [f"{s.key}.{ext}" for s in SAMPLES for ext, _ in s.members]
        assert all((e.mtime, e.uid, e.gid, e.mode, e.uname, e.isreg()) == (0, 0, 0, 0o644, "", True) for e in found)
        contents = [archive.extractfile(entry).read() for entry in found]  # type: ignore[union-attr]
    assert contents == [content for sample in SAMPLES for _, content in sample.members]


def test_the_index_says_where_members_lie(tmp_path: Path) -> None:
    data, writer = write(tmp_path, SAMPLES)
    entries = list(group(members(data)))
    assert entries == writer.index
    assert index.parse(index.dump(entries), "x") == entries
    for sample, (key, found) in zip(SAMPLES, entries, strict=True):
        assert key == sample.key
        assert [data[m.offset : m.offset + m.size] for m in found] == [content for _, content in sample.members]


@pytest.mark.parametrize("cut", [1, 512, 1024, 1536, 2048])
def test_a_cut_tar_is_seen(tmp_path: Path, cut: int) -> None:
    data, _ = write(tmp_path, SAMPLES)
    with pytest.raises(FormatError, match=r"tar|end|whole"):
        list(members(data[:-cut]))


def test_every_flipped_header_bit_is_seen(tmp_path: Path) -> None:
    data, writer = write(tmp_path, SAMPLES)
    start = writer.index[1][1][0].offset - 512
    for bit in range(512 * 8):
        damaged = bytearray(data)
        damaged[start + bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError):
            list(members(bytes(damaged)))


def test_a_key_that_comes_back_is_refused(tmp_path: Path) -> None:
    data, _ = write(tmp_path, [*SAMPLES, SAMPLES[0]])
    with pytest.raises(FormatError, match="twice"):
        list(group(members(data)))


def test_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(StorageError):
        header("x" * 101, 1)


@given(st.text("abcdef0123456789-._", min_size=1, max_size=100), st.integers(0, 8**11 - 1))
def test_headers_are_what_tarfile_parses(name: str, size: int) -> None:
    info = tarfile.TarInfo.frombuf(header(name, size), "ascii", "strict")
    assert (info.name, info.size) == (name.rstrip("/"), size)
