"""From data files to batches: `readers` give rows, `dataset` their decoded media, `batching` tensors and labels."""

from unimoe.errors import DataError

from .batching.batches import BatchPlan, MixtureBatches, plan_batches
from .batching.collator import Collator
from .batching.measure import RowLengths
from .mixture.dataset import MixtureDataset, MixtureSampler, Sample
from .rows import Row
from .schema import read_rows

__all__ = [
    "BatchPlan",
    "Collator",
    "DataError",
    "MixtureBatches",
    "MixtureDataset",
    "MixtureSampler",
    "Row",
    "RowLengths",
    "Sample",
    "plan_batches",
    "read_rows",
]
