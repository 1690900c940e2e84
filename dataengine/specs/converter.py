"""Converters: how one source's fields mean ours. A YAML file, not code.

The source's conventions (units, frames, rotation form, gripper polarity, label kind, time base) are mandatory; a
missing one is a `SpecError` that names it. Each mapping carries the evidence it rests on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from dataengine.credentials import refuse_credentials
from dataengine.documents import Strict, find_spec, load_yaml
from dataengine.embodiment import Status
from dataengine.episode import Family, LabelKind
from dataengine.errors import SpecError
from dataengine.geometry import FORM_WIDTH, RotationForm
from dataengine.schema import unified
from dataengine.specs.camera import CameraSpec, PoseSpec
from dataengine.specs.derive import Derive, ManoPca
from dataengine.specs.requires import Requirement
from dataengine.specs.source import SourceInfo

MAX_TOLD = 12
SCALE_TO_SI: dict[str, dict[str, float]] = {
    "m": {"m": 1.0, "cm": 0.01, "mm": 0.001},
    "rad": {"rad": 1.0, "deg": 0.017453292519943295},
    "rad/s": {"rad/s": 1.0, "deg/s": 0.017453292519943295},
    "m/s": {"m/s": 1.0, "cm/s": 0.01, "mm/s": 0.001},
    "rotvec": {"rad": 1.0, "deg": 0.017453292519943295},
    "rot6d": {"rad": 1.0, "deg": 0.017453292519943295, "none": 1.0},
    "N m": {"N m": 1.0},
    "N": {"N": 1.0},
}


TimeUnit = Literal["s", "ms", "us", "ns"]


class FormatChoice(Strict):
    """Which format reads the source, and its options."""

    name: str
    options: Mapping[str, Any] = Field(default_factory=dict)


class RotationSpec(Strict):
    """A rotation's form in the source. `order` and `intrinsic` are mandatory for Euler angles."""

    form: RotationForm
    order: str | None = None
    intrinsic: bool | None = None

    @model_validator(mode="after")
    def _euler_is_complete(self) -> RotationSpec:
        if (self.form == "euler") != (self.order is not None and self.intrinsic is not None):
            raise ValueError("`order` and `intrinsic` are given for Euler angles, and only for them")
        return self


class GripperSpec(Strict):
    """Gripper polarity: the source's value when open and when closed; mapped linearly to 1 and 0.

    A gripper measured finger by finger has one value per column; the opening is the mean over the fingers.
    """

    open: float | tuple[float, ...]
    closed: float | tuple[float, ...]

    @model_validator(mode="after")
    def _apart(self) -> GripperSpec:
        if len(self.fingers[0]) != len(self.fingers[1]) or any(map(float.__eq__, *self.fingers)):
            raise ValueError("`open` and `closed` have one value a column each, and they differ")
        return self

    @property
    def fingers(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Values when open and when closed, one per column."""
        return tuple(v if isinstance(v, tuple) else (v,) for v in (self.open, self.closed))  # type: ignore[return-value]


class ControllerScale(Strict):
    """Scale of a controller-normalized command, read from the source's own controller config.

    `config` is the path of that config in the episode's attributes; it holds `input_min/max` and `output_min/max`.
    Commands are clipped to the input range (the controller does so) and mapped linearly to the output range, whose
    unit the mapping's `unit` names.
    """

    config: str
    columns: tuple[int, int]


class Expected(Strict):
    """How values of this source were seen to behave; `inspect` compares, a conversion does not depend on it.

    `gain` of a per-step command: how much of it the body does in the same row (1: all of it). `axes` of a camera: which
    of its own axes point down, forward and left in the world when the body stands upright.
    """

    gain: float | None = Field(default=None, gt=0)
    axes: Mapping[Literal["down", "forward", "left"], tuple[float, float, float]] = Field(default_factory=dict)


class ExpectedView(Strict):
    """How pictures of this source were seen to behave, their colours having been checked by eye.

    `lag_rows`: by how many rows the pictures follow the state. `hues`: share of colour (whole numbers, in all about
    100) in twelve sectors of 30 degrees, the first centred on red, then orange, yellow and so on.
    """

    lag_rows: float | None = None
    hues: tuple[float, ...] | None = Field(default=None, min_length=12, max_length=12)


class Align(Strict):
    """How a stream on its own clock is taken at the episode's rows: `times` names its array of times, in `unit`.

    `previous` takes the last value at or before a row (what a controller knew), `nearest` the nearest, `linear` the
    straight line between two. Where nothing lies within `within_s` of a row, the value is masked there.
    """

    times: str
    unit: TimeUnit
    rule: Literal["previous", "nearest", "linear"]
    within_s: float = Field(gt=0)


class StateMapping(Strict):
    """One slot filled from one native array.

    `columns` picks from its last axis (flattened behind the time axis), half-open; `shift` k takes row t+k for step
    t (labels that are a later measurement); `mask` names a boolean array [T] that says where the value exists.
    `joints` place named dexterous joints. `align` takes a stream that has a clock of its own at the rows' times.
    """

    slot: str
    array: str
    columns: tuple[int, int] | tuple[int, ...] | None = None
    unit: str
    frame: str
    rotation: RotationSpec | None = None
    gripper: GripperSpec | None = None
    scale: float | None = None
    controller: ControllerScale | None = None
    joints: tuple[str, ...] = ()
    shift: int = 0
    mask: str | None = None
    align: Align | None = None
    expected: Expected | None = None
    evidence: str
    status: Status

    @model_validator(mode="after")
    def _conventions(self) -> StateMapping:
        slot = unified().slot(self.slot)
        if slot.unit in ("rot6d", "rotvec") and self.rotation is None:
            raise ValueError(f"{self.slot} needs `rotation` (form, and order for Euler angles)")
        if slot.group == "gripper" and self.gripper is None:
            raise ValueError(f"{self.slot} needs `gripper` (the source's value when open and when closed)")
        known = SCALE_TO_SI.get(slot.unit)
        if known is not None and self.unit not in known:
            raise ValueError(f"{self.slot}: unit {self.unit!r} is none of {', '.join(known)}")
        if self.status == "unknown":
            raise ValueError(f"{self.slot}: its convention is unknown; nothing is guessed: find out, or map to native")
        if self.frame == "" or self.unit == "":
            raise ValueError(f"{self.slot}: `unit` and `frame` are mandatory")
        if self.align is not None and self.align.rule == "linear" and self.rotation is not None:
            raise ValueError(f"{self.slot}: a rotation is aligned by `previous` or `nearest`, not along a line")
        if slot.group == "dex_joint" and not self.joints:
            raise ValueError(f"{self.slot} needs `joints`, names out of the schema's table")
        return self

    @property
    def indices(self) -> tuple[int, ...] | None:
        """Picked columns as a list of indices; a pair is a half-open range."""
        if self.columns is None:
            return None
        if len(self.columns) == 2 and self.columns[1] > self.columns[0]:
            return tuple(range(*self.columns))
        return self.columns


class ActionMapping(StateMapping):
    """A mapping into the action: also says what kind of label it is."""

    label: LabelKind


class TimeSpec(Strict):
    """The time base.

    `declared_rate`: rows are equidistant at `hz`. `attribute_rate`: the same with the rate read from the episode's
    attribute at the path `hz_attribute`. `timestamps`: `array` holds times in `unit` (in its `column`, where the array
    has several). `pseudo_rate`: a clockless source gets `hz`, recorded as such. `none`: a VL item.
    `check_array` is compared with the row times (s, within half a step). `merge_within_s`: rows that follow their
    predecessor by no more than this are repeats of it; they are left out, and counted in the episode's notes.
    `pair: drop_last_observation`: a source of T + 1 observations (states, pictures, times) and T actions; the last
    observation saw the result, nothing followed it, and it is no step. `overlap: trim`: rows at which an aligned stream
    or a view on its own clock has not begun, or has ended, are left out at both ends, and counted in the notes.
    """

    base: Literal["declared_rate", "attribute_rate", "timestamps", "pseudo_rate", "none"]
    hz: float | None = Field(default=None, gt=0)
    hz_attribute: str | None = None
    array: str | None = None
    column: int | None = Field(default=None, ge=0)
    unit: TimeUnit | None = None
    check_array: str | None = None
    merge_within_s: float | None = Field(default=None, ge=0)
    pair: Literal["drop_last_observation"] | None = None
    overlap: Literal["trim"] | None = None
    evidence: str

    @model_validator(mode="after")
    def _complete(self) -> TimeSpec:
        needs = {
            "declared_rate": self.hz is not None,
            "pseudo_rate": self.hz is not None,
            "attribute_rate": self.hz_attribute is not None,
            "timestamps": self.array is not None and self.unit is not None,
            "none": True,
        }
        if not needs[self.base]:
            raise ValueError(f"time base {self.base!r} lacks its rate, or its array and unit")
        if self.column is not None and self.base != "timestamps":
            raise ValueError("`column` names the clock's column, so it goes with time base `timestamps`")
        if self.pair is not None and self.merge_within_s is not None:
            raise ValueError("`pair` counts rows as they came, so it does not go with `merge_within_s`")
        return self


class ViewSpec(Strict):
    """A camera stream shown as a named view; `clock` "rows" pairs frame i with row i, "times" pairs by timestamp.

    With "times" every row must have a frame within `within_s`.

    `rotate` turns the decoded picture counterclockwise by so many degrees, so that it stands upright. `camera` is the
    calibration of the picture before that turn, where the source has one.
    """

    view: str = Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")
    media: str
    channel_order: Literal["rgb", "bgr"] = "rgb"
    rotate: Literal[0, 90, 180, 270] = 0
    clock: Literal["rows", "times"]
    within_s: float | None = Field(default=None, gt=0)
    expected: ExpectedView | None = None
    camera: CameraSpec | None = None
    evidence: str

    @model_validator(mode="after")
    def _tolerance(self) -> ViewSpec:
        if (self.clock == "times") != (self.within_s is not None):
            raise ValueError("`within_s` goes with clock `times`, and only with it")
        return self


class LanguageSpec(Strict):
    """A text: from a text stream of the source, or constant and then declared by this converter."""

    text: str | None = None
    stream: str | None = None
    level: Literal["episode", "task", "subtask", "step"]
    evidence: str

    @model_validator(mode="after")
    def _one(self) -> LanguageSpec:
        if (self.text is None) == (self.stream is None):
            raise ValueError("a language entry has either `text` or `stream`")
        return self


class NativeAction(Strict):
    """Discrete action ids that are kept beside the unified action: the array [T] and what its ids do."""

    array: str
    params: Mapping[str, float | int]


_OPTIONAL = frozenset({"align", "camera", "form", "overlap", "pair", "within_s"})
"""Fields that a digest leaves out where they are not given, so that converters without them keep theirs."""


class Converter(Strict):
    """One source: format, body, streams, conventions, licence."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    version: int
    family: Family
    source: SourceInfo
    format: FormatChoice
    embodiment: str
    control_mode: str
    requires: tuple[Requirement, ...] = ()
    own_statistics: Literal["check"] | None = None
    time: TimeSpec
    group: Literal["episode", "source", "from_format"] = "episode"
    derive: tuple[Derive, ...] = ()
    state: tuple[StateMapping, ...] = ()
    action: tuple[ActionMapping, ...] = ()
    views: tuple[ViewSpec, ...] = ()
    language: tuple[LanguageSpec, ...] = ()
    native_action: NativeAction | None = None
    items: bool = False

    @model_validator(mode="after")
    def _sensible(self) -> Converter:
        if self.items != (self.time.base == "none"):
            raise ValueError("`items: true` goes with time base `none`, and only with it")
        if self.items and (self.state or self.action or self.views):
            raise ValueError("an item has messages and media, neither state, action nor views")
        if not self.items and not (self.state or self.action or self.views or self.language):
            raise ValueError("a trajectory needs a mapping into `state` or `action`, a view, or language")
        schema = unified()
        for entry in self.state:
            if not schema.slot(entry.slot).state:
                raise ValueError(f"{entry.slot} holds no state")
        for action in self.action:
            if schema.slot(action.slot).action == "none":
                raise ValueError(f"{action.slot} holds no action")
        for side in (self.state, self.action):
            keys = [entry.slot for entry in side if entry.slot != "native"]
            if len(set(keys)) != len(keys):
                raise ValueError("a slot is mapped twice")
        self._check_hand_pca()
        self._check_cameras()
        self.source.check()
        return self

    def _check_cameras(self) -> None:
        """A camera that a body part carries needs that part's pose in the state."""
        mapped = {entry.slot for entry in self.state}
        for view in self.views:
            pose = view.camera.pose if view.camera is not None else None
            if isinstance(pose, PoseSpec) and pose.slot is not None and not set(pose.slots) <= mapped:
                raise ValueError(f"the camera of {view.view} rides on {' and '.join(pose.slots)}: map both in `state`")

    def _check_hand_pca(self) -> None:
        """Coefficients mean something only with their basis, which `derive: mano_pca` takes from the user's files."""
        made = {entry.output for entry in self.derive if isinstance(entry, ManoPca)}
        for entry in (*self.state, *self.action):
            if (unified().slot(entry.slot).group == "hand_pca") != (entry.array in made):
                raise ValueError("`hand_pca` is what a `derive` of kind mano_pca gives, and takes nothing else")

    @property
    def source_id(self) -> str:
        return self.source.name

    def canonical(self) -> Any:
        """As every document, but without `expected`, on which no conversion depends, and without what is not given."""
        each = {"__all__": {"expected"}}
        plain = self.model_dump(mode="json", exclude={"state": each, "action": each, "views": each})

        def given(part: Mapping[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in part.items() if key not in _OPTIONAL or value is not None}

        parts = {side: [given(part) for part in plain[side]] for side in ("state", "action", "views", "derive")}
        for name in ("requires", "own_statistics"):
            if not plain[name]:
                del plain[name]
        return {**plain, "source": self.source.stated(), "time": given(plain["time"]), **parts}


def load_converter(name: str) -> Converter:
    """A shipped converter by name, or a file by path. Mistakes are a `SpecError` naming every wrong field."""
    path = find_spec("converters", name)
    document = load_yaml(path)
    refuse_credentials(document, str(path))
    left = list(_unknown(document, ""))
    if left:
        more = f" and {len(left) - MAX_TOLD} more" if len(left) > MAX_TOLD else ""
        raise SpecError(
            f"still UNKNOWN: {', '.join(left[:MAX_TOLD])}{more}",
            where=str(path),
            fix="write what you know and how you know it, or delete the entry: nothing is guessed",
        )
    return Converter.parse(document, str(path))


def _unknown(value: Any, place: str) -> Iterator[str]:
    """Where a draft of `inspect --spec` still says UNKNOWN."""
    if value == "UNKNOWN":
        yield place
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in parts:
        yield from _unknown(inner, f"{place}.{key}" if place else str(key))


def rotation_width(spec: RotationSpec) -> int:
    """Numbers a rotation takes in the source."""
    return FORM_WIDTH[spec.form]
