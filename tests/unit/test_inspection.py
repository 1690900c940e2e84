"""Inspect: numbers of the data and not of the metadata, drafts of converters, several data sets, kinds of files."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from dataengine import api, images
from dataengine.cli.main import app
from dataengine.episode import RawEpisode, images_media
from dataengine.errors import EpisodeError, SpecError
from dataengine.fixtures.hdf5_log_writer import write_arm
from dataengine.fixtures.table_log_writer import write_parquet_log
from dataengine.inspection.draft import draft
from dataengine.inspection.found import Inspection
from dataengine.inspection.kinds import kind_of
from dataengine.inspection.streams import Streams
from dataengine.specs.converter import load_converter
from dataengine.storage import SourceRoot

MakePusht = Callable[..., Path]
NS = 1_000_000_000


@pytest.fixture(scope="module")
def pusht(make_pusht: MakePusht, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of 24 rows whose metadata lie about every total."""
    root = make_pusht(tmp_path_factory.mktemp("lies") / "pusht", [1, 2, 3])
    info = json.loads((root / "meta/info.json").read_text())
    info |= {"total_frames": 9999, "total_videos": 77}
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "LICENSE").write_text("Apache-2.0")
    return root


def test_numbers_are_of_the_data(pusht: Path):
    found = api.inspect(pusht)
    assert (found.format, found.found, found.read, found.steps, found.frames, found.decoded) == (
        "lerobot",
        3,
        3,
        72,
        72,
        72,
    )
    streams = {stream.name: stream for stream in found.streams}
    camera = streams["observation.image"]
    assert (camera.episodes, camera.steps, camera.decoded, camera.rate_hz, camera.gaps) == (3, 72, 72, 10.0, 0)
    assert camera.shape == [96, 96, 3]
    assert streams["timestamp"].rate_hz == 10.0
    assert found.unit_from == "pusht_lerobot"
    assert streams["action"].unit == "px512"
    assert {other.path: other.kind for other in found.other_files}["LICENSE"].startswith("licence")
    assert found.next == f"dataengine inspect {pusht} --converter pusht_lerobot"


def test_pictures_that_do_not_decode_are_a_problem_and_no_number(make_pusht: MakePusht, tmp_path: Path):
    root = make_pusht(tmp_path / "pusht", [1, 2])
    video = sorted(root.rglob("*.mp4"))[1]
    video.write_bytes(video.read_bytes()[:900])
    found = api.inspect(root)
    assert (found.found, found.read, found.frames) == (2, 1, 24)
    assert [problem["reason"] for problem in found.problems] == ["video_unreadable"]


def raw(arrays: dict[str, Any], **parts: Any) -> RawEpisode:
    return RawEpisode("e", (), "0" * 64, arrays={k: np.asarray(v) for k, v in arrays.items()}, **parts)


def test_gaps_and_steps_backwards_are_counted():
    times = np.arange(100, dtype=np.int64) * NS // 50 + 1_700_000_000 * NS
    times[60:] += NS
    times[80] = times[79]
    streams = Streams()
    streams.add(raw({"log/time_ns": times, "log/value": np.zeros((100, 2))}))
    clock = streams.found["log/time_ns"]
    assert (clock.gaps, clock.backwards) == (2, 1)
    assert streams.found["log/value"].steps == 100


def test_a_picture_that_is_none_is_told():
    picture = images.encode(np.zeros((8, 8, 3), np.uint8), "jpeg")
    media = images_media("cam", "jpeg", [picture, picture[:-20]], 8, 8)
    with pytest.raises(EpisodeError, match="cam"):
        Streams().add(raw({}, media={"cam": media}))


ANSWERS = {
    "family": "simulation", "license": "MIT", "synthetic": "true", "embodiment": "pusht_agent", "status": "from_code",
    "control_mode": "target_position", "unit": "px512", "slot": "native", "label": "commanded", "channel_order": "rgb",
    "rotate": "0", "level": "task", "rule": "nearest", "within_s": "0.1",
}  # fmt: skip


def answered(text: str) -> str:
    """The draft as a person edits it: every UNKNOWN replaced, each by what its field takes."""

    def answer(match: re.Match[str]) -> str:
        unit = "s" if match["indent"] == "  " and match["key"] == "unit" else ANSWERS.get(match["key"], "looked up")
        return f"{match['indent']}{match['dash']}{match['key']}: {unit}"

    return re.sub(r"^(?P<indent> *)(?P<dash>(?:- )?)(?P<key>\w+): UNKNOWN.*$", answer, text, flags=re.M)


def test_a_draft_is_refused_as_it_is_and_converts_when_it_is_answered(pusht: Path, tmp_path: Path):
    path = tmp_path / "my_arm.yaml"
    found = api.inspect(pusht, spec=path)
    assert found.next.startswith(f"edit every UNKNOWN in {path}, then: dataengine inspect {pusht} --converter {path}")
    text = path.read_text()
    document = yaml.safe_load(text)
    assert document["format"]["name"] == "lerobot"
    assert [entry["array"] for entry in document["state"]] == ["observation.state"]
    assert [entry["array"] for entry in document["action"]] == ["action"]
    assert document["views"][0]["clock"] == "rows"
    assert "#   frame_index: int64 [24]" in text
    with pytest.raises(SpecError, match=r"still UNKNOWN: source\.url") as caught:
        load_converter(str(path))
    assert "more" in caught.value.what
    path.write_text(answered(text))
    again = api.inspect(pusht, converter=str(path))
    assert (again.converter, again.judged, again.problems) == ("my_arm", 3, [])
    with pytest.raises(SpecError, match="there already"):
        api.inspect(pusht, spec=path)


def test_a_draft_knows_pairs_other_clocks_and_rates(tmp_path: Path):
    arrays = {
        "obs/q": np.zeros((11, 7)), "actions": np.ones((10, 7)), "wrench": np.zeros((40, 6)),
        "wrench_time_ns": np.arange(40, dtype=np.int64), "depth": np.zeros((11, 100)), "obs/frame_index": np.arange(11),
    }  # fmt: skip
    picture = images.encode(np.zeros((4, 4, 3), np.uint8), "png")
    media = {
        "top": images_media("top", "png", [picture] * 11, 4, 4),
        "odd": images_media("odd", "png", [picture] * 3, 4, 4),
    }
    episode = raw(arrays, media=media, texts={"said": ("go",)}, attributes={"fps": 25})
    streams = Streams()
    streams.add(episode)
    found = Inspection("x", "robomimic", 1.0, [], [], streams=list(streams.found.values()))
    text = Path(draft([episode], found, Path("x"), tmp_path / "d.yaml")).read_text()
    document = yaml.safe_load(text)
    assert document["time"]["base"] == "attribute_rate"
    assert document["time"]["pair"] == "drop_last_observation"
    aligned = {entry["array"]: entry.get("align") for entry in document["state"]}
    assert aligned["obs/q"] is None
    assert aligned["wrench"]["times"] == "wrench_time_ns"
    assert aligned["wrench"]["unit"] == "ns"
    assert {entry["media"]: entry["clock"] for entry in document["views"]} == {"top": "rows", "odd": "UNKNOWN"}
    assert "#   depth: float64 [11, 100]" in text
    assert "#   obs/frame_index: int64 [11]" in text


def test_a_folder_of_several_data_sets_tells_each(make_pusht: MakePusht, tmp_path: Path):
    root = tmp_path / "all"
    make_pusht(root / "robots/push", [1, 2], rows=6)
    talk = root / "talk"
    talk.mkdir()
    (talk / "chat.json").write_text(
        json.dumps([{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}])
    )
    (root / "notes").mkdir()
    (root / "notes/modality.json").write_text(
        json.dumps({"state": {"arm": {"start": 0, "end": 7}}, "action": {"arm": {}}})
    )
    (root / "README.md").write_text("read me")
    found = api.inspect(root)
    assert {(place.path, place.format, place.episodes, place.problems) for place in found.places} == {
        ("robots/push", "lerobot", 2, 0),
        ("talk", "conversation", 1, 0),
    }
    kinds = {other.path: other.kind for other in found.other_files}
    assert kinds["notes/modality.json"] == "GR00T modality.json: slices of state arm, action arm"
    assert kinds["README.md"].startswith("licence")
    assert found.next == f"dataengine inspect {root}/robots/push"
    shown = CliRunner().invoke(app, ["inspect", str(root), "--no-strip"])
    assert shown.exit_code == 0
    assert "holds 2 data sets" in shown.output


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("a.bin", b"", "empty file"),
        ("a.h5", b"\x89HDF\r\n\x1a\n123", "HDF5 file"),
        ("a.gz", gzip.compress(b"x", mtime=0), "gzip file"),
        ("a.pkl", b"\x80\x04N.", "pickle (never run)"),
        ("a.csv", b"time,x\n1,2\n", "table with the columns time, x"),
        ("a.json", b'{"b": 1, "a": 2}', "JSON object with the keys b, a"),
        ("a.json", b'[{"b": 1}, {"b": 2}]', "JSON list of 2 entries with the keys b"),
        ("a.jsonl", b'{"q": 1}\n{"q": 2}\n', "JSON lines with the keys q"),
        ("a.json", b'{"b": ', "text that is no valid JSON"),
        ("a.json", b"[" * 100_000, "text that is no valid JSON"),
        ("a.dat", b"\xff\xfe\x00\x01", "binary file of 4 bytes"),
        ("LICENSE", b"MIT", "licence, attribution or description (text)"),
        ("a.txt", b"hello", "text"),
        ("a.png", images.encode(np.zeros((3, 5, 3), np.uint8), "png"), "PNG picture 5 x 3"),
    ],
)  # fmt: skip
def test_kinds_of_files(tmp_path: Path, name: str, data: bytes, told: str):
    (tmp_path / name).write_bytes(data)
    assert kind_of(SourceRoot(tmp_path), name) == told


def test_what_no_format_recognises_is_named(tmp_path: Path):
    (tmp_path / "so100__modality.json").write_text('{"state": {"arm": {}}, "action": {"arm": {}}}')
    with pytest.raises(SpecError, match=r"so100__modality\.json: GR00T modality.json: slices of state arm"):
        api.inspect(tmp_path)


def test_an_empty_folder_is_told_as_one(tmp_path: Path):
    (tmp_path / "deeper").mkdir()
    done = CliRunner().invoke(app, ["inspect", str(tmp_path)])
    assert done.exit_code == 2
    assert "is an empty folder" in done.output.splitlines()[0]
    assert "copied or mounted" in done.output


def test_odd_names_and_foreign_bytes_take_one_line_each(tmp_path: Path):
    (tmp_path / "we\nird.csv").write_text("a,b\n")
    (tmp_path / "turn\u202ed.dat").write_bytes(b"\xff\x00\x01")
    done = CliRunner().invoke(app, ["inspect", str(tmp_path)])
    lines = done.output.splitlines()
    assert (done.exit_code, len(lines)) == (2, 4)
    assert lines[1:3] == ["  turn\\u202ed.dat: binary file of 3 bytes", "  we\\nird.csv: table with the columns a, b"]
    assert "`dataengine formats`" in lines[3]
    alone = CliRunner().invoke(app, ["inspect", str(tmp_path / "turn\u202ed.dat")])
    assert "replay_zarr" not in alone.output


def test_a_strip_is_drawn_where_it_is_asked_for(pusht: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["inspect", str(pusht), "--limit", "1"])
    assert done.exit_code == 0
    assert "strip of frames: inspect-pusht.png" in done.output
    header = images.sniff((tmp_path / "inspect-pusht.png").read_bytes())
    assert (header.height, header.width) == (112 + 4, 8 * (112 + 4))
    (tmp_path / "inspect-pusht.png").unlink()
    for option in ("--no-strip", "--json"):
        CliRunner().invoke(app, ["inspect", str(pusht), "--limit", "1", option])
    assert list(tmp_path.iterdir()) == []
    CliRunner().invoke(app, ["inspect", str(pusht), "--limit", "1", "--strip", "deep/strip.jpg"])
    assert images.sniff((tmp_path / "deep/strip.jpg").read_bytes()).codec == "jpeg"


def test_a_reader_of_anybodys_files_takes_no_folder_of_known_data_sets(make_pusht: MakePusht, tmp_path: Path):
    """Parquet and HDF5 logs are read by themselves, and beside a data set that has a name they are one of several."""
    write_parquet_log(tmp_path / "all/logs")
    write_arm(tmp_path / "all/arm")
    assert api.inspect(tmp_path / "all/logs").format == "table_episodes"
    make_pusht(tmp_path / "all/robots/push", [1], rows=6)
    found = api.inspect(tmp_path / "all")
    assert {(place.path, place.format) for place in found.places} == {
        ("arm", "hdf5_episodes"),
        ("logs", "table_episodes"),
        ("robots/push", "lerobot"),
    }


def test_a_draft_reads_back_whatever_arrays_are_called(tmp_path: Path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("null", "@x", "a: b", "# c", "cmd pos", "t"):
            file[name] = np.arange(5.0)
        file.attrs["yes"] = "go"
    api.inspect(tmp_path, spec=tmp_path / "mine.yaml")
    document = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert {entry["array"] for entry in document["state"]} == {"null", "@x", "a: b", "# c"}
    assert [entry["array"] for entry in document["action"]] == ["cmd pos"]
    assert (document["time"]["array"], document["language"][0]["stream"]) == ("t", "@yes")


def test_a_draft_aligns_what_has_other_times_of_its_own(tmp_path: Path):
    """Two recorders of one rate: as many rows each, at other times. Row by row they would be paired by chance."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for side, late in (("left", 0), ("right", 3_000_000), ("same", 0)):
            file[f"{side}/time_ns"] = np.arange(20) * 20_000_000 + late
            file[f"{side}/stamp_ns"] = np.arange(20) * 20_000_000 + 7
            file[f"{side}/seq"] = np.arange(20)
            file[f"{side}/q"] = np.linspace(0, 1, 20)
        file["walk/time_to_go"] = np.ones((7, 3))
        file["walk/pace"] = np.arange(7.0)
    api.inspect(tmp_path, spec=tmp_path / "mine.yaml")
    text = (tmp_path / "mine.yaml").read_text()
    document = yaml.safe_load(text)
    assert document["time"]["array"] == "left/time_ns"
    assert {entry["array"]: entry.get("align", {}).get("times") for entry in document["state"]} == {
        "left/q": None,
        "right/q": "right/time_ns",
        "same/q": None,
    }
    assert "#   right/seq: int64 [20]" in text
    assert "#   right/stamp_ns: int64 [20]" in text
