"""Episodes to samples: windows of a trajectory, or one item of a vision-language corpus (SCHEMA: a sample).

Values are physical and absolute. Padding holds: past the end targets repeat the last valid row, velocities and
per-step commands are 0; all of it is masked and `is_pad` is set.
"""

from __future__ import annotations

import io
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine import images, timeline, video
from dataengine.documents import canonical_json
from dataengine.embodiment import Card
from dataengine.episode import Episode, Language, Media, SlotArray, View
from dataengine.errors import SchemaError
from dataengine.schema import unified
from dataengine.shards.tar import Sample
from dataengine.specs.recipe import ImageSpec, Window

SAMPLE_VERSION = 1
KEY_UID = 20
_ENCODERS = ("av", "numpy", "pillow", "simplejpeg")


def encoder_versions() -> dict[str, str]:
    """What decides the bytes of an encoded sample beside its input: library versions and CPU architecture."""
    return {
        "samples": str(SAMPLE_VERSION),
        "arch": platform.machine(),
        **{name: version(name) for name in _ENCODERS},
    }


@dataclass(frozen=True)
class SampleSpec:
    """How one source's episodes become samples."""

    window: Window
    images: ImageSpec
    card: Card


def sample_key(uid: str, window_start: int, repeat: int) -> str:
    """A sample's key, `[a-z0-9-]` only: uid prefix, step, and which repeat it is."""
    return f"{uid[:KEY_UID]}-{window_start:07d}-{repeat:03d}"


def windows_in(steps: int, stride: int) -> int:
    """How many windows an episode offers: one starts at every `stride`-th step."""
    return -(-steps // stride)


def item_sample(episode: Episode, repeat: int) -> Sample:
    """The sample of a VL item: messages in JSON, media bytes as they came."""
    key = sample_key(episode.uid, 0, repeat)
    members = []
    for name, media in episode.media.items():
        if media.kind == "video":
            members.append((f"{name}.mp4", media.payload))
        else:
            members.append(_item_image(name, media))
    document = {
        **_identity(episode, key, "item"),
        "messages": [
            {"role": message.role, "content": [dict(part) for part in message.content], "loss": message.loss}
            for message in episode.messages
        ],
        "media": {
            name: {"height": media.height, "width": media.width, "frames": media.frames, "codec": media.codec}
            for name, media in episode.media.items()
        },
        "attributes": dict(episode.attributes),
        "weight": 1.0,
    }
    return Sample(key, (("json", canonical_json(document)), *sorted(members)))


def _item_image(name: str, media: Media) -> tuple[str, bytes]:
    """JPEG and PNG as they came; another codec (WebP) as lossless PNG, since shards hold no others."""
    if media.codec in images.EXTENSION:
        return f"{name}.{images.EXTENSION[media.codec]}", media.image(0)
    return f"{name}.png", images.encode(images.decode(media.image(0)), "png")


def _identity(episode: Episode, key: str, kind: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "key": key,
        "family": episode.family,
        "source_id": episode.source_id,
        "converter": episode.converter,
        "episode_uid": episode.uid,
        "upstream_id": episode.upstream_id,
    }


class WindowEncoder:
    """Encodes chosen windows of one episode; every frame is decoded and encoded once."""

    def __init__(self, episode: Episode, spec: SampleSpec, steps: Sequence[int]) -> None:
        self._episode = episode
        self._spec = spec
        self._horizon = spec.window.chunk.horizon(episode.hz)
        self._action = _padded(episode.action, self._horizon, "action")
        self._frames = {view.name: self._rendered(view, steps) for view in episode.views}
        self._common = self._shared()

    def sample(self, step: int, repeat: int) -> Sample:
        """The sample that starts at `step`."""
        episode, key = self._episode, sample_key(self._episode.uid, step, repeat)
        members: list[tuple[str, bytes]] = []
        offsets: dict[str, int] = {}
        for view in episode.views:
            members += self._view_members(view, step, offsets)
        if episode.state is not None:
            members += self._state_members(episode.state, step)
        if self._action is not None:
            rows = slice(step, step + self._horizon)
            is_pad = np.arange(step, step + self._horizon) >= episode.steps
            members += [
                ("action.npy", npy(self._action.values[rows])),
                ("action_mask.npy", npy(self._action.mask[rows].astype(np.uint8))),
                ("is_pad.npy", npy(is_pad.astype(np.uint8))),
            ]
        document = {
            **self._common,
            **_identity(episode, key, "window"),
            "step": step,
            "is_first": step == 0,
            "is_last": step == episode.steps - 1,
            "timestamp_ns": int(episode.times_ns[step]),
            "offsets_ns": offsets,
            **self._texts(step),
        }
        if episode.native_action:
            ids = episode.native_action["ids"][step : step + self._horizon]
            document["native_action"] = {"ids": [int(i) for i in ids], "params": episode.native_action["params"]}
        return Sample(key, (("json", canonical_json(document)), *sorted(members)))

    def _shared(self) -> dict[str, Any]:
        episode = self._episode
        return {
            "episode_length": episode.steps,
            "hz": episode.hz,
            "dt_ns": episode.dt_ns,
            "horizon": self._horizon,
            "embodiment": episode.embodiment,
            "control_mode": episode.control_mode,
            "labels": dict(episode.labels),
            "frames": dict(episode.frames),
            "native_units": dict(episode.native_units),
            "channels": {
                side: [int(channel) for channel in slots.channels] if slots is not None else []
                for side, slots in (("state", episode.state), ("action", episode.action))
            },
            "views": {view.name: self._view_facts(view) for view in episode.views},
            "notes": dict(episode.notes),
            "weight": 1.0,
        }

    def _view_facts(self, view: View) -> dict[str, Any]:
        media = self._episode.media[view.media]
        height, width = target_size(self._spec.images, media.height, media.width)
        return {"height": height, "width": width, "original": [media.height, media.width], "stream": view.media}

    def _texts(self, step: int) -> dict[str, Any]:
        covering = [text for text in self._episode.language if text.span[0] <= step < text.span[1]]
        entries = [
            {
                "text": text.text,
                "source": text.source,
                "level": text.level,
                "span": list(text.span),
                "confidence": text.confidence,
            }
            for text in covering
        ]
        return {"language": entries, "prompt": self._prompt(covering)}

    def _prompt(self, covering: Sequence[Language]) -> dict[str, Any]:
        card, hz = self._spec.card, self._episode.hz
        instruction = covering[0].text.strip() if covering else None
        fields = {
            "robot_tag": card.robot_tag,
            "body": body_phrase(card),
            "hz": hz,
            "chunk": self._horizon,
            "instruction": instruction,
        }
        return {**fields, "text": prompt_text(fields)}

    def _state_members(self, state: SlotArray, step: int) -> list[tuple[str, bytes]]:
        """State of this step and of the history before it; steps before the episode are masked, never invented."""
        rows = np.arange(step - self._spec.window.history + 1, step + 1)
        inside = rows >= 0
        values, mask = state.values[np.maximum(rows, 0)], state.mask[np.maximum(rows, 0)]
        return [
            ("state.npy", npy(np.where(inside[:, None], values, np.float32(0)))),
            ("state_mask.npy", npy((mask & inside[:, None]).astype(np.uint8))),
        ]

    def _view_members(self, view: View, step: int, offsets: dict[str, int]) -> list[tuple[str, bytes]]:
        media, found = self._episode.media[view.media], []
        for back in range(min(self._spec.window.history, step + 1)):
            frame, offset = self._frame_at(media, step - back)
            extension, data = self._frames[view.name][frame]
            found.append((f"{view.name}.{extension}" if back == 0 else f"{view.name}.m{back}.{extension}", data))
            if back == 0:
                offsets[view.name] = offset
        return found

    def _frame_at(self, media: Media, step: int) -> tuple[int, int]:
        time = self._episode.times_ns[step : step + 1]
        frame = int(timeline.nearest(time, media.times_ns)[0])
        return frame, int(media.times_ns[frame] - time[0])

    def _rendered(self, view: View, steps: Sequence[int]) -> dict[int, tuple[str, bytes]]:
        """(extension, bytes) of every frame the chosen windows show."""
        media, history = self._episode.media[view.media], self._spec.window.history
        wanted = sorted(
            {self._frame_at(media, step - back)[0] for step in steps for back in range(min(history, step + 1))}
        )
        return rendered(media, wanted, self._spec.images, swap=view.channel_order == "bgr")


def rendered(media: Media, wanted: Sequence[int], spec: ImageSpec, *, swap: bool) -> dict[int, tuple[str, bytes]]:
    """Chosen frames as JPEG or PNG members; bytes pass through untouched where size and colours already fit."""
    size = target_size(spec, media.height, media.width)
    fits = size == (media.height, media.width) and not swap and media.codec in images.EXTENSION
    if media.kind == "images" and fits:
        extension = images.EXTENSION[media.codec]
        return {frame: (extension, media.image(frame)) for frame in wanted}
    result = {}
    pixels: Iterable[tuple[int, images.Pixels]]
    if media.kind == "images":
        pixels = ((frame, video.resize(images.decode(media.image(frame)), size)) for frame in wanted)
    else:
        pixels = video.frames(media, wanted, size=size)
    for frame, picture in pixels:
        result[frame] = ("jpg", images.encode(picture[..., ::-1] if swap else picture, quality=spec.quality))
    return result


def target_size(spec: ImageSpec, height: int, width: int) -> tuple[int, int]:
    """(height, width) of an image in the samples."""
    if spec.size is None or (not spec.upscale and height <= spec.size[0] and width <= spec.size[1]):
        return height, width
    if spec.fit == "stretch":
        return spec.size
    scale = min(spec.size[0] / height, spec.size[1] / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def body_phrase(card: Card) -> str:
    """The body in the prompt's words, out of the card: `{arms}[, waist][, and mobile base]`."""
    parts = {0: [], 1: ["a single arm"], 2: ["dual arms"]}[len(card.arms)]
    parts = [*parts, *(["waist"] if card.waist else [])]
    if card.mobile_base:
        parts.append("and mobile base" if parts else "mobile base")
    return ", ".join(parts)


def prompt_text(fields: Mapping[str, Any]) -> str | None:
    """The prompt in Qwen-VLA's form, ending as a sentence; None where there is no instruction."""
    instruction = fields["instruction"]
    if instruction is None:
        return None
    body = f" with {fields['body']}" if fields["body"] else ""
    end = "" if instruction.endswith((".", "!", "?")) else "."
    return (
        f"The robot is {fields['robot_tag']}{body}. The control frequency is {fields['hz']:g} Hz. Please predict the"
        f" next {fields['chunk']} control actions to execute the following task: {instruction}{end}"
    )


def _padded(slots: SlotArray | None, horizon: int, side: str) -> SlotArray | None:
    """The array with `horizon` rows of masked padding behind it: targets hold, commands are 0.

    A target holds from its last valid row on, so also in the last row of a next-state label, which has no target.
    """
    if slots is None:
        return None
    rows, width = slots.values.shape
    last = rows - 1 - np.argmax(slots.mask[::-1], axis=0)
    tail = slots.values[last, np.arange(width)]
    for column, channel in enumerate(slots.channels):
        if unified().slot_at(int(channel)).pad == "zero":
            tail[column] = 0.0
    if not np.isfinite(tail).all():
        raise SchemaError(f"{side}: padding would repeat a value that is not finite")
    kept = np.where(np.arange(rows)[:, None] > last, tail, slots.values)
    values = np.concatenate([kept, np.broadcast_to(tail, (horizon, width))]).astype(np.float32)
    mask = np.concatenate([slots.mask, np.zeros((horizon, width), np.bool_)])
    return SlotArray(slots.channels, values, mask)


def npy(array: NDArray[Any]) -> bytes:
    """An array as .npy bytes (format 1.0, C order)."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()
