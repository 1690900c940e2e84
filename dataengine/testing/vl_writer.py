"""Writes LLaVA-style conversation files with images as a layout fixture.

Follows the `conversations` layout of LLaVA and Qwen-VL: a JSON list of rows with `image` and turns `from`/`value`,
images in a folder beside it. The pictures are made up: one coloured square each, and the answers are true of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine import images

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (40, 80, 220),
    "yellow": (230, 210, 40),
}


def square(colour: str, *, left: bool, size: int = 64) -> NDArray[np.uint8]:
    """RGB [size, size, 3]: a coloured square in the left or right half of a grey picture."""
    picture = np.full((size, size, 3), 128, np.uint8)
    quarter = size // 4
    column = quarter // 2 if left else size - quarter // 2 - quarter
    picture[quarter : 3 * quarter, column : column + quarter] = COLOURS[colour]
    return picture


def row(question: str, answer: str, image: str | None = None, id: str | None = None) -> dict[str, Any]:
    """One row with one question and one answer; with `image` the question starts with its placeholder."""
    placeholder = "" if image is None else "<image>\n"
    turns = [{"from": "human", "value": placeholder + question}, {"from": "gpt", "value": answer}]
    named = {"id": id, "image": image}
    return {**{key: value for key, value in named.items() if value is not None}, "conversations": turns}


def write_rows(folder: Path, name: str, rows: Sequence[Any], media: Mapping[str, bytes] | None = None) -> Path:
    """Write rows as `<folder>/<name>` (a list, or one row a line for `.jsonl`), and media files below the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(item) + "\n" for item in rows))
    else:
        path.write_text(json.dumps(rows, indent=1))
    for relative, data in (media or {}).items():
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return path


def write_squares(folder: Path, count: int, name: str = "squares.json") -> Path:
    """Write `count` rows about coloured squares with their pictures, JPEG and PNG in turn, in `images/`."""
    rows, media = [], {}
    colours = list(COLOURS)
    for index in range(count):
        colour, left = colours[index % len(colours)], index // len(colours) % 2 == 0
        codec: images.Codec = "jpeg" if index % 2 == 0 else "png"
        file = f"square_{index:03d}.{images.EXTENSION[codec]}"
        media[f"images/{file}"] = images.encode(square(colour, left=left), codec)
        side = "left" if left else "right"
        rows.append(row("What does the picture show?", f"A {colour} square on the {side}.", file, id=f"square-{index}"))
    return write_rows(folder, name, rows, media)
