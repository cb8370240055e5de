"""Batches of one modality each, by a schedule: what trains several specialists in one run.

A stream by modality is the mixture with the rows of one modality, in the order that a training on them alone would
show.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from torch.utils.data import Dataset, Sampler

from unimoe import MEDIA

from ..mixture.dataset import MixtureDataset, Sample, Source
from ..mixture.order import SampleIndex
from ..readers.sources import Rows, RowStream
from ..schema import DataError, Row
from .batches import MixtureBatches


class StreamIndex(NamedTuple):
    """A sample of a stream."""

    stream: str
    sample: SampleIndex


class PartOfRows(Sequence[Row]):
    """Some rows of a source."""

    def __init__(self, rows: Sequence[Row], numbers: Sequence[int]) -> None:
        self.rows, self.numbers = rows, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self.rows[self.numbers[index]]


class ModalityStreams(Dataset):
    """The streams of a mixture, by their key; indexed by `StreamIndex`."""

    def __init__(self, streams: Mapping[str, MixtureDataset]) -> None:
        self.streams = dict(streams)

    def __getitem__(self, at: StreamIndex) -> Sample:
        """Decode and augment one sample."""
        return self.streams[at.stream][at.sample]


class ScheduledBatches(Sampler[list[StreamIndex]]):
    """Batches of one process; all accumulated batches of an optimiser step, on all processes, are of one stream.

    Args:
        batches: Of each stream, without an end; see `MixtureBatches`.
        schedule: Stream of each optimiser step.
        accumulation: Batches of a step, for each process.
    """

    drop_last = False

    def __init__(self, batches: Mapping[str, MixtureBatches], schedule: Sequence[str], *, accumulation: int) -> None:
        self.batches, self.schedule, self.accumulation = dict(batches), list(schedule), accumulation

    def set_epoch(self, epoch: int) -> None:
        """Of the one epoch that there is, nothing changes."""

    def __len__(self) -> int:
        return len(self.schedule) * self.accumulation

    def __iter__(self) -> Iterator[list[StreamIndex]]:
        flows = {key: self._endless(batches) for key, batches in self.batches.items()}
        for key in self.schedule:
            for indices in islice(flows[key], self.accumulation):
                yield [StreamIndex(key, index) for index in indices]

    @staticmethod
    def _endless(batches: MixtureBatches) -> Iterator[list[SampleIndex]]:
        """Batches of one stream, epoch after epoch."""
        epoch = 0
        while True:
            batches.set_epoch(epoch)
            yield from batches
            epoch += 1


def step_schedule(steps: Mapping[str, int]) -> list[str]:
    """Schedule the stream of each step, so that every stream has its steps, spread evenly over the whole.

    Args:
        steps: Of each stream.
    """
    moments = [((number + 0.5) / total, key) for key, total in steps.items() for number in range(total)]
    return [key for _, key in sorted(moments, key=lambda moment: moment[0])]


def apportion(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Share steps out by weight, by largest remainders; each gets one at least.

    Raises:
        ValueError: If there are fewer steps than streams.
    """
    if total < len(weights):
        raise ValueError(f"{total} step(s) cannot be shared out among {', '.join(weights)}. Set trainer.max_steps.")
    exact = {key: total * weight / sum(weights.values()) for key, weight in weights.items()}
    steps = {key: max(int(value), 1) for key, value in exact.items()}
    order = sorted(exact, key=lambda key: exact[key] - steps[key], reverse=True)
    while sum(steps.values()) < total:
        steps[order[sum(steps.values()) % len(order)]] += 1
    while sum(steps.values()) > total:
        steps[max(steps, key=lambda key: steps[key])] -= 1
    return steps


def split_by_modality(dataset: MixtureDataset, keys: Sequence[str]) -> dict[str, MixtureDataset]:
    """Split a mixture by the modality of its rows.

    Args:
        dataset: The mixture; none of its sources is a stream.
        keys: Encoder keys of the streams, and `text` for rows without media.

    Returns:
        A mixture for each key, with the weights and augmentations of the whole one.

    Raises:
        DataError: If a row has media of two encoders, or is of none of the keys, or a key has no rows.
    """
    streams: dict[str, list[Source]] = {key: [] for key in keys}
    for source in dataset.sources:
        if isinstance(source.rows, RowStream):
            raise DataError(f"{source.path}: specialists cannot be trained in one run on a stream. Set stream: false.")
        numbers: dict[str, list[int]] = {key: [] for key in keys}
        if isinstance(source.rows, Rows) and len(source.rows.kinds) == 1:  # all rows are of one modality
            numbers[row_modality(source.rows[0], keys)] = list(range(len(source.rows)))
        else:
            for number, row in enumerate(source.rows):
                numbers[row_modality(row, keys)].append(number)
        for key, chosen in numbers.items():
            if chosen:
                streams[key].append(source._replace(rows=PartOfRows(source.rows, chosen)))
    for key, sources in streams.items():
        if not sources:
            raise DataError(f"No row of the mixture is of the specialist {key!r}. Add a file, or leave {key} out.")
    split = {
        key: MixtureDataset(
            sources,
            seed=dataset.seed,
            cache_media=dataset.cache is not None,
            shuffle_buffer=dataset.shuffle_buffer,
        )
        for key, sources in streams.items()
    }
    for stream in split.values():
        stream.cached = dataset.cached
    return split


def row_modality(row: Row, keys: Sequence[str]) -> str:
    """Return the specialist to which all tokens of a row go: that of its media, or `text`.

    Raises:
        DataError: If there is none, or two.
    """
    encoder_keys = {modality.key: modality.encoder_key for modality in MEDIA}
    found = sorted({encoder_keys.get(kind, kind) for kind in row.kinds})
    if len(found) > 1:
        raise DataError(
            f"{row.where} ({row.id}): has {' and '.join(found)}, but all tokens of a row go to one specialist. Leave "
            "such rows to the stage that trains all experts together."
        )
    if found[0] not in keys:
        raise DataError(
            f"{row.where} ({row.id}): is of the modality {found[0]}, for which there is no specialist (only "
            f"{', '.join(keys)}). Name it in start.specialists.modalities, or take the row out."
        )
    return found[0]


__all__ = [
    "ModalityStreams",
    "ScheduledBatches",
    "StreamIndex",
    "apportion",
    "row_modality",
    "split_by_modality",
    "step_schedule",
]
