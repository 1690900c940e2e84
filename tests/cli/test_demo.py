"""`dataengine demo`, as a user runs it; what it draws; and that it fails when the defect is not the one it planted."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from dataengine import demo, images, video
from dataengine.cli.main import app
from dataengine.convert import Conversion, convert
from dataengine.demo import arm, corridors, data, hands, pictures, push, tour
from dataengine.documents import load_yaml
from dataengine.episode import Episode
from dataengine.errors import StorageError
from dataengine.fixtures.vlnce_writer import LEFT, RIGHT
from dataengine.formats.base import EpisodeRef, get_format
from dataengine.specs.converter import load_converter
from dataengine.storage import SourceRoot

PROGRAM = Path(sys.executable).parent / "dataengine"
COUNTS = {
    "demo_arm": ("robot", 4, 4),
    "demo_push": ("simulation", 5, 4),
    "demo_hands": ("egocentric", 3, 3),
    "demo_corridors": ("navigation", 4, 4),
    "demo_pictures": ("vision_language", 6, 6),
}


def silent(_stage: str, _done: int, _total: int) -> None:
    pass


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> demo.Demo:
    """The demo in this process, with local workers."""
    return demo.run(tmp_path_factory.mktemp("demo"), silent, engine="local")


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def converted(made: demo.Demo, family: str, converter: str) -> dict[str, Episode]:
    """Good episodes of a family, as a converter makes them."""
    conversion, root = Conversion.load(converter), SourceRoot(made.out / "raw" / family)
    reader = get_format(conversion.converter.format.name)
    refs = list(reader.scan(root, None, conversion.converter.format.options))
    assert all(isinstance(ref, EpisodeRef) for ref in refs)
    good = (ref for ref in refs if isinstance(ref, EpisodeRef) and ref.upstream_id != made.planted.upstream_id)
    return {ref.upstream_id: convert(reader.read(root, ref), conversion) for ref in good}


# As a user runs it


@pytest.mark.ray
@pytest.mark.slow
def test_a_user_runs_it_and_the_commands_it_names(tmp_path: Path, made: demo.Demo) -> None:
    environment = {"PATH": f"{PROGRAM.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [str(word) for word in words]
        return subprocess.run(
            command, check=False, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=400
        )

    done = run(PROGRAM, "demo", "--out", tmp_path / "tour", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ok"] is True
    assert found["engine"] == "ray"
    check_document(found, tmp_path / "tour")
    assert found["samples"] == made.manifest.samples
    assert tree(tmp_path / "tour/mixture/blobs") == tree(made.out / "mixture/blobs"), "Ray builds other bytes"
    for step in found["next"]:
        tried = run(*shlex.split(step["command"]))
        again = "build" in step["command"]
        assert tried.returncode == (3 if again else 0), (step["command"], tried.stderr)
        if again:
            assert "already built: version v0001" in tried.stdout
        if "loader" in step["command"]:
            assert tried.stdout.strip() == "(8, 8, 256)"
    assert {step["command"].split()[1] for step in found["next"]} >= {"audit", "verify", "inspect", "urls", "build"}


def check_document(found: Mapping[str, Any], out: Path) -> None:
    assert found["out"] == str(out)
    rows = {row["source_id"]: row for row in found["sources"]}
    kept = {name: (row["family"], row["episodes_in"], row["episodes_kept"]) for name, row in rows.items()}
    assert kept == COUNTS
    assert all(row["samples"] > 0 for row in rows.values())
    assert all(row["episodes_in"] == row["episodes_kept"] + row["episodes_dropped"] for row in rows.values())
    assert {row["license"] for row in rows.values()} == {"Apache-2.0"}, "made-up scenes carry nobody else's terms"
    (caught,) = found["caught"]
    planted = found["planted"]
    assert all(caught[name] == planted[name] for name in ("source_id", "upstream_id", "reason"))
    assert (caught["source_id"], caught["upstream_id"]) == ("demo_push", "episode_000003")
    assert caught["reason"] == "video_unreadable"
    assert planted["file"] in caught["evidence"]
    assert found["drops"] == {"video_unreadable": 1}
    assert found["verified"]["samples"] == found["samples"] == sum(row["samples"] for row in rows.values())
    assert all(check["ok"] for check in found["checks"])


def test_the_document_of_a_local_run(made: demo.Demo) -> None:
    assert made.ok
    check_document(made.document(), made.out)
    assert json.loads(json.dumps(made.document())) == made.document()


def test_what_it_prints(made: demo.Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "run", lambda _out, _tell: made)
    shown = CliRunner().invoke(app, ["demo"])
    assert shown.exit_code == 0, shown.output
    assert str(made.out) in shown.output
    assert "planted  demo_push episode_000003: as if its copy had been interrupted" in shown.output
    assert "caught   demo_push episode_000003: video_unreadable: " in shown.output
    assert "NOT" not in shown.output
    for step in made.next_steps:
        assert step.command in shown.output
        assert step.shows in shown.output


def test_a_new_temporary_folder_unless_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tour.tempfile, "tempdir", str(tmp_path))
    first, second = tour._folder(None), tour._folder(None)
    assert first != second
    assert {path.name.startswith("dataengine-demo-") for path in (first, second)} == {True}
    assert first.parent == tmp_path.resolve()


@pytest.mark.parametrize("taken", ["folder", "file"])
def test_a_folder_with_something_in_it_is_refused(tmp_path: Path, taken: str) -> None:
    out = tmp_path / "out"
    if taken == "folder":
        out.mkdir()
    (out / "mine.txt" if taken == "folder" else out).write_text("mine")
    before = tree(tmp_path)
    shown = CliRunner().invoke(app, ["demo", "--out", str(out)])
    assert shown.exit_code == StorageError.exit_code == 1
    assert "new or an empty folder" in shown.output
    assert tree(tmp_path) == before


# It fails when the world is not as it says


def test_an_undone_defect_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missed = demo.run(tmp_path, silent, engine="local", plant=False)
    assert not missed.ok
    (failed,) = (check for check in missed.checks if not check.ok)
    assert failed.what == "planted: demo_push episode_000003 video_unreadable; caught: nothing"
    monkeypatch.setattr(demo, "run", lambda _out, _tell: missed)
    shown = CliRunner().invoke(app, ["demo"])
    assert shown.exit_code == 1
    assert "NOT  exactly the planted defect was caught" in shown.output


def test_a_second_defect_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant = data.spoil

    def twice(out: Path) -> None:
        plant(out)
        (out / "raw/vision_language/images/table_1.jpg").unlink()

    monkeypatch.setattr(data, "spoil", twice)
    found = demo.run(tmp_path, silent, engine="local")
    assert [check.name for check in found.checks if not check.ok] == ["exactly the planted defect was caught"]
    assert {row.reason for row in found.caught} == {"video_unreadable", "missing_media"}
    assert not found.ok


def test_an_episode_that_never_arrives_is_no_success(made: demo.Demo) -> None:
    written = {name: count for name, (_, count, _) in COUNTS.items()}
    passed = tour._checks(written, made.manifest, made.caught, made.verified)
    assert all(check.ok for check in passed)
    lost = tour._checks({**written, "demo_hands": 4}, made.manifest, made.caught, made.verified)
    assert [check.name for check in lost if not check.ok] == ["in = kept + dropped"]
    other = tuple(row.model_copy(update={"upstream_id": "episode_000001"}) for row in made.caught)
    wrong = tour._checks(written, made.manifest, other, made.verified)
    assert [check.name for check in wrong if not check.ok] == ["exactly the planted defect was caught"]


# What it writes


def test_the_same_data_every_time(tmp_path: Path, made: demo.Demo) -> None:
    data.write_raw(tmp_path, silent)
    data.spoil(tmp_path)
    assert tree(tmp_path / "raw") == tree(made.out / "raw")


def test_the_defect_is_in_the_video_alone(tmp_path: Path, made: demo.Demo) -> None:
    push_folder = next(source for source in data.SOURCES if source.name == "demo_push")
    push_folder.write(tmp_path)
    whole, broken = tree(tmp_path), tree(made.out / "raw/simulation")
    assert whole.keys() == broken.keys()
    assert [name for name in whole if whole[name] != broken[name]] == [made.planted.file]
    assert whole[made.planted.file].startswith(broken[made.planted.file])


@pytest.mark.parametrize("source", data.SOURCES, ids=lambda source: source.name)
def test_a_converter_differs_from_the_shipped_one_in_terms_and_evidence_only(
    made: demo.Demo, source: data.Source
) -> None:
    own = load_converter(str(made.out / "converters" / f"{source.name}.yaml"))
    shipped = load_converter(source.shipped)
    assert own.source.synthetic
    assert own.source_id == source.name
    assert meaning(own.canonical()) == meaning(shipped.canonical())
    assert load_yaml(made.out / "recipe.yaml")["sources"][data.SOURCES.index(source)]["path"].startswith("${data}/")


def meaning(value: Any, top: bool = True) -> Any:
    """A converter without its identity, terms and evidence."""
    left_out = {"evidence", "status"} | ({"name", "version", "source"} if top else set())
    if isinstance(value, dict):
        return {key: meaning(item, top=False) for key, item in value.items() if key not in left_out}
    return [meaning(item, top=False) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("source", data.SOURCES, ids=lambda source: source.name)
def test_the_shipped_converter_reads_it_too(made: demo.Demo, source: data.Source) -> None:
    episodes = converted(made, source.family, source.shipped)
    assert len(episodes) == COUNTS[source.name][2]


def test_it_needs_no_pytest() -> None:
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('pytest', '_pytest', 'hypothesis'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import dataengine.demo, dataengine.fixtures.robosuite_writer\n"
        "print([name for name in ('ray', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


# What it draws: scenes that agree with the numbers


def centre(pixels: images.Pixels, colour: arm.Colour, within: float = 60) -> np.ndarray[Any, Any] | None:
    """Where a colour is in a picture: the mean pixel (x, y) of its shades; None where fewer than six show it."""
    hue = np.array(colour) / np.linalg.norm(colour)
    values = pixels.astype(float)
    along = values @ hue
    near = (np.linalg.norm(values - along[..., None] * hue, axis=2) < within / 2) & (along > 90)
    rows, columns = np.nonzero(near)
    return np.array([columns.mean(), rows.mean()]) + 0.5 if len(rows) >= 6 else None


@pytest.mark.parametrize("number", range(4))
def test_the_arm_does_what_its_numbers_say(number: int) -> None:
    task = arm.TASKS[number]
    motion = arm.move(task)
    np.testing.assert_allclose(motion.state[1:, :6], motion.state[:-1, :6] + motion.action[:-1, :6], atol=1e-6)
    closed = motion.state[:, 6] <= arm.HELD + 1e-3
    first = int(np.flatnonzero(closed)[0])
    np.testing.assert_allclose(motion.state[first, :2], task.cube_at, atol=1e-6)
    np.testing.assert_allclose(motion.cube[closed], motion.state[closed, :3], atol=1e-6)
    assert motion.cube[:, 2].max() > 0.1, "the cube is lifted"
    np.testing.assert_allclose(motion.cube[-1, :2], task.plate_at, atol=1e-6)
    assert motion.state[-1, 6] == 1
    assert set(np.unique(motion.action[:, 6])) == {0, 1}
    assert np.linalg.norm(motion.action[:, :3], axis=1).max() < 0.06, "no jumps: a step takes 0.2 s"


@pytest.mark.parametrize("number", range(2))
def test_three_cameras_see_the_cube_where_it_is(number: int, made: demo.Demo) -> None:
    """Pictures as they lie in the raw data, against the projection of the cube's place."""
    task = arm.TASKS[number]
    motion = arm.move(task)
    episodes = converted(made, "robot", "bridge_octo")
    episode = next(e for e in episodes.values() if e.language[0].text == task.text)
    np.testing.assert_allclose(episode.state.values[:, :3], motion.state[:, :3], atol=1e-6)  # type: ignore[union-attr]
    views = {view.name: episode.media[view.media] for view in episode.views}
    for view, camera in zip(("ext_1", "ext_2", "ext_3"), arm.CAMERAS, strict=True):
        shown = [centre(images.decode(views[view].image(row)), arm.COLOURS[task.cube]) for row in range(episode.steps)]
        assert all(place is not None for place in shown)
        expected = camera.project(motion.cube)
        away = np.linalg.norm(np.array(shown) - expected, axis=1)
        assert away.max() < 3, view
        assert np.median(away) < 1.5, view
        assert np.ptp(expected, axis=0).max() > 15, "it moves through the picture"


def test_the_pusher_is_where_the_state_says(made: demo.Demo) -> None:
    """The blue disc in the decoded video, times 512 / 96, is the state of the same row and of no other."""
    episodes = converted(made, "simulation", "pusht_lerobot")
    assert set(episodes) == {f"episode_00000{k}" for k in (0, 1, 2, 4)}
    for episode in episodes.values():
        media = next(iter(episode.media.values()))
        shown = [centre(pixels, push.PUSHER) for _, pixels in video.frames(media, range(episode.steps))]
        assert all(place is not None for place in shown)
        found = np.array(shown) * 512 / 96
        state = episode.state.values  # type: ignore[union-attr]
        rms = {lag: np.sqrt(np.mean((found[2:-2] - state[2 + lag : len(state) - 2 + lag]) ** 2)) for lag in (-1, 0, 1)}
        assert rms[0] < 4
        assert rms[0] < min(rms[-1], rms[1]) / 2


@pytest.mark.parametrize("task", push.TASKS, ids=range(5))
def test_the_block_moves_by_being_pushed_and_arrives(task: push.Task) -> None:
    motion = push.move(task)
    moved = np.linalg.norm(np.diff(motion.block, axis=0), axis=1) > 0
    near = np.linalg.norm(motion.block - motion.pusher, axis=1)
    assert not moved[0], "nothing moves by itself"
    assert near[1:][moved].max() < 100, "only what is touched moves"
    assert np.linalg.norm(motion.block[-1] - task.goal) < 20
    follows = {lag: np.abs(motion.pusher[lag:] - motion.target[: len(motion.target) - lag]).mean() for lag in range(6)}
    assert min(follows, key=lambda lag: follows[lag]) in (2, 3), "the pusher follows its target late"


@pytest.mark.parametrize("take", hands.TAKES, ids=lambda take: take.name)
def test_the_hands_move_smoothly_and_hold_the_cup(take: hands.Take, made: demo.Demo) -> None:
    motion = hands.move(take)
    cup = np.array([place for place, _ in motion.thing])
    for hand in ("0", "1"):
        wrist, turns = (np.array(part) for part in zip(*motion.wrists[hand], strict=True))
        speed = np.linalg.norm(np.diff(wrist, axis=0), axis=1) * 30
        assert speed.max() < 2, "m/s"
        assert np.abs(np.diff(speed)).max() < 0.3, "no jolts"
        np.testing.assert_allclose(np.linalg.norm(turns, axis=1), 1)
        assert np.abs(np.diff(turns, axis=0)).max() < 0.1
        distance = np.linalg.norm((wrist - cup)[:, :2], axis=1)
        assert distance[0] > 0.15
        np.testing.assert_allclose(distance[hands.REACH :], distance[-1], atol=1e-9)
    assert cup[-1, 2] - cup[0, 2] == pytest.approx(0.14, abs=1e-3)
    episode = converted(made, "egocentric", "hot3d_aria")[take.name]
    assert episode.steps == hands.FRAMES
    left = episode.state.columns(71, 74)  # type: ignore[union-attr]
    assert (~episode.state.mask[:, left].any(axis=1)).sum() == take.late  # type: ignore[union-attr]


@pytest.mark.parametrize("number", range(4))
def test_the_agent_stays_in_the_corridors_and_does_as_it_is_told(number: int, made: demo.Demo) -> None:
    walk = corridors.WALKS[number]
    house = corridors.HOUSES[walk.scene]
    told, truth = corridors.episodes()[number]
    places = np.array(truth["locations"])
    signs = [house[int(z)][int(x)] for x, _, z in places]
    assert "#" not in signs
    assert (signs[0], signs[-1]) == (walk.start, walk.goal)
    text = told["instruction"]["instruction_text"]
    quarter = round(90 / corridors.TURN_DEG)
    assert truth["actions"].count(LEFT) == quarter * text.count("turn left")
    assert truth["actions"].count(RIGHT) == quarter * text.count("turn right")
    assert text.endswith(f"stop at the {corridors.PLACES[walk.goal]}.")
    episode = converted(made, "navigation", "vlnce_r2r")[f"val_seen/{number + 1}"]
    values = episode.state.values  # type: ignore[union-attr]
    walked = np.diff(values[:, :2], axis=0)
    heading = np.stack([np.cos(values[:-1, 3]), np.sin(values[:-1, 3])], axis=1)
    steps = np.linalg.norm(walked, axis=1) > 0.01
    np.testing.assert_allclose((walked * heading).sum(axis=1)[steps], 0.25, atol=1e-6)


def test_answers_are_true_of_the_pictures(made: demo.Demo) -> None:
    """Where the picture shows a colour, against what the answer says; and counts of coloured things."""
    folder = made.out / "raw/vision_language"
    asked = 0
    for row, things in zip(json.loads((folder / "questions.json").read_text()), pictures.TABLES, strict=False):
        pixels = images.decode((folder / "images" / row["image"]).read_bytes())
        said = [turn["value"].removeprefix("<image>\n") for turn in row["conversations"]]
        answers = dict(zip(said[::2], said[1::2], strict=True))
        for thing in things:
            if thing.colour == "white":
                continue  # as light as the wall
            place = centre(pixels, arm.COLOURS[thing.colour])
            assert place is not None
            third = ("on the left", "in the middle", "on the right")[int(3 * place[0] / pixels.shape[1])]
            assert answers[f"Where is the {thing.colour} {thing.kind}?"] == f"It is {third}."
            asked += 1
        assert answers["How many objects are on the table?"].split()[2] == {2: "two", 3: "three"}[len(things)]
    assert asked == 9
