"""Tells whether the models that a stage starts from are those that it was begun with."""

import hashlib
import json
from pathlib import Path
from typing import Any

from unimoe.errors import ConfigError
from unimoe.files.writing import write_whole

from ..checkpoint.same_data import read_noted
from ..config.stage import StageConfig
from ..distributed.processes import launched
from .output import start_folders

START_FILE = "start.json"
"""File of a stage's output that says what its start was."""
_READ = ("config.json", "adapter_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json")
"""Files whose bytes are compared, as those of indices are; of weights, which checkpoints have, names and sizes."""
_WEIGHTS = (".safetensors", ".bin")
_CURE = "Bring it back as it was, or remove the output to begin again."

StartFacts = dict[str, dict[str, str]]


def describe_start(config: StageConfig) -> StartFacts:
    """Say what the folders are that a stage starts from: file -> SHA-256, or size, by the key that names the folder.

    Raises:
        ConfigError: If a file cannot be read.
    """
    facts: StartFacts = {}
    for key, given in start_folders(config):
        folder = Path(given)
        if folder.is_dir():  # otherwise the id of a model on the Hub
            files = [path for path in sorted(folder.iterdir()) if path.is_file()]
            facts[f"{key}: {given}"] = {path.name: said for path in files if (said := _describe(path)) is not None}
    return facts


def _describe(path: Path) -> str | None:
    try:
        if path.name in _READ or path.name.endswith(".index.json"):
            return f"SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
        return f"{path.stat().st_size:,} bytes" if path.suffix in _WEIGHTS else None
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read ({error.strerror}).", "Correct its rights.") from None


def write_start(config: StageConfig, facts: StartFacts) -> None:
    """Note in the output what the start of its stage is."""
    write_whole(Path(config.output) / START_FILE, json.dumps(facts, indent=1) + "\n")


def check_same_start(config: StageConfig, *, finished: bool = False) -> None:
    """Refuse to go on from a start that changed since; an output of before that was noted passes.

    Args:
        config: The stage.
        finished: Whether the stage needs its start no more, so that files that are gone are not missed.

    Raises:
        ConfigError: With the file.
    """
    if launched()[0] > 0:
        return
    before: StartFacts | None = read_noted(Path(config.output) / START_FILE, _is_whole, "folders of its start are")
    if before is None:
        return
    now = describe_start(config)
    for named, then in before.items():
        found, folder = now.get(named, {}), named.partition(": ")[2]
        for name in sorted({*then, *found}):
            was, is_now = then.get(name, "not there"), found.get(name, "not there")
            if was != is_now and not (finished and name not in found):
                problem = f"it was {was[:20]}, and is {is_now[:20]}."
                path = Path(folder, name)
                raise ConfigError(f"{path} has changed since {config.output} was begun", problem, _CURE)


def _is_whole(noted: Any) -> bool:
    return isinstance(noted, dict) and all(
        isinstance(files, dict) and all(isinstance(said, str) for said in files.values()) for files in noted.values()
    )


__all__ = ["START_FILE", "StartFacts", "check_same_start", "describe_start", "write_start"]
