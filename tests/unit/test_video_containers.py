"""Videos as cameras, phones and web sites write them: what is shown is what is counted, cut and decoded."""

from __future__ import annotations

import hashlib
import io
import struct
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest

from dataengine import video
from dataengine.episode import Media
from dataengine.errors import EpisodeError

FRAMES = 40
RATE = 30
X264 = {"x264-params": "keyint=12:scenecut=0:bframes=3:open-gop=1"}
X265 = {"x265-params": "keyint=12:bframes=3:open-gop=1:log-level=none:pools=none:frame-threads=1"}


def encoded(
    codec: str, form: str, options: dict[str, str], frames: int = FRAMES, pix_fmt: str = "yuv420p", turn: int = 0
) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as made:
        stream: Any = made.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
        if turn:
            stream.set_display_rotation(turn)
        for number in range(frames):
            picture = np.full((64, 96, 3), (number * 5) % 250, np.uint8)
            picture[8:24, number : number + 16] = 255 - picture[0, 0]
            made.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        made.mux(stream.encode(None))
    return buffer.getvalue()


def hashes(media: Media) -> list[str]:
    return [hashlib.sha256(image.tobytes()).hexdigest() for _, image in video.frames(media, range(media.frames))]


def shown(data: bytes) -> dict[Fraction, str]:
    """What PyAV by itself shows: a hash of each picture by its time."""
    with av.open(io.BytesIO(data)) as file:
        stream = file.streams.video[0]
        scaler = video.VideoReformatter()
        return {
            frame.pts * stream.time_base: hashlib.sha256(video._to_rgb(scaler, frame, None).tobytes()).hexdigest()
            for frame in file.decode(stream)
        }


def boxes(data: bytes, start: int = 0, end: int | None = None) -> dict[bytes, tuple[int, int]]:
    found, at = {}, start
    while at + 8 <= (len(data) if end is None else end):
        size = int.from_bytes(data[at : at + 4], "big")
        found[data[at + 4 : at + 8]] = (at, size)
        at += size
    return found


def trimmed(data: bytes, start: int, frames: int) -> bytes:
    """The MP4 with an edit list that shows `frames` pictures from `start` on, as a phone trims a clip."""
    made = bytearray(data)
    at, end = 0, len(data)
    for name in (b"moov", b"trak", b"edts", b"elst"):
        at, size = boxes(data, at, end)[name]
        end, at = at + size, at + 8
    mdhd = data.index(b"mdhd") + 4
    scale = int.from_bytes(data[mdhd + 12 : mdhd + 16], "big")
    movie = data.index(b"mvhd") + 4
    movie_scale = int.from_bytes(data[movie + 12 : movie + 16], "big")
    (first,) = struct.unpack(">i", data[at + 12 : at + 16])
    made[at + 8 : at + 16] = struct.pack(">Ii", frames * movie_scale // RATE, first + start * scale // RATE)
    return bytes(made)


@pytest.mark.parametrize(
    ("codec", "form", "options"),
    [
        ("libx264", "mp4", X264),
        ("libx264", "matroska", X264),
        ("libx265", "matroska", X265),
        ("libvpx", "webm", {"g": "12", "deadline": "realtime"}),
        ("prores_ks", "mov", {}),
    ],
)
def test_every_cut_shows_the_pictures_of_the_whole(codec: str, form: str, options: dict[str, str]) -> None:
    data = encoded(codec, form, options, pix_fmt="yuv422p10le" if codec == "prores_ks" else "yuv420p")
    found = video.index(io.BytesIO(data))
    wanted = list(shown(data).values())
    assert found.frames == len(wanted) == FRAMES
    assert len(set(wanted)) == FRAMES, "equal pictures would not show a shift"
    for first, count in ((0, 5), (10, 9), (12, 1), (FRAMES - 3, 3)):
        made = video.cut("video", io.BytesIO(data), found, first, count)
        assert hashes(made) == wanted[first : first + count]
        times = found.times_ns[first : first + count]
        assert np.abs(video.frame_times(made) - (times - times[0])).max() <= 1


@pytest.mark.parametrize(("start", "count"), [(0, 20), (17, 20), (17, FRAMES - 17), (12, 12)])
def test_pictures_that_an_edit_list_hides_are_none_of_the_video(start: int, count: int) -> None:
    data = encoded("libx264", "mp4", X264)
    whole = list(shown(data).values())
    clip = trimmed(data, start, count)
    wanted = list(shown(clip).values())
    assert wanted == whole[start : start + count]
    made = video.whole("video", clip)
    assert made.payload == clip
    assert (made.frames, made.foreign_frames >= 0) == (count, True)
    assert hashes(made) == wanted
    found = video.index(io.BytesIO(clip))
    assert found.times_ns[0] == 0
    assert (found.pts[0], found.frames) == (0, count)
    assert hashes(video.cut("video", io.BytesIO(clip), found, 3, 5)) == wanted[3:8]


@pytest.mark.parametrize("form", ["matroska", "webm", "avi"])
def test_a_cut_file_of_another_container_is_told(form: str) -> None:
    codec = {"matroska": "libx264", "webm": "libvpx", "avi": "mjpeg"}[form]
    data = encoded(codec, form, {}, pix_fmt="yuvj420p" if form == "avi" else "yuv420p")
    assert video.index(io.BytesIO(data)).frames == FRAMES
    for keep in (0.5, 0.75, 0.95):
        with pytest.raises(EpisodeError) as caught:
            video.index(io.BytesIO(data[: int(keep * len(data))]))
        assert caught.value.reason in ("video_truncated", "video_unreadable")


def test_a_recording_that_was_never_finished_is_told() -> None:
    data = encoded("libx264", "mp4", X264)
    with pytest.raises(EpisodeError, match="no whole index") as caught:
        video.index(io.BytesIO(data[: boxes(data)[b"moov"][0]]))
    assert caught.value.reason == "video_unreadable"


def test_an_avi_with_b_frames_says_no_times() -> None:
    with pytest.raises(EpisodeError) as caught:
        video.index(io.BytesIO(encoded("libx264", "avi", X264)))
    assert caught.value.reason == "video_without_times"


def test_pictures_that_the_decoder_makes_up_are_damage() -> None:
    data = encoded("libx264", "mp4", X264)
    at, size = boxes(data)[b"mdat"]
    told = set()
    for place in range(at + size // 3, at + size * 2 // 3, size // 30):
        flipped = bytearray(data)
        flipped[place] ^= 0x10
        try:
            if hashes(video.whole("video", bytes(flipped))) != list(shown(data).values()):
                told.add("changed")
        except EpisodeError as error:
            told.add(error.reason)
    assert "video_damaged" in told


@pytest.mark.parametrize("form", ["mp4", "mov", "matroska"])
@pytest.mark.parametrize("turn", [90, 180, -90])
def test_pictures_are_turned_as_players_turn_them(form: str, turn: int) -> None:
    """A phone held upright codes pictures that lie on their side. Wholes, cuts and lossless copies show them alike."""
    still = video.whole("eye", encoded("libx264", form, X264))
    data = encoded("libx264", form, X264, turn=turn)
    upright = [np.rot90(image, turn // 90) for _, image in video.frames(still, range(still.frames))]
    whole = video.whole("eye", data)
    cut = video.cut("eye", io.BytesIO(data), video.index(io.BytesIO(data)), 15, 9)
    for media, first in ((whole, 0), (cut, 15), (video.without_foreign(cut), 15)):
        assert (media.height, media.width) == upright[0].shape[:2]
        for number, image in video.frames(media, range(media.frames)):
            assert np.array_equal(image, upright[first + number])
    size = (48, 16)
    small = [np.rot90(image, turn // 90) for _, image in video.frames(still, [3], size if turn == 180 else size[::-1])]
    assert np.array_equal(next(video.frames(whole, [3], size))[1], small[0])


@pytest.mark.parametrize(("a", "b", "c", "d"), [(-1, 0, 0, 1), (1, 0, 0, -1), (2, 0, 0, 2), (0, 0, 0, 0)])
def test_pictures_that_are_mirrored_or_scaled_are_refused(a: int, b: int, c: int, d: int) -> None:
    data = bytearray(encoded("libx264", "mp4", X264, frames=4))
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 20] = struct.pack(">5i", a << 16, b << 16, 0, c << 16, d << 16)
    with pytest.raises(EpisodeError) as caught:
        video.whole("eye", bytes(data))
    assert caught.value.reason == "unsupported_video"
    with pytest.raises(EpisodeError):
        video.whole("eye", encoded("libx264", "mp4", X264, frames=4, turn=45))
