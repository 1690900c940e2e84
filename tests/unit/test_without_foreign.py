"""A cut off a keyframe, stored anew without its neighbour's frames: its own come back pixel for pixel."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest

from dataengine import video
from dataengine.episode import Media
from dataengine.errors import EpisodeError

FORMS: list[tuple[str, str, int | Fraction, dict[str, int]]] = [
    ("libx264", "yuv420p", 30, {}),
    ("libx264", "yuvj420p", 10, {}),
    ("libx264", "yuv420p", 30, {"color_range": 2, "colorspace": 1}),
    ("libx264", "yuv444p", Fraction(30000, 1001), {}),
    ("libx264", "yuv420p10le", 15, {}),
    ("libx264", "gray", 15, {}),
    ("libx264rgb", "rgb24", 30, {}),
    ("libvpx-vp9", "yuv420p", 30, {}),
]


def clip(codec: str, form: str, rate: int | Fraction, colours: dict[str, int]) -> Media:
    """Frames 7 to 17 of 30 noisy ones, a keyframe every 12."""
    chance, buffer = np.random.default_rng(0), io.BytesIO()
    with av.open(buffer, "w", format="mp4") as target:
        stream: Any = target.add_stream(codec, rate=rate, options={"g": "12", "crf": "20"})
        stream.width, stream.height, stream.pix_fmt = 66, 50, form
        for name, value in colours.items():
            setattr(stream.codec_context, name, value)
        for number in range(30):
            image = np.clip(number * 5 + chance.normal(0, 20, (50, 66, 3)), 0, 255).astype(np.uint8)
            target.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        target.mux(stream.encode(None))
    data = buffer.getvalue()
    return video.cut("front", io.BytesIO(data), video.index(io.BytesIO(data)), 7, 11)


@pytest.mark.parametrize(("codec", "form", "rate", "colours"), FORMS, ids=[f"{f[0]}-{f[1]}-{len(f[3])}" for f in FORMS])
def test_own_frames_come_back(codec: str, form: str, rate: int | Fraction, colours: dict[str, int]) -> None:
    media = clip(codec, form, rate, colours)
    assert (media.first_frame, media.foreign_frames) == (7, 7)
    made = video.without_foreign(media)
    assert (made.first_frame, made.foreign_frames, made.frames, made.digest) == (0, 0, 11, media.digest)
    assert len(video.packets(made.payload)) == 11
    assert video.index(io.BytesIO(made.payload)).codec == "h264"
    for size in (None, (40, 40)):
        before, after = (dict(video.frames(each, range(11), size)) for each in (media, made))
        assert all(np.array_equal(before[frame], after[frame]) for frame in range(11))
    assert np.abs(video.frame_times(made) - video.frame_times(media)).max() <= 1
    assert video.without_foreign(media).payload == made.payload
    old = {data for _, data in video.packets(media.payload)}
    assert old.isdisjoint(data for _, data in video.packets(made.payload))


def test_a_loss_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    media = clip(*FORMS[0])
    lossy = video._lossless_stream

    def spoiled(*given: Any) -> Any:
        stream = lossy(*given)
        stream.options = {**stream.options, "qp": "20"}
        return stream

    monkeypatch.setattr(video, "_lossless_stream", spoiled)
    with pytest.raises(EpisodeError, match="as they were"):
        video.without_foreign(media)
