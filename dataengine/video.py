"""The one door to PyAV: indexing packets, cutting an episode out by remux, decoding chosen frames.

Containers are opened from file objects with a demuxer forced from the sniffed magic and every protocol refused, so
a playlist named `.mp4` opens nothing. Frames come as players show them: turned as the container says (phones), without
those that its edit list hides. They are numbered in presentation order. PyAV's errors for broken input are
varied (InvalidData, IndexError, EOFError, MemoryError, decoder not found), so this door catches all of them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import wraps
from typing import Any, BinaryIO, cast

import av
import av.logging
import numpy as np
from av.container import InputContainer, OutputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import PictureType
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from dataengine import containers
from dataengine.episode import Media
from dataengine.errors import BadInput, EpisodeError
from dataengine.images import MAX_PIXELS, Pixels

av.logging.set_level(None)
_BITEXACT = {"fflags": "+bitexact"}
_CHROMA_CENTER = 2
_EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
"""Without accurate rounding the SIMD that a machine has decides the last bits of a picture in RGB; without full chroma
colours come out 1 to 2 of 255 too dark."""


def _door[**Params, Result](function: Callable[Params, Result]) -> Callable[Params, Result]:
    """Re-raise whatever PyAV throws for bad data as an `EpisodeError` `video_unreadable`."""

    @wraps(function)
    def guarded(*args: Params.args, **kwargs: Params.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except BadInput:
            raise
        except Exception as error:  # the door to PyAV: see the module's text
            raise EpisodeError("video_unreadable", f"the video cannot be read: {type(error).__name__}") from error

    return guarded


@dataclass(frozen=True)
class VideoIndex:
    """Packets of one video stream, found without decoding.

    `pts` [n] sorted presentation times in `time_base` of the frames that are shown; `order` [m] the packets' pts in
    decode order, with those of frames that the container's edit list hides (m >= n: a clip that was trimmed without
    encoding it again starts before its first picture); `keyframes` the pts of keyframes in decode order; `rate` the
    container's average frame rate; `turns` the quarter turns counterclockwise that a coded picture is shown with;
    `height` and `width` as shown.
    """

    container: str
    codec: str
    height: int
    width: int
    time_base: Fraction
    rate: Fraction
    pts: NDArray[np.int64]
    order: NDArray[np.int64] = field(repr=False)
    keyframes: NDArray[np.int64] = field(repr=False)
    turns: int = 0

    @property
    def frames(self) -> int:
        return len(self.pts)

    @property
    def packets(self) -> NDArray[np.int64]:
        """Presentation times [m] of all packets, sorted: `Media.first_frame` counts in them."""
        return np.sort(self.order)

    @property
    def times_ns(self) -> NDArray[np.int64]:
        """Presentation times [n] in ns from the first frame."""
        scale = 1_000_000_000 * self.time_base
        shifted = self.pts - (self.pts[0] if len(self.pts) else 0)
        return np.rint(shifted * float(scale)).astype(np.int64)


def _open(file: BinaryIO) -> tuple[InputContainer, VideoStream]:
    name = containers.sniff(file)
    try:
        container = av.open(file, mode="r", format=name, options={"protocol_whitelist": "none"})
    except av.error.FFmpegError:
        if name != "mp4" or containers.has_moov(file):
            raise
        what = "the file has no whole index (moov): it is cut, or its recording was never finished"
        raise EpisodeError("video_unreadable", what) from None
    if not container.streams.video:
        container.close()
        raise EpisodeError("no_video_stream", "the file holds no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:  # PyAV's stub says that there always is one
        container.close()
        raise EpisodeError("video_unreadable", "the file does not say how its pictures are coded: it is cut or damaged")
    if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
        container.close()
        raise EpisodeError("image_too_large", "the video declares frames larger than any camera's")
    return container, stream


@_door
def index(file: BinaryIO) -> VideoIndex:
    """Demux once and list every packet. `EpisodeError` `empty_video` when no frame is in it."""
    container, stream = _open(file)
    with container:
        order: list[int] = []
        keyframes: list[int] = []
        hidden: list[int] = []
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            if packet.pts is None:
                raise EpisodeError("video_without_times", "a packet has no presentation time")
            if packet.is_corrupt:
                raise EpisodeError("video_truncated", f"the packet of frame {len(order)} is cut short")
            order.append(packet.pts)
            if packet.is_keyframe:
                keyframes.append(packet.pts)
            if packet.is_discard:
                hidden.append(len(order) - 1)
        shown = np.delete(np.array(order, np.int64), hidden)
        if not len(shown):
            raise EpisodeError("empty_video", "the video holds no frame" + (" that is shown" if order else ""))
        containers.check_length(file, _container_name(container))
        context = stream.codec_context
        if _container_name(container) == "avi" and context.has_b_frames and order == sorted(order):
            what = "the AVI does not say in which order its frames are shown (B-frames); put it into an MP4 anew"
            raise EpisodeError("video_without_times", what)
        turns = _declared_turns(file, _container_name(container))
        shown_size = (context.width, context.height) if turns % 2 else (context.height, context.width)
        return VideoIndex(
            container=_container_name(container),
            codec=context.name if stream.codec is None else stream.codec.canonical_name,
            height=shown_size[0],
            width=shown_size[1],
            turns=turns,
            time_base=_fraction(stream.time_base),
            rate=_fraction(stream.average_rate),
            pts=np.sort(shown),
            order=np.array(order, np.int64),
            keyframes=np.array(keyframes, np.int64),
        )


def _declared_turns(file: BinaryIO, container: str) -> int:
    """How the container has its pictures turned; the first is decoded to know, where it says anything."""
    if not containers.may_be_turned(file, container):
        return 0
    file.seek(0)
    opened, stream = _open(file)
    with opened:
        return _turns(next(opened.decode(stream)))


def _turns(frame: av.VideoFrame) -> int:
    """The quarter turns counterclockwise of one frame's display matrix, 0 where it has none.

    `EpisodeError` `unsupported_video` for a matrix that mirrors, scales or turns by another angle.
    """
    found = next((one for one in frame.side_data.values() if one.type == SideDataType.DISPLAYMATRIX), None)
    if found is None:
        return 0
    a, b, _, c, d = np.frombuffer(bytes(found), np.int32)[:5].tolist()
    unit = 1 << 16
    turns = {(unit, 0, 0, unit): 0, (0, -unit, unit, 0): 1, (-unit, 0, 0, -unit): 2, (0, unit, -unit, 0): 3}
    if (a, b, c, d) not in turns:
        what = "the container says to mirror, scale or turn its pictures by other than quarter turns"
        raise EpisodeError("unsupported_video", what, fix="encode it anew as it shall be shown: ffmpeg -i IN OUT.mp4")
    return turns[a, b, c, d]


def _fraction(value: Any) -> Fraction:
    return Fraction(value.numerator, value.denominator) if value else Fraction(0)


def _container_name(container: InputContainer) -> str:
    return "mp4" if "mp4" in container.format.name.split(",") else container.format.name.split(",")[0]


@_door
def other_streams(file: BinaryIO) -> tuple[str, ...]:
    """Kinds of the streams beside the first video (`audio`, `data`, `subtitle`, `video`), sorted, each named once."""
    file.seek(0)
    container, stream = _open(file)
    with container:
        return tuple(sorted({other.type for other in container.streams if other.index != stream.index}))


def whole(name: str, data: bytes) -> Media:
    """A video file as media, bytes untouched; its digest is over the file.

    Frames that its edit list hides are counted in `first_frame` and `foreign_frames`. `EpisodeError`
    `video_edit_list` where what is shown is no single stretch.
    """
    found = index(io.BytesIO(data))
    lead = int(np.searchsorted(found.packets, found.pts[0]))
    if not np.array_equal(found.packets[lead : lead + found.frames], found.pts):
        raise EpisodeError("video_edit_list", "its edit list shows a stretch twice, out of order or with a hole")
    digest = hashlib.sha256(data).hexdigest()
    return Media(
        name,
        "video",
        f"{found.container}/{found.codec}",
        data,
        found.frames,
        found.height,
        found.width,
        digest,
        first_frame=lead,
        foreign_frames=len(found.order) - found.frames,
    )


@_door
def cut(name: str, file: BinaryIO, found: VideoIndex, first: int, frames: int) -> Media:
    """Cut frames `first .. first+frames-1` (presentation order) out of a video by remux, never by re-encoding.

    The cut starts at the last keyframe at or before the first frame and ends with the packet that is decoded last;
    frames of neighbours that come along are counted in `first_frame` and `foreign_frames`. The muxing is bit-exact;
    the digest is over the packets.
    """
    if first < 0 or frames <= 0 or first + frames > found.frames:
        raise EpisodeError(
            "frame_count_mismatch",
            f"frames {first}..{first + frames - 1} are wanted, the video holds {found.frames}",
        )
    wanted = found.pts[first : first + frames]
    earlier = found.keyframes[found.keyframes <= wanted[0]]
    if len(earlier) == 0:
        raise EpisodeError("video_unreadable", "no keyframe stands before the first frame")
    start = int(np.flatnonzero(found.order == earlier.max())[0])
    stop = int(np.flatnonzero(np.isin(found.order, wanted)).max()) + 1
    kept = np.sort(found.order[start:stop])
    if len(np.unique(found.order)) != len(found.order):
        raise EpisodeError("video_edit_list", "its edit list shows a stretch twice or out of order: it cannot be cut")
    container, payload, digest = _remux(file, found, start, stop)
    lead = int(np.searchsorted(kept, wanted[0]))
    return Media(
        name,
        "video",
        f"{container}/{found.codec}",
        payload,
        frames,
        found.height,
        found.width,
        digest,
        first_frame=lead,
        foreign_frames=len(kept) - frames,
    )


def _remux(file: BinaryIO, found: VideoIndex, start: int, stop: int) -> tuple[str, bytes, str]:
    file.seek(0)
    container, stream = _open(file)
    buffer = io.BytesIO()
    packets = hashlib.sha256()
    form = _container_for(stream, found.container)
    decode = _decode_times(found.order[start:stop])
    with container, av.open(buffer, "w", format=form, options=_BITEXACT, container_options=_BITEXACT) as target:
        copy = _template(target, stream)
        container.seek(int(found.order[start]), stream=stream, backward=True)
        origin: int | None = None
        position = None
        told = True
        for packet in container.demux(stream):
            if packet.size == 0 or packet.pts is None:
                continue
            if position is None:  # a seek may land earlier than asked
                at = np.flatnonzero(found.order == packet.pts)
                position = int(at[0])
            if position >= stop:
                break
            if position >= start:
                if position == start:
                    told = packet.dts is not None
                if not told:  # Matroska keeps presentation times alone
                    packet.dts = int(decode[position - start])
                origin = packet.dts if origin is None and packet.dts is not None else origin
                shift = origin or 0
                packets.update(bytes(packet))
                packet.pts -= shift
                packet.dts = None if packet.dts is None else packet.dts - shift
                packet.stream = copy
                target.mux(packet)
            position += 1
    return "matroska" if form == "matroska" else "mp4", buffer.getvalue(), packets.hexdigest()


def _container_for(stream: VideoStream, given: str) -> str:
    """The container of a cut: MP4; for a codec that it does not take (VP8, ProRes) one of the source's kind."""
    with av.open(io.BytesIO(), "w", format="mp4") as target:
        try:
            _template(target, stream)
        except ValueError:
            return "mov" if given == "mp4" else "matroska"
    return "mp4"


def _decode_times(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Decode times of packets with these presentation times: increasing, and none later than its frame is shown."""
    shown = np.sort(order)
    return np.asarray(shown - np.max(shown - order), np.int64)


def _template(target: OutputContainer, stream: VideoStream) -> VideoStream:
    made = target.add_stream_from_template(stream, opaque=True)
    made.time_base = stream.time_base
    return made


@_door
def frame_times(media: Media) -> NDArray[np.int64]:
    """Presentation times [frames] in ns of the episode's own frames, from the first of them."""
    found = index(io.BytesIO(media.payload))
    own = found.packets[media.first_frame : media.first_frame + media.frames]
    return np.rint((own - own[:1]) * float(1_000_000_000 * found.time_base)).astype(np.int64)


def frames(
    media: Media, wanted: Sequence[int], size: tuple[int, int] | None = None, threads: bool = False
) -> Iterator[tuple[int, Pixels]]:
    """Decode the `wanted` frames (sorted, unique, 0 = the episode's first) as RGB [H, W, 3] uint8, in that order.

    `size` (height, width) scales with swscale, accurate and bit-exact. Decoding starts at the keyframe before the
    first wanted frame and stops after the last. A frame that does not come out is `frame_count_mismatch`.
    """
    if list(wanted) != sorted(set(wanted)) or (len(wanted) and not 0 <= wanted[0] <= wanted[-1] < media.frames):
        raise EpisodeError("frame_count_mismatch", f"{media.name} holds {media.frames} frames")
    if not len(wanted):
        return
    found = index(io.BytesIO(media.payload))
    own = found.packets[media.first_frame :]
    by_pts = {int(own[frame]): frame for frame in wanted}
    last = max(by_pts)
    seen = 0
    for pts, pixels in _decode(media.payload, found, by_pts, size=size, threads=threads):
        seen += 1
        yield by_pts[pts], pixels
        if pts == last:
            break
    if seen != len(wanted):
        raise EpisodeError(
            "frame_count_mismatch", f"{media.name}: {len(wanted)} frames were wanted, {seen} came out of the decoder"
        )


def _decode(
    payload: bytes,
    found: VideoIndex,
    by_pts: dict[int, int],
    *,
    size: tuple[int, int] | None,
    threads: bool,
) -> Iterator[tuple[int, Pixels]]:
    decoded = _decoded(payload, found, min(by_pts), threads=threads)
    scaler = VideoReformatter()
    while True:
        frame = _next_frame(decoded)
        if frame is None:
            return
        if frame.pts in by_pts:
            if frame.is_corrupt:  # the decoder hid what it could not read behind pixels of its own
                what = f"the picture at {float(frame.pts * found.time_base):.3f} s is damaged: its data do not decode"
                raise EpisodeError("video_damaged", what)
            if _turns(frame) != found.turns:
                raise EpisodeError("unsupported_video", "a picture says to be turned, and the container does not")
            yield frame.pts, _to_rgb(scaler, frame, size, found.turns)


@_door
def _next_frame(decoded: Iterator[Any]) -> Any:
    return next(decoded, None)


def _decoded(payload: bytes, found: VideoIndex, first: int, *, threads: bool) -> Iterator[Any]:
    container, stream = _open(io.BytesIO(payload))
    with container:
        stream.thread_type = "AUTO" if threads else "NONE"
        earlier = found.keyframes[found.keyframes <= first]
        if len(earlier) and int(earlier.max()) > int(found.order.min()):
            container.seek(int(earlier.max()), stream=stream, backward=True)
        yield from container.decode(stream)


@_door
def _to_rgb(scaler: VideoReformatter, frame: Any, size: tuple[int, int] | None, turns: int = 0) -> Pixels:
    """A frame as RGB, of `size` (height, width) when it is shown with `turns` quarter turns counterclockwise."""
    height, width = (frame.height, frame.width) if size is None else size[:: -1 if turns % 2 else 1]
    scaling = Interpolation.AREA
    if (height, width) == (
        frame.height,
        frame.width,
    ):  # each pixel has its block's colour, wherever that is said to lie
        scaling, frame.chroma_location = Interpolation.POINT, 0
    made = scaler.reformat(frame, width=width, height=height, format="rgb24", interpolation=scaling | _EXACT)
    return np.ascontiguousarray(np.rot90(made.to_ndarray(), turns), np.uint8)


def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Scale RGB [H, W, 3] to `size` (height, width) with the same scaler as `frames`."""
    if pixels.shape[:2] == size:
        return pixels
    return _to_rgb(VideoReformatter(), av.VideoFrame.from_ndarray(pixels, format="rgb24"), size)


@_door
def encode(pixels: Sequence[Pixels], rate: int, *, gop: int = 30, codec: str = "libx264") -> bytes:
    """Encode RGB frames as mp4, one thread, bit-exact: for demos and tests (the lake never re-encodes)."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options=_BITEXACT, container_options=_BITEXACT) as container:
        options = {"g": str(gop), "crf": "18", "flags": "+bitexact"}
        if codec == "libx264":  # its macroblock tree reads memory nobody wrote: bytes differed from process to process
            options["x264-params"] = "mbtree=0"
        if codec == "libx265":  # it prints; and below 64 pixels a side it writes beyond its memory
            options["x265-params"] = "log-level=none:pools=none:frame-threads=1"
        stream = cast("VideoStream", container.add_stream(codec, rate=rate, options=options))
        stream.height, stream.width = pixels[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        for image in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@_door
def without_foreign(media: Media) -> Media:
    """The stream with its own frames alone: decoded, and encoded again without loss (x264, one thread, bit-exact).

    Frames come out of the decoder pixel for pixel as before, at the same times. `digest` stays, since it is over what
    came in. `EpisodeError` `video_unreadable` where the picture format has no lossless encoder here, or where a frame
    did not come back as it was.
    """
    given = index(io.BytesIO(media.payload))
    own = given.packets[media.first_frame : media.first_frame + media.frames]
    payload, planes = _lossless(media.payload, own, given.turns)
    made = replace(
        media,
        codec="mp4/h264",
        payload=payload,
        first_frame=0,
        foreign_frames=0,
    )
    found = index(io.BytesIO(payload))
    back = [_planes(frame) for frame in _decoded(payload, found, int(found.pts[0]), threads=False)]
    same_times = [pts * found.time_base for pts in found.pts.tolist()] == [
        (pts - int(own[0])) * given.time_base for pts in own.tolist()
    ]
    if back != planes or len(planes) != media.frames or not same_times or found.turns != given.turns:
        raise EpisodeError("video_unreadable", f"{media.name}: the frames do not come back as they were")
    return made


def _lossless(data: bytes, own: NDArray[np.int64], turns: int) -> tuple[bytes, list[str]]:
    """The frames at these times, encoded anew; and a digest of each frame's pixels."""
    buffer = io.BytesIO()
    source, stream = _open(io.BytesIO(data))
    planes: list[str] = []
    wanted = set(own.tolist())
    with source, av.open(buffer, "w", format="mp4", options=_BITEXACT, container_options=_BITEXACT) as target:
        stream.thread_type = "NONE"
        made: VideoStream | None = None
        for frame in source.decode(stream):
            if frame.pts is None or frame.pts not in wanted:
                continue
            if made is None:
                made = _lossless_stream(target, stream, frame)
                if turns:
                    made.set_display_rotation(90 * turns)
            planes.append(_planes(frame))
            frame.pts -= int(own[0])
            frame.pict_type = PictureType.NONE
            target.mux(made.encode(frame if made.pix_fmt == frame.format.name else frame.reformat(format=made.pix_fmt)))
        if made is not None:
            target.mux(made.encode(None))
    return buffer.getvalue(), planes


def _lossless_stream(target: OutputContainer, source: VideoStream, frame: av.VideoFrame) -> VideoStream:
    """An x264 stream for frames like this one: same pixels, same colours, same clock."""
    name, pictures = ("libx264rgb", "rgb24") if frame.format.name == "gbrp" else ("libx264", frame.format.name)
    if pictures not in {form.name for form in av.Codec(name, "w").video_formats or ()}:
        raise EpisodeError("video_unreadable", f"no lossless encoder for {frame.format.name} pictures")
    options = {"qp": "0", "g": "30", "bf": "0", "flags": "+bitexact", "x264-params": "mbtree=0"}
    made = cast("VideoStream", target.add_stream(name, rate=source.average_rate or 30, options=options))
    made.height, made.width, made.pix_fmt = frame.height, frame.width, pictures
    made.time_base = made.codec_context.time_base = source.time_base
    made.thread_type = "NONE"
    made.codec_context.thread_count = 1
    given = source.codec_context
    for part in ("color_range", "colorspace", "color_primaries", "color_trc"):
        setattr(made.codec_context, part, getattr(given, part))
    # H.264 cannot say that nobody knows where the chroma samples lie; the scaler takes them to lie in the middle then.
    made.codec_context.chroma_sample_location = frame.chroma_location or _CHROMA_CENTER
    return made


def _planes(frame: av.VideoFrame) -> str:
    """sha256 over a frame's pixels as they are coded (padding left out) and as they are shown."""
    found = hashlib.sha256(frame.to_ndarray().tobytes())
    found.update(_to_rgb(VideoReformatter(), frame, None).tobytes())
    return found.hexdigest()


@_door
def packets(data: bytes) -> list[tuple[int, bytes]]:
    """(presentation time, bytes) of every packet, in the order of decoding."""
    container, stream = _open(io.BytesIO(data))
    with container:
        return [(packet.pts or 0, bytes(packet)) for packet in container.demux(stream) if packet.size]
