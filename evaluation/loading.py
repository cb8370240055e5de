"""What a run needs in hand: models with their processors, and tasks with their rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download

from unimoe.loading import CheckpointError, load_any
from unimoe.moe.counting import count_parameters

from .config import EvaluationConfig, TaskConfig
from .errors import EvaluationError
from .estimates import OVER_ROWS
from .fingerprint import file_hash, model_fingerprint
from .metrics import METRICS, Metric, check_rows
from .tasks import Average, Sample, read_task, sample_rows


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, its processor, and what names them in the report."""

    name: str
    model: Any
    processor: Any
    fingerprint: str

    def describe(self) -> dict[str, Any]:
        """Name, class, fingerprint and exact parameter counts."""
        counts = count_parameters(self.model)
        num_experts = getattr(self.model.config.get_text_config(), "num_experts", 0)
        return {
            "path": self.name,
            "class": type(self.model).__name__,
            "num_experts": num_experts,
            "num_experts_per_tok": self.model.config.get_text_config().num_experts_per_tok if num_experts else None,
            "parameters": counts["total"],
            "active_parameters": counts["active"],
            "fingerprint": self.fingerprint,
        }


@dataclass(frozen=True)
class LoadedTask:
    """The rows of a task, those of its training split, hashes of both files, and how scores of rows become one."""

    name: str
    config: TaskConfig
    metric: Metric
    samples: list[Sample]
    train: list[Sample]
    data_hash: str
    train_hash: str | None
    average: Average = OVER_ROWS


def load_model(name: str, *, device: str) -> LoadedModel:
    """Load a folder or a Hub id through the Auto classes.

    Raises:
        EvaluationError: If it is no model folder, or one that cannot be used; the message says why.
    """
    folder = Path(name) if Path(name).is_dir() else _download(name)
    try:
        model, processor = load_any(folder)
    except CheckpointError as error:
        raise EvaluationError(f"{error} Check --model and --baseline.") from error
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return LoadedModel(name, model.to(device), processor, model_fingerprint(folder))


def _download(name: str) -> Path:
    try:
        return Path(snapshot_download(name))
    except (OSError, ValueError) as error:  # not found, no access, offline; not an id at all
        raise EvaluationError(
            f"{name}: no such folder, nor on the Hub ({type(error).__name__}). Check --model and --baseline."
        ) from error


def load_tasks(config: EvaluationConfig) -> list[LoadedTask]:
    """Read all tasks before any model is loaded, so that mistakes in them show at once.

    Raises:
        EvaluationError: Naming the file, line and cure.
    """
    return [_load_task(name, task, config) for name, task in config.tasks.items()]


def _load_task(name: str, task: TaskConfig, config: EvaluationConfig) -> LoadedTask:
    metric = METRICS[task.metric]
    metric.require()
    data = config.resolve(task.data)
    samples = read_task(data, prompt=task.prompt)
    check_rows(task.metric, metric, samples)
    train_path = None if task.train is None else config.resolve(task.train)
    train = [] if train_path is None else read_task(train_path, prompt=task.prompt)
    return LoadedTask(
        name=name,
        config=task,
        metric=metric,
        samples=sample_rows(samples, task.limit, seed=config.seed),
        train=train,
        data_hash=file_hash(data),
        train_hash=None if train_path is None else file_hash(train_path),
    )


__all__ = ["LoadedModel", "LoadedTask", "load_model", "load_tasks"]
