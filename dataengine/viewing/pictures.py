"""What cameras saw, and the media of conversations: bytes as they are, wherever the viewer shows them as meant."""

from __future__ import annotations

import numpy as np

from dataengine import images, timeline, video
from dataengine.episode import Episode, Media, View
from dataengine.viewing.recording import Clock, Ints, Recording, video_frames
from dataengine.viewing.space import camera_path, part

CODECS = ("mp4/h264", "mp4/hevc", "mp4/av1")
"""Streams that the viewer plays."""
MEDIA_TYPES = {"jpeg": "image/jpeg", "png": "image/png"}
QUALITY = 92
AS_IS, DECODED = "as it is", "decoded, JPEG"


def views(recording: Recording, episode: Episode, clock: Clock) -> dict[str, tuple[str, str]]:
    """The pictures of every view by its name: where they are, and whether as they are."""
    found = {}
    for view in episode.views:
        media, path = episode.media[view.media], camera_path(episode, view)
        steps = None if clock.steps is None else clock.steps[timeline.nearest(media.times_ns, clock.times_ns)]
        told = _stream(recording, path, media, Clock(media.times_ns, steps), view)
        found[view.name] = path, told
    return found


def attachments(recording: Recording, episode: Episode) -> dict[str, tuple[str, str]]:
    """The media of a conversation: pictures that stand there all the time, videos over their own time."""
    found = {}
    for name, media in episode.media.items():
        path = f"media/{part(name)}"
        clock = Clock(video.frame_times(media)) if media.kind == "video" else None
        found[name] = path, _stream(recording, path, media, clock, View(name, name))
    return found


def _stream(recording: Recording, path: str, media: Media, clock: Clock | None, view: View) -> str:
    plain = view.channel_order == "rgb" and view.rotate == 0
    if media.kind == "video":
        frames_ns = _playable(media) if plain else None
        if frames_ns is not None and clock is not None:
            recording.video(path, clock, media.payload, frames_ns)
            return AS_IS
        decoded = (pixels for _, pixels in video.frames(media, range(media.frames)))
        shown = [
            images.encode(images.as_shown(one, view.channel_order, view.rotate), quality=QUALITY) for one in decoded
        ]
        recording.pictures(path, clock, shown, MEDIA_TYPES["jpeg"])
        return DECODED
    rows = range(media.frames)
    if plain and media.codec in MEDIA_TYPES:
        recording.pictures(path, clock, [media.image(row) for row in rows], MEDIA_TYPES[media.codec])
        return AS_IS
    shown = [_png(images.decode(media.image(row)), view) for row in rows]
    recording.pictures(path, clock, shown, MEDIA_TYPES["png"])
    return "decoded, PNG"


def _png(pixels: images.Pixels, view: View) -> bytes:
    return images.encode(images.as_shown(pixels, view.channel_order, view.rotate), "png")


def _playable(media: Media) -> Ints | None:
    """Presentation times of the frames where the viewer can play the stream as it is, None where it cannot.

    A stream cut out of a longer one may hold frames of a neighbour, which must not leave with the episode.
    """
    if media.codec not in CODECS or media.foreign_frames or media.first_frame:
        return None
    found = video_frames(media.payload)
    return found if found is not None and len(found) == media.frames and bool(np.all(np.diff(found) > 0)) else None
