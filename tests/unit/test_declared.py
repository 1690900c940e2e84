"""Streams against what the source's metadata declares of them: real LeRobot files, lies in info.json."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine import api
from dataengine.episode import Declared, RawEpisode
from dataengine.evidence.declared import DeclaredEvidence

G1, CAMERA = "robot/lerobot_v21_g1", "observation.images.cam_high"


def verdicts(source: Path) -> dict[str, tuple[str, str]]:
    """Status and words of the check by stream."""
    return {v["where"]: (v["status"], v["says"]) for v in api.inspect(source).verdicts if v["check"] == "declared"}


@pytest.mark.parametrize("folder", [G1, "robot/lerobot_v30_pusht", "robot/gr00t_v20_picknplace"])
def test_real_data_are_as_declared(data: Path, folder: str) -> None:
    assert {where: status for where, (status, _) in verdicts(data / folder).items()} == {"all streams": "ok"}


@pytest.mark.parametrize(
    ("lie", "warned"),
    [
        (
            lambda info: info.update(fps=50),
            {CAMERA: "50 Hz are declared, times say 30", "timestamp": "50 Hz are declared, times say 30"},
        ),
        (
            lambda info: info["features"][CAMERA].update(shape=[240, 320, 3]),
            {CAMERA: "pictures 240 high and 320 wide are declared, they are 480 by 640"},
        ),
        (
            lambda info: info["features"]["action"].update(dtype="float64"),
            {"action": "float64 is declared, stored is float32"},
        ),
        (lambda info: info["features"][CAMERA].update(shape=[3, 480, 640]), {}),
    ],
)
def test_a_lie_in_the_metadata_is_told(
    data: Path, tmp_path: Path, lie: Callable[[Any], None], warned: dict[str, str]
) -> None:
    shutil.copytree(data / G1, tmp_path / "g1")
    path = tmp_path / "g1/meta/info.json"
    info = json.loads(path.read_text())
    lie(info)
    path.write_text(json.dumps(info))
    found = verdicts(tmp_path / "g1")
    assert {where: status for where, (status, _) in found.items()} == {
        **dict.fromkeys(warned, "warning"),
        "all other streams" if warned else "all streams": "ok",
    }
    for where, says in warned.items():
        assert found[where][1].endswith(f"2 of 2 episodes are not what the metadata says; episode_000029: {says}")


def test_a_video_of_depth_is_no_picture(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / G1, tmp_path / "g1")
    path = tmp_path / "g1/meta/info.json"
    info = json.loads(path.read_text())
    info["features"][CAMERA]["info"]["video.is_depth_map"] = True
    path.write_text(json.dumps(info))
    found = api.inspect(tmp_path / "g1")
    assert (found.read, found.frames, found.attributes["skipped_columns"]) == (2, 0, [CAMERA])


def raw(declared: Declared, values: np.ndarray[Any, Any]) -> RawEpisode:
    return RawEpisode("a", (), "0" * 64, arrays={"t": values}, declared={"t": declared, "absent": declared})


@pytest.mark.parametrize(
    ("declared", "values", "says"),
    [
        (Declared(30.0), np.arange(9) / 29.97, None),
        (Declared(30.0), np.arange(9) / 29.0, "30 Hz are declared, times say 29"),
        (Declared(30.0), np.zeros(9), None),
        (Declared(30.0), np.array([0.0, np.nan, np.inf]), None),
        (Declared(30.0), np.array([0.0, 1.0]), None),
        (Declared(30.0), np.array([b"a", b"b", b"c"]), None),
        (Declared(shape=(2,)), np.zeros((3, 2)), None),
        (Declared(shape=(2,)), np.zeros(3), "the shape [2] is declared, stored is []"),
    ],
)
def test_what_differs_is_told(declared: Declared, values: np.ndarray[Any, Any], says: str | None) -> None:
    evidence = DeclaredEvidence()
    evidence.add(raw(declared, values))
    found = [(v.where, v.status) for v in evidence.verdicts()]
    assert found == ([("all streams", "ok")] if says is None else [("t", "warning")])
    assert says is None or next(evidence.verdicts()).says.endswith(f"a: {says}")
