"""From the order of rows to the batches of each process.

    order -> (measure; drop or cut) -> one by one, grouped by length or packed -> shared out among processes

Only indices flow here, nothing is decoded: batches that come before the point at which a training goes on are passed
over at the cost of their order, or of their lengths where rows are fitted.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, count, islice

from torch.utils.data import Sampler

from unimoe import UniMoEProcessor

from ...config.data import DataConfig
from ..mixture.augment import sample_generator
from ..mixture.dataset import MixtureDataset
from ..mixture.fitting import LengthReport, name_rows, too_long
from ..mixture.order import SampleIndex
from ..schema import DataError
from .measure import RowLengths
from .packing import chunk, groups, packs, share_out

logger = logging.getLogger(__name__)

_BUFFERS = 3
_LOST = 100_000
"""Rows dropped one after the other at which a mixture is taken to have none that fits."""
_WARNED = 10
"""Rows dropped, and cut, that the log names as warnings; more of them are only told to those who ask for all."""
GlobalBatch = list[list[SampleIndex]]
"""The batches of all processes at one step."""


@dataclass
class BatchSchedule:
    """How the rows of a mixture become batches.

    Args:
        config: What the stage says of its data.
        lengths: Measures rows. None: only where nothing depends on lengths.
        sized: Epochs must have a length, because the number of steps follows from it. Otherwise, rows are measured
            while training, and where batches depend on lengths there is one epoch without end.
        logs: Whether rows that are dropped or cut are logged by name.
    """

    config: DataConfig
    lengths: RowLengths | None = None
    sized: bool = False
    logs: bool = True
    report: LengthReport = field(default_factory=LengthReport)

    @property
    def measures(self) -> bool:
        """Whether what comes when depends on the lengths of rows."""
        config = self.config
        return config.packing or config.group_by_length or config.too_long != "refuse"


class MixtureBatches(Sampler[list[SampleIndex]]):
    """Batches of one process, for torch's `DataLoader(batch_sampler=...)`. The trainer sets the epoch.

    An epoch is one pass over the mixture. Where rows are fitted to a length, passes differ in their number of batches:
    epochs then have as many as the first pass, and the passes follow each other without regard to them. Without
    `schedule.sized`, and with streams, there is one epoch without end.

    Args:
        dataset: The mixture.
        schedule: How its rows become batches.
        batch_size: Rows, or packs, of a batch.
        process, processes: Which process this is, of how many.
    """

    def __init__(
        self,
        dataset: MixtureDataset,
        schedule: BatchSchedule,
        *,
        batch_size: int,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        if schedule.measures and schedule.lengths is None:
            raise ValueError("Batches that depend on lengths need `lengths`. Give the schedule a RowLengths.")
        self.dataset, self.schedule = dataset, schedule
        self.batch_size, self.process, self.processes = batch_size, process, processes
        self.epoch = 0
        self._in_pass: list[int] = []  # batches of each pass that has been gone through
        self.drop_last = False

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration shows."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches of an epoch.

        Raises:
            TypeError: If epochs have no end.
        """
        if self.is_endless:
            raise TypeError("These batches do not end. Set trainer.max_steps.")
        if not self.schedule.measures:
            return -(-len(self.dataset) // (self.batch_size * self.processes))
        if not self._in_pass:
            self._in_pass.append(sum(1 for _ in self.one_pass(0)))
            self._refuse_none(self._in_pass[0])
        return self._in_pass[0]

    @property
    def is_endless(self) -> bool:
        """Whether there is one epoch without end."""
        return self.dataset.has_streams or (self.schedule.measures and not self.schedule.sized)

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        for batches in self.global_batches():
            yield batches[self.process]

    def global_batches(self) -> Iterator[GlobalBatch]:
        """Batches of all processes in the chosen epoch."""
        if self.dataset.has_streams:
            return self.one_pass(0)
        if not self.schedule.measures:
            return self.one_pass(self.epoch)
        if self.is_endless:
            return self._following(0)
        return islice(self._following(self.epoch * len(self)), len(self))

    def _following(self, done: int) -> Iterator[GlobalBatch]:
        """All batches after the first `done`, one pass after the other."""
        for number in count():
            if number < len(self._in_pass) and self._in_pass[number] <= done:
                done -= self._in_pass[number]
                continue
            batches = 0
            for batches, batch in enumerate(self.one_pass(number), start=1):
                if batches > done:
                    yield batch
            self._refuse_none(batches)
            if number == len(self._in_pass):
                self._in_pass.append(batches)
            done = max(done - batches, 0)

    def _refuse_none(self, batches: int) -> None:
        if not batches:
            raise DataError(
                f"No row of the mixture fits into data.max_length {self.schedule.config.max_length}. Raise max_length."
            )

    def one_pass(self, epoch: int) -> Iterator[GlobalBatch]:
        """Batches of all processes in one pass over the mixture; of a mixture with streams, all there are."""
        config, size = self.schedule.config, self.batch_size * self.processes
        indices = self.dataset.indices(epoch)
        if not self.schedule.measures:
            yield from (share_out(rows, self.processes) for rows in chunk(indices, size))
            return
        fitted = self.fit(indices)
        seeds = (sample_generator(self.dataset.seed, epoch, _BUFFERS, number) for number in count())
        if config.packing:
            assert config.max_length is not None
            held = packs(fitted, capacity=config.max_length, buffer=config.packing_buffer, seeds=seeds)
            for together in chunk(held, size):
                yield [list(chain.from_iterable(own)) for own in share_out(together, self.processes)]
        elif config.group_by_length:
            for rows in groups(fitted, size=size, buffer=config.packing_buffer, seeds=seeds):
                yield share_out(rows, self.processes)
        else:
            yield from (share_out(rows, self.processes) for rows in chunk((index for index, _ in fitted), size))

    def fit(self, indices: Iterator[SampleIndex]) -> Iterator[tuple[SampleIndex, int]]:
        """Give indices with the tokens of their rows; longer rows are refused, dropped or cut, as configured.

        Raises:
            DataError: If a row is too long and that is refused, or cannot be measured.
        """
        config, lengths = self.schedule.config, self.schedule.lengths
        assert lengths is not None
        lost = 0  # one after the other
        for index in indices:
            tokens = lengths(index)
            if config.max_length is None or tokens <= config.max_length:
                lost = 0
                yield index, tokens
                continue
            name = name_rows([self.dataset.row(index)[0]])
            if config.too_long == "refuse":
                raise DataError(too_long(name, tokens, config.max_length))
            found = lengths.cut(index, config.max_length) if config.too_long == "cut" else None
            self._note(name, tokens, cut=found is not None)
            if found is not None:
                cut, tokens = found
                lost = 0
                yield index._replace(cut=cut), tokens
            elif (lost := lost + 1) == _LOST:  # a stream would be searched for ever
                raise DataError(
                    f"{name}: this and the {_LOST - 1:,} rows before it are all longer than "
                    f"data.max_length {config.max_length}. Raise max_length."
                )

    def _note(self, name: str, tokens: int, *, cut: bool) -> None:
        rows = self.schedule.report.cut if cut else self.schedule.report.dropped
        if self.schedule.logs and name not in rows and self.process == 0:
            level = logging.WARNING if len(rows) < _WARNED else logging.INFO
            what, limit = "cut" if cut else "dropped", self.schedule.config.max_length
            logger.log(level, "%s: %d tokens, %s (data.max_length is %s)", name, tokens, what, limit)
        rows[name] = tokens


def schedule_batches(
    config: DataConfig, dataset: MixtureDataset, processor: UniMoEProcessor, *, sized: bool
) -> BatchSchedule:
    """Schedule the batches of a mixture.

    Args:
        config: What the stage says of its data.
        dataset: The mixture.
        processor: Of the model; it decides how long rows are.
        sized: As in `BatchSchedule`.
    """
    schedule = BatchSchedule(config, sized=sized)
    if schedule.measures:
        schedule.lengths = RowLengths(dataset, processor)
    return schedule


__all__ = ["BatchSchedule", "MixtureBatches", "schedule_batches"]
