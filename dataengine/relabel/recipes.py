"""The stage over a whole recipe: which steps ask a model, about which episodes, and the steps with their answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dataengine.documents import sha256_json
from dataengine.episode import Episode
from dataengine.lake import Lake, Snapshot
from dataengine.relabel.cache import AnswerCache
from dataengine.relabel.client import Client
from dataengine.relabel.stage import Usage, relabelled
from dataengine.specs.recipe import Recipe, RecipeSource
from dataengine.transforms.llm import ApplyTexts, LlmRelabel, Texts
from dataengine.transforms.quality import recipe_steps
from dataengine.transforms.steps import Step, run_steps

BATCH = 64
Tell = Callable[[str, int, int], None]
Answers = Mapping[str, Mapping[int, Mapping[str, Texts]]]


@dataclass(frozen=True)
class Relabelled:
    """Answers by the recipe's source, by the step's place in `recipe_steps`, by episode. Plain data: it pickles."""

    answers: Answers = field(default_factory=dict)

    def steps(self, recipe: Recipe, source: RecipeSource) -> tuple[Step, ...]:
        """The source's steps, with `ApplyTexts` in the place of those that asked a model."""
        steps = list(recipe_steps(recipe, source))
        for place, found in self.answers.get(source.entry, {}).items():
            step = steps[place]
            if isinstance(step, LlmRelabel):
                steps[place] = ApplyTexts(step, found)
        return tuple(steps)

    def of(self, uids: Sequence[str]) -> Relabelled:
        """Only the answers for these episodes: what a task needs."""
        wanted = set(uids)
        return Relabelled(
            {
                name: {
                    place: {uid: texts for uid, texts in found.items() if uid in wanted}
                    for place, found in places.items()
                }
                for name, places in self.answers.items()
            }
        )

    def digest(self) -> str | None:
        """sha256 over all answers, or None where no step asks: it belongs in a plan's id."""
        if not self.answers:
            return None
        return sha256_json(
            {
                name: {
                    str(place): {uid: texts.digest() for uid, texts in found.items()} for place, found in places.items()
                }
                for name, places in self.answers.items()
            }
        )


def asks(recipe: Recipe) -> bool:
    """Whether a step of the recipe asks a model."""
    return any(isinstance(step, LlmRelabel) for source in recipe.sources for step in recipe_steps(recipe, source))


def ask_models(
    recipe: Recipe,
    lake: Lake,
    snapshot: Snapshot,
    uids: Mapping[str, Sequence[str]],
    client: Callable[[], Client] | None,
    *,
    tell: Tell = lambda _stage, _done, _total: None,
    cache: AnswerCache | None = None,
) -> tuple[Relabelled, dict[str, Usage]]:
    """Run every `llm_relabel` of a recipe over the episodes that pass the steps before it.

    `uids` are the usable episodes by the recipe's source. Without `client` nothing is asked and open questions give no
    texts (a dry run). Answers are kept in the lake's folder, or in `cache`. Returns the answers, and what was asked by
    step.
    """
    answers: dict[str, dict[int, Mapping[str, Texts]]] = {}
    usages: dict[str, Usage] = {}
    kept = cache if cache is not None else AnswerCache(Path(lake.path))
    for source in recipe.sources:
        chosen = sorted(uids.get(source.entry, ()))
        for place, step in enumerate(recipe_steps(recipe, source)):
            if not isinstance(step, LlmRelabel):
                continue
            before = Relabelled(answers).steps(recipe, source)[:place]
            number = len(answers.get(source.entry, {})) + 1
            name = f"{step.name}{f'#{number}' if number > 1 else ''} {source.entry}"
            usages[name] = Usage()
            passing = _passing(lake, snapshot, chosen, before, media=bool(step.frames))

            def told(done: int, name: str = name, total: int = len(chosen)) -> None:
                tell(name, done, total)

            found = relabelled(step, passing, kept, client, told, usages[name])
            tell(name, len(chosen), len(chosen))
            answers.setdefault(source.entry, {})[place] = found
    return Relabelled(answers), usages


def _passing(
    lake: Lake, snapshot: Snapshot, uids: Sequence[str], steps: Sequence[Step], *, media: bool
) -> Iterator[Episode]:
    """The episodes that the steps keep, as they leave them."""
    media = media or any(step.needs_media for step in steps)
    native = any(step.needs_native for step in steps)
    for start in range(0, len(uids), BATCH):
        chosen = uids[start : start + BATCH]
        reader = lake.reader(chosen, snapshot, native=native)
        for uid in chosen:
            outcome = run_steps(reader.episode(uid, media=media), steps)
            if outcome.drop is None:
                yield outcome.episode
