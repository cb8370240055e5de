"""Tasks with reserved experts: which one a model in memory works on.

A task is on or off for the whole model, since no token tells its task. A model that is loaded has none on.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import ConfigError
from .routers import Router
from .routers.router import permitted_targets


@torch.no_grad()
def set_task(model: nn.Module, task: str | None) -> None:
    """Open the experts that are reserved for a task to all tokens, and close those of all other tasks.

    Args:
        model: That has them, or any module with its routers.
        task: Name of the task. None: those of all tasks are closed.

    Raises:
        ConfigError: If no experts are reserved for it.
    """
    routers = [module for module in model.modules() if isinstance(module, Router)]
    known = routers[0].config.reserved_tasks if routers else {}
    if task is not None and task not in known:
        problem = f"the model has no experts reserved for {task!r}."
        raise ConfigError("task", problem, f"Choose from its tasks: {', '.join(known) or 'none'}.")
    for router in routers:
        router.config.active_task = task
        if router.permitted is not None:
            router.permitted.copy_(permitted_targets(router.config))


@contextmanager
def task_on(model: nn.Module, task: str | None) -> Iterator[None]:
    """Work on a task in the block, and after it on what was worked on before.

    Args:
        model: As in `set_task`.
        task: As in `set_task`.

    Raises:
        ConfigError: As `set_task`.
    """
    before = next((module.config.active_task for module in model.modules() if isinstance(module, Router)), None)
    set_task(model, task)
    try:
        yield
    finally:
        set_task(model, before)


__all__ = ["set_task", "task_on"]
