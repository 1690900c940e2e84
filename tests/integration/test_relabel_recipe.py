"""LLM relabelling of a whole recipe: through the lake, through the command line, and on to what tasks get."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dataengine import api
from dataengine.cli.main import app
from dataengine.engine.local import LocalEngine
from dataengine.errors import EndpointError, SpecError
from dataengine.lake import Lake
from dataengine.mixture.select import select
from dataengine.relabel.client import Client, Limits
from dataengine.relabel.recipes import Relabelled, ask_models, asks
from dataengine.specs.recipe import Recipe, load_recipe
from dataengine.testing.endpoint import ChatEndpoint, completion
from dataengine.transforms.llm import ApplyTexts, LlmRelabel
from dataengine.transforms.steps import run_steps

KEY = "sk-canary-4f1d9c7e2b"
RECIPE = """
name: said_otherwise
sources:
  - {converter: pusht_lerobot}
steps:
  - {name: min_steps, steps: 20}
  - {name: llm_relabel, model: tiny, prompt: rewrite_instruction}
  - {name: llm_relabel, model: "${model}", prompt: {file: prompts/see.txt}, mode: caption, frames: 2, image_side: 32}
"""
QUICK = Limits(attempts=2, first_wait_s=0.01, timeout_s=5)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, pusht_raw: Path) -> Path:
    """Six PushT episodes of 24 steps."""
    path = tmp_path_factory.mktemp("relabel") / "lake"
    api.ingest(pusht_raw, "pusht_lerobot", path, workers=1)
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "see.txt").write_text("Say what you see.")
    path = tmp_path / "said.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatEndpoint]:
    with ChatEndpoint() as found:
        monkeypatch.setenv("OPENAI_BASE_URL", found.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield found


def all_asked(spec: Recipe, lake: Path, client: bool) -> Relabelled:
    inputs = select(spec, Lake(lake))
    uids = {"pusht_lerobot": sorted(inputs.heads)}
    make = (lambda: Client.from_environment(QUICK)) if client else None
    return ask_models(spec, inputs.lake, inputs.snapshot, uids, make)[0]


def test_steps_with_answers(lake: Path, recipe: Path, endpoint: ChatEndpoint) -> None:
    spec = load_recipe(str(recipe), {"model": "tiny-vl"})
    assert asks(spec)
    assert "see.txt" not in json.dumps(spec.resolved())
    found = all_asked(spec, lake, client=True)
    assert len(endpoint.received) == 12
    pictured = [received for received in endpoint.received if received.images]
    assert len(pictured) == 6
    assert all(received.body["model"] == "tiny-vl" and received.text == "Say what you see." for received in pictured)

    reader = Lake(lake).reader(sorted(head.uid for head in Lake(lake).heads()))
    uid = sorted(reader.heads)[0]
    part = pickle.loads(pickle.dumps(found.of([uid])))
    steps = part.steps(spec, spec.sources[0])
    assert [type(step) for step in steps[2:]] == [ApplyTexts, ApplyTexts]
    episode = reader.episode(uid, media=False)
    outcome = run_steps(episode, steps)
    assert outcome.drop is None
    said = episode.language[0].text
    assert [(text.text, text.level) for text in outcome.episode.language] == [
        ("look at 2 pictures", "episode"),
        (f"please {said}", "task"),
        (said, "task"),
    ]
    assert [text.source.partition("#")[0] for text in outcome.episode.language] == ["llm:tiny-vl", "llm:tiny", "task"]

    again = all_asked(spec, lake, client=False)
    assert again == found
    assert again.digest() == found.digest() is not None
    assert len(endpoint.received) == 12


def test_a_dry_run_leaves_texts_as_they_are(lake: Path, recipe: Path) -> None:
    spec = load_recipe(str(recipe), {"model": "tiny-never-asked"})
    spec = Recipe.parse({**spec.canonical(), "steps": [spec.steps[2]]}, "x")
    found = all_asked(spec, lake, client=False)
    reader = Lake(lake).reader([Lake(lake).heads()[0].uid])
    (uid,) = reader.heads
    episode = reader.episode(uid, media=False)
    outcome = run_steps(episode, found.steps(spec, spec.sources[0]))
    assert outcome.drop is None
    assert outcome.episode.language == episode.language


def test_a_recipe_without_such_a_step(lake: Path, small_recipe: Path) -> None:
    spec = load_recipe(str(small_recipe), {"data": "/nowhere"})
    assert not asks(spec)
    assert Relabelled().digest() is None
    assert not any(isinstance(step, LlmRelabel) for step in Relabelled().steps(spec, spec.sources[0]))
    with pytest.raises(SpecError, match="no step of said"):
        api.relabel(
            spec.model_copy(update={"name": "said", "sources": (spec.sources[0].model_copy(update={"path": None}),)}),
            lake,
        )


def test_answers_are_needed_and_nobody_is_there(lake: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(EndpointError, match="no endpoint to ask"):
        api.relabel(str(recipe), lake, parameters={"model": "another"})


class TestCommand:
    def run(self, *arguments: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, ["relabel", *arguments])
        return done.exit_code, done.stdout, done.stderr

    def test_dry_run_then_asking_then_nothing(self, lake: Path, recipe: Path, endpoint: ChatEndpoint) -> None:
        given = (str(recipe), "--lake", str(lake), "--set", "model=tiny-cli", "--json")
        code, out, _ = self.run(*given, "--dry-run")
        first = json.loads(out)["steps"]
        assert code == 0
        assert first["llm_relabel#2 pusht_lerobot"]["to_ask"] == 6
        assert not any(received.body["model"] == "tiny-cli" for received in endpoint.received)

        code, out, _ = self.run(*given)
        told = json.loads(out)["steps"]["llm_relabel#2 pusht_lerobot"]
        assert (code, told["asked"], told["prompt_tokens"], told["completion_tokens"]) == (0, 6, 120, 30)
        assert told["examples"][0]["answer"] == "look at 2 pictures"

        asked = len(endpoint.received)
        code, out, _ = self.run(*given)
        assert code == 0
        assert len(endpoint.received) == asked
        assert all(step["asked"] == 0 for step in json.loads(out)["steps"].values())

    def test_for_people(self, lake: Path, recipe: Path, endpoint: ChatEndpoint) -> None:
        endpoint.answer = lambda _: completion("I'm sorry, I can't.")
        code, out, _ = self.run(str(recipe), "--lake", str(lake), "--set", "model=tiny-people")
        assert code == 0
        assert "6 episodes, 6 questions" in out
        assert "refused" in out

    def test_a_refused_key_is_told_and_not_shown(self, lake: Path, recipe: Path, endpoint: ChatEndpoint) -> None:
        from dataengine.testing.endpoint import failure

        endpoint.answer = lambda _: failure(401, f"no such key {KEY}")
        code, out, err = self.run(str(recipe), "--lake", str(lake), "--set", "model=tiny-401")
        assert code == 1
        assert "OPENAI_API_KEY" in err
        assert KEY not in out + err
        for path in lake.rglob("*"):
            if path.is_file():
                assert KEY.encode() not in path.read_bytes()


def test_engines_take_the_answers(lake: Path, recipe: Path, endpoint: ChatEndpoint) -> None:
    """Answers are plain data for worker processes."""
    spec = load_recipe(str(recipe), {"model": "tiny-vl"})
    found = all_asked(spec, lake, client=True)
    uids = sorted(head.uid for head in Lake(lake).heads())
    engine = LocalEngine(2)
    try:
        tasks = [{"recipe": spec, "lake": str(lake), "uid": uid, "found": found.of([uid])} for uid in uids]
        results = dict(engine.run(first_text, tasks))
    finally:
        engine.close()
    assert [result["text"] for _, result in sorted(results.items()) if result] == ["look at 2 pictures"] * 6


def first_text(task: dict[str, object]) -> dict[str, object]:
    found, spec, uid = task["found"], task["recipe"], str(task["uid"])
    assert isinstance(found, Relabelled)
    assert isinstance(spec, Recipe)
    episode = Lake(Path(str(task["lake"]))).reader([uid]).episode(uid, media=False)
    return {"text": run_steps(episode, found.steps(spec, spec.sources[0])).episode.language[0].text}
