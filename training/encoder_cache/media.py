"""Media that encoders are to run over before a training: found in the rows, each once, and decoded."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from unimoe import Modality, UniMoEProcessor
from unimoe.processing.units import UnitCollector

from ..config.data import AugmentConfig
from ..data.mixture.dataset import SAMPLING_RATE, MixtureDataset, medium_of
from ..data.mixture.order import SampleIndex
from ..data.schema import DataError
from .store import CachedMedia, measure_numbers, medium_key

RowAt = tuple[int, int]
"""Number of a data set, and of a row in it."""


class MediumIndex(NamedTuple):
    """Where a medium stands: number of the data set, of the row, and of the item within the row."""

    dataset: int
    row: int
    item: int
    kind: str
    key: bytes


def list_media(
    datasets: Sequence[MixtureDataset],
    media: CachedMedia,
    track: Callable[[Iterable[RowAt], int], Iterable[RowAt]] = lambda rows, total: rows,
) -> Iterator[MediumIndex]:
    """List the media that are not cached yet, each medium once.

    Args:
        datasets: With the rows.
        media: What is cached.
        track: Wraps the rows, of which there are so many, to show how far it is.
    """
    seen: set[bytes] = set()
    rows = ((number, index) for number, dataset in enumerate(datasets) for index in range(dataset.num_rows))
    for number, index in track(rows, sum(dataset.num_rows for dataset in datasets)):
        row, _ = datasets[number].row(SampleIndex(0, 0, index))
        items = (item for message in row.messages for item in message["content"])
        for position, item in enumerate(items):
            if not any(part in media.stores for part in media.parts(item["type"])):
                continue
            key = medium_key(item["type"], medium_of(item), where=f"{row.where} ({row.id})")
            if key not in seen and media.missing(item["type"], key):
                yield MediumIndex(number, index, position, item["type"], key)
            seen.add(key)


def row_and_item(datasets: Sequence[MixtureDataset], at: MediumIndex) -> tuple[Any, dict[str, Any]]:
    """Return the row of a medium, and the item that holds it."""
    row, _ = datasets[at.dataset].row(SampleIndex(0, 0, at.row))
    return row, [item for message in row.messages for item in message["content"]][at.item]


def look_up(datasets: Sequence[MixtureDataset], at: MediumIndex) -> tuple[str, Any]:
    """Row and id of a medium, and the medium."""
    row, item = row_and_item(datasets, at)
    return f"{row.where} ({row.id})", medium_of(item)


class ReadyMedium(NamedTuple):
    """A medium as its encoders take it.

    Args:
        key: That it will be found by.
        where: Row and id, for errors.
        parts: Modality key -> measures, and features (N, ...), None if there is no unit.
    """

    key: bytes
    where: str
    parts: dict[str, tuple[Sequence[float], Tensor | None]]


class UncachedMedia(Dataset):
    """Media that are not cached yet, decoded and extracted."""

    def __init__(
        self, datasets: Sequence[MixtureDataset], uncached: Sequence[MediumIndex], processor: UniMoEProcessor
    ) -> None:
        self.datasets, self.uncached, self.layout = datasets, uncached, processor.layout
        self.extractors = {
            modality: getattr(processor, str(modality.extractor_name)) for modality in processor.modalities
        }

    def __len__(self) -> int:
        return len(self.uncached)

    def __getitem__(self, index: int) -> ReadyMedium:
        """Decode one medium as the training would.

        Raises:
            DataError: If it cannot be read.
        """
        at = self.uncached[index]
        row, item = row_and_item(self.datasets, at)
        modality = Modality.from_key(at.kind)
        decoded = self.datasets[at.dataset].decode(item, row, AugmentConfig(), torch.Generator())
        units = UnitCollector(self.extractors, self.layout, {}, SAMPLING_RATE)
        where = f"{row.where} ({row.id})"
        try:
            measures = units.load(modality, medium_of(decoded), where)
            features = units.features()
        except (ImportError, OSError, ValueError) as error:
            raise error if isinstance(error, DataError) else DataError(str(error)) from error
        parts = [modality]
        if modality is Modality.VIDEO and self.layout.video_sound is not None:
            parts.append(Modality.from_key(self.layout.video_sound))
        numbers = {part.key: measure_numbers(part.key, measures) for part in parts}
        found = {part.key: (numbers[part.key], features.get(str(part.feature_name))) for part in parts}
        return ReadyMedium(at.key, where, found)


__all__ = ["MediumIndex", "ReadyMedium", "UncachedMedia", "list_media", "look_up"]
