"""Checks of pictures and the steps on pictures, on pictures drawn for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dataengine import images, video
from dataengine.documents import sha256_bytes
from dataengine.episode import Media, View, images_media
from dataengine.errors import SpecError
from dataengine.evidence.body import body_evidence, change_centres
from dataengine.evidence.pictures import Gallery, black, exchanged, hue_shares, picture_evidence, swapped
from dataengine.specs.converter import ExpectedView, load_converter
from dataengine.timeline import row_times
from dataengine.transforms.pictures import perceptual_hash, sharpness
from dataengine.transforms.steps import Drop, parse_step, run_steps

ORANGE, YELLOW, BLUE, GREY = (230, 120, 20), (220, 210, 30), (30, 60, 220), (120, 120, 120)


def plain(colour, size=(48, 64)):
    return np.full((*size, 3), colour, np.uint8)


def scene(seed=0, size=(48, 64)):
    chance = np.random.default_rng(seed)
    picture = plain(GREY, size)
    for _ in range(30):
        row, column = chance.integers(0, size[0] - 8), chance.integers(0, size[1] - 8)
        picture[row : row + 8, column : column + 8] = (ORANGE, YELLOW, GREY)[chance.integers(3)]
    return picture


def stored(name, pictures, hz=10.0):
    media = images_media(name, "png", [images.encode(picture, "png") for picture in pictures], *pictures[0].shape[:2])
    return replace(media, times_ns=row_times(len(pictures), hz))


@pytest.fixture
def shown(make_episode):
    """An episode that moves, with one view for each list of pictures."""

    def make(uid="u", **views):
        rows = len(next(iter(views.values())))
        media = {name: stored(name, pictures) for name, pictures in views.items()}
        state = {"eef_pos.right": np.linspace(0, 1, rows)[:, None] * np.ones((1, 3))}
        return make_episode(state, uid=uid, media=media, views=tuple(View(name, name) for name in views))

    return make


def test_hues_stand_in_their_sectors():
    for colour, sector in ((ORANGE, 1), (YELLOW, 2), (BLUE, 8)):
        hues, share = hue_shares([plain(colour)[None]])
        assert hues.argmax() == sector
        assert share == 1.0
    assert hue_shares([plain(GREY)[None]])[1] == 0.0


def test_exchanged_hues_are_those_of_exchanged_pictures():
    picture = scene()[None]
    np.testing.assert_allclose(exchanged(hue_shares([picture])[0]), hue_shares([picture[..., ::-1]])[0], atol=1e-12)
    hues = np.arange(12.0)
    assert np.array_equal(exchanged(exchanged(hues)), hues)


def test_swapped_channels_against_the_record_and_against_the_world():
    good, bad = scene()[None], scene()[None][..., ::-1]
    record = ExpectedView(hues=tuple(hue_shares([good])[0] * 100))
    assert swapped("v", [good], record).status == "ok"
    assert swapped("v", [bad], record).status == "warning"
    assert swapped("v", [good], None).status == "ok"
    assert swapped("v", [bad], None).status == "warning"
    assert swapped("v", [plain(GREY)[None]], record).status == "unknown"
    # As much orange as azure: nothing to go by.
    assert swapped("v", [np.concatenate([good, bad])], None).status == "unknown"


def test_black_pictures_and_frozen_views_are_told(shown):
    converter = load_converter("bridge_octo")
    converter = converter.model_copy(update={"views": (converter.views[0].model_copy(update={"expected": None}),)})

    def verdict(pictures):
        return next(v for v in picture_evidence([shown(ext_1=pictures)], converter, Gallery()) if "blank" in v.check)

    assert verdict([scene(seed) for seed in range(8)]).status == "ok"
    assert "black_view" in verdict([plain((3, 3, 3))] * 8).suspects
    assert "frozen_view" in verdict([scene()] * 8).suspects


def test_a_camera_that_stands_still_for_a_stretch_is_told(shown):
    """Twenty of forty pictures, or one black one; not where a slow camera repeats each picture, nor where all rests."""
    converter = load_converter("bridge_octo").model_copy(
        update={"views": (load_converter("bridge_octo").views[0].model_copy(update={"view": "ext_1"}),)}
    )

    def verdict(episode):
        return next(v for v in picture_evidence([episode], converter, Gallery()) if "blank" in v.check)

    moving = [scene(number) for number in range(40)]
    stuck = [*moving[:10], *[moving[10]] * 20, *moving[30:]]
    assert verdict(shown(ext_1=moving)).status == "ok"
    found = verdict(shown(uid="s", ext_1=stuck))
    assert (found.status, found.suspects, found.figures["stuck"]) == ("warning", ("frozen_view",), 20.0)
    slow = [moving[number // 8] for number in range(40)]
    assert verdict(shown(uid="r", ext_1=slow)).status == "ok"
    resting = shown(uid="q", ext_1=stuck)
    still = resting.state.values.copy()
    still[10:30] = still[10]
    assert verdict(replace(resting, state=replace(resting.state, values=still))).status == "ok"
    dark = [*moving[:20], plain((0, 0, 0)), *moving[21:]]
    assert verdict(shown(uid="d", ext_1=dark)).status == "warning"


def test_a_view_is_looked_at_as_it_is_shown(shown):
    episode = shown(head=[scene(), scene(1)])
    view = View("head", "head", "bgr", 180)
    np.testing.assert_array_equal(Gallery().rows(episode, view, 1)[0], scene()[::-1, ::-1, ::-1])


def test_change_is_centred_where_it_happens():
    pictures = np.stack([plain(GREY)] * 3)
    pictures[1, 10:14, 45:49] = 255
    centre, compact = change_centres(pictures)
    assert compact.all()
    np.testing.assert_allclose(centre, [[47 / 64, 12 / 48]] * 2, atol=1e-6)


@pytest.mark.parametrize(("change", "suspect"), [("none", None), ("y", "wrong_frame"), ("scale", "wrong_scale")])
def test_pixels_are_held_against_the_picture(make_episode, change, suspect):
    turn = np.linspace(0, 9, 60)
    place = 256 + np.stack([150 * np.cos(turn), 110 * np.sin(turn)], axis=1)
    pictures = []
    for x, y in place:
        picture = np.full((96, 96, 3), 235, np.uint8)
        column, row = int(x / 512 * 96), int(y / 512 * 96)
        picture[row - 3 : row + 4, column - 3 : column + 4] = (40, 90, 200)
        pictures.append(picture)
    change_of = {"none": place, "y": place * [1, -1] + [0, 512], "scale": place * 96 / 512}
    episode = make_episode(
        {"native": change_of[change]},
        media={"cam": stored("cam", pictures)},
        views=(View("front", "cam"),),
        native_units={"state/240": "px512", "state/241": "px512"},
    )
    found = body_evidence([episode], load_converter("pusht_lerobot"), Gallery())
    (verdict,) = [v for v in found if v.check == "position_in_view"]
    assert (verdict.status == "warning") == (suspect is not None)
    assert suspect is None or suspect in verdict.suspects


# Steps --------------------------------------------------------------------------------------------------------------


def test_black_frames_beyond_the_share_drop(shown):
    dark, bright = plain((2, 2, 2)), scene()
    step = parse_step({"name": "black_frames", "max_share": 0.25})
    assert run_steps(shown(head=[bright] * 7 + [dark]), [step]).drop is None
    drop = run_steps(shown(head=[bright] * 5 + [dark] * 3), [step]).drop
    assert drop is not None
    assert drop.reason == "black_frames"
    assert "3 of 8" in drop.evidence
    assert black(np.stack([dark, bright])).tolist() == [True, False]


def test_every_view_is_looked_at(shown):
    step = parse_step({"name": "black_frames"})
    drop = run_steps(shown(head=[scene()] * 4, front=[plain((0, 0, 0))] * 4), [step]).drop
    assert drop is not None
    assert drop.evidence.startswith("front")


def test_blurred_frames_by_the_variance_of_the_laplacian(shown):
    sharp = scene()
    blurred = images.resize(images.resize(sharp, (6, 8)), (48, 64))
    low, high = sharpness(np.stack([blurred, sharp]))
    assert low * 5 < high
    assert sharpness(plain(GREY)[None])[0] == 0.0
    step = parse_step({"name": "blurred_frames", "sharpness": float(np.sqrt(low * high))})
    assert run_steps(shown(head=[sharp] * 6), [step]).drop is None
    assert run_steps(shown(head=[blurred] * 6), [step]).drop.reason == "blurred_frames"


def test_frozen_frames_count_neighbours(shown):
    step = parse_step({"name": "frozen_frames", "max_share": 0.5})
    moving = [scene(seed) for seed in range(8)]
    assert run_steps(shown(head=moving), [step]).drop is None
    # Half the rate of the rows: four of seven neighbours are equal.
    assert run_steps(shown(head=[moving[row // 2] for row in range(8)]), [step]).drop.reason == "frozen_frames"
    generous = parse_step({"name": "frozen_frames", "max_share": 0.6})
    assert run_steps(shown(head=[moving[row // 2] for row in range(8)]), [generous]).drop is None


def test_the_same_recording_in_other_bytes_is_found(shown, make_episode):
    encoded = [images.encode(scene(seed), "jpeg", quality=80) for seed in range(4)]
    step = parse_step({"name": "duplicate_pictures"})
    first = shown(head=[images.decode(data) for data in encoded])
    media = replace(images_media("head", "jpeg", encoded, 48, 64), times_ns=row_times(4, 10.0))
    again = replace(first, uid="v", media={"head": media})
    assert step.fingerprint(first) == step.fingerprint(again)
    assert step.fingerprint(first) != step.fingerprint(shown(head=[scene(seed) for seed in range(3)]))
    assert step.fingerprint(make_episode({"eef_pos.right": np.zeros((4, 3))})) is None


def test_perceptual_hash_stands_brightness_and_scale():
    picture = scene(5, (96, 128))
    darker = (picture * 0.8).astype(np.uint8)
    smaller = images.resize(picture, (48, 64))

    def differing(other):
        return bin(int(perceptual_hash(picture), 16) ^ int(perceptual_hash(other), 16)).count("1")

    assert differing(darker) <= 2
    assert differing(smaller) <= 4
    assert differing(scene(6, (96, 128))) > 12


def test_pictures_of_a_video_are_judged_too(make_episode):
    data = video.encode([scene(seed, (64, 64)) for seed in range(6)], 10)
    media = Media("cam", "video", "mp4/h264", data, 6, 64, 64, sha256_bytes(data), times_ns=row_times(6, 10.0))
    episode = make_episode({"eef_pos.right": np.zeros((6, 3))}, media={"cam": media}, views=(View("head", "cam"),))
    assert run_steps(episode, [parse_step({"name": "black_frames"})]).drop is None
    assert run_steps(episode, [parse_step({"name": "frozen_frames", "max_share": 0.1})]).drop is None


def test_views_are_edited_without_decoding(make_episode):
    episode = make_episode(
        {"eef_pos.right": np.zeros((4, 3))}, views=(View("head", "a"), View("front", "b", "bgr", 270))
    )

    def edited(**entry):
        return run_steps(episode, [parse_step(entry)]).episode.views

    assert edited(name="rotate_view", view="head", degrees=180)[0] == View("head", "a", "rgb", 180)
    assert edited(name="rotate_view", view="front", degrees=180)[1] == View("front", "b", "bgr", 90)
    assert edited(name="swap_channels", view="head")[0].channel_order == "bgr"
    assert edited(name="swap_channels", view="front")[1].channel_order == "rgb"
    assert edited(name="drop_view", view="head") == (View("front", "b", "bgr", 270),)
    assert edited(name="rename_view", view="head", to="ext_1")[0] == View("ext_1", "a")
    taken = run_steps(episode, [parse_step({"name": "rename_view", "view": "head", "to": "front"})])
    assert isinstance(taken.drop, Drop)
    assert taken.drop.reason == "view_name_taken"
    absent = run_steps(episode, [parse_step({"name": "drop_view", "view": "rear"})])
    assert absent.episode is episode
    assert absent.changed == ()


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "black_frames", "max_share": 1.0},
        {"name": "black_frames", "max_share": True},
        {"name": "blurred_frames", "sharpness": 0},
        {"name": "blurred_frames"},
        {"name": "frozen_frames", "max_share": -0.1},
        {"name": "rotate_view", "view": "head", "degrees": 45},
        {"name": "rotate_view", "view": "Head", "degrees": 90},
        {"name": "drop_view", "view": ""},
        {"name": "rename_view", "view": "head", "to": "head"},
        {"name": "swap_channels", "view": 3},
    ],
)
def test_mistakes_in_parameters_are_spec_errors(entry):
    with pytest.raises(SpecError):
        parse_step(entry)
