"""The batches that a stage will see: how many, of how many tokens, and the largest of them.

From the rows of the data, measured by the headers of their media, where the data exist; else what rows of full length
with one medium of each kind would be.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import TrainingArguments

from unimoe import Modality, UniMoEProcessor

from ..config.stage import StageConfig
from ..data import Collator, DataError, MixtureBatches, MixtureDataset
from ..data.batching.batches import BatchSchedule
from ..data.batching.collator import pack_rows
from ..data.batching.measure import DrawnLengths, RowLengths
from ..data.batching.streams import split_by_modality
from ..data.mixture.dataset import SAMPLING_RATE
from ..data.mixture.order import SampleIndex
from ..trainer.data import count_steps, read_data, schedule_data

MOST, STREAMED = 200, 20
"""Batches of a process that are looked at for the largest one; of streams, which may come from afar, fewer."""
ROWS = 2000
"""Rows that are looked at, in as many more batches, so that their mean length is right."""
ASSUMED_LENGTH = 2048
"""Tokens of a row where neither the data nor `data.max_length` say how many."""


@dataclass(frozen=True)
class BatchEstimate:
    """What a stage trains on.

    Args:
        largest: Batches as the collator makes them, of which one is likely to take most memory.
        steps: Steps of the optimizer. None: not to be known without the data.
        tokens: Real tokens of a batch of one process, on average.
        basis: Where this comes from, in words.
        validation: The largest batch of validation rows, if there are any.
    """

    largest: list[dict[str, Any]]
    steps: int | None
    tokens: float
    basis: str
    validation: dict[str, Any] | None = None


def estimate_batches(
    config: StageConfig, args: TrainingArguments, processor: UniMoEProcessor, *, processes: int
) -> BatchEstimate:
    """Find out what batches a stage will see.

    Args:
        config: The stage.
        args: Of its trainer.
        processor: Of its model.
        processes: That share its batches.

    Raises:
        DataError: If there are data, but a row of them does not fit.
    """
    try:
        dataset, validation = read_data(config)
    except DataError:
        if not (absent := [source.path for source in config.data.mixture if not glob(source.path)]):
            raise
        return assume_batches(config, args, processor, reason=f"there is no {absent[0]}")
    schedule, collator = schedule_data(config.data, dataset, processor, args)
    return look_at_batches(config, args, dataset, validation, schedule, collator, processes=processes)


def look_at_batches(
    config: StageConfig,
    args: TrainingArguments,
    dataset: MixtureDataset,
    validation: MixtureDataset | None,
    schedule: BatchSchedule,
    collator: Collator,
    *,
    processes: int,
) -> BatchEstimate:
    """Measure the first batches of a stage, and process the largest of them.

    Raises:
        DataError: If a row does not fit.
    """
    processor = collator.processor
    streams = split_by_modality(dataset, list(config.start.specialists.modalities)) if config.start.specialists else {}
    seen = [
        found
        for stream in streams.values() or [dataset]
        for found in look_through(
            stream, schedule, processor, size=args.per_device_train_batch_size, processes=processes
        )
    ]
    batches = [collator([stream[index] for index in indices]) for stream, indices in largest(seen)]
    tokens = sum(real for _, _, _, _, real in seen) / len(seen)
    basis = f"measured on {len(seen):,} batches of the data" + (
        ", the first ones" if len(seen) >= MOST or dataset.has_streams else ""
    )
    steps = count_steps(dataset, schedule, args, processes=processes)
    evaluated = None if validation is None else validation_batch(args, validation, processor)
    return BatchEstimate(batches, steps, tokens, basis, evaluated)


def validation_batch(args: TrainingArguments, dataset: MixtureDataset, processor: UniMoEProcessor) -> dict[str, Any]:
    """Return the validation rows that are longest together, of the first ones, as many as are looked at together."""
    size = args.per_device_eval_batch_size
    lengths = RowLengths(dataset, processor)
    rows = sorted(
        range(min(dataset.num_rows, MOST * size)), key=lambda row: lengths(SampleIndex(0, row, row)), reverse=True
    )
    return Collator(processor)([dataset[row] for row in rows[:size]])


Seen = tuple[MixtureDataset, list[SampleIndex], int, int, int]
"""Rows, indices of a batch, its tokens with padding, its media, its real tokens."""


def look_through(
    dataset: MixtureDataset, schedule: BatchSchedule, processor: UniMoEProcessor, *, size: int, processes: int
) -> Iterator[Seen]:
    """Measure the first batches of all processes."""
    lengths = (
        schedule.lengths
        if schedule.lengths and schedule.lengths.dataset is dataset
        else RowLengths(dataset, processor)
    )
    own = BatchSchedule(schedule.config, lengths, sized=schedule.sized, logs=False)
    sampler = MixtureBatches(dataset, own, batch_size=size, processes=processes)
    drawn = DrawnLengths(dataset, processor)
    most = STREAMED if dataset.has_streams else max(MOST, ROWS // size)
    for number, batches in enumerate(islice(sampler.global_batches(), most)):
        for indices in batches[: 1 if number else processes]:
            tokens = [row_tokens(lengths, index, schedule) for index in indices]
            padded = sum(tokens) if schedule.config.packing else len(tokens) * max(tokens)
            media = sum(
                item["type"] != Modality.TEXT.key
                for index in indices
                for message in dataset.row(index)[0].messages
                for item in message["content"]
            )
            real = sum(most if index.cut else drawn(index) for index, most in zip(indices, tokens, strict=True))
            yield dataset, indices, padded, media, real


def row_tokens(lengths: RowLengths, index: SampleIndex, schedule: BatchSchedule) -> int:
    """Tokens of the row of an index, or of the part that is left of it."""
    cut = lengths.cut(index, schedule.config.max_length) if index.cut and schedule.config.max_length else None
    return lengths(index) if cut is None else cut[1]


def largest(seen: list[Seen]) -> list[tuple[MixtureDataset, list[SampleIndex]]]:
    """Return the batch with most tokens, and that with most media if it is another one."""
    by_tokens = max(range(len(seen)), key=lambda index: (seen[index][2], seen[index][3]))
    by_media = max(range(len(seen)), key=lambda index: (seen[index][3], seen[index][2]))
    return [seen[index][:2] for index in dict.fromkeys((by_tokens, by_media))]


def assume_batches(
    config: StageConfig, args: TrainingArguments, processor: UniMoEProcessor, *, reason: str
) -> BatchEstimate:
    """Make up a batch of rows of full length, each with one medium of each kind.

    Raises:
        DataError: If the media alone are longer than `data.max_length`.
    """
    length = config.data.max_length or ASSUMED_LENGTH
    row = make_row(processor)
    if (fixed := row["input_ids"].shape[1]) > length:
        raise DataError(f"data.max_length {length}: a row with one medium of each kind has {fixed} tokens. Raise it.")
    rows = args.per_device_train_batch_size
    batch = repeat_row(lengthen(row, length), rows)
    if config.data.packing:
        batch = pack_rows(batch)
    kinds = ", ".join(modality.key for modality in blank_media(processor))
    steps = args.max_steps
    basis = f"assumed: rows of {length} tokens, each with one {kinds} ({reason})"
    return BatchEstimate([batch], steps if steps > 0 else None, float(rows * length), basis)


def blank_media(processor: UniMoEProcessor) -> dict[Modality, Any]:
    """Return a medium of each kind that a processor takes but video, which shares the encoder of pictures."""
    silence = {"array": np.zeros(SAMPLING_RATE, dtype=np.float32), "sampling_rate": SAMPLING_RATE}
    blank = {Modality.IMAGE: Image.new("RGB", (64, 64)), Modality.AUDIO: silence, Modality.SPEECH: silence}
    return {modality: blank[modality] for modality in processor.modalities if modality in blank}


def make_row(processor: UniMoEProcessor) -> dict[str, Tensor]:
    """Process a row with a blank medium of each kind."""
    media = [{"type": modality.key, modality.key: medium} for modality, medium in blank_media(processor).items()]
    messages = [
        {"role": "user", "content": [*media, {"type": "text", "text": "?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "."}]},
    ]
    made = processor.apply_chat_template([messages], tokenize=True, return_dict=True, return_tensors="pt")
    return {name: value for name, value in dict(made).items() if isinstance(value, Tensor)}


_PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids")


def lengthen(row: dict[str, Tensor], length: int) -> dict[str, Tensor]:
    """Add text to a row (1, S) until it has `length` tokens, all of which are learned."""
    missing = length - row["input_ids"].shape[1]
    longer = dict(row)
    for name in _PER_TOKEN:
        longer[name] = torch.cat([row[name], row[name][:, -1:].expand(1, missing)], dim=1)
    if (positions := row.get("position_ids")) is not None:  # (3, 1, S)
        further = positions.max() + torch.arange(1, missing + 1).expand(*positions.shape[:-1], missing)
        longer["position_ids"] = torch.cat([positions, further], dim=-1)
    longer["labels"] = longer["input_ids"].clone()
    return longer


def repeat_row(row: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Make a batch of equal rows."""
    return {name: torch.cat([value] * rows, dim=1 if name == "position_ids" else 0) for name, value in row.items()}


__all__ = ["BatchEstimate", "estimate_batches", "look_at_batches"]
