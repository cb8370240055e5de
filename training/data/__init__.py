"""From data files to batches: `readers` give rows, `mixture` their decoded media, `batching` tensors and labels."""

from unimoe.errors import DataError

from .batching.batches import BatchSchedule, MixtureBatches, schedule_batches
from .batching.collator import Collator
from .batching.measure import RowLengths
from .mixture.dataset import MixtureDataset, MixtureSampler, Sample
from .rows import Row
from .schema import read_rows

__all__ = [
    "BatchSchedule",
    "Collator",
    "DataError",
    "MixtureBatches",
    "MixtureDataset",
    "MixtureSampler",
    "Row",
    "RowLengths",
    "Sample",
    "read_rows",
    "schedule_batches",
]
