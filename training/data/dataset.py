"""A weighted mixture of data files as a map-style dataset: rows in, samples with decoded (and augmented) media out.

The order of an epoch and every random change to a sample follow from (seed, epoch, position) alone, whichever process
does the work.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler

from unimoe import Modality
from unimoe.media import load_picture, load_sound

from ..config_data import AugmentConfig, DataConfig
from .augment import augment_image, augment_sound, sample_generator
from .schema import DataError, Row, read_rows

SAMPLING_RATE = 16_000
"""Rate at which sounds are decoded and augmented, Hz; the processor resamples if an extractor wants another."""


class Place(NamedTuple):
    """Which row to take, and where in the training: the key of a sample."""

    epoch: int
    position: int
    row: int


@dataclass(frozen=True)
class Sample:
    """A row that is ready for the processor, with its own source of chance for what is augmented later."""

    id: str
    where: str
    messages: list[dict[str, Any]]
    augment: AugmentConfig
    generator: torch.Generator


class Source(NamedTuple):
    """Rows of one data file with their weight and augmentation."""

    path: str
    rows: list[Row]
    weight: float
    augment: AugmentConfig


def read_mixture(config: DataConfig) -> list[Source]:
    """Read all data files of a mixture.

    Raises:
        DataError: If a row does not fit; see `training.data.schema`.
    """
    return [
        Source(
            source.path,
            read_rows(source.path, media_root=source.media_root),
            source.weight,
            source.augment or config.augment,
        )
        for source in config.mixture
    ]


class MixtureDataset(Dataset):
    """Rows of several files; indexed by `Place` (or by a row's number alone, as the first epoch would show it)."""

    def __init__(self, sources: Sequence[Source], *, seed: int, cache_media: bool = False) -> None:
        self.sources = list(sources)
        self.seed = seed
        self.rows = [row for source in sources for row in source.rows]
        self.augments = [source.augment for source in sources for _ in source.rows]
        self.cache: dict[str, Image.Image | np.ndarray] | None = {} if cache_media else None

    def __len__(self) -> int:
        """Samples in one epoch, weights counted."""
        return sum(len(source.rows) * int(source.weight) + _part(source) for source in self.sources)

    def order(self, epoch: int) -> list[int]:
        """Row numbers in the order in which an epoch shows them."""
        generator = sample_generator(self.seed, epoch)
        chosen, first = [], 0
        for source in self.sources:
            rows = torch.arange(first, first + len(source.rows))
            part = rows[torch.randperm(len(rows), generator=generator)[: _part(source)]]
            chosen += [rows.repeat(int(source.weight)), part]
            first += len(rows)
        together = torch.cat(chosen)
        return together[torch.randperm(len(together), generator=generator)].tolist()

    def __getitem__(self, place: Place | int) -> Sample:
        """Decode and augment one sample.

        Raises:
            DataError: If a medium cannot be read; the row and the file are named.
        """
        if not isinstance(place, tuple):
            place = Place(0, int(place), int(place))
        epoch, position, number = place
        row, augment = self.rows[number], self.augments[number]
        generator = sample_generator(self.seed, epoch, position)
        messages = [
            {**message, "content": [self._decode(item, row, augment, generator) for item in message["content"]]}
            for message in row.messages
        ]
        return Sample(row.id, row.where, messages, augment, generator)

    def _decode(
        self, item: dict[str, Any], row: Row, augment: AugmentConfig, generator: torch.Generator
    ) -> dict[str, Any]:
        """Load the medium of one item and augment it; text, and videos, which the processor samples, pass."""
        kind = item["type"]
        if kind in (Modality.TEXT.key, Modality.VIDEO.key):
            return item
        medium = self._load(item["path"], kind, row)
        config = getattr(augment, kind)
        if isinstance(medium, Image.Image):
            return {"type": kind, kind: augment_image(medium, config, generator) if config else medium}
        samples = augment_sound(medium, config, generator, rate=SAMPLING_RATE) if config else medium
        return {"type": kind, kind: {"array": samples, "sampling_rate": SAMPLING_RATE}}

    def _load(self, path: str, kind: str, row: Row) -> Image.Image | np.ndarray:
        if self.cache is not None and path in self.cache:
            return self.cache[path]
        where = f"{row.where} ({row.id})"
        is_image = kind == Modality.IMAGE.key
        try:
            medium = (
                load_picture(path, where=where)
                if is_image
                else load_sound(path, sampling_rate=SAMPLING_RATE, where=where)
            )
        except (ImportError, ValueError) as error:
            raise DataError(str(error)) from error
        if self.cache is not None:
            self.cache[path] = medium
        return medium


def _part(source: Source) -> int:
    """Rows that the fraction in a source's weight adds to an epoch."""
    return round((source.weight - int(source.weight)) * len(source.rows))


class MixtureSampler(Sampler[Place]):
    """The order of a mixture: the same for the same seed and epoch. The trainer sets the epoch."""

    def __init__(self, dataset: MixtureDataset) -> None:
        self.dataset = dataset
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration shows."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Place]:
        for position, row in enumerate(self.dataset.order(self.epoch)):
            yield Place(self.epoch, position, row)
