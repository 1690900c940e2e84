"""Fields to slots: picked columns of native arrays in SI units, with masks, as the converter's mappings say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine import geometry
from dataengine.episode import SlotArray
from dataengine.errors import EpisodeError, SpecError
from dataengine.schema import ROT6D_IDENTITY, Slot, unified
from dataengine.specs.converter import SCALE_TO_SI, ControllerScale, StateMapping

Floats = NDArray[np.float64]


def attribute(attributes: Mapping[str, Any], path: str) -> Any:
    """The attribute at a `/`-separated path; a missing one is an `EpisodeError` `missing_attribute`."""
    value: Any = attributes
    for part in path.split("/"):
        if not isinstance(value, Mapping) or part not in value:
            raise EpisodeError("missing_attribute", f"the attribute {path!r} is not in the source")
        value = value[part]
    return value


def native_channels(
    mappings: Sequence[StateMapping], arrays: Mapping[str, NDArray[Any]]
) -> list[tuple[StateMapping, range]]:
    """Which `native` channels each native mapping of one side takes, in the order of the mappings."""
    slot, placed = unified().slot("native"), []
    start = slot.start
    for mapping in mappings:
        if mapping.slot == "native":
            indices = mapping.indices
            array = arrays[mapping.array]
            width = len(indices) if indices is not None else int(np.prod(array.shape[1:], dtype=np.int64))
            if start + width > slot.stop:
                raise SpecError(f"`native` holds {slot.width} channels, the converter maps more", where=mapping.array)
            placed.append((mapping, range(start, start + width)))
            start += width
    return placed


def fill_slots(
    mappings: Sequence[StateMapping], arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any], rows: int
) -> SlotArray | None:
    """Fill the compact unified array [T, c] from the mappings of one side; None when there are none.

    An array may have rows behind the T steps (a last observation): a `shift` reaches them, no step does.
    """
    if not mappings:
        return None
    native = {id(mapping): channels for mapping, channels in native_channels(mappings, arrays)}
    channels: list[int] = []
    values: list[Floats] = []
    masks: list[NDArray[np.bool_]] = []
    for mapping in mappings:
        slot = unified().slot(mapping.slot)
        mask = _mask(mapping, arrays, rows)
        raw = _shifted(_picked(mapping, arrays[mapping.array]), mapping.shift, rows)
        value = _to_si(mapping, slot, raw, mask, attributes)
        target = native.get(id(mapping)) or _targets(mapping, slot, value.shape[1])
        channels.extend(target)
        values.append(value)
        masks.append(np.repeat(mask[:, None], value.shape[1], axis=1))
    order = np.argsort(channels)
    with np.errstate(over="ignore"):  # a value beyond float32 becomes infinite, and the survey drops it as such
        stored = np.concatenate(values, axis=1)[:, order].astype(np.float32)
    return SlotArray(np.array(channels, np.int16)[order], stored, np.concatenate(masks, axis=1)[:, order])


def _targets(mapping: StateMapping, slot: Slot, width: int) -> list[int]:
    if mapping.joints:
        unknown = [joint for joint in mapping.joints if joint not in slot.names]
        if unknown or len(mapping.joints) != width:
            raise SpecError(f"{slot.key}: joints {unknown or len(mapping.joints)} do not fit", where=mapping.array)
        return [slot.start + slot.names.index(joint) for joint in mapping.joints]
    exact = slot.group not in ("arm_joint", "arm_joint_vel", "arm_effort", "leg_joint", "waist", "neck", "hand_pca")
    if width > slot.width or (exact and width != slot.width):
        raise EpisodeError("wrong_dimension", f"{mapping.array} gives {width} values, {slot.key} takes {slot.width}")
    return list(range(slot.start, slot.start + width))


def _picked(mapping: StateMapping, array: NDArray[Any]) -> Floats:
    flat = array.reshape(len(array), -1).astype(np.float64)
    indices = mapping.indices
    if indices is None:
        return flat
    if max(indices) >= flat.shape[1]:
        raise EpisodeError(
            "wrong_dimension",
            f"{mapping.array} holds {flat.shape[1]} columns, the converter reads column {max(indices)}",
        )
    return flat[:, list(indices)]


def _shifted(values: Floats, shift: int, rows: int) -> Floats:
    """Row t takes row t+shift; rows without one are filled with the last and masked out by `_mask`."""
    if shift == 0 and len(values) == rows:
        return values
    return values[np.clip(np.arange(rows) + shift, 0, len(values) - 1)]


def _mask(mapping: StateMapping, arrays: Mapping[str, NDArray[Any]], rows: int) -> NDArray[np.bool_]:
    stored = len(arrays[mapping.array])
    mask = np.ones(stored, np.bool_)
    if mapping.mask is not None:
        declared = arrays[mapping.mask]
        if declared.size != stored:
            raise EpisodeError("bad_shape", f"{mapping.mask} holds {declared.size} values for {stored} rows")
        mask = declared.reshape(stored).astype(np.bool_)
    source = np.arange(rows) + mapping.shift
    inside = (source >= 0) & (source < stored)
    return mask[np.clip(source, 0, stored - 1)] & inside


def _to_si(
    mapping: StateMapping, slot: Slot, raw: Floats, mask: NDArray[np.bool_], attributes: Mapping[str, Any]
) -> Floats:
    """Values in the slot's unit; where the mask is False a filler (0, or the identity for rot6d)."""
    value = raw
    if mapping.controller is not None:
        value = _controller(mapping.controller, value, attributes)
    if mapping.scale is not None:
        value = value * mapping.scale
    factor = SCALE_TO_SI.get(slot.unit, {}).get(mapping.unit, 1.0)
    if factor != 1.0:
        value = value * factor
    if mapping.gripper is not None:
        value = _opening(mapping, np.array(mapping.gripper.fingers), value)
    value = _rotation(mapping, slot, value, mask)
    filler = np.array(ROT6D_IDENTITY if slot.unit == "rot6d" else [0.0] * value.shape[1])
    return np.where(mask[:, None], value, filler)


def _rotation(mapping: StateMapping, slot: Slot, value: Floats, mask: NDArray[np.bool_]) -> Floats:
    spec = mapping.rotation
    if spec is None:
        return value
    if value.shape[1] != geometry.FORM_WIDTH[spec.form]:
        raise EpisodeError(
            "wrong_dimension", f"{mapping.array}: {value.shape[1]} columns are no rotation as {spec.form}"
        )
    form: geometry.RotationForm = "rotvec" if slot.unit == "rotvec" else "rot6d_columns"
    usable = mask & np.isfinite(value).all(axis=1)
    result = np.full((len(value), geometry.FORM_WIDTH[form]), np.nan)
    if usable.any():
        order, intrinsic = spec.order or "xyz", bool(spec.intrinsic)
        result[usable] = geometry.reformed(value[usable], spec.form, form, order=order, intrinsic=intrinsic)
    return result


def _controller(spec: ControllerScale, value: Floats, attributes: Mapping[str, Any]) -> Floats:
    picked = slice(*spec.columns)

    def bound(name: str) -> Floats:
        found = _limits(attributes, f"{spec.config}/{name}")
        result = found[picked] if found.size > 1 else np.broadcast_to(found, (spec.columns[1] - spec.columns[0],))
        if result.shape != (value.shape[1],):
            raise EpisodeError("wrong_dimension", f"{spec.config}/{name} does not fit {value.shape[1]} columns")
        return result

    low, high = bound("input_min"), bound("input_max")
    if not (low < high).all():
        raise EpisodeError("bad_attribute", f"{spec.config}: input_min is not below input_max")
    out_low, out_high = bound("output_min"), bound("output_max")
    clipped = np.clip(value, low, high)
    return out_low + (clipped - low) * (out_high - out_low) / (high - low)


def _limits(attributes: Mapping[str, Any], path: str) -> Floats:
    """One finite number or a list of them out of the attributes, as an array."""
    value = attribute(attributes, path)
    numbers = value if isinstance(value, list) else [value]
    if not all(type(number) in (int, float) and abs(number) < 1e9 for number in numbers):
        raise EpisodeError("bad_attribute", f"the attribute {path!r} holds {str(value)[:80]!r}, not numbers")
    return np.array(numbers, np.float64)


def _opening(mapping: StateMapping, fingers: Floats, value: Floats) -> Floats:
    """Gripper opening [T, 1] out of one or more fingers' values; `fingers` [2, k] holds them when open and closed."""
    opened, closed = fingers
    if value.shape[1] != len(opened):
        raise EpisodeError(
            "wrong_dimension", f"{mapping.array} gives {value.shape[1]} columns for {len(opened)} fingers"
        )
    return np.asarray(((value - closed) / (opened - closed)).mean(axis=1, keepdims=True))
