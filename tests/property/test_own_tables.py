"""What is written into a log of one's own comes back: by CSV, JSON, JSON Lines and .npz alike."""

from __future__ import annotations

import csv
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dataengine.episode import RawEpisode
from dataengine.formats.base import EpisodeRef, get_format
from dataengine.storage import SourceRoot

FORMAT = get_format("table_episodes")
WHOLE = st.integers(-(2**63) + 1, 2**63 - 1)
FLOATS = st.floats(allow_nan=True, allow_infinity=True)
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n", exclude_categories=("Cs", "Cc")), max_size=8)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, list[Any]]:
    """Columns of one length: whole numbers, floats with gaps, truth values, texts that are no numbers."""
    rows = draw(st.integers(1, 6))
    kinds = {
        "whole": WHOLE,
        "real": FLOATS,
        "gap": st.none() | FLOATS,
        "flag": st.booleans(),
        "word": WORDS.map(lambda word: f"w{word}"),
    }
    chosen = draw(st.sets(st.sampled_from(sorted(kinds)), min_size=1))
    columns = {name: [draw(kinds[name]) for _ in range(rows)] for name in sorted(chosen)}
    return {"t": [row / 8 for row in range(rows)], **columns}


def read(folder: Path) -> RawEpisode:
    (entry,) = FORMAT.scan(SourceRoot(folder), None, {})
    assert isinstance(entry, EpisodeRef)
    return FORMAT.read(SourceRoot(folder), entry)


def check(raw: RawEpisode, columns: dict[str, list[Any]]) -> None:
    for name, values in columns.items():
        if name == "word":
            assert raw.texts[name] == tuple(values)
        elif name == "gap" and all(value is None for value in values):
            assert name not in raw.arrays
        else:
            expected = [math.nan if value is None else value for value in values]
            assert np.array_equal(raw.arrays[name], np.array(expected), equal_nan=name in ("real", "gap"))


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from(["csv", "json", "jsonl", "npz"]))
def test_what_is_written_is_read(columns: dict[str, list[Any]], kind: str) -> None:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{kind}"
        if kind == "csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(columns)
                writer.writerows(["" if value is None else value for value in row.values()] for row in rows)
        elif kind == "npz":
            plain = {name: [math.nan if v is None else v for v in values] for name, values in columns.items()}
            np.savez(path, **{name: np.array(values) for name, values in plain.items()})
            columns = {name: values for name, values in plain.items() if name != "gap"}
        else:
            text = json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows))
            path.write_text(text, encoding="utf-8")
        check(read(Path(folder)), columns)
