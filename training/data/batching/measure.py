"""How long rows are, before they are decoded: exact tokens, or a bound where augmentation may lengthen a sound."""

from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from unimoe import Modality, UniMoEProcessor
from unimoe.media import sound_length
from unimoe.processing.lengths import TokenCounter

from ...config.data import AugmentConfig, SoundAugment
from ...distributed.processes import together
from ..mixture.augment import sample_generator, uniform
from ..mixture.dataset import SAMPLING_RATE, MixtureDataset, medium_of
from ..mixture.fitting import Cut, Messages, longest_cut
from ..mixture.order import SampleIndex
from ..schema import DataError, Row

_SOUNDS = (Modality.AUDIO.key, Modality.SPEECH.key)


LENGTHS_FILE = "row_lengths.npz"
"""In a checkpoint: the lengths known so far, so that going on from it needs no row measured again."""


class RowLengths:
    """Measures the rows of a mixture, each once: those of files by their number, those of streams by their position.

    Args:
        dataset: The mixture.
        processor: Of the model.
    """

    def __init__(self, dataset: MixtureDataset, processor: UniMoEProcessor) -> None:
        self.dataset = dataset
        self.counter = TokenCounter(processor, sampling_rate=SAMPLING_RATE)
        self.known = np.full(dataset.num_rows, -1, dtype=np.int32)
        self.streamed = array("i")  # by position; -1 where none is known
        self.cuts: dict[int, tuple[Cut, int] | None] = {}

    def __call__(self, index: SampleIndex) -> int:
        """Tokens of the whole row of an index.

        Raises:
            DataError: If a medium of the row cannot be read, or the processor would refuse it.
        """
        lengths, number = (self.known, index.row) if index.streamed is None else (self.streamed, index.position)
        if lengths is self.streamed and number >= len(lengths):
            self.streamed.extend([-1] * (number + 1 - len(lengths)))
        if lengths[number] < 0:
            lengths[number] = self._count(*self.dataset.row(index))
        return int(lengths[number])

    def cut(self, index: SampleIndex, limit: int) -> tuple[Cut, int] | None:
        """Where to cut the row of an index so that it has at most `limit` tokens, and how many it has then.

        None: no part of it with something to learn fits. The limit must always be the same.
        """
        key = index.row if index.streamed is None else -1 - index.position
        if key not in self.cuts:
            row, augment = self.dataset.row(index)
            self.cuts[key] = longest_cut(row.messages, limit, lambda messages: self._count(row, augment, messages))
        return self.cuts[key]

    def save(self, folder: Path) -> None:
        """Write what is known to `LENGTHS_FILE` in a folder."""
        cuts = [(key, *found[0], found[1]) if found else (key, -1, 0, 0) for key, found in self.cuts.items()]
        cuts_table = np.array(cuts, dtype=np.int64).reshape(-1, 4)
        np.savez(folder / LENGTHS_FILE, known=self.known, streamed=np.array(self.streamed, np.int32), cuts=cuts_table)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote, if there is anything that fits this mixture.

        Raises:
            DataError: If the file is damaged.
        """
        file = folder / LENGTHS_FILE
        if not file.is_file():
            return
        try:
            self._load(file)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            said = " ".join(str(error).split())[:200]
            raise DataError(str(file), f"is damaged ({said}).", "Go on from an earlier checkpoint.") from None

    def _load(self, file: Path) -> None:
        with np.load(file) as stored:
            if stored["known"].shape != self.known.shape:
                return
            self.known = stored["known"]
            self.streamed = array("i", stored["streamed"].tolist())
            for key, messages, items, tokens in stored["cuts"].tolist():
                self.cuts[key] = (Cut(messages, items), tokens) if messages >= 0 else None

    def measure_all(
        self, *, process: int = 0, processes: int = 1, track: Callable[[Sequence[int]], Iterable[int]] = iter
    ) -> None:
        """Measure all rows that can be read at random; of several processes, each measures a part of them.

        Args:
            process: Which one this is, from 0.
            processes: How many there are.
            track: Wraps the numbers of this process's rows, to show how far it is.

        Raises:
            DataError: If a row cannot be measured, in every process.
        """
        numbers = range(process, len(self.known), processes)

        def measure() -> np.ndarray:
            for number in track(numbers):
                self(SampleIndex(0, 0, number))
            return self.known[numbers]

        for start, lengths in enumerate(together(measure, errors=(DataError,))):
            self.known[start::processes] = lengths

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
        """Return an item with silence in the place of a sound: as much as the sound has when it is decoded and
        augmented.
        """
        kind = item["type"]
        if kind not in _SOUNDS:
            return item
        try:
            samples = sound_length(medium_of(item), sampling_rate=SAMPLING_RATE, where=where)
        except (ImportError, ValueError) as error:
            raise DataError(str(error)) from error
        samples = self._augmented(samples, getattr(augment, kind))
        silence = np.broadcast_to(np.float32(0), samples)  # of any length, it takes 4 bytes
        return {"type": kind, kind: {"array": silence, "sampling_rate": SAMPLING_RATE}}

    def _augmented(self, samples: int, augment: SoundAugment | None) -> int:
        """Say how many samples a sound has after its augmentation: most that it can have."""
        return longest_sound(samples, augment)


class DrawnLengths(RowLengths):
    """Tokens of rows as a training shows them, for estimates: a sound is as long as a draw of its augmentation says.

    `RowLengths` takes the longest that it can be, so that nothing can be too long. These are right on average.
    """

    def __call__(self, index: SampleIndex) -> int:
        """Tokens of the row of an index; as `RowLengths`."""
        row, augment = self.dataset.row(index)
        if not any(sound and (sound.speed or sound.shift) for sound in (augment.audio, augment.speech)):
            return super().__call__(index)
        self._generator = sample_generator(self.dataset.seed, index.epoch, index.position)
        return self._count(row, augment)

    def _augmented(self, samples: int, augment: SoundAugment | None) -> int:
        if augment is None or not (augment.speed or augment.shift):
            return samples
        slower = max(1, round(samples / uniform(1 - augment.speed, 1 + augment.speed, self._generator)))
        return slower + round(uniform(0, augment.shift, self._generator) * SAMPLING_RATE)


def longest_sound(samples: int, augment: SoundAugment | None) -> int:
    """Most samples that a sound of so many can have after augmentation; see `augment_sound`."""
    if augment is None or not (augment.speed or augment.shift):
        return samples
    slowest = -int(-samples // (1 - augment.speed)) + 1
    return slowest + round(augment.shift * SAMPLING_RATE)


__all__ = ["LENGTHS_FILE", "DrawnLengths", "RowLengths", "longest_sound"]
