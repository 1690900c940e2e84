"""A layout fixture: demonstrations as robosuite's `gather_demonstrations_as_hdf5` writes them.

It follows robosuite 1.5.2, `scripts/collect_human_demonstrations.py` (group `data` with `env_info` as JSON, one
group `demo_<k>` with `states`, `actions` and the model), and the layout of flattened MuJoCo states: time, qpos,
qvel. What it writes is a faithful layout, not data of any simulation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

OSC_POSE: Mapping[str, Any] = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
    "input_type": "delta",
    "input_ref_frame": "base",
}
"""The Panda's default controller, as far as it scales actions."""
LIFT_INFO: Mapping[str, Any] = {
    "env_name": "Lift",
    "robots": "Panda",
    "controller_configs": {"type": "BASIC", "body_parts": {"right": OSC_POSE}},
}
CUBE_POSE = (0.0, 0.0, 0.83, 1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class RobosuiteDemo:
    """One demonstration: `states` [T, 1 + nq + nv], `actions` [T, 7] in -1..1 (None: a file without actions)."""

    states: NDArray[np.float64]
    actions: NDArray[np.float64] | None
    model: str = '<mujoco model="base"/>'


def lift_states(joints: NDArray[np.float64], opening: NDArray[np.float64], hz: float = 20.0) -> NDArray[np.float64]:
    """Flattened states [T, 32] of Lift: `joints` [T, 7] rad, `opening` [T] of one finger in m, a cube at rest.

    Velocities are finite differences; the cube keeps `CUBE_POSE`.
    """
    rows = len(joints)
    times = np.arange(rows)[:, None] / hz
    cube = np.tile(CUBE_POSE, (rows, 1))
    moving = np.concatenate([joints, opening[:, None], -opening[:, None]], axis=1)
    velocities = np.gradient(moving, 1 / hz, axis=0) if rows > 1 else np.zeros_like(moving)
    return np.concatenate([times, moving, cube, velocities, np.zeros((rows, 6))], axis=1)


def write_robosuite(
    path: Path,
    demos: Sequence[RobosuiteDemo],
    *,
    env: str = "Lift",
    env_info: Mapping[str, Any] | None = LIFT_INFO,
    repository_version: str = "1.5.2",
) -> Path:
    """Write `demos` as `demo_1`, `demo_2`, ... of one HDF5 file; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["date"] = "1-1-2000"
        data.attrs["time"] = "0:0:0"
        data.attrs["repository_version"] = repository_version
        data.attrs["env"] = env
        if env_info is not None:
            data.attrs["env_info"] = json.dumps(env_info)
        for number, demo in enumerate(demos, start=1):
            group = data.create_group(f"demo_{number}")
            group.attrs["model_file"] = demo.model
            group.create_dataset("states", data=demo.states)
            if demo.actions is not None:
                group.create_dataset("actions", data=demo.actions)
    return path
