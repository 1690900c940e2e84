"""Documents: safe YAML and JSON, seals, canonical bytes, names with suggestions."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataengine.documents import (
    canonical_json,
    find_spec,
    load_json,
    load_yaml,
    seal,
    spec_files,
    substitute,
    unseal,
)
from dataengine.errors import FormatError, SpecError

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), plain, max_size=4))
def test_a_seal_opens_to_what_was_sealed(body: dict) -> None:
    assert canonical_json(unseal(seal(body), "x")) == canonical_json(body)


@given(st.dictionaries(st.text(max_size=8), plain, min_size=1, max_size=3), st.data())
def test_any_changed_byte_breaks_a_seal(body: dict, data: st.DataObject) -> None:
    sealed = bytearray(seal(body))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(FormatError, match=r"digest|document"):
        unseal(bytes(sealed), "x")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "json_invalid"),
        (b"", "json_invalid"),
        (b'{"a": NaN}', "json_nan"),
        (b'{"a": 1, "a": 2}', "json_duplicate_key"),
        (b'"\xff"', "invalid_utf8"),
        (b"[" * 100_000 + b"]" * 100_000, "json_too_deep"),
        (b"[" * 80 + b"]" * 80, "json_too_deep"),
    ],
)
def test_untrusted_json_is_refused_with_a_reason(text: bytes, reason: str) -> None:
    with pytest.raises(FormatError) as caught:
        load_json(text, "file.json")
    assert caught.value.reason == reason
    assert caught.value.where == "file.json"


@pytest.mark.parametrize(
    "text",
    ["a: 1\na: 2", "a: &x [1]\nb: *x", "!!python/object/apply:os.system ['true']", "a: [", "\x00"],
)
def test_unsafe_yaml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match="YAML"):
        load_yaml(path)


def test_large_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_text("a: " + "x" * (1 << 20))
    with pytest.raises(SpecError, match="1 MiB"):
        load_yaml(path)


def test_parameters_are_plain_text() -> None:
    assert substitute({"p": ["${data}/x"]}, {"data": "{0.__class__}"}, "r") == {"p": ["{0.__class__}/x"]}
    with pytest.raises(SpecError, match="data"):
        substitute("${data}", {}, "r")


def test_an_unknown_name_suggests_the_nearest() -> None:
    name = next(iter(spec_files("converters")))
    with pytest.raises(SpecError, match=f"did you mean '{name}'"):
        find_spec("converters", name[:-1] + "x")
