"""The one door to Rerun: entities with values over time, written into an `.rrd` file.

Nothing is opened, sent or counted: a stream writes into a file, and no viewer, server or analytics is started.
Names of chunks and rows are counted instead of drawn, so that the same episode gives the same content.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import rerun as rr
from numpy.typing import NDArray
from rerun.chunk import Chunk

from dataengine.errors import StorageError

APPLICATION = "dataengine"
TIME, STEP = "time", "step"
CHUNK_BYTES = 4 << 20
Colour = tuple[int, int, int]
CURVES: tuple[Colour, ...] = (
    (214, 64, 56),
    (48, 150, 72),
    (48, 104, 214),
    (226, 138, 24),
    (140, 72, 190),
    (22, 160, 170),
    (200, 62, 140),
    (120, 120, 120),
)
Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Clock:
    """When rows happen: `times_ns` [n] on the episode's clock and, where it has steps, `steps` [n]."""

    times_ns: Ints
    steps: Ints | None = None

    def at(self, rows: Any) -> Clock:
        """Only these rows (an index array, a mask or a slice)."""
        return Clock(self.times_ns[rows], None if self.steps is None else self.steps[rows])

    def columns(self) -> list[rr.TimeColumn]:
        found = [rr.TimeColumn(TIME, duration=self.times_ns.astype("timedelta64[ns]"))]
        return found if self.steps is None else [*found, rr.TimeColumn(STEP, sequence=self.steps)]


class Recording:
    """A recording under way; `path` is written when `close` is called."""

    def __init__(self, path: Path, recording_id: str, name: str) -> None:
        self._stream = rr.RecordingStream(APPLICATION, recording_id=recording_id, send_properties=False)
        if not rr.is_enabled(self._stream):
            raise StorageError("recordings are switched off", where="the environment variable RERUN", fix="unset it")
        self._strict = rr.strict_mode()
        rr.set_strict_mode(True)
        self._chunks = 0
        self._stream.save(path)
        self._send("/__properties", None, rr.archetypes.RecordingInfo.columns(name=[name]))

    def lay_out(self, blueprint: Any) -> None:
        """How the viewer shows the recording at first. Its parts have names that the library draws."""
        self._stream.send_blueprint(blueprint)

    def close(self) -> None:
        """Write what is left."""
        rr.set_strict_mode(self._strict)
        self._stream.disconnect()

    def _send(self, path: str, clock: Clock | None, columns: Iterable[Any]) -> None:
        made = Chunk.from_columns(path, [] if clock is None else clock.columns(), columns)
        self._chunks += 1
        self._stream.send_chunks(_numbered(made, self._chunks))

    def scalars(self, path: str, clock: Clock, values: Floats, names: Sequence[str], *, pale: bool = False) -> None:
        """Curves: `values` [n, c], NaN where there is none, and a name for each. `pale` tells two sides apart."""
        count, width = values.shape
        columns = rr.Scalars.columns(scalars=np.ascontiguousarray(values, np.float64).ravel())
        mixed = [tuple((shade + 255 * pale) // (1 + pale) for shade in CURVES[at % len(CURVES)]) for at in range(width)]
        self._send(path, None, rr.SeriesLines.columns(names=list(names), colors=mixed).partition([width]))
        self._send(path, clock, columns.partition([width] * count))

    def poses(self, path: str, clock: Clock, positions: Floats, quaternions: Floats) -> None:
        """Poses of an entity in its parent: metres [n, 3], quaternions xyzw [n, 4]."""
        self._send(path, clock, rr.Transform3D.columns(translation=positions, quaternion=quaternions))

    def axes(self, path: str, length: float) -> None:
        """Show an entity's axes, `length` metres long."""
        self._send(path, None, rr.TransformAxes3D.columns(axis_length=[length]))

    def line(self, path: str, strips: Sequence[Floats], colour: Colour) -> None:
        """Lines [n, 3] in metres that stand there all the time."""
        columns = rr.LineStrips3D.columns(strips=[np.asarray(strip, np.float32) for strip in strips])
        self._send(path, None, columns.partition([len(strips)]))
        self._send(path, None, rr.LineStrips3D.columns(colors=[colour]))

    def points(self, path: str, clock: Clock, positions: Floats) -> None:
        """Points [n, k, 3] in metres."""
        count, each = positions.shape[:2]
        columns = rr.Points3D.columns(positions=np.ascontiguousarray(positions, np.float32).reshape(-1, 3))
        self._send(path, clock, columns.partition([each] * count))
        self._send(path, None, rr.Points3D.columns(radii=[0.006]))

    def upright(self, path: str) -> None:
        """The frame's third axis points up."""
        self._send(path, None, rr.ViewCoordinates.columns(xyz=[rr.components.ViewCoordinates.FLU]))

    def pinhole(self, path: str, matrix: Floats, size: tuple[float, float]) -> None:
        """The camera that an entity's pictures are seen by: matrix [3, 3] in pixels of `size` (height, width)."""
        columns = rr.Pinhole.columns(
            image_from_camera=[matrix],
            resolution=[(size[1], size[0])],
            camera_xyz=[rr.components.ViewCoordinates.RDF],
            image_plane_distance=[0.1],
        )
        self._send(path, None, columns)

    def pictures(self, path: str, clock: Clock | None, pictures: Sequence[bytes], media_type: str) -> None:
        """Encoded pictures, bytes as they are; without a clock one that stands there all the time."""
        for part in _parts([len(picture) for picture in pictures]):
            blobs = [np.frombuffer(picture, np.uint8) for picture in pictures[part]]
            columns = rr.EncodedImage.columns(blob=blobs, media_type=[media_type] * len(blobs))
            self._send(path, None if clock is None else clock.at(part), columns)

    def video(self, path: str, clock: Clock, payload: bytes, frames_ns: Ints) -> None:
        """A video file as it is, and which of its frames (by presentation time) stands at each row of the clock."""
        asset = rr.AssetVideo.columns(blob=[np.frombuffer(payload, np.uint8)], media_type=["video/mp4"])
        self._send(path, None, asset)
        self._send(path, clock, rr.VideoFrameReference.columns_nanos(frames_ns))

    def texts(self, path: str, clock: Clock, texts: Sequence[str]) -> None:
        """Texts each of which stands until the next."""
        self._send(path, clock, rr.TextDocument.columns(text=list(texts), media_type=["text/plain"] * len(texts)))

    def document(self, path: str, text: str) -> None:
        """A text that stands there all the time; never taken for markup."""
        self._send(path, None, rr.TextDocument.columns(text=[text], media_type=["text/plain"]))

    def events(self, path: str, clock: Clock, texts: Sequence[str]) -> None:
        """Lines of a log."""
        self._send(path, clock, rr.TextLog.columns(text=list(texts), level=["INFO"] * len(texts)))


def video_frames(payload: bytes) -> Ints | None:
    """Presentation times [n] in ns of an MP4's frames as the viewer finds them; None where it cannot read them."""
    try:
        found = rr.AssetVideo(contents=payload, media_type="video/mp4").read_frame_timestamps_nanos()
    except (RuntimeError, ValueError, OSError):
        return None
    return np.asarray(found, np.int64)


def _parts(sizes: Sequence[int]) -> list[slice]:
    """Runs of rows of at most `CHUNK_BYTES`, or of one."""
    edges, held = [0], 0
    for row, size in enumerate(sizes):
        if held and held + size > CHUNK_BYTES:
            edges.append(row)
            held = 0
        held += size
    return [slice(low, high) for low, high in zip(edges, [*edges[1:], len(sizes)], strict=True) if high > low]


def _numbered(chunk: Chunk, number: int) -> list[Chunk]:
    """The chunk with names of its own and of its rows that are counted: the library draws them at random."""
    batch = chunk.to_record_batch()
    rows = [number.to_bytes(8, "big") + row.to_bytes(8, "big") for row in range(batch.num_rows)]
    at = next(
        place for place, field in enumerate(batch.schema) if (field.metadata or {}).get(b"rerun:kind") == b"control"
    )
    columns = list(batch.columns)
    columns[at] = pa.array(rows, batch.schema.field(at).type)
    schema = batch.schema.with_metadata({**batch.schema.metadata, b"rerun:id": b"chunk_%016X%016x" % (number, 0)})
    return Chunk.from_record_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
