"""Writes VLN-CE splits as a layout fixture: the keys and nesting of R2R_VLNCE_v1-3_preprocessed, opened files.

The agent here walks an empty plane in Habitat's axes (y up, the body looks along -z, a left turn is positive about
y), 0.25 m a step and 15 degrees a turn. It is a made-up walk in the layout, not R2R data.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STOP, FORWARD, LEFT, RIGHT = 0, 1, 2, 3
STEP_M = 0.25
TURN_DEG = 15.0
Entry = tuple[dict[str, Any], dict[str, Any]]


def walk(actions: Sequence[int], start: Sequence[float], heading_deg: float) -> list[list[float]]:
    """Locations [F+1, 3] of the agent: the start, and the place after each forward step."""
    places = [list(map(float, start))]
    heading = heading_deg
    for action in actions:
        heading += {LEFT: TURN_DEG, RIGHT: -TURN_DEG}.get(action, 0.0)
        if action == FORWARD:
            x, y, z = places[-1]
            angle = math.radians(heading)
            places.append([x - STEP_M * math.sin(angle), y, z - STEP_M * math.cos(angle)])
    return places


def episode(
    episode_id: int,
    actions: Sequence[int],
    *,
    scene: str = "mp3d/empty/empty.glb",
    instruction: str = "Walk forward and stop.",
    start: Sequence[float] = (1.0, 0.0, 2.0),
    heading_deg: float = 0.0,
) -> Entry:
    """One episode and its ground truth, as the two files hold them. `actions` end with STOP."""
    places = walk(actions, start, heading_deg)
    half = math.radians(heading_deg) / 2
    told = {
        "episode_id": episode_id,
        "trajectory_id": episode_id,
        "scene_id": scene,
        "start_position": places[0],
        "start_rotation": [0.0, math.sin(half), 0.0, math.cos(half)],
        "info": {"geodesic_distance": STEP_M * (len(places) - 1)},
        "goals": [{"position": places[-1], "radius": 3.0}],
        "instruction": {"instruction_text": instruction, "instruction_tokens": [0] * 200},
        "reference_path": [places[0], places[-1]],
    }
    truth = {"locations": places, "actions": list(actions), "forward_steps": len(places) - 1}
    return told, truth


def write_split(folder: Path, split: str, entries: Sequence[Entry]) -> Path:
    """Write `<folder>/<split>/<split>.json.gz` and its `_gt`; the same entries give the same bytes."""
    place = folder / split
    place.mkdir(parents=True, exist_ok=True)
    vocabulary = {"word_list": ["<pad>"], "num_vocab": 1, "PAD_INDEX": 0}
    write_gz(place / f"{split}.json.gz", {"episodes": [told for told, _ in entries], "instruction_vocab": vocabulary})
    write_gz(place / f"{split}_gt.json.gz", {str(told["episode_id"]): truth for told, truth in entries})
    return place


def write_gz(path: Path, document: Any) -> None:
    """One JSON document as gzip without a time stamp."""
    path.write_bytes(gzip.compress(json.dumps(document).encode(), mtime=0))
