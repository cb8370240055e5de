"""Several processes that answer the rows of one evaluation: each takes every so many batches, the first one scores.

`torchrun --nproc_per_node 2 -m evaluation ...` starts them; without a launcher there is one.
"""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from unimoe.checkpoint.loading import find_device

from .errors import EvaluationError

Batch = TypeVar("Batch")
_PATIENCE = timedelta(hours=12)
"""How long a process waits for slower ones; one that fails ends all of them at once."""


def begin() -> None:
    """Meet the other processes of a launcher, if there are any."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("gloo", timeout=_PATIENCE)


def rank() -> int:
    """Tell which process this is."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """Count the processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device(name: str) -> torch.device:
    """Find the device of this process.

    Args:
        name: As for torch. `cuda` is the GPU of this process's number on its node, `auto` the same if there is one.

    Raises:
        EvaluationError: If there is no such device.
    """
    try:
        found = find_device(None if name == "auto" else name)
    except RuntimeError as error:
        raise EvaluationError(f"device: no device {name!r} ({str(error).splitlines()[0]})") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise EvaluationError(f"device: {name}, but torch finds no GPU here. Take cpu, or auto.")
    return found


def own(batches: Sequence[Batch]) -> list[Batch]:
    """Take the batches of this process."""
    return list(batches[rank() :: processes()])


def wait() -> None:
    """Wait until all processes are here."""
    if processes() > 1:
        dist.barrier()


def total(counts: Tensor) -> Tensor:
    """Add up a tensor over all processes, on the CPU; all must call this."""
    counts = counts.cpu()
    if processes() > 1:
        dist.all_reduce(counts)
    return counts


__all__ = ["begin", "device", "own", "processes", "rank", "total", "wait"]
