"""Adapt: teach a few parts of a model a task in a few steps, and find weights from which few steps do much."""

from collections.abc import Collection, Iterable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import UniMoEError
from ..modeling.parts import part_of
from .calibration import IGNORED, Batch
from .certificate import Certificate
from .damage import Answers, ask
from .folders import Draft, Losses, Rows, change_folder
from .recalibrate import trained_alone


def adapt(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    steps: int = 10,
    learning_rate: float = 1e-3,
    parts: Collection[str] = ("router",),
) -> list[float]:
    """Train some parts of a model on a task, in place; all else stays as it is, to the bit.

    Args:
        model: Of this package or of transformers, in evaluation mode.
        batches: Of the task; the steps take one after the other, and begin again.
        steps: Steps of Adam.
        learning_rate: Of Adam.
        parts: That learn: `router`, `experts`, `shared_experts`, `attention`, `mlp`, `norms`, `embeddings`, `lm_head`,
            `connectors`, `encoders`.

    Returns:
        Language loss (nats for a token) of the batch of each step, before it.

    Raises:
        UniMoEError: If the model has no such part.
    """
    learned = _parameters(model, parts)
    optimizer = torch.optim.Adam(learned.values(), lr=learning_rate)
    losses = []
    with trained_alone(model, learned):
        for batch in islice(cycle(batches), steps):
            optimizer.zero_grad()
            loss = language_loss(model, batch)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return losses


def adapt_folder(
    folder: str | Path,
    out: str | Path,
    *,
    rows: Rows,
    steps: int = 10,
    learning_rate: float = 1e-3,
    parts: Collection[str] = ("router",),
    dry_run: bool = False,
) -> tuple[Draft, Certificate | None]:
    """Adapt the model of a folder to rows.

    Args:
        folder: Of the model.
        out: Of the new one.
        rows: Of the task.
        steps: As in `adapt`.
        learning_rate: As in `adapt`.
        parts: As in `adapt`.
        dry_run: Stop at the loss as it is.

    Returns:
        As `change_folder`; only these parts may have changed.
    """

    def decide(model: Any, batches: Iterable[Batch]) -> Draft:
        answers = Answers.of(model, batches)
        before = answers.compare(model).by_modality
        details: dict[str, Any] = {"parts": list(parts), "steps": steps, "learning_rate": learning_rate}
        if not dry_run:
            details["losses"] = adapt(model, batches, steps=steps, learning_rate=learning_rate, parts=parts)
        losses: Losses = {"all": {key: {"loss": damage.loss_before} for key, damage in before.items()}}
        return Draft("adapt", losses, model.save_pretrained, tuple(parts), details, answers=answers)

    return change_folder(folder, out, decide, rows, dry_run=dry_run)


def reptile(
    model: nn.Module,
    tasks: Sequence[Iterable[Batch]],
    *,
    rounds: int,
    rate: float = 0.5,
    steps: int = 10,
    learning_rate: float = 1e-3,
    parts: Collection[str] = ("router",),
) -> None:
    """Move some parts of a model, in place, to where `adapt` learns tasks of a family well.

    Reptile (Nichol et al. 2018, arXiv 1803.02999): after each adaptation, weights go a part of the way to where it
    led.

    Args:
        model: As for `adapt`.
        tasks: Batches of each task, which take their turn.
        rounds: Adaptations.
        rate: Part of the way.
        steps: As in `adapt`, of each adaptation.
        learning_rate: As in `adapt`.
        parts: As in `adapt`.

    Raises:
        UniMoEError: As `adapt`.
    """
    learned = _parameters(model, parts).values()
    for batches in islice(cycle(tasks), rounds):
        before = [parameter.detach().clone() for parameter in learned]
        adapt(model, batches, steps=steps, learning_rate=learning_rate, parts=parts)
        with torch.no_grad():
            for parameter, value in zip(learned, before, strict=True):
                parameter.copy_(torch.lerp(value, parameter, rate))


def language_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the mean cross-entropy of the tokens that a batch asks for, nats; routers add no losses of their own.

    Args:
        model: In evaluation mode.
        batch: Its rows.
    """
    targets = batch.labels[:, 1:]
    return F.cross_entropy(ask(model, batch).float(), targets[targets != IGNORED].cpu())


def _parameters(model: nn.Module, parts: Collection[str]) -> dict[str, nn.Parameter]:
    found = {name: parameter for name, parameter in model.named_parameters() if part_of(name) in parts}
    if missing := sorted(set(parts) - {part_of(name) for name in found}):
        known = ", ".join(sorted({part_of(name) for name, _ in model.named_parameters()}))
        raise UniMoEError("parts", f"the model has no {missing[0]!r}.", f"It has {known}.")
    return found


__all__ = ["adapt", "adapt_folder", "language_loss", "reptile"]
