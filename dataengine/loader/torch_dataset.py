"""The torch side, imported only when asked for: a map-style Dataset for DataLoader."""

from __future__ import annotations

from typing import Any

import torch

from dataengine.loader.examples import Example, Samples

_Dataset: Any = torch.utils.data.Dataset


class TorchDataset(_Dataset):  # type: ignore[misc]  # torch need not be there when types are checked
    """Places of a `MixtureDataset`, fetched a batch at a time. `collate` gives tensors, which workers share."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> Example:
        return self.samples.examples([place])[0]

    def __getitems__(self, places: list[int]) -> list[Example]:
        return self.samples.examples(places)

    def collate(self, examples: list[Example]) -> dict[str, Any]:
        """`MixtureDataset.collate`, arrays as tensors."""
        return self.samples.collate(examples).torch()
