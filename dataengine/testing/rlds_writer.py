"""A layout fixture: RLDS data sets as tensorflow_datasets writes them, made without TensorFlow.

It follows TFDS (core/example_serializer.py for the flattened Example, core/features/features_dict.py for
`features.json`, core/splits.py for `dataset_info.json`) and the files of Octo's `tests/debug_dataset`. What it
writes is a faithful layout, not data of any robot.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine import images
from dataengine.formats.tfrecord import masked_crc

Column = NDArray[Any] | Sequence[bytes] | Sequence[str]
"""One step feature: an array [T, ...], T encoded images, or T texts."""
Scalar = bool | int | float | str
_CLASS = "tensorflow_datasets.core.features"
_FLAGS = ("is_first", "is_last", "is_terminal")


@dataclass(frozen=True)
class RldsEpisode:
    """One episode: step features by their path below `steps/`, and the episode's metadata.

    `is_first`, `is_last` and `is_terminal` [T] are added where `steps` has none.
    """

    steps: Mapping[str, Column]
    metadata: Mapping[str, Scalar] = field(default_factory=dict)

    def columns(self) -> dict[str, Column]:
        """All step features, flags included."""
        length = len(next(iter(self.steps.values())))
        first = np.arange(length) == 0
        flags = dict(zip(_FLAGS, (first, first[::-1], first[::-1]), strict=True))
        return {**flags, **self.steps}


def write_rlds(root: Path, name: str, episodes: Mapping[str, Sequence[RldsEpisode]], *, shards: int = 1) -> Path:
    """Write `<root>/<name>/1.0.0` with `episodes` by split, each split in `shards` files; returns that folder.

    All episodes have the features of the first one.
    """
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    first = next(iter(episodes.values()))[0]
    (folder / "features.json").write_text(json.dumps(_features(first), indent=4))
    splits = []
    for split, members in episodes.items():
        parts = [members[len(members) * i // shards : len(members) * (i + 1) // shards] for i in range(shards)]
        for index, part in enumerate(parts):
            path = folder / f"{name}-{split}.tfrecord-{index:05d}-of-{shards:05d}"
            path.write_bytes(b"".join(frame(encode_episode(episode)) for episode in part))
        splits.append(
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "shardLengths": [str(len(part)) for part in parts],
            }
        )
    info = {"fileFormat": "tfrecord", "name": name, "splits": splits, "version": "1.0.0"}
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
    return folder


def frame(payload: bytes) -> bytes:
    """One TFRecord: length, its masked CRC, payload, its masked CRC."""
    length = struct.pack("<Q", len(payload))
    return length + struct.pack("<I", masked_crc(length)) + payload + struct.pack("<I", masked_crc(payload))


def encode_episode(episode: RldsEpisode) -> bytes:
    """The episode as a serialized `tf.train.Example`, step features concatenated over T."""
    features = {f"steps/{key}": encode_feature(column) for key, column in episode.columns().items()}
    for key, value in episode.metadata.items():
        features[f"episode_metadata/{key}"] = encode_feature([value] if isinstance(value, str) else np.array([value]))
    return encode_example(features)


def encode_example(features: Mapping[str, bytes]) -> bytes:
    """Encoded features by name as an `Example`."""
    entries = (_field(1, key.encode()) + _field(2, feature) for key, feature in sorted(features.items()))
    return _field(1, b"".join(_field(1, entry) for entry in entries))


def encode_feature(column: Column) -> bytes:
    """A `Feature`: bytes for images and texts, packed float32 or int64 for numbers."""
    if not isinstance(column, np.ndarray):
        values = (item.encode() if isinstance(item, str) else item for item in column)
        return _field(1, b"".join(_field(1, value) for value in values))
    if column.dtype.kind == "f":
        return _field(2, _field(1, column.astype("<f4").tobytes()))
    return _field(3, _field(1, b"".join(_varint(int(value) & (1 << 64) - 1) for value in column.ravel())))


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def _features(episode: RldsEpisode) -> dict[str, Any]:
    steps: dict[str, Any] = {}
    for key, column in episode.columns().items():
        *groups, name = key.split("/")
        place = steps
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = _column_feature(column)
    metadata = {
        key: _column_feature([value] if isinstance(value, str) else np.array([value]))
        for key, value in episode.metadata.items()
    }
    stepped = {
        "pythonClassName": f"{_CLASS}.dataset_feature.Dataset",
        "sequence": {"feature": _dict(steps), "length": "-1"},
    }
    return _dict({"steps": stepped, **({"episode_metadata": metadata} if metadata else {})})


def _dict(members: Mapping[str, Any]) -> dict[str, Any]:
    known = ("pythonClassName", "featuresDict")
    inner = {key: value if known[0] in value else _dict(value) for key, value in members.items()}
    return {known[0]: f"{_CLASS}.features_dict.FeaturesDict", known[1]: {"features": inner}}


def _column_feature(column: Column) -> dict[str, Any]:
    if isinstance(column, np.ndarray):
        shape = {"dimensions": [str(length) for length in column.shape[1:]]} if column.ndim > 1 else {}
        kind = "tensor_feature.Tensor" if column.ndim > 1 else "scalar.Scalar"
        tensor = {"shape": shape, "dtype": str(column.dtype), "encoding": "none"}
        return {"pythonClassName": f"{_CLASS}.{kind}", "tensor": tensor}
    if isinstance(column[0], str):
        return {"pythonClassName": f"{_CLASS}.text_feature.Text", "text": {}}
    header = images.sniff(column[0])
    shape = {"dimensions": [str(header.height), str(header.width), "3"]}
    image = {"shape": shape, "dtype": "uint8", "encodingFormat": header.codec}
    return {"pythonClassName": f"{_CLASS}.image_feature.Image", "image": image}
