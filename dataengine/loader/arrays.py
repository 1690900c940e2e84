"""A window's arrays as they lie in a shard: checked, and put side by side with those of windows of the same form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import numpy as np

from dataengine.errors import FormatError
from dataengine.layouts import Layout as Vectors
from dataengine.loader.codec import Bools, Channels, Floats, Layout, Numbers
from dataengine.loader.npy import parse_npy
from dataengine.loader.shards import RawSample
from dataengine.schema import WIDTH

COSINES = ("state_cosine", "action_cosine")
_FLOAT, _FLAG = "<f4", "|u1"
_Shape = tuple[int, ...]


@dataclass(frozen=True)
class Form:
    """What windows that are decoded together have in common; `baked` ones hold normalized numbers."""

    layout: Layout
    state: _Shape
    action: _Shape
    baked: bool = False
    cosines: tuple[str, ...] = ()  # members that only angles normalized by `sincos` have


class Window(NamedTuple):
    """A window's place in the request, its facts, and its arrays as bytes by name."""

    place: int
    raw: RawSample
    facts: Mapping[str, Any]
    arrays: Mapping[str, bytes]


class Stacked(NamedTuple):
    """The numbers of n windows, `is_pad` [n, H], and the physical state at t0 [n, cs], 0 where that is masked."""

    numbers: Numbers
    is_pad: Bools
    present: Floats


def window_of(
    place: int, raw: RawSample, facts: Mapping[str, Any], layout: Layout, *, baked: bool
) -> tuple[Form, Window]:
    """A window's arrays; a missing one, or one of another type or shape, is a `FormatError` `sample_damaged`."""
    arrays: dict[str, bytes] = {}
    state: _Shape = (1, 0)
    if layout.state.size:
        state = _masked(raw, "state", layout.state, arrays)
    if layout.action.size:
        action = _masked(raw, "action", layout.action, arrays)
        _like(raw, "is_pad", _FLAG, action[:1], arrays)
    else:
        steps = np.arange(facts["step"], facts["step"] + facts["horizon"])
        past = (steps >= facts.get("stop", facts["episode_length"])).astype(np.uint8)
        action, arrays["is_pad"] = (len(steps), 0), past.tobytes()
    if not baked:
        return Form(layout, state, action), Window(place, raw, facts, arrays)
    if layout.state.size:
        _like(raw, "present", _FLOAT, state[1:], arrays)
    cosines = tuple(name for name in COSINES if f"{name}.npy" in raw.members)
    for name in cosines:
        _like(raw, name, _FLOAT, state if name == "state_cosine" else action, arrays)
    return Form(layout, state, action, baked, cosines), Window(place, raw, facts, arrays)


class Dense(TypedDict):
    """The fields of an `Example` that a window of a version in a layout holds as they are."""

    state: Floats
    state_mask: Bools
    action: Floats
    action_mask: Bools
    is_pad: Bools
    present: Floats
    present_mask: Bools


def vectors(raw: RawSample, layout: Vectors) -> Dense:
    """A window's arrays in a layout: state [Th, K], action [H, K], `present` [256], each with its mask; `is_pad` [H].

    A missing one, or one of another type or shape, is a `FormatError` `sample_damaged`.
    """
    arrays: dict[str, bytes] = {}
    shapes: dict[str, _Shape] = {}
    for name, width in (("state", layout.width("state")), ("action", layout.width("action"))):
        shape, arrays[name] = _member(raw, name, _FLOAT)
        if len(shape) != 2 or shape[0] < 1 or shape[1] != width:
            raise FormatError("sample_damaged", f"{name} is {shape}, not [rows, {width}]", where=raw.where)
        shapes[name] = shape
    expected = {"state_mask": shapes["state"], "action_mask": shapes["action"], "is_pad": shapes["action"][:1]}
    for name, shape in {**expected, "present_mask": (WIDTH,)}.items():
        _like(raw, name, _FLAG, shape, arrays)
    _like(raw, "present", _FLOAT, (WIDTH,), arrays)

    def floats(name: str, shape: _Shape) -> Floats:
        return np.frombuffer(arrays[name], np.float32).reshape(shape)

    def flags(name: str, shape: _Shape) -> Bools:
        return np.frombuffer(arrays[name], np.uint8).reshape(shape).astype(np.bool_)

    return Dense(
        state=floats("state", shapes["state"]),
        state_mask=flags("state_mask", shapes["state"]),
        action=floats("action", shapes["action"]),
        action_mask=flags("action_mask", shapes["action"]),
        is_pad=flags("is_pad", shapes["action"][:1]),
        present=floats("present", (WIDTH,)),
        present_mask=flags("present_mask", (WIDTH,)),
    )


def _masked(raw: RawSample, name: str, channels: Channels, arrays: dict[str, bytes]) -> _Shape:
    shape, arrays[name] = _member(raw, name, _FLOAT)
    mask_shape, arrays[f"{name}_mask"] = _member(raw, f"{name}_mask", _FLAG)
    if len(shape) != 2 or shape[0] < 1 or shape[1] != len(channels) or mask_shape != shape:
        told = f"{name} is {shape}, its mask {mask_shape}, for {len(channels)} channels"
        raise FormatError("sample_damaged", told, where=raw.where)
    return shape


def _like(raw: RawSample, name: str, dtype: str, expected: _Shape, arrays: dict[str, bytes]) -> None:
    shape, arrays[name] = _member(raw, name, dtype)
    if shape != expected:
        raise FormatError("sample_damaged", f"{name} is {shape}, not {expected}", where=raw.where)


def _member(raw: RawSample, name: str, dtype: str) -> tuple[_Shape, bytes]:
    data = raw.members.get(f"{name}.npy")
    if data is None:
        raise FormatError("sample_damaged", f"{name}.npy is missing", where=raw.where)
    found, shape, payload = parse_npy(data, name, raw.where)
    if found != dtype:
        raise FormatError("sample_damaged", f"{name} is of type {found}, not {dtype}", where=raw.where)
    return shape, payload


def stacked(form: Form, windows: Sequence[Window]) -> Stacked:
    """The arrays of windows of one form side by side; padding is masked whatever its mask says."""
    count = len(windows)

    def joined(name: str) -> bytes:
        return b"".join([window.arrays.get(name, b"") for window in windows])

    def floats(name: str, shape: _Shape) -> Floats:
        return np.frombuffer(joined(name), np.float32).reshape(count, *shape)

    def flags(name: str, shape: _Shape) -> Bools:
        return np.frombuffer(joined(name), np.uint8).reshape(count, *shape).astype(np.bool_)

    past = flags("is_pad", form.action[:1])
    shapes = {"state_cosine": form.state, "action_cosine": form.action}
    numbers = Numbers(
        floats("state", form.state),
        flags("state_mask", form.state),
        floats("action", form.action),
        flags("action_mask", form.action) & ~past[..., None],
        **{name: floats(name, shapes[name]) for name in form.cosines},
    )
    now = floats("present", form.state[1:]) if form.baked else numbers.state[:, -1]
    return Stacked(numbers, past, np.where(numbers.state_mask[:, -1], now, np.float32(0)))
