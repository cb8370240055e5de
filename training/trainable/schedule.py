"""The schedule of learning rates in a checkpoint, whatever groups the optimizer's parameters are in."""

from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

FILE = "schedule.pt"


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


__all__ = ["load_schedule", "read_schedule", "save_schedule"]
