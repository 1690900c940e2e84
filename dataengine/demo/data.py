"""What the demo writes before it builds: raw data of five families, their converters, a recipe, and one defect.

The converters are the shipped ones: same format, same mappings, same conventions. Only what they say about the source
is replaced, since a made-up scene is not BridgeData or HOT3D and must not be audited as such.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from dataengine.demo import arm, corridors, hands, pictures, push
from dataengine.documents import find_spec, load_yaml
from dataengine.fixtures.hot3d_writer import write_recording
from dataengine.fixtures.lerobot_writer import write_lerobot
from dataengine.fixtures.rlds_writer import write_rlds
from dataengine.fixtures.vl_writer import write_rows
from dataengine.fixtures.vlnce_writer import write_split

RAW, CONVERTERS, RECIPE = "raw", "converters", "recipe.yaml"


@dataclass(frozen=True)
class Source:
    """One of the demo's data sets: `write` puts it into a folder and says how many episodes it holds."""

    family: str
    name: str
    shipped: str
    layout: str
    shows: str
    write: Callable[[Path], int]
    require: tuple[str, ...] = ()


@dataclass(frozen=True)
class Defect:
    """What is wrong in the raw data on purpose, and what a build must say of it."""

    source_id: str
    upstream_id: str
    reason: str
    file: str
    story: str


def _arm(folder: Path) -> int:
    made = arm.episodes()
    write_rlds(folder, "demo_arm", {"train": made})
    return len(made)


def _push(folder: Path) -> int:
    made = push.episodes()
    write_lerobot(
        folder, made, push.FPS, version="v2.1", robot_type="pusht", video_key="observation.image", gop=push.FPS
    )
    return len(made)


def _hands(folder: Path) -> int:
    for take in hands.TAKES:
        write_recording(folder, take.name, motion=hands.move(take), hidden=take.hidden)
    return len(hands.TAKES)


def _corridors(folder: Path) -> int:
    made = corridors.episodes()
    write_split(folder, "val_seen", made)
    return len(made)


def _pictures(folder: Path) -> int:
    rows, media = pictures.rows()
    write_rows(folder, "questions.json", rows, media)
    return len(rows)


SOURCES = (
    Source("robot", "demo_arm", "bridge_octo", "RLDS", "an arm puts a cube on a plate, three cameras", _arm),
    Source("simulation", "demo_push", "pusht_lerobot", "LeRobot v2.1", "a pusher moves a T-shaped block", _push),
    Source(
        "egocentric",
        "demo_hands",
        "hot3d_aria",
        "HOT3D",
        "two hands lift a cup; poses, no video",
        _hands,
        ("state", "action"),
    ),
    Source(
        "navigation",
        "demo_corridors",
        "vlnce_r2r",
        "VLN-CE R2R",
        "walks through two houses, by instruction",
        _corridors,
        ("language", "action"),
    ),
    Source(
        "vision_language",
        "demo_pictures",
        "llava_conversations",
        "LLaVA",
        "questions about pictures, with answers",
        _pictures,
    ),
)
DEFECT = Defect(
    source_id="demo_push",
    upstream_id="episode_000003",
    reason="video_unreadable",
    file="videos/chunk-000/observation.image/episode_000003.mp4",
    story="as if its copy had been interrupted, the video of one episode ends after 60 % of its bytes; its rows of"
    " state and action and all metadata are whole, so nothing but the video itself tells",
)


def write_raw(out: Path, tell: Callable[[str, int, int], None]) -> dict[str, int]:
    """Write the raw data of every source below `out`/raw; returns how many episodes each holds."""
    counts = {}
    for done, source in enumerate(SOURCES):
        tell("draw scenes", done, len(SOURCES))
        counts[source.name] = source.write(out / RAW / source.family)
    tell("draw scenes", len(SOURCES), len(SOURCES))
    return counts


def spoil(out: Path) -> None:
    """Plant the defect."""
    family = next(source.family for source in SOURCES if source.name == DEFECT.source_id)
    path = out / RAW / family / DEFECT.file
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])


def write_specs(out: Path) -> Path:
    """Write the converters and the recipe below `out`; returns the recipe's path."""
    (out / CONVERTERS).mkdir()
    for source in SOURCES:
        header = (
            f"# Made by `dataengine demo` from the shipped converter {source.shipped}: what it reads and how is the"
            "\n# same, only the terms of the source and the evidence are the demo's own.\n"
        )
        (out / CONVERTERS / f"{source.name}.yaml").write_text(header + _dumped(_converter(source)))
    path = out / RECIPE
    path.write_text(_RECIPE_HEAD + "".join(map(_entry, SOURCES)) + _RECIPE_TAIL)
    return path


def _converter(source: Source) -> dict[str, Any]:
    """The shipped converter with the demo's own identity, terms and evidence."""
    shipped: dict[str, Any] = load_yaml(find_spec("converters", source.shipped))
    evidence = f"the demo writes it as the shipped converter {source.shipped} reads it"
    document: dict[str, Any] = _with_evidence(shipped, evidence)
    return document | {"name": source.name, "version": 1, "source": _terms(source)}


def _with_evidence(value: Any, evidence: str) -> Any:
    """The same document with other evidence: what the shipped one measured, it measured on real data."""
    if isinstance(value, Mapping):
        replaced = {"evidence": evidence, "status": "from_code"}
        return {key: replaced.get(key, _with_evidence(item, evidence)) for key, item in value.items()}
    return [_with_evidence(item, evidence) for item in value] if isinstance(value, list) else value


def _terms(source: Source) -> dict[str, Any]:
    nobody = "not applicable, no person is recorded"
    return {
        "name": source.name,
        "url": "none: drawn by `dataengine demo`",
        "revision": f"dataengine {version('dataengine')}",
        "license": "Apache-2.0",
        "license_evidence": "the licence of the software that drew it; nothing in it is taken from anybody's data",
        "terms_url": "none",
        "creator": "dataengine demo",
        "consent": nobody,
        "deidentification": nobody,
        "synthetic": True,
        "commercial_ok": "yes",
    }


def _dumped(document: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(document), sort_keys=False, width=110, allow_unicode=True)
    return text


def _entry(source: Source) -> str:
    """A source in the recipe."""
    lines = [f"  - converter: {CONVERTERS}/{source.name}.yaml", f"    path: ${{data}}/{source.family}"]
    if source.require:
        lines.append(f"    require: [{', '.join(source.require)}]")
    return "\n".join(lines) + "\n"


_RECIPE_HEAD = f"""\
# Made by `dataengine demo`: five families in one mixture. ${{data}} is the folder `{RAW}` beside this file.
name: demo
description: Tiny simulated scenes of five families, each in the layout its tools write.
seed: 27

# One episode of {DEFECT.source_id} is broken, so a build ends with exit code 3 (done, but bad input was dropped).
# To say that this is known and fine, give that source the line
#     accept: [{DEFECT.reason}]
sources:
"""
_RECIPE_TAIL = """
require: [view, language]
filters:
  - {name: min_steps, steps: 2}
  - {name: no_nan}
window: {chunk: {steps: 8}}
split: {valid: 0.2}
shards: {buckets: {train: 4, valid: 1}, segment: 16}
"""
