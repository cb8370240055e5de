"""Several processes: which one this is, and how they act as one."""

import os
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist


def rank() -> int:
    """Which process this is."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launched() -> tuple[int, int]:
    """Which process this is, and of how many, as the launcher says, before they have met."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def from_all(value: Any) -> list[Any]:
    """Gather a value of every process, in their order; all must call this."""
    if processes() == 1:
        return [value]
    values: list[Any] = [None] * processes()
    dist.all_gather_object(values, value)
    return values


def together(work: Callable[[], Any], errors: tuple[type[Exception], ...] = (OSError,)) -> list[Any]:
    """Do something in all processes and return what came of it in each; where it fails in one, all of them stop.

    Args:
        work: What to do; all processes must call this.
        errors: Kinds of error that it may meet. Of another kind, the first one is raised where nothing failed.

    Raises:
        Exception: The own error where it happened; elsewhere one of its kind with what went wrong, and where.
    """
    result, failure = None, None
    try:
        result = work()
    except Exception as error:
        failure = error
    kind = next((kind for kind in errors if isinstance(failure, kind)), errors[0])
    said = failure and (kind, f"process {rank()}: {failure}")
    failures = [each for each in from_all(said) if each is not None]
    if failure is not None:
        raise failure
    if failures:
        raise failures[0][0]("; ".join(message for _, message in failures))
    return from_all(result)


def first_alone(work: Callable[[], Any], errors: tuple[type[Exception], ...] = (OSError,)) -> Any:
    """Do something in the first process alone and return in all what came of it; where it fails, all of them stop.

    Args:
        work: What to do; all processes must call this.
        errors: As for `together`.
    """
    return together(lambda: work() if rank() == 0 else None, errors)[0]


def limit_waiting(seconds: float) -> None:
    """Let no process wait longer than this for another one, in any group: DeepSpeed's would wait for half an hour."""
    if not dist.is_initialized():
        return
    set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    for group in list(dist.distributed_c10d._world.pg_map):
        set_timeout(timedelta(seconds=seconds), group)


_LOST = re.compile(
    r"timed? ?out|connection (was )?(closed|reset|refused)|broken pipe|socket closed|no route to host|unreachable"
    r"|remote process exited|network error",
    re.IGNORECASE,
)


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error of a collective operation says that another process is gone, or cannot be reached."""
    collective = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
    return collective and _LOST.search(str(error)) is not None


__all__ = [
    "first_alone",
    "from_all",
    "is_lost_connection",
    "launched",
    "limit_waiting",
    "processes",
    "rank",
    "together",
]
