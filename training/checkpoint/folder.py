"""Stop and go on: where a stage's checkpoints are, whether they fit, and when they go.

While a stage is unfinished its output holds `stage.yaml` (the settings) and `checkpoint-STEP` folders: weights and
optimizer (`state`), schedule, random states, and the position in the data. A checkpoint is written under another
name, and gets its own when all of it is there. A finished stage is an ordinary model folder without them.
"""

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from unimoe.errors import ConfigError

from ..config.stage import StageConfig
from ..data import BatchSchedule
from ..distributed.processes import launched, rank, together
from ..monitor.metrics_file import METRICS_FILE, read_metrics
from .damage import check_small_files
from .model_card import HISTORY_FILE, STAGE_FILE, read_stage, write_stage
from .same_data import read_data_facts
from .state import CheckpointError, read_manifest, seal, sync, verify

logger = logging.getLogger(__name__)
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_ASIDE = "unfinished-"
_ROWS = ("per_device_train_batch_size", "gradient_accumulation_steps")
"""How a process takes its rows of a step."""
_FREE = ("parallel.", "report.", *(f"trainer.{name}" for name in _ROWS))
"""Settings that may change when a training goes on: how the same rows of a step are shared out, and what is said."""
_LATER = {"report"}
"""Keys of a stage that outputs of earlier versions do not have."""
_SHOWN = 10
"""Settings that changed and are named."""
_MOVABLE = re.compile(r"data\.(mixture|validation)\.\d+\.(path|media_root)")
"""Settings that may change where data are known by what they hold; see `same_data`."""


def find_checkpoint(config: StageConfig, args: TrainingArguments, *, resume: bool) -> Path | None:
    """Find the checkpoint that a stage goes on from, the last one, and compare its files with what was written.

    Args:
        config: The stage.
        args: Of its trainer.
        resume: Whether to go on. Otherwise an unfinished stage in the output is refused, so that none is lost.

    Returns:
        Its folder; None to begin at the first step.

    Raises:
        ConfigError: If there are checkpoints and `resume` is false, if the settings or the rows of a step are not
            those of the checkpoint, or if one of its files is missing or damaged.
    """
    found = checkpoints(config)
    if not found:
        return None
    if not resume:
        raise ConfigError(
            f"{config.output} holds {found[-1].name} of an unfinished stage. Go on from it with --resume, or "
            "remove the folder to begin again."
        )
    _check_settings(config)
    manifest = read_manifest(found[-1])
    check_rows(config, args, manifest)
    verify(found[-1], process=launched()[0], of=launched()[1])
    check_small_files(found[-1], manifest)
    read_metrics(Path(config.output) / METRICS_FILE)
    return found[-1]


def check_rows(config: StageConfig, args: TrainingArguments, manifest: dict[str, Any]) -> None:
    """Refuse to go on with other rows in a step than a checkpoint was trained with, by however many processes.

    Raises:
        ConfigError: With what makes them as many.
    """
    now, before = rows_of_step(args, launched()[1]), manifest["rows"]
    measured = BatchSchedule(config.data).measures
    if now["step"] == before["step"] and (now["batch"] == before["batch"] or not measured):
        return
    raise ConfigError(
        f"The checkpoint was trained with {before['step']} rows in a step, {before['batch']} in each batch of all "
        f"processes; {launched()[1]} process(es) would now take {now['step']} and {now['batch']}. "
        f"{_how_to_share_out(before, measured=measured)}"
    )


def _how_to_share_out(before: dict[str, int], *, measured: bool) -> str:
    """Return the cure for other rows in a step."""
    whole, rows, size = launched()[1], *_ROWS
    if (before["batch"] if measured else before["step"]) % whole:
        return f"Start a number of processes that divides {before['batch'] if measured else before['step']}."
    if measured:
        times = before["step"] // before["batch"]
        return f"Set trainer.{rows} {before['batch'] // whole} and {size} {times}."
    return f"Set trainer.{rows} and {size} whose product is {before['step'] // whole}."


def rows_of_step(args: TrainingArguments, processes: int) -> dict[str, int]:
    """Count the rows (or packs) of a step, and of one batch of all processes."""
    batch = args.per_device_train_batch_size * processes
    return {"step": batch * args.gradient_accumulation_steps, "batch": batch}


def is_complete(config: StageConfig) -> bool:
    """Tell whether a stage with these settings has been finished in its output folder.

    Raises:
        ConfigError: If another stage was.
    """
    complete = (Path(config.output) / HISTORY_FILE).is_file() and not checkpoints(config)
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
    for folder in [*checkpoints(config), *Path(config.output).glob(f"{_ASIDE}*")]:
        shutil.rmtree(folder)


def write_checkpoint(
    output: Path,
    step: int,
    write: Callable[[Path], None],
    *,
    facts: dict[str, Any],
    limit: int | None = None,
    best: str | None = None,
) -> None:
    """Write a checkpoint under another name, and give it its own when it is whole; only then remove older ones.

    All processes must call this, with an output that all of them see.

    Args:
        output: Of the stage.
        step: Of the checkpoint.
        write: Writes its files into a folder.
        facts: What its manifest says beside them.
        limit: Checkpoints that stay. None: all.
        best: One that stays in any case.

    Raises:
        CheckpointError: If it could not be written; those that are there stay.
    """
    aside, folder = output / f"{_ASIDE}{step}", output / f"checkpoint-{step}"

    def prepare() -> None:
        if rank() == 0:
            for unfinished in output.glob(f"{_ASIDE}*"):
                shutil.rmtree(unfinished)
            aside.mkdir(parents=True)

    def put_in_place() -> None:
        if rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)
            sync(aside)
            aside.rename(folder)
            sync(output)

    try:
        together(prepare)
        together(lambda: aside.stat())  # a process on another node may not see it
        write(aside)
        seal(aside, facts)
        together(put_in_place)
    except OSError as error:
        raise CheckpointError(
            f"{folder} could not be written: {error}. Checkpoints before it are as they were: cure this, and go on "
            "with --resume."
        ) from None
    if rank() == 0:
        try:
            rotate_checkpoints(str(output), limit, best)
        except OSError as error:
            logger.warning("%s is written, but an older checkpoint could not be removed: %s", folder, error)


class WatchCheckpoints(TrainerCallback):
    """Log whenever a checkpoint is due and at the last step: a resumed stage then logs what an unbroken one does."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask for a log."""
        control.should_log = control.should_log or control.should_save or state.global_step >= state.max_steps
        return control


def checkpoints(config: StageConfig) -> list[Path]:
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
    stage, values = read_stage(file), config.model_dump()
    _check_whole(file, [key for key in values if key not in {*stage, *_LATER}])
    before, now = _flat(stage), _flat(values)
    free = _MOVABLE if read_data_facts(config.output) is not None else re.compile("(?!)")
    changed = [
        key
        for key in {**before, **now}
        if before.get(key) != now.get(key) and not key.startswith(_FREE) and not free.fullmatch(key)
    ]
    if changed:
        changes = "; ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in changed[:_SHOWN])
        more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise ConfigError(
            f"{config.output} was begun with other settings: {changes}{more}. Put them back ({STAGE_FILE} "
            "has them), or remove it."
        )


def _check_whole(file: Path, missing: list[str]) -> None:
    """Refuse settings that were cut off: their last line is whole, and of the key that is written last."""
    if missing or not file.read_bytes().endswith(b"\n"):
        problem = f"is damaged: it ends before {missing[0]}." if missing else "is damaged: its last line is cut off."
        raise ConfigError(str(file), problem, "Bring it back, or remove the folder.")


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Name every value inside mappings and lists by its path."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else None
    if items is None:
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
