"""One episode into one `.rrd` file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataengine.episode import Episode
from dataengine.lake_rows import Head
from dataengine.viewing import fate as fates
from dataengine.viewing import pictures, signals, space, texts
from dataengine.viewing.fate import Fate
from dataengine.viewing.layout import Scene, blueprint
from dataengine.viewing.recording import Clock, Recording


def write(episode: Episode, head: Head, path: Path, fate: Fate | None = None) -> None:
    """Write the recording of an episode; `path` is replaced when all of it is there."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    name = f"{episode.converter} {episode.upstream_id}"
    try:
        recording = Recording(part, episode.uid, name)
        try:
            scene = _conversation(recording, episode, head, fate) if episode.messages else None
            scene = scene or _trajectory(recording, episode, head, fate)
            recording.lay_out(blueprint(scene))
        finally:
            recording.close()
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _conversation(recording: Recording, episode: Episode, head: Head, fate: Fate | None) -> Scene:
    shown = pictures.attachments(recording, episode)
    texts.conversation(recording, episode)
    _facts(recording, episode, head, shown, fate)
    told = (("conversation", texts.CONVERSATION), ("facts", texts.FACTS))
    return Scene({name: path for name, (path, _) in shown.items()}, {}, (), told, ())


def _trajectory(recording: Recording, episode: Episode, head: Head, fate: Fate | None) -> Scene:
    clock = Clock(episode.times_ns, np.arange(episode.steps, dtype=np.int64))
    shown = pictures.views(recording, episode, clock)
    frames = space.bodies(recording, episode, clock)
    frames += space.cameras(recording, episode, clock)
    plots: list[tuple[str, Sequence[str]]] = [
        (plot.title, plot.paths) for plot in signals.signals(recording, episode, clock)
    ]
    texts.language(recording, episode, clock)
    logs = [("language, by span", texts.EVENTS)] if episode.language else []
    if fate is not None:
        drawn = fates.draw(recording, fate, clock)
        plots = [*([(f"{fate.version}: kept steps, samples", drawn)] if drawn else []), *plots]
        logs += [("samples", fates.SAMPLES)] if fate.starts else []
    _facts(recording, episode, head, shown, fate)
    told = [*([("language", texts.LANGUAGE)] if episode.language else []), ("facts", texts.FACTS)]
    spaces = {frame: space.frame_path(frame) for frame in frames}
    return Scene({name: path for name, (path, _) in shown.items()}, spaces, plots, told, logs)


def _facts(
    recording: Recording, episode: Episode, head: Head, shown: dict[str, tuple[str, str]], fate: Fate | None
) -> None:
    document = texts.facts(episode, head, shown)
    texts.write_facts(recording, document if fate is None else {**document, "mixture": fate.facts()})
