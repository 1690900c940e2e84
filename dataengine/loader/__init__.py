"""What training imports: a mixture's samples by number, in the unified vector, normalized, in batches.

from dataengine.loader import open_mixture

ds = open_mixture("M@v0001", representation="relative", image_size=(224, 224))
for batch in ds.batches(64, seed=0, epoch=0):
    ...
"""

from dataengine.loader.codec import Codec
from dataengine.loader.dataset import Identity, MixtureDataset, open_mixture
from dataengine.loader.examples import Batch, Example, collate
from dataengine.loader.order import Permutation, Schedule

__all__ = [
    "Batch",
    "Codec",
    "Example",
    "Identity",
    "MixtureDataset",
    "Permutation",
    "Schedule",
    "collate",
    "open_mixture",
]
