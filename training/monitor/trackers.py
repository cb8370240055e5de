"""Trackers beside `metrics.jsonl`: TensorBoard, Weights & Biases, Trackio and what else transformers reports to."""

import importlib.util
import os
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.integrations import TensorBoardCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from unimoe.errors import ConfigError
from unimoe.errors.suggest import did_you_mean

LOGS = "logs"
"""Folder of TensorBoard's files in a stage's output."""


def choose_trackers(trainer: dict[str, Any]) -> list[str]:
    """Which trackers a stage reports to: those of its `trainer.report_to`, else TensorBoard if it is installed.

    Args:
        trainer: The stage's `trainer`.

    Raises:
        ConfigError: If there is no such tracker, or it is not installed.
    """
    given = trainer.get("report_to")
    if given is None:
        return ["tensorboard"] if _has_tensorboard() else []
    names = [given] if isinstance(given, str) else list(given)
    if names in (["none"], ["all"]):
        return names
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ConfigError(f"trainer.report_to: no tracker {name!r}.{did_you_mean(name, INTEGRATION_TO_CALLBACK)}")
        installed = _has_tensorboard() if name == "tensorboard" else importlib.util.find_spec(name.partition("_")[0])
        if not installed:
            raise ConfigError(f"trainer.report_to: {name} is not installed. Run: pip install {name}")
    return names


def _has_tensorboard() -> bool:
    return any(importlib.util.find_spec(name) for name in ("tensorboard", "tensorboardX"))


def place_logs(trainer: Trainer, output: str) -> None:
    """Let TensorBoard's files go to the stage's output, unless its environment variable says otherwise."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and "TENSORBOARD_LOGGING_DIR" not in os.environ:
            callback.logging_dir = str(Path(output) / LOGS)


__all__ = ["choose_trackers", "place_logs"]
