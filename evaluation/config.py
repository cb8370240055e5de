"""The configuration of an evaluation: YAML file -> `key.sub=value` overrides -> validated `EvaluationConfig`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from unimoe.suggest import did_you_mean

from .errors import EvaluationError

MetricName = Literal["exact_match", "vqa_accuracy", "wer"]


class _Section(BaseModel):
    """A mapping whose unknown keys are refused, with the nearest known name."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key {key!r}.{did_you_mean(str(key), cls.model_fields)}")
        return values


class TaskConfig(_Section):
    """One task: rows with a reference answer, and how answers are scored.

    Args:
        data: JSONL file of the rows to answer; relative to `data_root`.
        train: JSONL file of the training split, from which the floors are computed. None: no floors.
        metric: `exact_match`, `vqa_accuracy` (rows need `answers`), or `wer` (word error rate, lower is better).
        limit: Score a random sample (by `seed`) of so many rows. None: all.
        prompt: Text appended to the last user turn of every row.
    """

    data: Path
    train: Path | None = None
    metric: MetricName = "exact_match"
    limit: int | None = Field(default=None, ge=1)
    prompt: str | None = None


class BootstrapConfig(_Section):
    """Resampling behind the 95 % intervals."""

    samples: int = Field(default=1000, ge=100)


class EvaluationConfig(_Section):
    """An evaluation.

    Args:
        output: Folder of results.json, predictions/ and routing.png.
        data_root: Folder that `data` and `train` of the tasks are relative to. None: the working directory.
        batch_size: Rows per generation batch.
        max_new_tokens: Longest answer, tokens.
        generation: Further arguments of `model.generate`. Greedy unless they say otherwise.
        seed: Of sampling rows, shuffling media, sampling tokens and the bootstrap.
        device: `auto` takes the GPU if there is one.
        routing_rows: Rows per task whose routing is counted. 0: none.
        tasks: Name -> task.
    """

    output: Path
    data_root: Path | None = None
    batch_size: int = Field(default=32, ge=1)
    max_new_tokens: int = Field(default=32, ge=1)
    generation: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    device: str = "auto"
    routing_rows: int = Field(default=256, ge=0)
    bootstrap: BootstrapConfig = Field(default_factory=BootstrapConfig)
    tasks: dict[str, TaskConfig] = Field(min_length=1)

    def decoding(self) -> dict[str, Any]:
        """Arguments of `model.generate`: greedy, overlaid with `generation`."""
        return {"do_sample": False, **self.generation, "max_new_tokens": self.max_new_tokens}

    def resolve(self, path: Path) -> Path:
        """A task's file, relative to `data_root`."""
        return path if self.data_root is None else self.data_root / path


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set `key.sub=value` in nested mappings; the value is read as YAML.

    Raises:
        EvaluationError: If it is no assignment, or goes through something that is no mapping.
    """
    path, equals, text = override.partition("=")
    *parents, last = path.split(".")
    if not equals or not all([*parents, last]):
        raise EvaluationError(f"override {override!r}: expected key.sub=value, for example tasks.vqa.limit=100")
    section: Any = values
    for key in parents:
        if section.get(key) is None:
            section[key] = {}
        section = section[key]
        if not isinstance(section, dict):
            raise EvaluationError(f"override {override!r}: {key!r} holds a value, not a section with keys")
    try:
        section[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise EvaluationError(f"override {override!r}: the value is not YAML ({_one_line(error)})") from error


def load_config(path: Path, overrides: Iterable[str] = ()) -> EvaluationConfig:
    """Read and validate a configuration file.

    Raises:
        EvaluationError: In one line: the file, the key and what is wrong with it.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EvaluationError(
            f"{path}: cannot be read ({error.strerror}). Check the path given to --config."
        ) from error
    except yaml.YAMLError as error:
        raise EvaluationError(f"{path}: not valid YAML: {_one_line(error)}") from error
    if not isinstance(values, dict):
        raise EvaluationError(f"{path}: expected keys such as output and tasks, found {type(values).__name__}")
    for override in overrides:
        apply_override(values, override)
    try:
        return EvaluationConfig.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_problem(detail) for detail in error.errors())
        raise EvaluationError(f"{path}: {problems}") from error


def _problem(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    message = detail["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


__all__ = ["BootstrapConfig", "EvaluationConfig", "MetricName", "TaskConfig", "apply_override", "load_config"]
