"""Episodes to samples: windows of a trajectory, or one item of a vision-language corpus (SCHEMA: a sample).

Values are physical and absolute. Padding holds: past the end targets repeat the last valid row, velocities and
per-step commands are 0; all of it is masked and `is_pad` is set.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dataengine import images, timeline, video
from dataengine.documents import canonical_json
from dataengine.embodiment import Card
from dataengine.episode import Episode, Language, Media, SlotArray, View
from dataengine.errors import SchemaError
from dataengine.schema import unified
from dataengine.shards.npy import npy
from dataengine.shards.tar import Sample
from dataengine.specs.recipe import ImageSpec, PromptSpec, Window
from dataengine.transforms.cameras import camera_facts, pose_rows
from dataengine.transforms.prompts import body_phrase, choose, form_of, prompt_facts

SAMPLE_VERSION = 3
KEY_UID = 20
JPEG_BYTES_PER_PIXEL = 0.25
PNG_BYTES_PER_PIXEL = 1.5
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
    prompt: PromptSpec = PromptSpec()
    seed: int = 0


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
        **identity(episode, key, "item"),
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


def identity(episode: Episode, key: str, kind: str) -> dict[str, Any]:
    """What a sample is, and of which episode."""
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
    """Encodes chosen windows of one episode; every frame is decoded and encoded once.

    `bounds` are two arrays [T]: between which rows (half-open) the window that starts at a step may read. History from
    before is masked, what lies behind is padding, as at the ends of the episode.
    """

    def __init__(
        self,
        episode: Episode,
        spec: SampleSpec,
        steps: Sequence[int],
        bounds: tuple[NDArray[np.int64], NDArray[np.int64]],
    ) -> None:
        self._episode = episode
        self._spec = spec
        self._first, self._stop = bounds
        self._horizon = spec.window.chunk.horizon(episode.hz)
        self._form, self._body = form_of(spec.prompt), body_phrase(spec.card, episode)
        self._actions = {
            stop: _padded(episode.action, stop, self._horizon, "action")
            for stop in sorted({int(self._stop[step]) for step in steps})
        }
        stored = ((view, spec.images.of(view.name)) for view in episode.views)
        self._views = [(view, images_of) for view, images_of in stored if images_of is not None]
        self._frames = {view.name: self._rendered(view, images_of, steps) for view, images_of in self._views}
        self._facts = {view.name: view_facts(episode, view, images_of) for view, images_of in self._views}
        self._poses = {view.name: pose_rows(episode, view) for view, _ in self._views}
        self._common = {**shared_facts(episode), "horizon": self._horizon}

    def sample(self, step: int, repeat: int) -> Sample:
        """The sample that starts at `step`."""
        episode, key = self._episode, sample_key(self._episode.uid, step, repeat)
        members: list[tuple[str, bytes]] = []
        offsets: dict[str, int] = {}
        for view, _ in self._views:
            members += self._view_members(view, step, offsets)
        if episode.state is not None:
            members += self._state_members(episode.state, step)
        stop = int(self._stop[step])
        action = self._actions[stop]
        if action is not None:
            rows = slice(step, step + self._horizon)
            is_pad = np.arange(step, step + self._horizon) >= stop
            members += [
                ("action.npy", npy(action.values[rows])),
                ("action_mask.npy", npy(action.mask[rows].astype(np.uint8))),
                ("is_pad.npy", npy(is_pad.astype(np.uint8))),
            ]
        document = {
            **self._common,
            "views": {view.name: self._view_at(view, step) for view, _ in self._views},
            **identity(episode, key, "window"),
            "step": step,
            "is_first": step == 0,
            "is_last": step == episode.steps - 1,
            "timestamp_ns": int(episode.times_ns[step]),
            "offsets_ns": offsets,
            **self._texts(step, repeat),
        }
        if stop != episode.steps:
            document["stop"] = stop
        if episode.native_action:
            ids = episode.native_action["ids"][step : min(step + self._horizon, stop)]
            document["native_action"] = {"ids": [int(i) for i in ids], "params": episode.native_action["params"]}
        return Sample(key, (("json", canonical_json(document)), *sorted(members)))

    def _view_at(self, view: View, step: int) -> dict[str, Any]:
        """The view's facts, and where its camera is at this step."""
        facts, poses = self._facts[view.name], self._poses[view.name]
        if poses is None or not poses[1][step]:
            return facts
        return {**facts, "camera": {**facts["camera"], "T_base_camera": poses[0][step].tolist()}}

    def _texts(self, step: int, repeat: int) -> dict[str, Any]:
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
        return {"language": entries, "prompt": self._prompt(covering, step, repeat)}

    def _prompt(self, covering: Sequence[Language], step: int, repeat: int) -> dict[str, Any]:
        spec, episode = self._spec, self._episode
        instruction = choose(covering, spec.prompt, spec.seed, episode.uid, step, repeat)
        return prompt_facts(
            self._form,
            robot_tag=spec.card.robot_tag,
            body=self._body,
            hz=episode.hz,
            chunk=self._horizon,
            instruction=instruction,
        )

    def _state_members(self, state: SlotArray, step: int) -> list[tuple[str, bytes]]:
        """State of this step and of the history before it; steps before the episode are masked, never invented."""
        rows = np.arange(step - self._spec.window.history + 1, step + 1)
        inside = rows >= self._first[step]
        values, mask = state.values[np.maximum(rows, 0)], state.mask[np.maximum(rows, 0)]
        return [
            ("state.npy", npy(np.where(inside[:, None], values, np.float32(0)))),
            ("state_mask.npy", npy((mask & inside[:, None]).astype(np.uint8))),
        ]

    def _view_members(self, view: View, step: int, offsets: dict[str, int]) -> list[tuple[str, bytes]]:
        media, found = self._episode.media[view.media], []
        for back in range(self._frames_back(step)):
            frame, offset = self._frame_at(media, step - back)
            extension, data = self._frames[view.name][frame]
            found.append((f"{view.name}.{extension}" if back == 0 else f"{view.name}.m{back}.{extension}", data))
            if back == 0:
                offsets[view.name] = offset
        return found

    def _frames_back(self, step: int) -> int:
        """Frames that the sample at `step` shows: its own and its history, as far as that exists."""
        return min(self._spec.window.history, step - int(self._first[step]) + 1)

    def _frame_at(self, media: Media, step: int) -> tuple[int, int]:
        time = self._episode.times_ns[step : step + 1]
        frame = int(timeline.nearest(time, media.times_ns)[0])
        return frame, int(media.times_ns[frame] - time[0])

    def _rendered(self, view: View, spec: ImageSpec, steps: Sequence[int]) -> dict[int, tuple[str, bytes]]:
        """(extension, bytes) of every frame the chosen windows show."""
        media = self._episode.media[view.media]
        wanted = sorted(
            {self._frame_at(media, step - back)[0] for step in steps for back in range(self._frames_back(step))}
        )
        return rendered(media, wanted, spec, view)


def shared_facts(episode: Episode) -> dict[str, Any]:
    """What the JSON of all windows of an episode says."""
    return {
        "episode_length": episode.steps,
        "hz": episode.hz,
        "dt_ns": episode.dt_ns,
        "embodiment": episode.embodiment,
        "control_mode": episode.control_mode,
        "labels": dict(episode.labels),
        "frames": dict(episode.frames),
        "native_units": dict(episode.native_units),
        "channels": {
            side: [int(channel) for channel in slots.channels] if slots is not None else []
            for side, slots in (("state", episode.state), ("action", episode.action))
        },
        "notes": dict(episode.notes),
        "weight": 1.0,
    }


def view_facts(episode: Episode, view: View, spec: ImageSpec) -> dict[str, Any]:
    """What a window's JSON says of a view at any step; `spec` is the view's own (`ImageSpec.of`)."""
    media = episode.media[view.media]
    height, width = target_size(spec, *shown_size(view, media))
    facts: dict[str, Any] = {
        "height": height,
        "width": width,
        "original": [media.height, media.width],
        "stream": view.media,
    }
    if view.camera is not None:
        facts["camera"] = camera_facts(episode, view, (height, width))
    return facts | ({"rotated": view.rotate} if view.rotate else {})


def shown_size(view: View, media: Media) -> tuple[int, int]:
    """(height, width) of a stream's pictures once they are turned upright."""
    turned = view.rotate in (90, 270)
    return (media.width, media.height) if turned else (media.height, media.width)


def rendered(media: Media, wanted: Sequence[int], spec: ImageSpec, view: View) -> dict[int, tuple[str, bytes]]:
    """Chosen frames of a view as JPEG or PNG members; `spec` is the view's own (`ImageSpec.of`).

    With `codec: keep` bytes pass through untouched where size, colours and turn fit; with `png` those of a PNG do.
    """
    size = target_size(spec, *shown_size(view, media))
    decoded = size[::-1] if view.rotate in (90, 270) else size
    as_is = decoded == (media.height, media.width) and view.channel_order == "rgb" and not view.rotate
    if media.kind == "images" and as_is and media.codec in images.EXTENSION and _leaves(spec, media.codec):
        extension = images.EXTENSION[media.codec]
        return {frame: (extension, media.image(frame)) for frame in wanted}
    result = {}
    codec: images.Codec = "png" if spec.codec == "png" else "jpeg"
    pixels: Iterable[tuple[int, images.Pixels]]
    if media.kind == "images":
        pixels = ((frame, video.resize(images.decode(media.image(frame)), decoded)) for frame in wanted)
    else:
        pixels = video.frames(media, wanted, size=decoded)
    for frame, picture in pixels:
        shown = images.as_shown(picture, view.channel_order, view.rotate)
        result[frame] = images.EXTENSION[codec], images.encode(shown, codec, spec.quality)
    return result


def _leaves(spec: ImageSpec, codec: str) -> bool:
    """Whether bytes of a codec may stay as they are."""
    return spec.codec == "keep" or spec.codec == codec == "png"


class Stream(Protocol):
    """What a size is estimated from: a stream as the lake lists it; `size` is that of all its frames in bytes."""

    @property
    def kind(self) -> Literal["images", "video"]: ...
    @property
    def codec(self) -> str: ...
    @property
    def frames(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def size(self) -> int: ...


def estimated_frame_bytes(spec: ImageSpec, views: Iterable[str], stream: Stream) -> float:
    """Bytes that a frame of a stream takes in a sample, roughly: 0 where none of the `views` of it is stored."""
    found = [_frame_bytes(own, stream) for view in views if (own := spec.of(view)) is not None]
    return max(found, default=0.0)


def _frame_bytes(spec: ImageSpec, stream: Stream) -> float:
    height, width = target_size(spec, stream.height, stream.width)
    if stream.kind == "images" and _leaves(spec, stream.codec) and (height, width) == (stream.height, stream.width):
        return stream.size / max(stream.frames, 1)
    return height * width * (PNG_BYTES_PER_PIXEL if spec.codec == "png" else JPEG_BYTES_PER_PIXEL)


def target_size(spec: ImageSpec, height: int, width: int) -> tuple[int, int]:
    """(height, width) of an image in the samples."""
    if spec.size is None or (not spec.upscale and height <= spec.size[0] and width <= spec.size[1]):
        return height, width
    if spec.fit == "stretch":
        return spec.size
    scale = min(spec.size[0] / height, spec.size[1] / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _padded(slots: SlotArray | None, stop: int, horizon: int, side: str) -> SlotArray | None:
    """The first `stop` rows with `horizon` rows of masked padding behind them: targets hold, commands are 0.

    A target holds from its last valid row on, so also in the last row of a next-state label, which has no target.
    """
    if slots is None:
        return None
    width = slots.values.shape[1]
    values, mask = slots.values[:stop], slots.mask[:stop]
    last, tail = tail_of(slots, stop, side)
    kept = np.where(np.arange(stop)[:, None] > last, tail, values)
    padded = np.concatenate([kept, np.broadcast_to(tail, (horizon, width))]).astype(np.float32)
    return SlotArray(slots.channels, padded, np.concatenate([mask, np.zeros((horizon, width), np.bool_)]))


def tail_of(slots: SlotArray, stop: int, side: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The last valid row before `stop` of each column [c], and the value [c] that stands behind it."""
    values, mask = slots.values[:stop], slots.mask[:stop]
    last = (stop - 1 - np.argmax(mask[::-1], axis=0)).astype(np.int64)
    tail = values[last, np.arange(values.shape[1])]
    for column, channel in enumerate(slots.channels):
        if unified().slot_at(int(channel)).pad == "zero":
            tail[column] = 0.0
    if not np.isfinite(tail).all():
        raise SchemaError(f"{side}: padding would repeat a value that is not finite")
    return last, tail
