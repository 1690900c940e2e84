"""The `rosbag` format: values against other readers' and by hand, options, clocks, and what is refused."""

from __future__ import annotations

import json
import sqlite3
import struct
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from mcap.reader import NonSeekingReader, make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from mcap_protobuf.decoder import DecoderFactory as ProtobufDecoder
from mcap_ros2.decoder import DecoderFactory as Ros2Decoder
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from dataengine import images
from dataengine.convert import Conversion, convert
from dataengine.episode import RawEpisode
from dataengine.errors import BadInput, SpecError
from dataengine.fixtures import rosbag_writer
from dataengine.formats import rosbag_types
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.formats.rosbag_cdr import Decoder, MisfitError
from dataengine.formats.rosbag_types import DefinitionError
from dataengine.storage import SourceRoot, root_and_files

STORE = get_typestore(Stores.ROS2_HUMBLE)
TYPES = STORE.types
START = rosbag_writer.START
MS = rosbag_writer.MS
NAMED = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}


def read(path: Path, **options: Any) -> RawEpisode:
    """The first episode of a folder or file."""
    root, only = root_and_files(path)
    reader = get_format("rosbag")
    entry = next(iter(reader.scan(root, only, options)))
    assert isinstance(entry, EpisodeRef), entry
    return reader.read(root, entry)


def reason(path: Path, **options: Any) -> str:
    """Why the first entry of a folder or file cannot be used."""
    root, only = root_and_files(path)
    reader = get_format("rosbag")
    entry = next(iter(reader.scan(root, only, options)))
    if isinstance(entry, ScanProblem):
        return entry.reason
    with pytest.raises(BadInput) as caught:
        reader.read(root, entry)
    return caught.value.reason


def bag(path: Path, rows: Sequence[tuple[int, str, Any]], storage: str = "mcap") -> Path:
    """A ROS 2 bag of (time in ns, topic, message)."""
    with Writer(path, version=9, storage_plugin=NAMED[storage]) as writer:
        known: dict[str, Any] = {}
        for time, topic, message in rows:
            if topic not in known:
                known[topic] = writer.add_connection(topic, message.__msgtype__, typestore=STORE)
            writer.write(known[topic], time, STORE.serialize_cdr(message, message.__msgtype__))
    return path


def header(stamp: int) -> Any:
    time = TYPES["builtin_interfaces/msg/Time"](*divmod(stamp, 1_000_000_000))
    return TYPES["std_msgs/msg/Header"](time, "frame")


def joints(stamp: int, values: Mapping[str, float], velocity: Sequence[float] | None = None) -> Any:
    given = np.array(list(values.values()))
    fast = given * 10 if velocity is None else np.array(velocity, np.float64)
    return TYPES["sensor_msgs/msg/JointState"](header(stamp), list(values), given, fast, np.zeros(0))


def image(encoding: str, pixels: np.ndarray[Any, Any], pad: int = 0) -> Any:
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
    padded = np.concatenate([rows, np.full((height, pad), 7, np.uint8)], axis=1)
    shape = height, width, encoding, 0, padded.shape[1]
    return TYPES["sensor_msgs/msg/Image"](header(START), *shape, padded.reshape(-1))


def log(path: Path, rows: Sequence[tuple[str, str, str, bytes, bytes]], times: Sequence[int] = ()) -> Path:
    """An MCAP file of (topic, type, encoding, schema, message)."""
    schemas = {"cdr": "ros2msg", "json": "jsonschema", "protobuf": "protobuf"}
    with path.open("wb") as file:
        writer = McapWriter(file, compression=CompressionType.NONE)
        writer.start(profile="", library="test")
        known: dict[str, int] = {}
        for number, (topic, kind, encoding, schema, message) in enumerate(rows):
            if topic not in known:
                made = writer.register_schema(kind, schemas.get(encoding, encoding), schema)
                known[topic] = writer.register_channel(topic, encoding, made)
            time = times[number] if times else number * 10
            writer.add_message(known[topic], time, message, time + 1)
        writer.finish()
    return path


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One teleoperated episode as MCAP."""
    root = tmp_path_factory.mktemp("arm")
    rosbag_writer.write_ur5e(root, 1, 1.0)
    return root


# What real files hold


def test_real_bags_give_every_message(data: Path) -> None:
    """Three of these give no message in rosbags' directory reader."""
    root = SourceRoot(data / "ros/rosbag2")
    reader = get_format("rosbag")
    found = {}
    for entry in reader.scan(root, None, {}):
        assert isinstance(entry, EpisodeRef)
        episode = reader.read(root, entry)
        name = f"{entry.upstream_id.split('/')[-2]}/{entry.upstream_id.split('/')[-1]}"
        found[name] = sum(told["messages"] for told in episode.attributes["topics"].values())
    assert found == {
        "mcap/convert_b": 75,
        "sqlite3/convert_b": 75,
        "mcap/talker": 20,
        "sqlite3/talker": 20,
        "sqlite3/wbag": 6074,
        "mcap/cdr_test": 7,
        "sqlite3/cdr_test": 7,
        "mcap/bag_with_topics_and_service_events": 10,
        "sqlite3/bag_with_topics_and_service_events": 10,
    }


def test_real_arrays_equal_those_of_another_reader(data: Path) -> None:
    path = data / "ros/rosbag2/rosbag2_tests/resources/mcap/cdr_test/cdr_test_0.mcap"
    episode = read(path)
    with path.open("rb") as file:
        rows = [
            message
            for _, channel, _, message in make_reader(file, decoder_factories=[Ros2Decoder()]).iter_decoded_messages()
            if channel.topic == "/array_topic"
        ]
    compared = 0
    for name in ("bool_values", "float32_values", "float64_values", "int16_values", "uint64_values", "alignment_check"):
        expected = np.array([list(np.atleast_1d(getattr(row, name))) for row in rows])
        assert np.array_equal(episode.arrays[f"array_topic/{name}"].reshape(expected.shape), expected), name
        compared += expected.size
    inner = np.array([row.basic_types_values[1].int32_value for row in rows])
    assert np.array_equal(episode.arrays["array_topic/basic_types_values/1/int32_value"], inner)
    assert compared > 60


def test_the_same_bag_in_both_storages_gives_the_same_numbers(data: Path) -> None:
    resources = data / "ros/rosbag2/rosbag2_tests/resources"
    one, two = (read(resources / storage / "cdr_test") for storage in ("mcap", "sqlite3"))
    assert one.arrays.keys() == two.arrays.keys()
    for name, array in one.arrays.items():
        assert np.array_equal(array, two.arrays[name]), name


def test_service_events_are_named_and_do_not_fail_the_bag(data: Path) -> None:
    for storage in ("mcap", "sqlite3"):
        path = data / f"ros/rosbag2/rosbag2_tests/resources/{storage}/bag_with_topics_and_service_events"
        episode = read(path)
        assert [entry.partition(":")[0] for entry in episode.attributes["unread"]] == [
            "/test_service1/_service_event",
            "/test_service2/_service_event",
        ]
        assert episode.texts["test_topic1/string_value_default1"] == ("Hello world!",)


def test_definitions_come_from_a_distribution_or_the_converter(data: Path) -> None:
    path = data / "ros/rosbag2/rosbag2_py/test/resources/sqlite3"
    without = read(path / "wbag")
    assert not without.texts
    assert len(without.attributes["unread"]) == 8
    texts = read(path / "wbag", distro="humble").texts
    assert Counter({name: len(rows) for name, rows in texts.items()}).total() == 6074
    assert len(texts["AAA/data"]) == 804
    assert reason(path / "wbag", distro="melodious") == "unknown_distro"
    told = read(path / "convert_b", definitions={"test_msgs/msg/Empty": ""})
    assert len(told.arrays["a_empty/time_ns"]) == 25
    # A stored definition that does not fit its messages: the topic is named, the others are read.
    talker = read(path / "talker")
    assert talker.texts["topic/data"][0] == "Hello, world! 0"
    assert talker.attributes["unread"][0].startswith("/rosout: its messages are not of the type")


def test_a_distribution_needs_the_extra(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rosbags.typesys", None)
    rosbag_types.distribution.cache_clear()
    with pytest.raises(SpecError, match="rosbags is not installed"):
        read(data / "ros/rosbag2/rosbag2_py/test/resources/sqlite3/wbag", distro="humble")


def test_ship_traffic_equals_another_reader(data: Path) -> None:
    path = data / "ros/mcap_keelson/test.mcap"
    pattern = "rise/v0/sjofartsverket/pubsub/raw/ais/json/*"
    entry = {"stream": "ais", "field": "value", "payload": "json", "where": {"msg_type": [1, 2, 3]}}
    episode = read(path, topics={pattern: entry})
    expected = []
    with path.open("rb") as file:
        indexed = make_reader(file, decoder_factories=[ProtobufDecoder()])
        for _, channel, message, told in indexed.iter_decoded_messages():
            if "/json/" in channel.topic:
                value = json.loads(told.value)
                if value["msg_type"] in (1, 2, 3):
                    expected.append((message.log_time, value["lon"], value["mmsi"]))
    expected.sort(key=lambda row: row[0])
    assert len(expected) == 554
    assert np.array_equal(episode.arrays["ais/time_ns"], [row[0] for row in expected])
    assert np.array_equal(episode.arrays["ais/lon"], [row[1] for row in expected])
    assert np.array_equal(episode.arrays["ais/mmsi"], [row[2] for row in expected])
    topics = read(path).attributes["topics"]
    assert (len(topics), sum(told["messages"] for told in topics.values())) == (649, 2172)


def test_all_conformance_files_give_their_messages(data: Path) -> None:
    """mcap's own indexed reader fails on 42 of the 120."""
    counts = {"NoData": 0, "OneAttachment": 0, "OneMetadata": 0, "OneMessage": 1, "TenMessages": 10}
    files = sorted((data / "ros/mcap_conformance").rglob("*.mcap"))
    for path in files:
        count = counts[path.parent.name]
        if count == 0:
            assert reason(path) == "empty_episode", path.name
            continue
        episode = read(path)
        assert episode.attributes["topics"]["example"]["messages"] == count, path.name
        assert episode.attributes["unread"] == ["example: its messages are encoded as 'a'"]
        assert "recovered" not in episode.attributes
    assert len(files) == 120


def test_plain_text_that_says_cdr_is_refused(data: Path) -> None:
    assert reason(data / "ros/mcap_not_cdr/test.mcap") == "not_cdr"


# What our fixtures hold


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_written_values_come_back(tmp_path: Path, storage: str) -> None:
    rosbag_writer.write_ur5e(tmp_path / "b", 1, 0.4, storage)  # type: ignore[arg-type]
    episode = read(tmp_path / "b", clock="header")
    times = episode.arrays["joint_states/time_ns"]
    assert np.array_equal(times, START + np.arange(50) * 8 * MS)
    stored = episode.attributes["streams"]["joint_states"]["names"]
    assert stored == list(rosbag_writer.STORED)
    expected = rosbag_writer.angles((times - START) / 1e9, 0)[:, [rosbag_writer.JOINTS.index(name) for name in stored]]
    assert np.array_equal(episode.arrays["joint_states/position"], expected)
    picture = episode.media["camera/color/image_raw"]
    assert np.array_equal(images.decode(picture.image(3)), rosbag_writer.picture(3, 0))
    assert np.array_equal(picture.times_ns, START + 4 * MS + np.arange(4) * 100 * MS)
    assert np.allclose(episode.arrays["tf_static/base_link/camera_link/rotation"], [[0, 0, 0.6, 0.8]])
    assert np.allclose(episode.arrays["tf_static/base_link/camera_link/translation"], [[0.1, -0.2, 0.3]])
    assert episode.texts["task/data"] == ("put the red block to the right",)
    # Commands have no header: their times are the recorder's, which is said.
    assert episode.attributes["streams"]["forward_position_controller/commands"]["clock"] == "log"
    assert episode.attributes["streams"]["joint_states"]["clock"] == "header"


def test_values_equal_those_of_rosbags(arm: Path) -> None:
    episode = read(arm)
    with AnyReader([arm / "episode_0"]) as reader:
        rows = [
            (time, reader.deserialize(raw, connection.msgtype))
            for connection, time, raw in reader.messages()
            if connection.topic == "/joint_states"
        ]
    assert np.array_equal(episode.arrays["joint_states/time_ns"], [time for time, _ in rows])
    for part in ("position", "velocity", "effort"):
        assert np.array_equal(episode.arrays[f"joint_states/{part}"], np.stack([getattr(row, part) for _, row in rows]))


def test_the_arm_is_converted_in_its_own_order(tmp_path: Path) -> None:
    """Rows at the pictures, states on the line between two messages; a swap of two joints would be 0.4 rad off."""
    rosbag_writer.write_ur5e(tmp_path, 1, 1.0)
    conversion = Conversion.load("ros2_ur5e_teleop")
    episode = convert(read(tmp_path, **conversion.converter.format.options), conversion)
    at = (np.arange(10) * 100 + 16) / 1e3  # log time of picture k; joints are logged 1 ms after their stamp
    assert np.allclose(episode.times_ns / 1e9, at - at[0])
    assert episode.state is not None
    assert np.allclose(episode.state.values, rosbag_writer.angles(at - 1e-3, 0), atol=1e-4)
    assert episode.action is not None
    sent = np.floor((at * 1e3 - 2) / 20) * 20e-3 + 0.1
    assert np.allclose(episode.action.values, rosbag_writer.angles(sent, 0), atol=1e-6)
    assert [language.text for language in episode.language] == ["put the red block to the right"]
    # The driver's own order, taken as the arm's, is noticed.
    options = {**conversion.converter.format.options, "topics": {**conversion.converter.format.options["topics"]}}
    options["topics"]["/joint_states"] = {"stream": "joints"}
    swapped = convert(read(tmp_path, **options), conversion)
    assert swapped.state is not None
    assert np.abs(swapped.state.values - episode.state.values).max() > 0.2


def test_ros1_bags_are_the_same_in_every_compression(tmp_path: Path) -> None:
    episodes = []
    for kind in ("none", "bz2", "lz4"):
        rosbag_writer.write_scand(tmp_path / kind, 1, 0.5, kind)
        episodes.append(read(tmp_path / kind))
    assert len({episode.raw_digest for episode in episodes}) == 1
    odom = episodes[0].arrays["jackal_velocity_controller/odom/pose/pose/position"]
    assert np.allclose(np.hypot(odom[:, 0], odom[:, 1] - 2.0), 2.0)
    media = episodes[0].media["camera/rgb/image_raw/compressed"]
    assert (media.codec, media.frames) == ("jpeg", 10)
    with AnyReader([tmp_path / "lz4/A_Jackal_0.bag"]) as reader:
        raw = [
            reader.deserialize(d, c.msgtype) for c, _, d in reader.messages() if c.msgtype.endswith("CompressedImage")
        ]
    assert [media.image(k) for k in range(10)] == [message.data.tobytes() for message in raw]


def test_json_of_foxglove(tmp_path: Path) -> None:
    rosbag_writer.write_foxglove(tmp_path / "a.mcap", 5)
    episode = read(tmp_path / "a.mcap", clock="header")
    assert np.array_equal(episode.arrays["pose/pose/position"], [[k * 0.5, 0.25, -1.5] for k in range(5)])
    assert np.array_equal(episode.arrays["pose/pose/orientation"][0], [0, 0, 0.6, 0.8])
    assert np.array_equal(episode.media["camera"].times_ns, START + np.arange(5) * 100 * MS)
    assert np.array_equal(images.decode(episode.media["camera"].image(2)), rosbag_writer.picture(2, 0))
    assert np.array_equal(read(tmp_path / "a.mcap", clock="publish").arrays["pose/time_ns"][:1], [START + MS])


# Joints


def test_joints_in_another_order_are_realigned_by_name(tmp_path: Path) -> None:
    rows = [(1, "/j", joints(1, {"a": 1.0, "b": 2.0})), (2, "/j", joints(2, {"b": 4.0, "a": 3.0}))]
    episode = read(bag(tmp_path / "b", rows))
    assert np.array_equal(episode.arrays["j/position"], [[1, 2], [3, 4]])
    assert np.array_equal(episode.arrays["j/velocity"], [[10, 20], [30, 40]])
    assert "j/effort" not in episode.arrays
    turned = read(tmp_path / "b", topics={"/j": {"joints": ["b", "a"]}})
    assert np.array_equal(turned.arrays["j/position"], [[2, 1], [4, 3]])


def test_two_publishers_of_joints(tmp_path: Path) -> None:
    rows = [(1, "/j", joints(1, {"a": 1.0, "b": 2.0})), (2, "/j", joints(2, {"grip": 9.0}))]
    path = bag(tmp_path / "b", [*rows, (3, "/t", TYPES["std_msgs/msg/String"]("x"))])
    assert reason(path, topics={"/j": {}}) == "changed_names"
    # Where nobody asked for it, the rest of the bag is read.
    assert read(path).attributes["unread"][0].startswith("/j: j: a message names the joints grip, others a, b")
    assert "t/data" in read(path).texts
    episode = read(tmp_path / "b", topics={"/j": {"joints": ["b", "a"], "stream": "arm"}})
    assert np.array_equal(episode.arrays["arm/position"], [[2, 1]])
    assert np.array_equal(episode.arrays["arm/time_ns"], [1])
    assert episode.attributes["streams"]["arm"]["other_publishers"] == 1
    assert reason(tmp_path / "b", topics={"/j": {"joints": ["a", "x"]}}) == "changed_names"


def test_a_stream_for_each_publisher_of_joints(tmp_path: Path) -> None:
    """Two arms and a gripper on one topic: each a stream on its own times; joints that no stream takes are named."""
    rows = []
    for k in range(3):
        rows.append((10 * k + 1, "/j", joints(1, {"l1": 1.0 + k, "l2": 2.0 + k})))
        rows.append((10 * k + 2, "/j", joints(2, {"r2": 5.0 + k, "r1": 4.0 + k})))
    rows.append((40, "/j", joints(3, {"grip": 9.0})))
    entries = [
        {"stream": "left", "joints": ["l1", "l2"]},
        {"stream": "right", "joints": ["r1", "r2"], "clock": "header"},
    ]
    episode = read(bag(tmp_path / "b", rows), topics={"/j": entries})
    assert np.array_equal(episode.arrays["left/position"], [[1, 2], [2, 3], [3, 4]])
    assert np.array_equal(episode.arrays["right/position"], [[4, 5], [5, 6], [6, 7]])
    assert np.array_equal(episode.arrays["left/time_ns"], [1, 11, 21])
    assert np.array_equal(episode.arrays["right/time_ns"], [2, 2, 2])
    assert {name: told["clock"] for name, told in episode.attributes["streams"].items()} == {
        "left": "log",
        "right": "header",
    }
    assert episode.attributes["unread"] == ["left: the joints grip"]
    wrong = ([entries[0]], [entries[0], {"stream": "right"}], [entries[0], entries[0]])
    for given in wrong:
        with pytest.raises(SpecError):
            read(tmp_path / "b", topics={"/j": given})


def test_log_times_that_run_backwards_are_counted(tmp_path: Path) -> None:
    rows = [(time, "/j", joints(1, {"a": float(time)})) for time in (1, 2, 5, 4, 6)]
    episode = read(bag(tmp_path / "b", rows))
    assert np.array_equal(episode.arrays["j/position"][:, 0], [1, 2, 4, 5, 6])
    assert episode.attributes["topics"]["/j"]["backwards"] == 1


def test_fewer_values_than_joints_are_refused(tmp_path: Path) -> None:
    rows = [(1, "/j", joints(1, {"a": 1.0, "b": 2.0})), (2, "/j", joints(2, {"a": 1.0, "b": 2.0}, [5.0]))]
    assert reason(bag(tmp_path / "b", rows)) == "length_mismatch"
    twice = TYPES["sensor_msgs/msg/JointState"](header(1), ["a", "a"], np.zeros(2), np.zeros(0), np.zeros(0))
    assert reason(bag(tmp_path / "c", [(1, "/j", twice)]), topics={"/j": {}}) == "changed_names"


# Pictures

RAMP = np.arange(5 * 4 * 4, dtype=np.uint8).reshape(5, 4, 4)


@pytest.mark.parametrize(
    ("encoding", "pixels", "shown"),
    [
        ("rgb8", RAMP[..., :3], RAMP[..., :3]),
        ("bgr8", RAMP[..., 2::-1], RAMP[..., :3]),
        ("mono8", RAMP[..., :1], np.repeat(RAMP[..., :1], 3, axis=2)),
        ("rgba8", np.dstack([RAMP[..., :3], np.full((5, 4, 1), 255, np.uint8)]), RAMP[..., :3]),
        ("bgra8", np.dstack([RAMP[..., 2::-1], np.full((5, 4, 1), 255, np.uint8)]), RAMP[..., :3]),
    ],
)
def test_encodings_become_rgb_exactly(tmp_path: Path, encoding: str, pixels: Any, shown: Any) -> None:
    for number, pad in enumerate((0, 5)):
        episode = read(bag(tmp_path / str(number), [(1, "/c", image(encoding, pixels, pad))]))
        assert np.array_equal(images.decode(episode.media["c"].image(0)), shown)


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1", "bayer_rggb8", "yuv422", "mono16", "8UC3"])
def test_other_encodings_are_named_as_unread(tmp_path: Path, encoding: str) -> None:
    text = TYPES["std_msgs/msg/String"]("x")
    path = bag(tmp_path / "b", [(1, "/c", image(encoding, RAMP)), (2, "/t", text)])
    episode = read(path)
    assert not episode.media
    assert episode.attributes["unread"][0].startswith(f"/c: pictures {encoding}")
    assert reason(path, topics={"/c": {}}) == "unread_stream"


def test_bad_pictures_are_refused(tmp_path: Path) -> None:
    short = image("rgb8", RAMP[..., :3])
    short.data = short.data[:-1]
    assert reason(bag(tmp_path / "a", [(1, "/c", short)])) == "bad_shape"
    assert reason(bag(tmp_path / "b", [(1, "/c", image("rgba8", RAMP))]), topics={"/c": {}}) == "alpha_channel"
    mixed = [(1, "/c", image("rgb8", RAMP[..., :3])), (2, "/c", image("bgr8", RAMP[..., :3]))]
    assert reason(bag(tmp_path / "c", mixed), topics={"/c": {}}) == "mixed_pictures"
    sizes = [(1, "/c", image("rgb8", RAMP[..., :3])), (2, "/c", image("rgb8", RAMP[:4, :, :3]))]
    assert reason(bag(tmp_path / "d", sizes), topics={"/c": {}}) == "mixed_pictures"
    assert "pictures" in read(tmp_path / "d").attributes["unread"][0]


def test_formats_of_compressed_pictures(tmp_path: Path) -> None:
    jpeg = np.frombuffer(images.encode(RAMP[..., :3].copy(), "jpeg"), np.uint8)
    for number, (told, expected) in enumerate(
        [
            ("jpeg", None),
            ("rgb8; jpeg compressed bgr8", None),
            ("bgr8; jpeg compressed ", None),
            ("", None),
            ("png", "bad_value"),
            ("16UC1; compressedDepth png", "unread"),
            ("h264", "unread"),
        ]
    ):
        message = TYPES["sensor_msgs/msg/CompressedImage"](header(START), told, jpeg)
        path = bag(tmp_path / str(number), [(1, "/c", message)])
        if expected == "bad_value":
            assert reason(path) == "bad_value"
            continue
        episode = read(path)
        if expected is None:
            assert episode.media["c"].image(0) == jpeg.tobytes()
        else:
            assert not episode.media
            assert episode.attributes["unread"]


def test_images_option_and_jpeg(tmp_path: Path) -> None:
    rows = [(1, "/a", image("rgb8", RAMP[..., :3])), (2, "/b", image("rgb8", RAMP[..., :3]))]
    episode = read(bag(tmp_path / "b", rows), images=["/b"], pictures="jpeg")
    assert [(name, media.codec) for name, media in episode.media.items()] == [("b", "jpeg")]
    assert episode.attributes["unread"] == ["/a: not among the converter's `images`"]
    assert reason(tmp_path / "b", images=["/c"]) == "missing_stream"


# Clocks and order


def test_messages_come_in_the_order_of_their_recording(tmp_path: Path) -> None:
    """Chunks may be unsorted; times of headers that run back are kept as they are."""
    rows = [("/n", "std", "json", b"", json.dumps({"v": v, "timestamp": {"sec": s, "nsec": 0}}).encode()) for v, s in
            ((3, 5), (1, 9), (2, 7))]  # fmt: skip
    path = log(tmp_path / "a.mcap", rows, [30, 10, 20])
    episode = read(path)
    assert np.array_equal(episode.arrays["n/v"], [1, 2, 3])
    assert np.array_equal(episode.arrays["n/time_ns"], [10, 20, 30])
    backwards = read(path, clock="header").arrays["n/time_ns"]
    assert np.array_equal(backwards, np.array([9, 7, 5]) * 1_000_000_000)
    assert np.array_equal(read(path, clock="publish").arrays["n/time_ns"], [11, 21, 31])


def test_a_clock_that_a_storage_lacks_is_told(tmp_path: Path) -> None:
    path = bag(tmp_path / "b", [(1, "/t", TYPES["std_msgs/msg/String"]("x"))], "sqlite3")
    assert reason(path, clock="publish") == "missing_time"
    assert reason(path, topics={"/t": {"clock": "header"}}) == "missing_time"


# Options


@pytest.mark.parametrize(
    "options",
    [
        {"topic": {}},
        {"clock": "wall"},
        {"recover": 1},
        {"distro": 7},
        {"definitions": []},
        {"topics": ["/a"]},
        {"topics": {"/a": {"stream": "../x"}}},
        {"topics": {"/a/*": {}}},
        {"topics": {"/a": {"name": "x"}}},
        {"topics": {"/a": {"field": "x"}}},
        {"topics": {"/a": {"field": "x", "payload": "yaml"}}},
        {"topics": {"/a": {"where": {"x": [1]}}}},
        {"topics": {"/a": {"joints": "x"}}},
    ],
)
def test_wrong_options_are_a_spec_error(arm: Path, options: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        list(get_format("rosbag").scan(SourceRoot(arm), None, options))


def test_topics_that_a_converter_names(arm: Path) -> None:
    episode = read(arm, topics={"/joint_states": {"stream": "arm/joints"}})
    assert {name.rpartition("/")[0] for name in episode.arrays} == {"arm/joints"}
    assert "/task: not among the converter's topics" in episode.attributes["unread"]
    assert reason(arm, topics={"/gone": {}}) == "missing_stream"
    assert reason(arm, topics={"/joint_states": {"stream": "x"}, "/task": {"stream": "x"}}) == "duplicate_stream"


# Definitions that a file brings


def decoded(name: str, text: str, message: bytes) -> Any:
    types = rosbag_types.parse(name, text.encode(), ros1=False)
    return Decoder(name, {**rosbag_types.STAMP, **types}, ros1=False).columns([message])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/B x", b""),  # itself, for ever
        ("B x\n" + "=" * 80 + "\nMSG: a/C\nfloat64 v", b""),
        ("float64 x\nfloat64 x", b"\0" * 16),
        ("float64 __import__('os').system('x')", b"\0" * 8),
        ("float64 x; import os", b"\0" * 8),
        ("evil) y", b""),
        ("float64[0] x", b""),
        ("wstring x", b"\0" * 8),
        ("float64 x\n---\nfloat64 y", b"\0" * 16),
        ("c/Missing x", b""),
        ("float64 x\n" + "=" * 80 + "\nfloat64 y", b"\0" * 8),
        ("# long\n" * 200_000, b""),
    ],
)
def test_definitions_that_cannot_be_used(text: str, message: bytes) -> None:
    with pytest.raises(DefinitionError):
        decoded("a/B", text, b"\0\1\0\0" + message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("float64[] x", struct.pack("<I", 1 << 31)),
        ("string[] x", struct.pack("<I", 1 << 31)),
        ("C[] x\n" + "=" * 80 + "\nMSG: a/C\nuint8 v", struct.pack("<I", 1 << 31)),
        ("uint8[] x", struct.pack("<I", 5) + b"abc"),
        ("string x", struct.pack("<I", 3) + b"abc"),
        ("float64 x", b"\0" * 16),
        ("bool x", b"\2"),
        ("C[] x\n" + "=" * 80 + "\nMSG: a/C\nuint8 v", struct.pack("<I", 60_000) + b"\0" * 60_000),
    ],
)
def test_messages_that_are_not_of_their_type(text: str, message: bytes) -> None:
    with pytest.raises(MisfitError):
        decoded("a/B", text, b"\0\1\0\0" + message)


def test_big_endian_messages_and_alignment() -> None:
    text = "uint8 a\nfloat64 b\nstring s\nint16[] v\nuint8 c\nC n\n" + "=" * 80 + "\nMSG: a/C\nint64 d\nbool ok"
    # Offsets behind the head: a 0, b 8, s 16 (4 + 3 bytes), length of v 24, v 28 to 32, c 32, d 40, ok 48.
    for head, order in ((b"\0\1\0\0", "<"), (b"\0\0\0\0", ">")):
        body = struct.pack(f"{order}B7xdI3sxIhhB7xq?", 7, 1.5, 3, b"ab\0", 2, -3, 4, 9, -5, True)
        columns = decoded("a/B", text, head + body)
        values = {name: np.asarray(column.values).tolist() for name, column in columns.items()}
        assert values == {"a": [7], "b": [1.5], "s": ["ab"], "v": [[-3, 4]], "c": [9], "n/d": [-5], "n/ok": [True]}


def test_messages_of_one_length_but_another_shape() -> None:
    """Two lists whose lengths change places: the same number of bytes, other fields in every place."""
    types = rosbag_types.parse("a/B", b"int32[] x\nint32[] y", ros1=False)
    rows = [b"\0\1\0\0" + struct.pack("<IiiIi", 2, 1, 2, 1, 3), b"\0\1\0\0" + struct.pack("<IiIii", 1, 4, 2, 5, 6)]
    columns = Decoder("a/B", types, ros1=False).columns([rows[0], rows[1], rows[0]])
    assert [value.tolist() for value in columns["x"].values] == [[1, 2], [4], [1, 2]]
    assert [value.tolist() for value in columns["y"].values] == [[3], [5, 6], [3]]


def test_a_message_that_does_not_fit_among_others_is_a_drop(tmp_path: Path) -> None:
    good = b"\0\1\0\0" + struct.pack("<d", 1.0)
    rows = [("/n", "a/msg/B", "cdr", b"float64 x", message) for message in (good, good, good[:8])]
    assert reason(log(tmp_path / "a.mcap", rows)) == "bad_message"
    assert read(log(tmp_path / "b.mcap", rows[2:] + rows[:2])).attributes["unread"][0].startswith("/n: its messages")
    newer = [("/n", "a/msg/B", "cdr", b"float64 x", b"\0\7\0\0" + b"\0" * 8)]  # XCDR2
    assert "head of CDR" in read(log(tmp_path / "d.mcap", newer)).attributes["unread"][0]
    broken = [("/n", "x", "json", b"", text) for text in (b'{"v": 1}', b'{"v": ')]
    assert reason(log(tmp_path / "c.mcap", broken)) == "bad_message"


def test_changing_sizes_are_named_as_unread(tmp_path: Path) -> None:
    rows = [("/n", "x", "json", b"", json.dumps(value).encode()) for value in
            ({"v": [1, 2], "w": 1, "o": 5, "z": None}, {"v": [1], "w": 2.5, "z": None})]  # fmt: skip
    episode = read(log(tmp_path / "a.mcap", rows))
    assert np.array_equal(episode.arrays["n/w"], [1, 2.5])
    assert [entry.partition(":")[0] for entry in episode.attributes["unread"]] == ["n/o", "n/v"]


def test_protobuf_equals_the_generated_classes(tmp_path: Path) -> None:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    inner = file.message_type.add(name="In")
    inner.field.add(name="q", number=1, type=kinds.TYPE_SINT64, label=1)
    outer = file.message_type.add(name="M")
    fields = [
        ("d", kinds.TYPE_DOUBLE, 1), ("f", kinds.TYPE_FLOAT, 1), ("i", kinds.TYPE_INT32, 1),
        ("u", kinds.TYPE_UINT64, 1), ("s", kinds.TYPE_STRING, 1), ("b", kinds.TYPE_BOOL, 1),
        ("p", kinds.TYPE_SINT32, 3), ("x", kinds.TYPE_FIXED32, 3),
        ("k", kinds.TYPE_SFIXED64, 1),
    ]  # fmt: skip
    for number, (name, kind, label) in enumerate(fields, start=1):
        outer.field.add(name=name, number=number, type=kind, label=label)
    outer.field.add(name="n", number=20, type=kinds.TYPE_MESSAGE, type_name=".t.In", label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)  # type: ignore[no-untyped-call]
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.M"))
    values: list[dict[str, Any]] = [
        {"d": -1.5, "f": 0.25, "i": -7, "u": 1 << 63, "s": "ä", "b": True, "p": [-1, 2], "x": [5, 6], "k": -(1 << 40)},
        {"p": [3, -4], "x": [7, 1 << 31]},
    ]
    messages = [made(**value) for value in values]
    messages[0].n.q, messages[1].n.q = -(1 << 50), 12
    schema = descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString()
    rows = [("/m", "t.M", "protobuf", schema, message.SerializeToString()) for message in messages]
    episode = read(log(tmp_path / "a.mcap", rows))
    for name, _, _ in fields:
        expected = [getattr(message, name) for message in messages]
        if name == "s":
            assert episode.texts["m/s"] == tuple(expected)
        else:
            assert episode.arrays[f"m/{name}"].tolist() == [list(v) if name in "px" else v for v in expected], name
    assert episode.arrays["m/n/q"].tolist() == [-(1 << 50), 12]
    assert episode.arrays["m/u"].dtype == np.uint64


# Damage


def test_a_recorder_that_died_between_records(arm: Path, tmp_path: Path) -> None:
    """Without data end, index and footer, every record whole: read, and said."""
    whole = (arm / "episode_0/episode_0.mcap").read_bytes()
    end = whole.rindex(struct.pack("<BQ", 15, 4))
    (tmp_path / "a.mcap").write_bytes(whole[:end])
    episode = read(tmp_path / "a.mcap")
    assert episode.attributes["recovered"]["messages"] == 187
    assert "did not finish" in episode.attributes["recovered"]["lost"][0]
    complete = read(arm / "episode_0/episode_0.mcap")
    assert np.array_equal(episode.arrays["joint_states/position"], complete.arrays["joint_states/position"])
    # A cut in the index loses no message either.
    (tmp_path / "b.mcap").write_bytes(whole[:-40])
    assert "no message is lost" in read(tmp_path / "b.mcap").attributes["recovered"]["lost"][0]


def test_a_cut_chunk_is_read_only_when_asked(tmp_path: Path) -> None:
    rows = [("/n", "x", "json", b"", json.dumps({"v": number}).encode()) for number in range(50)]
    log(tmp_path / "a.mcap", rows)
    data = (tmp_path / "a.mcap").read_bytes()
    (tmp_path / "a.mcap").write_bytes(data[: data.index(b'{"v": 30}') + 3])
    assert reason(tmp_path / "a.mcap") == "truncated"
    episode = read(tmp_path / "a.mcap", recover=True)
    assert np.array_equal(episode.arrays["n/v"], np.arange(30))
    assert "30 messages" in episode.attributes["recovered"]["lost"][1]
    plain = tmp_path / "b.mcap"
    with plain.open("wb") as file:
        writer = McapWriter(file, use_chunking=False)
        writer.start()
        channel = writer.register_channel("/n", "json", 0)
        for number in range(50):
            writer.add_message(channel, number, json.dumps({"v": number}).encode(), number)
        writer.finish()
    data = plain.read_bytes()
    plain.write_bytes(data[: data.index(b'{"v": 30}') + 3])
    assert reason(plain) == "truncated"
    episode = read(plain, recover=True)
    assert np.array_equal(episode.arrays["n/v"], np.arange(30))
    assert "lost" in episode.attributes["recovered"]["lost"][0]


@pytest.mark.parametrize("codec", ["LZ4", "ZSTD"])
def test_a_cut_compressed_chunk_gives_its_beginning(tmp_path: Path, codec: str) -> None:
    values = np.random.default_rng(7).random(12_000)
    path = tmp_path / "a.mcap"
    with path.open("wb") as file:
        writer = McapWriter(file, compression=CompressionType[codec], chunk_size=1 << 22)
        writer.start()
        channel = writer.register_channel("/n", "json", 0)
        for number, value in enumerate(values):
            writer.add_message(channel, number, json.dumps({"v": value}).encode(), number)
        writer.finish()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 4])
    assert reason(path) == "truncated"
    episode = read(path, recover=True)
    count = len(episode.arrays["n/v"])
    assert 1000 < count < 12_000
    assert np.array_equal(episode.arrays["n/v"], values[:count])
    assert f"{count} messages" in episode.attributes["recovered"]["lost"][1]


def test_checksums_and_counts_of_mcap(tmp_path: Path) -> None:
    target = tmp_path / "a.mcap"
    rosbag_writer.write_foxglove(target, 3, "none")
    whole = target.read_bytes()
    target.write_bytes(whole.replace(b'"x": 0.5', b'"x": 0.6'))
    assert reason(target) == "bad_crc"
    target.write_bytes(whole.replace(b"foxglove.PoseInFrame", b"foxglove.PoseInFrame"[::-1]))
    assert reason(target) == "bad_crc"
    assert reason(target) == "bad_crc"
    log(target, [("/n", "x", "json", b"", b'{"v": 1}')])
    data = bytearray(target.read_bytes())
    at = data.rindex(struct.pack("<BQ", 11, 0x38)) + 9
    assert struct.unpack_from("<Q", data, at)[0] == 1
    data[at] = 2
    target.write_bytes(data)
    assert reason(target) == "count_mismatch"


def test_claims_and_bombs_of_mcap(tmp_path: Path) -> None:
    import zstandard

    def chunk(size: int, codec: bytes, data: bytes) -> bytes:
        body = struct.pack("<QQQII", 0, 0, size, 0, len(codec)) + codec + struct.pack("<Q", len(data)) + data
        head = b"\x89MCAP0\r\n" + struct.pack("<BQ", 1, 8) + b"\0" * 8
        return head + struct.pack("<BQ", 6, len(body)) + body

    target = tmp_path / "a.mcap"
    bomb = zstandard.compress(b"\0" * (1 << 28))
    for size, codec, data, expected in (
        (1 << 28, b"zstd", bomb, "claimed_size"),
        (1 << 10, b"zstd", bomb, "unreadable_file"),
        (1 << 62, b"", b"", "claimed_size"),
        (5, b"", b"abc", "unreadable_file"),
        (9, b"brotli", b"abc", "unknown_compression"),
        (9, b"lz4", b"abc", "unreadable_file"),
        (9, b"zstd", b"abc", "unreadable_file"),
    ):
        target.write_bytes(chunk(size, codec, data))
        assert reason(target) == expected, (size, codec)
    target.write_bytes(b"\x89MCAP0\r\n" + struct.pack("<BQ", 1, 1 << 60))
    assert reason(target) == "truncated"


def test_metadata_is_checked_against_the_storage(tmp_path: Path) -> None:
    rows = [(1, "/t", TYPES["std_msgs/msg/String"]("x")), (2, "/t", TYPES["std_msgs/msg/String"]("y"))]
    for storage in ("mcap", "sqlite3"):
        path = bag(tmp_path / storage, rows, storage)
        told = (path / "metadata.yaml").read_text()
        assert "message_count: 2" in told
        (path / "metadata.yaml").write_text(told.replace("message_count: 2", "message_count: 3"))
        assert reason(path) == "count_mismatch"
        (path / "metadata.yaml").write_text(told.replace("message_count: 2", "message_count: 0"))
        assert reason(path) == "empty_episode"
        (path / "metadata.yaml").write_text(told.replace(f"- {storage}.", f"- ../../{storage}."))
        assert reason(path) == "path_outside_root"
        (path / "metadata.yaml").write_text(told.replace(f"- {storage}.", "- gone."))
        assert reason(path) == "missing_file"
        (path / "metadata.yaml").write_text("rosbag2_bagfile_information: &a [*a]\n")
        assert reason(path) == "yaml_invalid"
        (path / "metadata.yaml").write_text("title: somebody else's\n")
        assert [entry.upstream_id for entry in get_format("rosbag").scan(SourceRoot(path), None, {})] != ["bag"]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_bags_whose_messages_are_compressed(tmp_path: Path, storage: str) -> None:
    for name, mode in (("message", CompressionMode.MESSAGE), ("file", CompressionMode.FILE)):
        writer = Writer(tmp_path / name, version=9, storage_plugin=NAMED[storage])
        writer.set_compression(mode, CompressionFormat.ZSTD)
        with writer:
            known = writer.add_connection("/t", "std_msgs/msg/String", typestore=STORE)
            message = TYPES["std_msgs/msg/String"]("again " * 50)
            writer.write(known, 1, STORE.serialize_cdr(message, "std_msgs/msg/String"))
    found = [read(tmp_path / name) for name in ("message", "file")]
    assert [raw.texts["t/data"] for raw in found] == [("again " * 50,)] * 2
    assert found[0].raw_digest == found[1].raw_digest
    detected = get_format("rosbag").detect(SourceRoot(tmp_path / "file"), None)
    assert detected is not None
    assert detected.layout == {"mcap": "mcap_ros2", "sqlite3": "ros2_db3"}[storage]


def packed_bag(path: Path, storage: str, texts: int = 300) -> Path:
    """A bag whose one storage file is compressed as a whole, as rosbags writes it; gives that file."""
    writer = Writer(path, version=9, storage_plugin=NAMED[storage])
    writer.set_compression(CompressionMode.FILE, CompressionFormat.ZSTD)
    with writer:
        known = writer.add_connection("/t", "std_msgs/msg/String", typestore=STORE)
        for number in range(texts):
            message = TYPES["std_msgs/msg/String"](f"text {number} {number**7}")
            writer.write(known, number + 1, STORE.serialize_cdr(message, "std_msgs/msg/String"))
    (found,) = path.glob("*.zstd")
    return found


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_packed_storage_file_by_itself_and_unpacked_beside_it(tmp_path: Path, storage: str) -> None:
    file = packed_bag(tmp_path / "bag", storage)
    plain = read(tmp_path / "bag")
    assert len(plain.texts["t/data"]) == 300
    # rosbag2 leaves the unpacked file there when it plays a bag: it is no second episode.
    with pa.input_stream(str(file), compression="zstd") as stream:
        file.with_suffix("").write_bytes(stream.read())
    assert [entry.upstream_id for entry in get_format("rosbag").scan(SourceRoot(tmp_path / "bag"), None, {})] == ["bag"]
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / f"{file.stem}.zst").write_bytes(file.read_bytes())
    alone = read(tmp_path / "alone")
    assert alone.raw_digest == plain.raw_digest
    assert alone.files[0].path.endswith(".zst")


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_damaged_packed_storage_files_are_refused(tmp_path: Path, storage: str) -> None:
    file = packed_bag(tmp_path / "bag", storage)
    whole = file.read_bytes()
    reasons = set()
    for cut in range(0, len(whole), max(1, len(whole) // 25)):
        file.write_bytes(whole[:cut])
        reasons.add(reason(tmp_path / "bag"))
    assert reasons <= {"empty_file", "unreadable_file", "truncated"}
    file.write_bytes(pa.compress(bytes(200 << 20), codec="zstd", asbytes=True))
    assert reason(tmp_path / "bag") == "claimed_size"
    file.write_bytes(whole)
    assert len(read(tmp_path / "bag").texts["t/data"]) == 300
    metadata = tmp_path / "bag/metadata.yaml"
    metadata.write_text(metadata.read_text().replace("compression_format: zstd", "compression_format: lz4"))
    assert reason(tmp_path / "bag") == "unsupported_compression"


def test_storage_files_in_their_order(tmp_path: Path) -> None:
    path = bag(tmp_path / "b", [(1, "/t", TYPES["std_msgs/msg/String"]("one"))])
    second = bag(tmp_path / "c", [(2, "/t", TYPES["std_msgs/msg/String"]("two"))])
    (second / "c.mcap").rename(path / "c.mcap")
    told = (path / "metadata.yaml").read_text().replace("message_count: 1", "message_count: 2")
    (path / "metadata.yaml").write_text(told.replace("- b.mcap", "- b.mcap\n  - c.mcap", 1))
    episode = read(path)
    assert episode.texts["t/data"] == ("one", "two")
    assert [file.path for file in episode.files] == ["b.mcap", "c.mcap", "metadata.yaml"]


def test_sqlite_is_asked_nothing_of_its_own(tmp_path: Path) -> None:
    path = bag(tmp_path / "b", [(1, "/t", TYPES["std_msgs/msg/String"]("x"))], "sqlite3") / "b.db3"
    (path.parent / "metadata.yaml").unlink()
    whole = path.read_bytes()
    (path.parent / "b.db3-wal").write_bytes(b"x" * 40)
    assert reason(path) == "unfinished_journal"
    assert "never reached" in read(path, recover=True).attributes["recovered"]["lost"][0]
    (path.parent / "b.db3-wal").unlink()
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT i topic_id, 0 timestamp, x'' data FROM n"
    )
    for change, expected in (
        (["ALTER TABLE messages RENAME TO m", f"CREATE VIEW messages AS {endless}"], "missing_key"),
        (["ALTER TABLE messages ADD COLUMN g AS (length(data)) VIRTUAL"], "bad_value"),
        (["UPDATE messages SET data = 'text'"], "bad_type"),
        (["UPDATE messages SET topic_id = 99"], "bad_value"),
        (["ALTER TABLE topics DROP COLUMN serialization_format"], "missing_column"),
        (["DELETE FROM messages"], "empty_episode"),
    ):
        path.write_bytes(whole)
        database = sqlite3.connect(path)
        for statement in change:
            database.execute(statement)
        database.commit()
        database.close()
        assert reason(path) == expected, change
    path.write_bytes(whole[:5000])
    assert reason(path) in ("unreadable_file", "missing_key")
    path.write_bytes(b"not a database at all, but long enough to be one")
    assert reason(path) == "unreadable_file"


def test_ros1_bags_that_were_not_finished(tmp_path: Path) -> None:
    rosbag_writer.write_scand(tmp_path, 1, 1.0, "none")
    path = tmp_path / "A_Jackal_0.bag"
    whole = path.read_bytes()
    count = sum(told["messages"] for told in read(path).attributes["topics"].values())
    at = whole.index(b"index_pos=") + len(b"index_pos=")
    (index,) = struct.unpack_from("<Q", whole, at)
    path.write_bytes(whole[:at] + b"\0" * 8 + whole[at + 8 : index])
    unindexed = read(path)
    assert unindexed.attributes["recovered"]["messages"] == count == 70
    assert "no index" in unindexed.attributes["recovered"]["lost"][0]
    path.write_bytes(whole[: index - 100])
    assert reason(path) == "truncated"
    path.write_bytes(whole.replace(b"chunk_count=\1", b"chunk_count=\2"))
    assert reason(path) == "count_mismatch"
    path.write_bytes(whole.replace(b"#ROSBAG V2.0", b"#ROSBAG V1.2"))
    assert reason(path) == "unreadable_file"
    path.write_bytes(b"")
    assert reason(path) == "empty_file"
    with Ros1Writer(tmp_path / "none.bag"):
        pass
    assert reason(tmp_path / "none.bag") == "empty_episode"


def test_nothing_of_an_input_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading compiles and executes nothing, whatever a definition says."""
    text = b"float64 x # __import__('os').abort()\nfloat64 C=__import__('os').abort()\n"
    rows = [("/n", "a/msg/B", "cdr", text, b"\0\1\0\0" + struct.pack("<d", 2.5))]
    path = log(tmp_path / "a.mcap", rows)
    read(path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("code was made of a file")

    monkeypatch.setattr("builtins.exec", refuse)
    monkeypatch.setattr("builtins.eval", refuse)
    monkeypatch.setattr("builtins.compile", refuse)
    assert read(path).arrays["n/x"].tolist() == [2.5]


def test_a_neighbour_changes_nothing(tmp_path: Path) -> None:
    rosbag_writer.write_ur5e(tmp_path / "one", 1, 0.2)
    rosbag_writer.write_ur5e(tmp_path / "two", 2, 0.2)
    assert read(tmp_path / "one").raw_digest == read(tmp_path / "two").raw_digest
    assert read(tmp_path / "one").upstream_id == read(tmp_path / "two").upstream_id == "episode_0"


def test_mcap_of_other_libraries_reads_alike(data: Path) -> None:
    """Messages by the reader of mcap that needs no index."""
    path = data / "ros/mcap_conformance/TenMessages/TenMessages-ch-chx-pad-rch-st.mcap"
    with path.open("rb") as file:
        times = [message.log_time for _, _, message in NonSeekingReader(file).iter_messages()]
    assert len(times) == read(path).attributes["topics"]["example"]["messages"] == 10
