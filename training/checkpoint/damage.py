"""Finds damage in the small files of a checkpoint, by name, before data and model are loaded.

A checkpoint's manifest tells of files that changed since; here is read what a training will want to read of them.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import safe_globals

from ..distributed.processes import launched
from ..trainable.schedule import FILE as SCHEDULE_FILE
from ..trainable.schedule import read_schedule
from .state import CURE, CheckpointError


def check_small_files(checkpoint: Path, manifest: dict[str, Any]) -> None:
    """Read schedule, position and random states of a checkpoint as a training that goes on will.

    Raises:
        CheckpointError: Naming the first one that cannot be read.
    """
    readers: dict[str, Callable[[Path], Any]] = {
        TRAINER_STATE_NAME: lambda path: _check_position(path, manifest["step"]),
        SCHEDULE_FILE: read_schedule,
    }
    if manifest["processes"] == launched()[1]:  # others draw anew
        readers[random_state_file(*launched())] = _check_random_states
    for name, read in readers.items():
        path = checkpoint / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing. {CURE}")
        try:
            read(path)
        except Exception as error:  # what damaged files raise has no common type
            said = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {said}). {CURE}") from None


def random_state_file(process: int, processes: int) -> str:
    """Name of the file in which transformers' trainer keeps the random states of a process."""
    return "rng_state.pth" if processes == 1 else f"rng_state_{process}.pth"


def _check_position(path: Path, step: int) -> None:
    state = TrainerState.load_from_json(str(path))
    if state.global_step != step:
        raise ValueError(f"it is of step {state.global_step!r}, the checkpoint of step {step}")
    if not all(isinstance(entry, dict) and isinstance(entry.get("step"), int) for entry in state.log_history):
        raise ValueError("its log is no list of logs with their steps")


def _check_random_states(path: Path) -> None:
    with safe_globals():
        states = torch.load(path, weights_only=True)
    random.Random().setstate(states["python"])
    np.random.RandomState().set_state(states["numpy"])
    torch.Generator().set_state(states["cpu"])


__all__ = ["check_small_files", "random_state_file"]
