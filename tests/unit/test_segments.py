"""Segments of made-up episodes against the windows that `WindowEncoder` makes of them; the index that counts them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from dataengine import images
from dataengine.camera import Camera
from dataengine.embodiment import load_card
from dataengine.episode import Episode, Language, Media, View, images_media
from dataengine.errors import FormatError, SchemaError, SpecError
from dataengine.loader.segment import Cutting, Segment
from dataengine.loader.segments import Choices, SegmentPlaces
from dataengine.loader.shards import IndexTable, Placed
from dataengine.plan import Run, clipped, runs_of
from dataengine.shards import index
from dataengine.shards.samples import SampleSpec, WindowEncoder
from dataengine.shards.segments import SegmentSpec, listed, segment_sample
from dataengine.shards.tar import Member, Sample
from dataengine.specs.recipe import Chunk, ImageSpec, PromptSpec, SamplesSpec, Window
from dataengine.transforms.prompts import form_of

MakeEpisode = Callable[..., Episode]
Bounds = tuple[NDArray[np.int64], NDArray[np.int64]]
ROWS, SEED = 90, 11
MARGINS = SamplesSpec(kind="episode", before=6, after=40)
CARD = load_card("widowx_250")
FIXED = Camera(
    size=(8.0, 12.0), focal=(9.0, 9.0), centre=(6.0, 4.0), distortion="none", base="robot_base",
    T_parent_camera=tuple(map(tuple, np.eye(4).tolist())),
)  # fmt: skip
CARRIED = replace(FIXED, parent_slot="ego_camera", base="unknown")


def stream(name: str, codec: str, times: NDArray[np.int64], seed: int) -> Media:
    chance = np.random.default_rng(seed)
    pictures = chance.integers(0, 255, (len(times), 8, 12, 3), np.uint8)
    made = images_media(name, codec, [images.encode(picture, codec) for picture in pictures], 8, 12)
    return replace(made, times_ns=times)


@pytest.fixture(scope="module")
def episode(make_episode: MakeEpisode) -> Episode:
    """Two views at rates of their own, a camera that moves and is lost, commands that end, texts that change."""
    chance = np.random.default_rng(SEED)
    turn = np.tile([1.0, 0, 0, 0, 1, 0], (ROWS, 1))
    place = np.cumsum(chance.normal(0, 0.01, (ROWS, 3)), axis=0)
    known = np.arange(ROWS) % 13 != 4
    made = make_episode(
        {"arm_joint.right": chance.normal(size=(ROWS, 7)), "ego_camera_pos": place, "ego_camera_rot6d": turn},
        {"eef_pos.right": place, "base_linear": chance.normal(size=(ROWS, 3)), "gripper.right": np.ones(ROWS)},
        mask={
            "state/ego_camera_pos": known,
            "action/eef_pos.right": np.arange(ROWS) < ROWS - 1,
            "action/gripper.right": np.arange(ROWS) < 30,
        },
        spans={"reach": (0, 25), "grasp it": (25, ROWS)},
    )
    views = (View("head", "a", camera=CARRIED), View("front", "b", camera=FIXED, rotate=90))
    media = {
        "a": stream("a", "png", np.arange(0, 9_000_000_000, 140_000_000), 1),
        "b": stream("b", "jpeg", np.arange(3_000_000, 9_000_000_000, 70_000_000), 2),
    }
    language = (*made.language, Language("tidy up", "t", "task", (10, 70), 0.5))
    native = {"ids": np.arange(ROWS) % 4, "params": {"stop": 0}}
    return replace(made, views=views, media=media, language=language, native_action=native)


def narrowed(seed: int) -> tuple[NDArray[np.int64], Bounds]:
    """How often each step counts, and what its window may read: whole, with gaps, or in pieces."""
    chance = np.random.default_rng(seed)
    weights, first, stop = np.ones(ROWS, np.int64), np.zeros(ROWS, np.int64), np.full(ROWS, ROWS, np.int64)
    cuts = sorted(chance.choice(np.arange(2, ROWS - 2), 4, replace=False).tolist())
    if seed % 3 == 1:
        weights[cuts[0] : cuts[1]], weights[cuts[2] : cuts[3]] = 0, 3
    if seed % 3 == 2:
        weights[:] = 0
        for low, high in ((0, cuts[0]), (cuts[0], cuts[1]), (cuts[2], cuts[3])):
            weights[low:high], first[low:high], stop[low:high] = 1 + low % 2, low, high
    return weights, (first, stop)


def segments(episode: Episode, weights: NDArray[np.int64], bounds: Bounds, size: int) -> list[tuple[Sample, list[Run]]]:
    spec = SegmentSpec(MARGINS, ImageSpec(), CARD, "made")
    found = []
    for start in range(0, ROWS, size):
        runs = list(clipped(runs_of(weights), start, min(start + size, ROWS)))
        if runs:
            found.append((segment_sample(episode, spec, start, runs, bounds), runs))
    return found


def opened(sample: Sample) -> tuple[Segment, dict[str, bytes]]:
    members = dict(sample.members)
    placed = Placed(0, "shard", sample.key, dict.fromkeys(members, (0, 0)))
    return Segment.parse(placed, members), members


@pytest.mark.parametrize("size", [7, 33, ROWS])
@pytest.mark.parametrize("seed", range(6))
def test_every_window_is_the_encoder_s(episode: Episode, seed: int, size: int) -> None:
    weights, bounds = narrowed(seed)
    window = Window(chunk=Chunk(steps=(1, 9, 40)[seed % 3]), history=(1, 4, 7)[(seed + size) % 3])
    prompt = PromptSpec(form=("qwen_vla", "pi0")[seed % 2], choose=("first", "sample")[seed % 2])
    steps = np.flatnonzero(weights).tolist()
    encoder = WindowEncoder(episode, SampleSpec(window, ImageSpec(), CARD, prompt, SEED), steps, bounds)
    how = Cutting(window.chunk.horizon(episode.hz), window.history, prompt, form_of(prompt), SEED)
    seen = []
    for sample, runs in segments(episode, weights, bounds, size):
        segment, members = opened(sample)
        for step in (step for low, high, _ in runs for step in range(low, high)):
            cut = segment.cut(step, 1, how)
            shown = segment.pictures(step, how, None)
            cut.raw.members.update({name: members[member] for name, member in shown.items()})
            assert list(cut.members().items()) == list(encoder.sample(step, 1).members), step
            seen.append(step)
    assert seen == steps


def test_a_lost_camera_has_no_pose(episode: Episode) -> None:
    (sample, _), *_ = segments(episode, *narrowed(0), ROWS)
    segment, _ = opened(sample)
    how = Cutting(4, 1, PromptSpec(), form_of(PromptSpec()), SEED)
    posed = ["T_base_camera" in segment.cut(step, 0, how).facts["views"]["head"]["camera"] for step in range(ROWS)]
    assert posed == [step % 13 != 4 for step in range(ROWS)]
    assert segment.arrays["front.poses"].shape == (1, 4, 4), "a camera that stands has one pose"
    assert segment.arrays["head.poses"].shape == (ROWS, 4, 4)


def test_frames_lie_by_time_behind_the_numbers(episode: Episode) -> None:
    (sample, _), *_ = segments(episode, *narrowed(0), 20)
    names = [name for name, _ in sample.members]
    first = next(at for at, name in enumerate(names) if name.endswith((".png", ".jpg")))
    assert names[0] == "json"
    assert names[1:first] == sorted(names[1:first])
    assert all(name.endswith(".npy") for name in names[1:first])
    times = [
        int(episode.media["a" if view == "head" else "b"].times_ns[int(frame)])
        for view, frame, _ in (name.split(".") for name in names[first:])
    ]
    assert times == sorted(times)
    assert len(names) == len(set(names))


def test_only_rows_and_frames_that_windows_read_are_stored(episode: Episode) -> None:
    weights, bounds = np.zeros(ROWS, np.int64), (np.zeros(ROWS, np.int64), np.full(ROWS, ROWS, np.int64))
    weights[30:32] = weights[60:61] = 1
    (sample, _), *rest = segments(episode, weights, bounds, ROWS)
    assert not rest
    segment, _ = opened(sample)
    assert segment.facts["rows"] == [30 - 6, 90]
    table = segment.views["front"].frames
    shown = (np.flatnonzero(table[:, 0] >= 0) + 24).tolist()
    assert shown == [*range(24, 32), *range(54, 61)]


def test_a_value_that_padding_would_repeat_is_finite(episode: Episode) -> None:
    assert episode.action is not None
    spoiled = episode.action.values.copy()
    spoiled[29, -1] = np.nan
    column = int(np.flatnonzero(~episode.action.mask.all(axis=0))[-1])
    spoiled[29, column] = np.nan
    with pytest.raises(SchemaError, match="finite"):
        segments(replace(episode, action=replace(episode.action, values=spoiled)), *narrowed(0), ROWS)


# --- the index ---

MEMBERS = (Member("k-0000000-seg.json", 512, 10), Member("k-0000000-seg.head.0000001.jpg", 1536, 20))
ENTRIES = [("k-0000000-seg", MEMBERS), ("i-0000000-000", (Member("i-0000000-000.json", 3072, 5),))]
SAID = {"hz": 10.0, "source": "made", "starts": [[3, 10, 1], [12, 20, 2]]}


def test_an_index_says_what_windows_are_counted_by() -> None:
    data = index.dump(ENTRIES, {"k-0000000-seg": SAID})
    assert index.parse(data, "x") == ENTRIES
    table = IndexTable.parse(data, "x")
    assert table.listed == {0: SAID}
    assert table.keys == ("k-0000000-seg", "i-0000000-000")
    assert listed({"kind": "segment", "rows": [0, 3], **SAID}) == SAID
    assert listed({"kind": "window", **SAID}) is None


def test_an_index_of_windows_is_as_it_was() -> None:
    assert index.dump(ENTRIES[1:]) == b'{"samples":[["i-0000000-000",[["json",3072,5]]]],"version":1}'
    assert IndexTable.parse(index.dump(ENTRIES[1:]), "x").listed == {}


class Tables:
    """Shards of one index."""

    def __init__(self, said: object) -> None:
        self.table = IndexTable.parse(index.dump(ENTRIES, {"k-0000000-seg": said}), "x")  # type: ignore[dict-item]

    def tables(self) -> list[tuple[int, IndexTable]]:
        return [(0, self.table), (2, self.table)]


def choices(**window: object) -> Choices:
    recipe = {
        "samples": MARGINS.canonical(),
        "seed": 0,
        "window": {"chunk": {"steps": 4}},
        "prompt": {},
        "sources": [{"converter": "made"}],
    }
    found = Choices.of(recipe, window or None, None)
    assert found is not None
    return found


@pytest.mark.parametrize("stride", [1, 2, 3, 5, 7, 30])
def test_places_are_windows_in_order(stride: int) -> None:
    places = SegmentPlaces(Tables(SAID), choices(stride=stride), ("window", "item"))  # type: ignore[arg-type]
    steps = [(step, 0) for step in range(3, 10)] + [(step, repeat) for step in range(12, 20) for repeat in (0, 1)]
    own = [(0, step, repeat, False) for step, repeat in steps if step % stride == 0] + [(1, 0, 0, True)]
    expected = own + [(sample + 2, *rest) for sample, *rest in own]
    assert [tuple(places.window_of(place)) for place in range(len(places))] == expected
    assert places.stops.tolist() == [len(own), 2 * len(own)]
    for kind in ("window", "item"):
        only = SegmentPlaces(Tables(SAID), choices(stride=stride), (kind,))  # type: ignore[arg-type]
        assert len(only) == sum(place[3] == (kind == "item") for place in expected)


@pytest.mark.parametrize(
    "said",
    [{}, {**SAID, "hz": "x"}, {**SAID, "source": "other"}, {**SAID, "starts": [[1, 2]]}, {**SAID, "starts": None}, [1]],
)
def test_an_index_that_says_no_windows_is_damaged(said: object) -> None:
    with pytest.raises(FormatError, match="k-0000000-seg"):
        SegmentPlaces(Tables(said), choices(), ("window",))  # type: ignore[arg-type]


def test_margins_in_seconds_grow_with_the_rate() -> None:
    samples = SamplesSpec.parse({"kind": "episode", "before": {"seconds": 0.5}, "after": {"seconds": 2.0}}, "x")
    assert samples.margins(10.0) == (5, 20)
    assert samples.margins(30.0) == (15, 60)
    with pytest.raises(SpecError, match="chunk"):
        choices(chunk={"steps": 41}).check("made", 10.0)
    with pytest.raises(SpecError, match="history"):
        choices(history=8).check("made", 10.0)
    choices(chunk={"steps": 40}, history=7).check("made", 10.0)
