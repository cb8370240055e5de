"""Recalibrate: after an operation, teach the routers alone to give the answers that the model gave before it.

The loss is the Kullback-Leibler divergence of the new answers from the old ones on calibration rows. No step is kept
that raises it. Where each token passes one expert whose weight is 1 whatever the router says, routers get no gradient.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint.loading import load_mixture
from ..errors import UniMoEError
from ..modeling.parts import part_of
from .calibration import Calibration
from .certificate import Certificate
from .damage import Answers
from .folders import Draft, Losses, Rows, change_folder

OnStep = Callable[[int, float], None]
"""Called with the number of a step and the divergence that it left."""


def recalibrate(
    model: nn.Module, answers: Answers, *, steps: int = 20, learning_rate: float = 1e-3, on_step: OnStep | None = None
) -> list[float]:
    """Train the routers of a model, in place; all else stays as it is, to the bit.

    Args:
        model: A mixture of this package or of transformers, in evaluation mode.
        answers: Of the model before the operation.
        steps: Passes over the rows, each of which takes one step of Adam by the gradient over all rows.
        learning_rate: Of Adam. After a step that raises the divergence, the routers go back and it is halved.
        on_step: Called after each step.

    Returns:
        Divergence (nats for a token) before the first step and after each, which never rises.

    Raises:
        UniMoEError: If the model has no router, or there is no step to take.
    """
    routers = router_parameters(model)
    if not routers:
        raise UniMoEError(type(model).__name__, "it has no router to train.", "Pass a mixture.")
    if steps < 1 or learning_rate <= 0:
        problem = f"{steps} steps at a learning rate of {learning_rate} change nothing."
        raise UniMoEError("recalibrate", problem, "Take at least one step, at a rate above 0.")
    with trained_alone(model, routers):
        return _descend(model, answers, torch.optim.Adam(routers.values(), lr=learning_rate), steps, on_step)


@contextmanager
def trained_alone(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Let no other parameters of a model have gradients in the block, and none any after it.

    Args:
        model: The model.
        names: Of the parameters.
    """
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.grad = None
            parameter.requires_grad_(trained[name])


def router_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a model's routers by name."""
    return {name: parameter for name, parameter in model.named_parameters() if part_of(name) == "router"}


def _descend(
    model: nn.Module, answers: Answers, optimizer: torch.optim.Adam, steps: int, on_step: OnStep | None
) -> list[float]:
    """Step downhill; see `recalibrate`."""
    routers: list[Tensor] = optimizer.param_groups[0]["params"]
    divergences = [_divergence(model, answers)]
    for step in range(1, steps + 1):
        before = [(parameter.detach().clone(), parameter.grad) for parameter in routers]
        optimizer.step()
        optimizer.zero_grad()
        found = _divergence(model, answers)
        if not found <= divergences[-1]:
            optimizer.param_groups[0]["lr"] /= 2
            for parameter, (value, gradient) in zip(routers, before, strict=True):
                parameter.data.copy_(value)
                parameter.grad = gradient
            found = divergences[-1]
        divergences.append(found)
        if on_step is not None:
            on_step(step, divergences[-1])
    return divergences


def _divergence(model: nn.Module, answers: Answers) -> float:
    """Return the mean divergence of a token, and leave its gradient in the routers."""
    count = answers.tokens
    total = 0.0
    for _, before, after in answers.pairs(model):
        old, new = before.float().log_softmax(dim=-1), after.float().log_softmax(dim=-1)
        loss = nn.functional.kl_div(new, old, log_target=True, reduction="sum") / count
        loss.backward()
        total += float(loss.detach())
    return total


def recalibrate_folder(
    folder: str | Path,
    out: str | Path,
    *,
    like: str | Path,
    rows: Rows,
    steps: int = 20,
    learning_rate: float = 1e-3,
    dry_run: bool = False,
    on_step: OnStep | None = None,
) -> tuple[Draft, Certificate | None]:
    """Recalibrate the model of a folder to that of another.

    Args:
        folder: Of the model that was operated on.
        out: Of the new one.
        like: Folder of the model before the operation.
        rows: Calibration rows.
        steps: As in `recalibrate`.
        learning_rate: As in `recalibrate`.
        dry_run: Stop at the divergence as it is.
        on_step: As in `recalibrate`.

    Returns:
        As `change_folder`; the certificate compares with the model of `like`.
    """

    def decide(model: Any, calibration: Calibration) -> Draft:
        original = load_mixture(like)[0]
        sizes = [own.config.get_text_config().vocab_size for own in (original, model)]
        if sizes[0] != sizes[1]:
            problem = f"its vocabulary has {sizes[0]} tokens, and that of {folder} has {sizes[1]}."
            raise UniMoEError(str(like), problem, "Name the model that was operated on.")
        answers = Answers.of(original, calibration)
        del original
        before = answers.compare(model).by_modality
        losses: Losses = {"all": {key: {"divergence": damage.divergence} for key, damage in before.items()}}
        details: dict[str, Any] = {"recalibrated": str(folder), "steps": steps, "learning_rate": learning_rate}
        if not dry_run:
            found = recalibrate(model, answers, steps=steps, learning_rate=learning_rate, on_step=on_step)
            details["divergences"] = found
        return Draft("recalibrate", losses, model.save_pretrained, ("router",), details, like, answers)

    return change_folder(folder, out, decide, rows, dry_run=dry_run)


__all__ = ["OnStep", "recalibrate", "recalibrate_folder", "router_parameters", "trained_alone"]
