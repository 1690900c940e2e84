"""Pictures against themselves and against the motion: black and frozen views, swapped channels, late pictures.

All pictures are looked at in small (longest side 96 px), as the view shows them, at most `MAX_FRAMES` a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dataengine import images, timeline, video
from dataengine.episode import Episode, Media, View
from dataengine.errors import BadInput
from dataengine.evidence.lateness import body_path, late
from dataengine.evidence.signals import Floats
from dataengine.evidence.verdict import Verdict, VerdictStatus
from dataengine.specs.converter import Converter, ExpectedView

MAX_FRAMES = 600
SIDE = 96
FEWEST_STUCK, STUCK_SHARE = 10, 0.1
"""A camera that stood still: so many equal pictures in a row, with so much of the body's way within them."""
PRIOR = 30.0
"""How much more orange (wood, skin) than azure there must be, or the reverse, where no hues are on record. Of 32 real
pictures and clips of kitchens, streets, sports and rooms the most azure one, under the sky, has 26 times as much."""


class Gallery:
    """Small decoded pictures, kept by the media's digest: what several checks look at is decoded once.

    `broken` says of which episode's view the pictures could not be decoded, and why.
    """

    def __init__(self) -> None:
        self.broken: dict[tuple[str, str], str] = {}
        self._kept: dict[tuple[str, str, int], dict[int, images.Pixels]] = {}

    def media(self, media: Media, wanted: Sequence[int]) -> dict[int, images.Pixels]:
        """Frames of `media` by number, [h, w, 3] uint8 RGB as a decoder gives them, scaled to 96 px."""
        known = self._kept.setdefault((media.name, media.digest, media.first_frame), {})
        missing = sorted(set(wanted) - known.keys())
        scale = min(1.0, SIDE / max(media.height, media.width))
        size = max(1, round(media.height * scale)), max(1, round(media.width * scale))
        if media.kind == "images":
            known.update((frame, video.resize(images.decode(media.image(frame)), size)) for frame in missing)
        else:
            known.update(video.frames(media, missing, size=size))
        return known

    def at(self, episode: Episode, view: View, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """What the view shows at `rows`, [n, h, w, 3] uint8 RGB."""
        media = episode.media[view.media]
        frames = timeline.nearest(episode.times_ns[rows], media.times_ns)
        kept = self.media(media, [int(frame) for frame in frames])
        return np.stack([images.as_shown(kept[int(frame)], view.channel_order, view.rotate) for frame in frames])

    def rows(self, episode: Episode, view: View, limit: int) -> NDArray[np.uint8] | None:
        """What the view shows at the first `limit` rows, [n, h, w, 3] uint8 RGB; None where it does not decode."""
        if (episode.upstream_id, view.name) in self.broken:
            return None
        try:
            return self.at(episode, view, np.arange(min(limit, episode.steps)))
        except BadInput as error:
            self.broken[episode.upstream_id, view.name] = f"{error.reason}: {error.what}"
            return None


@dataclass(frozen=True)
class Shown:
    """One view over several episodes: the pictures of each, the episodes, and the frame count."""

    view: str
    pictures: list[NDArray[np.uint8]]
    episodes: list[Episode]

    @property
    def frames(self) -> int:
        return sum(len(pictures) for pictures in self.pictures)


def picture_evidence(episodes: Sequence[Episode], converter: Converter, gallery: Gallery) -> list[Verdict]:
    """Verdicts on every view of the episodes."""
    result: list[Verdict] = []
    for entry in converter.views:
        shown = _shown(episodes, entry.view, gallery)
        broken = {name: why for (name, view), why in gallery.broken.items() if view == entry.view}
        if broken:
            says = f"the pictures of {len(broken)} episodes do not decode; {next(iter(broken.items()))}"
            fix = "see the files: a build would lose these episodes"
            result.append(Verdict("decodes", entry.view, "warning", says, fix, ("broken_pictures",)))
        if shown is not None:
            result += [
                blank(shown),
                swapped(shown.view, shown.pictures, entry.expected),
                late(shown.view, shown.pictures, shown.episodes, entry.expected),
            ]
    return result


def _shown(episodes: Sequence[Episode], name: str, gallery: Gallery) -> Shown | None:
    pictures: list[NDArray[np.uint8]] = []
    used: list[Episode] = []
    left = MAX_FRAMES
    for episode in episodes:
        view = next((view for view in episode.views if view.name == name), None)
        if view is None or left <= 0:
            continue
        found = gallery.rows(episode, view, left)
        if found is None or (pictures and found.shape[1:] != pictures[0].shape[1:]):
            continue
        pictures.append(found)
        used.append(episode)
        left -= len(found)
    return Shown(name, pictures, used) if pictures else None


def blank(shown: Shown) -> Verdict:
    """Black pictures, and views that stand still while the body moves, all the time or for a stretch."""
    dark = sum(int(black(pictures).sum()) for pictures in shown.pictures)
    frozen = sum(
        _still(pictures) and _moves(episode) for pictures, episode in zip(shown.pictures, shown.episodes, strict=True)
    )
    stuck = max((_stuck(*pair) for pair in zip(shown.pictures, shown.episodes, strict=True)), default=0)
    told = f"{dark} of {shown.frames} pictures are black, {frozen} of {len(shown.pictures)} episodes show one picture"
    figures = {"black": float(dark), "frozen": float(frozen), "frames": float(shown.frames), "stuck": float(stuck)}
    if dark:
        fix = "leave this view out of the converter, or filter with `black_frames`"
        return Verdict("blank_pictures", shown.view, "warning", told, fix, ("black_view",), figures)
    if frozen:
        fix = "leave this view out of the converter, or filter with `frozen_frames`"
        return Verdict(
            "blank_pictures", shown.view, "warning", f"{told} though the body moves", fix, ("frozen_view",), figures
        )
    if stuck:
        told = f"{stuck} pictures in a row are the same though the body moves: the camera stood still"
        fix = "cut the stretch out, or filter with `frozen_frames`"
        return Verdict("blank_pictures", shown.view, "warning", told, fix, ("frozen_view",), figures)
    return Verdict("blank_pictures", shown.view, "ok", told, figures=figures)


def black(pictures: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which of [n, h, w, 3] are black: the 99th percentile of their channels is below 16 of 255."""
    return np.asarray(np.percentile(pictures.reshape(len(pictures), -1), 99, axis=1) < 16)


def _still(pictures: NDArray[np.uint8]) -> bool:
    if len(pictures) < 3:
        return False
    spread = pictures.max(axis=0).astype(np.int16) - pictures.min(axis=0)
    return bool(spread.max() <= 2)


def _stuck(pictures: NDArray[np.uint8], episode: Episode) -> int:
    """The longest run of equal pictures in which the body moves a good part of its way; 0 for none.

    A camera slower than the rows repeats pictures, too: a run counts from ten pictures on, five times the usual one.
    """
    path = body_path(episode)
    if path is None or len(pictures) < FEWEST_STUCK:
        return 0
    moved = np.abs(np.diff(np.nan_to_num(path[: len(pictures)]), axis=0)).sum(axis=1)
    changes = [bool(np.abs(two.astype(np.int16) - one).max() > 1) for one, two in pairwise(pictures)]
    ends = np.flatnonzero([True, *changes, True])
    runs = np.diff(ends)
    longest = 0
    for start, length in zip(ends[:-1].tolist(), runs.tolist(), strict=True):
        share = moved[start : start + length - 1].sum() / (moved.sum() or 1.0)
        if length >= max(FEWEST_STUCK, 5 * float(np.median(runs))) and share >= STUCK_SHARE:
            longest = max(longest, length)
    return longest


def _moves(episode: Episode) -> bool:
    path = body_path(episode)
    return path is not None and bool(np.any(np.nan_to_num(path[1:] - path[:-1])))


def swapped(view: str, pictures: Sequence[NDArray[np.uint8]], expected: ExpectedView | None) -> Verdict:
    """Red and blue exchanged: against the colours on record, else against what pictures of the world look like."""
    check, suspects = "channel_order", ("channel_swap",)
    hues, share = hue_shares(pictures)
    if share < 0.005:
        says = f"only {share:.1%} of the pixels have colour"
        return Verdict(check, view, "unknown", says, "look at a picture: `dataengine try`", suspects)
    if expected is not None and expected.hues is not None:
        known = np.array(expected.hues) / max(sum(expected.hues), 1e-9)
        as_is, turned = (float(np.abs(found - known).sum() / 2) for found in (hues, exchanged(hues)))
        figures = {"as_is": as_is, "exchanged": turned}
        says = f"hues differ from those on record by {as_is:.0%}, by {turned:.0%} with red and blue exchanged"
        if turned + 0.1 < as_is:
            fix = "set `channel_order` of this view to the other order, or relabel with `swap_channels`"
            return Verdict(check, view, "warning", says, fix, suspects, figures)
        status: VerdictStatus = "ok" if as_is + 0.1 < turned else "unknown"
        return Verdict(check, view, status, says, "" if status == "ok" else "look at a picture", suspects, figures)
    warm, cool = float(hues[1]), float(hues[7])
    figures = {"orange": warm, "azure": cool}
    says = f"orange has {warm:.0%} of the colour, azure {cool:.0%}"
    if share > 0.05 and cool > 0.2 and cool > PRIOR * warm:
        fix = "set `channel_order: bgr` if skin and wood look blue, or write the hues into `expected`"
        return Verdict(check, view, "warning", f"{says}: indoor scenes are the other way round", fix, suspects, figures)
    if share > 0.05 and warm > 0.2 and warm > PRIOR * cool:
        return Verdict(check, view, "ok", f"{says}, as scenes of wood and skin do", "", suspects, figures)
    fix = "look at a picture, and write the hues into the view's `expected`"
    return Verdict(check, view, "unknown", f"{says}: both orders are plausible", fix, suspects, figures)


def hue_shares(pictures: Sequence[NDArray[np.uint8]]) -> tuple[Floats, float]:
    """Share of colour (weighted by chroma) in twelve hue sectors, red first; and the share of pixels with colour."""
    total = sum(len(found) for found in pictures)
    every = max(1, total // 60)
    pixels = np.concatenate([found[::every].reshape(-1, 3) for found in pictures]).astype(np.float64)
    high, low = pixels.max(axis=1), pixels.min(axis=1)
    chroma = high - low
    seen = chroma > 25
    if not seen.any():
        return np.zeros(12), 0.0
    (red, green, blue), chroma = pixels[seen].T, chroma[seen]
    sector = np.where(
        high[seen] == red,
        ((green - blue) / chroma) % 6,
        np.where(high[seen] == green, (blue - red) / chroma + 2, (red - green) / chroma + 4),
    )
    number = np.floor(sector * 2 + 0.5).astype(np.int64) % 12
    counts = np.bincount(number, weights=chroma, minlength=12)
    return counts / counts.sum(), float(seen.mean())


def exchanged(hues: Floats) -> Floats:
    """The hue shares of the same pictures with red and blue exchanged: hue h becomes 240 degrees - h."""
    return hues[(8 - np.arange(12)) % 12]
