"""Stop and go on: where a stage's checkpoints are, whether they fit, and when they go.

While a stage is unfinished its output holds `stage.yaml` (the settings) and `checkpoint-STEP` folders, which
transformers writes and reads: weights, optimizer, scheduler, random states, and the position in the data. A finished
stage is an ordinary model folder without them.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from unimoe.settings import ConfigError

from .config import StageConfig
from .model_card import HISTORY_FILE, STAGE_FILE, write_stage

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
WHOLE_FILE = "whole.json"
"""In a checkpoint that every process has written to its end; it says how many they were."""


def find_checkpoint(config: StageConfig, *, resume: bool) -> Path | None:
    """Find the checkpoint that a stage goes on from: the last one that was written to its end.

    Args:
        config: The stage.
        resume: Whether to go on. Otherwise an unfinished stage in the output is refused, so that none is lost.

    Returns:
        Its folder; None to begin at the first step.

    Raises:
        ConfigError: If there are checkpoints and `resume` is false, or the settings or the number of processes are
            not those of the checkpoint.
    """
    checkpoints = _checkpoints(config)
    if checkpoints and not resume:
        raise ConfigError(
            f"{config.output} holds {checkpoints[-1].name} of an unfinished stage. Go on from it with --resume, or "
            "remove the folder to begin again."
        )
    whole = [folder for folder in checkpoints if (folder / WHOLE_FILE).is_file()]
    if os.environ.get("RANK", "0") == "0":
        for folder in set(checkpoints) - set(whole):  # out of the way of transformers, which keeps the latest alone
            aside = folder.with_name(folder.name.replace("checkpoint", "unfinished"))
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
    if not whole:
        return None
    _check_settings(config)
    processes = json.loads((whole[-1] / WHOLE_FILE).read_text("utf-8"))["processes"]
    if processes != (now := int(os.environ.get("WORLD_SIZE", "1"))):
        raise ConfigError(f"{whole[-1]} was written by {processes} process(es); go on with as many, not with {now}.")
    return whole[-1]


def is_complete(config: StageConfig) -> bool:
    """Tell whether a stage with these settings has been finished in its output folder.

    Raises:
        ConfigError: If another stage was.
    """
    complete = (Path(config.output) / HISTORY_FILE).is_file() and not _checkpoints(config)
    if complete:
        _check_settings(config)
    return complete


def begin(config: StageConfig) -> None:
    """Mark the output folder as that of an unfinished stage with these settings."""
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HISTORY_FILE).unlink(missing_ok=True)
    write_stage(folder, config)


def remove_checkpoints(config: StageConfig) -> None:
    """Remove the checkpoints of a finished stage, and those that were not written to their end."""
    for folder in [*_checkpoints(config), *Path(config.output).glob("unfinished-*")]:
        shutil.rmtree(folder)


def keep_checkpoint(output: Path, step: int, *, processes: int, limit: int | None) -> None:
    """Mark a checkpoint as whole, now that every process has written its part, and only then remove older ones.

    Args:
        output: Of the stage.
        step: Of the checkpoint.
        processes: That wrote it.
        limit: Checkpoints that stay. None: all.
    """
    whole = output / f"checkpoint-{step}" / WHOLE_FILE
    whole.write_text(json.dumps({"processes": processes}), encoding="utf-8")
    rotate_checkpoints(str(output), limit)


class WatchCheckpoints(TrainerCallback):
    """Log whenever a checkpoint is due and at the last step: a resumed stage then logs what an unbroken one does."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask for a log."""
        control.should_log = control.should_log or control.should_save or state.global_step >= state.max_steps
        return control


def mean_loss(log: list[dict[str, Any]]) -> float:
    """Mean of the logged losses, each over the steps since the log before it."""
    total, last = 0.0, 0
    for entry in log:
        if "loss" in entry:
            total += entry["loss"] * (entry["step"] - last)
            last = entry["step"]
    return total / max(last, 1)


def _checkpoints(config: StageConfig) -> list[Path]:
    """Checkpoint folders of a stage, the latest last."""
    folder = Path(config.output)
    found = folder.iterdir() if folder.is_dir() else ()
    numbered = [(int(match[1]), path) for path in found if (match := _CHECKPOINT.fullmatch(path.name))]
    return [path for _, path in sorted(numbered)]


def _check_settings(config: StageConfig) -> None:
    """Refuse settings that are not those that the output folder was begun with; the keys are named."""
    file = Path(config.output) / STAGE_FILE
    if not file.is_file():
        raise ConfigError(f"{config.output} has no {STAGE_FILE}, so that its settings cannot be compared. Remove it.")
    before, now = (_flat(values) for values in (yaml.safe_load(file.read_text("utf-8")), config.model_dump()))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        changes = "; ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in changed)
        raise ConfigError(f"{config.output} was begun with other settings: {changes}. Put them back, or remove it.")


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Name every value inside mappings and lists by its path."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else None
    if items is None:
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
