"""What a run needs in hand: models with their processors, and tasks with their rows."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from unimoe.checkpoint.loading import CheckpointError, load_any
from unimoe.moe.counting import count_parameters
from unimoe.moe.tasks import set_task

from .config import EvaluationConfig, TaskConfig
from .errors import EvaluationError
from .fingerprint import check_files, file_hash, model_fingerprint
from .metrics import METRICS, Metric, Scores, check_rows, without_thoughts
from .processes import device as own_device
from .scores.answers import read_answers
from .scores.estimates import OVER_ROWS
from .tasks import BENCHMARKS, Average, Benchmark, Judge, Sample, read_hub, read_task, sample_rows


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, its processor, and what names them in the report."""

    name: str
    model: Any
    processor: Any
    fingerprint: str

    def describe(self) -> dict[str, Any]:
        """Return name, class, fingerprint and exact parameter counts."""
        counts = count_parameters(self.model)
        text = self.model.config.get_text_config()
        num_experts = getattr(text, "num_experts", 0)
        return {
            "path": self.name,
            "class": type(self.model).__name__,
            "num_experts": num_experts,
            "num_experts_per_tok": text.num_experts_per_tok if num_experts else None,
            "reserved_task": getattr(text, "active_task", None),
            "parameters": counts["total"],
            "active_parameters": counts["active"],
            "fingerprint": self.fingerprint,
        }


@dataclass(frozen=True)
class LoadedTask:
    """The rows of a task and of its training split, and how they are asked and scored.

    Args:
        name: Of the task.
        config: As it was configured.
        metric_name: Key of `METRICS`.
        metric: How rows are scored.
        samples: Rows that are asked, with the prompt.
        train: Of the training split; empty if there is none.
        data: Where the rows come from.
        data_hash: Of the files with the rows, SHA-256.
        train_hash: Of the training file. None: there is none.
        decoding: Arguments of `model.generate`.
        average: How scores of rows become one.
        judge: What a judge may be asked. None: nothing.
        facts: What results.json says of a published benchmark: title, origin, licence, files and so on.
    """

    name: str
    config: TaskConfig
    metric_name: str
    metric: Metric
    samples: list[Sample]
    train: list[Sample]
    data: str
    data_hash: str
    train_hash: str | None
    decoding: dict[str, Any]
    average: Average = OVER_ROWS
    judge: Judge | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def score(self, predictions: Sequence[str]) -> Scores:
        """Score predictions in the order of the rows; the thoughts of a model are no part of its answers."""
        return self.metric.score(self.samples, [without_thoughts(text) for text in predictions])

    def read(self, predictions: Sequence[str]) -> tuple[list[str | None], list[str]]:
        """Read what each prediction says, None where nothing could be read, and what each row wanted; see `Metric`."""
        return read_answers(self.metric, self.samples, [without_thoughts(text) for text in predictions])


def load_model(name: str, *, device: str, reserved_task: str | None = None) -> LoadedModel:
    """Load a folder or a Hub id through the Auto classes.

    Raises:
        EvaluationError: If it is no model folder, or one that cannot be used; the message says why.
        ConfigError: If it has no experts that are reserved for the task.
    """
    folder = Path(name) if Path(name).is_dir() else _download(name)
    try:
        model, processor = load_any(folder)
    except CheckpointError as error:
        raise EvaluationError(f"{error} Check --model and --baseline.") from error
    fingerprint = model_fingerprint(folder)
    if reserved_task is not None:
        set_task(model, reserved_task)
        fingerprint += f", task {reserved_task}"
    return LoadedModel(name, model.to(own_device(device)), processor, fingerprint)


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
    benchmark = None if task.benchmark is None else BENCHMARKS[task.benchmark]
    metric_name = task.metric or (benchmark.metric if benchmark else "exact_match")
    metric = METRICS[metric_name]
    metric.require()
    prompt = benchmark.prompt if benchmark and task.prompt is None else task.prompt
    samples, data, files = _read_rows(task, benchmark, config)
    check_rows(metric_name, metric, samples)
    train_path = None if task.train is None else config.resolve(task.train)
    train = [] if train_path is None else read_task(train_path, prompt=prompt)
    return LoadedTask(
        name=name,
        config=task,
        metric_name=metric_name,
        metric=metric,
        samples=[row.with_prompt(prompt) for row in sample_rows(samples, task.limit, seed=config.seed)],
        train=train,
        data=data,
        data_hash=next(iter(files.values())) if benchmark is None else _digest(files),
        train_hash=None if train_path is None else file_hash(train_path),
        decoding=config.decoding(task),
        average=benchmark.average if benchmark else OVER_ROWS,
        judge=benchmark.judge if benchmark else None,
        facts=_facts(benchmark, files) if benchmark else {},
    )


def _read_rows(
    task: TaskConfig, benchmark: Benchmark | None, config: EvaluationConfig
) -> tuple[list[Sample], str, dict[str, str]]:
    """Read the rows of a task without its prompt, where they are, and the SHA-256 of each of their files."""
    if benchmark is None:
        assert task.data is not None
        path = config.resolve(task.data)
        return read_task(path), str(path), {path.name: file_hash(path)}
    source = benchmark.source(config.data_root or Path())
    if task.hub:
        assert benchmark.hub is not None
        samples, fingerprint = read_hub(benchmark, source)
        return samples, benchmark.hub.dataset, {benchmark.hub.dataset: fingerprint}
    samples = benchmark.samples(source)
    check_files(source.root, source.read)
    return samples, str(source.root), source.read


def _digest(files: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _facts(benchmark: Benchmark, files: dict[str, str]) -> dict[str, Any]:
    names = ("title", "origin", "licence", "read_on", "note")
    return {**{name: getattr(benchmark, name) for name in names}, "files": files}


__all__ = ["LoadedModel", "LoadedTask", "load_model", "load_tasks"]
