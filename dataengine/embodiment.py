"""Embodiment cards: one versioned YAML a body in `schemas/embodiments/`, each convention with its evidence."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Literal

from pydantic import Field, model_validator

from dataengine.documents import Strict, find_spec, load_yaml
from dataengine.schema import unified

Status = Literal["verified_on_data", "from_code", "recalled", "unknown"]
Morphology = Literal[
    "single_arm", "dual_arm", "mobile_manipulator", "humanoid", "quadruped", "human", "wheeled", "point_agent", "none"
]


class Evidence(Strict):
    """Where a convention comes from: a URL with line, a measurement on named data, or the reason it is unknown."""

    field: str
    source: str
    status: Status


class ControlMode(Strict):
    """What an action of this body is: the slots it fills and how they are meant."""

    slots: tuple[str, ...]
    meaning: str


class Gripper(Strict):
    """The gripper's native range: the value when fully open and when fully closed, in `unit`."""

    open: float
    closed: float
    unit: str


class Camera(Strict):
    """A camera the body carries or looks at it: its view name, and where it is mounted."""

    view: str
    mount: str


class Card(Strict):
    """One body. `frames` says for each arm (or for `base`) what axes its poses and steps are in."""

    name: str
    version: int
    robot_tag: str
    morphology: Morphology
    arms: tuple[Literal["right", "left"], ...] = ()
    waist: bool = False
    mobile_base: bool = False
    control_modes: Mapping[str, ControlMode]
    joints: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    frames: Mapping[str, str] = Field(default_factory=dict)
    gripper: Gripper | None = None
    rates_hz: tuple[float, ...] = ()
    cameras: tuple[Camera, ...] = ()
    evidence: tuple[Evidence, ...]

    @model_validator(mode="after")
    def _known_slots(self) -> Card:
        schema = unified()
        named = [slot for mode in self.control_modes.values() for slot in mode.slots]
        for key in [*named, *self.joints]:
            slot = schema.slot(key)
            if key in self.joints and len(self.joints[key]) > slot.width:
                raise ValueError(f"{key} holds {slot.width} channels, {len(self.joints[key])} joints are named")
        return self


@cache
def load_card(name: str) -> Card:
    """A shipped card by name, or a file by path; an unknown name suggests the nearest."""
    path = find_spec("schemas/embodiments", name)
    return Card.parse(load_yaml(path), str(path))
