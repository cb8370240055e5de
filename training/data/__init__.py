"""From data files to batches: formats and sources (rows) -> order, fitting, packing and batches (places) -> dataset
(decoded media) -> collator (tensors and labels).
"""

from unimoe.errors import DataError

from .batches import BatchPlan, MixtureBatches, plan_batches
from .collator import Collator
from .dataset import MixtureDataset, MixtureSampler, Sample
from .measure import RowLengths
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
