"""Truth of the converter `bridge_octo`: 25 clips against protobuf's own parser, rotations worked out by hand."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from numpy.typing import NDArray

from dataengine import images
from dataengine.convert import Conversion, convert
from dataengine.episode import Episode, RawEpisode, SlotArray
from dataengine.formats.base import EpisodeRef, get_format
from dataengine.specs.converter import Converter, load_converter
from dataengine.storage import SourceRoot

RECORDS = "bridge_dataset/1.0.0/bridge_dataset-train.tfrecord-00000-of-00001"
CAMERAS = {"ext_1": "image_0", "ext_2": "image_1", "ext_3": "image_2"}
Truth = Mapping[str, Any]
Array = NDArray[np.float64]

# Five rows read off the records with protobuf: (episode, row): the state's seven numbers, then the action's seven.
ROWS = {
    (0, 0): ((0.23381, 0.11244, 0.17505, 0.10004, -0.21382, 0.21334, 1.00082), (0, 0, 0, 0, 0, 0, 1)),
    (0, 4): ((0.2264, 0.10636, 0.1682, 0.13862, -0.20704, -0.28787, 1.00082),
             (0.00123, 0.00164, -0.00729, -0.02361, 0.06477, -0.19795, 1)),
    (3, 4): ((0.29541, -0.09091, 0.1959, 0.10159, -0.19582, -0.21284, 0.99412),
             (0.01083, -0.00532, 0.00333, 0.02958, -0.07435, -0.05955, 1)),
    (9, 9): ((0.30001, -0.03701, 0.08705, -0.07487, -0.02734, 0.12682, 0.54623),
             (-0.00786, -0.00145, 0.00216, 0.00372, -0.006, 0.02098, 0)),
    (19, 3): ((0.33124, 0.05491, 0.16883, 0.06043, -0.13933, -0.06407, 1.00015),
              (-0.00059, -0.00094, -0.01189, -0.02078, 0.0219, 0.00788, 0.79829)),
}  # fmt: skip


def _example_class() -> Any:
    """`tf.train.Example` built from its published definition, parsed by protobuf itself."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")
    lists = (("BytesList", kinds.TYPE_BYTES), ("FloatList", kinds.TYPE_FLOAT), ("Int64List", kinds.TYPE_INT64))
    for name, kind in lists:
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=kinds.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, _) in enumerate(lists, start=1):
        feature.field.add(
            name=name, number=number, type=kinds.TYPE_MESSAGE, type_name=f".tensorflow.{name}",
            label=kinds.LABEL_OPTIONAL, oneof_index=0,
        )  # fmt: skip
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    for message, name, number, of, label in (
        (entry, "value", 2, "Feature", kinds.LABEL_OPTIONAL),
        (features, "feature", 1, "Features.FeatureEntry", kinds.LABEL_REPEATED),
        (file.message_type.add(name="Example"), "features", 1, "Features", kinds.LABEL_OPTIONAL),
    ):
        message.field.add(name=name, number=number, type=kinds.TYPE_MESSAGE, type_name=f".tensorflow.{of}", label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def _payloads(path: Path) -> Iterator[bytes]:
    data, offset = path.read_bytes(), 0
    while offset < len(data):
        (length,) = struct.unpack_from("<Q", data, offset)
        yield data[offset + 12 : offset + 12 + length]
        offset += 16 + length


@pytest.fixture(scope="module")
def folder(data: Path) -> Path:
    return data / "robot/rlds_octo_bridge"


@pytest.fixture(scope="module")
def truth(folder: Path) -> list[Truth]:
    """Per record the values of every feature, by protobuf."""
    example, found = _example_class(), []
    for payload in _payloads(folder / RECORDS):
        features = example.FromString(payload).features.feature
        found.append({key: list(getattr(value, value.WhichOneof("kind")).value) for key, value in features.items()})
    return found


@pytest.fixture(scope="module")
def raws(folder: Path) -> list[RawEpisode]:
    root, rlds = SourceRoot(folder), get_format("rlds")
    refs = list(rlds.scan(root, None, load_converter("bridge_octo").format.options))
    return [rlds.read(root, ref) for ref in refs if isinstance(ref, EpisodeRef)]


@pytest.fixture(scope="module")
def episodes(raws: list[RawEpisode]) -> list[Episode]:
    conversion = Conversion.of(load_converter("bridge_octo"))
    return [convert(raw, conversion) for raw in raws]


def _matrices(rpy: Array) -> Array:
    """Rz(yaw) Ry(pitch) Rx(roll), written out: [N, 3, 3]."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy).T, np.sin(rpy).T
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def _rotvecs(matrices: Array) -> Array:
    """Axis times angle [N, 3], by the trace and the antisymmetric part (angles well below pi)."""
    angle = np.arccos(np.clip((np.trace(matrices, axis1=1, axis2=2) - 1) / 2, -1, 1))
    turn = np.stack([matrices[:, i, j] - matrices[:, j, i] for i, j in ((2, 1), (0, 2), (1, 0))], axis=1)
    return turn / 2 * (angle / np.where(angle > 1e-6, np.sin(angle), 1) + (angle <= 1e-6))[:, None]


def _columns(slots: SlotArray | None, start: int, stop: int) -> Array:
    assert slots is not None
    picked = slots.columns(start, stop)
    assert len(picked) == stop - start
    assert slots.mask[:, picked].all()
    return slots.values[:, picked].astype(np.float64)


def _check_values(episode: Episode, record: Truth) -> None:
    state = np.array(record["steps/observation/state"], np.float64).reshape(10, 7)
    action = np.array(record["steps/action"], np.float64).reshape(10, 7)
    np.testing.assert_allclose(_columns(episode.state, 7, 10), state[:, :3], atol=1e-7)
    first_columns = np.moveaxis(_matrices(state[:, 3:6])[:, :, :2], 2, 1).reshape(10, 6)
    np.testing.assert_allclose(_columns(episode.state, 10, 16), first_columns, atol=1e-6)
    np.testing.assert_allclose(_columns(episode.state, 16, 17), state[:, 6:], atol=1e-7)
    np.testing.assert_allclose(_columns(episode.action, 160, 163), action[:, :3], atol=1e-7)
    np.testing.assert_allclose(_columns(episode.action, 163, 166), _rotvecs(_matrices(action[:, 3:6])), atol=1e-6)
    np.testing.assert_allclose(_columns(episode.action, 16, 17), action[:, 6:], atol=1e-7)


def _fit(found: Array, command: Array) -> float:
    """The share of `found` [N, 3] that `command` explains, with one gain an axis."""
    gain = (found * command).sum(0) / (command**2).sum(0)
    assert (gain > 0.5).all(), f"gains {gain}"
    return float(1 - ((found - command * gain) ** 2).sum() / (found**2).sum())


def _check_physics(episodes: list[Episode]) -> None:
    """The arm does what the commands say, in the axes they are declared in: no reading of the files' layout."""
    moved, turned, turned_in_tool, steps, turns = [], [], [], [], []
    for episode in episodes:
        position, rot6d = _columns(episode.state, 7, 10), _columns(episode.state, 10, 16)
        x, y = rot6d[:, :3], rot6d[:, 3:]
        rotation = np.stack([x, y, np.cross(x, y)], axis=2)
        moved.append(np.diff(position, axis=0))
        turned.append(_rotvecs(rotation[1:] @ rotation[:-1].transpose(0, 2, 1)))
        turned_in_tool.append(_rotvecs(rotation[:-1].transpose(0, 2, 1) @ rotation[1:]))
        steps.append(_columns(episode.action, 160, 163)[:-1])
        turns.append(_columns(episode.action, 163, 166)[:-1])
    step, turn = np.concatenate(steps), np.concatenate(turns)
    assert _fit(np.concatenate(moved), step) > 0.75
    assert _fit(np.concatenate(turned), turn) > 0.82
    assert _fit(np.concatenate(turned_in_tool), turn) < 0.74
    summed = np.array([part.sum(0) for part in steps])
    way = np.array([part.sum(0) for part in moved])
    assert (summed * way).sum() / (summed**2).sum() == pytest.approx(1.007, abs=0.002)  # targets accumulate


def _check_gripper(episode: Episode) -> None:
    command, reading = _columns(episode.action, 16, 17)[:, 0], _columns(episode.state, 16, 17)[:, 0]
    opened = np.cumsum(command < 0.99) == 0
    assert np.all(np.abs(reading[opened] - 1) < 0.01)
    closing = np.flatnonzero(command < 0.05)
    if closing.size and closing[0] < 9:
        assert reading[closing[0] + 1] < 0.95


def test_every_clip(episodes: list[Episode], truth: list[Truth]) -> None:
    assert len(truth) == 25
    assert [episode.upstream_id for episode in episodes] == [f"train-00000#{k}" for k in range(25)]
    for episode, record in zip(episodes, truth, strict=True):
        assert (episode.steps, episode.hz) == (10, 5.0)
        np.testing.assert_array_equal(episode.times_ns, np.arange(10) * 200_000_000)
        text = record["steps/language_instruction"][0].decode()
        assert [(entry.text, entry.level, entry.span) for entry in episode.language] == [(text, "task", (0, 10))]
        assert set(episode.labels.values()) == {"commanded"}


def test_values(episodes: list[Episode], truth: list[Truth]) -> None:
    for episode, record in zip(episodes, truth, strict=True):
        _check_values(episode, record)


def test_rows_by_hand(episodes: list[Episode]) -> None:
    for (number, row), (state, action) in ROWS.items():
        episode = episodes[number]
        assert _columns(episode.state, 7, 10)[row] == pytest.approx(state[:3], abs=1e-5)
        assert _columns(episode.state, 16, 17)[row, 0] == pytest.approx(state[6], abs=1e-5)
        assert _columns(episode.action, 160, 163)[row] == pytest.approx(action[:3], abs=1e-5)
        assert _columns(episode.action, 16, 17)[row, 0] == pytest.approx(action[6], abs=1e-5)
        # the tool's x axis, by the product Rz Ry on paper; a small turn is its Euler angles to second order
        _, pitch, yaw = state[3:6]
        x_axis = (math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), -math.sin(pitch))
        assert _columns(episode.state, 10, 13)[row] == pytest.approx(x_axis, abs=2e-5)
        assert _columns(episode.action, 163, 166)[row] == pytest.approx(action[3:6], abs=0.01)


def test_pictures_are_the_bytes_of_the_record(
    episodes: list[Episode], raws: list[RawEpisode], truth: list[Truth], folder: Path
) -> None:
    for episode, raw, record in zip(episodes, raws, truth, strict=True):
        assert {view.name: view.media.rsplit("/", 1)[1] for view in episode.views} == CAMERAS
        assert set(episode.media) == {f"steps/observation/{camera}" for camera in CAMERAS.values()}
        for name, media in raw.media.items():
            assert [media.image(row) for row in range(10)] == record[name]
            assert (media.codec, media.height, media.width) == ("jpeg", 64, 64)
    # and by no parser at all: every JPEG lies in its record, first to last marker, in the order of the rows
    for episode, payload in zip(episodes, _payloads(folder / RECORDS), strict=True):
        starts = [match.start() for match in re.finditer(rb"\xff\xd8\xff", payload)]
        assert len(starts) == 40
        for media in episode.media.values():
            places = [payload.index(media.image(row)) for row in range(10)]
            assert places == sorted(places)
            assert set(places) <= set(starts)


def test_the_fourth_camera_is_black_and_left_out(raws: list[RawEpisode]) -> None:
    for raw in raws:
        media = raw.media["steps/observation/image_3"]
        assert all(images.decode(media.image(row)).max() == 0 for row in range(10))
        assert images.decode(raw.media["steps/observation/image_0"].image(0)).mean() > 60


def test_the_arm_follows_the_commands(episodes: list[Episode]) -> None:
    _check_physics(episodes)
    for episode in episodes:
        _check_gripper(episode)


def _changed(name: str) -> Conversion:
    """The shipped converter with one mistake planted."""
    side, slot, change = PLANTED[name]
    document = load_converter("bridge_octo").model_dump()
    mapping = next(mapping for mapping in document[side] if mapping["slot"] == slot)
    assert any(mapping[field] != value for field, value in change.items())
    mapping.update(change)
    return Conversion.of(Converter.model_validate(document))


PLANTED = {
    "axes": ("action", "eef_step_pos.right", {"columns": (1, 0, 2)}),
    "state axes": ("state", "eef_pos.right", {"columns": (1, 0, 2)}),
    "sign": ("action", "eef_step_pos.right", {"scale": -1.0}),
    "turn sign": ("action", "eef_step_rot.right", {"scale": -1.0}),
    "step": ("action", "eef_step_pos.right", {"shift": 1}),
    "state step": ("state", "eef_rot6d.right", {"shift": -1}),
    "order": ("state", "eef_rot6d.right", {"rotation": {"form": "euler", "order": "zyx", "intrinsic": False}}),
    "polarity": ("action", "gripper.right", {"gripper": {"open": 0.0, "closed": 1.0}}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_wrong_converter_is_noticed(raws: list[RawEpisode], truth: list[Truth], name: str) -> None:
    planted = convert(raws[0], _changed(name))
    with pytest.raises(AssertionError):
        _check_values(planted, truth[0])


@pytest.mark.parametrize("name", ["axes", "state axes", "sign", "turn sign", "order"])
def test_physics_alone_notices(raws: list[RawEpisode], name: str) -> None:
    wrong = _changed(name)
    planted = [convert(raw, wrong) for raw in raws]
    with pytest.raises(AssertionError):
        _check_physics(planted)


def test_a_mask_of_nothing_is_noticed(episodes: list[Episode], truth: list[Truth]) -> None:
    episode = episodes[0]
    assert episode.action is not None
    blind = replace(episode, action=replace(episode.action, mask=np.zeros_like(episode.action.mask)))
    with pytest.raises(AssertionError):
        _check_values(blind, truth[0])
