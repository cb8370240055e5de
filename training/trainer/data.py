"""Opens the data of a stage: rows that train, how they become batches, and validation rows."""

import math
from pathlib import Path

from rich.console import Console
from transformers import TrainingArguments

from unimoe import UniMoEProcessor, UniMoETextConfig
from unimoe.errors import ConfigError

from ..config.data import DataConfig
from ..config.stage import StageConfig
from ..data import BatchSchedule, Collator, MixtureBatches, MixtureDataset, RowLengths, schedule_batches
from ..data.mixture.dataset import read_mixture
from ..data.mixture.order import SampleIndex
from ..monitor.progress import track

MEASURED = 32
"""Rows by which the mean length of all is estimated."""


def read_data(config: StageConfig) -> tuple[MixtureDataset, MixtureDataset | None]:
    """Open the data of a stage: rows that train, and validation rows if it has any.

    Raises:
        DataError: If a row does not fit.
    """
    data = config.data
    dataset = MixtureDataset(
        read_mixture(data), seed=config.seed, cache_media=data.cache_media, shuffle_buffer=data.shuffle_buffer
    )
    if not data.validation:
        return dataset, None
    return dataset, MixtureDataset(read_mixture(data.validation_data), seed=config.seed, cache_media=data.cache_media)


def schedule_data(
    data: DataConfig, dataset: MixtureDataset, processor: UniMoEProcessor, args: TrainingArguments
) -> tuple[BatchSchedule, Collator]:
    """Schedule how the rows of a stage become batches."""
    schedule = schedule_batches(data, dataset, processor, sized=args.max_steps <= 0)
    return schedule, Collator(processor, max_length=data.max_length, packing=data.packing)


def count_steps(dataset: MixtureDataset, schedule: BatchSchedule, args: TrainingArguments, *, processes: int) -> int:
    """Count the steps of the optimizer in a whole stage, as transformers' trainer does."""
    if args.max_steps > 0:
        return args.max_steps
    size = args.per_device_train_batch_size
    batches = len(MixtureBatches(dataset, schedule, batch_size=size, processes=processes))
    return math.ceil(args.num_train_epochs * max(math.ceil(batches / args.gradient_accumulation_steps), 1))


def mean_length(dataset: MixtureDataset, collator: Collator) -> float | None:
    """Mean tokens of some rows of the files of a mixture, spread by their weights; None if there are streams.

    Raises:
        DataError: If a row that is measured cannot be.
    """
    if not dataset.num_rows or dataset.has_streams:
        return None
    lengths = RowLengths(dataset, collator.processor)
    order = dataset.order(0)
    rows = order[:: max(len(order) // MEASURED, 1)][:MEASURED]
    return sum(lengths(SampleIndex(0, 0, row)) for row in rows) / len(rows) if rows else None


def check_packing(text: UniMoETextConfig, data: DataConfig) -> None:
    """Refuse to pack rows for a model that would not take them apart again.

    Raises:
        ConfigError: If its routers look at whole rows, of which a pack would be one.
    """
    whole_rows = {
        "router_type: soft (its slots mix the tokens of a row)": text.router_type == "soft",
        "router_aux_loss_scope: sequence (it balances each row apart)": text.router_aux_loss_scope == "sequence",
    }
    for reason, holds in whole_rows.items():
        if data.packing and text.num_experts and holds:
            raise ConfigError(
                f"data.packing: the model has {reason}, and a pack of rows would be one row to it. Set packing to "
                "false; group_by_length saves padding too."
            )


def measure_rows(
    schedule: BatchSchedule, args: TrainingArguments, console: Console, *, checkpoint: Path | None = None
) -> None:
    """Measure all rows before the first step, if the number of steps depends on it; a checkpoint may know lengths.

    Raises:
        DataError: If a row cannot be measured.
    """
    if schedule.lengths is None:
        return
    if checkpoint is not None:
        schedule.lengths.load(checkpoint)
    if not schedule.sized:
        return
    schedule.lengths.measure_all(
        process=args.process_index,
        processes=args.world_size,
        track=lambda rows: track(rows, len(rows), "measuring rows", console),
    )


__all__ = ["check_packing", "count_steps", "mean_length", "measure_rows", "read_data", "schedule_data"]
