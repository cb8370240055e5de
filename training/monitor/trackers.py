"""Where trackers of transformers put their files."""

import os
from pathlib import Path

from transformers import Trainer
from transformers.integrations import TensorBoardCallback

LOGS = "logs"
"""Folder of TensorBoard's files in a stage's output."""


def place_logs(trainer: Trainer, output: str) -> None:
    """Let TensorBoard's files go to the stage's output, unless its environment variable says otherwise."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and "TENSORBOARD_LOGGING_DIR" not in os.environ:
            callback.logging_dir = str(Path(output) / LOGS)


__all__ = ["place_logs"]
