"""Schedules of learning rates: of a stage, of a stretch of one that stages share, and in checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import SchedulerType, TrainingArguments, get_scheduler

from unimoe.errors import ConfigError

from ..config.train import ScheduleSpan

FILE = "schedule.pt"


def rate_factor(
    args: TrainingArguments, steps: int, *, span: ScheduleSpan | None, asked_by: str
) -> Callable[[int], float]:
    """Return the factor of the learning rate at each step of a stage.

    A stage that begins within a schedule has a new optimizer, whose first steps are as long as its rate, however small
    the gradient: it warms up again, over as large a share of its own steps.

    Args:
        args: What the schedule is made from.
        steps: Of the stage.
        span: Stretch of the schedule that these steps go through. None: all of it.
        asked_by: The key that needs a schedule of this kind.

    Raises:
        ConfigError: If the schedule is not a function of the step.
    """
    begin, end = (span.begin, span.end) if span else (0.0, 1.0)
    total = round(steps / (end - begin))
    stand_in = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    schedule: Any = get_scheduler(
        args.lr_scheduler_type,
        optimizer=stand_in,
        num_warmup_steps=args.get_warmup_steps(total),
        num_training_steps=total,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,  # type: ignore[arg-type]
    )
    if not isinstance(schedule, LambdaLR):
        kind = SchedulerType(args.lr_scheduler_type).value
        raise ConfigError(
            f"trainer.lr_scheduler_type {kind}: {asked_by} needs a schedule that is a function of the step, such as "
            "linear, cosine or constant."
        )
    first = round(begin * total)
    again = args.get_warmup_steps(steps) if first else 0
    return lambda step: schedule.lr_lambdas[0](first + step) * min(1.0, (step + 1) / (again + 1))


def set_factors(scheduler: LambdaLR, factors: list[Callable[[int], float]]) -> None:
    """Let each group of a new schedule have a factor of its own; in place."""
    scheduler.lr_lambdas = factors
    scheduler._last_lr = [rate * factor(0) for rate, factor in zip(scheduler.base_lrs, factors, strict=True)]
    for group, rate in zip(scheduler.optimizer.param_groups, scheduler._last_lr, strict=True):
        group["lr"] = rate


def save_schedule(folder: Path, scheduler: Any) -> None:
    """Write where a schedule is.

    Raises:
        OSError: If it cannot be written.
    """
    rates = [group["lr"] for group in scheduler.optimizer.param_groups]
    with (folder / FILE).open("wb") as file:
        torch.save({"state": scheduler.state_dict(), "rates": rates}, file)


def read_schedule(path: Path) -> dict[str, Any]:
    """Read the file of a schedule.

    Raises:
        Exception: If it is damaged, of whatever type.
    """
    saved = torch.load(path, weights_only=True)
    if not all(isinstance(saved["state"][key], int) for key in ("last_epoch", "_step_count")):
        raise ValueError("it does not say at which step the schedule is")
    if not all(isinstance(rate, int | float) for rate in saved["rates"]):
        raise ValueError("its rates are no numbers")
    return saved


def load_schedule(folder: Path, scheduler: Any) -> None:
    """Put a schedule where it was; one that is a function of the step, with other groups of parameters too.

    Raises:
        ValueError: If another schedule depends on groups that are others now.
    """
    saved = read_schedule(folder / FILE)
    groups = scheduler.optimizer.param_groups
    if isinstance(scheduler, LambdaLR):
        scheduler.last_epoch, scheduler._step_count = saved["state"]["last_epoch"], saved["state"]["_step_count"]
        factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
        rates = [rate * factor for rate, factor in zip(scheduler.base_lrs, factors, strict=True)]
        scheduler._last_lr = rates
    elif len(saved["rates"]) == len(groups):
        scheduler.load_state_dict(saved["state"])
        rates = saved["rates"]
    else:
        raise ValueError(
            f"{type(scheduler).__name__} depends on what came before, and its {len(saved['rates'])} groups of "
            f"parameters are {len(groups)} now. Go on with as many processes and expert_parallel_size as before."
        )
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate


__all__ = ["load_schedule", "rate_factor", "read_schedule", "save_schedule", "set_factors"]
