"""Raw episode + converter + card -> episode: the source's fields become typed slots, and nothing is guessed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine import images, timeline
from dataengine.documents import canonical_json, find_spec, sha256_json
from dataengine.embodiment import Card, load_card
from dataengine.episode import Episode, Language, Media, RawEpisode, SlotArray, View
from dataengine.errors import BadInput, EpisodeError, SpecError
from dataengine.formats.base import get_format
from dataengine.formats.mano import read_mano
from dataengine.schema import unified
from dataengine.specs.converter import (
    Converter,
    LanguageSpec,
    StateMapping,
    ViewSpec,
    load_converter,
)
from dataengine.transforms.cameras import with_cameras
from dataengine.transforms.derive import derived
from dataengine.transforms.fields import fill_slots, native_channels
from dataengine.transforms.language import check_text
from dataengine.transforms.mano import Bases, bound, models_of
from dataengine.transforms.own_statistics import contradictions
from dataengine.transforms.requirements import check_required
from dataengine.transforms.rows import Rows, at_rows, find_rows, number_array

CONVERSION_VERSION = 1


@dataclass(frozen=True)
class Conversion:
    """A converter with its card and the digest of all that decides what it makes of raw bytes.

    `mano` holds the bases of the user's MANO files that the converter uses; without files it is empty, and the
    converter has no quantity that needs them.
    """

    converter: Converter
    card: Card
    digest: str
    mano: Bases = field(default_factory=dict)

    @classmethod
    def load(cls, name: str, mano: Path | None = None) -> Conversion:
        """A shipped converter by name, or a YAML file by path.

        In a file, `embodiment` may be a card's file beside it (`./my_robot.yaml`) instead of a shipped card's name.
        `mano` is a folder of MANO files; it is read only for a converter that needs them.
        """
        converter = load_converter(name)
        bases = read_mano(mano) if mano is not None and models_of(converter) else None
        if not converter.embodiment.endswith((".yaml", ".yml")):
            return cls.of(converter, load_card(converter.embodiment), bases)
        card = load_card(str(find_spec("converters", name).parent / converter.embodiment))
        return cls.of(converter.model_copy(update={"embodiment": card.name}), card, bases)

    @classmethod
    def of(cls, converter: Converter, card: Card | None = None, mano: Bases | None = None) -> Conversion:
        """Check the card and the format; a mapping outside the card's control mode is a `SpecError`."""
        card = card or load_card(converter.embodiment)
        used = {model: mano[model] for model in models_of(converter) if model in mano} if mano else {}
        converter = bound(converter, mano)
        mode = card.control_modes.get(converter.control_mode)
        if mode is None:
            raise SpecError(
                f"{card.name} has no control mode {converter.control_mode!r}",
                where=converter.name,
                fix=f"known: {', '.join(card.control_modes)}",
            )
        outside = {mapping.slot for mapping in converter.action} - set(mode.slots)
        if outside:
            raise SpecError(
                f"control mode {converter.control_mode!r} does not act on {', '.join(sorted(outside))}",
                where=converter.name,
                fix=f"its slots are {', '.join(mode.slots)}",
            )
        _check_known(converter, card)
        parts = {
            "converter": converter.canonical(),
            "card": card.canonical(),
            "schema": unified().digest,
            "format": [converter.format.name, get_format(converter.format.name).version],
            "conversion": CONVERSION_VERSION,
            # Where there are none the digest is that of a converter without them.
            **({"mano": {model: basis.digest for model, basis in used.items()}} if used else {}),
        }
        return cls(converter, card, sha256_json(parts), used)


def _check_known(converter: Converter, card: Card) -> None:
    """Refuse (`SpecError`) what rests on a convention that the card says nobody could establish."""
    for mapping in (*converter.state, *converter.action):
        field = card.blocked_by(converter.control_mode, mapping.slot)
        if field is not None:
            raise SpecError(
                f"{mapping.slot} needs {field} of {card.name}, which is unknown",
                where=converter.name,
                fix="establish it and write the evidence into the card, or map the values to `native`",
            )


def episode_uid(source_id: str, upstream_id: str, raw_digest: str) -> str:
    """Identity of an episode: its source, its name there, and its raw bytes as they came."""
    return sha256_json([source_id, upstream_id, raw_digest])


def convert(raw: RawEpisode, conversion: Conversion) -> Episode:
    """Convert one raw episode. Raises `EpisodeError` with a reason when it cannot be used as declared."""
    spec = conversion.converter
    check_required(spec.requires, raw.attributes)
    if spec.own_statistics == "check":
        _check_told(raw)
    arrays = dict(raw.arrays)
    _check_kept(arrays)
    for derive in spec.derive:
        arrays.update(derived(derive, arrays, conversion.mano))
    rows = find_rows(spec, arrays, raw.media, raw.texts, raw.attributes)
    kept = rows.kept
    sides = {name: at_rows(mappings, arrays, rows) for name, mappings in _sides(spec)}
    state = fill_slots(*sides["state"], raw.attributes, len(kept))
    action = fill_slots(*sides["action"], raw.attributes, len(kept))
    _check_joints(conversion, {"state": state, "action": action})
    media = {media.name: _checked(media) for media in raw.media.values()}
    views, media = _views(spec, media, rows)
    views = with_cameras(views, spec.views, media, arrays, raw.attributes)
    times = rows.times[kept]
    timeline.check_increasing(times, "time")
    native_action: dict[str, Any] = {}
    if spec.native_action is not None:
        ids = number_array(arrays, spec.native_action.array)[kept]
        native_action = {"ids": ids.astype(np.int64), "params": dict(spec.native_action.params)}
    language = _languages(spec.language, raw, rows)
    for number, message in enumerate(raw.messages):
        check_text("".join(part.get("text", "") for part in message.content), f"message {number}")
    return Episode(
        uid=episode_uid(spec.source_id, raw.upstream_id, raw.raw_digest),
        source_id=spec.source_id,
        upstream_id=raw.upstream_id,
        converter=spec.name,
        family=spec.family,
        embodiment=spec.embodiment,
        control_mode=spec.control_mode,
        conversion_digest=conversion.digest,
        content_digest=_content_digest(times, state, action, media, raw),
        group=_group(spec, raw),
        times_ns=times - rows.start,
        hz=rows.hz,
        state=state,
        action=action,
        labels={mapping.slot: mapping.label for mapping in spec.action},
        frames={f"{side}/{m.slot}": m.frame for side, ms in _sides(spec) for m in ms},
        native_units={
            f"{side}/{c}": m.unit for side, ms in _sides(spec) for m, cs in native_channels(ms, arrays) for c in cs
        },
        views=views,
        language=language,
        messages=raw.messages,
        native=raw.arrays,
        native_action=native_action,
        media=media,
        files=raw.files,
        attributes=raw.attributes,
        notes=dict(rows.notes),
    )


def _check_joints(conversion: Conversion, sides: Mapping[str, SlotArray | None]) -> None:
    """A slot of joints that the card names is filled with as many, unless the converter names which it has."""
    for side, mappings in _sides(conversion.converter):
        array, named = sides[side], {mapping.slot for mapping in mappings if mapping.joints}
        for key, joints in conversion.card.joints.items():
            slot = unified().slot(key)
            count = sum(slot.start <= channel < slot.stop for channel in array.channels.tolist()) if array else 0
            if key not in named and count not in (0, len(joints)):
                what = f"{side} gives {count} values of {key}, {conversion.card.name} has {len(joints)} joints there"
                raise EpisodeError("wrong_dimension", what)


def _check_told(raw: RawEpisode) -> None:
    if not raw.told:
        raise EpisodeError("missing_statistics", "the source keeps no statistics of this episode that can be read")
    found = contradictions(raw.arrays, raw.told)
    if found:
        told = "; ".join(f"{name}: {different}" for name, different in sorted(found.items()))
        raise EpisodeError(
            "statistics_mismatch",
            f"numbers are not those that the source's own statistics were taken of: {told}",
            fix="find out which of the two changed; `own_statistics` left out takes the numbers as they are",
        )


def _sides(spec: Converter) -> tuple[tuple[str, Sequence[StateMapping]], ...]:
    return ("state", spec.state), ("action", spec.action)


def _group(spec: Converter, raw: RawEpisode) -> str:
    if spec.group == "source":
        return spec.source_id
    if spec.group == "from_format":
        if raw.group is None:
            raise EpisodeError("missing_group", "the format found no group (scene) for this episode")
        return f"{spec.source_id}/{raw.group}"
    return f"{spec.source_id}/{raw.upstream_id}"


def _check_kept(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Every array is kept as it is, so it must be of a type that can be: numbers of at most 8 bytes."""
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
            raise EpisodeError("bad_dtype", f"{name} holds {array.dtype}, not numbers of at most 8 bytes")


def _checked(media: Media) -> Media:
    """Decode every frame once: what does not decode is known at the door, not in the middle of a build.

    Of images that were encoded a moment ago, from pixels, the first and the last are.
    """
    try:
        if media.kind == "video":
            from dataengine import video

            for _ in video.frames(media, range(media.frames), size=(16, 16)):
                pass
        else:
            for index in {0, media.frames - 1} if media.own else range(media.frames):
                images.decode(media.image(index))
    except BadInput as error:
        raise EpisodeError(error.reason, f"{media.name}: {error.what}") from None
    return media


def _views(spec: Converter, media: Mapping[str, Media], rows: Rows) -> tuple[tuple[View, ...], dict[str, Media]]:
    """Named views with frame times on the episode's clock; a stream of another length is a drop."""
    if spec.items:
        for name, item in media.items():
            if item.kind == "video" and not item.codec.startswith("mp4/"):
                raise EpisodeError("unsupported_media", f"{name}: a video item is an mp4, not {item.codec}")
        return (), dict(media)
    result, views = {}, []
    for entry in spec.views:
        found = media.get(entry.media)
        if found is None:
            raise EpisodeError(
                "missing_stream",
                f"the camera stream {entry.media!r} is not in the episode",
                fix=f"it holds: {', '.join(sorted(media)) or 'no camera streams'}",
            )
        result[entry.media] = replace(found, times_ns=_frame_times(entry, found, rows) - rows.start)
        views.append(View(entry.view, entry.media, entry.channel_order, entry.rotate))
    return tuple(views), result


def _frame_times(entry: ViewSpec, media: Media, rows: Rows) -> NDArray[np.int64]:
    """When a view's frames were taken, on the source's clock; a step without a frame is a drop."""
    if entry.clock == "rows":
        fitting = {len(rows.times), len(rows.times) - rows.notes.get("last_observation", 0)}
        if media.frames not in fitting:
            raise EpisodeError(
                "frame_count_mismatch", f"{entry.media}: {media.frames} frames for {len(rows.times)} rows"
            )
        return rows.times[: media.frames]
    if len(media.times_ns) != media.frames:
        raise EpisodeError("missing_time", f"{entry.media}: the format gives no frame times")
    timeline.check_increasing(media.times_ns, entry.media)
    steps = rows.times[rows.kept]
    away = np.abs(media.times_ns[timeline.nearest(steps, media.times_ns)] - steps)
    if away.max() > round((entry.within_s or 0.0) * timeline.NS):
        row = int(rows.kept[int(away.argmax())])
        raise EpisodeError(
            "no_frame_near",
            f"{entry.media}: the frame nearest to row {row} is {away.max() / timeline.NS:.3f} s away",
            fix="`time.overlap: trim` leaves out rows before the first and after the last frame",
        )
    return media.times_ns


def _languages(specs: Sequence[LanguageSpec], raw: RawEpisode, rows: Rows) -> tuple[Language, ...]:
    kept = rows.kept
    found: list[Language] = []
    for spec in specs:
        if spec.text is not None:
            found.append(Language(spec.text, "converter", spec.level, (0, len(kept))))
            continue
        texts = raw.texts.get(str(spec.stream))
        if texts is None:
            raise EpisodeError(
                "missing_stream",
                f"the text stream {spec.stream!r} is not in the episode",
                fix=f"it holds: {', '.join(sorted(raw.texts)) or 'no texts'}",
            )
        if len(texts) == 1:
            texts = texts * len(rows.times)
        if len(rows.times) - len(texts) not in {0, rows.notes.get("last_observation", 0)}:
            raise EpisodeError("length_mismatch", f"{spec.stream}: {len(texts)} texts for {len(rows.times)} rows")
        for text in dict.fromkeys(texts):
            check_text(text, f"the instruction ({spec.stream})")
        found.extend(_runs([texts[row] for row in kept], str(spec.stream), spec))
    return tuple(found)


def _runs(texts: Sequence[str], source: str, spec: LanguageSpec) -> list[Language]:
    """Texts per step as spans of equal text; empty texts say nothing and give no span."""
    edges = [0, *(row for row in range(1, len(texts)) if texts[row] != texts[row - 1]), len(texts)]
    return [
        Language(texts[start], source, spec.level, (start, stop))
        for start, stop in pairwise(edges)
        if texts[start].strip()
    ]


def _content_digest(
    times: NDArray[np.int64],
    state: SlotArray | None,
    action: SlotArray | None,
    media: Mapping[str, Media],
    raw: RawEpisode,
) -> str:
    """sha256 over slots, times, packets and messages: equal for the same episode under another name."""
    digest = hashlib.sha256(times.tobytes())
    for slots in (state, action):
        for part in () if slots is None else (slots.channels, slots.values, slots.mask):
            digest.update(np.ascontiguousarray(part).tobytes())
    for name in sorted(media):
        digest.update(f"{media[name].digest}\n".encode())
    digest.update(canonical_json([[m.role, [dict(part) for part in m.content]] for m in raw.messages]))
    return digest.hexdigest()
