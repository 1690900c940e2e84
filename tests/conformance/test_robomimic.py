"""The `robomimic` format keeps every promise of a format, on real files of four writers and on layout fixtures."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from dataengine.fixtures.robomimic_writer import (
    write_libero,
    write_libero_replayed,
    write_mimicgen,
    write_robocasa,
    write_robomimic,
)
from dataengine.testing.formats import FormatConformance


class TestHumanDemonstrations(FormatConformance):
    """robosuite 0.3.0 and 1.0.1: three files below one folder, models beside them."""

    format_name = "robomimic"
    mutable = "**/*.hdf5"
    trials = 12

    @pytest.fixture
    def sample(self, data: Path) -> Path:
        return data / "robot/robosuite_human_demos"


class TestOneFile(FormatConformance):
    """robosuite 1.5.2, the model inline; one file named by itself."""

    format_name = "robomimic"
    trials = 12

    @pytest.fixture
    def sample(self, data: Path) -> Path:
        return data / "simulation/robosuite_1.5.2_lift/demo.hdf5"


class TestIsaacLab(FormatConformance):
    """Isaac Lab writes robomimic's shape with nested groups."""

    format_name = "robomimic"
    mutable = "**/*.hdf5"
    trials = 4

    @pytest.fixture
    def sample(self, data: Path) -> Path:
        return data / "simulation/isaaclab_mimic"


class TestRobomimic(FormatConformance):
    """A layout fixture of robomimic's own: pictures, next_obs, rewards, deflate."""

    format_name = "robomimic"
    layout: ClassVar[str] = "robomimic_hdf5"
    trials = 12

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Path:
        write_robomimic(tmp_path / "sample")
        return tmp_path / "sample"


class TestLibero(FormatConformance):
    """A layout fixture after LIBERO's create_dataset.py: the language in problem_info, pictures bottom up."""

    format_name = "robomimic"
    layout: ClassVar[str] = "libero_hdf5"
    options: ClassVar[dict[str, str]] = {"layout": "libero_hdf5", "rows": "bottom_up", "pictures": "jpeg"}
    trials = 8

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Path:
        write_libero(tmp_path / "sample")
        return tmp_path / "sample"


class TestLiberoReplayed(FormatConformance):
    """A layout fixture after OpenVLA's regenerate_libero_dataset.py: LIBERO's observations without its attributes."""

    format_name = "robomimic"
    layout: ClassVar[str] = "libero_replayed_hdf5"
    options: ClassVar[dict[str, str]] = {"layout": "libero_replayed_hdf5", "rows": "bottom_up", "pictures": "jpeg"}
    trials = 8

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Path:
        write_libero_replayed(tmp_path / "sample")
        return tmp_path / "sample"


class TestMimicgen(FormatConformance):
    """A layout fixture after MimicGen's write_demo_to_hdf5: datagen_info and src_demo_inds."""

    format_name = "robomimic"
    layout: ClassVar[str] = "mimicgen_hdf5"
    trials = 8

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Path:
        write_mimicgen(tmp_path / "sample")
        return tmp_path / "sample"


class TestRobocasa(FormatConformance):
    """A layout fixture after RoboCasa's dataset_states_to_obs.py: twelve numbers an action, ep_meta."""

    format_name = "robomimic"
    layout: ClassVar[str] = "robocasa_hdf5"
    trials = 8

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Path:
        write_robocasa(tmp_path / "sample")
        return tmp_path / "sample"
