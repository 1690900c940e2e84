"""Prompts: forms as data, the body out of the channels, and which text becomes the instruction."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import orjson
import pytest

from dataengine.documents import inline_files, spec_files
from dataengine.embodiment import Card, load_card
from dataengine.episode import Episode, Language, SlotArray
from dataengine.errors import SpecError
from dataengine.shards.samples import SampleSpec, WindowEncoder
from dataengine.specs.prompts import PromptForm, load_form
from dataengine.specs.recipe import Chunk, ImageSpec, PromptSpec, Recipe, Window, load_recipe
from dataengine.transforms.prompts import body_phrase, choose, draw, form_of, prompt_facts

FIELDS = {
    "robot_tag": "widowx",
    "body": "a single arm",
    "hz": 5.0,
    "chunk": 16,
    "instruction": " put_the Carrot\non it ",
}
START = (
    "The robot is widowx with a single arm. The control frequency is 5 Hz. Please predict the next 16 control actions"
    " to execute the following task:"
)


def slots(*channels: int, masked: tuple[int, ...] = ()) -> SlotArray:
    mask = np.array([[channel not in masked for channel in channels]] * 3)
    return SlotArray(np.array(channels, np.int16), np.zeros((3, len(channels)), np.float32), mask)


def episode(action: SlotArray | None = None, state: SlotArray | None = None, *texts: Language) -> Episode:
    return Episode(
        uid="u" * 64, source_id="s", upstream_id="e", converter="c", family="robot", embodiment="x", control_mode="m",
        conversion_digest="d", content_digest="e", group="", times_ns=np.arange(3), hz=5.0, state=state, action=action,
        labels={}, frames={}, native_units={}, views=(), language=texts, messages=(), native={}, native_action={},
        media={}, files=(), attributes={}, notes={},
    )  # fmt: skip


class TestForms:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            (
                "qwen_vla",
                f"{START} put_the Carrot\non it.",
            ),
            ("openvla", "In: What action should the robot take to put_the carrot\non it?\nOut:"),
            ("pi0", "put the Carrot on it\n"),
            ("plain", "put_the Carrot\non it"),
        ],
    )
    def test_shipped(self, name: str, text: str) -> None:
        assert load_form(name).render(FIELDS) == text

    def test_each_shipped_form_says_where_it_comes_from(self) -> None:
        for name in spec_files("schemas/prompts"):
            form = load_form(name)
            assert form.name == name
            assert form.origin
            assert form.url is not None or name in ("qwen_vla", "plain")

    @pytest.mark.parametrize("said", ["lift it.", "lift it!", "is it lifted?"])
    def test_a_sentence_ends_once(self, said: str) -> None:
        text = load_form("qwen_vla").render({**FIELDS, "instruction": said})
        assert text is not None
        assert text.endswith(f"task: {said}")

    def test_without_a_body_and_without_an_instruction(self) -> None:
        text = load_form("qwen_vla").render({**FIELDS, "body": "", "hz": 7.5})
        assert text is not None
        assert text.startswith("The robot is widowx. The control frequency is 7.5 Hz.")
        assert load_form("qwen_vla").render({**FIELDS, "instruction": None}) is None
        assert load_form("plain").render({**FIELDS, "instruction": ""}) is None

    def test_an_instruction_is_never_a_template(self) -> None:
        said = "{robot_tag} {0.__class__} %s ${x} {instruction}"
        assert load_form("plain").render({**FIELDS, "instruction": said}) == said

    @pytest.mark.parametrize("text", ["{robot}", "{}", "{0}", "{hz:g}", "{instruction.text}", "a { b", "{robot_tag!r}"])
    def test_a_form_knows_its_fields_only(self, text: str) -> None:
        with pytest.raises(SpecError):
            PromptForm.parse({"name": "x", "version": 1, "summary": "", "origin": "", "parts": [{"text": text}]}, "x")

    def test_facts_of_a_sample(self) -> None:
        card = load_card("widowx_250")
        facts = prompt_facts(
            load_form("pi0"), robot_tag=card.robot_tag, body="a single arm", hz=5.0, chunk=4, instruction="go"
        )
        assert facts == {
            "robot_tag": "widowx", "body": "a single arm", "hz": 5.0, "chunk": 4, "instruction": "go",
            "form": "pi0@1", "text": "go\n",
        }  # fmt: skip


G1, ALONE = "unitree_g1_inspire", "widowx_250"


def mobile() -> Card:
    """A body with two arms, a waist and wheels."""
    card = load_card(G1).model_copy(update={"waist": True, "mobile_base": True})
    assert card.arms == ("right", "left")
    return card


class TestBody:
    @pytest.mark.parametrize(
        ("action", "phrase"),
        [
            (slots(7, 8, 9, 71, 72, 73), "dual arms"),
            (slots(16), "a single arm"),
            (slots(80), "a single arm"),
            (slots(160, 161), "a single arm"),
            (slots(7, 8, 9, 71, 72, 73, masked=(71, 72, 73)), "a single arm"),
            (slots(0, 64, 128, 129, 130), "dual arms, waist"),
            (slots(0, 64, 128, 135), "dual arms, waist, and mobile base"),
            (slots(135, 136, 137), "mobile base"),
            (slots(138, 139), "mobile base"),
            (slots(240, 241), "dual arms, waist, and mobile base"),
        ],
        ids=lambda value: value if isinstance(value, str) else str(value.channels.tolist()),
    )
    def test_what_the_action_holds(self, action: SlotArray, phrase: str) -> None:
        assert body_phrase(mobile(), episode(action)) == phrase

    def test_what_the_card_does_not_have_is_not_said(self) -> None:
        assert body_phrase(load_card(ALONE), episode(slots(7, 71, 135))) == "a single arm"

    def test_state_counts_where_there_is_no_action(self) -> None:
        assert body_phrase(mobile(), episode(None, slots(0, 64))) == "dual arms"
        assert body_phrase(mobile(), episode(slots(0), slots(0, 64))) == "a single arm"

    def test_no_channel_at_all(self) -> None:
        assert body_phrase(load_card("pusht_agent"), episode(slots(240))) == ""
        assert body_phrase(mobile(), episode()) == "dual arms, waist, and mobile base"


def text(said: str, level: str = "task", source: str = "s") -> Language:
    return Language(said, source, level, (0, 3))  # type: ignore[arg-type]


SAID = [text("a task"), text("a part", "subtask"), text("b task"), text("an episode", "episode")]


class TestChoice:
    def test_first(self) -> None:
        assert choose(SAID, PromptSpec(), 0, "u", 0, 0) == "a task"
        assert choose(SAID, PromptSpec(levels=("subtask", "task")), 0, "u", 0, 0) == "a part"
        assert choose(SAID, PromptSpec(levels=("step", "episode")), 0, "u", 0, 0) == "an episode"
        assert choose(SAID, PromptSpec(levels=("step",)), 0, "u", 0, 0) is None
        assert choose([], PromptSpec(), 0, "u", 0, 0) is None

    def test_blank_and_replaced_texts_are_never_chosen(self) -> None:
        said = [text("  "), text("old", source="original:s"), text(" new ")]
        for how in ("first", "sample"):
            assert {choose(said, PromptSpec(choose=how), 0, "u", step, 0) for step in range(20)} == {"new"}

    def test_sample_is_keyed_and_even(self) -> None:
        spec = PromptSpec(choose="sample", levels=("task", "episode"))
        chosen = [choose(SAID, spec, 7, "u", step, repeat) for step in range(400) for repeat in range(3)]
        counts = Counter(chosen)
        assert counts.keys() == {"a task", "b task", "an episode"}
        assert all(340 < count < 460 for count in counts.values())
        assert chosen == [choose(SAID, spec, 7, "u", step, repeat) for step in range(400) for repeat in range(3)]
        assert len({choose(SAID, spec, 7, "u", 5, repeat) for repeat in range(20)}) == 3
        assert chosen != [choose(SAID, spec, 8, "u", step, repeat) for step in range(400) for repeat in range(3)]
        assert chosen != [choose(SAID, spec, 7, "v", step, repeat) for step in range(400) for repeat in range(3)]

    def test_draw_keeps_its_values(self) -> None:
        """What was drawn once is drawn for ever: shards depend on it."""
        assert [draw(5, 0, "prompt", "u", step, 0) for step in range(8)] == DRAWN


DRAWN = [1, 2, 0, 1, 3, 4, 2, 4]


RECIPE = """
name: said
sources:
  - {converter: pusht_lerobot, prompt: {form: plain}}
  - {converter: bridge_octo}
prompt: {form: {file: form.yaml}, choose: sample, levels: [subtask, task]}
steps:
  - {name: paraphrase_pool, pool: {file: pools/all.json}}
"""
FORM = """
name: mine
version: 3
summary: mine
origin: me
parts: [{text: "Do: {instruction}"}]
"""


class TestRecipe:
    def write(self, folder: Path) -> Path:
        (folder / "pools").mkdir()
        (folder / "pools" / "all.json").write_text('{"go": ["walk", "move"]}')
        (folder / "form.yaml").write_text(FORM)
        (folder / "said.yaml").write_text(RECIPE)
        return folder / "said.yaml"

    def test_files_become_content(self, tmp_path: Path) -> None:
        recipe = load_recipe(str(self.write(tmp_path)), {})
        assert recipe.steps[0]["pool"] == {"go": ["walk", "move"]}
        first, second = recipe.sources
        assert form_of(recipe.prompt_for(first)).title == "plain@1"
        assert form_of(recipe.prompt_for(second)).title == "mine@3"
        assert "form.yaml" not in str(recipe.resolved())
        assert Recipe.parse(recipe.canonical(), "again") == recipe

    def test_another_content_is_another_recipe(self, tmp_path: Path) -> None:
        path = self.write(tmp_path)
        before = load_recipe(str(path), {}).resolved()
        (tmp_path / "pools" / "all.json").write_text('{"go": ["walk"]}')
        assert load_recipe(str(path), {}).resolved() != before

    @pytest.mark.parametrize(
        ("document", "told"),
        [
            ({"file": "nowhere.yaml"}, "cannot read"),
            ({"file": "x.bin"}, "name a .yaml"),
            ({"file": "bad.txt"}, "not UTF-8"),
            ({"file": "big.txt"}, "larger than 1 MiB"),
        ],
    )
    def test_files_that_do_not_do(self, tmp_path: Path, document: dict[str, str], told: str) -> None:
        (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
        (tmp_path / "big.txt").write_bytes(b" " * ((1 << 20) + 1))
        with pytest.raises(SpecError) as raised:
            inline_files({"a": [document]}, tmp_path, "recipe")
        assert told in str(raised.value)

    def test_other_mappings_stay(self, tmp_path: Path) -> None:
        value = {"file": 3, "a": {"file": "x.txt", "b": 1}}
        assert inline_files(value, tmp_path, "recipe") == value

    def test_an_unknown_form(self) -> None:
        with pytest.raises(SpecError, match="unknown prompt form 'openvl'") as raised:
            PromptSpec(form="openvl")
        assert "did you mean 'openvla'" in str(raised.value)
        with pytest.raises(SpecError, match="form"):
            PromptSpec.parse({"form": 3}, "x")


def samples(spec: PromptSpec) -> list[dict[str, object]]:
    """The JSON of three repeats of each of three steps."""
    given = episode(slots(7, 8, 9), slots(7, 8, 9), text("a task"), text("b task"), text("old", source="original:s"))
    bounds = np.zeros(3, np.int64), np.full(3, 3, np.int64)
    sample_spec = SampleSpec(Window(chunk=Chunk(steps=2)), ImageSpec(), load_card(ALONE), spec, seed=5)
    encoder = WindowEncoder(given, sample_spec, range(3), bounds)
    made = [encoder.sample(step, repeat) for step in range(3) for repeat in range(3)]
    return [orjson.loads(dict(sample.members)["json"]) for sample in made]


class TestSamples:
    def test_first_is_the_same_everywhere(self) -> None:
        assert [sample["prompt"] for sample in samples(PromptSpec())] == [
            {
                "robot_tag": "widowx", "body": "a single arm", "hz": 5.0, "chunk": 2, "instruction": "a task",
                "form": "qwen_vla@1",
                "text": "The robot is widowx with a single arm. The control frequency is 5 Hz. Please predict the next"
                " 2 control actions to execute the following task: a task.",
            }
        ] * 9  # fmt: skip

    def test_sampled_ones_differ_and_all_texts_stay(self) -> None:
        made = samples(PromptSpec(form="plain", choose="sample"))
        told = [sample["prompt"]["text"] for sample in made]  # type: ignore[index]
        assert set(told) == {"a task", "b task"}
        assert made == samples(PromptSpec(form="plain", choose="sample"))
        for sample in made:
            said = [entry["text"] for entry in sample["language"]]  # type: ignore[attr-defined]
            assert said == ["a task", "b task", "old"]

    def test_without_a_text(self) -> None:
        (prompt,) = {str(sample["prompt"]) for sample in samples(PromptSpec(levels=("step",)))}
        assert "'instruction': None" in prompt
        assert "'text': None" in prompt
