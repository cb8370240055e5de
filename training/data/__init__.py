"""From data files to batches: schema (rows) -> dataset (mixture, decoded media) -> collator (tensors and labels)."""

from .collator import Collator
from .dataset import MixtureDataset, MixtureSampler, Sample
from .schema import DataError, Row, read_rows

__all__ = ["Collator", "DataError", "MixtureDataset", "MixtureSampler", "Row", "Sample", "read_rows"]
