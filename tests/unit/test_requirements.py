"""`requires`: what a source must say of itself before a converter's columns mean what the converter says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataengine import api
from dataengine.errors import EpisodeError
from dataengine.specs.converter import load_converter
from dataengine.specs.requires import Requirement
from dataengine.transforms.requirements import check_required

ATTRIBUTES = {"info": {"robot": "arm", "names": [["x", "y"], ["grip"]], "by": {"a": 1, "b": 2.0}}, "none": None}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("info/robot", "arm"),
        ("info/names", [["x", "y"], ["grip"]]),
        ("info/by", {"b": 2, "a": 1}),
        ("none", None),
    ],
)
def test_what_is_as_required_passes(path: str, value: Any) -> None:
    check_required([Requirement(attribute=path, equals=value)], ATTRIBUTES)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("info/robot", "hand", 'info/robot is "arm" and not "hand"'),
        ("info/names", [["y", "x"], ["grip"]], 'info/names/0/0 is "x" and not "y"'),
        ("info/names", [["x", "y"]], r'info/names is \[\["x","y"\],\["grip"\]\] and not \[\["x","y"\]\]'),
        ("info/by", {"a": 1, "b": 3}, "info/by/b is 2.0 and not 3"),
        ("info/by", {"a": True, "b": 2}, "info/by/a is 1 and not true"),
        ("none", "x" * 500, r'none is null and not "x{119}\.\.\.'),
    ],
)
def test_the_first_difference_is_told(path: str, value: Any, told: str) -> None:
    with pytest.raises(EpisodeError, match=told) as caught:
        check_required([Requirement(attribute=path, equals=value)], ATTRIBUTES)
    assert caught.value.reason == "unexpected_attribute"


def test_what_is_not_there_is_told() -> None:
    with pytest.raises(EpisodeError, match="'info/hand'") as caught:
        check_required([Requirement(attribute="info/hand", equals=None)], ATTRIBUTES)
    assert caught.value.reason == "missing_attribute"


def test_another_robot_of_the_same_layout_is_refused(make_pusht: Callable[..., Path], tmp_path: Path) -> None:
    root = make_pusht(tmp_path / "pusht", [1, 2])
    assert api.inspect(root).fitting == ["pusht_lerobot"]
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps(info | {"robot_type": "so101"}))
    report = api.ingest(root, "pusht_lerobot", tmp_path / "lake", workers=1)
    assert (report.added, [failure.reason for failure in report.failures]) == (0, ["unexpected_attribute"] * 2)
    assert api.inspect(root).fitting == []


def test_a_draft_requires_what_the_source_says(make_pusht: Callable[..., Path], tmp_path: Path) -> None:
    root = make_pusht(tmp_path / "pusht", [1])
    api.inspect(root, spec=tmp_path / "draft.yaml")
    told = yaml.safe_load((tmp_path / "draft.yaml").read_text())["requires"]
    assert told == [
        {"attribute": "info/robot_type", "equals": "pusht"},
        {"attribute": "info/features/action/names", "equals": ["motor_0", "motor_1"]},
        {"attribute": "info/features/observation.state/names", "equals": ["motor_0", "motor_1"]},
    ]


def test_only_what_is_given_is_in_the_digest() -> None:
    assert "requires" not in load_converter("bridge_octo").canonical()
    assert load_converter("pusht_lerobot").canonical()["requires"] == [
        {"attribute": "info/robot_type", "equals": "pusht"}
    ]
