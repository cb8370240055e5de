"""How long rows are, before they are decoded: exact tokens, or a bound where augmentation may lengthen a sound."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch.distributed as dist

from unimoe import Modality, UniMoEProcessor
from unimoe.lengths import TokenCounter
from unimoe.media import sound_length

from ..config_data import AugmentConfig, SoundAugment
from .dataset import SAMPLING_RATE, MixtureDataset, medium_of
from .fitting import Cut, Messages, longest_cut
from .order import Place
from .schema import DataError, Row

_SOUNDS = (Modality.AUDIO.key, Modality.SPEECH.key)


class RowLengths:
    """Measures the rows of a mixture; those that can be read at random, once.

    Args:
        dataset: The mixture.
        processor: Of the model.
    """

    def __init__(self, dataset: MixtureDataset, processor: UniMoEProcessor) -> None:
        self.dataset = dataset
        self.counter = TokenCounter(processor, sampling_rate=SAMPLING_RATE)
        self.known = np.full(dataset.num_rows, -1, dtype=np.int64)
        self._cuts: dict[tuple[int, int], tuple[Cut, int] | None] = {}

    def __call__(self, place: Place) -> int:
        """Tokens of the whole row of a place.

        Raises:
            DataError: If a medium of the row cannot be read, or the processor would refuse it.
        """
        if place.streamed is not None:
            return self._count(*self.dataset.row(place))
        if self.known[place.row] < 0:
            self.known[place.row] = self._count(*self.dataset.row(place))
        return int(self.known[place.row])

    def cut(self, place: Place, limit: int) -> tuple[Cut, int] | None:
        """Where to cut the row of a place so that it has at most `limit` tokens, and how many it has then.

        None: no part of it with something to learn fits.
        """
        key = (place.row, limit)
        if place.streamed is None and key in self._cuts:
            return self._cuts[key]
        row, augment = self.dataset.row(place)
        found = longest_cut(row.messages, limit, lambda messages: self._count(row, augment, messages))
        if place.streamed is None:
            self._cuts[key] = found
        return found

    def measure_all(
        self, *, process: int = 0, processes: int = 1, track: Callable[[Sequence[int]], Iterable[int]] = iter
    ) -> None:
        """Measure all rows that can be read at random; of several processes, each measures a part of them.

        Args:
            process, processes: Which one this is, of how many.
            track: Wraps the numbers of this process's rows, to show how far it is.

        Raises:
            DataError: If a row cannot be measured, in every process.
        """
        error: DataError | None = None
        numbers = range(process, len(self.known), processes)
        try:
            for number in track(numbers):
                self(Place(0, 0, number))
        except DataError as found:
            error = found
        if processes > 1:
            parts: list[Any] = [None] * processes
            dist.all_gather_object(parts, (self.known[numbers], None if error is None else str(error)))
            for start, (lengths, message) in enumerate(parts):
                self.known[start::processes] = lengths
                error = error or (DataError(message) if message else None)
        if error is not None:
            raise error

    def _count(self, row: Row, augment: AugmentConfig, messages: Messages | None = None) -> int:
        where = f"{row.where} ({row.id})"
        try:
            return self.counter(
                [
                    {**message, "content": [self._longest(item, augment, where) for item in message["content"]]}
                    for message in (row.messages if messages is None else messages)
                ]
            )
        except (ImportError, OSError, ValueError) as error:
            raise error if isinstance(error, DataError) else DataError(f"{where}: {error}") from error

    def _longest(self, item: dict[str, Any], augment: AugmentConfig, where: str) -> dict[str, Any]:
        """An item with silence in the place of a sound: as much as the sound has when it is decoded and augmented."""
        kind = item["type"]
        if kind not in _SOUNDS:
            return item
        try:
            samples = sound_length(medium_of(item), sampling_rate=SAMPLING_RATE, where=where)
        except (ImportError, ValueError) as error:
            raise DataError(str(error)) from error
        samples = longest_sound(samples, getattr(augment, kind))
        silence = np.broadcast_to(np.float32(0), samples)  # of any length, it takes 4 bytes
        return {"type": kind, kind: {"array": silence, "sampling_rate": SAMPLING_RATE}}


def longest_sound(samples: int, augment: SoundAugment | None) -> int:
    """Most samples that a sound of so many can have after augmentation; see `training.data.augment.augment_sound`."""
    if augment is None or not (augment.speed or augment.shift):
        return samples
    slowest = -int(-samples // (1 - augment.speed)) + 1
    return slowest + round(augment.shift * SAMPLING_RATE)


__all__ = ["RowLengths", "longest_sound"]
