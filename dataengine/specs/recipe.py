"""Recipes: what a mixture selects, filters, weighs, splits and how it is sharded. A YAML file in `pipelines/`.

Paths are bindings: they say where raw data lies on this machine and never enter a digest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from dataengine.credentials import refuse_credentials
from dataengine.documents import Strict, find_spec, inline_files, load_yaml, spec_files, substitute
from dataengine.errors import SpecError
from dataengine.layouts.spec import LayoutSpec
from dataengine.specs.normalization import NormalizationSpec
from dataengine.specs.policy import AllowSpec
from dataengine.specs.prompts import PromptForm, load_form

Split = Literal["train", "valid"]
MixUnit = Literal["sample", "episode", "frame", "hour"]
Requirement = Literal["view", "language", "state", "action"]
TextLevel = Literal["episode", "task", "subtask", "step"]
SEGMENT_VERSION = 1


def _layout_by_name(value: Any) -> Any:
    """A shipped layout's name stands for what it says, so that a version keeps the layout that it was built with."""
    if not isinstance(value, str):
        return value
    known = spec_files("schemas/layouts")
    if value not in known:
        raise ValueError(f"no layout is called {value!r}, known: {', '.join(sorted(known))}; or {{file: PATH}}")
    return load_yaml(known[value])


BakedLayout = Annotated[
    LayoutSpec | None, BeforeValidator(_layout_by_name, json_schema_input_type=str | LayoutSpec | None)
]
ImageFit = Literal["inside", "stretch"]
ImageCodec = Literal["keep", "jpeg", "png"]
ImageSize = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]


class Chunk(Strict):
    """Length of an action chunk: a number of steps, or a duration (rounded to steps at the source's rate)."""

    steps: int | None = Field(default=None, ge=1, le=4096)
    seconds: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one(self) -> Chunk:
        if (self.steps is None) == (self.seconds is None):
            raise ValueError("a chunk has either `steps` or `seconds`")
        return self

    def horizon(self, hz: float) -> int:
        """Steps of a chunk at a rate in Hz, at least one."""
        return self.steps if self.steps is not None else max(1, round(float(self.seconds or 0) * hz))


class Window(Strict):
    """How an episode is cut into samples: every `stride`-th step starts one; `history` steps of state and frames."""

    chunk: Chunk = Chunk(seconds=1.0)
    stride: int = Field(default=1, ge=1)
    history: int = Field(default=1, ge=1, le=64)


class ViewImages(Strict):
    """The images of one view, where they are other than the recipe's: what is not said is as there."""

    size: ImageSize | None = None
    fit: ImageFit = "inside"
    upscale: bool = False
    quality: int = Field(default=90, ge=1, le=100)
    codec: ImageCodec = "keep"

    @model_serializer(mode="wrap")
    def _said(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in plain(self).items() if name in self.model_fields_set}


class ImageSpec(Strict):
    """The images of samples. `size` [height, width] or null (as they are).

    `fit`: `inside` keeps the aspect and fits within, `stretch` fills. Images are never enlarged unless `upscale`.
    `codec: keep` leaves the bytes untouched where size, colours and turn fit, and makes the rest JPEG; `jpeg` encodes
    every image at `quality`, `png` without loss. `views` says what a view has otherwise; null leaves the view out.
    `keep` names the views that are stored, without it all of them.
    """

    size: ImageSize | None = None
    fit: ImageFit = "inside"
    upscale: bool = False
    quality: int = Field(default=90, ge=1, le=100)
    codec: ImageCodec = "keep"
    keep: tuple[str, ...] | None = None
    views: Mapping[str, ViewImages | None] = Field(default={})

    @model_validator(mode="after")
    def _one_word_on_a_view(self) -> ImageSpec:
        for name, view in self.views.items():
            if self.keep is not None and (view is None) == (name in self.keep):
                raise ValueError(f"view {name!r} is kept by one of `keep` and `views`, and left out by the other")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Fields that versions of before did not have are left out where they say nothing, so that digests stay."""
        usual: dict[str, Any] = {"codec": "keep", "keep": None, "views": {}}
        return {key: value for key, value in plain(self).items() if key not in usual or value != usual[key]}

    def of(self, view: str) -> ImageSpec | None:
        """The images of a view, without `keep` and `views`; None for one that is not stored."""
        said = self.views.get(view, ViewImages())
        if said is None or (self.keep is not None and view not in self.keep):
            return None
        own = {name: getattr(said, name) for name in said.model_fields_set}
        return self.model_copy(update={"keep": None, "views": {}, **own})

    def names(self) -> set[str]:
        """The views that are named."""
        return {*self.views, *(self.keep or ())}


class SplitSpec(Strict):
    """Share of groups (scenes, episodes) held out as `valid`, by hash of the group.

    `pinned` names episodes that are in a split whatever their hash says: groups, upstream ids or uids, a list or
    `{file: PATH}` with one a line. A name that no episode of the recipe has is a `SpecError`.
    """

    valid: float = Field(default=0.05, ge=0, lt=1)
    pinned: Mapping[Split, tuple[str, ...]] = Field(default={})

    @model_validator(mode="before")
    @classmethod
    def _lines(cls, value: Any) -> Any:
        """A file's text is a list, a line each."""
        if isinstance(value, Mapping) and isinstance(value.get("pinned"), Mapping):
            pinned = {
                split: tuple(filter(None, map(str.strip, names.splitlines()))) if isinstance(names, str) else names
                for split, names in value["pinned"].items()
            }
            return {**value, "pinned": pinned}
        return value

    @model_validator(mode="after")
    def _apart(self) -> SplitSpec:
        both = set(self.pinned.get("train", ())) & set(self.pinned.get("valid", ()))
        if both:
            raise ValueError(f"{min(both)!r} is pinned to both splits")
        return self


class PromptSpec(Strict):
    """How an instruction becomes a prompt: the form, and which of the texts that cover a step it takes.

    `form` is a shipped form's name, or a form. `choose: first` takes the first text of the first of `levels` that has
    one; `sample` one of all texts of `levels`, by hash, another for each step and repeat. No levels: any.
    """

    form: str | PromptForm = "qwen_vla"
    choose: Literal["first", "sample"] = "first"
    levels: tuple[TextLevel, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> PromptSpec:
        if isinstance(self.form, str):
            load_form(self.form)
        return self


class GroupSpec(Strict):
    """Sources that share a part of the mixture, or groups that do: `weight` is the part beside its siblings'."""

    name: str
    weight: float = Field(gt=0)
    sources: tuple[str, ...] = ()
    groups: tuple[GroupSpec, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> GroupSpec:
        if bool(self.sources) == bool(self.groups):
            raise ValueError(f"group {self.name!r} holds either `sources` or `groups`")
        return self

    def all_sources(self) -> tuple[str, ...]:
        """The sources of the group and of the groups in it."""
        return (*self.sources, *(name for group in self.groups for name in group.all_sources()))

    def renamed(self, names: Mapping[str, str]) -> GroupSpec:
        """The same group with other names of its sources."""
        sources = tuple(names.get(name, name) for name in self.sources)
        return self.model_copy(update={"sources": sources, "groups": tuple(g.renamed(names) for g in self.groups)})


class StageSpec(Strict):
    """A part of a scheduled epoch with a mixture of its own; stages follow each other within every epoch.

    `part` is how much of the epoch's draws it has beside the other stages. `weights` and `groups` stand in it for the
    sources' weights and the mix's groups, under the same `mix.weights`; a source that is not named has its own weight,
    and one of weight 0 is not drawn.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    part: float = Field(default=1.0, gt=0)
    weights: Mapping[str, Annotated[float, Field(ge=0)]] = Field(default={})
    groups: tuple[GroupSpec, ...] = ()


class MixSpec(Strict):
    """How weights become rates.

    `mode: baked` puts the mixture into every shard. `mode: scheduled` fills each shard from one source, every sample
    once, and draws them by a schedule in the manifest: `samples` draws an epoch, each of its `stages` with weights of
    its own.

    `multiplier`: a source's weight is its rate. `absolute`: weights are how much each source gives. `share`: weights
    are shares. `power`: shares are weight * n^alpha, n the source's size. Amounts, shares and sizes are in `unit`.
    With `groups` the mixture is first shared out among groups, then within them; `vision_language` gives that share
    to the vision-language sources together and the rest to the others. `samples` is how many the mixture has in all;
    without it as many as its sources offer within their caps. No window is repeated more than `max_repeats` times.
    Rates are resolved once and pinned in the manifest; the next version inherits them.
    """

    mode: Literal["baked", "scheduled"] = "baked"
    unit: MixUnit = "sample"
    weights: Literal["multiplier", "share", "power", "absolute"] = "multiplier"
    alpha: float = Field(default=1.0, ge=0, le=2)
    samples: int | None = Field(default=None, ge=1)
    groups: tuple[GroupSpec, ...] = ()
    vision_language: float | None = Field(default=None, gt=0, lt=1)
    max_repeats: float | None = Field(default=None, gt=0)
    stages: tuple[StageSpec, ...] = ()

    @model_validator(mode="after")
    def _groups_share(self) -> MixSpec:
        free = self.weights in ("multiplier", "absolute")
        groups = self.groups or any(stage.groups for stage in self.stages)
        if (groups or self.samples or self.vision_language) and free:
            raise ValueError("`groups`, `samples` and `vision_language` go with `weights: share` or `weights: power`")
        if groups and self.vision_language:
            raise ValueError("`groups` say already what vision-language data gets: leave out `vision_language`")
        return self

    @model_validator(mode="after")
    def _stages_are_scheduled(self) -> MixSpec:
        if self.stages and self.mode == "baked":
            raise ValueError("`stages` go with `mode: scheduled`: the shards of a baked mixture hold one mixture")
        names = [stage.name for stage in self.stages]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the stage {twice[0]!r} stands twice")
        return self

    def renamed(self, names: Mapping[str, str]) -> MixSpec:
        """The same mix with other names of its sources."""
        stages = tuple(
            stage.model_copy(
                update={
                    "weights": {names.get(name, name): weight for name, weight in stage.weights.items()},
                    "groups": tuple(group.renamed(names) for group in stage.groups),
                }
            )
            for stage in self.stages
        )
        return self.model_copy(update={"groups": tuple(g.renamed(names) for g in self.groups), "stages": stages})


class ShardSpec(Strict):
    """Bucket counts per split, largest shard, and the number of windows in one unit of the plan."""

    buckets: Mapping[Split, int] = Field(default={"train": 16, "valid": 1})
    max_bytes: int = Field(default=256 << 20, ge=1 << 16)
    segment: int = Field(default=128, ge=1)

    @model_validator(mode="after")
    def _positive(self) -> ShardSpec:
        if any(count < 1 for count in self.buckets.values()):
            raise ValueError("a bucket count is at least 1")
        return self


class Selection(Strict):
    """Episodes of the lake by what is known of them: all that is given must hold, each by any of its names.

    Names are patterns (`franka_*`). `sources` are source ids; `tags` those of the converters' `source.tags`.
    """

    converters: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    embodiments: tuple[str, ...] = ()
    control_modes: tuple[str, ...] = ()
    licenses: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _something(self) -> Selection:
        if not any(getattr(self, name) for name in type(self).model_fields):
            raise ValueError("a selection names something: converters, sources, families, embodiments, ...")
        return self


class RecipeSource(Strict):
    """One source of the mixture: a converter, and where its raw data lies (else it is in the lake already).

    Or a `select` over the lake, which may hold what many converters made; it has a `name`. A source with a converter
    may have one, so that a converter can stand twice. `where` selects among the episodes, a predicate of SQL (see
    docs/recipes.md for columns).
    `cap` limits the samples (or what they amount to in `cap_unit`) by a lower rate. `accept` names reasons for bad
    input that is known and fine. `split: train` (`valid`) pins the source to one. `require`, `window`,
    `prompt` and `images` override the recipe's. `record` is the file of a source record, beside the recipe's own: raw
    data that differ from it are left out. `override` says why the source may be in although `allow` does not let it.
    """

    converter: str | None = None
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    select: Selection | None = None
    path: str | None = None
    record: str | None = None
    override: str = Field(default="", max_length=1000)
    where: str | None = Field(default=None, max_length=4096)
    weight: float = Field(default=1.0, gt=0)
    cap: float | None = Field(default=None, gt=0)
    cap_unit: MixUnit = "sample"
    accept: tuple[str, ...] = ()
    split: Literal["hash", "train", "valid"] = "hash"
    require: tuple[Requirement, ...] | None = None
    window: Window | None = None
    prompt: PromptSpec | None = None
    images: ImageSpec | None = None
    filters: tuple[Mapping[str, Any], ...] = ()
    steps: tuple[Mapping[str, Any], ...] = ()

    @model_validator(mode="after")
    def _one_choice(self) -> RecipeSource:
        if (self.converter is None) == (self.select is None):
            raise ValueError("a source has either a `converter` or a `select`")
        if self.select is not None and (self.name is None or self.path is not None):
            raise ValueError("a `select` over the lake has a `name`, and no `path`")
        if self.record is not None and self.path is None:
            raise ValueError("a `record` goes with the `path` whose files it names")
        return self

    @property
    def entry(self) -> str:
        """What the source is called in the recipe: its name, else its converter."""
        return self.name or self.converter or ""


class Guard(Strict):
    """What filters and steps may take from one task (a source's episodes with one instruction).

    A build fails when a task of at least `min_episodes` episodes loses `task_loss` of its steps or more to the recipe's
    filters and steps; 1.0 means all of them. `guard: null` lets any step take anything.
    """

    task_loss: float = Field(default=1.0, gt=0, le=1)
    min_episodes: int = Field(default=2, ge=1)


class SamplesSpec(Strict):
    """What a sample in the shards is: a `window` of an episode, or an `episode`'s segment that the loader windows.

    A segment holds the rows from `before` its first step to `after` its last (steps, or seconds at the source's rate)
    once, so that chunk, stride, history, prompt and weights are the loader's to choose; the recipe's `window` and
    `prompt` are its defaults. A chunk may be as long as `after`, a history as long as `before` and one. Items of
    vision-language sources are items in both.
    """

    kind: Literal["window", "episode"] = "window"
    before: Annotated[int, Field(ge=0, le=4096)] | Chunk = 16
    after: Annotated[int, Field(ge=1, le=4096)] | Chunk = 128

    def margins(self, hz: float) -> tuple[int, int]:
        """`before` and `after` in steps at a rate in Hz."""
        found = (part.horizon(hz) if isinstance(part, Chunk) else part for part in (self.before, self.after))
        before, after = found
        return before, after


class Recipe(Strict):
    """A mixture's recipe, defaults filled in."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    version: int = 1
    description: str = ""
    seed: int = 0
    sources: tuple[RecipeSource, ...] = Field(min_length=1)
    require: tuple[Requirement, ...] = ("view", "language")
    allow: AllowSpec | None = None
    filters: tuple[Mapping[str, Any], ...] = ()
    steps: tuple[Mapping[str, Any], ...] = ()
    guard: Guard | None = Guard()
    samples: SamplesSpec = SamplesSpec()
    window: Window = Window()
    prompt: PromptSpec = PromptSpec()
    images: ImageSpec = ImageSpec()
    split: SplitSpec = SplitSpec()
    mix: MixSpec = MixSpec()
    shards: ShardSpec = ShardSpec()
    normalization: NormalizationSpec = NormalizationSpec()
    layout: BakedLayout = None

    @model_validator(mode="after")
    def _vectors_of_one_shape(self) -> Recipe:
        if self.layout is not None and self.samples.kind == "episode":
            raise ValueError("`samples: {kind: episode}` leaves the layout to the loader: leave out `layout`")
        windows = [self.window_for(source) for source in self.sources] if self.layout is not None else []
        if any(window.chunk.steps is None for window in windows):
            raise ValueError("`layout` needs chunks in `steps`: vectors of all sources have one shape")
        if len({(window.chunk.steps, window.history) for window in windows}) > 1:
            raise ValueError("`layout` needs windows of one chunk and history: vectors of all sources have one shape")
        return self

    @model_validator(mode="after")
    def _segments_are_scheduled(self) -> Recipe:
        if self.samples.kind == "window":
            return self
        if self.mix.mode == "baked":
            raise ValueError(
                "`samples: {kind: episode}` goes with `mix: {mode: scheduled}`: each segment lies in the shards once,"
                " and the schedule weighs its windows"
            )
        if self.normalization.bake is not None:
            raise ValueError("`samples: {kind: episode}` leaves normalization to the loader: leave out `bake`")
        return self

    @model_validator(mode="after")
    def _sources_differ(self) -> Recipe:
        names = [source.entry for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the source {twice[0]!r} stands twice: give each a `name`")
        paths = [source.converter for source in self.sources if source.path is not None]
        again = sorted({name for name in paths if name is not None and paths.count(name) > 1})
        if again:
            raise ValueError(f"the raw data of {again[0]!r} is named twice: one `path` is enough for all its sources")
        return self

    @model_validator(mode="after")
    def _groups_hold_the_sources(self) -> Recipe:
        names = {source.entry for source in self.sources}
        for groups in filter(None, (self.mix.groups, *(stage.groups for stage in self.mix.stages))):
            grouped = [name for group in groups for name in group.all_sources()]
            for name in grouped:
                if name not in names:
                    raise ValueError(f"a group names {name!r}, which is no source of the recipe")
                if grouped.count(name) > 1:
                    raise ValueError(f"the source {name!r} is in two groups")
            missing = sorted(names - set(grouped))
            if missing:
                raise ValueError(f"the source {missing[0]!r} is in no group")
        return self

    @model_validator(mode="after")
    def _stages_weigh_the_sources(self) -> Recipe:
        for stage in self.mix.stages:
            unknown = sorted(set(stage.weights) - {source.entry for source in self.sources})
            if unknown:
                raise ValueError(f"stage {stage.name!r} weighs {unknown[0]!r}, which is no source of the recipe")
            if not any(stage.weights.get(source.entry, source.weight) for source in self.sources):
                raise ValueError(f"stage {stage.name!r} draws from no source: give one of them a weight above 0")
        return self

    def resolved(self) -> dict[str, Any]:
        """The recipe as it is hashed: canonical, defaults filled in, without paths and without prose."""
        document: dict[str, Any] = self.canonical()
        document.pop("description")
        for source in document["sources"]:
            source.pop("path")
            source.pop("record")
            _without(source, RecipeSource, _LATER["sources"])
        if document["normalization"]["reuse"] is not None:
            document["normalization"]["reuse"].pop("path")
        for part, model in (("mix", MixSpec), ("split", SplitSpec), ("images", ImageSpec)):
            _without(document[part], model, _LATER[part])
        _without(document["normalization"], NormalizationSpec, _LATER["normalization"])
        _without(document, Recipe, _LATER["recipe"])
        if self.samples.kind == "episode":
            self._with_forms(document)
        return document

    def _with_forms(self, document: dict[str, Any]) -> None:
        """Prompt forms by content: the loader renders them out of the manifest, whatever release it is of."""
        for place, spec in (
            (document, self.prompt),
            *zip(document["sources"], (s.prompt for s in self.sources), strict=True),
        ):
            if spec is not None and isinstance(spec.form, str):
                place["prompt"]["form"] = load_form(spec.form).canonical()

    def window_for(self, source: RecipeSource) -> Window:
        """How the build cuts and counts windows: the source's, or the recipe's. Segments offer every step."""
        window = source.window or self.window
        return window if self.samples.kind == "window" else window.model_copy(update={"stride": 1})

    def cut_for(self, source: RecipeSource) -> dict[str, Any]:
        """What decides which rows of an episode and what texts its samples hold, for a task's digest."""
        if self.samples.kind == "episode":
            return {"segment": self.samples.canonical(), "version": SEGMENT_VERSION}
        return dict(self.window_for(source).canonical())

    def images_for(self, source: RecipeSource) -> ImageSpec:
        """The source's images, or the recipe's."""
        return source.images or self.images

    def prompt_for(self, source: RecipeSource) -> PromptSpec:
        """The source's prompt, or the recipe's."""
        return source.prompt or self.prompt


_LATER: Mapping[str, tuple[str, ...]] = {
    "recipe": ("samples", "layout", "allow"),
    "sources": ("name", "select", "images", "override"),
    "mix": ("vision_language", "max_repeats", "stages"),
    "split": ("pinned",),
    "images": (),
    "normalization": ("bake",),
}
"""Fields that versions of before did not have: left out where they say nothing, so that plan ids stay."""


def _without(document: dict[str, Any], model: type[Strict], names: tuple[str, ...]) -> None:
    for name in names:
        default = model.model_fields[name].default
        if document.get(name) in (default.canonical() if isinstance(default, Strict) else default, None, [], {}, ""):
            document.pop(name, None)


def load_recipe(name: str, parameters: Mapping[str, str]) -> Recipe:
    """A shipped recipe by name, or a file by path; `${name}` is replaced from `parameters`.

    A parameter that the recipe does not use is a `SpecError`, as is one it uses and nobody gave. `{file: PATH}` stands
    for the content of a document or text beside the recipe, so that digests see the content and no path.
    """
    path = find_spec("pipelines", name)
    text = load_yaml(path)
    refuse_credentials(text, str(path))
    unused = [key for key in parameters if f"${{{key}}}" not in _strings(text)]
    if unused:
        raise SpecError(f"the recipe uses no ${{{unused[0]}}}", where=str(path), fix="check the --set option")
    document = inline_files(substitute(text, parameters, str(path)), path.parent, str(path))
    refuse_credentials(document, str(path))
    return Recipe.parse(document, str(path))


def recipe_parameters(name: str) -> set[str]:
    """The names of the `${name}` parameters that a recipe uses."""
    return set(re.findall(r"\$\{(\w+)\}", _strings(load_yaml(find_spec("pipelines", name)))))


def _strings(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "\n".join(_strings(item) for item in value.values())
    if isinstance(value, list):
        return "\n".join(_strings(item) for item in value)
    return ""


def bound_path(source: RecipeSource) -> Path | None:
    """Where a source's raw data lies, if the recipe says so."""
    return Path(source.path).expanduser() if source.path is not None else None
