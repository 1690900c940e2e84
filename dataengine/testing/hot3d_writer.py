"""Writes HOT3D recordings as a layout fixture: files, keys and columns as in facebookresearch/hot3d's sample.

The hands move along straight lines and the head looks ahead: made-up motion in the layout, not HOT3D data. As in the
real files every frame has two rows, the second 0.09 ms after the first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

FRAME_NS = 33_333_333
PAIR_NS = 92_000
START_NS = 56_752_108_188_860
POSE_HEADER = "object_uid,timestamp[ns],t_wo_x[m],t_wo_y[m],t_wo_z[m],q_wo_w,q_wo_x,q_wo_y,q_wo_z"
STREAMS = (("214-1", 0), ("1201-1", 1), ("1201-2", 1))
MakeHand = Callable[[str, int], Mapping[str, Any]]
_ROTATIONS = {"0": [1.0, 0.0, 0.0, 0.0], "1": [0.0, 0.0, 0.0, 1.0]}


def timestamps(frames: int) -> list[int]:
    """Row times [2 * frames] in ns."""
    return [START_NS + frame * FRAME_NS + row * PAIR_NS for frame in range(frames) for row in (0, 1)]


def wrist(hand: str, frame: int) -> list[float]:
    """Where a wrist is at a frame, m: the left at y = +0.2, the right at -0.2, both moving 1 cm a frame along x."""
    return [0.3 + 0.01 * frame, 0.2 if hand == "0" else -0.2, -0.3]


def write_recording(
    folder: Path,
    name: str = "P0001_made_up",
    *,
    frames: int = 6,
    headset: str = "Aria",
    hidden: Collection[tuple[str, int]] = (),
    ground_truth: bool = True,
) -> Path:
    """Write one recording folder; `hidden` are (hand, frame) pairs in which a hand is absent."""
    place = folder / name
    (place / "masks").mkdir(parents=True, exist_ok=True)
    status = {"mano_hand_pose_gt": ground_truth, "umetrack_hand_pose_gt": ground_truth, "object_pose_gt": ground_truth}
    metadata = {
        "gt_available_status": status,
        "headset": headset,
        "participant_id": name.partition("_")[0],
        "recording_name": name,
    }
    (place / "metadata.json").write_text(json.dumps(metadata, indent=4))
    times = timestamps(frames)
    rows = [(stamp, row // 2) for row, stamp in enumerate(times)]
    if ground_truth:
        _write_hands(place / "mano_hand_pose_trajectory.jsonl", rows, hidden, _mano)
        _write_hands(place / "umetrack_hand_pose_trajectory.jsonl", rows, hidden, _umetrack)
    _write_poses(place / "headset_trajectory.csv", "5411364721403", rows)
    _write_poses(place / "dynamic_objects.csv", "223371871635142", rows)
    mask = ["timestamp[ns],stream_id,mask"]
    mask += [f"{times[2 * frame + row]},{stream},True" for frame in range(frames) for stream, row in STREAMS]
    (place / "masks" / "mask_hand_pose_available.csv").write_text("\n".join(mask) + "\n")
    return place


def _mano(hand: str, frame: int) -> Mapping[str, Any]:
    # MANO's translation is not the wrist: it lies beside it by the root joint's rest position.
    x, y, z = wrist(hand, frame)
    xform = {"t_xyz": [x + (0.09 if hand == "0" else -0.09), y, z], "q_wxyz": _ROTATIONS[hand]}
    return {"pose": [0.01 * k for k in range(15)], "wrist_xform": xform, "betas": [0.0] * 10}


def _umetrack(hand: str, frame: int) -> Mapping[str, Any]:
    xform = {"t_xyz": wrist(hand, frame), "q_wxyz": _ROTATIONS[hand]}
    return {"wrist_xform": xform, "joint_angles": [0.02 * k for k in range(22)], "hand_confidence": 1.0}


def _write_hands(path: Path, rows: list[tuple[int, int]], hidden: Collection[tuple[str, int]], make: MakeHand) -> None:
    lines = []
    for stamp, frame in rows:
        poses = {hand: make(hand, frame) for hand in ("0", "1") if (hand, frame) not in hidden}
        lines.append(json.dumps({"timestamp_ns": stamp, "hand_poses": poses}))
    path.write_text("\n".join(lines) + "\n")


def _write_poses(path: Path, uid: str, rows: list[tuple[int, int]]) -> None:
    lines = [POSE_HEADER]
    lines += [f"{uid},{stamp},{0.001 * frame:.6f},0.0,0.0,1.0,0.0,0.0,0.0" for stamp, frame in rows]
    path.write_text("\n".join(lines) + "\n")
