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
from ..data.batching.batches import BatchPlan
from ..data.batching.collator import pack_rows
from ..data.batching.measure import RowLengths
from ..data.batching.streams import split_lanes
from ..data.mixture.dataset import SAMPLING_RATE
from ..data.mixture.order import Place
from ..trainer.data import count_steps, plan_data, read_data

MOST, STREAMED = 200, 20
"""Batches of a process that are looked at for the largest one; of streams, which may come from afar, fewer."""
ASSUMED_LENGTH = 2048
"""Tokens of a row where neither the data nor `data.max_length` say how many."""


@dataclass(frozen=True)
class PlannedBatches:
    """What a stage trains on.

    Args:
        largest: Batches as the collator makes them, of which one is likely to take most memory.
        steps: Steps of the optimizer. None: not to be known without the data.
        tokens: Real tokens of a batch of one process, on average.
        basis: Where this comes from, in words.
        held_back: The largest batch of held-back rows, if there are any.
    """

    largest: list[dict[str, Any]]
    steps: int | None
    tokens: float
    basis: str
    held_back: dict[str, Any] | None = None


def plan_stage_batches(
    config: StageConfig, args: TrainingArguments, processor: UniMoEProcessor, *, processes: int
) -> PlannedBatches:
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
        dataset, held_back = read_data(config)
    except DataError:
        if not (absent := [source.path for source in config.data.mixture if not glob(source.path)]):
            raise
        return assume_batches(config, args, processor, reason=f"there is no {absent[0]}")
    plan, collator = plan_data(config.data, dataset, processor, args)
    return look_at_batches(config, args, dataset, held_back, plan, collator, processes=processes)


def look_at_batches(
    config: StageConfig,
    args: TrainingArguments,
    dataset: MixtureDataset,
    held_back: MixtureDataset | None,
    plan: BatchPlan,
    collator: Collator,
    *,
    processes: int,
) -> PlannedBatches:
    """Measure the first batches of a stage, and process the largest of them.

    Raises:
        DataError: If a row does not fit.
    """
    processor = collator.processor
    lanes = split_lanes(dataset, list(config.start.specialists.modalities)) if config.start.specialists else {}
    seen = [
        found
        for lane in lanes.values() or [dataset]
        for found in look_through(lane, plan, processor, size=args.per_device_train_batch_size, processes=processes)
    ]
    batches = [collator([lane[place] for place in places]) for lane, places in largest(seen)]
    tokens = sum(real for _, _, _, _, real in seen) / len(seen)
    basis = f"measured on {len(seen):,} batches of the data" + (
        ", the first ones" if len(seen) >= MOST or dataset.has_streams else ""
    )
    steps = count_steps(dataset, plan, args, processes=processes)
    evaluated = None if held_back is None else held_back_batch(args, held_back, processor)
    return PlannedBatches(batches, steps, tokens, basis, evaluated)


def held_back_batch(args: TrainingArguments, dataset: MixtureDataset, processor: UniMoEProcessor) -> dict[str, Any]:
    """The held-back rows that are longest together, of the first ones, as many as are looked at together."""
    size = args.per_device_eval_batch_size
    lengths = RowLengths(dataset, processor)
    rows = sorted(range(min(dataset.num_rows, MOST * size)), key=lambda row: lengths(Place(0, row, row)), reverse=True)
    return Collator(processor)([dataset[row] for row in rows[:size]])


Seen = tuple[MixtureDataset, list[Place], int, int, int]
"""Rows, places of a batch, its tokens with padding, its media, its real tokens."""


def look_through(
    dataset: MixtureDataset, plan: BatchPlan, processor: UniMoEProcessor, *, size: int, processes: int
) -> Iterator[Seen]:
    """Measure the first batches of all processes."""
    lengths = plan.lengths if plan.lengths and plan.lengths.dataset is dataset else RowLengths(dataset, processor)
    own = BatchPlan(plan.config, lengths, sized=plan.sized)
    sampler = MixtureBatches(dataset, own, batch_size=size, processes=processes)
    most = STREAMED if dataset.has_streams else MOST
    for number, batches in enumerate(islice(sampler.global_batches(), most)):
        for places in batches[: 1 if number else processes]:
            tokens = [row_tokens(lengths, place, plan) for place in places]
            padded = sum(tokens) if plan.config.packing else len(tokens) * max(tokens)
            media = sum(
                item["type"] != Modality.TEXT.key
                for place in places
                for message in dataset.row(place)[0].messages
                for item in message["content"]
            )
            yield dataset, places, padded, media, sum(tokens)


def row_tokens(lengths: RowLengths, place: Place, plan: BatchPlan) -> int:
    """Tokens of the row of a place, or of the part that is left of it."""
    cut = lengths.cut(place, plan.config.max_length) if place.cut and plan.config.max_length else None
    return lengths(place) if cut is None else cut[1]


def largest(seen: list[Seen]) -> list[tuple[MixtureDataset, list[Place]]]:
    """The batch with most tokens, and that with most media if it is another one."""
    by_tokens = max(range(len(seen)), key=lambda index: (seen[index][2], seen[index][3]))
    by_media = max(range(len(seen)), key=lambda index: (seen[index][3], seen[index][2]))
    return [seen[index][:2] for index in dict.fromkeys((by_tokens, by_media))]


def assume_batches(
    config: StageConfig, args: TrainingArguments, processor: UniMoEProcessor, *, reason: str
) -> PlannedBatches:
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
    return PlannedBatches([batch], steps if steps > 0 else None, float(rows * length), basis)


def blank_media(processor: UniMoEProcessor) -> dict[Modality, Any]:
    """A medium of each kind that a processor takes but video, which shares the encoder of pictures."""
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
    """A batch of equal rows."""
    return {name: torch.cat([value] * rows, dim=1 if name == "position_ids" else 0) for name, value in row.items()}


__all__ = ["PlannedBatches", "look_at_batches", "plan_stage_batches"]
