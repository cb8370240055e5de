"""A weighted mixture of files and streams as a map-style dataset: indices in, samples with decoded media out.

The order and every random change to a sample follow from (seed, epoch, position) alone, whichever process does the
work.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler

from unimoe import Modality
from unimoe.media import CachedMedium, load_picture, load_sound

from ...config.data import AugmentConfig, DataConfig
from ..readers.sources import RowStream, open_source, open_stream
from ..schema import DataError, Row
from .augment import augment_image, augment_sound, sample_generator
from .fitting import keep
from .order import SampleIndex, endless_order, fractional_rows, pass_order

SAMPLING_RATE = 16_000
"""Rate at which sounds are decoded and augmented, Hz; the processor resamples if an extractor wants another."""


@dataclass(frozen=True)
class Sample:
    """A row that is ready for the processor, with its own source of chance for what is augmented later."""

    id: str
    where: str
    messages: list[dict[str, Any]]
    augment: AugmentConfig
    generator: torch.Generator
    is_cut_inside: bool = False
    """Whether the last message was cut behind a medium, so that its end is no end to learn."""


class Source(NamedTuple):
    """Rows of one data file, or a stream of them, with weight and augmentation."""

    path: str
    rows: Sequence[Row] | RowStream
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
            open_stream(source) if source.stream else open_source(source),
            source.weight,
            source.augment or config.augment,
        )
        for source in config.mixture
    ]


class MediaCache(Protocol):
    """Where media are found whose encoders have run."""

    def find(self, kind: str, medium: Any, *, where: str) -> CachedMedium | None:
        """Read what is cached of a medium; None if media of this kind are not cached."""
        ...


class MixtureDataset(Dataset):
    """Rows of several files and streams; indexed by `SampleIndex` (or by a row's number: as the first pass shows it).

    Args:
        sources: Files are numbered row by row, one after the other; streams give their rows in order alone.
        seed: Of order and augmentation.
        cache_media: Keep decoded media in memory.
        shuffle_buffer: Rows of a stream among which the next one is drawn.
    """

    def __init__(
        self, sources: Sequence[Source], *, seed: int, cache_media: bool = False, shuffle_buffer: int = 1000
    ) -> None:
        self.sources = list(sources)
        self.seed = seed
        self.shuffle_buffer = shuffle_buffer
        self.cached: MediaCache | None = None  # of encoders: see `training.encoder_cache`
        self.cache: dict[str, Image.Image | np.ndarray] | None = {} if cache_media else None
        self.sizes = [0 if isinstance(source.rows, RowStream) else len(source.rows) for source in self.sources]
        self._ends = list(accumulate(self.sizes))

    @property
    def num_rows(self) -> int:
        """Rows of all files; those of streams are not known."""
        return sum(self.sizes)

    @property
    def has_streams(self) -> bool:
        """Whether a source is a stream, so that the mixture has no passes and no end."""
        return any(isinstance(source.rows, RowStream) for source in self.sources)

    def __len__(self) -> int:
        """Count the samples of one pass, weights counted.

        Raises:
            TypeError: If a source is a stream.
        """
        if self.has_streams:
            raise TypeError("A mixture with a stream has no length.")
        weights = [source.weight for source in self.sources]
        return sum(
            size * int(weight) + fractional_rows(size, weight)
            for size, weight in zip(self.sizes, weights, strict=True)
        )

    def order(self, epoch: int) -> list[int]:
        """Row numbers in the order in which a pass shows them."""
        return pass_order(self.sizes, [source.weight for source in self.sources], seed=self.seed, epoch=epoch)

    def indices(self, epoch: int) -> Iterator[SampleIndex]:
        """Sample indices of one pass; with streams, of the whole training, without end."""
        if not self.has_streams:
            return (SampleIndex(epoch, position, row) for position, row in enumerate(self.order(epoch)))
        return endless_order(
            [
                source.rows if isinstance(source.rows, RowStream) else size
                for source, size in zip(self.sources, self.sizes, strict=True)
            ],
            [source.weight for source in self.sources],
            seed=self.seed,
            buffer=self.shuffle_buffer,
        )

    def row(self, index: SampleIndex) -> tuple[Row, AugmentConfig]:
        """Return the row of an index, whole and undecoded, and its augmentation."""
        if index.streamed is not None:
            return index.streamed.row, self.sources[index.streamed.source].augment
        number = bisect_right(self._ends, index.row)
        source, start = self.sources[number], self._ends[number] - self.sizes[number]
        assert not isinstance(source.rows, RowStream)
        return source.rows[index.row - start], source.augment

    def __getitem__(self, index: SampleIndex | int) -> Sample:
        """Decode and augment one sample.

        Raises:
            DataError: If a medium cannot be read; the row and the file are named.
        """
        if not isinstance(index, tuple):
            index = SampleIndex(0, int(index), int(index))
        return self.sample(index, *self.row(index))

    def sample(self, index: SampleIndex, row: Row, augment: AugmentConfig) -> Sample:
        """Decode and augment a row as the sample of an index.

        Raises:
            DataError: If a medium cannot be read; the row and the file are named.
        """
        generator = sample_generator(self.seed, index.epoch, index.position)
        messages = [
            {**message, "content": [self.decode(item, row, augment, generator) for item in message["content"]]}
            for message in keep(row.messages, index.cut)
        ]
        is_cut_inside = index.cut is not None and index.cut.is_inside
        return Sample(row.id, row.where, messages, augment, generator, is_cut_inside)

    def decode(
        self, item: dict[str, Any], row: Row, augment: AugmentConfig, generator: torch.Generator
    ) -> dict[str, Any]:
        """Load the medium of one item and augment it, or find it cached; text, and videos, which the processor
        samples, pass.

        Raises:
            DataError: If it cannot be read.
        """
        kind = item["type"]
        if kind == Modality.TEXT.key:
            return item
        if self.cached is not None:
            cached = self.cached.find(kind, medium_of(item), where=f"{row.where} ({row.id})")
            if cached is not None:
                return {"type": kind, kind: cached}
        if kind == Modality.VIDEO.key:
            return item
        medium = self._load(medium_of(item), kind, row)
        config = getattr(augment, kind)
        if isinstance(medium, Image.Image):
            return {"type": kind, kind: augment_image(medium, config, generator) if config else medium}
        samples = augment_sound(medium, config, generator, rate=SAMPLING_RATE) if config else medium
        return {"type": kind, kind: {"array": samples, "sampling_rate": SAMPLING_RATE}}

    def _load(self, medium: Any, kind: str, row: Row) -> Image.Image | np.ndarray:
        cache = self.cache if isinstance(medium, str) else None  # bytes of a table have no name to be found by
        if cache is not None and medium in cache:
            return cache[medium]
        where = f"{row.where} ({row.id})"
        is_image = kind == Modality.IMAGE.key
        try:
            loaded = (
                load_picture(medium, where=where)
                if is_image
                else load_sound(medium, sampling_rate=SAMPLING_RATE, where=where)
            )
        except (ImportError, ValueError) as error:
            raise DataError(str(error)) from error
        if cache is not None:
            cache[medium] = loaded
        return loaded


def medium_of(item: dict[str, Any]) -> Any:
    """Return the medium of an item, as `unimoe.media` loads it: its path, or what stands under its type."""
    return item["path"] if "path" in item else item[item["type"]]


class MixtureSampler(Sampler[SampleIndex]):
    """The order of a mixture: the same for the same seed and epoch."""

    def __init__(self, dataset: MixtureDataset) -> None:
        self.dataset = dataset
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration shows."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[SampleIndex]:
        return self.dataset.indices(self.epoch)
