"""Answers of a model to the rows of a task: batched, longest rows first, resumable.

samples -> batches -> processor.apply_chat_template -> model.generate -> text -> predictions.jsonl
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from .errors import EvaluationError
from .predictions import Header, append_predictions, close_predictions, open_predictions
from .processes import own
from .progress import track
from .tasks import Sample


def make_batches(samples: Sequence[Sample], batch_size: int) -> list[list[Sample]]:
    """Put rows of similar length together, longest first, so that memory runs out at once or never."""
    ordered = sorted(samples, key=lambda sample: (len(sample.media), len(sample.question)), reverse=True)
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


def encode_batch(
    processor: Any, samples: Sequence[Sample], *, device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Make model inputs of the rows' prompts, padded on the left; features are in the model's dtype.

    Raises:
        EvaluationError: If the processor refuses a row; names the rows.
    """
    try:
        inputs = processor.apply_chat_template(
            [list(sample.messages) for sample in samples],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
            padding_side="left",  # answers are appended at the end of every row
            add_generation_prompt=True,
        )
    except (ImportError, OSError, ValueError) as error:
        if len(samples) > 1:  # which row was it? Its own error is raised here
            for sample in samples:
                encode_batch(processor, [sample], device=device, dtype=dtype)
        sample = samples[0]
        where = f"{sample.where}: row {sample.id}" if sample.where else f"row {sample.id}"
        raise EvaluationError(f"{where}: the processor refused it: {error}") from error
    return {
        name: value.to(device, dtype if value.is_floating_point() else value.dtype) for name, value in inputs.items()
    }


def answer_batch(model: Any, processor: Any, samples: Sequence[Sample], decoding: dict[str, Any]) -> list[str]:
    """Generate an answer to each row, without special tokens."""
    inputs = encode_batch(processor, samples, device=model.device, dtype=model.dtype)
    with torch.inference_mode():
        sequences = model.generate(**inputs, **decoding)
    answers = sequences[:, inputs["input_ids"].shape[1] :]  # (B, new tokens)
    return [text.strip() for text in processor.batch_decode(answers, skip_special_tokens=True)]


def generate_predictions(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    *,
    path: Path,
    header: Header,
    decoding: dict[str, Any],
    batch_size: int,
    seed: int,
    overwrite: bool,
    description: str,
    console: Console,
) -> list[str]:
    """Answer all rows, going on where an earlier run of the same header stopped; all processes must call this.

    Args:
        model: In evaluation mode.
        processor: Of the model.
        samples: The rows.
        path: predictions.jsonl: `{"id", "prediction", "reference"}` a line.
        header: What the answers depend on; see `open_predictions`.
        decoding: Arguments of `model.generate`.
        batch_size: Rows of a batch.
        seed: With sampling, batch i is drawn with seed + i, so a resumed run draws as an unbroken one.
        overwrite: Answer anew, whatever is there.
        description: Of the progress bar.
        console: Where progress goes.

    Returns:
        Predictions in the order of the rows.
    """
    done = open_predictions(path, header, overwrite=overwrite)
    batches = list(enumerate(make_batches(samples, batch_size)))
    open_batches = [(index, batch) for index, batch in batches if any(sample.id not in done for sample in batch)]
    seeds = {batch[0].id: seed + index for index, batch in open_batches}
    for batch in track(own([batch for _, batch in open_batches]), description, console=console):
        torch.manual_seed(seeds[batch[0].id])
        answers = answer_batch(model, processor, batch, decoding)
        fresh = ((row, text) for row, text in zip(batch, answers, strict=True) if row.id not in done)
        append_predictions(
            path, ({"id": row.id, "prediction": text, "reference": row.reference} for row, text in fresh)
        )
    return close_predictions(path, header, samples)


__all__ = ["answer_batch", "encode_batch", "generate_predictions", "make_batches"]
