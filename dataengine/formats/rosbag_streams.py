"""Streams out of the messages of topics: numbers under the paths of their fields, joints by name, transforms by frame.

A helper of the format `rosbag`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.errors import EpisodeError
from dataengine.formats.rosbag_columns import Column, Columns, merged

JOINT_TYPES = ("sensor_msgs/JointState",)
TRANSFORM_TYPES = ("tf2_msgs/TFMessage", "tf/tfMessage")
_TIME_PAIRS = (("sec", "nanosec"), ("sec", "nsec"), ("seconds", "nanos"))
_VECTORS = (("x", "y", "z", "w"), ("x", "y", "z"))
NS = 1_000_000_000
Numbers = NDArray[Any]


@dataclass
class Found:
    """What streams give an episode. `unread` are fields of read topics that were left, `joints` those of a stream."""

    arrays: dict[str, Numbers] = field(default_factory=dict)
    texts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    joints: dict[str, list[str]] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, array: Numbers) -> None:
        if name in self.arrays:
            raise EpisodeError("duplicate_stream", f"two topics give {name}", fix="name one `stream` in `topics`")
        self.arrays[name] = array


def stamps(columns: Columns, prefix: str) -> NDArray[np.int64] | None:
    """Times of a field in ns [N], where it is a time (`sec` and `nanosec`, `seconds` and `nanos`)."""
    for names in _TIME_PAIRS:
        pair = [columns.get(f"{prefix}/{name}") for name in names]
        if all(part is not None and part.kind == "number" and np.ndim(part.values) == 1 for part in pair):
            seconds, rest = (np.asarray(part.values) for part in pair if part is not None)
            if seconds.dtype.kind not in "iu" or rest.dtype.kind not in "iu":
                return None
            if len(seconds) and (abs(int(seconds.max())) >= 1 << 33 or abs(int(seconds.min())) >= 1 << 33):
                raise EpisodeError("bad_timestamp", f"{prefix} holds {int(seconds.max())} seconds")
            return seconds.astype(np.int64) * NS + rest.astype(np.int64)
    return None


@dataclass
class Fields:
    """Any type of message: what is a number or a text of fixed size, under its path; the rest is named as unread."""

    parts: list[tuple[NDArray[np.int64], Columns]] = field(default_factory=list)
    rows: int = 0
    left: set[str] = field(default_factory=set)
    keep_all: bool = False

    def add(self, columns: Columns, rows: int) -> None:
        kept = {}
        for name, column in columns.items():
            if column.kind in ("bytes", "ragged") and not self.keep_all:
                self.left.add(name)
            else:
                kept[name] = column
        self.parts.append((np.arange(self.rows, self.rows + rows), kept))
        self.rows += rows

    def columns(self) -> dict[str, Column]:
        found = merged(self.parts, self.rows) if self.parts else {}
        return {name: column for name, column in found.items() if name not in self.left}

    def give(self, stream: str, order: NDArray[np.intp], found: Found) -> None:
        columns = self.columns()
        self._vectors(stream, columns, order, found)
        for name, column in columns.items():
            if column.kind == "number":
                found.add(f"{stream}/{name}", np.ascontiguousarray(np.asarray(column.values)[order]))
            elif column.kind == "text":
                self._text(stream, name, [column.values[row] for row in order.tolist()], found)
            else:
                self.left.add(name)
        found.unread |= {f"{stream}/{name}" for name in self.left}

    @staticmethod
    def _text(stream: str, name: str, values: list[str], found: Found) -> None:
        if name in ("header/frame_id", "frame_id", "child_frame_id") and len(set(values)) == 1:
            found.told.setdefault("frames", {})[name] = values[0]
        else:
            found.texts[f"{stream}/{name}"] = tuple(values)

    @staticmethod
    def _vectors(stream: str, columns: dict[str, Column], order: NDArray[np.intp], found: Found) -> None:
        """Take x, y, z (and w) of one parent as one array, seconds and nanoseconds as one time."""
        parents: dict[str, list[str]] = {}
        for name in columns:
            parent, _, leaf = name.rpartition("/")
            parents.setdefault(parent, []).append(leaf)
        for parent, leaves in parents.items():
            own = f"{stream}/{parent}" if parent else stream
            keys = {leaf: f"{parent}/{leaf}" if parent else leaf for leaf in leaves}
            if not all(columns[key].kind == "number" and np.ndim(columns[key].values) == 1 for key in keys.values()):
                continue
            if any(set(leaves) == set(pair) for pair in _TIME_PAIRS) and parent:
                times = stamps(columns, parent)
                if times is not None:
                    found.add(f"{own}_ns", times[order])
                    for key in keys.values():
                        del columns[key]
                continue
            vector = next((names for names in _VECTORS if set(names) == set(leaves)), None)
            arrays = [np.asarray(columns[keys[leaf]].values) for leaf in vector or ()]
            if vector and parent and len({array.dtype for array in arrays}) == 1 and arrays[0].dtype.kind == "f":
                found.add(own, np.stack(arrays, axis=1)[order])
                for key in keys.values():
                    del columns[key]


@dataclass
class Joints:
    """JointState: position, velocity and effort [N, J] in the order of the first message's names, or of wanted ones."""

    inner: Fields = field(default_factory=lambda: Fields(keep_all=True))

    def add(self, columns: Columns, rows: int) -> None:
        self.inner.add(columns, rows)

    taken: set[str] = field(default_factory=set)

    def left(self) -> list[str]:
        """Joints that the messages name and no stream took, sorted."""
        named = self.inner.columns().get("name")
        return sorted({name for row in (named.values if named is not None else ()) for name in row} - self.taken)

    def give(
        self, stream: str, order: NDArray[np.intp], found: Found, wanted: tuple[str, ...] = ()
    ) -> NDArray[np.intp]:
        """Give the arrays, and return the rows that hold the joints (others are another publisher's)."""
        columns = self.inner.columns()
        named = columns.get("name")
        if named is None or named.kind != "texts":
            raise EpisodeError("missing_stream", f"{stream} names no joints")
        rows = [number for number in order.tolist() if not wanted or set(wanted) & set(named.values[number])]
        if not rows:
            raise EpisodeError("missing_stream", f"{stream} never holds the joints {', '.join(wanted)}")
        names = wanted or tuple(named.values[rows[0]])
        picks = _picks(stream, names, [tuple(named.values[row]) for row in rows], any_others=bool(wanted))
        self.taken |= set(names)
        for part in ("position", "velocity", "effort"):
            values = _joint_values(stream, part, columns.get(part), rows, picks, [len(named.values[r]) for r in rows])
            if values is not None:
                found.add(f"{stream}/{part}", values)
        found.told["names"] = list(names)
        if len(rows) < len(order):
            found.told["other_publishers"] = len(order) - len(rows)
        frames = columns.get("header/frame_id")
        if frames is not None and frames.kind == "text" and len(set(frames.values)) == 1:
            found.told["frames"] = {"header/frame_id": frames.values[0]}
        return np.asarray(rows, np.intp)


def _picks(
    stream: str, names: tuple[str, ...], each: list[tuple[str, ...]], *, any_others: bool
) -> list[tuple[int, ...]]:
    """Where each message keeps the named joints; another set of joints, or a name twice, is refused."""
    known: dict[tuple[str, ...], tuple[int, ...]] = {}
    for own in dict.fromkeys(each):
        missing = [name for name in names if name not in own]
        if len(set(own)) != len(own) or missing or (not any_others and len(own) != len(names)):
            what = f"{stream}: a message names the joints {', '.join(own)}, others {', '.join(names)}"
            fix = "name in `topics` a `stream` and its `joints` for each of the nodes that publish on one topic"
            raise EpisodeError("changed_names", what, fix=fix)
        known[own] = tuple(own.index(name) for name in names)
    return [known[own] for own in each]


def _joint_values(
    stream: str,
    part: str,
    column: Column | None,
    rows: list[int],
    picks: list[tuple[int, ...]],
    widths: list[int],
) -> Numbers | None:
    """Values [N, J] by name; None where no message has any. A message with fewer values than names is refused."""
    if column is None:
        return None
    if column.kind == "number" and len(set(picks)) == 1 and len(set(widths)) == 1:
        values = np.asarray(column.values)[rows]
        if values.shape[1:] == (widths[0],):
            return values[:, list(picks[0])]
    each = [np.asarray(column.values[row]) for row in rows]
    if all(values.size == 0 for values in each):
        return None
    for values, width in zip(each, widths, strict=True):
        if values.shape != (width,):
            raise EpisodeError("length_mismatch", f"{stream}: {values.size} values of {part} for {width} joints")
    return np.stack([values[list(pick)] for values, pick in zip(each, picks, strict=True)])


@dataclass
class Transforms:
    """tf: `translation` [N, 3] and `rotation` [N, 4] (xyzw) of every child in its parent, each on its own times."""

    inner: Fields = field(default_factory=lambda: Fields(keep_all=True))

    def add(self, columns: Columns, rows: int) -> None:
        self.inner.add(columns, rows)

    def give(
        self, stream: str, order: NDArray[np.intp], found: Found, times: NDArray[np.int64], *, header: bool
    ) -> None:
        """`times` [N] are the messages' own; with `header` each transform has the time of its own header."""
        columns = self.inner.columns()
        poses: dict[tuple[str, str], list[tuple[int, list[float]]]] = {}
        for row in order.tolist():
            number = 0
            while (child := _value(columns, f"transforms/{number}/child_frame_id", row)) is not None:
                prefix = f"transforms/{number}"
                values = [_value(columns, f"{prefix}/transform/{name}", row) for name in _POSE]
                parent = _value(columns, f"{prefix}/header/frame_id", row)
                stamp = [_value(columns, f"{prefix}/header/stamp/{name}", row) for name in ("sec", "nanosec")]
                if None in values or None in stamp or parent is None:
                    raise EpisodeError("bad_message", f"{stream}: a transform lacks a number")
                time = int(stamp[0]) * NS + int(stamp[1]) if header else int(times[row])
                poses.setdefault((_frame(parent), _frame(child)), []).append((time, values))
                number += 1
        for (parent, child), rows in sorted(poses.items()):
            table = np.asarray([value for _, value in rows], np.float64)
            found.add(f"{stream}/{parent}/{child}/translation", table[:, :3])
            found.add(f"{stream}/{parent}/{child}/rotation", table[:, 3:])
            found.add(f"{stream}/{parent}/{child}/time_ns", np.asarray([time for time, _ in rows], np.int64))


_POSE = [f"translation/{axis}" for axis in "xyz"] + [f"rotation/{axis}" for axis in "xyzw"]


def _value(columns: Columns, name: str, row: int) -> Any:
    column = columns.get(name)
    return None if column is None else column.row(row)


def _frame(name: str) -> str:
    """A frame's name as part of a stream's: ROS 1 may begin it with a slash."""
    return name.strip("/").replace("/", ".") or "unnamed"


def told_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a stream, without what is empty."""
    return {key: value for key, value in found.items() if value}
