"""Values that are not finite, and a loss of exactly 0: the rows, inputs and gradients they come from."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

Warn = Callable[[str], None]


class NonFiniteLoss(RuntimeError):
    """The loss or a gradient became NaN or infinite; the message names the rows of the batch."""


class WatchLoss(TrainerCallback):
    """Warns once of a language loss of exactly 0, from which nothing is learned.

    Args:
        warn: Says a sentence.
    """

    def __init__(self, warn: Warn) -> None:
        self.warn, self.is_said = warn, False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Look at the loss of the steps since the last log."""
        if state.is_world_process_zero and not self.is_said and (logs or {}).get("loss_language") == 0.0:
            self.is_said = True
            self.warn(
                f"The language loss is exactly 0 at step {state.global_step}: nothing is learned any more. Look at "
                "the labels (the sample before step 1 shows them), and at the learning rate."
            )


def find_bad_rows(logits: Tensor, inputs: dict[str, Any], row_ids: Sequence[str]) -> list[str]:
    """Which rows of a batch have labels whose prediction is not finite.

    Args:
        logits: (B, S, V).
        inputs: Of the model, with `labels`.
        row_ids: Of the batch.

    Returns:
        Their ids; none where rows are packed: masked attention multiplies by 0, and 0 times NaN is NaN in all of them.
    """
    if len(logits) != len(row_ids):
        return []
    bad = ~torch.isfinite(logits[:, :-1]).all(dim=-1) & (inputs["labels"][:, 1:] >= 0)  # (B, S - 1)
    return [row_ids[number] for number in bad.any(dim=-1).nonzero().flatten().tolist()]


def find_bad_inputs(inputs: dict[str, Any]) -> list[str]:
    """Names of the inputs, and of what encoders gave, that hold values which are not finite; but not of those whose
    only such values are frames of padding.
    """
    clips = inputs.get("pixel_values_videos")
    given = {
        **inputs,
        **({} if clips is None else {"pixel_values_videos": clips[~clips.flatten(2).isnan().all(-1)]}),
        **{f"encoder_states[{key!r}]": value for key, value in inputs.get("encoder_states", {}).items()},
    }
    floats = {name: value for name, value in given.items() if isinstance(value, Tensor) and value.is_floating_point()}
    return [name for name, value in floats.items() if not torch.isfinite(value).all()]


def find_bad_gradients(model: nn.Module) -> list[str]:
    """Names of the parameters whose gradients are not finite."""
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    if not gradients or torch.nn.utils.get_total_norm(gradients.values()).isfinite():
        return []
    return [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]


def describe_failure(outputs: Any, inputs: dict[str, Any], row_ids: Sequence[str], *, step: int) -> str:
    """Name what of a loss is not finite, and the rows it comes from.

    Args:
        outputs: Of the model.
        inputs: Of the model.
        row_ids: Of the batch.
        step: Of the optimiser, from 1.
    """
    parts = ", ".join(f"{name} {float(value.detach()):g}" for name, value in outputs.losses.items())
    rows = f"Rows of the batch: {', '.join(row_ids)}."
    bad = find_bad_rows(outputs.logits, inputs, row_ids)
    if 0 < len(bad) < len(row_ids):
        rows += f" Not finite in: {', '.join(bad)}."
    if features := find_bad_inputs(inputs):
        rows += f" The batch's {', '.join(features)} are not finite themselves."
    return f"The loss is not finite at step {step} ({parts}). {rows} Look at these rows, or lower the learning rate."


def describe_gradients(bad: Sequence[str], row_ids: Sequence[str], *, step: int) -> str:
    """Name gradients that are not finite though the loss is, and the rows of the step."""
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    return (
        f"The loss is finite but a gradient is not, at step {step}: {', '.join(bad[:3])}{more}. Rows of the step: "
        f"{', '.join(row_ids)}. Look at these rows, or lower the learning rate."
    )


__all__ = [
    "NonFiniteLoss",
    "WatchLoss",
    "describe_failure",
    "describe_gradients",
    "find_bad_gradients",
    "find_bad_inputs",
    "find_bad_rows",
]
