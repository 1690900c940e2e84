"""The layouts of the `robomimic` format: what tells them apart, and where each keeps its instruction.

A helper of the format, not a format.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import h5py

from dataengine.errors import EpisodeError
from dataengine.formats import hdf5
from dataengine.formats.base import Layout

LAYOUTS = (
    Layout(
        "robosuite_hdf5",
        "simulation",
        "robosuite: demonstrations as its collection script gathers them, states and actions",
        "real files",
        4,
        "robot/robosuite_human_demos (PyPI robosuite 0.3.0 and 1.0.1: BaxterPegInHole, lift, stack), "
        "simulation/robosuite_1.5.2_lift (robosuite 1.5.2's own writer)",
    ),
    Layout(
        "robomimic_hdf5",
        "simulation",
        "robomimic: low-dimensional and image observations",
        "layout fixture",
        1,
        "ARISE-Initiative/robomimic @ d309eaec, robomimic/scripts/dataset_states_to_obs.py",
    ),
    Layout(
        "libero_hdf5",
        "simulation",
        "LIBERO: demonstrations with pictures, the language in problem_info",
        "layout fixture",
        1,
        "Lifelong-Robot-Learning/LIBERO @ 8f1084e3, scripts/create_dataset.py",
    ),
    Layout(
        "libero_replayed_hdf5",
        "simulation",
        "LIBERO played back by OpenVLA's script: larger pictures, no steps that do nothing, no attributes",
        "layout fixture",
        1,
        "openvla/openvla @ c8f03f48, experiments/robot/libero/regenerate_libero_dataset.py",
    ),
    Layout(
        "mimicgen_hdf5",
        "simulation",
        "MimicGen: generated demonstrations with datagen_info",
        "layout fixture",
        1,
        "NVlabs/mimicgen @ 72bd767c, mimicgen/utils/file_utils.py, write_demo_to_hdf5 and merge_all_hdf5",
    ),
    Layout(
        "robocasa_hdf5",
        "simulation",
        "RoboCasa: kitchen demonstrations of a mobile arm, the language in ep_meta",
        "layout fixture",
        1,
        "robocasa/robocasa @ be22d659, robocasa/scripts/dataset_scripts/dataset_states_to_obs.py",
    ),
    Layout(
        "isaaclab_hdf5",
        "simulation",
        "Isaac Lab: recorded and annotated demonstrations with nested states",
        "real files",
        2,
        "simulation/isaaclab_mimic (seosangryeong/IsaacLab_snake @ 85bc96b0, datasets): dataset.hdf5 and "
        "annotated_dataset.hdf5, 10 + 10 demonstrations",
    ),
)
NAMES = tuple(layout.name for layout in LAYOUTS)
_ISAACLAB_ENV_TYPE = 2
"""robomimic's number of a gymnasium environment, as Isaac Lab's HDF5DatasetFileHandler writes it into env_args."""


def layout_of(shared: Mapping[str, Any], own: Mapping[str, Any], demo: h5py.Group) -> tuple[str, str] | None:
    """Which layout a demo has, and what says so; None for a demo of none of them.

    `shared` are the attributes of `data` and `own` those of the demo, their JSON parsed.
    """
    members = set(hdf5.names(demo))
    observed = hdf5.member(demo, "obs") if "obs" in members else None
    seen = set(hdf5.names(observed)) if isinstance(observed, h5py.Group) else set()
    env_args = shared.get("env_args")
    if "problem_info" in shared:
        return "libero_hdf5", "data has the attribute problem_info"
    if {"agentview_rgb", "ee_states"} <= seen and env_args is None:
        return "libero_replayed_hdf5", "obs has agentview_rgb and ee_states, data has no attributes of LIBERO"
    if {"agentview_rgb", "ee_states"} <= seen:
        return "libero_hdf5", "obs has agentview_rgb and ee_states"
    if isinstance(own.get("ep_meta"), dict) and {"lang", "layout_id"} <= own["ep_meta"].keys():
        return "robocasa_hdf5", "the attribute ep_meta tells lang and layout_id of a kitchen"
    if "initial_state" in members or (isinstance(env_args, dict) and env_args.get("type") == _ISAACLAB_ENV_TYPE):
        return "isaaclab_hdf5", "initial_state, or a gymnasium environment in env_args"
    if members & {"datagen_info", "src_demo_inds"}:
        found = ", ".join(sorted(members & {"datagen_info", "src_demo_inds"}))
        return "mimicgen_hdf5", f"the demo has {found}"
    if seen:
        return "robomimic_hdf5", "the demo has observations below obs"
    if "states" in members:
        return "robosuite_hdf5", "the demo has states and no observations"
    return None


def instruction(layout: str, shared: Mapping[str, Any], own: Mapping[str, Any], path: str) -> str | None:
    """The episode's instruction where its layout has one: LIBERO's `problem_info`, `lang` of `ep_meta`.

    A LIBERO file without `problem_info` (played back ones) is named after its task, as LIBERO's own
    `grab_language_from_filename` reads it.
    """
    if layout in ("libero_hdf5", "libero_replayed_hdf5"):
        info = shared.get("problem_info")
        if info is None:
            return _task_of(path)
        return _libero_text(info.get("language_instruction") if isinstance(info, dict) else None)
    meta = own.get("ep_meta")
    text = meta.get("lang") if isinstance(meta, dict) else None
    if text is not None and not isinstance(text, str):
        raise EpisodeError("bad_type", f"lang in ep_meta is {type(text).__name__}, not a text")
    return text or None


def _libero_text(value: Any) -> str:
    """LIBERO keeps the instruction as a text or as a list of its letters, sometimes within quotes."""
    letters = value if isinstance(value, list) else [value]
    if not letters or not all(isinstance(letter, str) for letter in letters):
        raise EpisodeError("bad_type", f"language_instruction in problem_info is {type(value).__name__}, not a text")
    text = "".join(letters).strip().strip('"').strip()
    if not text:
        raise EpisodeError("bad_value", "language_instruction in problem_info is empty")
    return text


def _task_of(path: str) -> str | None:
    """`KITCHEN_SCENE10_close_the_top_drawer_demo.hdf5` is `close the top drawer`; None without `_demo`."""
    name = PurePosixPath(path).stem
    if not name.endswith("_demo"):
        return None
    words = name.removesuffix("_demo").split("_")
    scenes = [place for place, word in enumerate(words) if word.startswith("SCENE")]
    return " ".join(words[scenes[0] + 1 :] if scenes else words) or None
