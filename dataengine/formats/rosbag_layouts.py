"""The layouts of the format `rosbag`, how far each was tried, and which of them a file is of.

A helper of the format `rosbag`.
"""

from __future__ import annotations

from collections.abc import Mapping

from dataengine.formats.base import Layout
from dataengine.formats.rosbag_bags import storage
from dataengine.formats.rosbag_db3 import MAGIC
from dataengine.formats.rosbag_packed import is_packed, kind_of, unpacked
from dataengine.storage import SourceRoot

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "mcap_ros2",
        "robot",
        "MCAP with ROS 2 messages (CDR)",
        "real files",
        8,
        "rosbag2's own test bags as MCAP (ros/rosbag2/**/mcap, ros2/rosbag2 @ 25304dd3); mcap-ros2-support 0.6.0",
    ),
    Layout(
        "mcap_protobuf",
        "navigation",
        "MCAP with protobuf messages",
        "real files",
        1,
        "keelson's ship traffic (ros/mcap_keelson, 2,172 messages, 649 topics, zstd); mcap-protobuf-support 0.6.0",
    ),
    Layout(
        "mcap_json",
        "robot",
        "MCAP with JSON messages (foxglove.* schemas)",
        "writer library",
        1,
        "mcap 1.6.0's own writer",
    ),
    Layout(
        "ros2_db3",
        "robot",
        "ROS 2 bag in SQLite",
        "real files",
        14,
        "rosbag2's own test bags (ros/rosbag2/**/sqlite3, 9 files, one bag of five); rosbags 0.11.9",
    ),
    Layout("ros1_bag", "navigation", "ROS 1 bag 2.0", "writer library", 1, "rosbags 0.11.9's own writer of rosbag1"),
)
_PROBED = 16 << 20
_BY_ENCODING: Mapping[tuple[str, str], str] = {
    ("mcap", "cdr"): "mcap_ros2",
    ("mcap", "protobuf"): "mcap_protobuf",
    ("mcap", "json"): "mcap_json",
    ("db3", "cdr"): "ros2_db3",
    ("bag", "ros1"): "ros1_bag",
}


def layout_of(root: SourceRoot, path: str) -> tuple[str | None, str]:
    """The layout of a storage file by its first message, and what was seen; None where it has no known message.

    Raises `FormatError` for a file that is no storage.
    """
    kind = kind_of(path).removeprefix(".")
    with unpacked(root, path, _PROBED) as (place, name):
        if kind == "db3" and is_packed(path):  # the beginning of a database cannot be asked for messages
            with place.open(name) as file:
                if file.read(len(MAGIC)) == MAGIC:
                    return "ros2_db3", "is an SQLite file, compressed as a whole"
        for channel, _, _, _ in storage(place, name, recover=True).messages():
            told = f"holds {channel.encoding} messages, the first {channel.type or 'without a type'} on {channel.topic}"
            return _BY_ENCODING.get((kind, channel.encoding)), told
    return None, "holds no message"
