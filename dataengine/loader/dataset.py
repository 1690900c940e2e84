"""A version of a mixture as a data set: random access over the shards' indexes, decoded into the unified vector."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import orjson
from numpy.typing import NDArray

from dataengine.documents import unknown_name
from dataengine.errors import SpecError
from dataengine.images import Fit
from dataengine.layouts import Layout
from dataengine.loader.baked import Baked
from dataengine.loader.codec import Codec, make_codec
from dataengine.loader.decode import Decoder
from dataengine.loader.examples import TORCH_FIX, Batch, Example, collate
from dataengine.loader.layouts import Target
from dataengine.loader.mixing import Mix, Spans
from dataengine.loader.order import Order, Permutation, Schedule
from dataengine.loader.segment import Cut
from dataengine.loader.segments import Choices, GivenPrompt, GivenWindow
from dataengine.loader.shards import Shards
from dataengine.loader.stored import KINDS, Stored, stored_samples, wanted_views
from dataengine.mixture.store import MixtureStore, split_address
from dataengine.schema import WIDTH

if TYPE_CHECKING:
    from dataengine.loader.torch_dataset import TorchDataset

_READ_AHEAD = 64


@dataclass(frozen=True)
class Identity:
    """What a data set is: write it into a training run's log."""

    mixture: str
    version: str
    manifest_sha256: str
    split: str
    representation: str
    normalize: bool
    layout: str | None = None  # its name and the first characters of its digest
    stage: str | None = None
    weights: Mapping[str, float] | None = None


class MixtureDataset:
    """The samples of one split of one version; made by `open_mixture`.

    A sequence of `Example`s: `len(ds)`, `ds[i]`, iteration in shard order. Picklable: files are opened again in the
    process that uses them. Reading raises `FormatError` naming shard and key where a sample is damaged.
    """

    def __init__(self, identity: Identity, stored: Stored, decoder: Decoder, mix: Mix | None = None) -> None:
        self.identity = identity
        self._stored = stored
        self._decoder = decoder
        self._mix = mix  # the schedule of a scheduled mixture; None: an epoch has every sample once

    @property
    def codec(self) -> Codec:
        """Representation and normalization, to be kept beside a model: its `restore` serves on the robot."""
        return self._decoder.codec

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, place: int) -> Example:
        return self.examples([place])[0]

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), _READ_AHEAD):
            yield from self.examples(range(start, min(start + _READ_AHEAD, len(self))))

    def examples(self, places: Sequence[int]) -> list[Example]:
        """The samples at `places`, decoded together: several times faster than one by one."""
        found = [self._place(place) for place in places]
        return self._decoder.decode(self._stored.read(found, self._decoder.views))

    def raw(self, place: int) -> dict[str, bytes]:
        """A sample's members as they lie in the shard, by extension: `json`, `action.npy`, `head.jpg`, ...

        Of a window that is cut out of a segment: as they would lie in a shard of windows.
        """
        return self._stored.raw(self._place(place))

    def located(self, places: Sequence[int]) -> list[tuple[str, str]]:
        """(shard, key) of the samples at `places`."""
        found = self._stored.read([self._place(place) for place in places], ())
        raws = (sample.raw if isinstance(sample, Cut) else sample for sample in found)
        return [(raw.shard, raw.key) for raw in raws]

    @property
    def epoch_length(self) -> int:
        """Samples in an epoch: all of them, or the draws of a scheduled mixture."""
        return len(self.order())

    def order(self, seed: int = 0, epoch: int = 0) -> Order:
        """The order of an epoch, in which any place is found at once: a permutation, or a scheduled mixture's draws."""
        return Permutation(len(self), seed, epoch) if self._mix is None else self._mix.order(seed, epoch)

    def schedule(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
    ) -> Schedule:
        """Which places stand in which batch (see `Schedule`); its length is the number of batches."""
        return Schedule(self.order(seed, epoch), batch_size, start, rank, world, drop_last)

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """The batches of one epoch on one rank, from batch `start` on. Ranks are disjoint and together complete."""
        schedule = self.schedule(
            batch_size, seed=seed, epoch=epoch, start=start, rank=rank, world=world, drop_last=drop_last
        )
        return (self.collate(self.examples(places)) for places in schedule)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """`collate` with this data set's views and image size."""
        target = self._decoder.target
        views = self._decoder.views or ()
        if target is not None and target.layout.spec.images:
            views = tuple(target.layout.spec.images)
        return collate(examples, views=views, image_size=self._decoder.image_size)

    def observe(
        self, state: NDArray[Any], facts: Mapping[str, Any], *, mask: NDArray[Any] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """A state measured now [..., 256] as `Example.state` and `state_mask` hold it: `Codec.state`, in the layout."""
        measured = self.codec.state(state, facts, mask=mask)
        target = self._decoder.target
        return measured if target is None else target.measured(facts, measured)

    def restore(
        self,
        action: NDArray[Any],
        of: Example | Mapping[str, Any],
        *,
        state: NDArray[Any] | None = None,
        state_mask: NDArray[Any] | None = None,
        mask: NDArray[Any] | None = None,
        cosine: NDArray[Any] | None = None,
        compact: bool = False,
    ) -> NDArray[np.float32]:
        """A model's output as physical absolute targets and commands: the exact inverse of what loading did.

        Args:
            action: [..., H, 256] in this data set's representation and normalization; [..., H, K] in its layout.
            of: the example it answers, or the facts of one of the same source with the `state` measured now.
            state: [256] physical and absolute at t0; an example's own (`present`) where it is not given.
            state_mask: [256]; without it every finite value of a given state is one.
            mask: which values of `action` are any; without it all are.
            cosine: [..., H, 256] the model's cosines, where the statistics have angles with method `sincos`.
            compact: give [..., H, c], in the order of `facts["channels"]["action"]`.

        Returns:
            [..., H, 256] float32. NaN in channels that the source's action lacks, and where a value cannot be
            known because its state is masked.

        Raises:
            SpecError: a state is needed and not given, or there are no statistics.
        """
        facts = of.facts if isinstance(of, Example) else of
        if state is None and isinstance(of, Example):
            state, state_mask = of.present, of.present_mask
        if self._decoder.target is not None:
            action, mask = self._decoder.target.answer(facts, (action, mask), (state, state_mask))
        found = self.codec.restore(action, facts, state=state, state_mask=state_mask, mask=mask, cosine=cosine)
        if compact:
            return found
        wide = np.full((*found.shape[:-1], WIDTH), np.nan, np.float32)
        wide[..., facts["channels"]["action"]] = found
        return wide

    def torch(self) -> TorchDataset:
        """A map-style torch Dataset over the same places; `SpecError` without torch."""
        try:
            from dataengine.loader.torch_dataset import TorchDataset
        except ImportError:
            raise SpecError("torch is not installed", fix=TORCH_FIX) from None
        return TorchDataset(self)

    def _place(self, place: int) -> int:
        index = operator.index(place)
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"sample {index} of {size}")
        return index % size


def open_mixture(
    address: str | Path,
    *,
    split: str = "train",
    representation: str | None = None,
    normalize: bool = True,
    layout: str | Layout | None = None,
    views: Sequence[str] | None = None,
    image_size: tuple[int, int] | None = None,
    image_fit: Fit = "stretch",
    kinds: Sequence[str] = KINDS,
    window: GivenWindow | None = None,
    prompt: GivenPrompt | None = None,
    weights: Mapping[str, float] | None = None,
    stage: str | None = None,
    verify: bool = False,
) -> MixtureDataset:
    """Open a version of a mixture for training.

    Args:
        address: the mixture's folder, `M` (its latest version) or `M@VERSION`.
        split: `train` or `valid`.
        representation: of action chunks: `absolute`, `relative`, `relative_base` or `delta`. None: what the version is
            baked in; else what the layout's project trains on, else `absolute`.
        normalize: apply the version's `normalization.json` to state and action. A baked version is normalized.
        layout: another project's vectors and image names, by a shipped name, a file or a `Layout`; None: the one that
            the version is built in, else the unified vector. One that converts numbers needs `normalize=False`.
        views: camera views to decode, with their history; None: all, (): none.
        image_size: (height, width) every image is scaled to; None: as stored.
        image_fit: `stretch`, or `pad` to keep the aspect.
        kinds: of samples: `window`, `item`, or both. A scheduled mixture then draws only sources that have such, each
            as often as else.
        window: of a version of segments: how windows are cut, `{"chunk": {"seconds": 1.0}, "stride": 2, "history":
            2}` or some of it; the rest, and None, as the version's recipe says.
        prompt: of a version of segments: how prompts are made, a form's name or some of a recipe's `prompt`.
        weights: of the sources of a scheduled mixture, every one named, instead of its shares; 0 leaves one out.
        stage: of a scheduled mixture; an epoch then is this stage alone.
        verify: check the sha256 of every shard first.

    Raises:
        SpecError: no such version, split, representation, kind, view, layout, source or stage; it names those there
            are. Or the layout's project does not train on that representation, or the layout converts numbers; or a
            baked version is asked for anything but what its shards hold; or `window` or `prompt` of a version of
            windows, or a window that needs more rows than segments hold.
        FormatError: a shard, an index or a document is missing or damaged.
    """
    _check_images(image_size, image_fit)
    folder, version = split_address(str(address))
    store = MixtureStore(folder)
    name = store.resolve(version)
    sha, manifest = store.manifest(name)
    choices = Choices.of(manifest.recipe, window, prompt)
    baked = Baked.of(manifest.recipe, manifest.normalization_sha256)
    target = Target.of(layout, normalize=normalize and baked is None)
    if baked is not None:
        form = baked.form(representation, None if target is None else target.layout, normalize=normalize)
        target = target if baked.layout is None else Target(baked.layout)
    else:
        form = representation or "absolute" if target is None else target.layout.representation(representation)
    entries = [entry for entry in manifest.shards if entry.split == split]
    if not entries:
        there = ", ".join(sorted({entry.split for entry in manifest.shards})) or "none"
        raise SpecError(f"version {name} has no split {split!r}", where=str(folder), fix=f"it has: {there}")
    document = None
    if normalize:
        data = store.checked(f"{store.documents(sha)}/normalization.json", manifest.normalization_sha256)
        document = orjson.loads(data)
    shards = Shards(store.address, tuple(entries))
    shards.check(digests=verify)
    stored = stored_samples(shards, choices, kinds)
    decoder = Decoder(make_codec(form, document), wanted_views(shards, views), image_size, image_fit, target, baked)
    chosen = target.layout.label if target is not None else None
    identity = Identity(manifest.name, name, sha, split, form, normalize, chosen, stage, weights)
    spans = Spans.of([entry.source for entry in entries], stored.stops)
    drawn = manifest.schedule if split == "train" else None
    mix = Mix.of(drawn, spans, weights=weights, stage=stage, partly=stored.partly)
    return MixtureDataset(identity, stored, decoder, mix)


def _check_images(size: tuple[int, int] | None, fit: str) -> None:
    if fit not in get_args(Fit):
        raise unknown_name("image_fit", fit, get_args(Fit))
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise SpecError(f"image_size {size} is no size", fix="give (height, width) in pixels")
