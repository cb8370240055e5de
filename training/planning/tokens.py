"""How many tokens a stage passes: real ones, without padding, of all its rows, steps and processes."""

import math
import time
from dataclasses import dataclass
from itertools import islice

import torch
from transformers import TrainingArguments

from unimoe import UniMoEProcessor

from ..checkpoint.folder import rows_of_step
from ..data import BatchSchedule, MixtureBatches, MixtureDataset
from ..data.batching.measure import DrawnLengths
from ..data.mixture.order import SampleIndex

MEASURED, LEAST, SECONDS = 2000, 32, 2.0
"""Rows that are measured at most; and at least, where they take longer than so many seconds."""


@dataclass(frozen=True)
class TokenEstimate:
    """Tokens of a stage, and what they were taken from, in words."""

    total: float
    basis: str


class Timed:
    """Counts what was measured, and says when it is enough."""

    def __init__(self) -> None:
        self.began, self.rows = time.monotonic(), 0

    def is_enough(self) -> bool:
        """Tell whether no more rows are to be measured."""
        return self.rows >= MEASURED or (self.rows >= LEAST and time.monotonic() - self.began > SECONDS)

    def estimate(self, tokens: int, times: float) -> TokenEstimate:
        """Estimate a stage that passes what was measured so many times."""
        return TokenEstimate(tokens * times, f"{tokens / self.rows:,.0f} a row, of {self.rows:,} rows")


def estimate_tokens(
    dataset: MixtureDataset, schedule: BatchSchedule, processor: UniMoEProcessor, args: TrainingArguments, steps: int
) -> TokenEstimate | None:
    """Estimate the tokens of all steps of a stage from some of its rows; None if they come of streams.

    Args:
        dataset: Rows that train.
        schedule: Their batches.
        processor: Of the model.
        args: Of the trainer.
        steps: Of the optimizer.

    Raises:
        DataError: If a row that is measured cannot be.
    """
    if dataset.has_streams or not dataset.num_rows:
        return None
    lengths = DrawnLengths(dataset, processor)
    return (_of_batches if schedule.measures else _of_rows)(dataset, schedule, lengths, args, steps)


def _of_rows(
    dataset: MixtureDataset, schedule: BatchSchedule, lengths: DrawnLengths, args: TrainingArguments, steps: int
) -> TokenEstimate | None:
    """Estimate by rows of the first pass, spread over those that are shown."""
    shown = rows_shown(dataset, schedule, args, steps)
    indices = list(islice(dataset.indices(0), shown))
    order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(0)).tolist()
    total, timed = 0, Timed()
    for number in order:
        total, timed.rows = total + lengths(indices[number]), timed.rows + 1
        if timed.is_enough():
            break
    return timed.estimate(total, shown / timed.rows) if timed.rows else None


def _of_batches(
    dataset: MixtureDataset, schedule: BatchSchedule, lengths: DrawnLengths, args: TrainingArguments, steps: int
) -> TokenEstimate | None:
    """Estimate by the first batches, where rows are packed, grouped, cut or dropped."""
    own = BatchSchedule(schedule.config, schedule.lengths, sized=schedule.sized, logs=False)
    size = args.per_device_train_batch_size
    sampler = MixtureBatches(dataset, own, batch_size=size, processes=args.world_size)
    shown = batches_shown(sampler, args, steps)
    total, measured, timed = 0, 0, Timed()
    for batches in islice(sampler.global_batches(), shown):
        rows = [index for batch in batches for index in batch]
        total += sum(_tokens(index, own, lengths) for index in rows)
        measured, timed.rows = measured + 1, timed.rows + len(rows)
        if timed.is_enough():
            break
    return timed.estimate(total, shown / measured) if measured else None


def _tokens(index: SampleIndex, schedule: BatchSchedule, lengths: DrawnLengths) -> int:
    limit = schedule.config.max_length
    cut = lengths.cut(index, limit) if index.cut and limit else None
    return lengths(index) if cut is None else cut[1]


def batches_shown(sampler: MixtureBatches, args: TrainingArguments, steps: int) -> int:
    """Count the batches of each process in some steps; the last step of each epoch has those that are left."""
    accumulated = args.gradient_accumulation_steps
    if sampler.is_endless:
        return steps * accumulated
    of_epoch = len(sampler)
    epochs, more = divmod(steps, math.ceil(of_epoch / accumulated))
    return epochs * of_epoch + min(more * accumulated, of_epoch)


def rows_shown(dataset: MixtureDataset, schedule: BatchSchedule, args: TrainingArguments, steps: int) -> int:
    """Count the rows of some steps; the last step of each epoch has those that are left."""
    size = rows_of_step(args, args.world_size)["step"]
    if schedule.measures and not schedule.sized:  # one epoch without end
        return steps * size
    epochs, more = divmod(steps, math.ceil(len(dataset) / size))
    return epochs * len(dataset) + min(more * size, len(dataset))


__all__ = ["TokenEstimate", "batches_shown", "estimate_tokens", "rows_shown"]
