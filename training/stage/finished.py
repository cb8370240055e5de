"""Tells whether what a finished stage left is whole, before it is skipped."""

from pathlib import Path

from unimoe.errors import ConfigError
from unimoe.files.folder import CheckpointError, check_folder

from ..checkpoint.model_card import HISTORY_FILE, read_entries
from ..checkpoint.same_data import check_data_of_complete
from ..config.stage import StageConfig
from .same_start import check_same_start

_CURE = "Bring it back, or remove the output to run the stage again."
_WEIGHTS = ("*.safetensors", "*.bin")


def check_finished(config: StageConfig) -> None:
    """Refuse to skip a finished stage that is damaged, or whose start or data changed; no weights are read.

    Raises:
        ConfigError: Naming the file.
    """
    output = Path(config.output)
    try:
        read_entries(output / HISTORY_FILE)
    except ConfigError as error:
        raise ConfigError(error.where, error.problem, _CURE) from None
    specialists = config.start.specialists
    for folder in [output / key for key in specialists.modalities] if specialists else [output]:
        _check_model(folder)
    check_same_start(config, finished=True)
    check_data_of_complete(config)


def _check_model(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder / 'config.json'}", "is missing, though the stage is finished.", _CURE)
    if not any(path.stat().st_size for pattern in _WEIGHTS for path in folder.glob(pattern)):
        problem = "is missing or empty, though the stage is finished."
        raise ConfigError(str(folder / "model.safetensors"), problem, _CURE)
    try:
        check_folder(folder)
    except CheckpointError as error:
        raise ConfigError(str(folder), f"is damaged: {error.problem}", _CURE) from None


__all__ = ["check_finished"]
