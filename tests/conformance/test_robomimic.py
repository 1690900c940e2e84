"""The `robomimic` format keeps every promise of a format, on real files of four writers and on a layout fixture."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from dataengine.testing.formats import FormatConformance


class TestHumanDemonstrations(FormatConformance):
    """robosuite 0.3.0 and 1.0.1: three files below one folder, models beside them."""

    format_name = "robomimic"
    mutable = "**/*.hdf5"
    trials = 30

    @pytest.fixture
    def sample(self, data: Path) -> Path:
        return data / "robot/robosuite_human_demos"


class TestOneFile(FormatConformance):
    """robosuite 1.5.2, the model inline; one file named by itself."""

    format_name = "robomimic"
    trials = 30

    @pytest.fixture
    def sample(self, data: Path) -> Path:
        return data / "simulation/robosuite_1.5.2_lift/demo.hdf5"


class TestIsaacLab(FormatConformance):
    """Isaac Lab writes robomimic's shape with nested groups."""

    format_name = "robomimic"
    mutable = "**/*.hdf5"

    @pytest.fixture
    def sample(self, data: Path) -> Path:
        return data / "simulation/isaaclab_mimic"


class TestPictures(FormatConformance):
    """A layout fixture of robomimic's own: pictures, next_obs, rewards, deflate."""

    format_name = "robomimic"
    trials = 40

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Path:
        path = tmp_path / "sample" / "image.hdf5"
        path.parent.mkdir()
        with h5py.File(path, "w") as file:
            file.create_group("data").attrs["env_args"] = '{"env_name": "Toy", "type": 1}'
            for number in range(3):
                rows = 4 + number
                group = file.create_group(f"data/demo_{number}")
                group.attrs["num_samples"] = rows
                group["actions"] = np.arange(rows * 7, dtype=np.float64).reshape(rows, 7)
                pixels = np.arange(rows * 6 * 5 * 3).reshape(rows, 6, 5, 3).astype(np.uint8)
                for name in ("obs", "next_obs"):
                    group.create_dataset(f"{name}/agentview_image", data=pixels, compression="gzip")
                    group[f"{name}/pos"] = np.full((rows, 3), number, np.float32)
        return path.parent
